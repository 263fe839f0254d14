"""Runs a command and measures it from outside: seconds, peak memory, exit status."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / ".venv-peer" / "bin" / "python"
TICK = 0.1
"""Seconds between looks at a process that is watched."""


@dataclass(frozen=True)
class Finished:
    """A command that ended.

    Attributes:
        status: exit status, negative for a signal.
        seconds: wall-clock time from start to end.
        peak: largest resident memory, in bytes, of the process or of one that it waited for.
        output: stdout and stderr together.
    """

    status: int
    seconds: float
    peak: int
    output: str


def measure(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    watch: Callable[[int], None] | None = None,
) -> Finished:
    """Run `command` in `folder` and wait for its end; `watch` is called with its session's number now and then.

    Linux counts the parent's memory at the fork into the child's peak, so the caller should import nothing heavy.
    """
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        ended, status, usage = os.wait4(process.pid, os.WNOHANG if watch else 0)
        while not ended:
            assert watch is not None
            watch(process.pid)
            time.sleep(TICK)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return Finished(process.returncode, seconds, usage.ru_maxrss * unit, text)


def cpu_seconds(session: int) -> float | None:
    """Processor time that the processes of a session have used so far; None where the system has no /proc."""
    if not Path("/proc/self/stat").is_file():
        return None
    ticks = 0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in parentheses may hold spaces; fields 6, 14 and 15 of proc(5) are session, utime and stime.
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def environment_of(*, ours: bool, threads: int | None = None) -> dict[str, str]:
    """The environment of a child: offline, and with this tree on the path of our side only."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    if ours:
        environment["PYTHONPATH"] = str(ROOT)
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return environment


def find_peer(asked: str | None) -> str | None:
    """The interpreter of the peer's environment: `--peer`, PEER_PYTHON, or `.venv-peer`; None where there is none."""
    named = asked or os.environ.get("PEER_PYTHON")
    if named:
        return named
    return str(PEER) if PEER.is_file() else None


def has(python: str, module: str) -> bool:
    """Whether an interpreter is there and finds a module."""
    program = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        return not subprocess.run([python, "-c", program], capture_output=True, check=False, cwd="/").returncode
    except OSError:
        return False


def load_note() -> str:
    """Processors and load, since both decide what a time is worth."""
    one, five, _ = os.getloadavg()
    return f"{processors()} processors, load {one:.1f} now and {five:.1f} over five minutes"


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns, as Markdown reads them."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])
