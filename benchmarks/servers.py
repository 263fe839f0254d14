"""Servers in processes of their own, for the scripts that load them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx
from processes import ROOT, environment_of

START_SECONDS = 600


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        url: without a slash at the end.
        pid: its process.
        process: the same, to end it.
    """

    url: str
    pid: int
    process: subprocess.Popen[bytes]

    def memory(self) -> int:
        """Resident bytes of the server."""
        with open(f"/proc/{self.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def swift_command(model: str, port: int, *words: str) -> list[str]:
    """`swift deploy`, from this tree."""
    return [sys.executable, "-m", "swift", "deploy", "--model", model, "--port", str(port), *words]


@contextlib.contextmanager
def running(command: Sequence[str], port: int, *, ours: bool, threads: int | None = None) -> Iterator[Running]:
    """Start a server, wait until it lists its models, and end it with SIGTERM."""
    url = f"http://127.0.0.1:{port}"
    # Whoever ends this script ends the server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            env=environment_of(ours=ours, threads=threads),
            # Python would take the package of the folder it starts in.
            cwd=ROOT if ours else tempfile.gettempdir(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            began = time.monotonic()
            while not _answers(url):
                if process.poll() is not None or time.monotonic() - began > START_SECONDS:
                    output.seek(0)
                    said = output.read().decode("utf-8", "replace")[-3000:]
                    raise SystemExit(f"{' '.join(command)} does not serve:\n{said}")
                time.sleep(0.5)
            yield Running(url, process.pid, process)
        finally:
            _end(process)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/models", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for what is left of its session then: ms-swift's command leaves its server behind."""
    if process.poll() is None:
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
