"""NEFTune's noise is that of each sample's own length, padded or packed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from swift.train.neftune import Neftune, sample_lengths
from swift.train.result import SftResult
from tests.tiny import make_model
from tests.train.conftest import losses
from tests.train.test_resume import weights

PADDED = {"attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])}
PACKED = {"position_ids": torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1]])}


def test_lengths_are_those_of_samples() -> None:
    assert sample_lengths(PADDED).tolist() == [[6.0] * 6, [2.0] * 6]
    assert sample_lengths(PACKED).tolist() == [[6.0] * 6 + [2.0] * 2]


@pytest.mark.parametrize("batch", [PADDED, PACKED], ids=["padded", "packed"])
def test_noise_is_uniform_up_to_its_bound_in_training_alone(batch: dict[str, torch.Tensor]) -> None:
    model = make_model()
    embedding = model.get_input_embeddings()
    ids = torch.zeros_like(next(iter(batch.values())))
    plain = embedding(ids)
    noise = Neftune(model, alpha=5.0)
    noise.begin(batch)
    model.eval()
    assert torch.equal(embedding(ids), plain)
    model.train()
    torch.manual_seed(0)
    found = torch.stack([embedding(ids) - plain for _ in range(20)]).detach().abs().amax((0, 3))
    bound = 5.0 / (sample_lengths(batch) * 32).sqrt()
    torch.testing.assert_close(found, bound, rtol=0.02, atol=0)
    assert (found <= bound * 1.0001).all()


def test_a_run_resumes_exactly(train: Callable[..., SftResult], tmp_path: Path) -> None:
    common = {"neftune_noise_alpha": 5.0, "max_steps": 4, "save_steps": 2}
    whole = train(output_dir=str(tmp_path / "whole"), **common)
    without = train(output_dir=str(tmp_path / "without"), max_steps=1)
    assert losses(whole)[1] != losses(without)[1]
    checkpoint = whole.run_folder / "checkpoint-2"  # type: ignore[operator]
    resumed = train(output_dir=str(tmp_path / "resumed"), resume_from_checkpoint=str(checkpoint), **common)
    ours, theirs = weights(whole), weights(resumed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
