"""What the data of a run came to, in a few lines."""

from __future__ import annotations

from swift.data.drops import by_reason
from swift.data.encoded import EncodedDataset


def report(dataset: EncodedDataset, units: list[list[int]] | None = None, capacity: int | None = None) -> str:
    """Rows, samples, tokens, what was dropped and why, and how full the packs are.

    Args:
        dataset: the samples.
        units: the packs, if there are any.
        capacity: tokens that a pack holds.
    """
    tokens, trained = int(dataset.lengths.sum(dtype="int64")), int(dataset.trained.sum(dtype="int64"))
    share = f" ({trained / tokens:.1%})" if tokens else ""
    lines = [
        f"rows      {dataset.rows:,}",
        f"samples   {len(dataset):,}",
        f"tokens    {tokens:,}",
        f"trained   {trained:,}{share}",
        f"longest   {int(dataset.lengths.max(initial=0)):,}",
    ]
    if units is not None:
        fill = f", {tokens / (len(units) * capacity):.1%} full" if units and capacity else ""
        lines.append(f"packs     {len(units):,}{fill}")
    if dataset.dropped:
        lines.append(f"dropped   {len(dataset.dropped):,}")
        lines += [f"  {count:,} × {reason}" for reason, count in by_reason(dataset.dropped)]
    return "\n".join(lines)
