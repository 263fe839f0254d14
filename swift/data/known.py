"""Data sets that are known by name: the table of public ones, and tables of the user's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from swift.errors import SwiftError
from swift.rows import kind_of

TABLE = Path(__file__).parent / "table" / "datasets.json"

OTHER_NAMES = {
    "ms_dataset_id": "ms_id",
    "hf_dataset_id": "hf_id",
    "dataset_path": "path",
    "dataset_name": "name",
    "split": "splits",
}
"""Fields by the names that tables written for ms-swift give them."""


@dataclass(frozen=True)
class KnownDataset:
    """One data set of a table.

    Attributes:
        name: what `--dataset` may call it, beside its ids.
        ms_id: its id on ModelScope.
        hf_id: its id on Hugging Face.
        path: its file or folder, instead of an id.
        subsets: its subsets; the first is read where none is named, `default` being what the hub itself takes.
        splits: its splits; the first is read where none is named.
        columns: its column names -> ours, where they are not known without it.
        query: the question of rows that have none, such as captions.
        convert: the name of a converter, where columns alone cannot say it.
        tags: what it is for.
        help: what it is.
    """

    name: str = ""
    ms_id: str = ""
    hf_id: str = ""
    path: str = ""
    subsets: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    convert: str = ""
    tags: tuple[str, ...] = ()
    help: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that `--dataset` may call it."""
        return tuple(dict.fromkeys(name for name in (self.name, self.ms_id, self.hf_id) if name))

    def mapper(self, given: Mapping[str, str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """What brings a record's columns to names that are known; `given` are columns that the user maps himself."""
        from swift.data.converters import CONVERTERS

        columns = {theirs: ours for theirs, ours in self.columns.items() if theirs not in given}
        convert = CONVERTERS[self.convert] if self.convert else None
        if not columns and not self.query and convert is None:
            return _same

        def apply(record: dict[str, Any]) -> dict[str, Any]:
            # A column that another one takes the name of is not wanted under it.
            kept = {name: value for name, value in record.items() if name in columns or name not in columns.values()}
            named = {columns.get(name, name): value for name, value in kept.items()}
            if self.query:
                named.setdefault("query", self.query)
            return convert(named) if convert else named

        return apply


def _same(record: dict[str, Any]) -> dict[str, Any]:
    return record


def known_dataset(name: str, tables: tuple[str, ...] = ()) -> KnownDataset | None:
    """The data set that goes by `name`; the user's tables come before ours.

    Raises:
        SwiftError: one of the tables is wrong.
    """
    for table in (*tables, str(TABLE)):
        for entry in read_table(table):
            if name in entry.names:
                return entry
    return None


SHAPE = 'write a list of objects such as {"name": "mine", "path": "rows.jsonl"}'


@cache
def read_table(path: str) -> tuple[KnownDataset, ...]:
    """The data sets of a table: a JSON list of objects with the fields of `KnownDataset`.

    Raises:
        SwiftError: the file is not there or not such a list, or an entry is wrong; it names the entry and the field.
    """
    file = Path(path).expanduser()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SwiftError(f"--custom_dataset_info {path} cannot be read: {error.strerror}", fix=SHAPE) from None
    except ValueError as error:
        raise SwiftError(f"--custom_dataset_info {path} is not JSON: {error}", fix=SHAPE) from None
    if not isinstance(content, list):
        raise SwiftError(f"--custom_dataset_info {path} holds {kind_of(content)}, not a list of data sets", fix=SHAPE)
    return tuple(_entry(value, f"{path}: entry {number}", file.parent) for number, value in enumerate(content, 1))


def _entry(value: Any, where: str, folder: Path) -> KnownDataset:
    from swift.data.converters import CONVERTERS

    if not isinstance(value, dict):
        raise SwiftError(f"a data set is an object, this is {kind_of(value)}", where=where, fix=SHAPE)
    given = {str(OTHER_NAMES.get(name, name)): part for name, part in value.items()}
    there = {part.name: part for part in fields(KnownDataset)}
    if unknown := [name for name in given if name not in there]:
        raise SwiftError(f"there is no field {', '.join(unknown)}", where=where, fix=f"there are {', '.join(there)}")
    for name, part in given.items():
        given[name] = _value(name, part, where)
    entry = KnownDataset(**given)
    if not (entry.ms_id or entry.hf_id or entry.path):
        raise SwiftError("a data set needs ms_id, hf_id, or a name with a path", where=where, fix="say where it lies")
    if entry.path and not entry.name:
        given["name"] = entry.path
    if entry.path and not Path(entry.path).expanduser().is_absolute():
        given["path"] = str(folder / entry.path)
    if entry.convert and entry.convert not in CONVERTERS:
        raise SwiftError(
            f"there is no converter {entry.convert}", where=where, fix=f"there are {', '.join(sorted(CONVERTERS))}"
        )
    return KnownDataset(**given)


def _value(name: str, value: Any, where: str) -> Any:
    """A field's value in its type; a list may be given as its one text."""
    if name in ("subsets", "splits", "tags"):
        items = [value] if isinstance(value, str) else value
        if isinstance(items, list) and all(isinstance(item, str) for item in items):
            return tuple(items)
        raise SwiftError(f"{name} is {kind_of(value)}, not a list of texts", where=where, fix='write ["one", "two"]')
    if name == "columns":
        if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
            return value
        raise SwiftError(
            f"columns is {kind_of(value)}, not an object of names", where=where, fix='write {"question": "query"}'
        )
    if not isinstance(value, str):
        raise SwiftError(f"{name} is {kind_of(value)}, not text", where=where, fix="write it as text")
    return value
