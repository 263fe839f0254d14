"""Tokenised sets that are kept: made once by one process, waited for by the others, and found again."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from swift.data.encoded import EncodedDataset
from swift.data.token_files import open_tokens
from swift.errors import SwiftError
from swift.hub.cache import cache_root

ABOUT, KEY = "about.json", "key"
TRAIN, HELD = "train", "val"
"""Folders of the two sets."""

POLL = 0.2
"""Seconds between looks at what another process makes."""


def tokens_root() -> Path:
    """Folder of tokenised sets: `$SWIFT_DATASET_CACHE`, else `tokens` in the cache of this project."""
    own = os.environ.get("SWIFT_DATASET_CACHE")
    return Path(own).expanduser() if own else cache_root() / "tokens"


def can_keep() -> bool:
    """Whether the folder of tokenised sets can be written; where it cannot, as in some containers, none are kept."""
    root = tokens_root()
    with suppress(OSError):
        root.mkdir(parents=True, exist_ok=True)
    return os.access(root, os.W_OK)


def is_whole(folder: Path) -> bool:
    """Whether a folder holds tokenised sets to the end."""
    return (folder / ABOUT).is_file()


def read_about(folder: Path) -> dict[str, Any]:
    """What a tokenised set was made of."""
    return dict(json.loads((folder / ABOUT).read_text(encoding="utf-8")))


def open_sets(folder: Path) -> tuple[EncodedDataset, EncodedDataset | None]:
    """The memory-mapped sets of a folder, for training and for evaluation."""
    held = folder / HELD
    return open_tokens(folder / TRAIN), open_tokens(held) if held.is_dir() else None


Make = Callable[[Path], dict[str, Any]]
"""Fills a folder with tokenised sets, which may go on from what is there, and gives what they were made of."""


def ensure(folder: Path, make: Make, key: str | None) -> bool:
    """Have the sets in `folder`: made by this process, or by another one that is waited for.

    However long another process takes, this one waits without a time limit; if that one dies, this one goes on where
    it stopped.

    Args:
        folder: their place.
        make: fills a folder.
        key: what a killed process left is gone on with where its key was the same; None never goes on.

    Returns:
        Whether they were there already when this process came to look.

    Raises:
        SwiftError: rows cannot be used, or the place cannot be written.
    """
    if is_whole(folder):
        return True
    with _locked(folder) as waited:
        if is_whole(folder):
            return not waited
        building = folder.with_name(f".{folder.name}.building")
        mark = building / KEY
        if key is None or not mark.is_file() or mark.read_text(encoding="utf-8") != key:
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            mark.write_text(key or "", encoding="utf-8")
        try:
            about = make(building)
        except SwiftError:
            shutil.rmtree(building, ignore_errors=True)
            raise
        finish(building, folder, about)
    return False


def finish(building: Path, folder: Path, about: dict[str, Any]) -> None:
    """Give filled files their place in one step."""
    (building / ABOUT).write_text(json.dumps(about, ensure_ascii=False, indent=1, default=repr), encoding="utf-8")
    for path in building.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a place; the system lets go of it when a process dies, however it dies."""
    lock, waited = folder.with_name(f".{folder.name}.lock"), False
    while (file := _taken(lock)) is None:
        if not waited and os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"another process tokenises the same rows: waiting for {folder}", file=sys.stderr, flush=True)
        waited = True
        time.sleep(POLL)
    with file:
        try:
            yield waited
        finally:
            lock.unlink(missing_ok=True)


def _taken(lock: Path) -> IO[str] | None:
    """The lock, open and held; None where another process holds it."""
    while True:
        file = _opened(lock)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        if _is_still(lock, file):
            return file
        file.close()


def _opened(lock: Path) -> IO[str]:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        return lock.open("w")
    except OSError as error:
        raise SwiftError(
            f"tokenised rows cannot be kept: {error.strerror}",
            where=str(lock.parent),
            fix="name another folder in SWIFT_DATASET_CACHE, or keep none: --load_from_cache_file false",
        ) from error


def _is_still(lock: Path, file: IO[str]) -> bool:
    """Whether an open file is the lock: the process that held it before takes its name away."""
    try:
        return os.path.samestat(os.stat(lock), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextmanager
def passing_folder() -> Iterator[Path]:
    """A folder for sets that are not kept; it can be removed once they are mapped."""
    root = str(tokens_root()) if can_keep() else None
    with tempfile.TemporaryDirectory(prefix="passing-", dir=root) as folder:
        yield Path(folder)


def differences(made: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Where what a set was made of differs from what is wanted, in words."""
    said = []
    for name in sorted(made.keys() | wanted.keys()):
        before, now = made.get(name), wanted.get(name)
        if before != now:
            long = max(len(repr(before)), len(repr(now))) > 60
            said.append(f"{name} is another one" if long else f"{name} was {before!r} and is {now!r}")
    return said
