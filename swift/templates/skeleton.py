"""Memory of conversations of one shape: where the spans of a render lie, told by the template's own text in it."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from swift.templates.provenance import LITERAL, Traced
from swift.templates.turns import Span

RUN = re.compile(r"(.)\1*", re.DOTALL)
LIMIT = 512


@dataclass(frozen=True)
class Known:
    """Ends of spans as (run, place in it) pairs, each with a span like it, and the notes of the shape."""

    spans: tuple[tuple[tuple[int, int], tuple[int, int], Span], ...]
    notes: Counter[str]


def runs_of(text: Traced) -> list[tuple[int, int]]:
    """The stretches of one origin each, as (start, stop)."""
    return [match.span() for match in RUN.finditer(text.origins)]


def place_in(text: Traced, runs: Sequence[tuple[int, int]], at: int) -> tuple[int, int] | None:
    """A place as (run, place in it); None inside of a field."""
    if at == runs[-1][1]:
        return len(runs), 0
    run = bisect_right(runs, at, key=lambda span: span[0]) - 1
    inside = at - runs[run][0]
    return (run, inside) if not inside or text.origins[at] == LITERAL else None


def placed(known: Known, runs: Sequence[tuple[int, int]]) -> list[Span]:
    """The spans of a known shape in another conversation."""
    ends = [*(start for start, _ in runs), runs[-1][1]]
    return [replace(span, start=ends[a] + x, stop=ends[b] + y) for (a, x), (b, y), span in known.spans]


class Skeletons:
    """Remembers spans by shape and by every character that the template wrote, for the last shapes seen."""

    def __init__(self) -> None:
        self._known: OrderedDict[Any, Known] = OrderedDict()

    @staticmethod
    def _key(shape: Any, text: Traced, runs: Sequence[tuple[int, int]]) -> Any:
        origins, plain = text.origins, str.__getitem__
        return (
            shape,
            tuple(
                plain(text, slice(start, stop)) if origins[start] == LITERAL else origins[start] for start, stop in runs
            ),
        )

    def find(self, shape: Any, text: Traced, runs: Sequence[tuple[int, int]]) -> Known | None:
        """What is known of this shape."""
        key = self._key(shape, text, runs)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        return known

    def keep(
        self, shape: Any, text: Traced, runs: Sequence[tuple[int, int]], spans: Sequence[Span], notes: Counter[str]
    ) -> None:
        """Remember the spans, if all their ends lie in the template's own text or at its edges."""
        found = []
        for span in spans:
            start, stop = place_in(text, runs, span.start), place_in(text, runs, span.stop)
            if start is None or stop is None:
                return
            found.append((start, stop, span))
        self._known[self._key(shape, text, runs)] = Known(tuple(found), notes)
        if len(self._known) > LIMIT:
            self._known.popitem(last=False)
