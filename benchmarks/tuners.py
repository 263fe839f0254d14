"""Each adapter on the demo model: trained values, loss, peak memory and speed, each in a process of its own.

python benchmarks/tuners.py [--steps 8] [--only REGEX] prints a row for each tuner as a Markdown table; with
--quantized, a row for each way to quantise the weights under LoRA.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHORT = {"logging_steps": 1, "max_length": 256, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
CASES: dict[str, dict[str, Any]] = {
    "lora": {"learning_rate": 1e-3},
    "lora --use_dora": {"use_dora": True, "learning_rate": 1e-3},
    "lora --use_rslora": {"use_rslora": True, "learning_rate": 1e-3},
    "lora --init_weights pissa": {"init_weights": "pissa_niter_4", "lora_alpha": 8, "learning_rate": 3e-4},
    "lora --init_weights olora": {"init_weights": "olora", "lora_alpha": 8, "learning_rate": 1e-4},
    "lora --init_weights eva": {"init_weights": "eva", "init_samples": 16, "learning_rate": 1e-3},
    "lora --init_weights lora-ga": {"init_weights": "lora-ga", "learning_rate": 1e-4},
    "lora --lorap_lr_ratio 16": {"lorap_lr_ratio": 16.0, "learning_rate": 2e-4},
    "adalora": {"train_type": "adalora", "learning_rate": 1e-2},
    "loha": {"train_type": "loha", "learning_rate": 3e-3},
    "lokr": {"train_type": "lokr", "learning_rate": 3e-3},
    "vera": {"train_type": "vera", "learning_rate": 2e-2},
    "boft": {"train_type": "boft", "learning_rate": 1e-3},
    "oft": {"train_type": "oft", "learning_rate": 1e-3},
    "fourierft": {"train_type": "fourierft", "learning_rate": 3e-2},
    "ia3": {"train_type": "ia3", "learning_rate": 3e-2},
    "bone": {"train_type": "bone", "learning_rate": 1e-3},
    "adapter": {"train_type": "adapter", "adapter_length": 32, "learning_rate": 1e-3},
    "reft": {"train_type": "reft", "learning_rate": 1e-2},
    "reft (Direft)": {
        **{"train_type": "reft", "reft_intervention_type": "DireftIntervention", "learning_rate": 1e-2},
    },
    "prompt": {"train_type": "prompt", "learning_rate": 0.1},
    "prefix": {"train_type": "prefix", "learning_rate": 0.03},
}

LORA = {"learning_rate": 1e-3}
QUANTIZED: dict[str, dict[str, Any]] = {
    "not quantised": LORA,
    "bnb 4 (nf4)": {"quant_method": "bnb", **LORA},
    "bnb 8": {"quant_method": "bnb", "quant_bits": "8", **LORA},
    "hqq 4": {"quant_method": "hqq", **LORA},
    **{f"quanto {bits}": {"quant_method": "quanto", "quant_bits": bits, **LORA} for bits in ("4", "8")},
    **{f"torchao {bits}": {"quant_method": "torchao", "quant_bits": bits, **LORA} for bits in ("8", "float8")},
}


def run(options: dict[str, Any], steps: int) -> dict[str, Any]:
    """Plan and train in this process."""
    from swift import sft

    common = {
        **{"model": "demo", "dataset": ["self-cognition#64"], "model_name": ["Robin"], "model_author": ["the team"]},
        **{"max_steps": steps, "report_to": ["none"], "save_only_model": True, "lr_scheduler_type": "constant"},
        **SHORT,
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as screen:
        sft(**common, **options, output_dir=folder, dry_run=True, format="json")
        lines = [json.loads(line) for line in screen.getvalue().splitlines() if line.startswith("{")]
        counts = next(line for line in lines if line["kind"] == "counts")
        result = sft(**common, **options, output_dir=folder)
    log = [entry for entry in result.log if "loss" in entry]
    return {
        "trained": counts["trainable"],
        "first": log[0]["loss"],
        "last": log[-1]["loss"],
        "planned": result.planned,
        "measured": result.measured,
        "speed": statistics.median(entry["tokens_per_second"] for entry in log[1:]),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of each tuner")
    parser.add_argument("--only", default="", help="regular expression that a row's name must match")
    parser.add_argument("--quantized", action="store_true", help="ways to quantise in place of tuners")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run((CASES | QUANTIZED)[args.one], args.steps)))
        return
    cases, kind = (QUANTIZED, "weights") if args.quantized else (CASES, "tuner")
    print(f"| {kind} | trained values | first loss | last loss | peak memory | planned | tokens/s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in cases:
        if not re.search(args.only, name):
            continue
        words = [sys.executable, "-W", "ignore", __file__, "--one", name, "--steps", str(args.steps)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
        if done.returncode:
            raise SystemExit(f"{name}\n{done.stderr}")
        found = json.loads(done.stdout.splitlines()[-1])
        memory = [f"{found[part] / 2**20:,.0f} MiB" for part in ("measured", "planned")]
        losses = [f"{found[part]:.3f}" for part in ("first", "last")]
        cells = [f"`{name}`", f"{found['trained']:,}", *losses, *memory, f"{found['speed']:,.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
