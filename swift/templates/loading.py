"""Choosing the chat template: the tokenizer's own, one of the plain ones by name, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swift.errors import SwiftError
from swift.templates import chat_templates
from swift.templates.template import Template

TABLE = Path(__file__).parent / "table"
NAMES = ("chatml", "llama", "alpaca", "plain")


def read_table(name: str) -> str:
    """The Jinja text of a template that comes with the library."""
    return (TABLE / f"{name}.jinja").read_text(encoding="utf-8")


def load_template(tokenizer: Any, template: str | None = None, *, option: str = "template", **options: Any) -> Template:
    """The template of a model.

    Args:
        tokenizer: a transformers tokenizer.
        template: None for the tokenizer's own; else chatml, llama, alpaca, plain, a plug-in's name or a `.jinja` file.
        option: the option that names it, for messages.
        options: what `Template` takes.

    Raises:
        SwiftError: when the model has none and none is named, or the name is unknown.
    """
    if template is None:
        options.setdefault("source", getattr(tokenizer, "name_or_path", "") or "tokenizer")
        return Template(tokenizer, options.pop("chat_template", None), **options)
    if template in chat_templates:
        return Template(tokenizer, chat_templates.get(template)(tokenizer), source=f"--{option} {template}", **options)
    if template in NAMES:
        return Template(tokenizer, read_table(template), source=f"--{option} {template}", **options)
    path = Path(template).expanduser()
    if not path.is_file():
        raise SwiftError(
            f"--{option} {template} is neither a name nor a file",
            fix=f"use {', '.join([*NAMES, *chat_templates])} or a .jinja file; leave it out for the model's own",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SwiftError(f"--{option} {template} cannot be read: {error}", fix="give a file of Jinja text") from None
    if not text.strip():
        raise SwiftError(f"--{option} {template} is empty", fix="give a file with a template in it")
    return Template(tokenizer, text, source=str(path), **options)
