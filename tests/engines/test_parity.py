"""The check that serving sends the prompts that training puts before its answers."""

from __future__ import annotations

from typing import Any

import pytest

from swift.engines.parity import ROWS, check_deployment, check_parity
from swift.errors import SwiftError
from swift.rows import Row, Source
from swift.templates import Template
from tests.tiny import CHATML, make_tokenizer

THINKING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


def rows(*conversations: list[dict[str, Any]]) -> list[tuple[Row, Source]]:
    return [({"messages": messages}, Source("rows.jsonl", at)) for at, messages in enumerate(conversations, 1)]  # type: ignore[misc]


def talk(turns: int) -> list[dict[str, Any]]:
    roles = ("user", "assistant") * turns
    return [{"role": role, "content": f"  sky {at}\n"} for at, role in enumerate(roles)]


@pytest.mark.parametrize("source", [CHATML, THINKING])
@pytest.mark.parametrize("options", [{}, {"system": "Be brief."}, {"response_prefix": "So: "}], ids=str)
def test_every_turn_of_every_sample(source: str, options: dict[str, Any]) -> None:
    template = Template(make_tokenizer(source), **options)
    template.notes["kept"] = 3
    checked = check_parity(template, rows(talk(1), talk(3), [{"role": "user", "content": "no answer"}]))
    assert checked.turns == 4
    # A prompt that opens a reasoning block is not how the text of a finished turn begins: each turn is a sample.
    assert checked.samples == (2 if source == CHATML and "response_prefix" not in options else 4)
    assert template.notes == {"kept": 3}
    assert check_deployment(template).turns > 10


def test_rows_are_spread_over_the_data() -> None:
    drawn = []

    class Noted(Template):
        def encode(self, row: Row, source: Source | None = None) -> Any:
            drawn.append(source.line if source else 0)
            return super().encode(row, source)

    check_parity(Noted(make_tokenizer()), rows(*[talk(1)] * 320))
    assert drawn == [1 + 10 * at for at in range(ROWS)]


def test_a_difference_names_row_and_turn_and_shows_both() -> None:
    class Changed(Template):
        def prompt(self, messages: Any, tools: Any = None, **switches: Any) -> list[int]:
            return super().prompt([{"role": "system", "content": "Served."}, *messages], tools, **switches)

    with pytest.raises(SwiftError, match="message 2 is not what training puts before it") as caught:
        check_parity(Changed(make_tokenizer()), rows(talk(1)))
    assert caught.value.where == "rows.jsonl:1"
    said = str(caught.value)
    assert "serving:  '<|im_start|>' ⟂ 'system\\nServed." in said
    assert "training: '<|im_start|>' ⟂ 'user\\n  sky 0" in said
