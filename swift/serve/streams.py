"""Answers that are sent piece by piece, and clients that leave before the end."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from swift.serve.errors import ApiError

T = TypeVar("T")


class EventStream(StreamingResponse):
    """Server-sent events; `close` is called however it ends, also where it never began.

    Args:
        events: gives them.
        close: ends the generation.
    """

    def __init__(self, events: AsyncIterator[str], close: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


async def while_there(request: Request, work: Awaitable[T]) -> T:
    """Do the work as long as the client is there.

    Raises:
        ClientLeft: it is not.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeft
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def event(value: Any) -> str:
    """One event of data."""
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


def named_event(value: dict[str, Any]) -> str:
    """One event with its type as its name."""
    return f"event: {value['type']}\n{event(value)}"


async def with_errors(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """The events; an error among them is the last but the end."""
    try:
        async for each in events:
            yield each
    except ApiError as error:
        yield event(error.body)
    yield "data: [DONE]\n\n"


def new_id(kind: str) -> str:
    """A name that no other answer has."""
    return f"{kind}-{secrets.token_hex(12)}"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())
