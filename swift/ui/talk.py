"""Conversations of a page with an engine, without the page."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from swift.engines.base import Engine, InferRequest, RequestConfig
from swift.engines.media import KINDS, part_of
from swift.errors import SwiftError
from swift.rows import Message

NUMBERS: dict[str, type] = {
    "max_tokens": int,
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "repetition_penalty": float,
}
"""The settings that are numbers."""


@dataclass(frozen=True)
class Settings:
    """How an answer is generated; None leaves it to the server.

    Attributes:
        model: the name of the model or adapter that answers.
    """

    model: str | None = None
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None

    @classmethod
    def read(cls, texts: Sequence[str]) -> Settings:
        """From the texts of a page's fields, in the order of these; an empty one means None.

        Raises:
            SwiftError: one of them is no number.
        """
        found: dict[str, Any] = {}
        for each, text in zip(fields(cls), texts, strict=True):
            kind = NUMBERS.get(each.name, str)
            try:
                found[each.name] = kind(text) if str(text).strip() else None
            except ValueError:
                wanted = "a whole number" if kind is int else "a number"
                raise SwiftError(
                    f"{each.name} is {text!r}; it must be {wanted}", fix="correct it, or empty it"
                ) from None
        return cls(**found)

    def request_config(self) -> RequestConfig:
        """The parameters.

        Raises:
            SwiftError: one of them is out of its range.
        """
        return RequestConfig(**{name: getattr(self, name) for name in NUMBERS}, stream=True)


@dataclass
class Turn:
    """What one side said.

    Attributes:
        files: paths of pictures, films and sounds that go along.
    """

    role: str
    text: str
    reasoning: str = ""
    files: list[str] = field(default_factory=list)


async def answer(engine: Engine, turns: list[Turn], settings: Settings) -> AsyncIterator[Turn]:
    """The answer to a conversation, as far as it has come; leaving the iteration stops it.

    Raises:
        SwiftError: it cannot be answered.
    """
    own = Turn("assistant", "")
    async for delta in engine.stream_async(request_of(turns, settings), settings.request_config()):
        for piece in delta.pieces:
            if piece.kind == "reasoning":
                own.reasoning += piece.text
            elif piece.kind == "content":
                own.text += piece.text
        yield own


def request_of(turns: list[Turn], settings: Settings) -> InferRequest:
    """The request for the answer to a conversation.

    Raises:
        SwiftError: a file is neither picture nor film nor sound.
    """
    messages = [Message(role="system", content=settings.system)] if settings.system else []
    messages += [message_of(turn) for turn in turns]
    return InferRequest(messages, adapter=settings.model)


def message_of(turn: Turn) -> Message:
    """One turn as engines take it, the files before the text.

    Raises:
        SwiftError: a file is neither picture nor film nor sound.
    """
    content: Any = turn.text
    if turn.files:
        content = [*(part_of(kind_of(file), file) for file in turn.files), {"type": "text", "text": turn.text}]
    message = Message(role=turn.role, content=content)
    if turn.reasoning:
        message["reasoning_content"] = turn.reasoning
    return message


def kind_of(file: str) -> str:
    """image, video or audio.

    Raises:
        SwiftError: it is none of them.
    """
    kind = (mimetypes.guess_type(file)[0] or "").partition("/")[0]
    if kind not in KINDS:
        raise SwiftError(f"{file} is neither a picture, nor a film, nor a sound", fix="send another file")
    return kind
