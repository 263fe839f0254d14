"""How byte-level tokenizers cut a text into words, by their own regular expressions."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from unicodedata import category

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How the tokenizers library cuts words where a byte-level pre-tokenizer has no expression of its own."""

CATEGORIES = frozenset({category(chr(at)) for at in range(0x250)} | {"L", "M", "N", "P", "S", "Z", "Lm", "Lo", "Lt"})
"""General categories of characters that expressions name."""

SYNTAX = re.compile(r"\\p\{(\w+)\}|\\.|.", re.DOTALL)


class Cutter:
    """Cuts by one expression after another.

    Args:
        patterns: the expressions; what one of them matches is a word, and what lies between.
        engine: `re` or `regex`.
    """

    def __init__(self, patterns: Sequence[str], engine: Any) -> None:
        self._cuts = [engine.compile(f"({pattern})") for pattern in patterns]
        if any(cut.groups != 1 for cut in self._cuts):
            raise ValueError("an expression with groups")
        self._find = engine.compile(patterns[-1]).findall

    def __call__(self, text: str) -> list[str]:
        """The words, which are the whole text."""
        parts = [text]
        for cut in self._cuts[:-1]:
            if cut.search(text):
                parts = [piece for part in parts for piece in cut.split(part) if piece]
        if len(parts) == 1:
            return self._words(text)
        words: list[str] = []
        for part in parts:
            # Digits often stand alone; one character is one word.
            words += (part,) if len(part) == 1 else self._words(part)
        return words

    def _words(self, part: str) -> list[str]:
        found: list[str] = self._find(part)
        if sum(map(len, found)) == len(part):
            return found
        # What an expression leaves out is a word as well.
        return [piece for piece in self._cuts[-1].split(part) if piece]


def ascii_cutter(patterns: Sequence[str]) -> Cutter | None:
    """The same cuts for ASCII text alone, which the standard library makes faster; None where it cannot."""
    try:
        return Cutter([f"(?a:{_for_ascii(pattern)})" for pattern in patterns], re)
    except (ValueError, re.error):
        return None


def _for_ascii(pattern: str) -> str:
    """An expression with the ASCII characters of each category in place of its name."""
    written, inside = [], False
    for match in SYNTAX.finditer(pattern):
        piece, name = match[0], match[1]
        if name:
            if name not in CATEGORIES:
                raise ValueError(f"no category {name}")
            chars = "".join(re.escape(chr(at)) for at in range(128) if category(chr(at)).startswith(name))
            # A class must not be empty: this stands for nothing in ASCII text.
            chars = chars or "\x80"
            piece = chars if inside else f"[{chars}]"
        elif piece in "[]":
            inside = piece == "["
        written.append(piece)
    return "".join(written)


def patterns_of(pre_tokenizer: Any) -> list[str]:
    """The expressions by which a pre-tokenizer cuts a text, in their order.

    Raises:
        ValueError: it cuts in another way, or not down to bytes.
    """
    told = told_of(pre_tokenizer)
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


def told_of(part: Any) -> dict[str, Any]:
    """What a part of a tokenizer is, as its file has it."""
    return dict(json.loads(part.__getstate__()))
