"""The engine that is a server: any URL of the OpenAI protocol."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from swift.engines.base import (
    AdapterRequest,
    Delta,
    Engine,
    InferRequest,
    Listener,
    OnResponse,
    RequestConfig,
    Response,
)
from swift.engines.names import engine
from swift.engines.protocol import WITH_IDS, Reading, body_of, message_of
from swift.errors import SwiftError
from swift.rows import Message

T = TypeVar("T")

CONNECT_SECONDS = 10.0
"""How long a connection may take to be made."""


@dataclass
class RemoteTicket:
    """A request that is under way to a server."""

    future: Future[None]

    def cancel(self) -> None:
        """Stop answering: the connection is closed."""
        self.future.cancel()


@engine("remote")
class RemoteEngine(Engine):
    """Answers by a server of the OpenAI protocol; nothing is tried twice.

    Token ids, and log-probabilities by them, are there where the server tells them, as `swift deploy` and vLLM do;
    elsewhere an answer has none, and the tokens of log-probabilities are texts.

    Args:
        base_url: where it is, such as `http://127.0.0.1:8000/v1`; `/v1` is added to a bare host.
        api_key: its key.
        model: the name it knows the model by; None means the first that it names.
        max_batch_size: requests under way at once; more wait here.
        timeout: longest silence of the server, in seconds; None means for ever.
        system: system text for conversations that bring none.
        chat_template_kwargs: variables for the server's chat template in every request.

    Raises:
        SwiftError: it is no URL.
    """

    reads_media = True

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        max_batch_size: int = 64,
        timeout: float | None = None,
        system: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.base_url = checked_url(base_url)
        self.system, self.chat_template_kwargs = system, chat_template_kwargs or {}
        self._model, self._asking = model, asyncio.Lock()
        self._listed: list[dict[str, Any]] | None = None
        self._client = httpx.AsyncClient(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=max_batch_size, max_keepalive_connections=max_batch_size),
            # A proxy of the environment does not lead to this machine itself.
            trust_env=not is_loopback(self.base_url),
        )

    def submit(
        self, request: InferRequest, config: RequestConfig, listener: Listener, *, whole: bool = False
    ) -> RemoteTicket:
        """Send a request; the listener is told in the thread of the connections.

        Raises:
            SwiftError: the protocol cannot carry the request.
        """
        body = body_of(self.completed(request), config, stream=not whole)
        path = "/chat/completions" if request.prompt is None else "/completions"
        reading = Reading(config, listener, whole=whole)
        return RemoteTicket(_start(self._answer(path, body, request.adapter, reading, listener)))

    def completed(self, request: InferRequest) -> InferRequest:
        """A request with the engine's own system text and variables, where it does not bring them."""
        if request.prompt is not None:
            return request
        messages = request.messages
        if self.system is not None and messages and messages[0].get("role") not in ("system", "developer"):
            messages = [Message(role="system", content=self.system), *messages]
        variables = self.chat_template_kwargs | request.chat_template_kwargs
        return replace(request, messages=messages, chat_template_kwargs=variables)

    @property
    def models(self) -> list[str]:
        """The names of the models that the server has.

        Raises:
            SwiftError: it does not answer, or refuses.
        """
        return [entry["id"] for entry in _start(self._entries()).result()]

    @property
    def model(self) -> str:
        """The name of the model that answers.

        Raises:
            SwiftError: the server does not answer, or has no model.
        """
        return _start(self._name_and_owner()).result()[0]

    @property
    def says_reads_media(self) -> bool | None:
        """Whether the server says that its model reads media; None where it says nothing of it.

        Raises:
            SwiftError: it does not answer, or refuses.
        """
        told = [entry.get("reads_media") for entry in _start(self._entries()).result()]
        return told[0] if told and isinstance(told[0], bool) else None

    def close(self) -> None:
        """Close the connections."""
        _start(self._client.aclose()).result()

    async def _answer(
        self, path: str, body: dict[str, Any], model: str | None, reading: Reading, listener: Listener
    ) -> None:
        try:
            usual, owner = await self._name_and_owner()
            body |= {"model": model or usual, **WITH_IDS.get(owner, {})}
            async for told in self._told("POST", path, body):
                reading.take(told)
            reading.finish()
        except Exception as error:
            listener(Delta("", error=error))

    async def _told(self, method: str, path: str, body: dict[str, Any] | None = None) -> AsyncIterator[dict[str, Any]]:
        """The JSON objects that the server answers with: one, or those of a stream.

        Raises:
            SwiftError: it does not answer, or answers with an error.
        """
        try:
            async with self._client.stream(method, path, json=body) as response:
                if response.is_error:
                    said = message_of(response.status_code, await response.aread())
                    raise SwiftError(
                        f"the server says {response.status_code}: {said}", where=str(response.url), fix=remedy(response)
                    )
                if "text/event-stream" in response.headers.get("content-type", ""):
                    async for line in data_lines(response.aiter_bytes()):
                        yield _json(line, response.url)
                else:
                    yield _json(await response.aread(), response.url)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def _entries(self) -> list[dict[str, Any]]:
        """What `/models` lists."""
        async for told in self._told("GET", "/models"):
            return [entry for entry in told.get("data") or () if isinstance(entry, dict) and "id" in entry]
        return []

    async def _name_and_owner(self) -> tuple[str, str]:
        """The model's name and owner; asked once."""
        async with self._asking:
            if self._listed is None:
                try:
                    self._listed = await self._entries()
                except SwiftError:
                    # A server may have no list: a name that is given is enough.
                    if self._model is None:
                        raise
                    self._listed = []
        if self._model is None and not self._listed:
            raise SwiftError(f"{self.base_url} names no model", fix="name one: --served_model NAME")
        entry = next((entry for entry in self._listed if entry["id"] == self._model), None)
        entry = entry or (self._listed[0] if self._listed else {})
        return self._model or entry["id"], str(entry.get("owned_by"))

    def _unreachable(self, error: httpx.HTTPError) -> SwiftError:
        told = str(error) or type(error).__name__
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return SwiftError(f"no server answers at {self.base_url}: {told}", fix="start it, or correct --base_url")
        if isinstance(error, httpx.TimeoutException):
            return SwiftError(f"{self.base_url} has been silent for too long", fix="give it more time, or less to do")
        return SwiftError(f"the connection to {self.base_url} broke: {told}", fix="see the server's log")


class InferClient(RemoteEngine):
    """The same as scripts written for ms-swift make it.

    Args:
        host: of the server.
        port: likewise.
        api_key: its key.
        base_url: instead of both.
        timeout: longest silence of the server, in seconds.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(base_url or f"http://{host}:{port}/v1", api_key=api_key, timeout=timeout)

    def infer(
        self,
        requests: Sequence[InferRequest],
        request_config: RequestConfig | None = None,
        *,
        model: str | None = None,
        on_response: OnResponse | None = None,
        adapter_request: AdapterRequest | None = None,
    ) -> list[Response]:
        """Answer all requests; `model` is one that the server names.

        Raises:
            SwiftError: a request cannot be answered.
        """
        named = [request if model is None else replace(request, adapter=model) for request in requests]
        return super().infer(named, request_config, on_response=on_response, adapter_request=adapter_request)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The loop of all connections, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="connections", daemon=True).start()
    return loop


def _start(work: Coroutine[Any, Any, T]) -> Future[T]:
    return asyncio.run_coroutine_threadsafe(work, _loop())


async def data_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of server-sent events up to `[DONE]`; lines end with line feeds alone, for JSON may hold other ends."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield data


def _json(text: bytes, url: httpx.URL) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise SwiftError(
            f"the server answers with something else than JSON: {text[:80].decode('utf-8', errors='replace')!r}",
            where=str(url),
            fix="--base_url must lead to a server of the OpenAI protocol, and mostly ends with /v1",
        )
    return told


def remedy(response: httpx.Response) -> str:
    """What to do about an error of the server."""
    remedies = {
        401: "give the key that the server was started with: --api_key",
        403: "this key may not do that: give another --api_key",
        404: "see that --base_url ends where the protocol begins, mostly with /v1, and --served_model is one it has",
        413: "send less at once",
        429: "the server has too much to do: try again later, or lower --max_batch_size",
    }
    return remedies.get(response.status_code, "see the server's log" if response.is_server_error else "correct it")


def checked_url(text: str) -> str:
    """A URL without its last slash; `/v1` behind a bare host.

    Raises:
        SwiftError: it is no URL.
    """
    text = text.strip().rstrip("/")
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SwiftError(f"--base_url {text!r} is no URL", fix="write it like http://127.0.0.1:8000/v1")
    return text if parts.path else f"{text}/v1"


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine itself."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
