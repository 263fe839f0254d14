"""The speed and memory of fine-tuning: `swift sft`, a plain PyTorch loop, and others where they are installed.

`make bench` and `make bench-train` run it. All sides train the demo model (SmolLM2-135M-Instruct) with LoRA of rank 8
and alpha 32 on all linear layers and dropout 0.05, or with `--train_type full` all weights: AdamW, gradient
accumulation 1, without gradient checkpointing, in the dtype that `swift sft` chooses for this machine, on the same
samples in the same order. With `--settings defaults` every side is told the model, the rows and the number of steps
alone. Every side is a process of its own; the sides take turns, round after round, and a ratio is the median over
rounds of the ratio within a round, so that other work on the machine weighs on all of them alike.

Tokens a second are tokens (padding not counted) of the steps after the warm-up by the time between the last warm-up
step and the last step, as seen from outside in the log. Tokens by processor second are the same tokens by the processor
time that the side used meanwhile: on a machine with other work it is the steadier figure. The first step is counted
from the start of the process; `imports` is the part of it that importing takes, measured by itself. Memory is the
largest resident memory of the process; on a GPU what PyTorch's allocator gave out at most. The loss of the first step,
where LoRA does nothing yet, shows whether the sides train on the same tokens; ms-swift and LLaMA-Factory also train the
line break after the answer, hence a small difference.

The others live in environments of their own and are left out where there are none:

    python3.11 -m venv .venv-peer && .venv-peer/bin/pip install ms-swift==4.6.0
    python3.11 -m venv .venv-llamafactory && .venv-llamafactory/bin/pip install llamafactory==0.9.5

Others are named by `--peer PYTHON` or PEER_PYTHON, and by `--llamafactory PYTHON`; TRL is looked for in this
environment, or by `--trl PYTHON`.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import train_sides
from processes import ROOT, cpu_seconds, environment_of, find_peer, has, load_note, measure, processors, table
from train_sides import Side, Work

HERE = Path(__file__).resolve().parent
LLAMAFACTORY = ROOT / ".venv-llamafactory" / "bin" / "python"


@dataclass(frozen=True)
class Result:
    """One run of one side.

    Attributes:
        tokens_per_second: of the timed steps.
        tokens_per_cpu_second: the same by processor time; None where the system does not tell.
        first_step: seconds from the start to the end of the first step.
        peak: bytes.
        first_loss: of the first step.
        last_loss: of the last.
    """

    side: str
    tokens_per_second: float
    tokens_per_cpu_second: float | None
    first_step: float
    peak: int
    first_loss: float
    last_loss: float


@dataclass
class Watch:
    """Notes, from outside, wall time and processor time at the moments when the log has so many steps."""

    folder: Path
    log_name: str
    started: float = field(default_factory=time.perf_counter)
    marks: dict[int, tuple[float, float | None]] = field(default_factory=dict)
    size: int = 0

    def __call__(self, session: int) -> None:
        """Look whether the log has grown."""
        log = newest(self.folder, self.log_name)
        size = log.stat().st_size if log.is_file() else 0
        if size != self.size:
            self.size = size
            mark = time.perf_counter() - self.started, cpu_seconds(session)
            self.marks.setdefault(len(losses_of(log)), mark)

    def at(self, step: int) -> tuple[float, float | None]:
        """Seconds at the end of a step; of the next one seen where two ended between two looks."""
        return self.marks[min(known for known in self.marks if known >= step)]


def newest(folder: Path, name: str) -> Path:
    """The one log below a folder."""
    return next(iter(sorted(folder.rglob(name))), folder / name)


def losses_of(log: Path) -> list[float]:
    """The loss of each step so far; a last line may be half written, and may repeat the whole log."""
    found = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        if '"loss"' in line and line.endswith("}") and "log_history" not in line:
            found.append(float(json.loads(line)["loss"]))
    return found


def once(name: str, side: Side, work: Work, threads: int) -> Result:
    """One run of one side."""
    with tempfile.TemporaryDirectory(prefix="swift-bench-") as name_of_folder:
        folder = Path(name_of_folder)
        command, environment = side.command(work, folder), environment_of(ours=side.ours, threads=threads)
        watch = Watch(folder, side.log_name)
        finished = measure(command, environment, folder, watch)
        watch(0)
        losses = losses_of(newest(folder, side.log_name))
    if len(losses) < work.all_steps:
        raise SystemExit(f"{name} ended with status {finished.status}:\n{finished.output[-3000:]}")
    (begun, cpu_begun), (ended, cpu_ended) = watch.at(work.warmup), watch.at(work.all_steps)
    tokens = work.timed_tokens(side.usual or 1)
    by_cpu = tokens / (cpu_ended - cpu_begun) if cpu_begun and cpu_ended else None
    peak = (gpu_peak(finished.output) if work.gpu else None) or finished.peak
    return Result(name, tokens / (ended - begun), by_cpu, watch.at(1)[0], peak, losses[0], losses[work.all_steps - 1])


def gpu_peak(output: str) -> int | None:
    """Bytes that PyTorch's allocator gave out at most, where a run on a GPU says so."""
    ours = re.search(r"Memory at the peak: ([\d.,]+) (MiB|GiB) measured", output)
    theirs = re.findall(r"'memory\(GiB\)': '?([\d.]+)", output)
    if ours:
        return round(float(ours[1].replace(",", "")) * (2**30 if ours[2] == "GiB" else 2**20))
    return round(max(map(float, theirs)) * 2**30) if theirs else None


def prepare(folder: Path, options: argparse.Namespace) -> Work:
    """Rows and samples, written by a process of its own so that this one stays small."""
    batch = options.batch or (2 if options.lengths == "full" else 8)
    count = (options.warmup + options.steps) * (batch if options.settings == "matched" else 16)
    command = [sys.executable, str(HERE / "rows.py"), str(folder), "--rows", str(count)]
    command += ["--length", str(options.length), "--lengths", options.lengths, "--model", options.model]
    finished = measure(command, environment_of(ours=True), ROOT)
    if finished.status:
        raise SystemExit(f"the rows cannot be written:\n{finished.output}")
    given = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    numbers = {name: given[name] for name in ("model", "dtype", "gpu", "lengths", "trained")}
    numbers |= {"batch": batch if options.settings == "matched" else None, "kind": options.train_type}
    return Work(folder=folder, warmup=options.warmup, steps=options.steps, **numbers)


def seconds_of_imports(side: Side) -> float:
    """What a process takes that only imports; the second of two, with the files in the system's memory."""
    command = [side.python, "-c", side.imports]
    # In a folder without this tree's packages, of which one has ms-swift's name.
    runs = [measure(command, environment_of(ours=side.ours), Path(tempfile.gettempdir())) for _ in range(2)]
    if runs[1].status:
        raise SystemExit(f"{side.python} cannot import what the benchmark needs:\n{runs[1].output[-1000:]}")
    return runs[1].seconds


def summary(results: list[Result], baseline: str) -> dict[str, dict[str, Any]]:
    """Medians of each side, and its speed against the baseline's within the same round."""
    of_side: dict[str, list[Result]] = {}
    for result in results:
        of_side.setdefault(result.side, []).append(result)
    base = of_side[baseline]

    def ratio(runs: list[Result], figure: str) -> float | None:
        pairs = [(getattr(run, figure), getattr(other, figure)) for run, other in zip(runs, base, strict=True)]
        return middle(one / other for one, other in pairs if one and other)

    return {
        side: {
            "tokens_per_second": middle(run.tokens_per_second for run in runs),
            "slowest": min(run.tokens_per_second for run in runs),
            "fastest": max(run.tokens_per_second for run in runs),
            f"ratio_to_{baseline}": ratio(runs, "tokens_per_second"),
            "tokens_per_cpu_second": middle(run.tokens_per_cpu_second for run in runs if run.tokens_per_cpu_second),
            f"cpu_ratio_to_{baseline}": ratio(runs, "tokens_per_cpu_second"),
            "first_step_seconds": middle(run.first_step for run in runs),
            "peak_bytes": middle(run.peak for run in runs),
            "first_loss": runs[0].first_loss,
            "last_loss": runs[0].last_loss,
        }
        for side, runs in of_side.items()
    }


def middle(values: Iterable[float]) -> float | None:
    """The median; None of nothing."""
    known = list(values)
    return statistics.median(known) if known else None


def show(sides: dict[str, dict[str, Any]], baseline: str) -> str:
    """The table of `summary`."""
    head = ["side", "tokens/s", "slowest to fastest", f"of {baseline}", "tokens/CPU s", f"of {baseline}"]
    head += ["first step", "imports", "peak memory", "first and last loss"]

    def text(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    rows = [
        [
            side,
            text(figures["tokens_per_second"], ".0f"),
            f"{figures['slowest']:.0f} to {figures['fastest']:.0f}",
            text(figures[f"ratio_to_{baseline}"], ".2f"),
            text(figures["tokens_per_cpu_second"], ".0f"),
            text(figures[f"cpu_ratio_to_{baseline}"], ".2f"),
            f"{figures['first_step_seconds']:.0f} s",
            f"{figures['import_seconds']:.0f} s",
            f"{figures['peak_bytes'] / 2**20:,.0f} MiB",
            f"{figures['first_loss']:.4f}, {figures['last_loss']:.4f}",
        ]
        for side, figures in sides.items()
    ]
    return table(head, rows)


def describe(work: Work, threads: int) -> str:
    """The work in one sentence."""
    share = sum(work.trained) / sum(work.lengths)
    low, high = min(work.lengths), max(work.lengths)
    length = f"{low}" if low == high else f"{low} to {high}"
    return (
        f"{work.kind}, {work.steps} timed steps after {work.warmup}, "
        f"{f'batch {work.batch}' if work.batch else 'the defaults of each'}, {length} tokens a sample "
        f"({share:.0%} of them trained), {work.dtype}, {threads} threads; {platform.system()} {platform.machine()}"
    )


def find_sides(options: argparse.Namespace) -> dict[str, Side]:
    """The sides that can run here; those that cannot are told on stderr."""
    sides = {"swift": train_sides.swift()}
    if options.settings == "matched":
        sides["bare"] = train_sides.bare()
    others = {
        "ms-swift": (find_peer(options.peer), "swift", train_sides.peer),
        "trl": (options.trl, "trl", train_sides.trl),
        "llamafactory": (options.llamafactory, "llamafactory", train_sides.llamafactory),
    }
    for name, (python, module, make) in others.items():
        if options.only and name not in options.only:
            continue
        if python and has(python, module):
            sides[name] = make(python)
        else:
            print(f"{name} is not installed and is left out: see --help", file=sys.stderr)
    sides = {name: side for name, side in sides.items() if not options.only or name in options.only}
    if not sides:
        raise SystemExit("--only leaves no side")
    return sides


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of every side (default 3)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default 20)")
    parser.add_argument("--warmup", type=int, default=5, help="steps before them (default 5)")
    parser.add_argument("--model", default="demo", help="name or folder of the model (default demo)")
    parser.add_argument("--train_type", choices=("lora", "full"), default="lora")
    parser.add_argument(
        "--settings", choices=("matched", "defaults"), default="matched", help="the same, or each its own"
    )
    parser.add_argument(
        "--lengths", choices=("full", "chat", "mixed"), default="full", help="equal ones, those of chats, or short rows"
    )
    parser.add_argument("--length", type=int, default=512, help="tokens of a sample, with full (default 512)")
    parser.add_argument("--batch", type=int, help="samples in a step (default 2; 8 with other --lengths than full)")
    parser.add_argument("--threads", type=int, default=processors(), help="threads of every side (default: all)")
    parser.add_argument("--peer", metavar="PYTHON", help="interpreter of an environment with ms-swift 4.6")
    parser.add_argument("--trl", metavar="PYTHON", default=sys.executable, help="one with TRL (default: this one)")
    parser.add_argument(
        "--llamafactory", metavar="PYTHON", default=str(LLAMAFACTORY), help="one with it (default .venv-llamafactory)"
    )
    names = ("swift", "bare", "ms-swift", "trl", "llamafactory")
    parser.add_argument("--only", nargs="+", choices=names, help="run these sides only")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args(words)
    if options.warmup < 1 or options.steps < 1 or options.rounds < 1:
        parser.error("--rounds, --steps and --warmup must be 1 or more")
    return options


def main() -> None:
    """Run the rounds and print the figures."""
    options = parse()
    sides = find_sides(options)
    loads = [load_note()]
    with tempfile.TemporaryDirectory(prefix="swift-bench-") as folder:
        work = prepare(Path(folder), options)
        print(describe(work, options.threads), file=sys.stderr)
        imports = {name: seconds_of_imports(side) for name, side in sides.items()}
        results: list[Result] = []
        for number in range(options.rounds):
            for name, side in sides.items():
                result = once(name, side, work, options.threads)
                results.append(result)
                note = f"round {number + 1}: {name} {result.tokens_per_second:.0f} tokens/s"
                print(note, file=sys.stderr, flush=True)
            loads.append(load_note())
    baseline = "bare" if "bare" in sides else next(iter(sides))
    figures = summary(results, baseline)
    for name, seconds in imports.items():
        figures[name]["import_seconds"] = seconds
    if options.format == "json":
        runs = [asdict(result) for result in results]
        print(json.dumps({"work": describe(work, options.threads), "load": loads, "sides": figures, "runs": runs}))
        return
    print("\n".join([describe(work, options.threads), f"{loads[0]}; at the end {loads[-1]}", ""]))
    print(show(figures, baseline))


if __name__ == "__main__":
    main()
