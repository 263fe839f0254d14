"""Which room may import which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "swift"

EVERYWHERE = {"swift", "config", "errors", "compat", "rows", "registry", "plugins", "atomic"}
MAY_IMPORT: dict[str, set[str]] = {
    "config": set(),
    "hub": set(),
    "media": set(),
    "environments": {"hub"},
    "models": {"hub"},
    "templates": {"models", "media"},
    "data": {"templates", "hub"},
    "tuners": {"models"},
    "objectives": set(),
    "tasks": {"models", "templates", "data", "tuners", "objectives"},
    "engines": {"environments", "media", "templates", "models", "tuners", "hub", "data", "tasks"},
    "plan": {"models", "tuners", "data", "templates"},
    "train": {
        "hub",
        "models",
        "templates",
        "data",
        "tuners",
        "objectives",
        "tasks",
        "engines",
        "plan",
        "serve",
        "evaluate",
    },
    "infer": {"hub", "models", "templates", "data", "tuners", "tasks", "engines"},
    "serve": {"environments", "hub", "media", "models", "templates", "tuners", "tasks", "engines"},
    "ui": {"environments", "engines", "serve", "templates"},
    "evaluate": {"environments", "models", "engines", "serve"},
    "export": {"hub", "models", "templates", "data", "tuners", "tasks", "engines"},
    "show": {"models", "templates", "data", "plan"},
    "cli": {"environments", "hub", "models", "plan", "train", "infer", "serve", "evaluate", "export", "show", "ui"},
}
"""hub finds folders; data reads from hubs and engines resolve names, so they may use it."""


def imports_of(file: Path) -> set[str]:
    """The rooms that a file imports; imports for type checking alone do not count."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "swift":
            parts = node.module.split(".")
            found.update([parts[1]] if len(parts) > 1 else [alias.name for alias in node.names])
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("swift."))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    for file in (PACKAGE / room).rglob("*.py"):
        foreign = imports_of(file) - EVERYWHERE - MAY_IMPORT[room] - {room, "__version__"}
        assert not foreign, f"{file.relative_to(PACKAGE)} imports {sorted(foreign)}"


def test_every_room_is_listed() -> None:
    rooms = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()}
    assert rooms == MAY_IMPORT.keys()


@pytest.mark.parametrize("module", ["config", "errors", "rows", "registry", "plugins", "atomic"])
def test_what_every_room_may_import_needs_only_the_standard_library(module: str) -> None:
    import subprocess
    import sys

    code = (
        f"import sys; before = set(sys.modules); import swift.{module}; "
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "['swift']", done.stderr
