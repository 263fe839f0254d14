"""Optimizers and layer-wise methods on the demo model: state, peak memory, speed and loss after a few steps.

python benchmarks/optimizers.py [--steps 5] [--methods galore muon ...] prints a table in Markdown; `--plan` prints only
what a dry run says, and trains nothing. Each method is a process of its own that calls `sft` from Python, in float32 on
the CPU, on the built-in self-cognition rows, at one learning rate, batch and order, without gradient checkpointing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MIB = 1 << 20
METHODS: dict[str, dict[str, Any]] = {
    "adamw_torch_fused": {},
    "adafactor": {"optim": "adafactor"},
    "galore": {"use_galore": True},
    "galore, per parameter": {"use_galore": True, "galore_optim_per_parameter": True},
    "q-galore": {"use_galore": True, "galore_quantization": True},
    "apollo": {"optimizer": "apollo"},
    "apollo, by tensor": {"optimizer": "apollo", "apollo_scale_type": "tensor"},
    "adam_mini": {"optimizer": "adam_mini"},
    "muon": {"optimizer": "muon"},
    "muonclip": {"optimizer": "muonclip"},
    "badam": {"optimizer": "badam"},
    "lomo": {"optimizer": "lomo"},
    "adalomo": {"optimizer": "adalomo"},
    "lisa, 2 layers": {"lisa_activated_layers": 2},
    "llamapro, 3 blocks": {"train_type": "llamapro", "llamapro_num_new_blocks": 3},
}
COMMON: dict[str, Any] = {
    "model": "demo",
    "dataset": ["self-cognition#96"],
    "model_name": ["demo"],
    "model_author": ["me"],
    "train_type": "full",
    "torch_dtype": "float32",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_only_model": True,
    "save_strategy": "no",
    "report_to": ["none"],
    "learning_rate": 1e-4,
    "lr_scheduler_type": "constant",
    "use_cpu": True,
}


def measure(method: str, steps: int) -> dict[str, Any]:
    """In this process: the plan, and with steps the run."""
    from swift.train.sft import sft

    options = {**COMMON, **METHODS[method], "max_steps": max(steps, 1)}
    with tempfile.TemporaryDirectory() as folder:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            result = sft(**options, output_dir=f"{folder}/dry", dry_run=True, format="json")
        plan = {entry["kind"]: entry for entry in map(json.loads, printed.getvalue().splitlines())}
        found = {
            "trained": plan["counts"]["trainable"],
            "state": plan["memory"]["parts"]["optimizer"],
            "planned": result.planned,
        }
        if steps:
            result = sft(**options, output_dir=f"{folder}/run")
    entries = [entry for entry in result.log if "loss" in entry]
    if not entries:
        return found
    speed = statistics.median(entry["tokens_per_second"] for entry in entries[1:])
    losses = f"{entries[0]['loss']:.3f} → {entries[-1]['loss']:.3f}"
    return found | {"measured": result.measured, "speed": speed, "losses": losses}


def row(method: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    cells = [
        method,
        f"{found['trained'] / 1e6:.1f}",
        f"{found['state'] / found['trained']:.2f}",
        f"{found['planned'] / MIB:.0f}",
    ]
    if "speed" in found:
        cells += [f"{found['measured'] / MIB:.0f}", f"{found['speed']:.0f}", found["losses"]]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure each method in a process of its own and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--one", choices=list(METHODS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.steps)))
        return
    columns = ["method", "trained, million", "state, bytes each", "planned, MiB"]
    columns += [] if arguments.plan else ["measured, MiB", "tokens/s", "loss"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)
    for method in arguments.methods:
        if arguments.plan:
            print(row(method, measure(method, 0)), flush=True)
            continue
        command = [sys.executable, __file__, "--one", method, "--steps", str(arguments.steps)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parent.parent)
        if done.returncode:
            sys.exit(f"{method}: {done.stderr[-2000:]}")
        print(row(method, json.loads(done.stdout.splitlines()[-1])), flush=True)


if __name__ == "__main__":
    main()
