"""Rows as a run would read and encode them, one after the other, failures among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from swift.config import DataConfig
from swift.config.commands import ShowConfig
from swift.data import Dropped
from swift.data.drops import BadRow
from swift.data.loading import checked_row
from swift.data.sources import parse_name, read_records
from swift.data.truncation import Truncation, shorten
from swift.errors import SwiftError
from swift.rows import EncodedRow, Row, Source
from swift.templates.conversations import CONVERSATIONS, conversation_row

if TYPE_CHECKING:
    from swift.templates import Template

BUILT_IN = "built-in"


@dataclass(frozen=True)
class Shown:
    """What became of a row: its samples, or why it cannot be used.

    Attributes:
        row: its number, counted from 0 in the order of reading.
        source: where it stands, or the name of a built-in conversation.
    """

    row: int
    source: str
    samples: list[EncodedRow]
    error: str | None = None


def show_rows(config: ShowConfig, template: Template, longest: int | None) -> Iterator[Shown]:
    """Every row of `--row`, or the built-in conversations.

    Args:
        config: options of the command.
        template: encodes them.
        longest: the longest sample in tokens, as in training; None means no limit.

    Raises:
        SwiftError: a file cannot be read at all; rows that cannot be used are part of the answer.
    """
    for number, (row, source, problem) in enumerate(_rows(config)):
        where = str(source) if source.name != BUILT_IN else list(CONVERSATIONS)[source.line - 1]
        if row is None:
            yield Shown(number, where, [], problem)
            continue
        try:
            samples = template.encode(row, source)
            pieces = _shortened(samples, longest, config.template.truncation_strategy)
        except SwiftError as error:
            yield Shown(number, where, [], f"{error.what}; {error.fix}" if error.fix else error.what)
        else:
            yield Shown(number, where, pieces)


def _shortened(samples: list[EncodedRow], longest: int | None, strategy: Truncation) -> list[EncodedRow]:
    pieces = [piece for sample in samples for piece in shorten(sample, longest, strategy) if piece.trained]
    if not pieces:
        raise SwiftError(
            f"no token that carries loss is left within --max_length {longest}: "
            f"the row's samples have {', '.join(str(sample.length) for sample in samples)} tokens",
            fix="raise --max_length or choose another --truncation_strategy",
        )
    return pieces


def _rows(config: ShowConfig) -> Iterator[tuple[Row | None, Source, str]]:
    if not config.rows.row:
        for number, name in enumerate(CONVERSATIONS, 1):
            yield conversation_row(name), Source(BUILT_IN, number), ""
        return
    ours = config.rows
    data = DataConfig(columns=ours.columns, model_name=ours.model_name, model_author=ours.model_author)
    for name in ours.row:
        wanted = parse_name(name, "row")
        use_hf, token = config.model.use_hf, config.model.hub_token
        records = read_records(wanted, data, use_hf=use_hf, hub_token=token, option="row")
        for record in islice(records, wanted.rows):
            if isinstance(record, Dropped):
                yield None, record.source or Source(name, 0), record.reason
                continue
            try:
                yield checked_row(record[0], data, answers=True), record[1], ""
            except BadRow as error:
                yield None, record[1], str(error)
