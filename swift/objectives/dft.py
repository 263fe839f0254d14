"""Dynamic fine-tuning: each token's loss times the probability that the model gives it (Wu et al., 2025)."""

from __future__ import annotations

from swift.objectives import objective
from swift.objectives.types import Loss, TokenLogps


@objective("dft")
def dft(outputs: TokenLogps) -> Loss:
    """Sum of -w_t sg(p(y_t | y_<t)) log p(y_t | y_<t), arXiv 2508.05629, eq. 9; its unit is the trained token."""
    logps = outputs.logps * outputs.logps.detach().exp()
    return Loss(total=-(logps if outputs.weights is None else logps * outputs.weights).sum())
