"""What every engine takes and gives, and the registry of engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

from swift.errors import SwiftError
from swift.registry import Registry
from swift.rows import Message
from swift.templates.parsing import Piece

OTHER = "give another value, or none for the model's own"

E = TypeVar("E", bound=type)
FinishReason = Literal["stop", "length"]


@dataclass
class InferRequest:
    """One conversation to answer; its last turn is the user's or a tool's.

    `chat_template_kwargs` are variables for the template in this request alone, such as its thinking switch.
    """

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    images: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)
    audios: list[Any] = field(default_factory=list)
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class RequestConfig:
    """How an answer is generated; what is None comes from the model's generation config.

    Attributes:
        max_tokens: longest answer; None means what the context leaves, 2048 at most.
        temperature: 0 is greedy. None follows the model, which samples too when top_k or top_p is given.
        top_k: 0 switches it off.
        top_p: 1 switches it off.
        repetition_penalty: above 1 makes repeated tokens less likely.
        num_beams: above 1 is beam search, without sampling.
        stop: texts that end an answer; they are not part of it.
        seed: the same seed gives the same answer to the same prompt, alone or in a batch; None draws one.
        stream: what the caller wants; `Engine.stream` streams, `Engine.infer` does not.
        n: answers to each request.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    num_beams: int = 1
    stop: list[str] = field(default_factory=list)
    seed: int | None = None
    stream: bool = False
    n: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            self.stop = [self.stop]
        self.stop = [text for text in self.stop if text]
        for name, low in (("max_tokens", 1), ("temperature", 0), ("top_k", 0), ("num_beams", 1), ("n", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise SwiftError(f"{name} is {value}; it must be at least {low}", fix=OTHER)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise SwiftError(f"top_p is {self.top_p}; it must lie above 0 and be 1 at most", fix=OTHER)
        if self.repetition_penalty is not None and self.repetition_penalty <= 0:
            raise SwiftError(f"repetition_penalty is {self.repetition_penalty}; it must be above 0", fix=OTHER)
        if self.num_beams > 1 and self.temperature:
            raise SwiftError(
                f"temperature {self.temperature} does not go with num_beams {self.num_beams}: beam search does not "
                "sample",
                fix="leave one of them out",
            )
        if self.num_beams > 1 and self.n > 1:
            raise SwiftError(f"n {self.n} does not go with num_beams {self.num_beams}", fix="leave one of them out")

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
class Choice:
    """One answer.

    Attributes:
        token_ids: every token that was generated, the stop token included.
        text: the answer as it was generated, before reasoning and tool calls were parsed out of it.
    """

    index: int
    message: ChatMessage
    finish_reason: FinishReason
    token_ids: list[int]
    text: str = ""


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
class Delta:
    """A piece of a streamed answer; the last one carries the finish reason and the whole response.

    Attributes:
        text: what was generated, as it is.
        pieces: what of reasoning, content and tool calls is certain now.
    """

    text: str
    finish_reason: FinishReason | None = None
    response: Response | None = None
    pieces: list[Piece] = field(default_factory=list)


OnResponse = Callable[[int, Response], None]
"""Called with a request's place in the list and its response, as soon as that is there."""


class Engine(Protocol):
    """What answers requests: a local model, a server, or a user's own part."""

    def infer(
        self,
        requests: Sequence[InferRequest],
        config: RequestConfig | None = None,
        *,
        on_response: OnResponse | None = None,
    ) -> list[Response]:
        """Answer all requests; the responses come in the order of the requests."""
        ...

    def stream(self, request: InferRequest, config: RequestConfig | None = None) -> Iterator[Delta]:
        """Answer one request piece by piece; closing the iterator stops the generation."""
        ...


NOT_BUILT = ("vllm", "sglang", "lmdeploy")
"""Back ends of ms-swift that are planned."""


class _Engines(Registry[Any]):
    def check(self, name: str) -> None:
        if name in NOT_BUILT and name not in self:
            raise SwiftError(
                f"--infer_backend {name} is a back end of ms-swift that this version does not have yet",
                fix="use --infer_backend pt",
            )
        super().check(name)


engines: Registry[Any] = _Engines(
    "engine",
    "infer_backend",
    {"pt": "swift.engines.transformers", "transformers": "swift.engines.transformers"},
)


def engine(name: str) -> Callable[[E], E]:
    """Decorator: register an engine class under the name that `--infer_backend` takes.

    The command line makes one by `from_source(source, template, config, *, max_batch_size, max_length, decisions)`:
    what `swift.models.source.find_source` found, not loaded yet, the options of the model, and the table that takes a
    note of what was chosen.
    """
    return engines.register(name)
