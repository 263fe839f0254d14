"""What every request passes: its line in the log, the key, and the size of its body."""

from __future__ import annotations

import hmac
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swift.serve.errors import ApiError
from swift.serve.service import MIB, Service

LOG = logging.getLogger("swift.serve")
OPEN = ("/health",)
"""Paths that need no key and have no line in the log."""
UPDATES = ("/update_weights", "/update_adapter")
"""Paths whose bodies hold weights."""
LONGEST_BODY = 2000
"""Characters of a body in a log."""


class Watch:
    """Counts requests and writes a line for each, with their contents where that is wanted."""

    def __init__(self, app: ASGIApp, service: Service, paths: frozenset[str]) -> None:
        self.app, self.service, self.paths = app, service, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif self.service.verbose and (body := message.get("body")):
                self._log("<", body)
            await send(message)

        async def receiving() -> Message:
            message = await receive()
            if self.service.verbose and scope["path"] not in UPDATES and (body := message.get("body")):
                self._log(">", body)
            return message

        try:
            await self.app(scope, receiving, sending)
        except Exception:
            status = status or 500
            raise
        finally:
            path = scope["path"]
            self.service.metrics.requests.labels(path if path in self.paths else "other", status or 499).inc()
            if path not in OPEN:
                seconds = time.perf_counter() - began
                LOG.info("%s %s %s %.3f s", scope["method"], path.encode("unicode_escape").decode(), status, seconds)

    def _log(self, sign: str, body: bytes) -> None:
        LOG.info("%s %s", sign, body[:LONGEST_BODY].decode("utf-8", "replace").rstrip())


class Door:
    """Lets those in that carry the key, with a body that is not too large."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.limits, self.updates = app, service.limits, service.updates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        size = self.limits.max_request_size
        if self.updates is not None and scope["path"] in UPDATES:
            size = self.limits.max_update_size
        most = int(size * MIB)
        large = ApiError(413, f"the body is larger than {size:g} MiB")
        if scope["path"] not in OPEN and not self._has_key(headers):
            error = ApiError(401, "the key is missing or wrong; send Authorization: Bearer KEY", code="invalid_api_key")
            return await error.response(scope["path"], {"www-authenticate": "Bearer"})(scope, receive, send)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            return await large.response(scope["path"], {"connection": "close"})(scope, receive, send)
        body = await _body(receive, most)
        if body is None:
            return await large.response(scope["path"], {"connection": "close"})(scope, receive, send)

        async def receiving() -> Message:
            return body.pop() if body else await receive()

        await self.app(scope, receiving, send)

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        if self.limits.api_key is None:
            return True
        word, _, given = headers.get(b"authorization", b"").partition(b" ")
        sent = given.strip() if word.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        return hmac.compare_digest(sent, self.limits.api_key.encode())


async def _body(receive: Receive, most: int) -> list[Message] | None:
    """The message with the whole body, in a list that it is taken from; None where it is larger than `most`."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return [message]
        parts.append(message.get("body") or b"")
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > most:
            return None
    return [{"type": "http.request", "body": b"".join(parts), "more_body": False}]
