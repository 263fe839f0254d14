"""From the columns that data sets have to a `Row`, recognised without being told."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from swift.data.drops import BadRow
from swift.data.kinds import Build, conversation, embedding, pair, plain_text, question, sentences, steps
from swift.data.turns import formats
from swift.data.values import value_of
from swift.hub.nearby import slips
from swift.rows import Row

FORMS = (
    "messages; conversations; instruction + output; query + response; prompt + completion; question + answer; text; "
    "chosen + rejected; query + positive; sentence1 + sentence2; prompt + completions + labels"
)
"""The forms as an error lists them."""

NEGATIVE = re.compile(r"(?:hard_)?negative_?\d+")
"""Columns that hold one negative each."""

SPEECH = ("query", "input", "response", "reasoning_content", "system", "history")
"""Columns that make up a question and its answer."""

KEPT = ("tools", "images", "videos", "audios", "objects", "margin", "label", "channel")
"""Columns that stay what they are beside a conversation."""


@dataclass(frozen=True)
class Plan:
    """What becomes of the columns of all rows that have the same ones.

    Attributes:
        read: (our name, the record's column) of those that make up the turns.
        build: the row's turns and what belongs to its form, from the columns read.
        kept: (our name, the record's column) of those that stay what they are.
        extra: (name, the record's column) of all others.
        unanswered: what is wrong where the query is a text, not a conversation that may hold its answer.
    """

    read: tuple[tuple[str, str], ...]
    build: Build
    kept: tuple[tuple[str, str], ...]
    extra: tuple[tuple[str, str], ...]
    unanswered: str


class RowMapper:
    """Maps records to rows; what is to be done is worked out once for each set of columns.

    Args:
        columns: the data's column names -> ours, applied first and all at once.
        answers: a question must have its answer, its label or its passages.
        auto: know columns by their other names too; else by ours alone.
    """

    def __init__(self, columns: Mapping[str, str] | None = None, *, answers: bool = True, auto: bool = True) -> None:
        self.columns, self.answers, self.auto = tuple(sorted((columns or {}).items())), answers, auto

    def __call__(self, record: Mapping[str, Any]) -> Row:
        """A record's row; its turns are not checked yet. Empty columns (None) are as good as absent.

        Raises:
            BadRow: the columns are none of the known forms, two go by one name, or a value does not fit its column.
        """
        present = tuple([name for name, value in record.items() if value is not None])
        plan = _plan(present, self.columns, self.answers, self.auto)
        read = {ours: value_of(ours, record[theirs]) for ours, theirs in plan.read}
        if plan.unanswered and not isinstance(read["query"], list):
            raise BadRow(plan.unanswered)
        row = plan.build(read)
        for ours, theirs in plan.kept:
            row[ours] = value_of(ours, record[theirs])
        if plan.extra:
            row["extra"] = _extra({name: record[theirs] for name, theirs in plan.extra})
        return cast(Row, row)


def to_row(
    record: Mapping[str, Any], columns: Mapping[str, str] | None = None, *, answers: bool = True, auto: bool = True
) -> Row:
    """The row of one record, as `RowMapper` makes it."""
    return RowMapper(columns, answers=answers, auto=auto)(record)


@lru_cache(maxsize=4096)
def _plan(present: tuple[str, ...], columns: tuple[tuple[str, str], ...], answers: bool, auto: bool) -> Plan:
    theirs = _renamed(present, dict(columns))
    names = _known(theirs, auto)
    takes, build = _form(names, answers)
    unanswered = ""
    if build is conversation and "messages" not in names and not names.keys() & {"response", "label", "solution"}:
        unanswered = _no_form(theirs, auto) if answers else ""
    if build is None:
        raise BadRow(_no_form(theirs, auto))
    read = {ours: name for ours, name in names.items() if ours in takes or NEGATIVE.fullmatch(ours)}
    kept = {ours: name for ours, name in names.items() if ours in KEPT and ours not in read}
    used = {*read.values(), *kept.values()}
    # What answers the question may also be what a reward checks it against.
    extra = [name for name in theirs if name not in used or name == names.get("solution")]
    return Plan(
        read=tuple((ours, theirs[name]) for ours, name in read.items()),
        build=build,
        kept=tuple((ours, theirs[name]) for ours, name in kept.items()),
        extra=tuple((name, theirs[name]) for name in extra),
        unanswered=unanswered,
    )


def _renamed(present: tuple[str, ...], columns: Mapping[str, str]) -> dict[str, str]:
    """The name that --columns gives each column -> the column."""
    renamed: dict[str, str] = {}
    for name in present:
        ours = columns.get(name, name)
        if ours in renamed:
            raise BadRow(f"two columns go by the name {ours!r} after --columns: map the other one away too")
        renamed[ours] = name
    return renamed


def _known(theirs: Mapping[str, str], auto: bool) -> dict[str, str]:
    """Our name -> the column's, for every column that is known."""
    aliases = formats()["columns"]
    known = {
        ours: next((name for name in (others if auto else [ours]) if name in theirs), None)
        for ours, others in aliases.items()
    }
    names = {ours: name for ours, name in known.items() if name is not None}
    if names.get("query") != "instruction":
        names.pop("input", None)
    return names | {name: name for name in theirs if NEGATIVE.fullmatch(name)}


def _form(names: Mapping[str, str], answers: bool) -> tuple[tuple[str, ...], Build | None]:
    """The first form whose columns are there: what it reads, and what builds a row of it."""
    there = names.keys()
    asked = "query" in there
    speech = ("messages", "system") if "messages" in there else SPEECH
    if {"chosen", "rejected"} <= there:
        return ("messages", "query", "input", "system", "history", "chosen", "rejected"), pair
    if asked and {"completions", "label"} <= there:
        return ("query", "system", "completions", "label"), steps
    if (asked or "messages" in there) and "positives" in there:
        return (*speech, "positives", "negatives"), embedding
    if {"sentence1", "sentence2"} <= there:
        return ("sentence1", "sentence2", "label" if "label" in there else "score"), sentences
    if "response" not in there and "text" in there and "messages" not in there and (answers or not asked):
        return ("text",), question if "label" in there or not answers else plain_text
    if asked and "response" not in there and "solution" in there and answers:
        speech = (*speech, "solution")
    if asked or "messages" in there:
        return (*speech, "rejected_messages", "rejected_response"), conversation
    return (), None


def _no_form(theirs: Mapping[str, str], auto: bool) -> str:
    alone = "" if auto else "; --disable_auto_column_mapping true knows a column by the first of its names alone"
    known = [name for others in formats()["columns"].values() for name in (others if auto else others[:1])]
    meant = {name: found[0] for name in theirs if name not in known and (found := slips(name.lower(), known))}
    slip = f"; did you mean --columns '{json.dumps(meant, ensure_ascii=False)}'?" if meant else ""
    return f"columns {', '.join(theirs) or '(none)'} are no known form: {FORMS}; name yours with --columns{alone}{slip}"


def _extra(others: dict[str, Any]) -> dict[str, Any]:
    """Other columns; one called `extra` holds those kept from an earlier pass, or else any value of the user's."""
    if "extra" not in others:
        return others
    given = others.pop("extra")
    if isinstance(given, str) and given.lstrip().startswith("{"):
        given = value_of("extra", given)
    return {**(given if isinstance(given, dict) else {"extra": given}), **others}
