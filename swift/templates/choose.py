"""The template of a run: the model's own, a named one, a file, or what a checkpoint recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swift.config import Decisions, TemplateConfig
from swift.errors import SwiftError, first_line
from swift.templates import chat_templates
from swift.templates.loading import NAMES, load_template
from swift.templates.template import Template

SWITCHES = ("system", "enable_thinking", "chat_template_kwargs")
"""Options of a template that stay when its Jinja source is replaced."""


def choose_template(
    tokenizer: Any, flags: TemplateConfig, decisions: Decisions, recorded: dict[str, Any] | None = None
) -> Template:
    """What a checkpoint recorded, or the tokenizer's own template, with flags over it.

    Args:
        tokenizer: transformers' tokenizer.
        flags: options of the template; None means not given.
        decisions: takes a note of what was chosen.
        recorded: the `template.json` of a checkpoint, if its template is wanted.

    Raises:
        SwiftError: the model has no template and none is named, a file is missing, or the record is broken.
    """
    template = _choose(tokenizer, flags, decisions, recorded)
    if template.system is not None:
        origin = "flag" if flags.system is not None else "checkpoint"
        decisions.add("system", template.system, origin, "for conversations that bring none")
    return template


def _choose(tokenizer: Any, flags: TemplateConfig, decisions: Decisions, recorded: dict[str, Any] | None) -> Template:
    given: dict[str, Any] = {name: value for name in SWITCHES if (value := getattr(flags, name)) is not None}
    if flags.system is not None:
        given["system"] = system_text(flags.system)
    if flags.chat_template:
        kept = {name: recorded.get(name) for name in SWITCHES} if recorded else {}
        decisions.add("template", flags.chat_template, "flag", "--chat_template")
        return load_template(tokenizer, flags.chat_template, **(kept | given))
    unneeded = f"--template {flags.template} is noted and not needed"
    if recorded:
        why = unneeded if flags.template else "what it was trained with"
        decisions.add("template", recorded.get("source") or "recorded", "checkpoint", why)
        try:
            return Template.from_dict(tokenizer, recorded | given)
        except (KeyError, TypeError) as error:
            raise SwiftError(
                f"template.json is not as this version writes it: {error}",
                fix="give --load_args false and the template's options yourself",
            ) from error
    name = flags.template
    if tokenizer.chat_template and not (name in (*NAMES, *chat_templates) or (name or "").endswith(".jinja")):
        decisions.add("template", "the model's own", "model", unneeded if name else "it comes with the tokenizer")
        return load_template(tokenizer, **given)
    template = load_template(tokenizer, name, **given)
    decisions.add("template", name, "flag", "--template")
    return template


def system_text(system: str) -> str:
    """A system text: the text itself, or what a .txt file holds.

    Raises:
        SwiftError: the file is not there or not text.
    """
    if not system.endswith(".txt") or "\n" in system:
        return system
    try:
        return Path(system).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SwiftError(
            f"--system {system} cannot be read: {first_line(error)}",
            fix="name a UTF-8 text file that exists; a text that is no file must not end in .txt",
        ) from None
