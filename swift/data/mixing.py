"""Several data sets laid into one: one after another, or drawn from by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Literal, TypeVar

import numpy as np

from swift.data.drops import Dropped
from swift.errors import SwiftError

T = TypeVar("T")

Stopping = Literal["first_exhausted", "all_exhausted"]

DRAWS = 1000
"""Draws made at a time; the numbers are the same for any size."""


def check_weights(weights: Sequence[float] | None, sets: int) -> None:
    """Check `--interleave_prob` before anything is read.

    Raises:
        SwiftError: the weights do not fit the number of data sets, or are no shares.
    """
    if not weights:
        return
    if len(weights) != sets:
        raise SwiftError(
            f"--interleave_prob has {len(weights)} weights for {sets} data sets", fix="give one weight for each"
        )
    if min(weights) < 0 or not sum(weights) > 0 or not np.isfinite(sum(weights)):
        raise SwiftError(
            f"--interleave_prob {' '.join(map(str, weights))} are no weights: they are 0 or more, and not all 0",
            fix="give one for each data set",
        )


def interleave(
    sources: Sequence[Callable[[], Iterator[T | Dropped]]],
    weights: Sequence[float],
    *,
    seed: int,
    stopping: Stopping,
) -> Iterator[T | Dropped]:
    """Draw from the sources in turn, as `datasets.interleave_datasets` does with the same seed and probabilities.

    A source that has run out begins anew. What was dropped passes through where it stands, once; it is no draw.

    Args:
        sources: each gives a fresh iterator over its rows.
        weights: the share of draws that each gets; they need not add up to 1. A source of weight 0 is not waited for.
        seed: of the draws.
        stopping: stop once the first source has given all its rows, or once each has.
    """
    readers = [_Cycle(source) for source in sources]
    waited = [reader for reader, weight in zip(readers, weights, strict=True) if weight]
    enough = any if stopping == "first_exhausted" else all
    for index in _draws(weights, seed):
        if enough(reader.exhausted for reader in waited):
            return
        yield from readers[index].next()


def _draws(weights: Sequence[float], seed: int) -> Iterator[int]:
    share = np.asarray(weights, dtype=np.float64)
    random = np.random.default_rng(seed)
    while True:
        yield from random.choice(len(share), size=DRAWS, p=share / share.sum()).tolist()


class _Cycle(Generic[T]):
    """A source read over and over; it looks one row ahead, so that it knows when a row was the last."""

    def __init__(self, source: Callable[[], Iterator[T | Dropped]]) -> None:
        self.source, self.exhausted = source, False
        self._rows: Iterator[T | Dropped] = source()
        self._ahead: T | None = None
        self._again = False

    def next(self) -> Iterator[T | Dropped]:
        """The next row, with what was dropped before and after it."""
        if self._ahead is None:
            yield from self._look()
        row, self._ahead = self._ahead, None
        if row is None:
            self.exhausted = True
            return
        yield row
        yield from self._look()
        if self._ahead is None:
            self.exhausted = self._again = True
            self._rows = self.source()

    def _look(self) -> Iterator[Dropped]:
        for item in self._rows:
            if not isinstance(item, Dropped):
                self._ahead = item
                return
            if not self._again:
                yield item
