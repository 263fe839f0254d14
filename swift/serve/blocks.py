"""An answer as blocks of reasoning, text and calls, one after the other, as other protocols than chats have it."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from swift.engines.base import Response
from swift.serve.chat import ChatWriter, Sent
from swift.serve.service import Asked

Kind = Literal["reasoning", "text", "call"]


@dataclass
class Block:
    """One of them.

    Attributes:
        place: its number in the answer.
        name: of the function that is called.
        id: of the call.
        text: the text, or the arguments as JSON.
        mark: what no other block of any answer has.
    """

    kind: Kind
    place: int
    name: str = ""
    id: str = ""
    text: str = ""
    mark: str = field(default_factory=lambda: secrets.token_hex(12))

    @property
    def arguments(self) -> Any:
        """The arguments of a call; an empty object where the answer was cut off within them."""
        try:
            return json.loads(self.text or "{}")
        except ValueError:
            return {}


@dataclass
class Step:
    """A step of a streamed answer: a block begins, gets text, or ends; the last has the response and no block."""

    kind: Literal["begin", "text", "end", "over"]
    block: Block | None = None
    text: str = ""
    response: Response | None = None


def blocks_of(message: dict[str, Any]) -> list[Block]:
    """The blocks of a whole answer in OpenAI's form."""
    return [step.block for step in _steps([], [message]) if step.kind == "end" and step.block is not None]


async def stream_blocks(writer: ChatWriter, asked: Asked) -> AsyncIterator[Step]:
    """The steps of a streamed answer.

    Raises:
        ApiError: generation failed.
    """
    open_blocks: list[Block] = []
    async for delta, found in writer.parts(asked, [Sent()]):
        for step in _steps(open_blocks, found, final=delta.response is not None):
            yield step
        if delta.response is not None:
            yield Step("over", response=delta.response)


def _steps(blocks: list[Block], deltas: list[dict[str, Any]], *, final: bool = True) -> Iterator[Step]:
    """What deltas add to the blocks so far."""
    for delta in deltas:
        for kind, text, call in _parts(delta):
            if not blocks or blocks[-1].kind != kind or call:
                if blocks:
                    yield Step("end", blocks[-1])
                blocks.append(Block(kind, len(blocks), **call))
                yield Step("begin", blocks[-1])
            if text:
                blocks[-1].text += text
                yield Step("text", blocks[-1], text)
    if final and blocks:
        yield Step("end", blocks[-1])


def _parts(delta: dict[str, Any]) -> Iterator[tuple[Kind, str, dict[str, str]]]:
    if text := delta.get("reasoning_content"):
        yield "reasoning", text, {}
    if text := delta.get("content"):
        yield "text", text, {}
    for call in delta.get("tool_calls") or ():
        function = call["function"]
        new = {"name": function["name"], "id": call["id"]} if function.get("name") else {}
        yield "call", function.get("arguments") or "", new
