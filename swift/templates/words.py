"""Byte-level BPE without the tokenizer's overhead: a text is cut into words, and the tokens of a word are remembered.

A byte-level tokenizer first cuts a text into words by regular expressions and then merges each word by itself, so the
tokens of a text are those of its words, one after the other. What is not certain to be cut alike here (rare characters,
other kinds of tokenizers) is left to the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

Part = tuple[list[int], np.ndarray, np.ndarray]

WORDS = 1 << 18
"""Words that are remembered at most."""

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How the tokenizers library cuts words where a byte-level pre-tokenizer has no expression of its own."""

SAFE = (
    "\t\n\r\x20-\x7e\u00a1-\u00ac\u00ae-\u017e\u0391-\u03a1\u03a3-\u03a9\u03b1-\u03c9\u0410-\u044f\u2010-\u2015"
    "\u2018-\u2026\u20ac\u2190-\u21ff\u3001-\u3003\u3008-\u3011\u3041-\u3094\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
    "\uff01-\uff5e\U0001f300-\U0001f320\U0001f400-\U0001f4fc\U0001f600-\U0001f640"
)
"""Characters whose class no version of Unicode has changed since 6.1, that are composed, and that no engine folds to an
ASCII letter."""

PROBE = "Tom's 12345 and I'LL go,  twice!\n\n \tEnd.\r\n\r\n   x"


class Words:
    """The tokens of texts and their places.

    Args:
        backend: a tokenizer of the `tokenizers` library.
        added: its added tokens, which are cut out before all else, and their ids.

    Raises:
        ValueError: it is none whose words can be told beforehand.
    """

    def __init__(self, backend: Any, added: Mapping[str, int]) -> None:
        import regex

        model = backend.model
        unlike = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
        if type(model).__name__ != "BPE" or any(getattr(model, name) for name in unlike):
            raise ValueError("not a byte-level BPE")
        if backend.normalizer is not None and _told(backend.normalizer)["type"] != "NFC":
            raise ValueError("the text is changed before it is cut")
        if backend.pre_tokenizer is None:
            raise ValueError("the text is not cut")
        self._model, self._given = model, added
        longest_first = sorted(added, key=len, reverse=True)
        self._added = regex.compile("(" + ("|".join(map(regex.escape, longest_first)) or "(?!)") + ")")
        self._cuts = [regex.compile(f"({pattern})") for pattern in _patterns(_told(backend.pre_tokenizer))]
        if any(cut.groups != 1 for cut in self._cuts):
            raise ValueError("an expression with groups")
        self._last = regex.compile(self._cuts[-1].pattern[1:-1])
        self._unsafe = regex.compile(f"[^{SAFE}]").search
        self._bytes = {at: char for char, at in _byte_of_char().items()}
        self._forget()
        self._check(backend)

    def _forget(self) -> None:
        # One look-up gives the ids and how far each token carries the place in the text.
        self._known: dict[str, tuple[Sequence[int], Sequence[int]]] = {
            text: ((at,), (len(text),)) for text, at in self._given.items()
        }
        self._parted: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str, ask: Callable[[str], Part]) -> Part:
        """Token ids, and where each token starts and stops in the text; a token inside a character has all of it.

        Args:
            text: any text.
            ask: the tokenizer itself, for parts between added tokens that are not certain to be cut alike.

        Returns:
            The ids, starts and stops: int64[tokens].
        """
        parts = self._added.split(text)
        if not self._unsafe(text):
            return self._join([word for at, part in enumerate(parts) for word in self._words(part, at)])
        found: list[tuple[int, Part]] = []
        at = 0
        for number, part in enumerate(parts):
            if part:
                safe = number % 2 or not self._unsafe(part)
                found.append((at, self._join(self._words(part, number)) if safe else ask(part)))
            at += len(part)
        ids = [each for _, (part_ids, _, _) in found for each in part_ids]
        starts = np.concatenate([part_starts + at for at, (_, part_starts, _) in found])
        return ids, starts, np.concatenate([part_stops + at for at, (_, _, part_stops) in found])

    def _words(self, part: str, number: int) -> list[str]:
        """The words of a part; each second one is an added token."""
        return [part] if number % 2 else self._cut(part)

    def _cut(self, text: str) -> list[str]:
        parts = [text]
        for cut in self._cuts[:-1]:
            if cut.search(text):
                parts = [piece for part in parts for piece in cut.split(part) if piece]
        words: list[str] = []
        for part in parts:
            found = self._last.findall(part)
            # What an expression leaves out is a word as well.
            if sum(map(len, found)) != len(part):
                found = [piece for piece in self._cuts[-1].split(part) if piece]
            words += found
        return words

    def _join(self, words: list[str]) -> Part:
        try:
            known = [self._known[word] for word in words]
        except KeyError:
            self._learn(words)
            known = [self._known[word] for word in words]
        every, steps = zip(*known, strict=True)
        widths = np.array(list(chain.from_iterable(steps)), np.int64)
        stops = np.cumsum(widths)
        if self._parted and not self._parted.keys().isdisjoint(words):
            widths = np.array([at for word in words for at in self._parted.get(word, self._known[word][1])], np.int64)
        return list(chain.from_iterable(every)), stops - widths, stops

    def _learn(self, words: list[str]) -> None:
        if len(self._known) >= WORDS:
            self._forget()
        for word in words:
            if word in self._known:
                continue
            tokens = self._model.tokenize(word.encode().decode("latin-1").translate(self._bytes))
            ids, lengths = tuple([token.id for token in tokens]), tuple([len(token.value) for token in tokens])
            self._known[word] = ids, lengths
            if not word.isascii():
                # The character that each byte belongs to.
                owner = np.repeat(np.arange(len(word)), [len(char.encode()) for char in word])
                ends = np.cumsum(lengths)
                stops, starts = owner[ends - 1] + 1, owner[np.concatenate([[0], ends[:-1]])]
                steps = tuple(np.diff(stops, prepend=0).tolist())
                self._known[word] = ids, steps
                if (whole := tuple((stops - starts).tolist())) != steps:
                    self._parted[word] = whole

    def _check(self, backend: Any) -> None:
        """Compare with the tokenizer, on a probe and on the characters that count as safe."""
        from unicodedata import is_normalized

        import regex

        every = regex.findall(f"[{SAFE}]", "".join(map(chr, chain(range(9, 0xD800), range(0xE000, 0x1F700)))))
        # Ideographs and Hangul are thousands of one kind: some stand for all.
        few = [char for at, char in enumerate(every) if not "\u4e00" <= char <= "\ud7a3" or at % 64 == 0]
        text = PROBE + "".join(f" {char}a{char}1{char}{char} .{char}" for char in few)
        if not is_normalized("NFC", "".join(every)):
            raise ValueError("characters that are not composed")
        if self._join(self._cut(text))[0] != backend.encode(text, add_special_tokens=False).ids:
            raise ValueError("words are cut differently")


def _told(part: Any) -> dict[str, Any]:
    """What a part of a tokenizer is, as its file has it."""
    return dict(json.loads(part.__getstate__()))


def _patterns(told: Any) -> list[str]:
    """The expressions by which a text is cut, in their order."""
    steps = told.get("pretokenizers", []) if told and told["type"] == "Sequence" else [told]
    patterns = []
    for step in steps:
        kind = step["type"] if step else None
        if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"] and "Regex" in step["pattern"]:
            patterns.append(step["pattern"]["Regex"])
        elif kind == "Digits" and step["individual_digits"]:
            patterns.append(r"\p{N}")
        elif kind == "ByteLevel" and not step["add_prefix_space"]:
            patterns += [GPT2] if step["use_regex"] else []
        else:
            raise ValueError(f"cut by {kind}")
    if not patterns or steps[-1]["type"] != "ByteLevel":
        raise ValueError("not cut to bytes")
    return patterns


def _byte_of_char() -> dict[str, int]:
    """How byte-level vocabularies write bytes: those that print as themselves, the others from U+0100 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + at): byte for at, byte in enumerate(hidden)}
