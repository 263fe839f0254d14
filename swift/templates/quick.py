"""From a remembered shape straight to ids and labels, for rows whose text falls into known stretches.

Control tokens cut a render into stretches that are tokenised by themselves. Where a turn begins behind words of the
template that stay words of their own, and ends with a control token, its tokens are known without looking for them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np

from swift.rows import IGNORE, EncodedRow, Rendered, Source, TurnStart
from swift.templates.shapes import Match
from swift.templates.turns import Span
from swift.templates.words import Words, packed, unpacked

WIDTH = 4
"""Bytes of a packed id."""


@dataclass
class Stretch:
    """Text up to, or of, an added token.

    Attributes:
        pieces: texts of the template, and numbers of the shape's pieces that rows fill.
        ids: where all of it is the template's.
        head: words of the template behind which a turn begins.
    """

    pieces: list[str | int]
    ids: bytes | None = None
    head: list[str] | None = None

    def text(self, texts: Sequence[str]) -> str:
        """The text, from the filled pieces of a shape."""
        if len(self.pieces) == 1 and isinstance(only := self.pieces[0], int):
            return texts[only]
        return "".join([piece if isinstance(piece, str) else texts[piece] for piece in self.pieces])

    @property
    def lead(self) -> str:
        """What the template writes before the first field."""
        field = next((at for at, piece in enumerate(self.pieces) if not isinstance(piece, str)), None)
        return "".join(map(str, self.pieces[:field]))


@dataclass(frozen=True)
class Turn:
    """A span by the stretches that it begins in and ends before, and the tokens of the template in the first."""

    span: Span
    first: int
    head: int
    last: int


class Plan:
    """How rows of a shape become tokens.

    Args:
        match: a row of the shape.
        words: gives the tokens.

    Raises:
        ValueError: a turn begins or ends where tokens may merge.
    """

    def __init__(self, match: Match, words: Words) -> None:
        self.words = words
        self.stretches = [Stretch([])]
        for number, piece in enumerate(match.shape.pieces):
            if not isinstance(piece, str):
                self.stretches[-1].pieces.append(number)
                continue
            for at, text in enumerate(words.split(piece)):
                if at % 2:
                    self.stretches += [Stretch([text], packed([words.added[text]])), Stretch([])]
                elif text:
                    self.stretches[-1].pieces.append(text)
        for stretch in self.stretches:
            if stretch.ids is None and all(isinstance(piece, str) for piece in stretch.pieces):
                stretch.ids = words.encode_safe(stretch.lead)
        texts = [stretch.text(match.texts) for stretch in self.stretches]
        ends = [*accumulate(map(len, texts), initial=0)]
        self.turns = [self._turn(span, ends) for span in match.sample().spans]
        self._texts, self._ids = texts, [stretch.ids or b"" for stretch in self.stretches]
        self._filled = [(at, stretch) for at, stretch in enumerate(self.stretches) if stretch.ids is None]

    def _turn(self, span: Span, ends: Sequence[int]) -> Turn:
        first, last = (bisect_right(ends, place) - 1 for place in (span.start, span.stop))
        if span.stop != ends[last]:
            raise ValueError("a turn ends inside a stretch")
        if span.start == ends[first]:
            return Turn(span, first, 0, last)
        stretch = self.stretches[first]
        before = stretch.lead[: span.start - ends[first]]
        if stretch.head or len(before) < span.start - ends[first]:
            raise ValueError("a turn begins behind a field")
        stretch.head, stretch.ids = self.words.cut(before), None
        return Turn(span, first, len(self.words.ids(stretch.head)) // WIDTH, last)

    def encode(self, match: Match, source: Source | None) -> EncodedRow | None:
        """The sample of a row; None where its text may be cut otherwise."""
        words, texts, ids = self.words, self._texts.copy(), self._ids.copy()
        for at, stretch in self._filled:
            texts[at] = stretch.text(match.texts)
        if words.split(match.plain) != texts or not words.is_safe(match.plain):
            return None
        for at, stretch in self._filled:
            if stretch.head is None:
                ids[at] = words.stretch(texts[at])
                continue
            cut = words.cut(texts[at])
            if cut[: len(stretch.head)] != stretch.head:
                return None
            ids[at] = words.ids(cut)
        places = [*accumulate(map(len, ids), initial=0)]
        return self._labelled(unpacked(b"".join(ids)), places, match.plain, source)

    def _labelled(self, ids: np.ndarray, places: list[int], text: str, source: Source | None) -> EncodedRow | None:
        labels = np.full(len(ids), IGNORE, np.int32)
        starts = []
        for turn in self.turns:
            start, stop = places[turn.first] // WIDTH + turn.head, places[turn.last] // WIDTH
            labels[start:stop] = ids[start:stop]
            starts.append(TurnStart(turn.span.message, start, turn.span.thinking))
        row = EncodedRow(ids, labels, source, None, Rendered(text, tuple(starts), partial(self._stops, text, ids)))
        return row if row.trained else None

    def _stops(self, text: str, ids: np.ndarray) -> np.ndarray:
        return self.words.places(text, ids)[1]
