"""An optimizer whose groups each name the rule that updates their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch

State = dict[str, Any]
Rule = Callable[[torch.Tensor, torch.Tensor, State, dict[str, Any]], None]
"""Updates a parameter in place from its gradient, its own state and the options of its group."""


class RuleOptimizer(torch.optim.Optimizer):
    """Updates each parameter by the rule that its group names under `rule`.

    Args:
        groups: parameter groups.
        rules: the rules by name.
        lr: the learning rate that a schedule starts from.
        in_backward: update a parameter and drop its gradient as soon as it is there, so that gradients never lie in
            memory together; `step` then finds nothing to do.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], rules: Mapping[str, Rule], *, lr: float, in_backward: bool = False
    ) -> None:
        super().__init__(list(groups), {"lr": lr})
        self.rules = rules
        if in_backward:
            for number, group in enumerate(self.param_groups):
                for parameter in group["params"]:
                    parameter.register_post_accumulate_grad_hook(partial(self._in_backward, number))

    def _in_backward(self, number: int, parameter: torch.Tensor) -> None:
        # The group is looked up by its number: loading a state puts new ones in their place.
        self._update(parameter, self.param_groups[number])
        parameter.grad = None

    @torch.no_grad()
    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        if parameter.grad is not None:
            self.rules[group["rule"]](parameter, parameter.grad, self.state[parameter], group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                self._update(parameter, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state with its dtypes, which torch would change to those of the parameters."""
        super().load_state_dict(state_dict)
        own = [parameter for group in self.param_groups for parameter in group["params"]]
        saved = [number for group in state_dict["param_groups"] for number in group["params"]]
        for parameter, number in zip(own, saved, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, torch.Tensor):
                    # A copy, as the state is updated in place.
                    self.state[parameter][name] = value.to(parameter.device, copy=True)


def trained(model: Any) -> list[tuple[str, Any]]:
    """The parameters that are trained, by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def grouped(named: Iterable[tuple[str, Any]], args: Any, **options: Any) -> list[dict[str, Any]]:
    """One group whose matrices decay and one whose vectors (norms, biases) do not, with the same options."""
    parameters = [parameter for _, parameter in named]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": args.weight_decay, **options},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, **options},
    ]
    return [group for group in groups if group["params"]]


def adam_options(args: Any) -> dict[str, Any]:
    """What the Adam of the other options needs."""
    return {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}


def adam_direction(grad: torch.Tensor, state: State, group: dict[str, Any]) -> torch.Tensor:
    """Adam's m / (sqrt(v) + eps) with both moments corrected (Kingma and Ba, 2015, algorithm 1)."""
    if "exp_avg" not in state:
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(grad), torch.zeros_like(grad)
    beta1, beta2 = group["betas"]
    state["step"] = state.get("step", 0) + 1
    state["exp_avg"].lerp_(grad, 1 - beta1)
    state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    first, second = 1 - beta1 ** state["step"], 1 - beta2 ** state["step"]
    return state["exp_avg"] / (state["exp_avg_sq"].sqrt() / second**0.5).add_(group["eps"]) / first


def apply(parameter: torch.Tensor, direction: torch.Tensor, group: dict[str, Any]) -> None:
    """Decay (Loshchilov and Hutter, 2019, algorithm 2) and take the step."""
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.add_(direction, alpha=-group["lr"])


def adamw(parameter: torch.Tensor, grad: torch.Tensor, state: State, group: dict[str, Any]) -> None:
    """AdamW, for the parameters that another rule leaves out."""
    apply(parameter, adam_direction(grad, state, group), group)
