"""Anonymous memory of the way from rows to packed batches, by the number of rows.

Each run is a process of its own: it reads a file of short conversations, tokenises it into files, packs the samples
and lays out the first epoch's batches, while a thread notes `RssAnon` of /proc/self/status. Memory-mapped files are
not anonymous: the system can drop their pages at any time. The first run, of a few rows, is what the libraries take.

    python benchmarks/memory_data.py --rows 1000 500000 2000000
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

from processes import environment_of, measure, table

WORDS = (
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "was",
    "on",
    "are",
    "as",
    "with",
    "they",
    "be",
    "at",
)


def write(count: int, file: Path, words: int) -> Path:
    """A file of one-turn conversations of so many words on each side."""
    chance = random.Random(0)
    with file.open("w", encoding="utf-8") as out:
        for _ in range(count):
            texts = [" ".join(chance.choices(WORDS, k=words)) for _ in range(2)]
            turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)]
            out.write(json.dumps({"messages": turns}) + "\n")
    return file


class Peak(threading.Thread):
    """The largest `RssAnon` of this process and of those it forked, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0

    def run(self) -> None:
        """Look ten times a second."""
        while True:
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            found = re.search(r"RssAnon:\s+(\d+) kB", status)
            self.bytes = max(self.bytes, int(found[1]) * 1024 if found else 0)
            time.sleep(0.1)


def side(file: Path) -> None:
    """One run: prints one JSON object."""
    from swift.config import DataConfig
    from swift.data import StepPlan, encode_rows, load_rows, plan_packs
    from swift.hub import resolve
    from swift.models.load import load_tokenizer
    from swift.templates import load_template

    peak = Peak()
    peak.start()
    template = load_template(load_tokenizer(resolve("demo").path))
    rows = load_rows([str(file)], DataConfig(), seed=0, shuffle=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        samples = encode_rows(rows, template, max_length=4096, truncation_strategy="delete", folder=Path(folder))
        packs = plan_packs(samples.lengths, 4096, "binpack")
        plan = StepPlan(len(packs), batch_size=1, accumulation=16, world_size=1, seed=0, shuffle=True)
        steps = len(plan.epoch(0))
        time.sleep(0.2)
    print("\n" + json.dumps({"rows": len(samples), "steps": steps, "peak": peak.bytes}))


def main() -> None:
    """Run every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 500_000, 2_000_000])
    parser.add_argument("--words", type=int, default=4, help="words of a question and of an answer")
    parser.add_argument("--side", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side(options.side)
        return
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for count in options.rows:
            file = write(count, Path(folder, "rows.jsonl"), options.words)
            environment = environment_of(ours=True, threads=1) | {"SWIFT_DATASET_CACHE": folder}
            command = [sys.executable, os.path.abspath(__file__), "--side", str(file)]
            finished = measure(command, environment, Path(folder))
            if finished.status:
                sys.exit(finished.output[-3000:])
            found = json.loads(finished.output.strip().splitlines()[-1])
            size = f"{file.stat().st_size / 2**20:,.0f} MiB"
            lines.append([f"{count:,}", size, f"{found['peak'] / 2**20:,.0f} MiB", f"{finished.seconds:,.0f}"])
    print(table(["rows", "file", "largest RssAnon", "seconds"], lines))


if __name__ == "__main__":
    main()
