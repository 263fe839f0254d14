"""Folders that are either there whole or not there: checkpoints, merged models, the demo's cache."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from swift.errors import SwiftError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_LOW_DISK = 64 * 2**20
# Folders that this process fills now: a temporary folder with our pid that is not here is a dead process's.
_active: set[Path] = set()


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives an empty temporary folder beside `path`; when the block ends well, it takes the place of `path`.

    A folder that was at `path` stays whole and usable until the new one replaces it in a single step (an exchange of
    the two names, where the system has one; else two renames, which `recover_folder` undoes after a kill between
    them). When the block raises, `path` is as it was and the temporary folder is gone; when the process is killed,
    the temporary folder stays and the next call for the same `path` removes it.

    Raises:
        SwiftError: the disk is full, or the folder that is to hold `path` cannot be written.
    """
    target = Path(os.path.abspath(os.path.expanduser(path)))
    temporary = target.parent / f".{target.name}.tmp-{os.getpid()}-{_host()}-{uuid.uuid4().hex[:8]}"
    _active.add(temporary)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(target)
        temporary.mkdir()
        yield temporary
        _sync_tree(temporary)
        _replace(temporary, target)
        _sync(target.parent)
    except Exception as error:
        mistake = _as_mistake(error, target)
        if mistake is None:
            raise
        raise mistake from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _active.discard(temporary)


def remove_folder(path: str | os.PathLike[str]) -> None:
    """Removes a folder that is never half there under its own name."""
    target = Path(os.path.abspath(path))
    hidden = target.parent / f".{target.name}.tmp-{os.getpid()}-{_host()}-{uuid.uuid4().hex[:8]}"
    target.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def recover_folder(path: str | os.PathLike[str]) -> None:
    """Puts back `path` where a kill fell between two renames, and removes temporary folders of dead processes.

    Temporary folders of other hosts are left alone: over a shared disk nothing tells whether their process lives.
    """
    target = Path(os.path.abspath(os.path.expanduser(path)))
    if not target.parent.is_dir():
        return
    pattern = re.compile(re.escape(f".{target.name}.") + r"(tmp|old)-(\d+)-(.+)-[0-9a-f]{8}")
    for entry in sorted(target.parent.iterdir()):
        match = pattern.fullmatch(entry.name)
        if match is None or entry in _active or match[3] != _host() or _other_lives(int(match[2])):
            continue
        if match[1] == "old" and not target.exists():
            with suppress(OSError):
                entry.rename(target)
                continue
        shutil.rmtree(entry, ignore_errors=True)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname()) or "host"


def _other_lives(pid: int) -> bool:
    # Ours would be in `_active`: a process before us had the same number, as in restarted containers.
    return pid != os.getpid() and lives(pid)


def lives(pid: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _replace(temporary: Path, target: Path) -> None:
    """Gives `temporary` the name `target`; what was there before is removed."""
    if target.is_dir() and not target.is_symlink():
        if _exchange(temporary, target):
            return  # the old folder now has the temporary name, which the caller removes
        aside = target.parent / temporary.name.replace(".tmp-", ".old-", 1)
        target.rename(aside)
        try:
            temporary.rename(target)
        except OSError:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
        return
    if target.exists() or target.is_symlink():
        target.unlink()
    temporary.rename(target)


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two names in one step (renameat2, RENAME_EXCHANGE); False where the system or file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    at_cwd, exchange = -100, 2
    return renameat2(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), exchange) == 0


def _sync(path: Path) -> None:
    # Some file systems refuse fsync of a folder; the rename is then as safe as they make it.
    with suppress(PermissionError, IsADirectoryError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(handle)


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _as_mistake(error: Exception, target: Path) -> SwiftError | None:
    """The `SwiftError` for a full disk or a folder that cannot be written; None for anything else."""
    if isinstance(error, SwiftError):
        return None
    safe = f"{target} is as it was before" if target.exists() else "nothing was left half written"
    if _is_disk_full(error, target):
        return SwiftError(
            f"the disk is full: {target} could not be written; {safe}.",
            where=str(target.parent),
            fix="free some space there or choose another folder, then run again.",
        )
    if isinstance(error, OSError) and _is_about_place(error, target):
        return SwiftError(
            f"{target} cannot be written: {error.strerror}; {safe}.",
            where=str(error.filename or target.parent),
            fix="choose a folder that you may write to, or change its permissions.",
        )
    return None


def _is_about_place(error: OSError, target: Path) -> bool:
    """Whether the folder around `target` cannot be made or written; other files that the block reads do not count."""
    if error.filename is None:
        return False
    place = Path(os.fsdecode(error.filename))
    if place in target.parents:
        return error.errno in (*_NOT_WRITABLE, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)
    return target.parent in place.parents and error.errno in (*_NOT_WRITABLE, errno.ENOTDIR)


def _is_disk_full(error: Exception, target: Path) -> bool:
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return True
    text = str(error)
    # safetensors reports through its own exception, with the system's text in it.
    if "No space left on device" in text or "os error 28" in text:
        return True
    # torch.save hides the system's error ("PytorchStreamWriter failed"): only the free space tells.
    if "PytorchStreamWriter" in text or "unexpected pos" in text:
        with suppress(OSError):
            return shutil.disk_usage(target.parent).free < _LOW_DISK
    return False
