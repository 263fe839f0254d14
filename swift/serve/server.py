"""The process around the endpoints: its socket, its start, and its orderly end."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import uvicorn

from swift.errors import SwiftError
from swift.serve.address import bind
from swift.serve.app import make_app
from swift.serve.service import Service

LOG = logging.getLogger("swift.serve")


class _Uvicorn(uvicorn.Server):
    """Goes down in order: the first signal refuses new requests and waits for answers, the second ends at once."""

    def __init__(self, config: uvicorn.Config, service: Service, log_interval: int) -> None:
        super().__init__(config)
        self._service, self._log_interval, self._next_line = service, log_interval, time.monotonic() + log_interval

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self._service.draining:
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        print(f"{signal.Signals(sig).name}: {self._service.open} answers under way; no more are taken", file=sys.stderr)

    async def on_tick(self, counter: int) -> bool:
        """Whether to end now: once nothing is under way any more."""
        if self._service.draining and not self._service.open:
            self.should_exit = True
        if self._log_interval > 0 and time.monotonic() >= self._next_line:
            self._next_line += self._log_interval
            if line := self._service.metrics.line():
                LOG.info(line)
        return await super().on_tick(counter)


class Server:
    """A server in this process: `run` in this thread until a signal comes, `start` and `stop` in one of its own.

    Args:
        service: what is served.
        host: address to listen at.
        port: 0 takes a free one.
        bound: a socket from `bind`, in place of the two.
        ssl: paths of key and certificate.
        log_interval: seconds between lines of figures in the log; 0 means none.
    """

    def __init__(
        self,
        service: Service,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        bound: socket.socket | None = None,
        ssl: dict[str, str] | None = None,
        log_interval: int = 0,
    ) -> None:
        self.service = service
        self.socket = bound or bind(host, port)
        self.ssl = ssl or {}
        more: dict[str, Any] = {**self.ssl, "access_log": False, "log_config": None, "lifespan": "off"}
        self._uvicorn = _Uvicorn(uvicorn.Config(make_app(service), **more), service, log_interval)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        host, port = self.socket.getsockname()[:2]
        return f"http{'s' if self.ssl else ''}://{f'[{host}]' if ':' in host else host}:{port}"

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; answers under way are finished.

        Raises:
            SwiftError: somebody else took the address meanwhile.
        """
        try:
            self._uvicorn.run(sockets=[self.socket])
        except OSError as error:
            raise SwiftError(f"{self.url} cannot be served: {error.strerror}", fix="choose another --port") from None

    def start(self) -> Server:
        """Serve in a thread; it listens when this returns."""
        self._thread = threading.Thread(target=self.run, name="swift-serve", daemon=True)
        self._thread.start()
        while not self._uvicorn.started:
            if not self._thread.is_alive():
                raise SwiftError("the server did not start", fix="its log says why")
            threading.Event().wait(0.01)
        return self

    def stop(self) -> None:
        """Finish the answers under way and end."""
        self.service.draining = True
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
