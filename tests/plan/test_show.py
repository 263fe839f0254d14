from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest

from swift.config.decisions import Decisions
from swift.plan.memory import MemoryPlan
from swift.plan.show import Counts, Preview, RunPlan, human_bytes, planned_against_measured, show_dry_run
from swift.rows import EncodedRow, Source

MIB = 1 << 20


class Letters:
    """A tokenizer whose token 0 is a, 1 is b …"""

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join(chr(97 + int(token)) for token in ids)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def plan() -> RunPlan:
    decisions = Decisions()
    decisions.add("learning_rate", 1e-4, "default", "adapters")
    decisions.add("packing", True, "data", "rows are short")
    encoded = EncodedRow(
        np.array([0, 1, 2, 3], np.int32), np.array([-100, -100, 2, 3], np.int32), source=Source("data.jsonl", 7)
    )
    parts = {"weights": 300 * MIB, "gradients": 0, "optimizer": 0, "activations": 100 * MIB, "logits": 0, "overhead": 0}
    return RunPlan(
        decisions=decisions,
        memory=MemoryPlan(parts, "forward and backward", "cpu"),
        available=1000 * MIB,
        counts=Counts(
            rows=10, samples=9, packs=3, tokens=400, trained_tokens=100, steps=5, trainable=8, parameters=800
        ),
        previews=[Preview(encoded, Letters())],
    )


def shown(format: Any, stream: io.StringIO) -> str:
    show_dry_run(plan(), format=format, stream=stream)
    return stream.getvalue()


def test_text() -> None:
    assert shown("text", io.StringIO()).splitlines() == [
        "Chosen for this run",
        "  learning_rate  0.0001  default  adapters",
        "  packing        true    data     rows are short",
        "",
        "To do",
        "  rows         10",
        "  samples      9",
        "  packs        3",
        "  steps        5",
        "  tokens       400, 100 trained (25.0%)",
        "  trainable    8 of 800 (1.00%)",
        "",
        "Planned memory on cpu: 400.0 MiB of 1000.0 MiB free, fullest in forward and backward",
        "  weights       300.0 MiB   75%  ██████████████████",
        "  gradients           0 B    0%",
        "  optimizer           0 B    0%",
        "  activations   100.0 MiB   25%  ██████",
        "  logits              0 B    0%",
        "  overhead            0 B    0%",
        "",
        "Row 1 (data.jsonl:7): 4 tokens, 2 trained («…»)",
        "ab«cd»",
        "",
    ]


def test_json_is_an_object_a_line() -> None:
    objects = [json.loads(line) for line in shown("json", io.StringIO()).splitlines()]
    assert [item["kind"] for item in objects] == ["decision", "decision", "counts", "memory", "row"]
    assert objects[0] == {
        "kind": "decision",
        "name": "learning_rate",
        "value": 1e-4,
        "origin": "default",
        "reason": "adapters",
    }
    assert objects[3]["total"] == 400 * MIB
    assert objects[3]["parts"]["activations"] == 100 * MIB
    assert objects[4] == {
        "kind": "row",
        "source": "data.jsonl:7",
        "tokens": 4,
        "trained": 2,
        "spans": [{"text": "ab", "trained": False}, {"text": "cd", "trained": True}],
    }


def test_colours_only_on_a_terminal_and_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32mcd" in shown("text", Terminal())
    assert "«" not in shown("text", Terminal()).splitlines()[-2]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown("text", Terminal())


def test_what_does_not_fit_says_by_how_much() -> None:
    stream = io.StringIO()
    small = plan()
    small.available = 100 * MIB
    show_dry_run(small, format="text", stream=stream)
    assert "does not fit: 300.0 MiB too much" in stream.getvalue()


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")]
)
def test_bytes_for_people(size: int, text: str) -> None:
    assert human_bytes(size) == text


def test_planned_against_measured() -> None:
    line = planned_against_measured(90 * MIB, 100 * MIB)
    assert line == "Memory at the peak: 100.0 MiB measured, 90.0 MiB planned (0.90 of it)"
