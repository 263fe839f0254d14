"""The speed and memory of LoRA training: `swift sft`, a plain PyTorch loop, and ms-swift 4.6 (`make bench`).

All sides train the demo model (SmolLM2-135M-Instruct) with LoRA of rank 8 and alpha 32 on all linear layers, dropout
0.05, AdamW, gradient accumulation 1, without gradient checkpointing, in the dtype that `swift sft` chooses for this
machine, on the same samples in the same order. Every side is a process of its own; the sides take turns, round after
round, and a ratio is the median over rounds of the ratio within a round, so that other work on the machine weighs on
all of them alike.

Tokens a second are tokens (padding not counted) of the steps after the warm-up by the time between the log lines of
the last warm-up step and of the last step. Tokens by processor second are the same tokens by the processor time that
the side used meanwhile, seen from outside: on a machine with other work it is the steadier figure. Memory is the
largest resident memory of the process; on a GPU what PyTorch's allocator gave out at most. The loss of the first step,
where LoRA does nothing yet, shows whether the sides train on the same tokens; the peer also trains the line break after
the answer, hence its small difference.

The peer lives in an environment of its own and is left out where there is none:

    python3.11 -m venv .venv-peer
    .venv-peer/bin/pip install ms-swift==4.6.0

Another one is named by `--peer PYTHON` or PEER_PYTHON. It is told the model's type and template, which it does not
find out for a local folder.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from processes import ROOT, cpu_seconds, environment_of, find_peer, load_note, measure, processors, table

HERE = Path(__file__).resolve().parent
LORA = "--lora_rank 8 --lora_alpha 32 --lora_dropout 0.05 --target_modules all-linear"
COMMON = (
    f"{LORA} --gradient_accumulation_steps 1 --gradient_checkpointing false --learning_rate 1e-4 --logging_steps 1 "
    "--save_strategy no --report_to none --seed 42 --dataset_shuffle false --train_dataloader_shuffle false "
    "--dataloader_num_workers 0"
).split()
"""Flags that both command lines take."""


@dataclass(frozen=True)
class Work:
    """What every side is given.

    Attributes:
        folder: holds rows.jsonl and samples.json.
        model: the model's folder.
        dtype: of its weights.
        gpu: whether a GPU trains.
        lengths: tokens of each sample, in order.
        trained: trained tokens of each sample.
        batch: samples in a step.
        warmup: steps that are not timed.
        steps: steps that are.
    """

    folder: Path
    model: str
    dtype: str
    gpu: bool
    lengths: list[int]
    trained: list[int]
    batch: int
    warmup: int
    steps: int

    @property
    def all_steps(self) -> int:
        return self.warmup + self.steps

    @property
    def timed_tokens(self) -> int:
        return sum(self.lengths[self.warmup * self.batch : self.all_steps * self.batch])


@dataclass(frozen=True)
class Result:
    """One run of one side: tokens a second and by processor second, peak memory in bytes, first and last loss."""

    side: str
    tokens_per_second: float
    tokens_per_cpu_second: float | None
    peak: int
    first_loss: float
    last_loss: float


Lines = list[dict[str, Any]]
Clock = Callable[[Lines, int], float]
"""From log lines and a step to the seconds at its end."""


@dataclass
class Watch:
    """Notes, from outside, the processor time at the moment the log has so many steps."""

    folder: Path
    log_name: str
    cpu: dict[int, float] = field(default_factory=dict)
    size: int = -1

    def __call__(self, session: int) -> None:
        """Look whether the log has grown."""
        log = newest(self.folder, self.log_name)
        size = log.stat().st_size if log.is_file() else 0
        used = cpu_seconds(session) if size not in (0, self.size) else None
        if used is not None:
            self.size = size
            # The peer's last line repeats its whole log.
            lines = log.read_text(encoding="utf-8").splitlines()
            self.cpu.setdefault(sum('"loss"' in line and "log_history" not in line for line in lines), used)

    def seconds(self, first: int, last: int) -> float | None:
        """Processor seconds between the ends of two steps."""
        return self.cpu[last] - self.cpu[first] if {first, last} <= self.cpu.keys() else None


@dataclass(frozen=True)
class Side:
    """How one side is run.

    Attributes:
        command: from the work and an empty folder to a command line.
        log_name: name of the log it writes below the folder.
        clock: reads that log.
        ours: whether it needs this tree.
    """

    command: Callable[[Work, Path], list[str]]
    log_name: str
    clock: Clock
    ours: bool


def swift_command(work: Work, folder: Path) -> list[str]:
    """`swift sft`, from this tree."""
    command = [sys.executable, "-m", "swift", "sft", "--model", work.model, "--train_type", "lora", *COMMON]
    return [*command, *shape_flags(work), "--output_dir", str(folder / "out")]


def bare_command(work: Work, folder: Path) -> list[str]:
    """The plain loop in bare.py."""
    command = [sys.executable, str(HERE / "bare.py"), str(work.folder / "samples.json"), str(folder / "log.jsonl")]
    return [*command, "--batch", str(work.batch), "--steps", str(work.all_steps)]


def peer_command(python: str) -> Callable[[Work, Path], list[str]]:
    """`swift sft` of ms-swift, from the environment of that interpreter."""

    def command(work: Work, folder: Path) -> list[str]:
        words = [python, "-m", "swift.cli.main", "sft", "--model", work.model, *COMMON, *shape_flags(work)]
        words += ["--tuner_type", "lora", "--model_type", "llama", "--template", "chatml"]
        words += ["--torch_dtype", work.dtype, "--use_cpu", str(not work.gpu).lower(), "--attn_impl", "sdpa"]
        return [*words, "--dataset_num_proc", "1", "--split_dataset_ratio", "0", "--output_dir", str(folder / "out")]

    return command


def shape_flags(work: Work) -> list[str]:
    """The size of a step and of the run; the limit leaves room for a template that adds a token."""
    return [
        *("--dataset", str(work.folder / "rows.jsonl"), "--max_length", str(max(work.lengths) + 64)),
        *("--per_device_train_batch_size", str(work.batch), "--max_steps", str(work.all_steps)),
    ]


def newest(folder: Path, name: str) -> Path:
    """The one log below a folder."""
    return next(iter(sorted(folder.rglob(name))), folder / name)


def clock(lines: Lines, step: int) -> float:
    """The time that a log line carries."""
    return next(float(line["time"]) for line in lines if line.get("step") == step and "loss" in line)


def peer_clock(lines: Lines, step: int) -> float:
    """Seconds since the start: the peer logs seconds per step, averaged from the start on."""
    for line in lines:
        found = re.match(r"(\d+)/", str(line.get("global_step/max_steps", "")))
        if found and int(found[1]) == step and "loss" in line:
            return float(line["train_speed(s/it)"]) * step
    raise StopIteration


def once(name: str, side: Side, work: Work, threads: int) -> Result:
    """One run of one side."""
    with tempfile.TemporaryDirectory(prefix="swift-bench-") as name_of_folder:
        folder = Path(name_of_folder)
        watch = Watch(folder, side.log_name)
        environment = environment_of(ours=side.ours, threads=threads)
        finished = measure(side.command(work, folder), environment, folder, watch)
        log = newest(folder, side.log_name)
        text = log.read_text(encoding="utf-8") if log.is_file() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    try:
        seconds = side.clock(lines, work.all_steps) - side.clock(lines, work.warmup)
    except StopIteration:
        raise SystemExit(f"{name} ended with status {finished.status}:\n{finished.output[-3000:]}") from None
    losses = [float(line["loss"]) for line in lines if "loss" in line]
    cpu = watch.seconds(work.warmup, work.all_steps)
    by_cpu = work.timed_tokens / cpu if cpu else None
    peak = (gpu_peak(finished.output) if work.gpu else None) or finished.peak
    return Result(name, work.timed_tokens / seconds, by_cpu, peak, losses[0], losses[-1])


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
    count = batch * (options.warmup + options.steps)
    command = [sys.executable, str(HERE / "rows.py"), str(folder), "--rows", str(count)]
    command += ["--length", str(options.length), "--lengths", options.lengths, "--model", options.model]
    finished = measure(command, environment_of(ours=True), ROOT)
    if finished.status:
        raise SystemExit(f"the rows cannot be written:\n{finished.output}")
    given = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    numbers = {name: given[name] for name in ("model", "dtype", "gpu", "lengths", "trained")}
    return Work(folder=folder, batch=batch, warmup=options.warmup, steps=options.steps, **numbers)


def summary(results: list[Result], baseline: str) -> dict[str, dict[str, Any]]:
    """Medians of each side, and its speed against the baseline's within the same round."""
    of_side: dict[str, list[Result]] = {}
    for result in results:
        of_side.setdefault(result.side, []).append(result)
    base = of_side[baseline]

    def ratio(runs: list[Result], figure: str) -> float | None:
        pairs = [(getattr(run, figure), getattr(other, figure)) for run, other in zip(runs, base, strict=True)]
        known = [one / other for one, other in pairs if one and other]
        return statistics.median(known) if known else None

    return {
        side: {
            "tokens_per_second": statistics.median(run.tokens_per_second for run in runs),
            "slowest": min(run.tokens_per_second for run in runs),
            "fastest": max(run.tokens_per_second for run in runs),
            f"ratio_to_{baseline}": ratio(runs, "tokens_per_second"),
            "tokens_per_cpu_second": statistics.median(run.tokens_per_cpu_second or 0 for run in runs) or None,
            f"cpu_ratio_to_{baseline}": ratio(runs, "tokens_per_cpu_second"),
            "peak_bytes": statistics.median(run.peak for run in runs),
            "first_loss": runs[0].first_loss,
            "last_loss": runs[0].last_loss,
        }
        for side, runs in of_side.items()
    }


def show(sides: dict[str, dict[str, Any]], baseline: str) -> str:
    """The table of `summary`."""
    head = ["side", "tokens/s", "slowest to fastest", f"of {baseline}", "tokens/CPU s", f"of {baseline}"]
    head += ["peak memory", "first and last loss"]
    rows = [
        [
            side,
            f"{figures['tokens_per_second']:.0f}",
            f"{figures['slowest']:.0f} to {figures['fastest']:.0f}",
            f"{figures[f'ratio_to_{baseline}']:.2f}",
            f"{figures['tokens_per_cpu_second']:.0f}" if figures["tokens_per_cpu_second"] else "",
            f"{figures[f'cpu_ratio_to_{baseline}']:.2f}" if figures[f"cpu_ratio_to_{baseline}"] else "",
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
        f"{work.steps} timed steps after {work.warmup}, batch {work.batch}, {length} tokens a sample "
        f"({share:.0%} of them trained), {work.dtype}, {threads} threads; {platform.system()} {platform.machine()}"
    )


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of every side (default 3)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default 20)")
    parser.add_argument("--warmup", type=int, default=5, help="steps before them (default 5)")
    parser.add_argument("--model", default="demo", help="name or folder of the model (default demo)")
    parser.add_argument("--lengths", choices=("full", "mixed"), default="full", help="equal ones, or real short rows")
    parser.add_argument("--length", type=int, default=512, help="tokens of a sample, with full (default 512)")
    parser.add_argument("--batch", type=int, help="samples in a step (default 2; 8 with --lengths mixed)")
    parser.add_argument("--threads", type=int, default=processors(), help="threads of every side (default: all)")
    parser.add_argument("--peer", metavar="PYTHON", help="interpreter of an environment with ms-swift 4.6")
    parser.add_argument("--only", nargs="+", choices=("swift", "bare", "peer"), help="run these sides only")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args(words)
    if options.warmup < 1 or options.steps < 1 or options.rounds < 1:
        parser.error("--rounds, --steps and --warmup must be 1 or more")
    return options


def main() -> None:
    """Run the rounds and print the figures."""
    options = parse()
    sides = {
        "swift": Side(swift_command, "logging.jsonl", clock, ours=True),
        "bare": Side(bare_command, "log.jsonl", clock, ours=False),
    }
    python = find_peer(options.peer)
    if python:
        sides["peer"] = Side(peer_command(python), "logging.jsonl", peer_clock, ours=False)
    else:
        print("ms-swift is not installed beside us and is left out: see --help", file=sys.stderr)
    if options.only:
        sides = {name: side for name, side in sides.items() if name in options.only}
    if not sides:
        raise SystemExit("--only leaves no side")

    loads = [load_note()]
    with tempfile.TemporaryDirectory(prefix="swift-bench-") as folder:
        work = prepare(Path(folder), options)
        print(describe(work, options.threads), file=sys.stderr)
        results: list[Result] = []
        for number in range(options.rounds):
            for name, side in sides.items():
                result = once(name, side, work, options.threads)
                results.append(result)
                print(
                    f"round {number + 1}: {name} {result.tokens_per_second:.0f} tokens/s", file=sys.stderr, flush=True
                )
            loads.append(load_note())
    baseline = "bare" if "bare" in sides else next(iter(sides))
    figures = summary(results, baseline)
    if options.format == "json":
        runs = [asdict(result) for result in results]
        print(json.dumps({"work": describe(work, options.threads), "load": loads, "sides": figures, "runs": runs}))
        return
    print("\n".join([describe(work, options.threads), f"{loads[0]}; at the end {loads[-1]}", ""]))
    print(show(figures, baseline))


if __name__ == "__main__":
    main()
