"""The shapes of data that pass between rooms; every room may import this file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import numpy as np

IGNORE = -100
"""The label of a token that carries no loss."""

THINKING = ("enable_thinking", "thinking")
"""The switches by which servers turn reasoning on and off."""


class Message(TypedDict, total=False):
    """One turn. `role` is system, user, assistant or tool.

    `loss: false` or `weight: 0` takes an assistant's turn out of the loss.
    """

    role: str
    content: Any
    reasoning_content: str
    tool_calls: list[dict[str, Any]]
    tool_call_id: str
    name: str
    loss: bool
    weight: float


class Row(TypedDict, total=False):
    """What every reader gives and every later stage takes.

    `messages` ends with the chosen answer where `rejected_messages` has another. `positives` and `negatives` are
    passages, each a conversation of its own. `steps` are the parts of the answer that `step_labels` are about.
    """

    messages: list[Message]
    tools: list[dict[str, Any]]
    images: list[Any]
    videos: list[Any]
    audios: list[Any]
    objects: dict[str, Any]
    rejected_messages: list[Message]
    margin: float
    label: Any
    positives: list[list[Message]]
    negatives: list[list[Message]]
    steps: list[str]
    step_labels: list[Any]
    channel: str
    extra: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Where a row came from, for errors: `data.jsonl:17`."""

    name: str
    line: int

    def __str__(self) -> str:
        return f"{self.name}:{self.line}"


@dataclass(frozen=True)
class TurnStart:
    """Where an assistant's turn begins to be generated: what stands before it is the prompt that a server sends.

    Attributes:
        message: its index in the conversation, which begins with a system text where `--system` put one there.
        token: the place of its first token.
        thinking: the value of the template's reasoning switch that the prompt is made with; None leaves it alone.
    """

    message: int
    token: int
    thinking: bool | None = None

    @property
    def switches(self) -> dict[str, Any]:
        """Variables of the template that the prompt is made with."""
        return {} if self.thinking is None else dict.fromkeys(THINKING, self.thinking)


@dataclass(frozen=True)
class Rendered:
    """The text of a sample, and where its tokens and turns lie in it.

    Attributes:
        text: what the template rendered.
        turns: the turns that the sample is made for.
        find_stops: gives `stops`.
    """

    text: str
    turns: tuple[TurnStart, ...]
    find_stops: Callable[[], np.ndarray]

    @cached_property
    def stops(self) -> np.ndarray:
        """int64[n], the place behind the last character of each token."""
        return self.find_stops()


@dataclass
class EncodedRow:
    """One training sample, unpadded.

    Attributes:
        input_ids: int32[n].
        labels: int32[n], `IGNORE` where there is no loss; `labels[i]` is the token at place i (not shifted).
        weights: float32[n], only where a loss scale asks for it.
        source: where the row came from.
        channel: the one that the row names.
        rendered: its text; None for a sample that was cut or stored.
        target: float32[k], what the sample as a whole is to give, such as its class; None where tokens are trained.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    source: Source | None = None
    weights: np.ndarray | None = None
    rendered: Rendered | None = field(default=None, repr=False, compare=False)
    channel: str | None = None
    target: np.ndarray | None = None

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.input_ids)

    @cached_property
    def trained(self) -> int:
        """Number of tokens that carry loss: the shift leaves the first one out. A sample with a target counts once."""
        import numpy as np

        return 1 if self.target is not None else int(np.count_nonzero(self.labels[1:] != IGNORE))

    def same(self, other: EncodedRow) -> bool:
        """Whether two samples train the same."""
        mine, theirs = ((row.input_ids, row.labels) for row in (self, other))
        equal = all(one.tobytes() == two.tobytes() for one, two in zip(mine, theirs, strict=True))
        return equal and self.weights is None is other.weights


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, Mapping) else type(value).__name__)
