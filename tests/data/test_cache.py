"""The place of tokenised rows: made once, whatever dies, and never taken for other rows."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from swift.config import DataConfig
from swift.data import dataset, datasets
from swift.data.cache import differences, ensure, is_whole, read_about
from swift.data.identity import code_identity, data_identity, key_of
from swift.errors import SwiftError


def test_only_one_of_several_processes_makes_it(tmp_path: Path) -> None:
    place, log = tmp_path / "a" / "b", tmp_path / "log"

    def make(folder: Path) -> dict[str, str]:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        return {"by": str(os.getpid())}

    pids = []
    for _ in range(4):
        pids.append(os.fork())
        if not pids[-1]:
            ensure(place, make, "key")
            os._exit(0 if is_whole(place) else 1)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    assert len(log.read_text().splitlines()) == 1
    assert ensure(place, make, "key")
    assert [path.name for path in place.parent.iterdir()] == ["b"]


def test_no_two_make_it_at_once_where_each_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swift.data.cache.POLL", 0.001)
    place, mark = tmp_path / "place", tmp_path / "mark"

    def failing(folder: Path) -> dict[str, str]:
        mark.touch(exist_ok=False)
        time.sleep(0.002)
        mark.unlink()
        raise SwiftError("bad rows")

    def process() -> int:
        for _ in range(30):
            try:
                ensure(place, failing, "key")
            except SwiftError:
                continue
            except OSError:
                return 1
        return 0

    pids = []
    for _ in range(4):
        pids.append(os.fork())
        if not pids[-1]:
            os._exit(process())
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    assert not list(tmp_path.iterdir())


def test_another_process_goes_on_where_one_was_killed(tmp_path: Path) -> None:
    place = tmp_path / "place"

    def dying(folder: Path) -> dict[str, str]:
        (folder / "part").write_text("one")
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    pid = os.fork()
    if not pid:
        ensure(place, dying, "key")
        os._exit(0)
    os.waitpid(pid, 0)
    assert not is_whole(place)
    assert not ensure(place, lambda folder: {"found": (folder / "part").read_text()}, "key")
    assert read_about(place) == {"found": "one"}


@pytest.mark.parametrize("key", ["another", None])
def test_what_was_begun_for_something_else_is_not_gone_on_with(tmp_path: Path, key: str | None) -> None:
    place, left = tmp_path / "place", tmp_path / ".place.building"
    left.mkdir()
    (left / "key").write_text("key")
    (left / "part").write_text("one")
    ensure(place, lambda folder: {"found": (folder / "part").exists()}, key)
    assert read_about(place) == {"found": False}


def test_rows_that_cannot_be_used_leave_nothing(tmp_path: Path) -> None:
    def failing(folder: Path) -> dict[str, str]:
        (folder / "part").write_text("one")
        raise SwiftError("bad rows")

    with pytest.raises(SwiftError, match="bad rows"):
        ensure(tmp_path / "place", failing, "key")
    assert not list(tmp_path.iterdir())


def identity(**options) -> object:
    return data_identity(DataConfig(**options), seed=0, use_hf=None, token=None)


def test_the_key_follows_the_content_of_the_files_and_the_options(tmp_path: Path, jsonl) -> None:
    file = jsonl([{"query": "a", "response": "b"}])
    before, times = identity(dataset=[str(file)]), file.stat()
    file.write_text(file.read_text().replace("b", "c"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = identity(dataset=[str(file)])
    keys = {key_of(each) for each in (before, after, identity(dataset=[str(file)], strict=False))}
    assert len(keys) == 3
    assert key_of(identity(dataset=[str(file)], dataset_num_proc=3, packing=True)) == key_of(after)
    jsonl([{"query": "d", "response": "e"}], "folder/one.jsonl")
    one = identity(dataset=[str(tmp_path / "folder")])
    jsonl([{"query": "d", "response": "e"}], "folder/two.jsonl")
    assert identity(dataset=[str(tmp_path / "folder")]) != one


def test_the_key_follows_what_self_cognition_and_the_code_are_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "table.jsonl"
    monkeypatch.setattr("swift.data.identity.TABLE", table)
    found = []
    for text in ("one", "two"):
        table.write_text(text)
        code_identity.cache_clear()
        found.append((identity(dataset=["self-cognition#3"]), code_identity(tmp_path)))
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1]


def test_rows_of_a_function_are_not_kept() -> None:
    dataset("of_a_function")(lambda: [{"query": "a", "response": "b"}])
    try:
        assert identity(dataset=["of_a_function"]) is None
    finally:
        datasets._parts.pop("of_a_function", None)


def test_differences_are_told_by_name() -> None:
    made, wanted = {"loss_scale": "default", "tokenizer": "a", "x": 1}, {"loss_scale": "all", "tokenizer": "a", "x": 1}
    assert differences(made, wanted) == ["loss_scale was 'default' and is 'all'"]
