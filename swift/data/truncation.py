"""What happens to a sample that is longer than the limit."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from swift.rows import EncodedRow

Truncation = Literal["delete", "left", "right", "split", "raise"]


def shorten(sample: EncodedRow, max_length: int | None, strategy: Truncation) -> list[EncodedRow]:
    """The samples to train on in place of one that may be too long; none where it has to go.

    `split` repeats the last token of a piece as the first of the next: a piece's first token has nothing before it
    and carries no loss, so with the overlap every trained token of the row is trained exactly once.

    Args:
        sample: the sample.
        max_length: tokens; unset means no limit.
        strategy: `left` and `right` name the side that is cut off.
    """
    if max_length is None or sample.length <= max_length:
        return [sample]
    if strategy == "left":
        return [_cut(sample, sample.length - max_length, sample.length)]
    if strategy == "right":
        return [_cut(sample, 0, max_length)]
    if strategy == "split":
        step = max(1, max_length - 1)
        starts = range(0, max(1, sample.length - 1), step)
        return [_cut(sample, start, min(start + max_length, sample.length)) for start in starts]
    return []


def _cut(sample: EncodedRow, start: int, stop: int) -> EncodedRow:
    return replace(
        sample,
        input_ids=sample.input_ids[start:stop],
        labels=sample.labels[start:stop],
        weights=None if sample.weights is None else sample.weights[start:stop],
        rendered=None,
    )
