from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from swift.errors import SwiftError
from swift.rows import IGNORE, EncodedRow, Row, Source


class ByteTemplate:
    """One token for each byte; assistant turns carry loss, `!` in a text cannot be encoded, `#` asks for weights."""

    def __init__(self) -> None:
        self.notes: Counter[str] = Counter()

    def encode(self, row: Row, source: Source | None) -> list[EncodedRow]:
        ids: list[int] = []
        labels: list[int] = []
        for turn in row["messages"]:
            if "!" in turn["content"]:
                raise SwiftError("the text holds a '!'", where=str(source))
            tokens = list(turn["content"].encode())
            ids += tokens
            labels += tokens if turn["role"] == "assistant" else [IGNORE] * len(tokens)
        self.notes["rows"] += 1
        weights = np.full(len(ids), 0.5, np.float32) if ord("#") in ids else None
        return [EncodedRow(np.array(ids, np.int32), np.array(labels, np.int32), source, weights)]


@pytest.fixture
def template() -> ByteTemplate:
    return ByteTemplate()


@pytest.fixture
def jsonl(tmp_path: Path):
    """Writes rows (or raw lines) to a file and gives its path."""

    def write(rows, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write
