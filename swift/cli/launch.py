"""Starts the same command under torchrun when the environment asks for several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
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

POLL, GRACE = 0.2, 1.0
"""Seconds between looks at that folder, and those in which other processes may tell a mistake of their own."""

PATIENCE = 60.0
"""Seconds that a process with a mistake waits for the launcher to end it."""


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
    with tempfile.TemporaryDirectory(prefix="swift-launch-") as name:
        folder = Path(name)
        options = [*_options(), f"--log_dir={folder / 'logs'}"]
        command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "swift", *words]
        child = subprocess.Popen(command, start_new_session=True, env={**os.environ, FOLDER: name})
        received: list[int] = []

        def forward(number: int, _frame: FrameType | None) -> None:
            received.append(number)
            _send(signal.SIGTERM, _workers(folder) or [child.pid])

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, forward)
        while (status := _wait(child, POLL)) is None:
            if any(folder.glob("error-*")):
                _wait(child, GRACE)
                # torchrun first: it would tell at length that its workers have ended.
                _send(signal.SIGKILL, [child.pid, *_workers(folder)])
                child.wait()
        errors = {file.read_text(encoding="utf-8") for file in folder.glob("error-*")}
    if errors:
        first, *more = (SwiftError(**json.loads(error)) for error in sorted(errors))
        raise SwiftError("\n".join(map(str, [*more, first.what])), where=first.where, fix=first.fix)
    return 128 + received[0] if received else status


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The status of a process that ends within this time."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _workers(folder: Path) -> list[int]:
    return [int(file.name[4:]) for file in folder.glob("pid-*")]


def _send(number: int, processes: list[int]) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


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
    """Leave a user's mistake to the launcher, which prints it once and ends all processes.

    A process that ended by itself would have the others print that they lost it, and torchrun that it failed.

    Returns:
        False where there is no launcher.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        return False
    file = Path(folder) / f"error-{os.environ.get('RANK', '0')}"
    # Renamed into its place, so that the launcher never reads half of it.
    unfinished = file.with_name(f".{file.name}")
    told = {"what": error.what, "where": error.where, "fix": error.fix}
    unfinished.write_text(json.dumps(told), encoding="utf-8")
    unfinished.replace(file)
    time.sleep(PATIENCE)
    return True


def worker_status(status: int) -> int:
    """The status a worker ends with: torchrun takes an interrupt, which the launcher reports, for success."""
    return 0 if FOLDER in os.environ and status in (130, 143) else status
