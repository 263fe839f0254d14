from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from swift.data.drops import Dropped
from swift.data.readers import read_file
from swift.errors import SwiftError

ROWS = [{"query": "q1", "response": "a1"}, {"query": "q2", "response": 'a "2",\nend'}]


def places(path):
    return [(value, source.line) for value, source in read_file(path)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL", "a.jsonl.gz", "a.json"])
def test_json_lines(tmp_path, name):
    text = json.dumps(ROWS[0]) + "\r\n\n" + json.dumps(ROWS[1])
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else b"\xef\xbb\xbf" + text.encode())
    if name == "a.json":
        path.write_bytes(text.encode())
    assert places(path) == [(ROWS[0], 1), (ROWS[1], 3)]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_counts_its_rows(tmp_path, indent):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS, indent=indent))
    assert places(path) == list(zip(ROWS, [1, 2], strict=True))


def test_one_json_object(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS[0], indent=2))
    assert places(path) == [(ROWS[0], 1)]


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t")])
def test_tables_count_physical_lines(tmp_path, name, mark):
    cells = ['"a ""2"",\nend"', "x\u2028y"]
    path = tmp_path / name
    path.write_text(
        f"query{mark}response\nq1{mark}a1\n\nq2{mark}{cells[0]}\nq3{mark}{cells[1]}\nq4{mark}\n", encoding="utf-8"
    )
    assert places(path) == [
        (ROWS[0], 2),
        (ROWS[1], 4),
        ({"query": "q3", "response": "x\u2028y"}, 6),
        ({"query": "q4"}, 7),
    ]


def test_parquet_leaves_out_the_empty_fields_of_objects(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "q"}]}, {"messages": [{"role": "user", "loss": True}], "id": 3}]
    pq.write_table(pa.Table.from_pylist(rows, schema=None), tmp_path / "a.parquet")
    assert places(tmp_path / "a.parquet")[0] == (rows[0], 1)
    assert places(tmp_path / "a.parquet")[1][0]["messages"] == rows[1]["messages"]


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b'{"a": 1}\n{"a": 1 "b"}', 2, "not JSON: Expecting ',' delimiter at column 9"),
        (b'\n\n{"a": "\xff"}', 3, "not UTF-8: byte 8 of the line is 0xff"),
        (b"[1]", 1, "a row is an object with columns; this is a list"),
        (b"null", 1, "a row is an object with columns; this is null"),
    ],
)
def test_bad_json_lines_name_line_and_column(tmp_path, content, line, reason):
    (tmp_path / "a.jsonl").write_bytes(content)
    (bad,) = (record for record in read_file(tmp_path / "a.jsonl") if isinstance(record, Dropped))
    assert (bad.source.line, bad.reason) == (line, reason)


@pytest.mark.parametrize(
    ("name", "text", "line", "reason"),
    [
        ("a.json", '[{"a": 1},\n 5]', 2, "a row is an object with columns; this is a number"),
        ("a.json", '[{"a": 1},\n {"b" 2}]', 2, "not JSON: Expecting ':' delimiter at line 2, column 7"),
        ("a.json", '[{"a": 1}\n {"b": 2}]', 1, "not JSON: Expecting ',' or ']' at line 2, column 2"),
        ("a.json", '[{"a": 1},\n', 2, "not JSON: Expecting value at line 2, column 1"),
        ("a.json", '{"a":\n 1', 2, "not JSON: Expecting ',' delimiter at column 3"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", 3, "3 cells, but the header has 2"),
        ("a.csv", 'a,b\n1,2\n"1,2\n', 3, "not csv: unexpected end of data"),
    ],
)
def test_bad_rows_of_other_files(tmp_path, name, text, line, reason):
    (tmp_path / name).write_text(text)
    (bad,) = (record for record in read_file(tmp_path / name) if isinstance(record, Dropped))
    assert (bad.source.line, bad.reason) == (line, reason)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.jsonl", b"\n\n", "holds no rows"),
        ("a.json", b"[]", "holds no rows"),
        ("a.json", b" ", "holds no rows"),
        ("a.csv", b"a,b,a\n1,2,3", "column 'a' stands twice in the header"),
        ("a.csv", b"query,response\n", "holds no rows"),
        ("a.txt", b"\n \n", "holds no rows"),
        ("a.pdf", b"text", "files of this kind are not read"),
        ("a.arrow", b"ARROW1", "is not a whole Arrow file"),
        ("a.jsonl.xz", b"plain", "cannot be read"),
        ("a.jsonl.bz2", b"plain", "cannot be read"),
        ("a.csv", b"a,b\n1,\xff\n", "is not UTF-8: byte 0xff"),
        ("a.parquet", b"PAR1", "is not a whole parquet file"),
        ("a.jsonl.gz", b"plain", "cannot be read: Not a gzipped file"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SwiftError, match=what) as error:
        list(read_file(tmp_path / name))
    assert str(tmp_path / name) in str(error.value)


def pack(end: str, content: bytes) -> bytes:
    import bz2
    import lzma

    if end == ".zst":
        zstandard = pytest.importorskip("zstandard")
        half = len(content) // 2
        # Two frames, as parallel writers make them.
        return b"".join(zstandard.ZstdCompressor().compress(part) for part in (content[:half], content[half:]))
    return {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[end](content)


@pytest.mark.parametrize("end", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"])
def test_compressed_files_read_as_plain_ones(tmp_path, end, name):
    mark = "\t" if name == "a.tsv" else ","
    text = {"a.json": json.dumps(ROWS), "a.jsonl": "\n".join(map(json.dumps, ROWS))}.get(
        name, f"query{mark}response\nq1{mark}a1\n"
    )
    plain, packed = tmp_path / name, tmp_path / f"{name}{end}"
    plain.write_text(text)
    packed.write_bytes(pack(end, text.encode()))
    assert places(plain)
    assert places(packed) == places(plain)
    packed.write_bytes(packed.read_bytes()[:-5])
    with pytest.raises(SwiftError, match="cannot be read"):
        places(packed)


def test_each_line_of_a_text_is_a_row(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\n  two \x85 三\n".encode() + b"\xff\n")
    *rows, bad = read_file(path)
    assert [(value, source.line) for value, source in rows] == [({"text": "one"}, 1), ({"text": "  two \x85 三"}, 3)]
    assert str(bad) == f"{path}:4: not UTF-8: byte 1 of the line is 0xff"


@pytest.mark.parametrize("field", ["data", "rows", "examples", "instances"])
def test_rows_within_an_object(tmp_path, field):
    path = tmp_path / "a.json"
    path.write_text(f'{{"version": {{"a": [1]}},\n "name": "x",\n "{field}": [{{"a": 1}},\n {{"a": 2}}], "end": 1}}')
    assert places(path) == [({"a": 1}, 1), ({"a": 2}, 2)]
    path.write_text(f'{{"query": "q", "response": "a", "{field}": ["x"]}}')
    assert len(places(path)) == 1


def test_json_lines_may_be_indented_and_nested_too_deeply(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('  {"a": 1} \n' + "[" * 100_000 + "\n" + '{"a": 1} x\n\t{"a": }\n')
    first, *bad = read_file(path)
    assert first[0] == {"a": 1}
    assert [item.reason for item in bad] == [
        "not JSON: nested too deeply",
        "not JSON: Extra data at column 10",
        "not JSON: Expecting value at column 8",
    ]


@pytest.fixture
def table() -> pa.Table:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "loss": False}]
    return pa.Table.from_pylist([{"messages": turns, "image": {"bytes": b"1", "path": None}, "id": 3}] * 3)


@pytest.mark.parametrize("kind", ["file", "stream", "parquet"])
def test_tables_leave_out_the_empty_fields_of_objects(tmp_path, table, kind):
    path = tmp_path / ("a.parquet" if kind == "parquet" else "a.arrow")
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as file, make(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    rows = places(path)
    assert [line for _, line in rows] == [1, 2, 3]
    assert rows[0][0]["messages"] == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "loss": False},
    ]
    assert rows[0][0]["image"] == {"bytes": b"1"}
