"""APOLLO: SGD scaled by an Adam on random projections (Zhu et al., 2024, arXiv 2412.05270)."""

from __future__ import annotations

from typing import Any

import torch

from swift.config import OptimizerConfig
from swift.tuners import optimizer
from swift.tuners.optim.modules import matrix_names
from swift.tuners.optim.rules import (
    RuleOptimizer,
    State,
    adam_direction,
    adam_options,
    adamw,
    apply,
    grouped,
    trained,
)

GROWTH = 1.01
"""An update's norm grows by this factor at most from step to step (section 4.2, the norm-growth limiter)."""


@optimizer("apollo")
def apollo(model: Any, args: Any, options: OptimizerConfig) -> RuleOptimizer:
    """APOLLO, or APOLLO-Mini with `--apollo_scale_type tensor`, for linear modules; AdamW for all else."""
    mini = options.apollo_scale_type == "tensor"
    names, adam = matrix_names(model, [], "optimizer"), adam_options(args)
    shape = {
        "rank": options.apollo_rank or (1 if mini else 256),
        "scale": options.apollo_scale or (128**0.5 if mini else 1.0),
        "by_tensor": mini,
        "gap": options.apollo_update_proj_gap,
        "seed": args.seed,
    }
    return RuleOptimizer(
        [
            *grouped([(n, p) for n, p in trained(model) if n in names], args, rule="apollo", **adam, **shape),
            *grouped([(n, p) for n, p in trained(model) if n not in names], args, rule="adamw", **adam),
        ],
        {"apollo": scale_and_step, "adamw": adamw},
        lr=args.learning_rate,
    )


def scale_and_step(parameter: torch.Tensor, grad: torch.Tensor, state: State, group: dict[str, Any]) -> None:
    """Algorithm 1 of the paper: the gradient times how much Adam stretches each channel of its projection."""
    wide = grad if grad.shape[0] <= grad.shape[1] else grad.mT
    rank = min(group["rank"], wide.shape[0])
    low = _projection(rank, wide, group["seed"] + state.get("step", 0) // group["gap"]) @ wide
    stretched = adam_direction(low, state, group).float()
    along = None if group["by_tensor"] else 0
    norms = torch.linalg.vector_norm(low.float(), dim=along)
    factor = torch.linalg.vector_norm(stretched, dim=along) / (norms + 1e-8)
    update = wide * factor.to(grad.dtype) * group["scale"]
    norm = torch.linalg.vector_norm(update.float())
    if "norm" in state:
        most = GROWTH * state["norm"]
        update = update * torch.where((state["norm"] > 0) & (norm > most), most / norm, 1.0).to(grad.dtype)
        norm = torch.where(state["norm"] > 0, torch.minimum(norm, most), norm)
    state["norm"] = norm
    apply(parameter, update if wide is grad else update.mT, group)


def _projection(rank: int, wide: torch.Tensor, seed: int) -> torch.Tensor:
    """N(0, 1 / rank) values [rank, rows], drawn anew at each step from the seed, so that none are kept."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rank, wide.shape[0], generator=generator) / rank**0.5).to(wide)
