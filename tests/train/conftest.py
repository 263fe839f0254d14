"""Runs of `swift sft` on a tiny random model: seconds each, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swift.train.result import SftResult
from swift.train.sft import sft
from tests.tiny import save_tiny


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a ChatML tokenizer."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of different lengths."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = []
    for number in range(23):
        question = "what is " + "the colour of " * (number % 5) + f"sky {number}?"
        answer = "Paris " * (1 + number % 7) + str(number)
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def train(base: Path, rows: Path, tmp_path: Path) -> Callable[..., SftResult]:
    """`train(max_steps=3, …)`: a run with these options; the rest are small and fixed."""

    def run(**options: Any) -> SftResult:
        settings: dict[str, Any] = {
            "model": str(base),
            "dataset": [str(rows)],
            "output_dir": str(tmp_path / "output"),
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "report_to": ["none"],
            "torch_dtype": "float32",
        }
        return sft(**{**settings, **options})

    return run


def losses(result: SftResult) -> dict[int, float]:
    """Step -> logged loss."""
    return {int(entry["step"]): entry["loss"] for entry in result.log if "loss" in entry}
