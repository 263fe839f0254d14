from __future__ import annotations

import json
from pathlib import Path

TABLE = Path(__file__).parents[2] / "swift" / "data" / "table" / "self_cognition.jsonl"


def test_the_table_of_self_cognition() -> None:
    rows = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 108
    assert all(set(row) == {"query", "response", "tag"} for row in rows)
    assert sum(row["tag"] == "en" for row in rows) == sum(row["tag"] == "zh" for row in rows) == len(rows) // 2
    assert len({row["query"] for row in rows}) == len({row["response"] for row in rows}) == len(rows)
    for row in rows:
        assert "{{NAME}}" in row["response"] or "{{AUTHOR}}" in row["response"], row
        assert (max(row["query"]) > "⺀") == (row["tag"] == "zh"), row
        assert len(row["response"].split()) <= 40 and len(row["response"]) <= 200
