"""`swift deploy` as a child of this process, in another environment or in this one."""

from __future__ import annotations

import atexit
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from swift.environments.place import Environment
from swift.errors import SwiftError

SERVED = re.compile(r"is served at (https?://\S+/v1)")
UNLIMITED = {
    "max_queue": 1_000_000,
    "request_timeout": 1e9,
    "max_request_size": 1024.0,
    "max_media_size": 1024.0,
    "allowed_media_domains": ["*"],
    "clamp_max_tokens": True,
}
"""The limits of a server that one run alone asks."""
QUIET = {"log_level": "warning", "verbose": False, "result_path": None}
"""Whoever asks writes the answers down itself."""
END_SECONDS = 15.0
"""How long the child may take to end when it is asked to."""


class Child:
    """A server for one engine, or for whoever knows its address.

    Its lines go to this process's error output. It ends with `close`, with this process, or when this process is
    killed.

    Args:
        environment: whose Python runs it; None is this process's own.
        options: of `swift deploy`, by name.
        private: it is for this process alone: on a loopback port, with a key of its own and no limits; else address
            and key are those of the options.
        name: what stands before its lines; None means the environment's name.
        variables: of its environment, besides those of this process.

    Raises:
        SwiftError: it ends before it serves; with its own words.
    """

    def __init__(
        self,
        environment: Environment | None,
        options: dict[str, Any],
        *,
        private: bool = True,
        name: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name or (environment.name if environment else "swift deploy")
        self._place = f"{self.name} in its environment" if environment else self.name
        self.api_key = secrets.token_hex(16)
        self._lines: deque[str] = deque(maxlen=30)
        self._served = threading.Event()
        self.base_url = ""
        own = {"host": "127.0.0.1", "port": 0, "api_key": self.api_key, **QUIET, **UNLIMITED}
        life, self._leash = os.pipe()
        config = pipe_with(options | (own if private else {}))
        python = str(environment.python) if environment else sys.executable
        self._process = subprocess.Popen(
            [python, "-m", "swift.cli.leashed", str(life), "deploy", "--config", f"/dev/fd/{config}"],
            pass_fds=(life, config),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(variables or {})},
            text=True,
            errors="replace",
        )
        os.close(life)
        os.close(config)
        atexit.register(self.close)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._served.wait()
        if not self.base_url:
            raise self.ended()

    def _read(self) -> None:
        """Hand the child's lines on, and learn from them where it serves."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip())
            print(f"{self.name} | {line}", end="", file=sys.stderr, flush=True)
            if not self.base_url and (found := SERVED.search(line)):
                self.base_url = found[1]
                self._served.set()
        self._served.set()

    def is_over(self, seconds: float = 1.0) -> bool:
        """Whether it ends within this time; a connection breaks a little before."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def ended(self) -> SwiftError:
        """Why it ended, in its own words."""
        self._process.wait()
        self._reader.join(1)
        lines = list(self._lines)
        at = next((at for at in reversed(range(len(lines))) if lines[at].startswith("error: ")), None)
        said = " ".join(line.strip() for line in lines[at:])[7:] if at is not None else " | ".join(lines[-3:])
        return SwiftError(
            f"{self._place} ended with {self._process.returncode}: {said}",
            fix="its lines above tell more; swift env list tells whether an environment is whole",
        )

    def close(self) -> None:
        """End it with all its processes."""
        atexit.unregister(self.close)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        if self._leash >= 0:
            os.close(self._leash)
            self._leash = -1


def pipe_with(options: dict[str, Any]) -> int:
    """A file without a name that holds options as YAML, so that keys are in no folder and in no list of processes."""
    import json

    with tempfile.TemporaryFile("w", encoding="utf-8") as file:
        json.dump(options, file)
        file.flush()
        own = os.dup(file.fileno())
    os.lseek(own, 0, os.SEEK_SET)
    return own


def enter(environment: Environment, command: str, options: dict[str, Any]) -> None:
    """Go on as a command in another environment: this process becomes it, and this call does not come back."""
    config = pipe_with(options)
    os.set_inheritable(config, True)
    sys.stdout.flush()
    sys.stderr.flush()
    words = [str(environment.python), "-m", "swift.cli.main", command, "--config", f"/dev/fd/{config}"]
    os.execv(words[0], words)
