"""Cross-entropy: minus the log-probability of each trained token."""

from __future__ import annotations

from swift.objectives import objective
from swift.objectives.types import Loss, TokenLogps


@objective("cross_entropy")
def cross_entropy(outputs: TokenLogps) -> Loss:
    """Sum of -w_t log p(y_t | y_<t) over the trained tokens; its unit is the trained token."""
    logps = outputs.logps if outputs.weights is None else outputs.logps * outputs.weights
    return Loss(total=-logps.sum())
