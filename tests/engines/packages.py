"""What SGLang and LMDeploy take, read off their sources, and stand-ins that take nothing else."""

from __future__ import annotations

import ast
import os
import types
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

WHEELS = os.environ.get("SWIFT_WHEELS")
"""A folder with the wheels of the two, which `make test-signatures` fills."""


class Source:
    """The source of a package: installed, or in a wheel.

    Args:
        name: the package's.
    """

    def __init__(self, name: str) -> None:
        spec = find_spec(name)
        wheels = sorted(Path(WHEELS).glob(f"{name}-*.whl")) if WHEELS else []
        self.wheel = zipfile.ZipFile(wheels[0]) if wheels else None
        self.folder = Path(spec.origin).parents[1] if spec and spec.origin else None
        self.there = bool(wheels) or self.folder is not None

    def tree(self, file: str) -> ast.Module:
        if self.wheel is not None:
            return ast.parse(self.wheel.read(file))
        assert self.folder is not None
        return ast.parse((self.folder / file).read_text(encoding="utf-8"))

    def arguments(self, file: str, owner: str, function: str) -> set[str]:
        for node in ast.walk(self.tree(file)):
            if isinstance(node, ast.ClassDef) and node.name == owner:
                for each in node.body:
                    if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) and each.name == function:
                        return {arg.arg for arg in (*each.args.args, *each.args.kwonlyargs)} - {"self"}
        raise AssertionError(f"{file} has no {owner}.{function}")

    def fields(self, file: str, owner: str) -> set[str]:
        for node in ast.walk(self.tree(file)):
            if isinstance(node, ast.ClassDef) and node.name == owner:
                return {each.target.id for each in node.body if isinstance(each, ast.AnnAssign)}
        raise AssertionError(f"{file} has no {owner}")

    def words(self, file: str, name: str) -> set[str]:
        """The texts of a tuple."""
        for node in ast.walk(self.tree(file)):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                return set(ast.literal_eval(node.value))
        raise AssertionError(f"{file} has no {name}")


class Record(types.SimpleNamespace):
    """Keeps what it was made with; the names that were used are noted."""

    used: ClassVar[dict[str, set[str]]] = {}

    def __init__(self, **values) -> None:
        self.used.setdefault(type(self).__name__, set()).update(values)
        super().__init__(**values)


def module(name: str, **values) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__path__ = []
    for key, value in values.items():
        setattr(made, key, value)
    return made
