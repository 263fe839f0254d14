"""Metrics of evaluation over trained tokens."""

from __future__ import annotations

from typing import Any

from swift.tasks import metric


@metric("acc")
def token_accuracy(predictions: Any, labels: Any) -> dict[str, float]:
    """How many trained tokens the model would have chosen itself; divided by their number over the whole set."""
    return {"token_acc": float((predictions == labels).sum())}
