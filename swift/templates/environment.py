"""A chat template, compiled once: the plain render that every server makes, and a render that keeps provenance."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from swift.errors import SwiftError
from swift.templates.provenance import Traced, dump_json, join_traced


class ChatTemplate:
    """Jinja source compiled in transformers' own environment, twice: as it is, and with provenance.

    Args:
        source: the Jinja text.
        now: what `strftime_now` takes for the time, so that a run, its checkpoint and its server agree.
    """

    def __init__(self, source: str, now: datetime) -> None:
        self.source, self.now = source, now
        self._plain = self._compile()
        self._names = dict(self._plain.globals)
        self._traced = trace_environment(self._compile())

    def _compile(self) -> Any:
        import jinja2
        from transformers.utils.chat_template_utils import _compile_jinja_template

        # The cached function would share one environment, and with it one clock, between Template objects.
        compile_jinja = getattr(_compile_jinja_template, "__wrapped__", _compile_jinja_template)
        try:
            compiled = compile_jinja(self.source)
        except jinja2.TemplateSyntaxError as error:
            raise SwiftError(
                f"the chat template is not valid Jinja: {error.message} (line {error.lineno})",
                fix="give a working one with --chat_template FILE.jinja",
            ) from error
        compiled.environment.globals["strftime_now"] = self.now.strftime
        _remember_safe(compiled.environment)
        return compiled

    def render(self, variables: dict[str, Any]) -> str:
        """The text that transformers and every server around it render."""
        # What `render` does, without going through all of the environment's names for each conversation.
        context = self._plain.new_context({**self._names, **variables}, shared=True)
        return "".join(self._plain.root_render_func(context))

    def render_traced(self, variables: dict[str, Any]) -> Traced:
        """The same text, each character with its origin."""
        return Traced.of(join_traced(self._traced.root_render_func(self._traced.new_context(variables))))


def _remember_safe(environment: Any) -> None:
    """Have Jinja's sandbox find out once whether an attribute of a type is safe.

    Its rules ask for no more than the type and the name (`is_safe_attribute`, `is_internal_attribute` and
    `modifies_known_mutable` of jinja2.sandbox, 3.1.6), and asking them anew for each loop variable of each row took a
    tenth of the time that rows take.
    """
    safe, known = environment.is_safe_attribute, dict[tuple[type, str], bool]()

    def is_safe(obj: Any, attribute: str, value: Any) -> bool:
        key = (type(obj), attribute)
        found = known.get(key)
        if found is None:
            found = known[key] = bool(safe(obj, attribute, value))
        return found

    environment.is_safe_attribute = is_safe


def trace_environment(compiled: Any) -> Any:
    """Make one compiled template, in an environment of its own, keep the origins of what it renders."""
    environment = compiled.environment
    environment.concat = join_traced
    # The compiled code hands `join` and `replace` its evaluation context first, as it does to Jinja's own.
    environment.filters.update(tojson=_tojson, join=_join, indent=_indent, replace=_replace)
    call = environment.call

    def call_traced(context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        # A method of plain text, such as "\n".join(lines), has to know of the origins of its arguments.
        owner = getattr(function, "__self__", None)
        if type(owner) is str and function.__name__ in ("join", "replace"):
            function = getattr(Traced.of(owner), function.__name__)
        return call(context, function, *args, **kwargs)

    environment.call = call_traced
    names = compiled.root_render_func.__globals__
    names["str_join"] = names["markup_join"] = join_traced
    return compiled


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return dump_json(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _join(_: Any, value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
    items = list(value)
    if attribute is not None:
        items = [item[attribute] if isinstance(item, dict) else getattr(item, attribute) for item in items]
    return Traced.of(str(d)).join([str(item) for item in items])


def _replace(_: Any, text: Any, old: str, new: str, count: int | None = None) -> str:
    return Traced.of(str(text)).replace(str(old), str(new), -1 if count is None else count)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    indention = width if isinstance(width, str) else " " * width
    lines = (Traced.of(text) + "\n").splitlines()
    if blank:
        body = Traced.of("\n" + indention).join(lines)
    else:
        body = Traced.of("\n").join([indention + line if line and at else line for at, line in enumerate(lines)])
    return indention + body if first else body
