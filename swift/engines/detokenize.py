"""From token ids to text: piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

REPLACEMENT = "\ufffd"


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of these tokens, special ones included: reasoning and tool calls may be marked by them."""
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


class TextStream:
    """Decodes tokens one by one.

    It gives text out only when no later token can change it: never half a character, and never what may turn out to
    be the beginning of a stop text.

    Args:
        stop: texts that end the stream.
        whole: nobody reads the text before its end, so that without stop texts it is decoded once.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), *, whole: bool = False) -> None:
        self._tokenizer, self._stop, self._late = tokenizer, list(stop), whole and not stop
        self._ids: list[int] = []
        # Text up to `_read` is decoded; decoding starts at `_start`, for decoders look at the neighbour to the left.
        self._start = self._read = 0
        self._held = ""
        self.matched: str | None = None
        """The stop text that was seen; what follows it is dropped."""

    @property
    def stopped(self) -> bool:
        """Whether a stop text was seen."""
        return self.matched is not None

    def push(self, token: int) -> str:
        """Take one token and give the text that is certain now."""
        self._ids.append(token)
        return "" if self.stopped or self._late else self._release(self._decode_new(final=False), final=False)

    def finish(self) -> str:
        """Give the text that was held back."""
        return "" if self.stopped else self._release(self._decode_new(final=True), final=True)

    def _decode_new(self, final: bool) -> str:
        known = decode(self._tokenizer, self._ids[self._start : self._read])
        whole = decode(self._tokenizer, self._ids[self._start :])
        if len(whole) <= len(known) or (whole.endswith(REPLACEMENT) and not final):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return whole[len(known) :]

    def _release(self, new: str, final: bool) -> str:
        text = self._held + new
        found = [(at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            at, self.matched = min(found)
            self._held = ""
            return text[:at]
        keep = 0 if final else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
