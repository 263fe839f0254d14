"""A run that was interrupted and gone on with equals the unbroken one, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swift.errors import SwiftError
from swift.train.sft import SftResult
from tests.tiny import save_tiny
from tests.train.conftest import losses

Train = Callable[..., SftResult]


def weights(result: SftResult) -> dict[str, torch.Tensor]:
    assert result.checkpoint is not None
    file = next(result.checkpoint.glob("*model*.safetensors"))
    return load_file(file)


def assert_same(first: SftResult, second: SftResult) -> None:
    assert losses(first) == losses(second)
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"packing": True, "packing_length": 128},
        {"packing": True, "packing_length": 64, "per_device_train_batch_size": 1, "logging_steps": 4},
        {"logging_steps": 5, "lora_dropout": 0.3},
        {"train_type": "full", "learning_rate": 1e-3},
        {"train_type": "freeze", "freeze_parameters_ratio": 0.5},
        {"split_dataset_ratio": 0.2, "eval_steps": 2, "eval_strategy": "steps"},
        {"group_by_length": True, "lora_dropout": 0.3},
    ],
    ids=["lora", "packed", "packed-log4", "dropout-log5", "full", "freeze", "evaluated", "by-length"],
)
@pytest.mark.parametrize("stop", [4, 7])
def test_resumed_equals_unbroken(train: Train, tmp_path: Path, options: dict[str, Any], stop: int) -> None:
    common = {"max_steps": 11, "save_steps": stop, **options}
    whole = train(output_dir=str(tmp_path / "whole"), **common)
    broken = train(output_dir=str(tmp_path / "broken"), **common)
    assert_same(whole, broken)
    assert broken.run_folder is not None
    checkpoint = broken.run_folder / f"checkpoint-{stop}"
    resumed = train(output_dir=str(tmp_path / "broken"), resume_from_checkpoint=str(checkpoint), **common)
    assert resumed.run_folder == broken.run_folder
    assert_same(whole, resumed)


def test_latest_finds_the_newest_whole_checkpoint_in_any_version(train: Train, tmp_path: Path) -> None:
    first = train(max_steps=4, save_steps=2)
    second = train(max_steps=2)
    assert first.run_folder != second.run_folder
    assert second.checkpoint is not None
    (second.checkpoint / "trainer_state.json").write_text('{"broken')
    assert first.checkpoint is not None
    resumed = train(max_steps=6, resume_from_checkpoint="latest")
    assert resumed.run_folder == first.run_folder
    assert sorted(losses(resumed)) == [1, 2, 3, 4, 5, 6]


def test_a_users_own_tuner_goes_on_with_its_weights(train: Train, tmp_path: Path) -> None:
    own = Path(__file__).parents[2] / "examples" / "my_parts.py"
    common = {"max_steps": 6, "save_steps": 3, "train_type": "norms", "external_plugins": [str(own)]}
    whole = train(output_dir=str(tmp_path / "whole"), **common)
    broken = train(output_dir=str(tmp_path / "broken"), **common)
    checkpoint = broken.run_folder / "checkpoint-3"  # type: ignore[operator]
    resumed = train(output_dir=str(tmp_path / "broken"), resume_from_checkpoint=str(checkpoint), **common)
    assert_same(whole, resumed)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lora_rank": 4}, "--lora_rank is 4 and was 8"),
        ({"train_dataloader_shuffle": False}, "order of samples differs"),
        ({"packing_length": 128}, "samples differ"),
        ({"per_device_train_batch_size": 1}, "a step has 2 samples and had 4"),
    ],
)
def test_another_run_is_refused(train: Train, options: dict[str, Any], said: str) -> None:
    common = {"packing": True, "packing_length": 64, "max_steps": 4}
    run = train(**{**common, "max_steps": 2})
    with pytest.raises(SwiftError, match=said):
        train(**{**common, **options}, resume_from_checkpoint=str(run.checkpoint))


def test_another_base_model_is_refused(train: Train, tmp_path: Path) -> None:
    run = train(max_steps=2)
    other = save_tiny(tmp_path / "other", seed=5)
    with pytest.raises(SwiftError, match="base model has other weights"):
        train(max_steps=4, model=str(other), resume_from_checkpoint=str(run.checkpoint))


def test_latest_without_a_checkpoint_starts_anew_and_says_so(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert losses(train(max_steps=1, resume_from_checkpoint="latest")).keys() == {1}
    assert "warning: --resume_from_checkpoint latest: there is no whole checkpoint under" in capsys.readouterr().err
    train(max_steps=2, resume_from_checkpoint="latest")
    assert "warning" not in capsys.readouterr().err
    train(max_steps=1, resume_from_checkpoint="none")
    assert "warning" not in capsys.readouterr().err


def test_other_data_is_refused(train: Train, tmp_path: Path, rows: Path) -> None:
    run = train(max_steps=2)
    other = tmp_path / "other.jsonl"
    other.write_text(rows.read_text().replace("Paris", "Lyon", 1))
    with pytest.raises(SwiftError, match="samples differ"):
        train(max_steps=4, resume_from_checkpoint=str(run.checkpoint), dataset=[str(other)])


def test_only_the_weights(train: Train) -> None:
    run = train(max_steps=3)
    again = train(max_steps=2, resume_from_checkpoint=str(run.checkpoint), resume_only_model=True)
    assert again.run_folder != run.run_folder
    assert losses(again).keys() == {1, 2}
    assert losses(again)[1] < losses(run)[1]


def test_a_checkpoint_without_state_cannot_be_gone_on_from(train: Train) -> None:
    run = train(max_steps=2, save_only_model=True)
    assert run.checkpoint is not None
    assert not (run.checkpoint / "optimizer.pt").exists()
    with pytest.raises(SwiftError, match="no trainer or optimizer state"):
        train(max_steps=4, resume_from_checkpoint=str(run.checkpoint))
