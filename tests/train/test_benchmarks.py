"""Evaluation in a run by a stand-in for EvalScope."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swift.cli.main import main
from tests.evaluate.stand_in import make_stand_in
from tests.tiny import save_tiny


def write(file: Path, lines: list[dict[str, str]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    rows = [{"query": text, "response": "blue sky"} for text in ("what is the sky?", "hi", "the capital", "of France")]
    data = write(tmp_path / "data.jsonl", rows)
    asked = write(tmp_path / "qa" / "default.jsonl", rows[:2]).parent
    base = save_tiny(tmp_path / "base")
    options = json.dumps({"general_qa": {"local_path": str(asked)}})
    words = ["sft", "--model", str(base), "--dataset", str(data), "--val_dataset", str(data), "--output_dir"]
    words += [str(tmp_path / "out"), "--add_version", "false", "--max_steps", "4", "--eval_steps", "2", "--seed", "1"]
    words += ["--eval_dataset", "general_qa", "--eval_dataset_args", options, "--eval_limit", "2"]
    return [*words, "--evalscope_python", make_stand_in(tmp_path), "--learning_rate", "1e-2"]


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "logging.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_the_model_in_training_is_asked_and_training_does_not_notice(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--eval_use_evalscope", "true"]) == 0
    out = tmp_path / "out"
    logged = [json.loads(line) for line in (out / "logging.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["eval_general_qa"] for line in logged if "eval_general_qa" in line}
    kept = [json.loads(line) for line in (out / "eval_output" / "eval_result.jsonl").read_text().splitlines()]
    assert scores == {int(line["model"].removeprefix("step-")): line["score"] for line in kept}
    assert sorted(scores) == [2, 4]
    at = words.index("--eval_dataset")
    plain = words[:at] + words[words.index("--learning_rate") :]
    plain[plain.index("--output_dir") + 1] = str(tmp_path / "plain")
    assert main(plain) == 0
    assert losses(out) == losses(tmp_path / "plain")


def test_what_cannot_be_evaluated_is_told_first(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "--eval_dataset has no effect here" in capsys.readouterr().err
    at = words.index("--val_dataset")
    assert main([*words[:at], *words[at + 2 :], "--eval_use_evalscope", "true", "--eval_strategy", "no"]) == 2
    assert "--eval_use_evalscope: there is no evaluation" in capsys.readouterr().err
