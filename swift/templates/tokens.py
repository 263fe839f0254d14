"""From rendered text to token ids: one call with offsets in the ordinary case, parts where the text must not merge."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from swift.templates.provenance import LITERAL
from swift.templates.words import Words

Spans = Sequence[tuple[int, int]]
HEADERS = 1024
NONE = np.zeros(0, dtype=np.int64)


@dataclass
class Tokens:
    """Token ids and, for each, the characters `[start, stop)` it stands for."""

    ids: list[int]
    starts: np.ndarray
    stops: np.ndarray

    def crosses(self, place: int) -> bool:
        """Whether a token stands for characters on both sides of a place in the text."""
        after = int(np.searchsorted(self.stops, place, "right"))
        return after < len(self.starts) and bool(self.starts[after] < place)

    def extend(self, other: Tokens, shift: int) -> None:
        """Append tokens of a later part of the text."""
        self.ids += other.ids
        self.starts = np.concatenate([self.starts, other.starts + shift])
        self.stops = np.concatenate([self.stops, other.stops + shift])


class Encoder:
    """Tokenises renders so that only the template can write control tokens.

    Args:
        tokenizer: a transformers tokenizer; a slow one, without offsets, is given the parts one by one.
        meant: control tokens that contents may write too.
    """

    def __init__(self, tokenizer: Any, meant: Collection[str] = ()) -> None:
        self.tokenizer, self.meant = tokenizer, frozenset(meant)
        self.fast = bool(getattr(tokenizer, "is_fast", False))
        added = getattr(tokenizer, "added_tokens_decoder", {})
        marked = {str(token): token for token in added.values() if token.special}
        for text in tokenizer.all_special_tokens:
            marked.setdefault(str(text), text)
        self.control = marked
        longest_first = sorted(marked, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._joint = self._backend("\n", False).ids
        self._prefixes = self._backend("\na", False).ids != self._joint + self._backend("a", False).ids
        self._prefixes_behind_control = self._prefixes and self._puts_a_prefix_behind_control()
        self._header_ids: dict[str, list[int]] = {}

    def _backend(self, text: str, as_text: bool) -> Tokens:
        if not self.fast:
            ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=as_text)
            return Tokens(list(ids), np.zeros(len(ids), np.int64), np.full(len(ids), len(text)))
        backend = self.tokenizer.backend_tokenizer
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        backend.encode_special_tokens = as_text
        try:
            encoding = backend.encode(text, add_special_tokens=False)
        finally:
            backend.encode_special_tokens = False
        if not encoding.ids:
            return Tokens([], NONE, NONE)
        offsets = np.asarray(encoding.offsets, dtype=np.int64)
        stops = np.maximum.accumulate(offsets[:, 1])
        # Byte-level post-processors may leave a token's leading spaces out of its offsets, and tokens that share one
        # character all start where it starts.
        starts = offsets[:, 0].copy()
        np.minimum(starts[1:], stops[:-1], out=starts[1:])
        for at in np.flatnonzero((offsets[1:] == offsets[:-1]).all(axis=1)):
            starts[at + 1] = starts[at]
        return Tokens(encoding.ids, starts, stops)

    @cached_property
    def words(self) -> Words | None:
        """The quicker way to the same tokens, where the tokenizer allows it."""
        given = getattr(self.tokenizer, "added_tokens_decoder", {})
        flags = ("lstrip", "rstrip", "single_word")
        added = {str(token): at for at, token in given.items()}
        stripping = any(getattr(token, flag) for token in given.values() for flag in flags)
        if not self.fast or stripping or not self.control.keys() <= added.keys():
            return None
        try:
            return Words(self.tokenizer.backend_tokenizer, added)
        except ValueError:
            return None

    def _whole(self, text: str) -> Tokens:
        if self.words is None or not text:
            return self._backend(text, False)
        return Tokens(*self.words.encode(text, self._part))

    def _part(self, text: str) -> tuple[list[int], np.ndarray, np.ndarray]:
        tokens = self._backend(text, False)
        return tokens.ids, tokens.starts, tokens.stops

    def _puts_a_prefix_behind_control(self) -> bool:
        """Whether text behind a control token starts as a whole text does, as in Llama 2's vocabulary ("legacy")."""
        token = next((text for text, token in self.control.items() if not getattr(token, "rstrip", False)), None)
        if token is None:
            return False
        ids = self._backend(token + "a", False).ids
        return ids[1:] == self._backend("a", False).ids != self._middle("a", False).ids

    def _middle(self, text: str, as_text: bool) -> Tokens:
        """Tokenise a part that does not stand at the start: SentencePiece must not put a space before it."""
        if self._prefixes:
            tokens = self._backend("\n" + text, as_text)
            if tokens.ids[: len(self._joint)] == self._joint:
                cut = len(self._joint)
                return Tokens(tokens.ids[cut:], np.maximum(tokens.starts[cut:] - 1, 0), tokens.stops[cut:] - 1)
        return self._backend(text, as_text)

    def control_text(self, text: str, origins: str) -> list[tuple[int, int]]:
        """Where the contents of messages spell out a control token that is the template's alone to write."""
        found = (m for m in self.pattern.finditer(text) if m[0] not in self.meant)
        return [m.span() for m in found if origins[m.start() : m.end()].strip(LITERAL)]

    def encode(self, text: str, as_text: Spans = (), cuts: Sequence[int] = ()) -> Tokens:
        """Tokenise a render.

        Args:
            text: the render.
            as_text: spelled-out control tokens that become plain text, from `control_text`.
            cuts: places that no token may cross; the text up to the first and from each on is tokenised alone.
        """
        if not as_text and not cuts:
            return self._whole(text)
        tokens = Tokens([], NONE, NONE)
        for start, stop, plain in self._parts(text, cuts, as_text):
            part = text[start:stop]
            at_start = start == 0 or (self._prefixes_behind_control and self._behind_control(text, start, as_text))
            tokens.extend(self._backend(part, plain) if at_start else self._middle(part, plain), start)
        return tokens

    def _behind_control(self, text: str, start: int, as_text: Spans) -> bool:
        found = [match.span() for match in self.pattern.finditer(text, max(0, start - 200), start)]
        return bool(found) and found[-1][1] == start and found[-1] not in set(as_text)

    def unstable(self, tokens: Tokens, text: str, as_text: Spans, cuts: Sequence[int]) -> list[int]:
        """The cuts before which the text alone gives other ids than `tokens`, so that no server sends them.

        Without offsets, `tokens` come from the parts between the cuts, and all cuts stand or fall together.
        """
        if not self.fast:
            return list(cuts) if tokens.ids != self.encode(text, as_text).ids else []
        return [cut for cut in cuts if not self._stable(tokens, text, cut)]

    def _stable(self, tokens: Tokens, text: str, cut: int) -> bool:
        """Whether the ids before the cut are what the text before it gives alone, from the last control token on."""
        if cut in (0, len(text)):
            return True
        if tokens.crosses(cut):
            return False
        after = int(np.searchsorted(tokens.stops, cut, "right"))
        begin = 0
        for match in self.pattern.finditer(text, max(0, cut - 200), cut):
            begin = match.start()
        first = int(np.searchsorted(tokens.starts, begin))
        return tokens.ids[first:after] == self._alone(text[begin:cut], begin == 0)

    def _alone(self, text: str, first: bool) -> list[int]:
        """The ids of what stands before a cut; headers are few and remembered."""
        if first:
            return self._backend(text, False).ids
        if text not in self._header_ids:
            if len(self._header_ids) >= HEADERS:
                self._header_ids.clear()
            self._header_ids[text] = self._middle(text, False).ids
        return self._header_ids[text]

    def _parts(self, text: str, cuts: Sequence[int], found: Spans) -> list[tuple[int, int, bool]]:
        """Cut at `cuts`, and around each stretch between the template's control tokens that spells one out."""
        edges = [(0, False)]
        dirty: list[tuple[int, int]] = []
        if found:
            inside = set(found)
            ours = [m for m in self.pattern.finditer(text) if m.span() not in inside]
            bounds = [(0, 0), *(m.span() for m in ours), (len(text), len(text))]
            for (_, left), (right, _) in pairwise(bounds):
                if any(left <= start < right for start, _ in found):
                    dirty.append((self._past_stripped(text, left), right))
        for left, right in dirty:
            edges += [(left, True), (right, False)]
        for cut in cuts:
            edges.append((cut, any(left <= cut < right for left, right in dirty)))
        edges = sorted(set(edges))
        stops = [*(start for start, _ in edges[1:]), len(text)]
        return [(start, stop, mark) for (start, mark), stop in zip(edges, stops, strict=True) if start < stop]

    def _past_stripped(self, text: str, left: int) -> int:
        """Some control tokens swallow the white space behind them; it then stays with them."""
        before = [m[0] for m in self.pattern.finditer(text, max(0, left - 200), left)]
        if before and getattr(self.control[before[-1]], "rstrip", False):
            return left + len(text[left:]) - len(text[left:].lstrip())
        return left
