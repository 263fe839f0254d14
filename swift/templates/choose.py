"""The template of a run: the model's own, a named one, a file, or what a checkpoint recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swift.config import Decisions, TemplateConfig
from swift.errors import SwiftError
from swift.templates import chat_templates
from swift.templates.loading import NAMES, load_template
from swift.templates.template import Template


def choose_template(
    tokenizer: Any, config: TemplateConfig, decisions: Decisions, recorded: dict[str, Any] | None = None
) -> Template:
    """Make the template; options given now go over what a checkpoint recorded.

    Raises:
        SwiftError: the model has no template and none is named, or a file is missing.
    """
    options = {
        "system": system_text(config.system),
        "enable_thinking": config.enable_thinking,
        "chat_template_kwargs": config.chat_template_kwargs,
    }
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if config.chat_template:
        template = load_template(tokenizer, config.chat_template, **given)
        decisions.add("template", config.chat_template, "flag", "--chat_template")
        return template
    if recorded:
        template = Template.from_dict(tokenizer, recorded | given)
        decisions.add("template", recorded.get("source") or "recorded", "checkpoint", "what it was trained with")
        return template
    named = config.template
    if tokenizer.chat_template and named not in (*NAMES, *chat_templates) and not (named and named.endswith(".jinja")):
        if named:
            decisions.add("template", "the model's own", "model", f"--template {named} is noted and not needed")
        else:
            decisions.add("template", "the model's own", "model", "it comes with the tokenizer")
        return load_template(tokenizer, **given)
    template = load_template(tokenizer, named, **given)
    decisions.add("template", named, "flag", "--template")
    return template


def system_text(value: str | None) -> str | None:
    """`--system` as text: a .txt file's content, or the words themselves.

    Raises:
        SwiftError: it looks like a file and there is none.
    """
    if value is None or not value.endswith(".txt"):
        return value
    path = Path(value)
    if not path.is_file():
        raise SwiftError(f"--system {value}: no such file")
    return path.read_text(encoding="utf-8").rstrip("\n")
