"""Which channel each sample belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swift.data import EncodedDataset
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


def channels_of(dataset: EncodedDataset) -> Channels:
    """Each sample's channel.

    Raises:
        SwiftError: no row names a channel.
    """
    named = [dataset.channel(number) or WITHOUT for number in range(len(dataset))]
    if not set(named) - {WITHOUT}:
        raise SwiftError(
            "--enable_channel_loss true: no row has a channel",
            fix="add a column `channel` to the rows, or leave it out",
        )
    names = sorted(set(named))
    number_of = {name: number for number, name in enumerate(names)}
    return Channels(names, np.array([number_of[name] for name in named], dtype=np.int64))
