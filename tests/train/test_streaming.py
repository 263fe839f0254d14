"""Runs whose samples are made while they go on: the losses of stored ones, and exact resume."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.cli.main import main
from swift.errors import SwiftError
from swift.train.result import SftResult
from tests.train.conftest import losses
from tests.train.test_resume import assert_same, weights

Train = Callable[..., SftResult]
ROOT = Path(__file__).parents[2]
IN_ORDER: dict[str, Any] = {"dataset_shuffle": False, "train_dataloader_shuffle": False}
STREAM: dict[str, Any] = {"streaming": True, "dataloader_num_workers": 0}
PACKED: dict[str, Any] = {"packing": True, "packing_length": 96}
BAD = '{"messages": [{"role": "user", "content": "who?"}]}\n'


@pytest.mark.parametrize(
    "options",
    [{}, {"padding_free": True}, {**PACKED, "packing_strategy": "sequential"}, PACKED],
    ids=["padded", "end-to-end", "sequential", "best-fit"],
)
def test_a_stream_in_order_has_the_losses_of_stored_rows(train: Train, options: dict[str, Any]) -> None:
    common = {"max_steps": 2, **IN_ORDER, **options}
    assert losses(train(**common)) == losses(train(**common, **STREAM))


@pytest.mark.parametrize("workers", [0, 2])
def test_lazy_rows_have_the_losses_of_stored_ones(train: Train, workers: int) -> None:
    common = {"max_steps": 8, "split_dataset_ratio": 0.1}
    eager = train(**common)
    lazy = train(**common, lazy_tokenize=True, dataloader_num_workers=workers)
    assert_same(eager, lazy)
    evaluated = [[entry["eval_loss"] for entry in run.log if "eval_loss" in entry] for run in (eager, lazy)]
    assert evaluated[0] == evaluated[1]


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle_buffer_size": 7},
        {"shuffle_buffer_size": 7, "dataloader_num_workers": 1, "lora_dropout": 0.3},
        {**PACKED, "shuffle_buffer_size": 5},
        {**PACKED, "shuffle_buffer_size": 5, "packing_strategy": "sequential", "logging_steps": 3},
        {"max_length": 24, "truncation_strategy": "split", "shuffle_buffer_size": 3},
        {"streaming": False, "lazy_tokenize": True},
    ],
    ids=["shuffled", "worker-dropout", "best-fit", "sequential-log3", "split", "lazy"],
)
def test_a_resumed_stream_equals_the_unbroken_one(train: Train, tmp_path: Path, options: dict[str, Any]) -> None:
    common = {**STREAM, "max_steps": 12, "save_steps": 5, **options}
    whole = train(output_dir=str(tmp_path / "whole"), **common)
    assert len(set(losses(whole).values())) > 3
    for stop in (5, 10):
        checkpoint = whole.run_folder / f"checkpoint-{stop}"  # type: ignore[operator]
        resumed = train(output_dir=str(tmp_path / f"from-{stop}"), resume_from_checkpoint=str(checkpoint), **common)
        tail = {step: loss for step, loss in losses(whole).items() if step > stop}
        assert {step: loss for step, loss in losses(resumed).items() if step > stop} == tail
        ours, theirs = weights(whole), weights(resumed)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("streaming", [True, False], ids=["stream", "lazy"])
def test_the_processes_make_no_difference(train: Train, base: Path, tmp_path: Path, streaming: bool) -> None:
    file = with_bad(tmp_path, 9)
    live = {"streaming": True, "shuffle_buffer_size": 5, **PACKED} if streaming else {"lazy_tokenize": True}
    common = {"max_steps": 3, "strict": False, "lora_dropout": 0, **live}
    one = train(dataset=[str(file)], **common)
    folder = tmp_path / "two"
    words = f"""sft --model {base} --dataset {file} --output_dir {folder} --add_version false --logging_steps 1
        --report_to none --torch_dtype float32 --learning_rate 1e-2 --use_cpu true --per_device_train_batch_size 2
        --gradient_accumulation_steps 1"""
    words += "".join(f" --{name} {value}" for name, value in common.items())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NPROC_PER_NODE": "2"}
    run = [sys.executable, "-m", "swift", *words.split()]
    done = subprocess.run(run, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, (folder / "logging.jsonl").read_text().splitlines())
    two = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert two == pytest.approx(losses(one), rel=1e-5)
    assert len((folder / "dropped.jsonl").read_text().splitlines()) == 1


def with_bad(folder: Path, at: int, lines: int = 23) -> Path:
    """Rows of which one, at a line, cannot be used."""

    def turns(n: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"sky {n}?"}, {"role": "assistant", "content": f"Paris {n}"}]

    rows = [json.dumps({"messages": turns(n)}) + "\n" for n in range(lines)]
    rows[at - 1] = BAD
    path = folder / f"bad-{at}.jsonl"
    path.write_text("".join(rows))
    return path


def test_a_bad_row_stops_a_stream_after_a_checkpoint(
    train: Train, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = with_bad(tmp_path, 15)
    output = tmp_path / "stopped"
    words = f"""sft --model {base} --dataset {file} --output_dir {output} --add_version false --logging_steps 1
        --report_to none --torch_dtype float32 --learning_rate 1e-2 --per_device_train_batch_size 2
        --gradient_accumulation_steps 2 --streaming true --shuffle_buffer_size 2 --max_steps 6"""
    assert main(words.split()) == 2
    told = capsys.readouterr().err
    assert f"at: {file.name}:15" in told or f"at: {file}:15" in told
    assert "no message is an assistant's turn" in told
    go_on = re.search(r"go on with: (swift sft .*)$", told, re.MULTILINE)
    assert go_on is not None
    assert f"{output}/checkpoint-3" in go_on[1]
    mended = file.read_text().replace(BAD, with_bad(tmp_path, 1).read_text().splitlines(keepends=True)[14])
    file.write_text(mended)
    assert main(go_on[1].split()[1:]) == 0
    whole = train(dataset=[str(file)], max_steps=6, streaming=True, shuffle_buffer_size=2)
    lines = map(json.loads, (output / "logging.jsonl").read_text().splitlines())
    assert {line["step"]: line["loss"] for line in lines if "loss" in line} == losses(whole)


def test_a_bad_row_can_be_left_out_of_a_stream(train: Train, tmp_path: Path) -> None:
    common = {**STREAM, "strict": False, "max_steps": 8, "save_steps": 4, "dataset": [str(with_bad(tmp_path, 5))]}
    run = train(**common)
    dropped = run.run_folder / "dropped.jsonl"  # type: ignore[operator]
    before = dropped.read_text()
    assert [json.loads(line)["source"].rpartition(":")[2] for line in before.splitlines()] == ["5"]
    # What a killed run told after its checkpoint is told again, not twice.
    dropped.write_text(before + before)
    checkpoint = str(run.run_folder / "checkpoint-4")  # type: ignore[operator]
    again = train(**common, resume_from_checkpoint=checkpoint)
    assert dropped.read_text() == before
    assert losses(again) == losses(run)


def test_other_rows_are_not_gone_on_with(train: Train, tmp_path: Path, rows: Path) -> None:
    common = {**STREAM, "shuffle_buffer_size": 3}
    run = train(max_steps=2, **common)
    other = tmp_path / "other.jsonl"
    other.write_text(rows.read_text().replace("Paris", "Lyon", 1))
    with pytest.raises(SwiftError, match="the first 10 rows differ"):
        train(max_steps=4, dataset=[str(other)], resume_from_checkpoint=str(run.checkpoint), **common)
    with pytest.raises(SwiftError, match="samples differ"):
        train(max_steps=4, resume_from_checkpoint=str(run.checkpoint), **STREAM)


def test_a_row_that_the_template_refuses_stops_a_lazy_run_after_a_checkpoint(train: Train, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"sky {n}?"}, {"role": "assistant", "content": f"Paris {n}"}]}
        for n in range(12)
    ]
    rows[9]["messages"][0]["content"] = "<|im_end|>"
    file = tmp_path / "control.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {**IN_ORDER, "dataset": [str(file)], "lazy_tokenize": True, "special_tokens_in_content": "refuse"}
    with pytest.raises(SwiftError, match="a row cannot be used") as stopped:
        train(output_dir=str(tmp_path / "run"), add_version=False, **common)
    assert str(stopped.value.where).endswith("control.jsonl:10")
    assert (tmp_path / "run" / "checkpoint-2").is_dir()
    run = train(**common, strict=False, max_steps=6)
    told = (run.run_folder / "dropped.jsonl").read_text().splitlines()  # type: ignore[operator]
    assert [json.loads(line)["source"].rpartition(":")[2] for line in told] == ["10"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"streaming": True}, "--streaming needs --max_steps"),
        ({"streaming": True, "max_steps": 1, "enable_channel_loss": True}, "--streaming with --enable_channel_loss"),
        ({"lazy_tokenize": True, "enable_channel_loss": True}, "--lazy_tokenize with --enable_channel_loss"),
        ({"lazy_tokenize": True, "cached_val_dataset": ["kept"]}, "--lazy_tokenize with --cached_val_dataset"),
        ({"streaming": True, "max_steps": 1, "split_dataset_ratio": 0.1}, "--val_dataset"),
        ({"streaming": True, "max_steps": 1, "packing": True}, "--packing_length"),
        ({"streaming": True, "max_steps": 1, "lazy_tokenize": True}, "--lazy_tokenize"),
        ({"lazy_tokenize": True, "packing": True}, "lengths of all samples"),
    ],
)
def test_what_does_not_go_together_is_refused(train: Train, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SwiftError) as refused:
        train(**options, model="nowhere/nothing", dataset=["nowhere.jsonl"])
    assert said in str(refused.value)


def test_a_dry_run_of_a_stream_shows_its_first_rows(
    train: Train, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(**STREAM, max_steps=4, dry_run=True, val_dataset=[str(rows)])
    shown = capsys.readouterr().out
    assert "a stream, 1,000 rows to draw from" in shown
    assert "Row 1" in shown and "Planned memory" in shown


def test_workers_end_with_a_run_that_stops(train: Train, tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    row = {"messages": [{"role": "user", "content": "sky?"}, {"role": "assistant", "content": "Paris"}]}
    bad = {"messages": [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "Paris"}]}
    file.write_text("".join(json.dumps(each) + "\n" for each in [*[row] * 9, bad, *[row] * 90]))
    options = {**IN_ORDER, "dataset": [str(file)], "lazy_tokenize": True, "special_tokens_in_content": "refuse"}
    before = set(multiprocessing.active_children())
    with pytest.raises(SwiftError, match="a row cannot be used") as stopped:
        train(**options)
    assert stopped.tb is not None and set(multiprocessing.active_children()) == before
