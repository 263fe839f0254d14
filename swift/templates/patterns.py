"""Loss scales as tables: what an answer holds, and the weight that it gives to it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from swift.errors import SwiftError

Stretch = tuple[int, int, float]
"""Characters `[start, stop)` of an answer and the weight of their tokens."""

Scale = Callable[[str, str], list[Stretch]]
"""From an answer, without the token that stops it, and the text of the turn before it to the stretches that do not
weigh 1, in their order."""

BUILTIN = Path(__file__).parent / "table" / "loss_scales.json"
FORM = 'write {"PATTERN": WEIGHT, …} with regular expressions, or {"WORD": [WEIGHT OF THE WORD, WEIGHT BEHIND IT], …}'


class PatternTable:
    """A scale out of a table.

    A key with one weight is a regular expression (`.` matches line ends too); what it matches has that weight. A key
    with two weights is a word as it stands: it has the first, and what follows, up to the next such word, the second.
    Where several match, the one that begins first counts, then the one that is written first. The table may be split
    into `response` and `query`: where a text of `query` stands in the turn before, the whole answer has its weight.

    Raises:
        SwiftError: the table has another form.
    """

    def __init__(self, table: Any, place: str) -> None:
        query: Any = {}
        if isinstance(table, dict) and "response" in table and isinstance(table["response"], dict):
            query, table = table.get("query", {}), table["response"]
        if not isinstance(table, dict) or not isinstance(query, dict) or not (table or query):
            raise SwiftError("the loss scale is no table of weights", where=place, fix=FORM)
        self._query = {text: _weights(text, value, place, (1,))[0] for text, value in query.items()}
        read = {pattern: _weights(pattern, value, place, (1, 2)) for pattern, value in table.items()}
        if len({len(weights) for weights in read.values()}) > 1:
            raise SwiftError(
                "the loss scale has keys with one weight and keys with two",
                where=place,
                fix="put them into two files and join these with +: --loss_scale one.json+two.json",
            )
        self._patterns = [(_compiled(key, len(weights) == 2, place), weights) for key, weights in read.items()]

    def __call__(self, answer: str, before: str) -> list[Stretch]:
        """The stretches of an answer behind a turn."""
        for text, weight in self._query.items():
            if text in before:
                return [(0, len(answer), weight)]
        found = list(self._matches(answer))
        ends = [*(start for start, _, _ in found), len(answer)][1:]
        stretches = []
        for (start, stop, weights), end in zip(found, ends, strict=True):
            stretches.append((start, stop, weights[0]))
            if len(weights) == 2:
                stretches.append((stop, end, weights[1]))
        return stretches

    def _matches(self, answer: str) -> Iterator[tuple[int, int, tuple[float, ...]]]:
        live = [(match, pattern, weights) for pattern, weights in self._patterns if (match := pattern.search(answer))]
        while live:
            first, _, weights = min(live, key=lambda each: each[0].start())
            start, stop = first.span()
            if stop > start:
                yield start, stop, weights
            at = max(stop, start + 1)
            # A match that this one has run into is looked for again behind it.
            again = [(m if m.start() >= at else p.search(answer, at), p, w) for m, p, w in live]
            live = [(match, pattern, weights) for match, pattern, weights in again if match]


def _weights(key: str, value: Any, place: str, sizes: tuple[int, ...]) -> tuple[float, ...]:
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) not in sizes or not all(is_weight(number) for number in numbers):
        raise SwiftError(f"the loss scale gives {key!r} the weight {json.dumps(value)}", where=place, fix=FORM)
    return tuple(map(float, numbers))


def is_weight(value: Any) -> bool:
    """Whether a value can weigh a token: a number from 0 on."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


def _compiled(key: str, word: bool, place: str) -> re.Pattern[str]:
    try:
        return re.compile(re.escape(key) if word else key, re.DOTALL)
    except re.error as error:
        raise SwiftError(f"{key!r} is not a regular expression: {error}", where=place, fix="mend the key") from None


@cache
def builtin_tables() -> Mapping[str, Any]:
    """The tables that come with the library, by name."""
    return dict(json.loads(BUILTIN.read_text(encoding="utf-8")))


def read_table_file(path: str) -> Any:
    """The table that a JSON file holds.

    Raises:
        SwiftError: the file is not there or is not JSON.
    """
    try:
        return json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise SwiftError(
            f"--loss_scale {path} cannot be read: {error.strerror}", fix="name a JSON file that exists"
        ) from None
    except ValueError as error:
        raise SwiftError(f"--loss_scale {path} is not JSON: {error}", fix=FORM) from None
