"""Rows as a run would read and encode them, one after the other, failures among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swift.config import DataConfig
from swift.config.commands import ShowConfig
from swift.data import Dropped
from swift.data.encoding import RowEncoder
from swift.data.loading import iter_rows
from swift.rows import EncodedRow, Row, Source
from swift.templates.conversations import CONVERSATIONS, conversation_row

if TYPE_CHECKING:
    from swift.templates import Template

BUILT_IN = "built-in"


@dataclass(frozen=True)
class Shown:
    """What became of a row: its samples, and why it cannot be used or parts of it are lost.

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
    encoder = RowEncoder(template, longest, config.template.truncation_strategy)
    for number, item in enumerate(_rows(config)):
        if isinstance(item, Dropped):
            yield Shown(number, str(item.source or ""), [], item.reason)
            continue
        row, source = item
        where = str(source) if config.rows.row else list(CONVERSATIONS)[source.line - 1]
        found = encoder(row, source)
        lost = [each.reason for each in (*found.bad, *found.too_long, *found.dropped)]
        yield Shown(number, where, found.samples, "; ".join(lost) or None)


def _rows(config: ShowConfig) -> Iterator[tuple[Row, Source] | Dropped]:
    ours, model = config.rows, config.model
    if not ours.row:
        return ((conversation_row(name), Source(BUILT_IN, number)) for number, name in enumerate(CONVERSATIONS, 1))
    data = DataConfig(
        columns=ours.columns,
        disable_auto_column_mapping=ours.disable_auto_column_mapping,
        custom_dataset_info=ours.custom_dataset_info,
        model_name=ours.model_name,
        model_author=ours.model_author,
    )
    return iter_rows(ours.row, data, use_hf=model.use_hf, hub_token=model.hub_token, option="row")
