"""The speed of the way from rows to packed batches, beside TRL, ms-swift and a bare tokenizer (`make bench-data`).

Writes conversations of two to four turns with words of the tokenizer's vocabulary, whose frequencies fall as those of
real words do, and some new ones made of two, and has every side read, render, mask, tokenise and pack them, with one
process and with two. `tokenizer` is the limit: `encode_batch` of the rendered texts and nothing else. Sides take turns,
round after round; a ratio is the median of the ratios within the rounds, of rows by processor second, which other work
on the machine moves less. The peers may take fewer rows (`--peer_rows`): they are the slow ones.

ms-swift lives in an environment of its own (`--peer PYTHON`, PEER_PYTHON or .venv-peer), TRL in any with `trl`
(`--trl PYTHON`, this one by default); what is not there is left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processes import environment_of, find_peer, has, load_note, measure, table

HERE = Path(__file__).resolve().parent


def vocabulary(tokenizer: Path) -> list[str]:
    """Words that the tokenizer's own vocabulary holds, the most frequent ones first."""
    tokens = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    found = [token[1:].lower() for token in sorted(tokens, key=tokens.__getitem__) if token[0] == "\u0120"]
    return [word for word in dict.fromkeys(found) if word.isascii() and word.isalpha()]


def conversations(count: int, known: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of two to four turns, with numbers, line breaks, and one word in 25 made of two."""
    chance = random.Random(0)
    weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(known))))

    def sentence(least: int, most: int) -> str:
        drawn = chance.choices(known, cum_weights=weights, k=chance.randint(least, most))
        pairs = iter(chance.choices(known, cum_weights=weights, k=len(drawn)))
        drawn = [word + next(pairs) if chance.random() < 0.04 else word for word in drawn]
        if chance.random() < 0.2:
            drawn.append(str(chance.randint(1, 2030)))
        return " ".join(drawn).capitalize()

    for _ in range(count):
        messages = [{"role": "system", "content": "You are a helpful assistant."}]
        for _ in range(chance.randint(2, 4)):
            answer = [sentence(6, 16) + "." for _ in range(chance.randint(1, 6))]
            joint = chance.choice([" ", " ", "\n", "\n\n"])
            messages.append({"role": "user", "content": sentence(6, 30) + "?"})
            messages.append({"role": "assistant", "content": joint.join(answer)})
        yield {"messages": messages}


def write(count: int, file: Path, known: list[str]) -> Path:
    """A file of conversations."""
    with file.open("w", encoding="utf-8") as out:
        for row in conversations(count, known):
            out.write(json.dumps(row) + "\n")
    return file


def run(side: str, python: str, file: Path, options: argparse.Namespace, processes: int) -> dict[str, Any]:
    """One side's figures: rows a second, peak memory of its largest process, tokens and packs."""
    environment = environment_of(ours=side != "ms-swift", threads=processes)
    if side == "tokenizer" and processes > 1:
        environment |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(processes)}
    with tempfile.TemporaryDirectory() as folder:
        environment |= {"MODELSCOPE_CACHE": folder, "HF_DATASETS_CACHE": folder, "SWIFT_CACHE": folder}
        command = [python, str(HERE / "data_sides.py"), side, str(file), "--model", options.folder]
        command += ["--num_proc", str(processes), "--folder", folder]
        finished = measure(command, environment, Path(folder))
    if finished.status:
        sys.exit(f"{side} fails:\n{finished.output[-3000:]}")
    found = json.loads(finished.output.strip().splitlines()[-1])
    return {
        "side": side,
        "processes": processes,
        "rows": found["rows"],
        "rows_per_second": found["rows"] / found["seconds"],
        "rows_per_cpu_second": found["rows"] / found["cpu_seconds"],
        "tokens_per_row": found["tokens"] / found["rows"],
        "peak_mib": finished.peak / 2**20,
        "packs": found["packs"],
    }


def compare(results: list[dict[str, Any]], sides: list[str], processes: list[int]) -> str:
    """The table: medians over rounds, and ratios to the bare tokenizer and to ms-swift within rounds."""

    def rounds(side: str, count: int) -> list[dict[str, Any]]:
        return [each for each in results if each["side"] == side and each["processes"] == count]

    def ratio(side: str, other: str, count: int) -> str:
        pairs = zip(rounds(side, count), rounds(other, count), strict=False)
        found = [one["rows_per_cpu_second"] / two["rows_per_cpu_second"] for one, two in pairs]
        return f"{statistics.median(found):.2f}" if found else "–"

    lines = []
    for count in processes:
        for side in sides:
            of = rounds(side, count)
            if not of:
                continue
            wall, cpu = (
                statistics.median(each[f"rows_per_{unit}"] for each in of) for unit in ("second", "cpu_second")
            )
            cells = [f"{wall:,.0f}", f"{cpu:,.0f}", ratio(side, "tokenizer", count), ratio(side, "ms-swift", count)]
            lines.append([side, str(count), f"{of[0]['rows']:,}", *cells, f"{of[0]['tokens_per_row']:.1f}"])
    head = ["side", "processes", "rows", "rows/s", "rows/CPU s", "of the tokenizer", "of ms-swift", "tokens/row"]
    return table(head, lines)


def main() -> None:
    """Write the rows, run the sides, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--peer_rows", type=int, default=10_000, help="rows of TRL and ms-swift")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--peer", help="the interpreter of ms-swift's environment")
    parser.add_argument("--trl", default=sys.executable, help="an interpreter with TRL")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args()

    sys.path.insert(0, str(HERE.parent))
    from swift.hub import resolve

    options.folder = str(resolve(options.model).path)
    pythons = {"swift": sys.executable, "tokenizer": sys.executable}
    if has(options.trl, "trl"):
        pythons["trl"] = options.trl
    if found := find_peer(options.peer):
        pythons["ms-swift"] = found
    before = load_note()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        known = vocabulary(Path(options.folder, "tokenizer.json"))
        files = [write(count, Path(folder, f"{count}.jsonl"), known) for count in (options.rows, options.peer_rows)]
        for _, count, (side, python) in itertools.product(range(options.rounds), options.processes, pythons.items()):
            results.append(run(side, python, files[side in ("trl", "ms-swift")], options, count))
            if options.format == "json":
                print(json.dumps(results[-1]), flush=True)
    if options.format == "text":
        print(compare(results, list(pythons), options.processes))
        print(f"\nBefore: {before}. After: {load_note()}.")


if __name__ == "__main__":
    main()
