"""Showing a sample: which of its text is trained."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from swift.rows import IGNORE, EncodedRow

GREEN, DIM, RESET = "\033[32m", "\033[2m", "\033[0m"


def trained_spans(encoded: EncodedRow, tokenizer: Any) -> list[tuple[str, bool]]:
    """The text of a sample in runs, each with whether it is trained.

    A character whose bytes lie in tokens of both kinds belongs to the run that finishes it.
    """
    runs: list[tuple[str, bool]] = []
    ids = [int(token) for token in encoded.input_ids]
    done, shown = 0, ""
    marks = [bool(label != IGNORE) for label in encoded.labels]
    for trained, group in groupby(range(len(ids)), key=marks.__getitem__):
        done = list(group)[-1] + 1
        text = tokenizer.decode(ids[:done], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if done < len(ids):
            text = text.rstrip("\ufffd")
        piece, shown = text[len(shown) :], text
        if piece and runs and runs[-1][1] == trained:
            runs[-1] = (runs[-1][0] + piece, trained)
        elif piece:
            runs.append((piece, trained))
    return runs


def coloured(encoded: EncodedRow, tokenizer: Any) -> str:
    """The text of a sample for a terminal: trained text green, the rest dim, line ends visible."""
    parts = []
    for text, trained in trained_spans(encoded, tokenizer):
        parts.append((GREEN if trained else DIM) + text.replace("\n", "⏎\n") + RESET)
    return "".join(parts)
