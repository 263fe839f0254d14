"""Time and memory of a command line that only answers: help pages and the version.

Runs each command several times, takes turns between ours and the peer's (see train.py for its environment), and
prints medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from processes import ROOT, Finished, environment_of, find_peer, load_note, measure, table

COMMANDS = (("--version",), ("--help",), ("sft", "--help"), ("infer", "--help"), ("sft", "--modle", "demo"))
"""What is asked; the last one is a mistake that should be told at once."""


def sides(peer: str | None) -> dict[str, tuple[list[str], dict[str, str], Path]]:
    """Name -> command, environment and folder; the peer's folder must not hold a package `swift`."""
    found = {"swift": ([sys.executable, "-m", "swift"], environment_of(ours=True), ROOT)}
    if peer:
        found["peer"] = ([peer, "-m", "swift.cli.main"], environment_of(ours=False), Path("/"))
    return found


def main() -> None:
    """Run all commands and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer", metavar="PYTHON", help="interpreter of an environment with ms-swift 4.6")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args()
    peer = find_peer(options.peer)
    if not peer:
        print("ms-swift is not installed beside us and is left out: see train.py --help", file=sys.stderr)

    load = load_note()
    results = []
    for words in COMMANDS:
        runs: dict[str, list[Finished]] = {}
        # One run more, first and not counted: it fills the disk cache and writes the byte code.
        for repeat in range(options.repeats + 1):
            for name, (command, environment, folder) in sides(peer).items():
                finished = measure([*command, *words], environment, folder)
                if repeat:
                    runs.setdefault(name, []).append(finished)
        for name, finished in runs.items():
            results.append(
                {
                    "command": f"swift {' '.join(words)}",
                    "side": name,
                    "seconds": statistics.median(run.seconds for run in finished),
                    "peak_bytes": statistics.median(run.peak for run in finished),
                    "status": finished[-1].status,
                    "lines": len(finished[-1].output.splitlines()),
                }
            )
    if options.format == "json":
        print(json.dumps({"load": load, "results": results}))
        return
    print(f"{load}; medians of {options.repeats}\n")
    head = ["command", "side", "seconds", "peak memory", "exit status", "lines printed"]
    print(
        table(
            head,
            [
                [
                    result["command"],
                    result["side"],
                    f"{result['seconds']:.2f}",
                    f"{result['peak_bytes'] / 2**20:,.0f} MiB",
                    str(result["status"]),
                    str(result["lines"]),
                ]
                for result in results
            ],
        )
    )


if __name__ == "__main__":
    main()
