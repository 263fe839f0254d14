"""Ways of training whose state could part between processes: two take the same steps as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swift.train.result import SftResult
from tests.train.conftest import losses

Train = Callable[..., SftResult]
WAYS: dict[str, dict[str, Any]] = {
    "lisa": {"lisa_activated_layers": 1, "lisa_step_interval": 1},
    "galore": {"optimizer": "galore", "galore_rank": 4, "galore_update_proj_gap": 2},
    "muonclip": {"optimizer": "muonclip", "muonclip_tau": 0.5},
}
STEPS = 4


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_are_one(way: str, train: Train, base: Path, rows: Path, tmp_path: Path) -> None:
    common = {"train_type": "full", "learning_rate": 1e-3, "max_steps": STEPS, **WAYS[way]}
    whole = train(per_device_train_batch_size=4, gradient_accumulation_steps=1, **common)
    words = [word for name, value in common.items() for word in (f"--{name}", str(value))]
    command = f"""sft --model {base} --dataset {rows} --output_dir {tmp_path / "two"} --per_device_train_batch_size 2
        --gradient_accumulation_steps 1 --logging_steps 1 --report_to none --torch_dtype float32 --add_version false
        --use_cpu true"""
    done = subprocess.run(
        [sys.executable, "-m", "swift", *command.split(), *words],
        env={**os.environ, "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "two" / "logging.jsonl").read_text().splitlines()]
    logged = [entry["loss"] for entry in log if "loss" in entry]
    assert logged == pytest.approx(list(losses(whole).values()), rel=1e-4)
    assert whole.checkpoint is not None
    theirs = load_file(whole.checkpoint / "model.safetensors")
    for name, weight in load_file(tmp_path / "two" / f"checkpoint-{STEPS}" / "model.safetensors").items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=1e-4)
