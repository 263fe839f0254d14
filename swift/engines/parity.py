"""The check that serving sends the very prompts that training puts before its answers, id for id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swift.engines.base import InferRequest
from swift.engines.prompts import encode_prompt
from swift.errors import SwiftError
from swift.rows import EncodedRow, Row, Source, TurnStart

if TYPE_CHECKING:
    from swift.templates import Template

ROWS, TURNS = 32, 64
"""How many rows and turns are checked at most: spread over the data, some milliseconds in all."""
AROUND = 120
"""Characters shown on each side of the place where two prompts part."""


@dataclass(frozen=True)
class Parity:
    """What was checked.

    Attributes:
        samples: samples whose turns were compared.
        turns: prompts compared.
    """

    samples: int
    turns: int

    def __str__(self) -> str:
        return f"{self.samples} samples checked"


def check_parity(template: Template, rows: Sequence[tuple[Row, Source]]) -> Parity:
    """Compare, for some rows, the prompt of each trained turn as the engines build it with what training saw.

    Rows that the template cannot encode are left to the stage that reports them.

    Args:
        template: what both sides render with; its counted warnings stay as they are.
        rows: the rows; `ROWS` of them, spread evenly, are checked, up to `TURNS` turns.

    Raises:
        SwiftError: a prompt differs; it names row and turn and shows both texts.
    """
    before, (samples, turns) = dict(template.notes), (0, 0)
    for row, source in spread(rows):
        if turns >= TURNS:
            break
        try:
            encoded = template.encode(row, source)
        except SwiftError:
            continue
        for sample in encoded:
            checked = sum(_check_turn(template, row, source, sample, turn) for turn in _turns(sample))
            samples, turns = samples + bool(checked), turns + checked
    template.notes.clear()
    template.notes.update(before)
    return Parity(samples, turns)


def check_deployment(template: Template, rows: Sequence[tuple[Row, Source]] = ()) -> Parity:
    """The same for an engine: on the built-in conversations, and on rows that it is to answer.

    Raises:
        SwiftError: as `check_parity`.
    """
    from swift.templates.conversations import CONVERSATIONS, conversation_row

    built_in = [(conversation_row(name), Source(f"built-in {name}", at)) for at, name in enumerate(CONVERSATIONS, 1)]
    found = [check_parity(template, each) for each in (built_in, rows)]
    return Parity(sum(each.samples for each in found), sum(each.turns for each in found))


def spread(rows: Sequence[tuple[Row, Source]]) -> Iterable[tuple[Row, Source]]:
    """The rows to check: `ROWS` at most, as far apart as they can be."""
    count = min(ROWS, len(rows))
    return (rows[at * len(rows) // count] for at in range(count))


def _turns(sample: EncodedRow) -> tuple[TurnStart, ...]:
    return sample.rendered.turns if sample.rendered else ()


def _check_turn(template: Template, row: Row, source: Source, sample: EncodedRow, turn: TurnStart) -> int:
    """Compare one prompt; 0 where no request can ask for the turn."""
    prepared, tools = template.prepared(row["messages"], row.get("tools"))
    messages: list[Any] = template.conversation(prepared)[: turn.message]
    if not messages or messages[-1]["role"] == "assistant":
        return 0
    request = InferRequest(messages, tools if template.shows_tools else None, chat_template_kwargs=turn.switches)
    served = encode_prompt(template, request, None)
    trained = sample.input_ids[: turn.token].tolist()
    if served != trained:
        raise _mismatch(template, source, turn, served, trained)
    return 1


def _mismatch(template: Template, source: Source, turn: TurnStart, served: list[int], trained: list[int]) -> SwiftError:
    at = next((at for at, (a, b) in enumerate(zip(served, trained, strict=False)) if a != b), None)
    at = min(len(served), len(trained)) if at is None else at

    def shown(ids: list[int]) -> str:
        before, behind = template.tokenizer.decode(ids[:at]), template.tokenizer.decode(ids[at:])
        return f"{before[-AROUND:]!r} ⟂ {behind[:AROUND]!r} (ids from there: {ids[at : at + 8]})"

    switches = f", with {turn.switches}" if turn.switches else ""
    return SwiftError(
        f"parity: the prompt that serving sends for message {turn.message + 1} is not what training puts before it"
        f"{switches}; they part at token {at} (⟂)\n  serving:  {shown(served)}\n  training: {shown(trained)}",
        where=str(source),
        fix="nothing is trained on a text that is never served: give a template that renders both alike with "
        "--chat_template FILE.jinja, or take the row out",
    )
