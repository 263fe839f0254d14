"""Byte-level BPE without the tokenizer's overhead: a text is cut into words, and the tokens of a word are remembered.

A byte-level tokenizer first cuts a text into words by regular expressions and then merges each word by itself, so the
tokens of a text are those of its words, one after the other. What is not certain to be cut alike here (rare characters,
other kinds of tokenizers) is left to the tokenizer.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any

import numpy as np

from swift.templates.cutting import Cutter, ascii_cutter, patterns_of, told_of

Part = tuple[list[int], np.ndarray, np.ndarray]

WORDS = 1 << 18
"""Words that are remembered at most."""

STRETCHES, SHORT = 512, 4096
"""Stretches of text that are remembered, and characters of the longest: system texts come again and again."""

SAFE = (
    "\t\n\r\x20-\x7e\u00a1-\u00ac\u00ae-\u017e\u0391-\u03a1\u03a3-\u03a9\u03b1-\u03c9\u0410-\u044f\u2010-\u2015"
    "\u2018-\u2026\u20ac\u2190-\u21ff\u3001-\u3003\u3008-\u3011\u3041-\u3094\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
    "\uff01-\uff5e\U0001f300-\U0001f320\U0001f400-\U0001f4fc\U0001f600-\U0001f640"
)
"""Characters whose class no version of Unicode has changed since 6.1, that are composed, and that no engine folds to an
ASCII letter."""

UNSAFE_ASCII = re.compile(r"[^\t\n\r\x20-\x7e]").search

PROBE = "Tom's 12345 and I'LL go,  twice!\n\n \tEnd.\r\n\r\n   x"


class Known(dict[str, bytes]):
    """The ids of words, int32 each, asked of a byte-level model when they first come.

    As bytes they lie together, where numbers would be objects all over the memory.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._before: dict[str, bytes] = {}
        self._tokenize = model.tokenize
        self._shown = {at: char for char, at in _byte_of_char().items()}

    def __missing__(self, word: str) -> bytes:
        ids = self._before.get(word)
        if ids is None:
            tokens = self._tokenize(word.encode().decode("latin-1").translate(self._shown))
            ids = packed([token.id for token in tokens])
        if len(self) >= WORDS:
            # The words that come again are found among those before, and lie together from then on.
            self._before = dict(self)
            self.clear()
        self[word] = ids
        return ids


def packed(ids: Sequence[int]) -> bytes:
    """Ids as int32."""
    return array("i", ids).tobytes()


def unpacked(ids: bytes) -> np.ndarray:
    """int32[tokens], the way back of `packed`; it may be written to."""
    return np.frombuffer(bytearray(ids), np.int32)


class Words:
    """The tokens of texts and their places.

    Args:
        backend: a tokenizer of the `tokenizers` library.
        added: its added tokens, which are cut out before all else, and their ids.

    Attributes:
        split: cuts a text at added tokens; each second part is one.

    Raises:
        ValueError: it is none whose words can be told beforehand.
    """

    def __init__(self, backend: Any, added: Mapping[str, int]) -> None:
        import regex

        model = backend.model
        unlike = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
        if type(model).__name__ != "BPE" or any(getattr(model, name) for name in unlike):
            raise ValueError("not a byte-level BPE")
        if backend.normalizer is not None and told_of(backend.normalizer)["type"] != "NFC":
            raise ValueError("the text is changed before it is cut")
        if backend.pre_tokenizer is None:
            raise ValueError("the text is not cut")
        self._backend, self.added = backend, added
        longest_first = sorted(added, key=len, reverse=True)
        self.split = re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")").split
        patterns = patterns_of(backend.pre_tokenizer)
        self._cut, self._cut_ascii = Cutter(patterns, regex), ascii_cutter(patterns)
        self._unsafe = regex.compile(f"[^{SAFE}]").search
        self._known = Known(model)
        self._remembered = lru_cache(STRETCHES)(self.encode_safe)
        self._check()

    def encode(self, text: str, ask: Callable[[str], Part]) -> Part:
        """Token ids, and where each token starts and stops in the text; a token inside a character has all of it.

        Args:
            text: any text.
            ask: the tokenizer itself, for parts between added tokens that are not certain to be cut alike.

        Returns:
            The ids, starts and stops: int64[tokens].
        """
        parts = self.split(text)
        if self.is_safe(text):
            whole = unpacked(b"".join(map(self._part, parts, range(len(parts)))))
            return whole.tolist(), *self.places(text, whole)
        found: list[tuple[int, Part]] = []
        at = 0
        for number, part in enumerate(parts):
            if number % 2 or self.is_safe(part):
                inside = unpacked(self._part(part, number))
                found.append((at, (inside.tolist(), *self.places(part, inside))))
            else:
                found.append((at, ask(part)))
            at += len(part)
        ids = [each for _, (part_ids, _, _) in found for each in part_ids]
        starts = np.concatenate([part_starts + at for at, (_, part_starts, _) in found])
        return ids, starts, np.concatenate([part_stops + at for at, (_, _, part_stops) in found])

    def _part(self, part: str, number: int) -> bytes:
        """The ids of a part; each second one is an added token."""
        return packed([self.added[part]]) if number % 2 else self.stretch(part)

    def is_safe(self, text: str) -> bool:
        """Whether a text is certain to be cut here as the tokenizer cuts it."""
        return not (UNSAFE_ASCII(text) if text.isascii() else self._unsafe(text))

    def cut(self, text: str) -> list[str]:
        """The words of a safe text without added tokens."""
        return self._cut_ascii(text) if self._cut_ascii and text.isascii() else self._cut(text)

    def stretch(self, text: str) -> bytes:
        """As `encode_safe`; short texts are remembered."""
        return self._remembered(text) if len(text) <= SHORT else self.encode_safe(text)

    def encode_safe(self, text: str) -> bytes:
        """The ids of a safe text without added tokens, int32 each."""
        return self.ids(self.cut(text))

    def ids(self, words: list[str]) -> bytes:
        """The ids of words, int32 each."""
        return b"".join(map(self._known.__getitem__, words))

    @cached_property
    def _widths(self) -> np.ndarray:
        """int64[ids], the bytes that each token stands for."""
        widths = {number: len(token) for token, number in self._backend.get_vocab(with_added_tokens=False).items()}
        widths |= {number: len(text.encode()) for text, number in self.added.items()}
        found = np.zeros(max(widths) + 1, np.int64)
        found[list(widths)] = list(widths.values())
        return found

    def places(self, text: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each of a safe text's tokens starts and stops in it: int64[tokens] each."""
        widths = self._widths[ids]
        stops = np.cumsum(widths)
        starts = stops - widths
        if text.isascii():
            return starts, stops
        # The character that each byte belongs to.
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        lengths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
        owner = np.repeat(np.arange(len(text)), lengths)
        return owner[starts], owner[stops - 1] + 1

    def _check(self) -> None:
        """Compare with the tokenizer, on a probe and on the characters that count as safe."""
        from unicodedata import is_normalized

        import regex

        every = regex.findall(f"[{SAFE}]", "".join(map(chr, chain(range(9, 0xD800), range(0xE000, 0x1F700)))))
        # Ideographs and Hangul are thousands of one kind: some stand for all.
        few = [char for at, char in enumerate(every) if not "\u4e00" <= char <= "\ud7a3" or at % 64 == 0]
        text = PROBE + "".join(f" {char}a{char}1{char}{char} .{char}" for char in few)
        if not is_normalized("NFC", "".join(every)):
            raise ValueError("characters that are not composed")
        if unpacked(self.encode_safe(text)).tolist() != self._backend.encode(text, add_special_tokens=False).ids:
            raise ValueError("words are cut differently")
        printed = [char for char in every if char.isascii()]
        pairs = PROBE + "".join(f"{one}{other}{other}{one} a{one}1{other}" for one in printed for other in printed)
        if self._cut_ascii and self._cut_ascii(pairs) != self._cut(pairs):
            self._cut_ascii = None


def _byte_of_char() -> dict[str, int]:
    """How byte-level vocabularies write bytes: those that print as themselves, the others from U+0100 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + at): byte for at, byte in enumerate(hidden)}
