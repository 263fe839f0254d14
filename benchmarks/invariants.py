"""What must change nothing, through the command line: the largest difference of a loss, step by step.

python benchmarks/invariants.py [--model demo] prints the table of docs/training.md: float32, no dropout, LoRA on the
tests' model of two layers, or on another. Every run takes the same 24 rows, 8 in a step; where samples are packed, each
step has all of the first 8 rows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = 6
SPLIT = "8 × 1"
CASES: dict[str, tuple[str, list[str]]] = {
    "1 × 8": (SPLIT, ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "8"]),
    "2 × 4": (SPLIT, ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4"]),
    "8 × 1, padding-free": (SPLIT, ["--padding_free", "true"]),
    "2 processes × 2 × 2": (SPLIT, ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]),
    "8 × 1, logits some at a time": (SPLIT, ["--chunked_cross_entropy", "true"]),
    "8 × 1, layers computed again": (SPLIT, ["--gradient_checkpointing", "true"]),
    "packed, all rows in a step": ("8 × 1, all rows in a step", ["--packing", "true", "--packing_length", "256"]),
    "1 × 8, samples of like length": (
        "8 × 1, samples of like length",
        [*("--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "8"), "--group_by_length", "true"],
    ),
    "stopped after step 3 and gone on": (SPLIT, ["--save_steps", "3"]),
    "stream, stopped and gone on": ("stream", ["--save_steps", "3", "--streaming", "true"]),
}
"""What is compared: name -> the run that it must equal, and its options."""
REFERENCES: dict[str, list[str]] = {
    SPLIT: [],
    "8 × 1, all rows in a step": [],
    "8 × 1, samples of like length": ["--group_by_length", "true"],
    "stream": ["--streaming", "true"],
}


def write_rows(folder: Path) -> tuple[Path, Path]:
    """Rows of different lengths: 24, and the first 8 of them."""
    lines = []
    for number in range(24):
        question = "What is " + "the colour of " * (number % 5) + f"the sky in place {number}?"
        messages = [{"role": "user", "content": question}]
        messages.append({"role": "assistant", "content": "Blue and grey, " * (1 + number % 7) + f"in place {number}."})
        lines.append(json.dumps({"messages": messages}) + "\n")
    many, few = folder / "rows.jsonl", folder / "few.jsonl"
    many.write_text("".join(lines))
    few.write_text("".join(lines[:8]))
    return many, few


class Runs:
    """Runs of `swift sft` in a folder.

    Args:
        model: what `--model` takes.
        folder: where rows and runs lie.
    """

    def __init__(self, model: str, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.many, self.few = write_rows(folder)

    def losses(self, name: str, options: list[str]) -> dict[int, float]:
        """Step -> loss of one run."""
        output = self.folder / "".join(sign if sign.isalnum() else "-" for sign in name)
        rows = self.few if "all rows" in name else self.many
        words = ["sft", "--model", self.model, "--dataset", str(rows), "--output_dir", str(output)]
        words += [
            "--add_version",
            "false",
            "--max_steps",
            str(STEPS),
            "--torch_dtype",
            "float32",
            "--logging_steps",
            "1",
        ]
        words += ["--learning_rate", "1e-3", "--lora_dropout", "0", "--report_to", "none", *options]
        for option, value in (("--per_device_train_batch_size", "8"), ("--gradient_accumulation_steps", "1")):
            words += [] if option in words else [option, value]
        if name.startswith("2 processes"):
            environment = {**os.environ, "NPROC_PER_NODE": "2", "PYTHONPATH": str(ROOT)}
            subprocess.run([sys.executable, "-m", "swift", *words], env=environment, check=True, capture_output=True)
        else:
            swift(words)
            if "gone on" in name:
                swift([*words, "--resume_from_checkpoint", str(output / "checkpoint-3")])
        lines = [json.loads(line) for line in (output / "logging.jsonl").read_text().splitlines()]
        return {line["step"]: line["loss"] for line in lines if "loss" in line}


def tiny(folder: Path) -> str:
    """The folder of the tests' own model."""
    from tests.tiny import save_tiny

    with contextlib.redirect_stderr(io.StringIO()):
        return str(save_tiny(folder))


def swift(words: list[str]) -> None:
    """A command in this process, without its screen."""
    from swift.cli.main import main

    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        status = main(words)
    if status:
        raise SystemExit(f"swift {' '.join(words)}\n{screen.getvalue()[-2000:]}")


def compare(runs: Runs, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, tuple[str, float]]:
    """Name -> the run that it must equal, and the largest difference of a loss."""
    kept = {name: case for name, case in CASES.items() if wanted(name)}
    expected = {name: runs.losses(name, REFERENCES[name]) for name in dict.fromkeys(same for same, _ in kept.values())}
    found = {}
    for name, (same, options) in kept.items():
        losses = runs.losses(name, options)
        assert losses.keys() == expected[same].keys() == set(range(1, STEPS + 1)), name
        found[name] = same, max(abs(losses[step] - expected[same][step]) for step in losses)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="as swift sft takes it; unset means a tiny one that is made now")
    args = parser.parse_args()
    print("| run | must equal | largest difference of a loss |\n| --- | --- | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or tiny(Path(folder) / "tiny")
        for name, (same, difference) in compare(Runs(model, Path(folder))).items():
            print(f"| {name} | {same} | {f'{difference:.1e}' if difference else '0'} |", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
