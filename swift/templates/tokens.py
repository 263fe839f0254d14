"""From rendered text to token ids: one call with offsets in the ordinary case, parts where the text must not merge."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from swift.templates.provenance import LITERAL

Spans = Sequence[tuple[int, int]]


@dataclass
class Tokens:
    """Token ids and, for each, the characters `[start, stop)` it stands for."""

    ids: list[int]
    starts: list[int]
    stops: list[int]

    def extend(self, other: Tokens, shift: int) -> None:
        """Append tokens of a later part of the text."""
        self.ids += other.ids
        self.starts += [start + shift for start in other.starts]
        self.stops += [stop + shift for stop in other.stops]


class Encoder:
    """Tokenises renders so that only the template can write control tokens.

    Args:
        tokenizer: a transformers tokenizer; a slow one, without offsets, is given the parts one by one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
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
        self._window_ids = lru_cache(maxsize=4096)(lambda text: tuple(self._middle(text, False).ids))

    def _backend(self, text: str, as_text: bool) -> Tokens:
        if not self.fast:
            ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=as_text)
            return Tokens(list(ids), [0] * len(ids), [len(text)] * len(ids))
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
        starts, stops, before, last = [], [], 0, (-1, -1)
        for start, stop in encoding.offsets:
            # Byte-level post-processors may leave a token's leading spaces out of its offsets, and tokens that
            # share one character all start where it starts.
            starts.append(starts[-1] if (start, stop) == last else min(start, before))
            before, last = max(stop, before), (start, stop)
            stops.append(before)
        return Tokens(encoding.ids, starts, stops)

    def _middle(self, text: str, as_text: bool) -> Tokens:
        """Tokenise a part that does not stand at the start: SentencePiece must not put a space before it."""
        if self._prefixes:
            tokens = self._backend("\n" + text, as_text)
            if tokens.ids[: len(self._joint)] == self._joint:
                cut = len(self._joint)
                shift = [max(start - 1, 0) for start in tokens.starts[cut:]]
                return Tokens(tokens.ids[cut:], shift, [stop - 1 for stop in tokens.stops[cut:]])
        return self._backend(text, as_text)

    def control_text(self, text: str, origins: str) -> list[tuple[int, int]]:
        """Where the contents of messages spell out a control token."""
        return [m.span() for m in self.pattern.finditer(text) if origins[m.start() : m.end()].strip(LITERAL)]

    def encode(self, text: str, origins: str, cuts: Sequence[int] = (), *, control_as_text: bool = True) -> Tokens:
        """Tokenise a render.

        Args:
            text: the render.
            origins: one origin per character.
            cuts: places that no token may cross; the text up to the first and from each on is tokenised alone.
            control_as_text: encode control tokens that contents spell out as plain text.
        """
        found = self.control_text(text, origins) if control_as_text else []
        if not found and not cuts:
            return self._backend(text, False)
        tokens = Tokens([], [], [])
        for start, stop, as_text in self._parts(text, cuts, found):
            part = text[start:stop]
            tokens.extend(self._backend(part, as_text) if start == 0 else self._middle(part, as_text), start)
        return tokens

    def unstable(self, tokens: Tokens, text: str, cuts: Sequence[int]) -> list[int]:
        """The cuts before which the text alone gives other ids than `tokens`, so that no server sends them."""
        return [cut for cut in cuts if not self._stable(tokens, text, cut)]

    def _stable(self, tokens: Tokens, text: str, cut: int) -> bool:
        """Whether the ids before the cut are what the text before it gives alone, from the last control token on."""
        if cut in (0, len(text)):
            return True
        after = bisect_left(tokens.stops, cut + 1)
        if after < len(tokens.starts) and tokens.starts[after] < cut:
            return False
        begin = 0
        for match in self.pattern.finditer(text, max(0, cut - 200), cut):
            begin = match.start()
        first = bisect_left(tokens.starts, begin)
        return tuple(tokens.ids[first:after]) == self._window_ids(text[begin:cut])

    def _parts(self, text: str, cuts: Sequence[int], found: Spans) -> list[tuple[int, int, bool]]:
        """Cut at `cuts`, and around each stretch between the template's control tokens that spells one out."""
        edges = [(0, False)]
        dirty: list[tuple[int, int]] = []
        if found:
            inside = set(found)
            ours = [m for m in self.pattern.finditer(text) if m.span() not in inside]
            bounds = [(0, 0), *(m.span() for m in ours), (len(text), len(text))]
            for (_, left), (right, _) in zip(bounds, bounds[1:], strict=False):
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
