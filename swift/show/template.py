"""`swift template`: the render, the tokens and the mask of rows, without the model's weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from swift.compat import quiet_libraries
from swift.config import Decisions
from swift.config.commands import ShowConfig
from swift.config.effect import note_without_effect
from swift.models.source import find_source
from swift.plugins import load_plugins
from swift.show.page import html_page
from swift.show.samples import Shown, show_rows
from swift.templates.choose import open_template
from swift.templates.preview import GREEN, RESET, coloured, token_pieces, trained_spans

if TYPE_CHECKING:
    from swift.rows import EncodedRow

OPEN, CLOSE = "«", "»"
"""Stand around trained text where there are no colours."""


def main(config: ShowConfig) -> int:
    """Run `swift template` and return its exit status: 0 also where rows fail, since their errors are shown.

    Raises:
        SwiftError: the model, the template or a file of rows cannot be read.
    """
    load_plugins(config.plugins.external_plugins)
    quiet_libraries()
    decisions = Decisions()
    note_without_effect(config, decisions)
    source = find_source(config.model, decisions, weights=False)
    template = open_template(config, source, decisions)
    print("\n".join(decisions.table()), file=sys.stderr)
    shown = show_rows(config, template, config.template.max_length or source.limit)
    if config.rows.format == "html":
        print(html_page(list(shown), template))
    elif config.rows.format == "json":
        for each in shown:
            for line in json_lines(each, template.tokenizer):
                print(line)
    else:
        from swift.plan.show import wants_colour

        for each in shown:
            print("\n".join(text_lines(each, template.tokenizer, colour=wants_colour(sys.stdout))))
    for note, count in sorted(template.notes.items()):
        print(f"{count:,} × {note}", file=sys.stderr)
    return 0


def json_lines(shown: Shown, tokenizer: Any) -> Iterator[str]:
    """An object for each sample of a row; one with its error for a row that cannot be used."""
    head: dict[str, Any] = {"row": shown.row, "source": shown.source}
    if shown.error is not None:
        yield json.dumps({**head, "error": shown.error}, ensure_ascii=False)
    for sample in shown.samples:
        spans = trained_spans(sample, tokenizer)
        values = {
            **head,
            "text": "".join(text for text, _ in spans),
            "input_ids": sample.input_ids.tolist(),
            "labels": sample.labels.tolist(),
            "trained_text": [text for text, trained in spans if trained],
        }
        if sample.weights is not None:
            values["weights"] = sample.weights.tolist()
        yield json.dumps(values, ensure_ascii=False)


def text_lines(shown: Shown, tokenizer: Any, *, colour: bool) -> Iterator[str]:
    """A row for a terminal: the text of each sample, then its tokens."""
    if shown.error is not None:
        yield from [f"{shown.source}: error: {shown.error}", ""]
    for number, sample in enumerate(shown.samples, 1):
        which = f", sample {number} of {len(shown.samples)}" if len(shown.samples) > 1 else ""
        how = "green" if colour else f"{OPEN}…{CLOSE}"
        yield f"{shown.source}{which}: {sample.length} tokens, {sample.trained} trained ({how})"
        yield _text(sample, tokenizer, colour)
        yield from [_tokens(sample, tokenizer, colour), ""]


def _text(sample: EncodedRow, tokenizer: Any, colour: bool) -> str:
    if colour:
        return coloured(sample, tokenizer)
    return "".join(f"{OPEN}{text}{CLOSE}" if trained else text for text, trained in trained_spans(sample, tokenizer))


def _tokens(sample: EncodedRow, tokenizer: Any, colour: bool) -> str:
    parts = []
    for token, text, trained in token_pieces(sample, tokenizer):
        piece = f"{token}:{json.dumps(text, ensure_ascii=False)[1:-1]}"
        if trained:
            piece = f"{GREEN}{piece}{RESET}" if colour else f"{OPEN}{piece}{CLOSE}"
        parts.append(piece)
    return "tokens: " + " ".join(parts)
