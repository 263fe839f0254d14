"""Showing a sample: which of its text is trained."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Any

from swift.rows import IGNORE, EncodedRow, Rendered

GREEN, DIM, RESET = "\033[32m", "\033[2m", "\033[0m"


def trained_spans(encoded: EncodedRow, tokenizer: Any) -> list[tuple[str, bool]]:
    """The text of a sample in runs, each with whether it is trained; joined they are the sample's text.

    The text is that of the render where the sample still has it, else that of the decoded tokens. A character whose
    bytes lie in tokens of both kinds belongs to one of them.
    """
    marks = (encoded.labels != IGNORE).tolist()
    ends = [(list(group)[-1] + 1, trained) for trained, group in groupby(range(len(marks)), key=marks.__getitem__)]
    if encoded.rendered is None:
        texts = _decoded(encoded.input_ids.tolist(), [end for end, _ in ends], tokenizer)
    else:
        texts = _cut(encoded.rendered, [end for end, _ in ends])
    runs: list[tuple[str, bool]] = []
    for text, (_, trained) in zip(texts, ends, strict=True):
        if text and runs and runs[-1][1] == trained:
            runs[-1] = (runs[-1][0] + text, trained)
        elif text:
            runs.append((text, trained))
    return runs


def _cut(rendered: Rendered, ends: list[int]) -> list[str]:
    """The render between the ends of runs of tokens."""
    places = [0, *(int(rendered.stops[end - 1]) for end in ends[:-1]), len(rendered.text)]
    return [rendered.text[start:stop] for start, stop in pairwise(places)]


def _decoded(ids: list[int], ends: list[int], tokenizer: Any) -> list[str]:
    """The decoded text between the ends of runs of tokens."""
    texts, shown = [], ""
    for end in ends:
        text = tokenizer.decode(ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if end < len(ids):
            text = text.rstrip("\ufffd")
        texts.append(text[len(shown) :])
        shown = text
    return texts


def token_pieces(encoded: EncodedRow, tokenizer: Any) -> list[tuple[int, str, bool]]:
    """Each token of a sample: its id, the text that it adds, and whether it is trained."""
    ids = encoded.input_ids.tolist()
    if encoded.rendered is None:
        texts = [tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in ids]
    else:
        texts = _cut(encoded.rendered, list(range(1, len(ids) + 1)))
    return list(zip(ids, texts, (encoded.labels != IGNORE).tolist(), strict=True))


def coloured(encoded: EncodedRow, tokenizer: Any) -> str:
    """The text of a sample for a terminal: trained text green, the rest dim, line ends visible."""
    parts = []
    for text, trained in trained_spans(encoded, tokenizer):
        parts.append((GREEN if trained else DIM) + text.replace("\n", "⏎\n") + RESET)
    return "".join(parts)
