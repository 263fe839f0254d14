"""swift eval against a stand-in for EvalScope, and against the real one where EVALSCOPE_PYTHON names it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from swift.cli.main import main
from swift.evaluate.figures import change_interval, mean_interval
from swift.evaluate.results import Result, changes, table
from tests.evaluate.stand_in import make_stand_in
from tests.tiny import save_adapter, save_tiny


@pytest.fixture
def stand_in(tmp_path: Path) -> str:
    return make_stand_in(tmp_path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    folder = tmp_path / "qa"
    folder.mkdir()
    lines = [{"query": text, "response": "sky"} for text in ("what is the sky?", "hi", "the capital of France")]
    (folder / "default.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def args(python: str, rows: Path, tmp_path: Path) -> list[str]:
    options = json.dumps({"general_qa": {"local_path": str(rows), "subset_list": ["default"]}})
    words = ["eval", "--eval_dataset", "general_qa", "--eval_dataset_args", options, "--eval_limit", "3"]
    return [*words, "--evalscope_python", python, "--eval_output_dir", str(tmp_path / "out")]


def test_a_model_is_served_and_measured(
    stand_in: str, base: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*args(stand_in, rows, tmp_path), "--model", str(base), "--format", "json"]
    assert main(words) == 0
    told = capsys.readouterr()
    (line,) = map(json.loads, told.out.splitlines())
    assert (line["model"], line["dataset"], line["metric"], line["num"]) == ("base", "general_qa", "length", 3)
    assert line["low"] <= line["score"] <= line["high"]
    assert "could not measure BLEU and counts it as 0: LookupError: no punkt" in told.err
    kept = [json.loads(line) for line in (tmp_path / "out" / "eval_result.jsonl").read_text().splitlines()]
    assert [entry["score"] for entry in kept] == [line["score"]]


def test_what_an_adapter_changes(
    stand_in: str, base: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = save_adapter(tmp_path / "run" / "checkpoint-3", base)
    words = [*args(stand_in, rows, tmp_path), "--adapters", str(adapter), "--model", str(base), "--compare", "true"]
    assert main([*words, "--format", "json"]) == 0
    before, after, change = map(json.loads, capsys.readouterr().out.splitlines())
    assert (before["model"], after["model"]) == ("run/checkpoint-3 without", "run/checkpoint-3")
    assert change["change"] == pytest.approx(after["score"] - before["score"])
    assert change["low"] <= change["change"] <= change["high"]
    assert main([*args(stand_in, rows, tmp_path), "--model", str(base)]) == 0
    assert (tmp_path / "out" / "eval_result.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--eval_dataset", "gsm9k"], "did you mean gsm8k"),
        (["--eval_dataset_args", '{"gsm8k": {}}'], "is for gsm8k, which --eval_dataset does not name"),
        (["--eval_dataset_args", '{"general_qa": {"local_path": "/nowhere"}}'], "there is no /nowhere"),
        (["--eval_backend", "OpenCompass"], "is not in EvalScope's environment"),
        (["--evalscope_python", sys.executable], "has no EvalScope"),
        (["--compare", "true"], "--compare needs one adapter"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(
    stand_in: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], said: str
) -> None:
    words = args(stand_in, rows, tmp_path)
    at = words.index(change[0]) if change[0] in words else len(words)
    assert main([*words[:at], *change, *words[at + 2 :], "--model", "nothing-here"]) == 2
    assert said in capsys.readouterr().err


def test_data_sets_are_listed(stand_in: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--list", "true", "--format", "json", "--evalscope_python", stand_in]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["id"] for each in listed] == ["general_qa", "gsm8k"]
    assert listed[0]["tags"] == ["QA"]


def test_bounds() -> None:
    known = mean_interval([0.0] * 50 + [1.0] * 50)
    assert known.mean == 0.5
    # 1.96 standard errors of a share of one half among 100.
    assert known.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert known.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)
    assert mean_interval([1.0, 1.0]) == mean_interval([1.0])
    steady = change_interval([0.0, 0.5, 1.0] * 20, [0.1, 0.6, 1.1] * 20)
    assert (steady.low, steady.high) == (pytest.approx(0.1), pytest.approx(0.1))


def test_only_samples_that_both_answered_are_compared() -> None:
    def result(model: str, samples: dict[str, float]) -> Result:
        return Result(model, "d", "acc", 0.5, len(samples), {}, None, samples, {})

    results = [result("a", {"x:0": 0.0, "x:1": 1.0}), result("b", {"x:0": 1.0, "x:2": 1.0})]
    (change,) = changes(results, ["a", "b"])
    assert (change["change"], change["num"]) == (1.0, 1)
    assert len(table(results)) == 3


@pytest.mark.skipif("EVALSCOPE_PYTHON" not in os.environ, reason="EVALSCOPE_PYTHON names no environment with EvalScope")
def test_evalscope_itself(base: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choices = tmp_path / "mcq"
    choices.mkdir()
    (choices / "default_val.csv").write_text("id,question,A,B,answer\n1,sky?,blue,dog,A\n2,dog?,blue,dog,B\n")
    options = {name: {"local_path": str(path), "subset_list": ["default"]} for name, path in
               (("general_qa", rows), ("general_mcq", choices))}  # fmt: skip
    words: list[Any] = ["eval", "--model", base, "--eval_dataset", "general_qa", "general_mcq", "--eval_limit", 2]
    words += ["--eval_dataset_args", json.dumps(options), "--eval_generation_config", '{"max_tokens": 8}']
    words += ["--eval_output_dir", tmp_path / "out", "--evalscope_python", os.environ["EVALSCOPE_PYTHON"]]
    assert main([*map(str, words), "--format", "json"]) == 0
    found = {line["dataset"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found["general_mcq"]["metric"] == "accuracy"
    assert found["general_mcq"]["num"] == 2
    assert 0 <= found["general_mcq"]["score"] <= 1
