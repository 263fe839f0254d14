"""Processes that end when this one ends, however that is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

SCRIPT = """
import sys
import psutil

found = []
for pid in sys.argv[1:]:
    try:
        found.append(psutil.Process(int(pid)))
    except psutil.NoSuchProcess:
        pass
sys.stdin.read()
for signal in ("terminate", "kill"):
    for process in found:
        try:
            getattr(process, signal)()
        except psutil.NoSuchProcess:
            pass
    _, found = psutil.wait_procs(found, 5)
"""
"""Waits until nobody holds the other end of its input; psutil knows a process from a later one of the same number."""


def end_with_us(pids: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a process that ends these when this one is gone, killed or not."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, pids)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def descendants() -> set[int]:
    """The processes that this one has started, and theirs."""
    import psutil

    return {process.pid for process in psutil.Process().children(recursive=True)}
