"""From numbers of units to tensors: padded rows, or samples laid end to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from swift.data.encoded import EncodedDataset
from swift.rows import IGNORE, EncodedRow

if TYPE_CHECKING:
    import torch

DUMMY_LENGTH = 2
"""Tokens of the stand-in for an empty micro-batch: the fewest that leave one after the shift."""


@dataclass(frozen=True)
class Layout:
    """How samples become the tensors of a micro-batch; keeps only what the model takes, with labels and weights.

    The first label of every sample is `IGNORE`: no token before it belongs to the sample. Laid end to end, samples are
    told apart by `position_ids` that begin anew; the model must be called without a cache (`use_cache=False`), since
    transformers reads the borders from `position_ids` only then.

    Args:
        pad_token_id: fills what padding needs.
        padding_free: lay the samples end to end.
        pad_to_multiple_of: round the length up to a multiple.
        borders: also give the borders of samples laid end to end.
    """

    pad_token_id: int
    padding_free: bool
    pad_to_multiple_of: int | None = None
    borders: bool = False

    def __call__(self, samples: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
        """The batch of these samples; no sample gives a stand-in without loss.

        Returns:
            input_ids, labels: int64[batch, length]; weights: float32[batch, length] where a sample has any.
            attention_mask: int64[batch, length] for padded rows.
            position_ids: int64[1, length] for samples laid end to end, and `segment_kwargs` if asked for.
        """
        samples = list(samples) or [self._dummy()]
        return self._tensors([samples] if self.padding_free else [[sample] for sample in samples])

    def _dummy(self) -> EncodedRow:
        ids = np.full(DUMMY_LENGTH, self.pad_token_id, np.int32)
        return EncodedRow(ids, np.full(DUMMY_LENGTH, IGNORE, np.int32))

    def _tensors(self, rows: list[list[EncodedRow]]) -> dict[str, torch.Tensor]:
        """One line of the batch for each list of samples."""
        import torch

        multiple = self.pad_to_multiple_of or 1
        longest = max(sum(sample.length for sample in row) for row in rows)
        shape = len(rows), -(-longest // multiple) * multiple
        ids = np.full(shape, self.pad_token_id, np.int64)
        labels = np.full(shape, IGNORE, np.int64)
        weights = np.zeros(shape, np.float32)
        mask = np.zeros(shape, np.int64)
        for line, row in enumerate(rows):
            start = 0
            for sample in row:
                stop = start + sample.length
                ids[line, start:stop] = sample.input_ids
                labels[line, start + 1 : stop] = sample.labels[1:]
                weights[line, start:stop] = 1 if sample.weights is None else sample.weights
                mask[line, start:stop] = 1
                start = stop
        batch: dict[str, Any] = {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
        if any(sample.weights is not None for row in rows for sample in row):
            batch["weights"] = torch.from_numpy(weights)
        if not self.padding_free:
            return batch | {"attention_mask": torch.from_numpy(mask)}
        lengths = [sample.length for sample in rows[0]]
        if shape[1] > longest:
            lengths.append(shape[1] - longest)
        batch["position_ids"] = torch.from_numpy(np.concatenate([np.arange(n) for n in lengths])[None])
        return batch | (segment_kwargs(lengths) if self.borders else {})


Lay = Callable[[Sequence[EncodedRow]], dict[str, Any]]
"""Lays samples as the tensors of a micro-batch, as `Layout` does; no sample gives a stand-in without loss."""


class Collator:
    """Makes the batch of one micro-step from stored samples, as `Layout` lays them.

    Args:
        dataset: the samples.
        units: lists of numbers of samples that go together, as in a pack; unset means that every unit is one sample.
        layout: how the samples of a batch lie; those of packs have to lie end to end.
        channels: int64[samples], a number that each sample's tokens carry along.
    """

    def __init__(
        self,
        dataset: EncodedDataset,
        units: list[list[int]] | None,
        layout: Lay,
        channels: np.ndarray | None = None,
    ) -> None:
        self.dataset, self.units, self.layout, self.channels = dataset, units, layout, channels

    def __call__(self, unit_indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """The batch of these units, as `Layout` gives it; no unit gives a stand-in without loss.

        Returns:
            Besides, channels: int64[batch, length] where samples carry them.
        """
        numbers = self.samples_of(unit_indices)
        samples = [self.dataset[index] for index in numbers]
        batch = self.layout(samples)
        if self.channels is not None:
            batch["channels"] = self._channels(self.channels[numbers], samples, batch["input_ids"])
        return batch

    def _channels(self, channels: np.ndarray, samples: list[EncodedRow], like: torch.Tensor) -> torch.Tensor:
        """Each sample's channel at the places of its tokens."""
        import torch

        placed = torch.zeros_like(like)
        start, end_to_end = 0, getattr(self.layout, "padding_free", False)
        for line, (channel, sample) in enumerate(zip(channels.tolist(), samples, strict=True)):
            place = placed[0, start : start + sample.length] if end_to_end else placed[line]
            place.fill_(channel)
            start += sample.length
        return placed

    def samples_of(self, unit_indices: Sequence[int]) -> list[int]:
        """Numbers of the samples that these units are made of."""
        if self.units is None:
            return list(unit_indices)
        return [sample for unit in unit_indices for sample in self.units[unit]]


def segment_kwargs(lengths: Sequence[int]) -> dict[str, Any]:
    """Borders of samples laid end to end, as attention functions take them.

    Args:
        lengths: tokens of each sample, in order.

    Returns:
        segments: the borders, from 0 on. The same as transformers hands them to flash attention: cu_seq_lens_q,
        cu_seq_lens_k: int32[samples + 1]; max_length_q, max_length_k: int.
    """
    import torch

    segments = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    borders = torch.tensor(segments, dtype=torch.int32)
    longest = int(max(lengths))
    return {
        "segments": tuple(segments),
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": longest,
        "max_length_k": longest,
    }
