"""Samples as one HTML page that needs nothing else."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from swift.show.samples import Shown
from swift.templates.preview import token_pieces

if TYPE_CHECKING:
    from swift.rows import EncodedRow
    from swift.templates import Template

STYLE = """\
:root { color-scheme: light dark; --trained: #b9e8c0; --other: #7a7a7a; --line: #9994; --error: #c22; }
@media (prefers-color-scheme: dark) { :root { --trained: #1f5c2e; --other: #9a9a9a; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
section { border-top: 1px solid var(--line); padding: .5rem 0; }
h2 { font-size: 1rem; margin: .4rem 0; } h2 small { font-weight: normal; color: var(--other); }
pre { font: 13px/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
span { border-radius: 2px; color: var(--other); } span.trained { background: var(--trained); color: inherit; }
span:hover { outline: 1px solid; } .error { color: var(--error); }
"""


def html_page(rows: list[Shown], template: Template) -> str:
    """All samples on a page: trained tokens on green, each token's id where the pointer rests on it."""
    parts = [part for shown in rows for part in _sections(shown, template)]
    notes = [f"<li>{count:,} × {escape(note)}</li>" for note, count in sorted(template.notes.items())]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f"<title>What is trained</title><style>\n{STYLE}</style></head><body>",
            f"<h1>What is trained</h1><p>Template: {escape(template.source or 'of the model')}</p>",
            *(["<ul>", *notes, "</ul>"] if notes else []),
            *parts,
            "</body></html>",
        ]
    )


def _sections(shown: Shown, template: Template) -> list[str]:
    title = escape(shown.source)
    parts = []
    if shown.error is not None:
        parts.append(f'<section><h2>{title}</h2><p class="error">{escape(shown.error)}</p></section>')
    for number, sample in enumerate(shown.samples, 1):
        which = f", sample {number} of {len(shown.samples)}" if len(shown.samples) > 1 else ""
        size = f"<small>{sample.length} tokens, {sample.trained} trained</small>"
        parts.append(f"<section><h2>{title}{which} {size}</h2><pre>{_pieces(sample, template)}</pre></section>")
    return parts


def _pieces(sample: EncodedRow, template: Template) -> str:
    parts = []
    for token, text, trained in token_pieces(sample, template.tokenizer):
        shown = escape(text).replace("\n", "⏎\n") or "·"
        parts.append(f'<span{" class=trained" if trained else ""} title="{token}">{shown}</span>')
    return "".join(parts)
