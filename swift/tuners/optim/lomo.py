"""LOMO and AdaLomo: each weight is updated in the backward pass and its gradient dropped.

Lv et al., 2023, arXiv 2306.09782 and arXiv 2310.10195.
"""

from __future__ import annotations

from typing import Any

import torch

from swift.config import OptimizerConfig
from swift.tuners import optimizer
from swift.tuners.optim.rules import RuleOptimizer, State, apply, grouped, trained


@optimizer("lomo")
def lomo(model: Any, args: Any, options: OptimizerConfig) -> RuleOptimizer:
    """SGD in the backward pass, without any state."""
    groups = grouped(trained(model), args, rule="lomo")
    return RuleOptimizer(groups, {"lomo": sgd}, lr=args.learning_rate, in_backward=True)


@optimizer("adalomo")
def adalomo(model: Any, args: Any, options: OptimizerConfig) -> RuleOptimizer:
    """AdaLomo in the backward pass: second moments as rows times columns."""
    groups = grouped(trained(model), args, rule="adalomo")
    return RuleOptimizer(groups, {"adalomo": adaptive}, lr=args.learning_rate, in_backward=True)


def sgd(parameter: torch.Tensor, grad: torch.Tensor, state: State, group: dict[str, Any]) -> None:
    """W <- W - lr G."""
    apply(parameter, grad, group)


def adaptive(parameter: torch.Tensor, grad: torch.Tensor, state: State, group: dict[str, Any]) -> None:
    """Algorithm 1 of AdaLomo: the factored second moment of Adafactor and grouped update normalisation."""
    square = grad.float().square().add_(1e-30)
    state["step"] = state.get("step", 0) + 1
    # As Adafactor (Shazeer and Stern, 2018, section 7.2): no bias that would have to be corrected.
    keep = 1 - state["step"] ** -0.8
    if grad.ndim >= 2:
        rows, columns = (
            _average(state, "rows", square.mean(-1), keep),
            _average(state, "columns", square.mean(-2), keep),
        )
        factor = (rows / rows.mean(-1, keepdim=True)).rsqrt_()[..., None] * columns.rsqrt()[..., None, :]
    else:
        factor = _average(state, "square", square, keep).rsqrt()
    update = grad.float() * factor
    size = rms(parameter.float()).clamp(min=1e-3)
    apply(parameter, (update / rms(update).clamp(min=1.0) * size).to(grad.dtype), group)


def _average(state: State, name: str, value: torch.Tensor, keep: float) -> torch.Tensor:
    if name not in state:
        state[name] = torch.zeros_like(value)
    return state[name].lerp_(value, 1 - keep)


def rms(tensor: torch.Tensor) -> torch.Tensor:
    """Root mean square, a tensor without dimensions."""
    return tensor.square().mean().sqrt()
