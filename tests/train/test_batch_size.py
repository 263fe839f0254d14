"""Micro-batches that do not fit are split; the steps stay what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaForCausalLM

from swift.errors import SwiftError
from swift.train.batch_size import smaller_split
from swift.train.result import SftResult
from tests.data.test_step_plan import plan_of
from tests.train.conftest import losses
from tests.train.test_resume import assert_same, weights

Train = Callable[..., SftResult]
ASKED: dict[str, Any] = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_steps": 4}


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """`small_device(2)`: a model whose memory holds two rows in training; gives the sizes that were tried."""
    plain = LlamaForCausalLM.forward

    def shrink(rows: int) -> list[int]:
        tried: list[int] = []

        def forward(self: Any, input_ids: Any = None, **given: Any) -> Any:
            if type(input_ids) is torch.Tensor and self.training:
                tried.append(len(input_ids))
                if len(input_ids) > rows:
                    raise torch.OutOfMemoryError("too many rows")
            return plain(self, input_ids=input_ids, **given)

        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        return tried

    return shrink


@pytest.mark.parametrize("options", [{}, {"group_by_length": True}], ids=["shuffled", "by-length"])
def test_the_steps_stay_and_the_run_can_be_gone_on_with(
    train: Train, tmp_path: Path, small_device: Callable[[int], list[int]], options: dict[str, Any]
) -> None:
    options = {**ASKED, "lora_dropout": 0.0, "save_steps": 2, **options}
    plain = train(**options, output_dir=str(tmp_path / "plain"))
    tried = small_device(2)
    split = train(**options, output_dir=str(tmp_path / "split"), auto_find_batch_size=True)
    assert tried[:4] == [8, 4, 2, 2]
    assert max(tried[2:]) == 2
    assert losses(split) == pytest.approx(losses(plain), abs=1e-5)
    found, expected = weights(split), weights(plain)
    assert all(torch.allclose(found[name], expected[name], atol=1e-4) for name in expected)
    assert split.run_folder is not None
    written = yaml.safe_load((split.run_folder / "config.yaml").read_text())
    assert (written["per_device_train_batch_size"], written["gradient_accumulation_steps"]) == (2, 4)
    # A larger device than before: the split is that of the checkpoint.
    tried = small_device(8)
    middle = split.run_folder / "checkpoint-2"
    again = train(
        **options, output_dir=str(tmp_path / "split"), auto_find_batch_size=True, resume_from_checkpoint=str(middle)
    )
    assert set(tried) <= {1, 2}
    assert_same(split, again)


def test_what_fits_is_left_and_dropout_is_as_without(train: Train, small_device: Callable[[int], list[int]]) -> None:
    options = {**ASKED, "lora_dropout": 0.3}
    plain = train(**options)
    small_device(8)
    assert_same(plain, train(**options, auto_find_batch_size=True))


def test_one_sample_that_does_not_fit_is_told(train: Train, small_device: Callable[[int], list[int]]) -> None:
    small_device(0)
    with pytest.raises(SwiftError, match="a micro-batch of one sample does not fit"):
        train(**ASKED, auto_find_batch_size=True)


@pytest.mark.parametrize(
    ("size", "accumulation", "smaller"), [(8, 1, 4), (3, 2, 1), (6, 1, 3), (5, 4, 2), (1, 8, None)]
)
def test_splits_divide_a_step(size: int, accumulation: int, smaller: int | None) -> None:
    plan = plan_of(200, batch_size=size, accumulation=accumulation)
    assert smaller_split(plan) == smaller
    if smaller is not None:
        split = plan.split_into(smaller)
        assert (split.units_per_step, split.batch_size) == (plan.units_per_step, smaller)
