"""Adam-mini: one second moment for each block of a weight (Zhang et al., 2024, arXiv 2406.16793)."""

from __future__ import annotations

from typing import Any

import torch

from swift.config import OptimizerConfig
from swift.tuners import optimizer
from swift.tuners.optim.rules import RuleOptimizer, State, adam_options, apply, grouped, trained

ROWS, WHOLE = -1, 0
"""A block is a row (an output neuron, or a token of an embedding), or the whole tensor; a number counts heads."""


@optimizer("adam_mini")
def adam_mini(model: Any, args: Any, options: OptimizerConfig) -> RuleOptimizer:
    """Adam-mini for every parameter."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    per_module = {"q_proj": heads, "k_proj": getattr(config, "num_key_value_heads", None) or heads}
    by_blocks: dict[int, list[tuple[str, Any]]] = {}
    for name, parameter in trained(model):
        by_blocks.setdefault(_blocks(name, parameter, per_module), []).append((name, parameter))
    groups = [
        group
        for blocks, named in by_blocks.items()
        for group in grouped(named, args, rule="adam_mini", blocks=blocks, **adam_options(args))
    ]
    return RuleOptimizer(groups, {"adam_mini": step}, lr=args.learning_rate)


def _blocks(name: str, parameter: torch.Tensor, per_module: dict[str, int]) -> int:
    """Algorithm 3 of the paper: heads of query and key, rows of other matrices, other tensors whole."""
    if parameter.ndim < 2:
        return WHOLE
    heads = next((count for module, count in per_module.items() if name.endswith(f"{module}.weight")), None)
    return heads if heads and parameter.shape[0] % heads == 0 else ROWS


def step(parameter: torch.Tensor, grad: torch.Tensor, state: State, group: dict[str, Any]) -> None:
    """Adam whose second moment is the mean of the squared gradient over each block (algorithm 2)."""
    blocks = group["blocks"]
    rows = grad if blocks == ROWS else grad.reshape(max(blocks, 1), -1)
    square = rows.square().mean(-1, keepdim=True)
    if not state:
        state |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(square)}
    beta1, beta2 = group["betas"]
    state["step"] += 1
    state["exp_avg"].lerp_(grad, 1 - beta1)
    state["exp_avg_sq"].lerp_(square, 1 - beta2)
    first, second = 1 - beta1 ** state["step"], 1 - beta2 ** state["step"]
    size = (state["exp_avg_sq"] / second).sqrt_().add_(group["eps"])
    direction = (state["exp_avg"].view_as(rows) / size).view_as(grad) / first
    apply(parameter, direction, group)
