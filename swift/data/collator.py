"""From numbers of units to tensors: padded rows, or samples laid end to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from swift.data.encoded import EncodedDataset
from swift.rows import IGNORE, EncodedRow

if TYPE_CHECKING:
    import torch

DUMMY_LENGTH = 2
"""Tokens of the stand-in for an empty micro-batch: the fewest that leave one after the shift."""


class Collator:
    """Makes the batch of one micro-step; keeps only what the model takes, with labels and weights.

    The first label of every sample is `IGNORE`: no token before it belongs to the sample. Laid end to end, samples are
    told apart by `position_ids` that begin anew; the model must be called without a cache (`use_cache=False`), since
    transformers reads the borders from `position_ids` only then.

    Args:
        dataset: the samples.
        units: packs, as lists of sample numbers; unset means that every unit is one sample.
        pad_token_id: fills what padding needs.
        padding_free: lay the samples end to end; packs always are.
        pad_to_multiple_of: round the length up to a multiple.
        flash_kwargs: also give the borders as flash attention takes them.
        channels: int64[samples], a number that each sample's tokens carry along.
    """

    def __init__(
        self,
        dataset: EncodedDataset,
        units: list[list[int]] | None,
        *,
        pad_token_id: int,
        padding_free: bool,
        pad_to_multiple_of: int | None = None,
        flash_kwargs: bool = False,
        channels: np.ndarray | None = None,
    ) -> None:
        self.dataset, self.units, self.pad_token_id = dataset, units, pad_token_id
        self.flat = padding_free or units is not None
        self.multiple = pad_to_multiple_of or 1
        self.flash_kwargs, self.channels = flash_kwargs, channels

    def over(self, dataset: EncodedDataset) -> Collator:
        """A collator that lays out the single samples of another set in the same way."""
        return Collator(
            dataset,
            None,
            pad_token_id=self.pad_token_id,
            padding_free=self.flat,
            pad_to_multiple_of=self.multiple,
            flash_kwargs=self.flash_kwargs,
        )

    def __call__(self, unit_indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """The batch of these units; no unit gives a stand-in without loss.

        Returns:
            input_ids, labels: int64[batch, length]; weights: float32[batch, length] where the data has any.
            attention_mask: int64[batch, length] for padded rows.
            position_ids: int64[1, length] for samples laid end to end, and `segment_kwargs` if asked for.
            channels: int64[batch, length] where samples carry them.
        """
        numbers = self._samples(unit_indices)
        samples = [self.dataset[index] for index in numbers] or [self._dummy()]
        rows = [[sample] for sample in samples]
        batch = self._tensors([samples] if self.flat else rows)
        return batch if self.channels is None else batch | {"channels": self._channels(numbers, samples, batch)}

    def _channels(self, numbers: list[int], samples: list[EncodedRow], batch: dict[str, Any]) -> torch.Tensor:
        import torch

        channels = torch.zeros_like(batch["input_ids"])
        start = 0
        for line, (number, sample) in enumerate(zip(numbers, samples, strict=False)):
            place = channels[0, start : start + sample.length] if self.flat else channels[line]
            place.fill_(int(self.channels[number]))  # type: ignore[index]
            start += sample.length
        return channels

    def _samples(self, unit_indices: Sequence[int]) -> list[int]:
        if self.units is None:
            return list(unit_indices)
        return [sample for unit in unit_indices for sample in self.units[unit]]

    def _dummy(self) -> EncodedRow:
        ids = np.full(DUMMY_LENGTH, self.pad_token_id, np.int32)
        return EncodedRow(ids, np.full(DUMMY_LENGTH, IGNORE, np.int32))

    def _tensors(self, rows: list[list[EncodedRow]]) -> dict[str, torch.Tensor]:
        """One line of the batch for each list of samples."""
        import torch

        longest = max(sum(sample.length for sample in row) for row in rows)
        shape = len(rows), -(-longest // self.multiple) * self.multiple
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
        if self.dataset.weighted:
            batch["weights"] = torch.from_numpy(weights)
        if not self.flat:
            return batch | {"attention_mask": torch.from_numpy(mask)}
        lengths = [sample.length for sample in rows[0]]
        if shape[1] > longest:
            lengths.append(shape[1] - longest)
        batch["position_ids"] = torch.from_numpy(np.concatenate([np.arange(n) for n in lengths])[None])
        return batch | (segment_kwargs(lengths) if self.flash_kwargs else {})


def segment_kwargs(lengths: Sequence[int]) -> dict[str, Any]:
    """Borders of samples laid end to end, as transformers hands them to flash attention's variable-length kernels.

    Args:
        lengths: tokens of each sample, in order.

    Returns:
        cu_seq_lens_q, cu_seq_lens_k: int32[samples + 1], starting at 0; max_length_q, max_length_k: int.
    """
    import torch

    borders = torch.tensor(np.concatenate([[0], np.cumsum(lengths)]), dtype=torch.int32)
    longest = int(max(lengths))
    return {
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": longest,
        "max_length_k": longest,
    }
