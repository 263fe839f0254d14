"""Runs that are killed or interrupted, as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from swift.train.folders import is_whole, latest_checkpoint
from swift.train.result import SftResult
from tests.train.conftest import losses

REPOSITORY = Path(__file__).parents[2]

SLOW_STEP = """
import time
from transformers import TrainerCallback
from swift.train import callback

@callback("slow")
class Slow(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(0.3)
"""

KILLED_IN_SAVE = """
import os, signal
from transformers import TrainerCallback
from swift.train import callback
import swift.train.trainer as trainer

@callback("killed")
class Killed(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            trainer.SwiftTrainer._save_rng_state = lambda self, folder: os.kill(os.getpid(), signal.SIGKILL)
"""

ONE_MISTAKES = """
import os
from transformers import TrainerCallback
from swift.errors import SwiftError
from swift.train import callback

@callback("mistaken")
class Mistaken(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2 and os.environ["RANK"] == "1":
            raise SwiftError("a mistake of one process", where="step 2", fix="mend it")
"""


@pytest.fixture
def start(base: Path, rows: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """`start("--max_steps 5")`: the command line in a process of its own."""

    def run(options: str, **environment: str) -> subprocess.Popen[str]:
        command = f"""sft --model {base} --dataset {rows} --output_dir {tmp_path / "run"} --add_version false
            --logging_steps 1 --report_to none --torch_dtype float32 --learning_rate 1e-2 --use_cpu true
            --per_device_train_batch_size 2 --gradient_accumulation_steps 1 {options}"""
        return subprocess.Popen(
            [sys.executable, "-m", "swift", *command.split()],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def log_of(folder: Path) -> dict[int, float]:
    lines = (json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def wait_for_step(folder: Path, step: int, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (folder / "logging.jsonl").is_file() and max(log_of(folder), default=0) >= step:
            return
        time.sleep(0.1)
    raise AssertionError(f"step {step} was not reached")


@pytest.mark.parametrize(
    ("number", "status", "processes"),
    [(signal.SIGINT, 130, "1"), (signal.SIGTERM, 143, "1"), (signal.SIGINT, 130, "2"), (signal.SIGTERM, 143, "2")],
)
def test_an_interrupt_saves_and_says_how_to_go_on(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: int, status: int, processes: str
) -> None:
    plugin = tmp_path / "slow.py"
    plugin.write_text(SLOW_STEP)
    slow = f"--external_plugins {plugin} --callbacks slow"
    run = start(f"--max_steps 100 {slow}", NPROC_PER_NODE=processes)
    wait_for_step(tmp_path / "run", 2)
    run.send_signal(number)
    _, errors = run.communicate(timeout=240)
    assert run.returncode == status, errors
    checkpoint = latest_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert f"--resume_from_checkpoint {checkpoint}" in errors
    step = int(checkpoint.name.rpartition("-")[2])
    assert 2 <= step < 100
    assert "Traceback" not in errors
    goes_on = start(f"--max_steps {step + 1} {slow} --resume_from_checkpoint latest", NPROC_PER_NODE=processes)
    _, errors = goes_on.communicate(timeout=240)
    assert goes_on.returncode == 0, errors
    assert sorted(log_of(tmp_path / "run")) == list(range(1, step + 2))


def test_killed_in_the_middle_of_a_save(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    plugin = tmp_path / "killed.py"
    plugin.write_text(KILLED_IN_SAVE)
    run = start(f"--max_steps 6 --save_steps 2 --external_plugins {plugin} --callbacks killed")
    run.communicate(timeout=240)
    assert run.returncode == -signal.SIGKILL
    folder = tmp_path / "run"
    left = sorted(path.name for path in folder.iterdir() if "checkpoint" in path.name)
    assert "checkpoint-2" in left
    assert "checkpoint-4" not in left
    assert any(name.startswith(".checkpoint-4") for name in left), "the save was not reached"
    assert latest_checkpoint(folder) == folder / "checkpoint-2"
    goes_on = start("--max_steps 6 --save_steps 2 --resume_from_checkpoint latest")
    _, errors = goes_on.communicate(timeout=240)
    assert goes_on.returncode == 0, errors
    assert is_whole(folder / "checkpoint-6")
    assert not any(path.name.startswith(".checkpoint") for path in folder.iterdir())
    assert sorted(log_of(folder)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.skipif(not os.environ.get("SWIFT_TEST_ALL"), reason="three runs in processes of their own")
def test_a_killed_stream_of_packs_goes_on_as_if_it_had_not_been(
    start: Callable[..., subprocess.Popen[str]], train: Callable[..., SftResult], tmp_path: Path
) -> None:
    stream = "--streaming true --packing true --packing_length 96 --shuffle_buffer_size 5 --lora_dropout 0.2"
    options = f"{stream} --max_steps 9 --save_steps 3 --dataloader_num_workers 1"
    plugin = tmp_path / "slow.py"
    plugin.write_text(SLOW_STEP)
    slow = f"{options} --external_plugins {plugin} --callbacks slow"
    run = start(slow)
    # Past a checkpoint, and before the next one.
    wait_for_step(tmp_path / "run", 5)
    run.kill()
    run.communicate(timeout=240)
    assert latest_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-3"
    _, errors = (goes_on := start(f"{slow} --resume_from_checkpoint latest")).communicate(timeout=240)
    assert goes_on.returncode == 0, errors
    words = options.replace("--", "").split()
    whole = train(
        output_dir=str(tmp_path / "whole"),
        gradient_accumulation_steps=1,
        use_cpu=True,
        **dict(zip(words[::2], words[1::2], strict=True)),
    )
    assert log_of(tmp_path / "run") == losses(whole)
    assert len(set(losses(whole).values())) == 9
    one, other = (
        load_file(next(folder.glob("*.safetensors")))
        for folder in (tmp_path / "run" / "checkpoint-9", whole.checkpoint or tmp_path)
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_mistake_of_one_of_two_joined_processes_is_told_once(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "mistaken.py").write_text(ONE_MISTAKES)
    run = start(
        f"--max_steps 100 --external_plugins {tmp_path / 'mistaken.py'} --callbacks mistaken", NPROC_PER_NODE="2"
    )
    _, errors = run.communicate(timeout=240)
    assert run.returncode == 2, errors
    assert errors.count("a mistake of one process") == 1
    assert errors.endswith("error: a mistake of one process\n  at: step 2\n  fix: mend it\n")
    assert "Traceback" not in errors and "torch.distributed" not in errors and "elastic" not in errors


def test_a_mistake_of_both_processes_is_told_once(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    run = start("--max_steps 1 --target_modules q_prj", NPROC_PER_NODE="2")
    _, errors = run.communicate(timeout=240)
    assert run.returncode == 2, errors
    assert errors.count("--target_modules q_prj: no such module") == 1
    assert errors.startswith("error: ") and "Traceback" not in errors
    assert not (tmp_path / "run").exists()
