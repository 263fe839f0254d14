"""What every engine takes and gives."""

from __future__ import annotations

import asyncio
import queue
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from swift.errors import SwiftError
from swift.rows import Message
from swift.templates.parsing import Piece

OTHER = "give another value, or none for the model's own"

FinishReason = Literal["stop", "length"]


INFINITE = float("inf")
RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (1, INFINITE),
    "temperature": (0, INFINITE),
    "top_k": (0, INFINITE),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "num_beams": (1, INFINITE),
    "min_tokens": (0, INFINITE),
    "top_logprobs": (0, 20),
    "n": (1, INFINITE),
}
"""The least and the greatest value of a parameter."""
ALONE = (
    "temperature", "n", "presence_penalty", "frequency_penalty", "logit_bias", "min_tokens", "logprobs",
    "top_logprobs", "structured_outputs",
)  # fmt: skip
"""Parameters that beam search does not take."""
STRUCTURES = ("json", "json_object", "regex", "choice", "grammar")
"""What an answer can be made to be."""


@dataclass
class InferRequest:
    """One conversation to answer, or a text to go on with.

    Attributes:
        messages: the conversation; its last turn is the user's or a tool's.
        chat_template_kwargs: variables for the template in this request alone, such as its thinking switch.
        adapter: the name of the adapter that answers; None means what the engine was loaded with.
        prompt: instead of messages: a text, or token ids, that the model goes on with as it is.
    """

    messages: list[Message] = field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    images: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)
    audios: list[Any] = field(default_factory=list)
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    adapter: str | None = None
    prompt: str | list[int] | None = None


@dataclass(frozen=True)
class AdapterRequest:
    """An adapter for the requests of one call, which is loaded at its first use.

    Attributes:
        name: what it is known by from then on.
        path: its folder.
    """

    name: str
    path: str


@dataclass
class RequestConfig:
    """How an answer is generated; what is None comes from the model's generation config.

    Attributes:
        max_tokens: longest answer; None means what the context leaves, 2048 at most.
        temperature: 0 is greedy. None follows the model, which samples too when top_k or top_p is given.
        top_k: 0 switches it off.
        top_p: 1 switches it off.
        min_p: leaves out tokens less likely than this share of the likeliest one; 0 switches it off.
        repetition_penalty: above 1 makes tokens of prompt and answer less likely.
        presence_penalty: taken off the logits of tokens that the answer holds.
        frequency_penalty: the same, times how often it holds them.
        logit_bias: what is added to the logits of these token ids.
        num_beams: above 1 is beam search, without sampling.
        stop: texts that end an answer; they are not part of it.
        stop_token_ids: tokens that end an answer, besides the model's own.
        min_tokens: no token ends an answer before it has as many.
        ignore_eos: only the limit, `stop` and `stop_token_ids` end an answer.
        logprobs: give each token's log-probability, by the model alone.
        top_logprobs: the same of as many of the likeliest tokens at each place, 20 at most.
        structured_outputs: what the answer must be: `{"json": SCHEMA}`, `{"json_object": True}`, `{"regex": TEXT}`,
            `{"choice": [TEXT, ...]}` or `{"grammar": LARK}`.
        seed: the same seed gives the same answer to the same prompt, alone or in a batch; None draws one.
        stream: what the caller wants; `Engine.stream` streams, `Engine.infer` does not.
        n: answers to each request.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    num_beams: int = 1
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    structured_outputs: dict[str, Any] | None = None
    seed: int | None = None
    stream: bool = False
    n: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            self.stop = [self.stop]
        self.stop = [text for text in self.stop if text]
        self.top_logprobs = self.top_logprobs or 0
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                told = f"at least {low}" if high == INFINITE else f"between {low} and {high}"
                raise SwiftError(f"{name} is {value}; it must be {told}", fix=OTHER)
        for name in ("top_p", "repetition_penalty"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SwiftError(f"{name} is {value}; it must be above 0", fix=OTHER)
        if self.num_beams > 1:
            self._check_beams()
        if self.structured_outputs is not None and self.ignore_eos:
            raise SwiftError("ignore_eos does not go with structured_outputs", fix="leave one of them out")
        if self.structured_outputs is not None and len(self.structured_outputs.keys() & STRUCTURES) != 1:
            raise SwiftError(
                f"structured_outputs has {', '.join(self.structured_outputs) or 'nothing'}; it takes one kind",
                fix=f"give one of {', '.join(STRUCTURES)}",
            )

    def _check_beams(self) -> None:
        """Beam search chooses whole answers: what acts on single tokens does not go with it."""
        plain = RequestConfig(num_beams=1)
        for name in ALONE:
            value = getattr(self, name)
            if value and value != getattr(plain, name):
                raise SwiftError(
                    f"{name} {value} does not go with num_beams {self.num_beams}", fix="leave one of them out"
                )

    def with_values(self, **values: Any) -> RequestConfig:
        """A copy with other values, checked again."""
        return replace(self, **values)


@dataclass
class ChatMessage:
    """The answer as a message."""

    role: str
    content: str
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None

    def to_message(self) -> Message:
        """As a turn of a conversation, without the fields that are empty."""
        message = Message(role=self.role, content=self.content)
        if self.reasoning_content:
            message["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return message


@dataclass
class Logprob:
    """The log-probability of one generated token, by the model's own logits.

    Attributes:
        token: its id; its text where a server tells no ids.
        top: the likeliest tokens at this place with theirs, the likeliest first.
    """

    token: int | str
    logprob: float
    top: list[tuple[int | str, float]] = field(default_factory=list)


@dataclass
class Choice:
    """One answer.

    Attributes:
        token_ids: every token that was generated, the stop token included.
        text: the answer as it was generated, before reasoning and tool calls were parsed out of it.
        logprobs: of each of the tokens, where they were asked for.
        stop_text: which of the texts that end an answer ended it.
    """

    index: int
    message: ChatMessage
    finish_reason: FinishReason
    token_ids: list[int]
    text: str = ""
    logprobs: list[Logprob] | None = None
    stop_text: str | None = None


@dataclass
class Usage:
    """Tokens of one request, over all its choices."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass
class Response:
    """The answers to one request."""

    choices: list[Choice]
    usage: Usage


@dataclass
class Scored:
    """The log-probabilities of the tokens of a text that was there already.

    Attributes:
        token_ids: of the prompt, and of the answer behind it.
        logprobs: of each token after those before it; None of the first.
        ranks: the place of each among the likeliest, from 1; 0 of the first.
        prompt_tokens: how many of the tokens are the prompt.
    """

    token_ids: list[int]
    logprobs: list[Logprob | None]
    ranks: list[int]
    prompt_tokens: int = 0


@dataclass
class Delta:
    """A piece of a streamed answer; the last one of each answer carries its finish reason.

    Attributes:
        text: what was generated, as it is.
        response: all answers, with the last piece of the last of them.
        pieces: what of reasoning, content and tool calls is certain now.
        index: which of the answers.
        token_ids: the tokens that are in no earlier piece; their text may come with a later one.
        logprobs: of these tokens, where they were asked for.
        error: why there is no answer; nothing follows.
        stop_text: with the finish reason, which of the texts that end an answer ended it.
    """

    text: str
    finish_reason: FinishReason | None = None
    response: Response | None = None
    pieces: list[Piece] = field(default_factory=list)
    index: int = 0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    error: BaseException | None = None
    stop_text: str | None = None


OnResponse = Callable[[int, Response], None]
"""Called with a request's place in the list and its response, as soon as that is there."""
Listener = Callable[[Delta], None]
"""Called with each piece, in a thread of the engine; it must not wait."""


class Ticket(Protocol):
    """A request that an engine has taken."""

    def cancel(self) -> None:
        """Stop answering; nothing more is told once the engine has seen it."""
        ...


class Engine(ABC):
    """What answers requests: a local model, another process, or a server.

    Attributes:
        reads_media: pictures, films and sounds can go along with a request.
    """

    reads_media = False

    @abstractmethod
    def submit(
        self, request: InferRequest, config: RequestConfig, listener: Listener, *, whole: bool = False
    ) -> Ticket:
        """Take a request and go on; the listener is told the answer.

        Args:
            whole: tell nothing but the response.

        Raises:
            SwiftError: the request cannot be answered.
        """

    @property
    def load(self) -> tuple[int, int] | None:
        """Answers under way and answers that have not begun; None where the engine does not know."""
        return None

    def submit_all(
        self, requests: Sequence[InferRequest], config: RequestConfig, listener: Callable[[int, Delta], None]
    ) -> Sequence[Ticket]:
        """Take several requests, of which nothing but the response is told, with its place in the list."""
        tickets: list[Ticket] = []
        try:
            for number, request in enumerate(requests):
                tickets.append(self.submit(request, config, partial(listener, number), whole=True))
        except BaseException:
            _cancel(tickets)
            raise
        return tickets

    def infer(
        self,
        requests: Sequence[InferRequest],
        config: RequestConfig | None = None,
        *,
        on_response: OnResponse | None = None,
        adapter_request: AdapterRequest | None = None,
    ) -> list[Response]:
        """Answer all requests; the responses come in the order of the requests.

        Args:
            adapter_request: the adapter that answers all of them.

        Raises:
            SwiftError: a request cannot be answered, or the adapter cannot be loaded.
        """
        if adapter_request is not None:
            requests = [replace(request, adapter=self._loaded(adapter_request)) for request in requests]
        told: queue.SimpleQueue[tuple[int, Delta]] = queue.SimpleQueue()
        tickets = self.submit_all(requests, config or RequestConfig(), lambda number, delta: told.put((number, delta)))
        responses: dict[int, Response] = {}
        try:
            while len(responses) < len(requests):
                number, delta = told.get()
                if delta.error is not None:
                    raise delta.error
                if delta.response is not None:
                    responses[number] = delta.response
                    if on_response is not None:
                        on_response(number, delta.response)
        finally:
            _cancel(tickets)
        return [responses[number] for number in range(len(requests))]

    def score(
        self,
        requests: Sequence[InferRequest],
        answers: Sequence[str | list[int]] | None = None,
        *,
        top_logprobs: int = 0,
    ) -> list[Scored]:
        """The log-probabilities of prompts, and of answers to them.

        Args:
            answers: one to each request, as a text or as token ids; None means the prompts alone.
            top_logprobs: the likeliest tokens at each place as well.

        Raises:
            SwiftError: a request cannot be read, or the engine gives no log-probabilities of prompts.
        """
        raise SwiftError(
            f"{type(self).__name__} gives no log-probabilities of prompts", fix="--infer_backend pt and vllm do"
        )

    def _loaded(self, adapter: AdapterRequest) -> str:
        """The name of an adapter, loaded where it was not.

        Raises:
            SwiftError: the engine loads none, or not this one.
        """
        own: Any = self
        if not hasattr(own, "add_adapter"):
            raise SwiftError(
                f"adapter {adapter.name}: a server loads its own adapters",
                fix="name one that it has: InferRequest(messages, adapter=NAME)",
            )
        if str(own.adapters.names.get(adapter.name)) != adapter.path:
            own.add_adapter(adapter.name, Path(adapter.path))
        return adapter.name

    def stream(self, request: InferRequest, config: RequestConfig | None = None) -> Iterator[Delta]:
        """Answer one request piece by piece; closing the iterator stops the generation.

        The request is checked here, not at the first piece. The pieces of a choice together are its text.

        Raises:
            SwiftError: the request cannot be answered.
        """
        told: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        ticket = self.submit(request, config or RequestConfig(), told.put)
        return _told(told, ticket)

    async def stream_async(self, request: InferRequest, config: RequestConfig | None = None) -> AsyncIterator[Delta]:
        """`stream` for an event loop; leaving the iteration stops the generation.

        Raises:
            SwiftError: the request cannot be answered.
        """
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[Delta] = asyncio.Queue()
        ticket = self.submit(request, config or RequestConfig(), partial(_hand_over, loop, told))
        try:
            while True:
                delta = await told.get()
                if delta.error is not None:
                    raise delta.error
                yield delta
                if delta.response is not None:
                    return
        finally:
            ticket.cancel()

    async def infer_async(self, request: InferRequest, config: RequestConfig | None = None) -> Response:
        """Answer one request; a cancelled task stops the generation.

        Raises:
            SwiftError: the request cannot be answered.
        """
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[Delta] = asyncio.Queue()
        ticket = self.submit(request, config or RequestConfig(), partial(_hand_over, loop, told), whole=True)
        try:
            delta = await told.get()
        finally:
            ticket.cancel()
        if delta.response is None:
            raise delta.error or SwiftError("the engine stopped without an answer", fix="ask again")
        return delta.response


def _cancel(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        ticket.cancel()


def _told(told: queue.SimpleQueue[Delta], ticket: Ticket) -> Iterator[Delta]:
    try:
        while True:
            delta = told.get()
            if delta.error is not None:
                raise delta.error
            yield delta
            if delta.response is not None:
                return
    finally:
        ticket.cancel()


def _hand_over(loop: asyncio.AbstractEventLoop, told: asyncio.Queue[Delta], delta: Delta) -> None:
    # A loop that has ended has nobody left to tell.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(told.put_nowait, delta)
