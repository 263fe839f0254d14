"""Logits of some tokens at a time against logits of a whole micro-batch: peak memory and speed on the demo model.

python benchmarks/head.py [--rounds 1] [--steps 4] prints a table in Markdown. Each cell is a run of its own, in turns
with the other side, in float32 on the CPU: a long answer in a batch, or four short ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MIB = 1 << 20
LENGTHS = {"long": 40, "short": 4}
"""Sentences of an answer; each has some ten tokens."""


def measure(kind: str, length: str, chunked: bool, steps: int) -> dict[str, Any]:
    """In this process: one run."""
    from swift.train.sft import sft

    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.jsonl")
        sentences = [f"Line {number} of the answer tells of item {number * 7}." for number in range(LENGTHS[length])]
        lines = [{"query": f"Tell me about list {number}.", "response": " ".join(sentences)} for number in range(64)]
        rows.write_text("\n".join(map(json.dumps, lines)))
        result = sft(
            model="demo",
            dataset=[str(rows)],
            output_dir=f"{folder}/run",
            train_type=kind,
            torch_dtype="float32",
            per_device_train_batch_size=1 if length == "long" else 4,
            gradient_accumulation_steps=1,
            gradient_checkpointing=False,
            chunked_cross_entropy=chunked,
            max_steps=steps,
            logging_steps=1,
            save_strategy="no",
            save_only_model=True,
            report_to=["none"],
            use_cpu=True,
        )
    entries = [entry for entry in result.log if "loss" in entry]
    speed = statistics.median(entry["tokens_per_second"] for entry in entries[1:])
    return {"planned": result.planned, "measured": result.measured, "speed": speed, "loss": entries[-1]["loss"]}


def main() -> None:
    """Measure each cell and print its line: medians over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, length, way = arguments.one
        print(json.dumps(measure(kind, length, way == "chunked", arguments.steps)))
        return
    print("| trains | answers | logits | planned, MiB | measured, MiB | tokens/s | last loss |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for kind in ("lora", "full"):
        for length in LENGTHS:
            found: dict[str, list[dict[str, Any]]] = {"plain": [], "chunked": []}
            for _ in range(arguments.rounds):
                for way in found:
                    command = [sys.executable, __file__, "--one", kind, length, way, "--steps", str(arguments.steps)]
                    done = subprocess.run(command, capture_output=True, text=True)
                    if done.returncode:
                        sys.exit(done.stderr[-2000:])
                    found[way].append(json.loads(done.stdout.splitlines()[-1]))
            for way, runs in found.items():
                planned, measured, speed = (
                    statistics.median(r[n] for r in runs) for n in ("planned", "measured", "speed")
                )
                cells = [kind, length, way, f"{planned / MIB:.0f}", f"{measured / MIB:.0f}", f"{speed:.0f}"]
                print(f"| {' | '.join([*cells, format(runs[0]['loss'], '.6f')])} |", flush=True)


if __name__ == "__main__":
    main()
