"""How sure a score is, and what a change of the model changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
"""Resamples of the bootstrap."""


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds that it lies in by 95 %."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def mean_interval(scores: Sequence[float], seed: int = 0) -> Interval:
    """The mean of samples, with its percentile bootstrap interval (Efron, 1979).

    Args:
        scores: at least one.
    """
    values = np.asarray(scores, dtype=float)
    draws = np.random.default_rng(seed)
    means = np.concatenate(
        [values[draws.integers(len(values), size=(500, len(values)))].mean(axis=1) for _ in range(DRAWS // 500)]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def change_interval(before: Sequence[float], after: Sequence[float]) -> Interval:
    """How much higher the same samples score after a change: paired, so that easy and hard samples cancel out.

    Args:
        before: score of each sample.
        after: of the same samples in the same order.
    """
    return mean_interval(np.asarray(after, dtype=float) - np.asarray(before, dtype=float))
