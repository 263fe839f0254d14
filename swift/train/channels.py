"""Which channel each sample belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swift.data import EncodedDataset, RowSet
from swift.errors import SwiftError

WITHOUT = "none"
"""The channel of rows that name none, where others do."""


@dataclass
class Channels:
    """Names of channels, and the number of each sample's.

    Attributes:
        names: of the channels, sorted.
        of_sample: int64[samples].
    """

    names: list[str]
    of_sample: np.ndarray


def channels_of(rows: RowSet, dataset: EncodedDataset) -> Channels:
    """Each sample's channel, by the row that it came from.

    Raises:
        SwiftError: no row names a channel.
    """
    by_source = {(source.name, source.line): str(row.get("channel") or WITHOUT) for row, source in rows.rows}
    if not set(by_source.values()) - {WITHOUT}:
        raise SwiftError(
            "--enable_channel_loss true: no row has a channel",
            fix="add a column `channel` to the rows, or leave it out",
        )
    named = []
    for number in range(len(dataset)):
        source = dataset.source(number)
        named.append(by_source.get((source.name, source.line), WITHOUT) if source else WITHOUT)
    names = sorted(set(named))
    return Channels(names, np.array([names.index(name) for name in named], dtype=np.int64))
