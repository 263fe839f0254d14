from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from swift import atomic
from swift.atomic import atomic_folder, recover_folder
from swift.errors import SwiftError


def write(path: Path, text: str) -> None:
    with atomic_folder(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text(text)


def read(path: Path) -> str:
    return (path / "inner" / "file").read_text()


@pytest.fixture(params=["exchange", "two renames"])
def either_way(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    return request.param


def test_a_new_folder_and_its_successor(tmp_path: Path, either_way: str) -> None:
    write(tmp_path / "deep" / "out", "one")
    write(tmp_path / "deep" / "out", "two")
    assert read(tmp_path / "deep" / "out") == "two"
    assert os.listdir(tmp_path / "deep") == ["out"]


def test_an_error_leaves_the_old_folder(tmp_path: Path, either_way: str) -> None:
    write(tmp_path / "out", "one")
    with pytest.raises(KeyError), atomic_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("half")
        raise KeyError("ours")
    assert read(tmp_path / "out") == "one" and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_names_the_folder_and_what_is_safe(tmp_path: Path, error: Exception) -> None:
    write(tmp_path / "out", "one")
    with pytest.raises(SwiftError) as caught, atomic_folder(tmp_path / "out"):
        raise error
    text = str(caught.value)
    assert "disk is full" in text and str(tmp_path / "out") in text and "as it was before" in text
    assert read(tmp_path / "out") == "one" and os.listdir(tmp_path) == ["out"]


def test_torch_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out"):
        raise hidden
    monkeypatch.setattr(atomic, "_LOW_DISK", 2**62)
    with pytest.raises(SwiftError, match="disk is full"), atomic_folder(tmp_path / "out"):
        raise hidden


@pytest.mark.skipif(not Path("/proc/version").is_file(), reason="needs a folder that nobody may write to")
def test_a_folder_that_cannot_be_written() -> None:
    with pytest.raises(SwiftError) as caught, atomic_folder("/proc/swift/out"):
        pass
    assert "/proc/swift" in str(caught.value) and "cannot be written" in str(caught.value)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SwiftError, match="cannot be written"), atomic_folder(tmp_path / "file" / "out"):
        pass


def test_what_dead_processes_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    host = atomic._host()
    stale = tmp_path / f".out.tmp-{int(dead.stdout)}-{host}-00000000"
    alive = tmp_path / f".out.tmp-{os.getppid()}-{host}-00000000"
    elsewhere = tmp_path / f".out.tmp-{int(dead.stdout)}-other.host-00000000"
    before_us = tmp_path / f".out.tmp-{os.getpid()}-{host}-00000000"
    for folder in (stale, alive, elsewhere, before_us):
        folder.mkdir()
    with atomic_folder(tmp_path / "out") as ours:
        with atomic_folder(tmp_path / "out"):
            assert ours.exists()
        assert not stale.exists() and not before_us.exists()
    assert alive.exists() and elsewhere.exists()


def test_a_kill_between_two_renames_is_undone(tmp_path: Path) -> None:
    write(tmp_path / "out", "one")
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (tmp_path / "out").rename(tmp_path / f".out.old-{int(dead.stdout)}-{atomic._host()}-00000000")
    recover_folder(tmp_path / "out")
    assert read(tmp_path / "out") == "one"


LOOP = """
import sys
from pathlib import Path
from swift.atomic import atomic_folder
number = 0
print("ready", flush=True)
while True:
    number += 1
    with atomic_folder(sys.argv[1]) as folder:
        for name in ("a", "b", "c"):
            (folder / name).write_text(str(number))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the exchange of two names is Linux's")
def test_killed_at_any_moment_a_whole_folder_is_there(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for attempt in range(8):
        process = subprocess.Popen([sys.executable, "-c", LOOP, str(target)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 + 0.007 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert len({(target / name).read_text() for name in ("a", "b", "c")}) == 1
    with atomic_folder(target) as folder:
        (folder / "a").write_text("last")
    assert os.listdir(tmp_path) == ["out"]
