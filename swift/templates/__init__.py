"""Messages to token ids and loss masks, by the model's own chat template."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from swift.registry import Registry

if TYPE_CHECKING:
    from swift.templates.loading import load_template
    from swift.templates.patterns import Scale
    from swift.templates.preview import coloured, trained_spans
    from swift.templates.template import Template

_HOMES = {
    "Template": "template",
    "load_template": "loading",
    "coloured": "preview",
    "trained_spans": "preview",
}

__all__ = [
    "Template",
    "chat_template",
    "chat_templates",
    "coloured",
    "load_template",
    "loss_scale",
    "loss_scales",
    "trained_spans",
]

chat_templates: Registry[Callable[[Any], str]] = Registry("template", "template")
"""Functions from a tokenizer to the Jinja text of a chat template, by the name that `--template` knows them by."""

chat_template = chat_templates.register
"""Decorator: `@chat_template("name")` over such a function."""

loss_scales: Registry[Scale] = Registry("loss scale", "loss_scale")
"""Functions from an answer and the turn before it to weighed stretches, by the name that `--loss_scale` knows."""

loss_scale = loss_scales.register
"""Decorator: `@loss_scale("name")` over such a function."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"swift.templates.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'swift.templates' has no attribute {name!r}")
