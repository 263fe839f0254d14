"""From files to records: one function for each kind of file, picked by the end of its name."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from swift.data.drops import Dropped
from swift.data.formats import kind_of
from swift.errors import SwiftError, first_line
from swift.rows import Source

Record = tuple[Mapping[str, Any], Source]
"""One row as its file has it, and its place there: the physical line, or the number of the row in parquet files."""

Records = Iterator["Record | Dropped"]

DECODER = json.JSONDecoder()


def read_file(path: Path, option: str = "dataset") -> Records:
    """The records of a file, and what cannot be read of it.

    Raises:
        SwiftError: there is no reader for it, it cannot be opened, or it holds no row.
    """
    read = reader_of(path)
    if read is None:
        raise SwiftError(
            f"--{option} {path}: files of this kind are not read",
            fix=f"use one of {', '.join(READERS)}"
            + ("; for plain text, make jsonl rows with messages" if path.suffix == ".txt" else ""),
        )
    found = False
    try:
        for record in read(path):
            found = True
            yield record
    except (OSError, EOFError) as error:
        raise SwiftError(
            f"--{option} {path} cannot be read: {error}", fix="check that the file is whole and that you may read it"
        ) from error
    if not found:
        raise SwiftError(f"--{option} {path} holds no rows", fix="put a row into it, or leave the file out")


def reader_of(path: Path) -> Callable[[Path], Records] | None:
    """The reader for a file of that name."""
    return next((read for end, read in READERS.items() if path.name.lower().endswith(end)), None)


def _jsonl(path: Path) -> Records:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield _json_line(line, Source(str(path), number))


def _json_line(line: bytes, source: Source) -> Record | Dropped:
    try:
        value = json.loads(line.rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte {error.start + 1} of the line is 0x{line[error.start]:02x}"
    except json.JSONDecodeError as error:
        reason = f"not JSON: {error.msg} at column {error.colno}"
    else:
        return _record(value, source)
    return Dropped(source, reason, line.rstrip(b"\r\n").decode(errors="backslashreplace"))


def _record(value: Any, source: Source) -> Record | Dropped:
    if not isinstance(value, dict):
        return Dropped(source, f"a row is an object with columns; this is {kind_of(value)}", value)
    return value, source


def _json(path: Path) -> Records:
    """A list of rows; also one row, and JSON lines that go by the name of JSON."""
    text = _text(path)
    place = _skip_space(text, 0)
    if text[place : place + 1] != "[":
        yield from _json_objects(path, text, place)
        return
    line, counted = 1, 0
    place = _skip_space(text, place + 1)
    while text[place : place + 1] != "]":
        line, counted = line + text.count("\n", counted, place), place
        source = Source(str(path), line)
        try:
            value, place = DECODER.raw_decode(text, place)
        except json.JSONDecodeError as error:
            yield Dropped(Source(str(path), error.lineno), f"not JSON: {error.msg} at column {error.colno}")
            return
        yield _record(value, source)
        place = _skip_space(text, place)
        if text[place : place + 1] == ",":
            place = _skip_space(text, place + 1)
        elif text[place : place + 1] != "]":
            at = json.JSONDecodeError("", text, place)
            yield Dropped(Source(str(path), at.lineno), f"not JSON: Expecting ',' or ']' at column {at.colno}")
            return


def _json_objects(path: Path, text: str, place: int) -> Records:
    try:
        value, end = DECODER.raw_decode(text, place)
    except json.JSONDecodeError as error:
        if text[place:].strip():
            yield Dropped(Source(str(path), error.lineno), f"not JSON: {error.msg} at column {error.colno}")
        return
    if _skip_space(text, end) < len(text):
        yield from _jsonl(path)
    else:
        yield _record(value, Source(str(path), 1 + text.count("\n", 0, place)))


def _skip_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SwiftError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x}",
            where=f"{path}:{line}",
            fix="save the file as UTF-8",
        ) from error


def _csv(path: Path) -> Records:
    # The standard limit of 128 KiB for a cell is shorter than many conversations.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(
        io.StringIO(_text(path), newline=""), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True
    )
    header: list[str] | None = None
    while True:
        source = Source(str(path), reader.line_num + 1)
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Dropped(source, f"not csv: {error}")
            return
        if cells is None:
            return
        if header is None:
            header = cells
            if twice := [name for name in header if header.count(name) > 1]:
                raise SwiftError(f"{path}: column {twice[0]!r} stands twice in the header", fix="rename one of them")
        elif cells and len(cells) != len(header):
            yield Dropped(source, f"{len(cells)} cells, but the header has {len(header)}", cells)
        elif cells:
            yield {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}, source


def _parquet(path: Path) -> Records:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                yield without_nulls(value), Source(str(path), number)
    except pyarrow.ArrowException as error:
        raise SwiftError(
            f"{path} is not a parquet file: {first_line(error)}",
            fix="make it again, or give it the ending of what it is: " + ", ".join(READERS),
        ) from error


def without_nulls(value: Any) -> Any:
    """A value of an Arrow table without empty fields: there every object of a column has the keys of all the others."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


READERS: dict[str, Callable[[Path], Records]] = {
    ".jsonl": _jsonl,
    ".jsonl.gz": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
