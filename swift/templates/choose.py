"""The template of a run: the model's own, a named one, a file, or what a checkpoint recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from swift.config import Decisions, TemplateConfig, TrainTemplateConfig
from swift.errors import SwiftError, first_line
from swift.models.names import known_names, unknown_name
from swift.models.new_tokens import add_tokens, read_names
from swift.templates import chat_templates
from swift.templates.agent_formats import resolve_agent
from swift.templates.loading import NAMES, load_template
from swift.templates.template import Template
from swift.templates.thinking import check_preserving, has_switch

if TYPE_CHECKING:
    from swift.config.commands import CommandConfig
    from swift.models.source import ModelSource

Chat = Literal["needed", "used", "unused"]

SWITCHES = (
    "system",
    "enable_thinking",
    "preserve_thinking",
    "chat_template_kwargs",
    "response_prefix",
    "special_tokens_in_content",
    "loss_scale",
    "loss_scale_tables",
    "add_non_thinking_prefix",
    "new_special_tokens",
)
"""Options of a template that stay when its Jinja source is replaced."""


def open_template(config: CommandConfig, source: ModelSource, decisions: Decisions, chat: Chat = "needed") -> Template:
    """Load a model's tokenizer, add `--new_special_tokens`, and choose the template to train with.

    Args:
        config: a configuration with `model` and `template`.
        source: the model; takes the ids of the tokens that were added.
        decisions: takes a note of what was chosen.
        chat: as in `choose_template`.

    Raises:
        SwiftError: as `choose_template`, or a file of tokens cannot be read.
    """
    options: Any = config
    tokenizer = source.load_tokenizer(options.model.trust_remote_code)
    source.new_tokens = add_tokens(tokenizer, options.template.new_special_tokens)
    if source.new_tokens:
        why = "their ids; contents may write them; training trains and saves their embeddings"
        decisions.add("new_special_tokens", source.new_tokens, "flag", why)
    return choose_template(tokenizer, options.template, decisions, source.recorded_template, chat)


def choose_template(
    tokenizer: Any,
    flags: TemplateConfig,
    decisions: Decisions,
    recorded: dict[str, Any] | None = None,
    chat: Chat = "needed",
) -> Template:
    """What a checkpoint recorded, or the tokenizer's own template, with flags over it.

    Args:
        tokenizer: transformers' tokenizer.
        flags: options of the template; None means not given.
        decisions: takes a note of what was chosen.
        recorded: the `template.json` of a checkpoint, if its template is wanted.
        chat: where nobody names a template: one is needed, the model's own is used where it has one, or none is.

    Raises:
        SwiftError: the model has no template and none is named, a name or a file is unknown, the record is broken, or
            the template cannot do what an option asks of it.
    """
    _check_name(flags.template)
    if flags.use_chat_template is False and (flags.chat_template or _is_named(flags.template)):
        name = "chat_template" if flags.chat_template else "template"
        raise SwiftError(
            f"--use_chat_template false with --{name} {getattr(flags, name)}",
            fix=f"leave --{name} out: contents are joined as they stand; or add --use_chat_template true",
        )
    unasked = flags.use_chat_template is None and not (recorded or flags.chat_template or _is_named(flags.template))
    if unasked and (chat == "unused" or (chat == "used" and not tokenizer.chat_template)):
        why = "texts as they stand, between what the tokenizer puts around them; --use_chat_template true renders them"
        decisions.add("template", "none", "default", why)
        template = Template(tokenizer, use_chat_template=False, source="none", **_given(flags))
    else:
        template = _choose(tokenizer, flags, decisions, recorded)
    agent_name: str | None = flags.agent_template or (recorded or {}).get("agent_template")
    if agent_name is not None:
        agent = resolve_agent(agent_name, template.takes_calls)
        template = Template.from_dict(tokenizer, template.to_dict() | {"agent_template": agent})
        why = "tools become text" if agent else "not needed: the model's own template writes tools"
        decisions.add("agent_template", agent_name, "flag" if flags.agent_template else "checkpoint", why)
    _note_options(template, flags, decisions)
    return template


def _given(flags: TemplateConfig) -> dict[str, Any]:
    """Options of a template that are set, as it takes them."""
    given: dict[str, Any] = {name: value for name in SWITCHES if (value := getattr(flags, name, None)) is not None}
    if flags.system is not None:
        given["system"] = system_text(flags.system)
    if flags.response_prefix is not None:
        # A shell hands \n over as two characters.
        given["response_prefix"] = flags.response_prefix.replace("\\n", "\n")
    if "loss_scale" in given:
        given["loss_scale_tables"] = None
    return given


def _choose(tokenizer: Any, flags: TemplateConfig, decisions: Decisions, recorded: dict[str, Any] | None) -> Template:
    given = _given(flags)
    if "new_special_tokens" in given:
        earlier = (recorded or {}).get("new_special_tokens", [])
        given["new_special_tokens"] = list(dict.fromkeys([*earlier, *read_names(given["new_special_tokens"])]))
    kept = {name: recorded[name] for name in SWITCHES if recorded.get(name) is not None} if recorded else {}
    if flags.chat_template:
        decisions.add("template", flags.chat_template, "flag", "--chat_template")
        return load_template(tokenizer, flags.chat_template, option="chat_template", **(kept | given))
    if flags.use_chat_template is False:
        origin = _origin(flags, "use_chat_template")
        decisions.add("template", "none", origin, "--use_chat_template false: contents are joined as they stand")
        return Template(tokenizer, use_chat_template=False, source="--use_chat_template false", **(kept | given))
    unneeded = f"--template {flags.template} is noted and not needed"
    if recorded and not (flags.use_chat_template and recorded.get("use_chat_template") is False):
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
    if tokenizer.chat_template and not _is_named(name):
        decisions.add("template", "the model's own", "model", unneeded if name else "it comes with the tokenizer")
        return load_template(tokenizer, **(kept | given))
    template = load_template(tokenizer, name, **(kept | given))
    decisions.add("template", name, "flag", "--template")
    return template


def _is_named(name: str | None) -> bool:
    """Whether `--template` names a template, and not the family of a model as in old scripts."""
    return name is not None and (name in NAMES or name in chat_templates or name.endswith(".jinja"))


def _check_name(name: str | None) -> None:
    """Refuse a `--template` that is neither ours nor a name in scripts for ms-swift."""
    if name is None or _is_named(name) or name in known_names("templates"):
        return
    ours = (*NAMES, *chat_templates)
    otherwise = f"use {', '.join(ours)} or a .jinja file; leave it out for the model's own"
    raise unknown_name("template", name, "templates", ours, otherwise)


def _note_options(template: Template, flags: TemplateConfig, decisions: Decisions) -> None:
    """Say what is set besides the template's source, and stop where the template cannot do it."""
    training = isinstance(flags, TrainTemplateConfig)
    thinking = "the template's thinking switch"
    switch = "it trains turns without reasoning behind the prompt of the thinking switch set off"
    asked = template.enable_thinking is not None or (template.add_non_thinking_prefix and training)
    if asked and not has_switch(template):
        thinking = switch = "no effect: the chat template has no thinking switch"
    if template.preserve_thinking is not None:
        check_preserving(template, template.preserve_thinking)
    told = {
        "system": (template.system, "for conversations that bring none"),
        "enable_thinking": (template.enable_thinking, thinking),
        "preserve_thinking": (template.preserve_thinking, "the reasoning of earlier turns, by the template's switch"),
        "chat_template_kwargs": (template.chat_template_kwargs or None, "variables of the template"),
        "response_prefix": (template.response_prefix, "behind every generation prompt"),
        "special_tokens_in_content": (
            template.special_tokens_in_content if template.special_tokens_in_content != "text" else None,
            "control tokens spelled out in contents",
        ),
    }
    if training:
        spec = template.loss_scale
        told["loss_scale"] = (spec if spec != "default" else None, template.scale.describe())
        told["add_non_thinking_prefix"] = (template.add_non_thinking_prefix or None, switch)
    for name, (value, reason) in told.items():
        if value is not None:
            decisions.add(name, value, _origin(flags, name), reason)


def _origin(flags: TemplateConfig, name: str) -> str:
    """Where the value of an option comes from; commands differ in their defaults."""
    value = getattr(flags, name)
    if value is None:
        return "checkpoint"
    return "default" if value == getattr(type(flags)(), name) else "flag"


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
