"""Starts the same command under torchrun when the environment asks for several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from swift.errors import SwiftError

TORCHRUN = {
    "NPROC_PER_NODE": "--nproc_per_node",
    "NNODES": "--nnodes",
    "NODE_RANK": "--node_rank",
    "MASTER_ADDR": "--master_addr",
    "MASTER_PORT": "--master_port",
}
"""Environment variable -> torchrun's option."""


def processes_wanted() -> bool:
    """Whether the environment asks for several processes and this is not one of them already."""
    if "RANK" in os.environ or "LOCAL_RANK" in os.environ:
        return False
    return os.environ.get("NPROC_PER_NODE", "1") != "1" or os.environ.get("NNODES", "1") != "1"


def launch(words: Sequence[str]) -> int:
    """Run `swift WORDS` under torchrun and return its exit status; interrupts go to every process once.

    Raises:
        SwiftError: an environment variable does not fit.
    """
    command = [sys.executable, "-m", "torch.distributed.run"]
    for variable, flag in TORCHRUN.items():
        value = os.environ.get(variable)
        if value is None:
            continue
        if variable in ("NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_PORT") and not value.isdigit():
            raise SwiftError(f"{variable}={value} in the environment is not a whole number")
        command.append(f"{flag}={value}")
    if "MASTER_PORT" not in os.environ and os.environ.get("NNODES", "1") == "1":
        command.append("--master_port=0")
    child = subprocess.Popen([*command, "-m", "swift", *words], start_new_session=True)
    received: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        child.send_signal(signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    status = child.wait()
    if received:
        return 128 + received[0]
    return 2 if status == 1 and _was_user_error() else status


def _was_user_error() -> bool:
    return False
