"""A template that rewrites earlier turns: rows are taken and dropped, steps and epochs count samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swift.config import SftConfig
from swift.train.sft import sft
from tests.shared import shared_dir
from tests.tiny import make_tokenizer, save_tiny

SHARED = shared_dir()
pytestmark = pytest.mark.skipif(SHARED is None, reason="no shared folder with chat templates here")


def answer(number: int, turn: int) -> tuple[str, str]:
    return f"adding {number} " * (1 + 4 * turn * (number == 3)), f"it is {number + turn}"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    lines = []
    for number in range(6):
        messages: list[dict[str, str]] = []
        for turn in range(2):
            thought, said = answer(number, turn)
            messages += [
                {"role": "user", "content": f"question {number}"},
                {"role": "assistant", "reasoning_content": thought, "content": said},
            ]
        lines.append(json.dumps({"messages": messages}))
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def counts(rows: Path, folder: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[Any, list[str]]:
    settings: dict[str, Any] = {
        "model": str(folder),
        "dataset": [f"{rows}#4"],
        "dataset_shuffle": False,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "output_dir": str(folder / "output"),
        "chat_template": str(Path(SHARED or "") / "chat_templates" / "Qwen-Qwen3-0.6B.jinja"),
        "dry_run": True,
        "format": "json",
    }
    sft(SftConfig.of(**{**settings, **options}))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (found,) = [line for line in lines if line["kind"] == "counts"]
    return found, [line["text"] for line in lines if line["kind"] == "remark"]


def test_rows_samples_steps_and_tokens(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny(tmp_path / "tiny")
    tokenizer = make_tokenizer()
    expected = 0
    for number in range(4):
        for turn in range(2):
            thought, said = answer(number, turn)
            text = f"<think>\n{thought}\n</think>\n\n{said}<|im_end|>"
            expected += len(tokenizer(text, add_special_tokens=False).input_ids)
    found, _ = counts(rows, folder, capsys)
    assert (found["rows"], found["samples"], found["steps"]) == (4, 8, 12)
    assert found["trained_tokens"] == expected
    last, _ = counts(rows, folder, capsys, loss_scale="last_round")
    assert (last["rows"], last["samples"], last["steps"]) == (4, 4, 6)
    whole, _ = counts(rows, folder, capsys, loss_scale="all")
    assert (whole["rows"], whole["samples"], whole["steps"]) == (4, 8, 12)
    assert expected < whole["trained_tokens"] < whole["tokens"]
    short, remarks = counts(rows, folder, capsys, max_length=found["longest"] - 1)
    assert (short["rows"], short["samples"]) == (4, 7)
    assert remarks[0].startswith(f"1 dropped: {found['longest']} tokens are more than --max_length")
    assert remarks[0].endswith("(1 of the row's 2 samples)")
