"""Muon: momentum made orthogonal (Jordan et al., 2024; scaled as in Liu et al., 2025, arXiv 2502.16982).

`torch.optim.Muon` takes matrices alone; here one optimizer also holds the rest, under AdamW, so that one state is saved
and one schedule moves both. A test holds the two to the same values.
"""

from __future__ import annotations

from typing import Any

import torch

from swift.config import OptimizerConfig
from swift.tuners import optimizer
from swift.tuners.optim.modules import matrix_names
from swift.tuners.optim.rules import RuleOptimizer, State, adam_options, adamw, apply, grouped, trained

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration that pulls singular values towards 1."""
ITERATIONS = 5


@optimizer("muon")
def muon(model: Any, args: Any, options: OptimizerConfig) -> RuleOptimizer:
    """Muon for linear modules, AdamW for embeddings, head, norms and biases."""
    names = matrix_names(model, [], "optimizer")
    return RuleOptimizer(
        [
            *grouped([(n, p) for n, p in trained(model) if n in names], args, rule="muon"),
            *grouped([(n, p) for n, p in trained(model) if n not in names], args, rule="adamw", **adam_options(args)),
        ],
        {"muon": step, "adamw": adamw},
        lr=args.learning_rate,
    )


def step(parameter: torch.Tensor, grad: torch.Tensor, state: State, group: dict[str, Any]) -> None:
    """Nesterov momentum, made orthogonal, with the root mean square that AdamW's updates have (eq. 4 of the second)."""
    if not state:
        state["momentum"] = torch.zeros_like(grad)
    state["momentum"].lerp_(grad, 1 - MOMENTUM)
    direction = orthogonal(grad.lerp(state["momentum"], MOMENTUM))
    apply(parameter, direction.to(grad.dtype) * (0.2 * max(grad.shape) ** 0.5), group)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """U V^T of the matrix's singular value decomposition, roughly, by Newton-Schulz iterations in bfloat16."""
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16()
    x = x.mT if matrix.shape[0] > matrix.shape[1] else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if matrix.shape[0] > matrix.shape[1] else x
