"""Traced text is equal to plain text under everything a template does, and its origins follow."""

from __future__ import annotations

import json
import random
from datetime import datetime
from typing import Any

import pytest

from swift.templates.environment import ChatTemplate
from swift.templates.messages import trace_value
from swift.templates.provenance import LITERAL, Traced, dump_json

TEXT = "  a<b>\n\nc</think>d  é😀\tx\r\ny "
OPERATIONS: dict[str, Any] = {
    "strip": lambda s: s.strip(),
    "lstrip chars": lambda s: s.lstrip(" a"),
    "rstrip": lambda s: s.rstrip(),
    "split": lambda s: "|".join(s.split()),
    "split sep": lambda s: s.split("</think>")[-1],
    "rsplit": lambda s: s.rsplit(" ", 1)[0],
    "rsplit space": lambda s: s.rsplit(None, 1)[-1],
    "splitlines": lambda s: s.splitlines()[0],
    "splitlines keep": lambda s: s.splitlines(True)[-1],
    "partition": lambda s: s.partition("<b>")[2],
    "rpartition": lambda s: s.rpartition("\n")[0],
    "replace": lambda s: s.replace("</think>", ""),
    "removeprefix": lambda s: s.removeprefix("  a"),
    "removesuffix": lambda s: s.removesuffix("y "),
    "slice": lambda s: s[3:-2],
    "reverse": lambda s: s[::-1],
    "upper": lambda s: s.upper(),
    "add": lambda s: "<" + s + ">",
    "times": lambda s: s * 2,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name: str) -> None:
    marks = "".join(chr(1 + at) for at in range(len(TEXT)))
    traced, plain = OPERATIONS[name](Traced(TEXT, marks)), OPERATIONS[name](TEXT)
    assert str.__eq__(traced, plain)
    if isinstance(traced, Traced):
        assert len(traced.origins) == len(plain)
        for char, origin in zip(plain, traced.origins, strict=True):
            assert origin == LITERAL or TEXT[ord(origin) - 1].lower() == char.lower()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ensure_ascii": True},
        {"indent": 2},
        {"indent": 4, "sort_keys": True},
        {"separators": (",", ":")},
        {"indent": 1, "separators": (", ", ": ")},
    ],
    ids=str,
)
def test_json_is_json(options: dict[str, Any]) -> None:
    chosen = {"ensure_ascii": False, "indent": None, "separators": None, "sort_keys": False, **options}
    rng = random.Random(0)

    def value(depth: int) -> Any:
        kind = rng.randrange(8 if depth else 6)
        plain = [None, True, rng.randrange(99), 0.5, 'q"\\\n😀é', "", [], {}]
        if kind == 6:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        if kind == 7:
            return {rng.choice(["b", "a", "é", 3, None, True]): value(depth - 1) for _ in range(rng.randrange(4))}
        return plain[kind]

    for _ in range(300):
        drawn = {"k": value(3), "l": "text"}
        if chosen["sort_keys"]:
            drawn = json.loads(json.dumps(drawn))
        dumped = dump_json(trace_value(drawn, "\1"), **chosen)
        assert str.__eq__(dumped, json.dumps(drawn, **chosen))
        assert set(dumped.origins) == {"\1"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "source",
    [
        "{{ x }}",
        "{{ x | trim }}{{ x ~ '!' ~ x }}",
        "{%- set y = x + 'z' -%}{{ y | upper }}",
        "{{ [x, 'b', x] | join(', ') }}{{ ', '.join([x, x]) }}",
        "{{ x | replace('c', 'CC') }}{{ 'abc'.replace('b', x) }}",
        "{{ x | indent(2) }}{{ x | indent(2, true) }}{{ x | indent('--', false, true) }}",
        "{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(x) | string }}",
        "{% set ns = namespace(t='') %}{% for w in x.split() %}{% set ns.t = ns.t + w %}{% endfor %}{{ ns.t }}",
        "{{ {'a': x, 'b': [1, x]} | tojson(indent=2) }}",
        "{% for c in x %}{{ c }}.{% endfor %}{{ x[::-1] }}{{ x | length }}{{ x | first }}",
        "{% set b %}{{ x }}{% endset %}{{ b }}{% generation %}{{ x }}{% endgeneration %}",
        "{{ x | default('none') }}{{ (x if x is string else '') | capitalize }}",
        "{% filter upper %}{{ x }}{% endfilter %}",
        "{{ 'a' in x }}{{ x.startswith('  a') }}{{ x == x }}",
    ],
)
def test_jinja(source: str) -> None:
    template = ChatTemplate(source, datetime(2001, 2, 3))
    plain = template.render({"x": TEXT})
    traced = template.render_traced({"x": Traced(TEXT, "\7")})
    assert str.__eq__(traced, plain)
    assert len(traced.origins) == len(plain)
    if "{{ x" in source and "in x" not in source:
        assert "\7" in traced.origins
