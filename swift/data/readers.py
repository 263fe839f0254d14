"""From files to records: one function for each kind of file, picked by the end of its name."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import json.scanner
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from swift.data.drops import Dropped
from swift.data.tables import read_arrow, read_parquet
from swift.errors import SwiftError
from swift.rows import Source, kind_of

Record = tuple[Mapping[str, Any], Source]
"""One row as its file has it, and its place there: the physical line, or its number in tables and JSON lists."""

HOLDERS = ("data", "rows", "examples", "instances")
"""Fields of a JSON object that may hold its rows."""

SPACE = b" \t\r\n"

Records = Iterator["Record | Dropped"]

DECODER = json.JSONDecoder()
SCAN: Any = json.scanner.make_scanner(cast(Any, DECODER))


def read_file(path: Path, option: str = "dataset") -> Records:
    """The records of a file, and what cannot be read of it.

    Raises:
        SwiftError: there is no reader for it, it cannot be opened, or it holds no row.
    """
    read = reader_of(path)
    if read is None:
        raise SwiftError(f"--{option} {path}: files of this kind are not read", fix=f"use one of {KINDS}")
    found = False
    try:
        for record in read(path):
            found = True
            yield record
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise SwiftError(
            f"--{option} {path} cannot be read: {error}", fix="check that the file is whole and that you may read it"
        ) from error
    if not found:
        raise SwiftError(f"--{option} {path} holds no rows", fix="put a row into it, or leave the file out")


def reader_of(path: Path) -> Callable[[Path], Records] | None:
    """The reader for a file of that name."""
    name = path.name.lower()
    packed = next((end for end in PACKED if name.endswith(end)), "")
    read = READERS.get(Path(name.removesuffix(packed)).suffix)
    # The tables' own formats are compressed inside.
    return None if packed and read in (read_parquet, read_arrow) else read


def _open(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked."""
    end = path.suffix.lower()
    return cast(IO[bytes], PACKED[end](path)) if end in PACKED else path.open("rb")


def _zstd(path: Path) -> Any:
    try:
        import zstandard
    except ImportError:
        raise SwiftError(f"{path} needs the package zstandard", fix="pip install zstandard") from None
    return io.BufferedReader(_Zstd(path.open("rb"), zstandard))


class _Zstd(io.RawIOBase):
    """The frames of a file one after another; the library's own reader takes a file cut short for a whole one."""

    def __init__(self, file: IO[bytes], zstandard: Any) -> None:
        self.file, self.zstandard = file, zstandard
        self.frame: Any = None
        self.packed = self.ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            self.packed = self.packed or self.file.read(io.DEFAULT_BUFFER_SIZE)
            if not self.packed:
                if self.frame is not None:
                    raise EOFError("zstandard data ends within a frame")
                return 0
            self._unpack()
        count = min(len(buffer), len(self.ready))
        buffer[:count], self.ready = self.ready[:count], self.ready[count:]
        return count

    def _unpack(self) -> None:
        self.frame = self.frame or self.zstandard.ZstdDecompressor().decompressobj()
        try:
            self.ready = self.frame.decompress(self.packed)
        except self.zstandard.ZstdError as error:
            raise OSError(f"broken zstandard data: {error}") from error
        self.packed = self.frame.unused_data
        if self.frame.eof:
            self.frame = None

    def close(self) -> None:
        self.file.close()
        super().close()


PACKED: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstd}


def _jsonl(path: Path) -> Records:
    name = str(path)
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line := line.rstrip(SPACE):
                yield _json_line(line, Source(name, number))


def _lines(path: Path) -> Records:
    """Each line that is not empty is a row of its own, as `datasets` reads text."""
    name = str(path)
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            source = Source(name, number)
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                reason = f"not UTF-8: byte {error.start + 1} of the line is 0x{line[error.start]:02x}"
                yield Dropped(source, reason, line.decode(errors="backslashreplace"))
                continue
            if text.strip():
                yield {"text": text}, source


def _json_line(line: bytes, source: Source) -> Record | Dropped:
    try:
        text = line.decode()
        # What json.loads does beside this takes as long as a short row itself.
        value, end = SCAN(text, 0 if text[0] == "{" else len(text) - len(text.lstrip(" \t")))
        if end != len(text):
            raise json.JSONDecodeError("Extra data", text, _skip_space(text, end))
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte {error.start + 1} of the line is 0x{line[error.start]:02x}"
    except StopIteration as error:
        reason = f"not JSON: Expecting value at column {error.value + 1}"
    except json.JSONDecodeError as error:
        reason = f"not JSON: {error.msg} at column {error.colno}"
    except RecursionError:
        reason = "not JSON: nested too deeply"
    else:
        return _record(value, source)
    return Dropped(source, reason, line.decode(errors="backslashreplace"))


def _record(value: Any, source: Source) -> Record | Dropped:
    if not isinstance(value, dict):
        return Dropped(source, f"a row is an object with columns; this is {kind_of(value)}", value)
    return value, source


def _json(path: Path) -> Records:
    """A list of rows, alone or as a field of an object; also one row, and JSON lines that go by the name of JSON."""
    text = _text(path)
    place = _skip_space(text, 0)
    if text[place : place + 1] == "[":
        yield from _json_list(path, text, place)
        return
    held = _held_list(text, place)
    yield from _json_objects(path, text, place) if held is None else _json_list(path, text, held)


def _json_list(path: Path, text: str, place: int) -> Records:
    """The rows of a list: a row's place is its number in the list, since many may stand on one line."""
    name, number = str(path), 0
    place = _skip_space(text, place + 1)
    try:
        while text[place : place + 1] != "]":
            number += 1
            value, place = DECODER.raw_decode(text, place)
            yield _record(value, Source(name, number))
            place = _skip_space(text, place)
            if text[place : place + 1] == ",":
                place = _skip_space(text, place + 1)
            elif text[place : place + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
    except json.JSONDecodeError as error:
        yield Dropped(Source(name, number), f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}")


def _held_list(text: str, place: int) -> int | None:
    """Where the list of rows begins in an object that holds one under a name of `HOLDERS`."""
    place = _skip_space(text, place + 1) if text[place : place + 1] == "{" else len(text)
    try:
        while text[place : place + 1] == '"':
            key, place = DECODER.raw_decode(text, place)
            place = _skip_space(text, _skip_space(text, place) + 1)
            if key in HOLDERS and re.compile(r"\[\s*\{").match(text, place):
                return place
            place = _skip_space(text, DECODER.raw_decode(text, place)[1])
            place = _skip_space(text, place + 1)
    except json.JSONDecodeError:
        pass
    return None


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
    with _open(path) as file:
        content = file.read()
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
        io.StringIO(_text(path), newline=""), delimiter="\t" if ".tsv" in path.suffixes[-2:] else ",", strict=True
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


READERS: dict[str, Callable[[Path], Records]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".txt": _lines,
}

KINDS = f"{', '.join(READERS)}, with {', '.join(PACKED)} behind it where it is compressed"
"""The kinds of files, for errors."""
