"""What stands between the endpoints and the engine: names of models, limits, time, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from swift.engines.base import Delta, InferRequest, RequestConfig, Response, Scored, Ticket
from swift.errors import SwiftError
from swift.media import Access
from swift.serve.errors import ApiError, failure, mistake
from swift.serve.gate import Gate
from swift.serve.media import opened
from swift.serve.metrics import Metrics
from swift.templates.messages import media_in

if TYPE_CHECKING:
    from swift.serve.rollout import Updates

T = TypeVar("T")
MIB = 1 << 20
Told = tuple[int, Delta]
"""A piece, and the place of its request among those asked together."""


@dataclass
class Limits:
    """How much may be asked, by whom.

    Attributes:
        api_key: the key that requests must carry; None means none.
        max_batch_size: answers generated at once.
        max_queue: answers that may wait behind them.
        max_request_size: of a body, in MiB.
        request_timeout: of an answer with its waiting, in seconds.
        max_logprobs: alternatives at each token.
        max_update_size: of a body with weights, in MiB.
        clamps: an answer that may be longer than the context leaves is cut there; else it is refused.
    """

    api_key: str | None = None
    max_batch_size: int = 8
    max_queue: int = 1024
    max_request_size: float = 8.0
    request_timeout: float = 600.0
    max_logprobs: int = 20
    clamps: bool = False
    max_update_size: float = 65536.0

    @property
    def most(self) -> int:
        """Answers that can be under way or waiting."""
        return self.max_batch_size + self.max_queue


@dataclass
class Service:
    """An engine with the names it is asked by.

    Attributes:
        engine: answers: an `Engine`, or a `TextModel`.
        name: the model's.
        adapters: the names of others, each the model with an adapter.
        defaults: parameters of requests that do not give them.
        owned_by: what /v1/models says.
        verbose: contents stand in the log.
        results: takes requests with their answers, as JSON lines.
        loads_adapters: clients may load and unload adapters.
        updates: clients may change the weights.
        access: where media may come from.
        draining: nothing new is taken.
    """

    engine: Any
    name: str
    adapters: list[str] = field(default_factory=list)
    defaults: RequestConfig = field(default_factory=RequestConfig)
    limits: Limits = field(default_factory=Limits)
    owned_by: str = "swift"
    verbose: bool = False
    results: TextIO | None = None
    loads_adapters: bool = False
    updates: Updates | None = None
    access: Access = field(default_factory=Access)
    draining: bool = False

    def __post_init__(self) -> None:
        self.created = int(time.time())
        self.open = 0
        self.gate = Gate()
        self.metrics = Metrics(self)
        # Prompts are rendered one after the other, away from the loop that everybody else waits for.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="swift-prompts")
        # Media are fetched and opened beside that: a slow host or a long film holds up nobody's text.
        self._media = ThreadPoolExecutor(4, thread_name_prefix="swift-media")
        # So are adapters loaded, which takes longer than anybody's prompt should wait.
        self.loading = ThreadPoolExecutor(1, thread_name_prefix="swift-loading")

    @property
    def reads_media(self) -> bool:
        """Whether pictures, films and sounds can go along with a request."""
        return bool(getattr(self.engine, "reads_media", False))

    def adapter_of(self, model: str | None) -> str | None:
        """The adapter that a model's name means; None is the model itself.

        Raises:
            ApiError: there is no such model.
        """
        if model is None or model == self.name:
            return None
        if model in self.adapters:
            return model
        raise ApiError(
            404,
            f"the model {model!r} does not exist; there are {', '.join([self.name, *self.adapters])}",
            param="model",
            code="model_not_found",
        )

    def card(self, name: str) -> dict[str, Any]:
        """What /v1/models says of a model."""
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": self.owned_by,
            "root": self.name,
            "parent": None if name == self.name else self.name,
            "max_model_len": getattr(self.engine, "context", None),
            "reads_media": self.reads_media,
        }

    async def begin(self, requests: Sequence[InferRequest], config: RequestConfig, *, whole: bool) -> Asked:
        """Take requests of one client.

        Args:
            whole: tell nothing but the responses.

        Raises:
            ApiError: too much is asked, or what cannot be answered.
        """
        count = config.n * len(requests)
        self._check_room(count)
        asked = Asked(self, requests, config)
        try:
            await asked.fetch()
            await asked.enter()
            await asked.submit(self._pool, whole=whole)
        except BaseException as error:
            asked.close()
            if isinstance(error, SwiftError):
                raise mistake(error) from error
            raise
        return asked

    def check_length(self, ticket: Any, config: RequestConfig) -> None:
        """Refuse an answer that the request itself wants longer than the context leaves.

        Raises:
            ApiError: it does.
        """
        context, prompt = getattr(self.engine, "context", None), getattr(ticket, "prompt", None)
        wanted = config.max_tokens
        if self.limits.clamps or context is None or prompt is None or wanted in (None, self.defaults.max_tokens):
            return
        if len(prompt) + wanted > context:
            raise ApiError(
                400,
                f"max_tokens is {wanted}, and the context of {context} tokens leaves {context - len(prompt)} after a "
                f"prompt of {len(prompt)}; lower it, or leave it out",
                param="max_tokens",
                code="context_length_exceeded",
            )

    def _check_room(self, count: int) -> None:
        if count > self.limits.most:
            raise ApiError(400, f"{count} answers in one request; {self.limits.most} are the most", param="n")
        if self.draining:
            raise ApiError(503, "the server is going down and takes no more requests; ask another, or later")
        if self.open + count > self.limits.most:
            raise ApiError(429, f"{self.open} answers are under way or waiting, the most there may be; ask again later")

    @contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Count answers as under way.

        Raises:
            ApiError: there are too many.
        """
        self._check_room(count)
        self.open += count
        try:
            yield
        finally:
            self.open -= count

    async def in_time(self, work: Awaitable[T]) -> T:
        """Wait for an answer as long as is allowed.

        Raises:
            ApiError: it takes longer.
        """
        try:
            return await asyncio.wait_for(work, self.limits.request_timeout)
        except asyncio.TimeoutError:
            raise self.late from None

    @property
    def late(self) -> ApiError:
        """There is no answer in time."""
        return ApiError(504, f"there was no answer within {self.limits.request_timeout:g} seconds")

    async def score(self, requests: Sequence[InferRequest], top: int) -> list[Scored]:
        """The log-probabilities of prompts, with so many alternatives.

        Raises:
            ApiError: too much is asked, a prompt cannot be read, or it takes too long.
        """
        count = len(requests)
        self._check_room(count)
        self.open += count
        try:
            await self.in_time(self.gate.enter())
        except BaseException:
            self.open -= count
            raise
        work = asyncio.get_running_loop().run_in_executor(None, partial(self.engine.score, requests, top_logprobs=top))

        def over(_: Any) -> None:
            self.open -= count
            self.gate.leave()

        # The work goes on where its client has left, and the weights are in use as long.
        work.add_done_callback(over)
        try:
            return await self.in_time(asyncio.shield(work))
        except SwiftError as error:
            raise mistake(error) from error

    async def in_turn(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what works on prompts, where prompts are worked on.

        Raises:
            ApiError: it raised a SwiftError.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *arguments))
        except SwiftError as error:
            raise mistake(error) from error

    async def opened(self, requests: Sequence[InferRequest]) -> list[InferRequest]:
        """Requests with their media open, where those may be read.

        Raises:
            ApiError: they may not, or are not there.
        """
        if not any(media_in(vars(request), request.messages) for request in requests):
            return list(requests)
        loop, reader = asyncio.get_running_loop(), self.engine.reader
        each = [loop.run_in_executor(self._media, opened, request, self.access, reader) for request in requests]
        try:
            return await self.in_time(asyncio.gather(*each))
        except SwiftError as error:
            raise mistake(error, "messages") from error

    async def prompt_of(self, request: InferRequest) -> list[int]:
        """The token ids of the prompt that a request makes.

        Raises:
            ApiError: it makes none.
        """
        with self.room(1):
            [request] = await self.opened([request])
            return await self.in_time(self.in_turn(self.engine.encode, request))

    async def change(self, function: Callable[[], Any]) -> Any:
        """Call what changes the model, one such call after the other; it goes on where the client's time is over.

        Raises:
            ApiError: it raised a SwiftError, or takes longer than is allowed.
        """
        work = asyncio.get_running_loop().run_in_executor(self.loading, function)
        try:
            return await self.in_time(asyncio.shield(work))
        except SwiftError as error:
            raise mistake(error) from error


class Asked:
    """Requests of one client under way; `close` ends them, however far they are."""

    def __init__(self, service: Service, requests: Sequence[InferRequest], config: RequestConfig) -> None:
        self._service, self._requests, self._config = service, requests, config
        self._whole = self._entered = False
        self._count = config.n * len(requests)
        self._told: asyncio.Queue[Told] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        self._opened: list[InferRequest] = []
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self.began = time.perf_counter()
        service.open += self._count
        told = (0, Delta("", error=service.late))
        self._timer = self._loop.call_later(service.limits.request_timeout, self._told.put_nowait, told)

    @property
    def prompts(self) -> list[list[int]]:
        """The token ids of each request's prompt."""
        return [list(getattr(ticket, "prompt", ())) for ticket in self._tickets]

    async def fetch(self) -> None:
        """Read and open the media of the requests.

        Raises:
            ApiError: they may not be read, or cannot be.
        """
        self._opened = await self._service.opened(self._requests)

    async def enter(self) -> None:
        """Wait while the weights change.

        Raises:
            ApiError: that takes too long.
        """
        await self._service.in_time(self._service.gate.enter())
        self._entered = True

    async def submit(self, pool: ThreadPoolExecutor, *, whole: bool) -> None:
        """Hand the requests to the engine."""
        self._whole = whole

        def submit() -> None:
            for place, request in enumerate(self._opened):
                if self._closed:
                    return
                listener = partial(self._hand_over, place)
                ticket = self._service.engine.submit(request, self._config, listener, whole=whole)
                self._tickets.append(ticket)
                self._service.check_length(ticket, self._config)

        done: Future[None] = pool.submit(submit)
        # The client may leave meanwhile, and nobody would end what is submitted after that.
        done.add_done_callback(lambda _: self._cancel() if self._closed else None)
        await self._service.in_time(asyncio.shield(asyncio.wrap_future(done)))
        self._opened = []

    def _hand_over(self, place: int, delta: Delta) -> None:
        # A loop that has ended has nobody left to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._told.put_nowait, (place, delta))

    async def pieces(self) -> AsyncIterator[Told]:
        """The pieces of all answers as they come.

        Raises:
            ApiError: generation failed, or took too long.
        """
        open_requests, last = len(self._requests), self.began
        metrics = self._service.metrics
        while open_requests:
            place, delta = await self._told.get()
            if delta.error is not None:
                metrics.note_failure(delta.error)
                raise failure(delta.error) from delta.error
            now = time.perf_counter()
            if not self._whole:
                (metrics.first if last == self.began else metrics.between).observe(now - last)
                last = now
            if delta.response is not None:
                open_requests -= 1
                metrics.note_response(delta.response, now - self.began)
                self._keep(self._requests[place], delta.response)
            yield place, delta

    async def responses(self) -> list[Response]:
        """The responses in the order of the requests.

        Raises:
            ApiError: as `pieces`.
        """
        found: dict[int, Response] = {}
        async for place, delta in self.pieces():
            if delta.response is not None:
                found[place] = delta.response
        return [found[place] for place in range(len(self._requests))]

    def _keep(self, request: InferRequest, response: Response) -> None:
        """Write a line of the result file."""
        if self._service.results is None:
            return
        asked = {name: value for name, value in vars(request).items() if value not in (None, [], {})}
        line = {
            "time": int(time.time()),
            "model": request.adapter or self._service.name,
            **asked,
            "parameters": {name: value for name, value in vars(self._config).items() if value not in (None, [], {})},
            "choices": [
                {**choice.message.to_message(), "finish_reason": choice.finish_reason} for choice in response.choices
            ],
            "usage": vars(response.usage),
        }
        print(json.dumps(line, ensure_ascii=False), file=self._service.results, flush=True)

    def close(self) -> None:
        """End what is not ended."""
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        if self._entered:
            self._service.gate.leave()
        self._service.open -= self._count
        self._cancel()

    def _cancel(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()
