"""The loss of each channel is the loss of a run over its rows alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swift.errors import SwiftError
from swift.train.result import SftResult
from tests.train.conftest import losses


@pytest.mark.parametrize("layout", [{}, {"packing": True, "packing_length": 128}], ids=["padded", "packed"])
def test_each_channel_as_if_alone(
    train: Callable[..., SftResult], rows: Path, tmp_path: Path, layout: dict[str, Any]
) -> None:
    parts: dict[str | None, list[str]] = {"code": [], "math": [], None: []}
    for number, line in enumerate(rows.read_text().splitlines()):
        channel = list(parts)[number % 3]
        parts[channel].append(json.dumps(json.loads(line) | ({"channel": channel} if channel else {})))
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("\n".join(line for lines in parts.values() for line in lines))
    once = {"max_steps": 1, "per_device_train_batch_size": 12, "lora_dropout": 0.0}
    result = train(dataset=[str(mixed)], enable_channel_loss=True, output_dir=str(tmp_path / "all"), **once, **layout)
    entry = next(entry for entry in result.log if "loss" in entry)
    for channel, lines in parts.items():
        alone = tmp_path / f"{channel}.jsonl"
        alone.write_text("\n".join(lines))
        one = train(dataset=[str(alone)], output_dir=str(tmp_path / f"{channel}"), **once)
        assert entry[f"loss_{channel or 'none'}"] == pytest.approx(losses(one)[1], rel=1e-5)


def test_figures_between_two_logged_steps_go_over_a_resume(train: Callable[..., SftResult], tmp_path: Path) -> None:
    lines = [
        {"query": f"what is {number}?", "response": "Paris " * (1 + number % 3), "channel": "ab"[number % 2]}
        for number in range(16)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)))
    common = {"dataset": [str(data)], "enable_channel_loss": True, "max_steps": 4, "save_steps": 3, "logging_steps": 2}
    common["logging_first_step"] = False
    whole = train(output_dir=str(tmp_path / "whole"), **common)
    checkpoint = whole.run_folder / "checkpoint-3"  # type: ignore[operator]
    resumed = train(output_dir=str(tmp_path / "resumed"), resume_from_checkpoint=str(checkpoint), **common)
    entries = [[entry for entry in run.log if "loss" in entry][-1] for run in (whole, resumed)]
    last = [{name: value for name, value in entry.items() if name.startswith("loss")} for entry in entries]
    assert last[0] == last[1] and last[0].keys() == {"loss", "loss_a", "loss_b"}


def test_rows_without_channels_are_told(train: Callable[..., SftResult]) -> None:
    with pytest.raises(SwiftError, match="no row has a channel"):
        train(enable_channel_loss=True, max_steps=1)
