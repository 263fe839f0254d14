"""Rows out of Arrow tables: parquet and Arrow files, and folders that `save_to_disk` wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.errors import SwiftError, first_line
from swift.rows import Source

if TYPE_CHECKING:
    import pyarrow

BATCH = 1024
"""Rows that become Python objects at a time."""

Rows = Iterator[tuple[Mapping[str, Any], Source]]

SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"
"""What `Dataset.save_to_disk` and `DatasetDict.save_to_disk` write beside the data."""


def read_parquet(path: Path) -> Rows:
    """The rows of a parquet file; a row's place is its number.

    Raises:
        SwiftError: it is not a parquet file, or broken.
    """
    import pyarrow.parquet

    yield from _read(path, "parquet", lambda: pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=BATCH))


def read_arrow(path: Path) -> Rows:
    """The rows of an Arrow file, or of a stream, as `datasets` caches and saves them.

    Raises:
        SwiftError: it is neither, or broken.
    """
    import pyarrow

    def batches() -> Iterable[pyarrow.RecordBatch]:
        with pyarrow.memory_map(str(path)) as file:
            if file.read(6) == b"ARROW1":
                whole = pyarrow.ipc.open_file(file)
                for number in range(whole.num_record_batches):
                    yield whole.get_batch(number)
                return
            file.seek(0)
            yield from pyarrow.ipc.open_stream(file)

    yield from _read(path, "Arrow", batches)


def _read(path: Path, kind: str, batches: Callable[[], Iterable[pyarrow.RecordBatch]]) -> Rows:
    import pyarrow

    try:
        yield from rows_of(batches(), str(path))
    except pyarrow.ArrowException as error:
        raise SwiftError(
            f"{path} is not a whole {kind} file: {first_line(error)}",
            fix="make it again, or give it the ending of what it is",
        ) from error


def rows_of(batches: Iterable[pyarrow.RecordBatch | pyarrow.Table], name: str) -> Rows:
    """The rows of batches, numbered from 1. Empty fields of objects are left out.

    In a table every object of a column has the keys of all the others.
    """
    number = 0
    for large in batches:
        for start in range(0, large.num_rows, BATCH):
            batch = large.slice(start, BATCH)
            clean = _without_nulls if any(_holds_empty_fields(column) for column in batch.columns) else _same
            for value in batch.to_pylist():
                number += 1
                yield clean(value), Source(name, number)


def _same(value: Any) -> Any:
    return value


def _holds_empty_fields(column: Any) -> bool:
    """Whether some object within the column has an empty field."""
    return any(_empty_field_in(array) for array in getattr(column, "chunks", [column]))


def _empty_field_in(array: Any) -> bool:
    from pyarrow import types

    if types.is_struct(array.type):
        return any(field.null_count or _holds_empty_fields(field) for field in array.flatten())
    if types.is_list(array.type) or types.is_large_list(array.type):
        return _holds_empty_fields(array.flatten())
    return bool(types.is_nested(array.type))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def saved_files(folder: Path, split: str | None, option: str) -> list[Path] | None:
    """The files of a folder that `save_to_disk` wrote; None where it did not.

    Args:
        folder: the folder.
        split: the split wanted; unset means train, or the only one.
        option: the option the folder came from, for errors.

    Raises:
        SwiftError: there is no such split, or a file is missing.
    """
    if (folder / SAVED_SPLITS).is_file():
        splits = json.loads((folder / SAVED_SPLITS).read_text(encoding="utf-8"))["splits"]
        return saved_files(folder / pick_split(splits, split, f"--{option} {folder}"), None, option)
    if not (folder / SAVED).is_file():
        return None
    state = json.loads((folder / SAVED).read_text(encoding="utf-8"))
    if not isinstance(state, dict) or "_data_files" not in state:
        return None
    if split is not None:
        raise SwiftError(
            f"--{option} {folder}@{split}: this folder holds one data set without splits",
            fix=f"write --{option} {folder}",
        )
    files = [folder / file["filename"] for file in state["_data_files"]]
    if missing := [file for file in files if not file.is_file()]:
        raise SwiftError(f"--{option} {folder}: {missing[0].name} is missing", fix="copy the folder again")
    return files


def pick_split(there: Iterable[str], wanted: str | None, place: str) -> str:
    """The split to read: the one wanted, else train, else the only one.

    Raises:
        SwiftError: it is not there, or nobody said which.
    """
    splits = list(there)
    if wanted is not None and wanted not in splits:
        raise SwiftError(f"{place} has no split {wanted}", fix=f"it has {', '.join(splits)}")
    if wanted is None and "train" not in splits and len(splits) != 1:
        raise SwiftError(
            f"{place} has no split train, but {', '.join(splits)}", fix=f"write @{splits[0]} behind it to choose one"
        )
    return wanted or ("train" if "train" in splits else splits[0])
