"""The average of the weights is that of its formula, and a run that was cut goes on exactly."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swift.errors import SwiftError
from swift.train.average import WeightAverage
from swift.train.result import SftResult
from tests.tiny import make_model
from tests.train.conftest import losses

DECAY = 0.5


def adapter(run: SftResult, step: int) -> dict[str, torch.Tensor]:
    assert run.run_folder is not None
    return load_file(run.run_folder / f"checkpoint-{step}" / "adapter_model.safetensors")


def averaged(start: dict[str, Any], later: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """By hand, with the shares of the first steps."""
    found = dict(start)
    for step, weights in enumerate(later, 1):
        kept = min(DECAY, (1 + step) / (10 + step))
        found = {name: kept * found[name] + (1 - kept) * weights[name] for name in found}
    return found


def test_it_is_the_average_of_the_weights_of_a_run_without_it(train: Callable[..., SftResult], tmp_path: Path) -> None:
    common = {"max_steps": 3, "save_steps": 1, "eval_steps": 1, "split_dataset_ratio": 0.2, "lora_dropout": 0.0}
    plain = train(output_dir=str(tmp_path / "plain"), **common)
    run = train(output_dir=str(tmp_path / "run"), ema_decay=DECAY, **common)
    assert losses(run) == losses(plain)
    steps = [adapter(plain, step) for step in (1, 2, 3)]
    # LoRA's B starts at zero, and so does the average; A's own start is what both averages share.
    seen = adapter(run, 3)
    for name in seen:
        if "lora_B" in name:
            start = {name: torch.zeros_like(seen[name])}
            torch.testing.assert_close(seen[name], averaged(start, steps)[name], rtol=1e-5, atol=1e-7)
    evaluated = [[each["eval_loss"] for each in result.log if "eval_loss" in each] for result in (plain, run)]
    assert len(evaluated[1]) == 3 and evaluated[0] != evaluated[1]


@pytest.mark.parametrize("kind", ["lora", "full", "adalora"])
def test_a_run_resumes_exactly(train: Callable[..., SftResult], tmp_path: Path, kind: str) -> None:
    common = {"max_steps": 4, "save_steps": 2, "ema_decay": DECAY, "train_type": kind, "learning_rate": 1e-3}
    whole = train(output_dir=str(tmp_path / "whole"), **common)
    assert whole.run_folder is not None
    part = whole.run_folder / "checkpoint-2"
    resumed = train(output_dir=str(tmp_path / "resumed"), resume_from_checkpoint=str(part), **common)
    assert resumed.run_folder is not None
    files = [result.run_folder / "checkpoint-4" / "average.safetensors" for result in (whole, resumed)]
    ours, theirs = (load_file(file) for file in files)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(SwiftError, match=r"--ema_decay is None and was 0.5"):
        train(resume_from_checkpoint=str(part), **{**common, "ema_decay": None})
    with pytest.raises(SwiftError, match=r"--ema_decay is 0.9 and was 0.5"):
        train(resume_from_checkpoint=str(part), **{**common, "ema_decay": 0.9})
    shutil.rmtree(tmp_path / "whole")


def test_the_weights_come_back_whatever_happens() -> None:
    model = make_model()
    average = WeightAverage(model, DECAY)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    average.after_step(1)
    with pytest.raises(KeyboardInterrupt), average.acting():
        share = 1 - 2 / 11
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weight, before[name] + share)
        raise KeyboardInterrupt
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, before[name] + 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ema_decay": 1.0}, "--ema_decay"),
        (
            {"ema_decay": 0.9, "train_type": "full", "lisa_activated_layers": 1},
            "--ema_decay 0.9 with --lisa_activated_layers",
        ),
        ({"ema_decay": 0.9, "train_type": "full", "optimizer": "badam"}, "--ema_decay 0.9 with --optimizer badam"),
    ],
)
def test_what_does_not_go_together(train: Callable[..., SftResult], options: dict[str, Any], said: str) -> None:
    with pytest.raises(SwiftError, match=said):
        train(**options)
