"""What is said of mistakes."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "swift"


def test_every_mistake_names_its_remedy() -> None:
    bare, count = [], 0
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "SwiftError":
                count += 1
                if not any(keyword.arg in ("fix", None) for keyword in node.keywords):
                    bare.append(f"{file.relative_to(PACKAGE)}:{node.lineno}")
    assert count > 100
    assert not bare, "raise SwiftError(…, fix=…)"
