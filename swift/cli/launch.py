"""Starts the same command under torchrun when the environment asks for several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
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

FOLDER = "SWIFT_LAUNCH_FOLDER"
"""Names the folder in which the processes tell the launcher their numbers and their errors."""


def processes_wanted() -> bool:
    """Whether the environment asks for several processes and this is not one of them already."""
    if "RANK" in os.environ or "LOCAL_RANK" in os.environ:
        return False
    return os.environ.get("NPROC_PER_NODE", "1") != "1" or os.environ.get("NNODES", "1") != "1"


def launch(words: Sequence[str]) -> int:
    """Run `swift WORDS` under torchrun and return its exit status.

    Interrupts go to the workers themselves: torchrun would kill them after 30 seconds, in the middle of a save.

    Raises:
        SwiftError: an environment variable does not fit, or a worker met a user's mistake.
    """
    command = [sys.executable, "-m", "torch.distributed.run", *_options(), "-m", "swift", *words]
    with tempfile.TemporaryDirectory(prefix="swift-launch-") as folder:
        child = subprocess.Popen(command, start_new_session=True, env={**os.environ, FOLDER: folder})
        received: list[int] = []

        def forward(number: int, _frame: FrameType | None) -> None:
            received.append(number)
            workers = [int(file.name[4:]) for file in Path(folder).glob("pid-*")]
            for pid in workers or [child.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, forward)
        status = child.wait()
        errors = {file.read_text(encoding="utf-8") for file in sorted(Path(folder).glob("error-*"))}
    if errors:
        raise SwiftError("\n".join(sorted(errors)))
    return 128 + received[0] if received else status


def _options() -> list[str]:
    options = []
    for variable, flag in TORCHRUN.items():
        value = os.environ.get(variable)
        if value is None:
            continue
        if variable != "MASTER_ADDR" and not value.isdigit():
            raise SwiftError(
                f"{variable}={value} in the environment is not a whole number",
                fix=f"export {variable}=2, or unset it",
            )
        options.append(f"{flag}={value}")
    if os.environ.keys().isdisjoint({"MASTER_PORT", "MASTER_ADDR"}) and os.environ.get("NNODES", "1") == "1":
        options.append("--standalone")
    return options


def report_pid() -> None:
    """Tell the launcher, if there is one, which process to interrupt."""
    if folder := os.environ.get(FOLDER):
        (Path(folder) / f"pid-{os.getpid()}").touch()


def report_error(error: SwiftError) -> bool:
    """Leave a user's mistake to the launcher to print once; False where there is no launcher."""
    folder = os.environ.get(FOLDER)
    if folder:
        (Path(folder) / f"error-{os.environ.get('RANK', '0')}").write_text(str(error), encoding="utf-8")
    return bool(folder)


def worker_status(status: int) -> int:
    """The status a worker ends with: torchrun takes what the launcher reports by itself for success.

    Once the processes are joined, a mistake of one has to end the others, so it stays a failure.
    """
    if FOLDER not in os.environ:
        return status
    if status in (130, 143):
        return 0
    torch = sys.modules.get("torch")
    joined = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
    return status if joined or status != 2 else 0
