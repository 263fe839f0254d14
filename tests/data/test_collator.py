from __future__ import annotations

import numpy as np
import pytest
import torch

from swift.data import Collator, EncodedDataset, Layout
from swift.rows import IGNORE, EncodedRow, Source


def sample(*ids: int, weights=None) -> EncodedRow:
    array = np.array(ids, np.int32)
    return EncodedRow(array, array.copy(), Source("d", ids[0]), None if weights is None else np.float32(weights))


SAMPLES = [sample(1, 2, 3), sample(4, 5), sample(6, 7, 8, 9)]


def tensors(batch):
    return {key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def test_a_padded_batch():
    batch = Collator(EncodedDataset(SAMPLES), None, Layout(pad_token_id=0, padding_free=False))([0, 1])
    assert tensors(batch) == {
        "input_ids": [[1, 2, 3], [4, 5, 0]],
        "labels": [[IGNORE, 2, 3], [IGNORE, 5, IGNORE]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
    }
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_a_padding_free_batch():
    batch = Collator(EncodedDataset(SAMPLES), None, Layout(pad_token_id=0, padding_free=True))([2, 1])
    assert tensors(batch) == {
        "input_ids": [[6, 7, 8, 9, 4, 5]],
        "labels": [[IGNORE, 7, 8, 9, IGNORE, 5]],
        "position_ids": [[0, 1, 2, 3, 0, 1]],
    }


def test_packs_of_a_batch_are_laid_end_to_end_with_their_borders():
    collate = Collator(
        EncodedDataset(SAMPLES),
        [[0, 1], [2]],
        Layout(pad_token_id=0, padding_free=True, pad_to_multiple_of=4, borders=True),
    )
    batch = collate([0, 1])
    assert tensors(batch) == {
        "input_ids": [[1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0]],
        "labels": [[IGNORE, 2, 3, IGNORE, 5, IGNORE, 7, 8, 9, IGNORE, IGNORE, IGNORE]],
        "position_ids": [[0, 1, 2, 0, 1, 0, 1, 2, 3, 0, 1, 2]],
        "segments": (0, 3, 5, 9, 12),
        "cu_seq_lens_q": [0, 3, 5, 9, 12],
        "cu_seq_lens_k": [0, 3, 5, 9, 12],
        "max_length_q": 4,
        "max_length_k": 4,
    }
    assert batch["cu_seq_lens_q"].dtype == torch.int32


@pytest.mark.parametrize("units", [None, [[0, 1]]])
def test_an_empty_micro_batch_carries_no_loss_but_runs(units):
    batch = Collator(EncodedDataset(SAMPLES), units, Layout(pad_token_id=3, padding_free=units is not None))([])
    assert batch["input_ids"].tolist() == [[3, 3]]
    assert batch["labels"].tolist() == [[IGNORE, IGNORE]]
    assert ("attention_mask" in batch) == (units is None)


@pytest.mark.parametrize("first", [SAMPLES[0], sample(1, 2, 3, weights=[1, 2, 3])])
def test_weights_come_only_where_a_sample_has_some(first):
    dataset = EncodedDataset([first, SAMPLES[1]])
    batch = Collator(dataset, None, Layout(pad_token_id=0, padding_free=False))([0, 1])
    if first.weights is None:
        assert "weights" not in batch
    else:
        assert batch["weights"].tolist() == [[1, 2, 3], [1, 1, 0]]
        assert batch["weights"].dtype == torch.float32


def test_padding_rounds_up():
    layout = Layout(pad_token_id=0, padding_free=False, pad_to_multiple_of=8)
    batch = Collator(EncodedDataset(SAMPLES), None, layout)([2])
    assert batch["input_ids"].tolist() == [[6, 7, 8, 9, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
