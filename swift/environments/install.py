"""Making an environment: a folder that counts as whole only once everything in it was tried."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from swift.environments.kinds import Kind, kind_of
from swift.environments.place import (
    OWN,
    WHOLE,
    Environment,
    default_place,
    look,
    own_code,
    packages_of,
    python_of,
    read_record,
    version_of,
    write_record,
)
from swift.errors import SwiftError

LOG = "install.log"
BESIDE_TORCH = ("torchvision", "torchaudio", "torchcodec")
"""Packages that must be built for the same device as torch; serving text needs none of them."""


def install(name: str, path: Path | None = None) -> Environment:
    """Make the environment of this name, in place of a broken one or of another version; one that is whole stays.

    Args:
        path: its folder; None means in the cache, where a link leads to one that is elsewhere.

    Raises:
        SwiftError: the folder holds something else, or the installation fails.
    """
    kind = kind_of(name)
    place = default_place(name)
    path = Path(os.path.abspath(path.expanduser())) if path is not None else place
    there = look(name, path)
    if there.state == WHOLE and there.wrong is None:
        return there
    if path != place and place.is_dir() and not place.is_symlink():
        _clear_usual(place, look(name, place))
    _clear(path, there)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_record(path, state="installing", pid=os.getpid(), name=name)
    except OSError as error:
        raise SwiftError(f"--path {path} cannot be written: {error.strerror}", fix="name another folder") from None
    print(f"{name} is installed into {path}; {path / LOG} has the details", file=sys.stderr)
    try:
        _fill(path, kind)
    except SwiftError as error:
        write_record(path, state="failed", name=name, wrong=error.what)
        raise
    write_record(path, state=WHOLE, name=name, package=kind.package, version=version_of(path, kind.package))
    if path != place:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(path)
    return look(name, path)


def _clear_usual(place: Path, there: Environment) -> None:
    """Make room for the link to an environment that lies elsewhere.

    Raises:
        SwiftError: another one lies there, and can be used.
    """
    if there.state == WHOLE:
        raise SwiftError(
            f"--path: there is an environment {there.name} already, at {place}",
            fix=f"leave --path out, or: rm -r {place}",
        )
    _clear(place, there)


def _clear(path: Path, there: Environment) -> None:
    """Take away what is at this place, where it is ours.

    Raises:
        SwiftError: it is not, or another process is at work in it.
    """
    if path.is_symlink():
        path.unlink()
        return
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if read_record(path) is None:
        raise SwiftError(f"--path {path} is not empty and no environment of ms-swift's", fix="name a new folder")
    if there.wrong and "being installed" in there.wrong:
        raise SwiftError(f"{path}: {there.wrong}", fix="wait for it, or end it")
    shutil.rmtree(path)


def _fill(path: Path, kind: Kind) -> None:
    """Install what the requirements pin, make this package importable, and try both.

    Raises:
        SwiftError: a step fails; it has the last lines of what was said.
    """
    venv.create(path, with_pip=True, symlinks=True)
    _run(path, "-m", "pip", "install", "--requirement", str(kind.requirements))
    _drop_strangers(path)
    packages = packages_of(path)
    assert packages is not None
    (path / OWN).mkdir()
    (path / OWN / "swift").symlink_to(own_code())
    (packages / "swift-code.pth").write_text(f"{path / OWN}\n", encoding="utf-8")
    _run(path, "-c", kind.imports)


def _drop_strangers(path: Path) -> None:
    """Take out packages for CUDA beside a torch for the CPU, whose import would fail and take others along."""
    if "+cpu" not in (version_of(path, "torch") or ""):
        return
    strangers = [name for name in BESIDE_TORCH if "+cpu" not in (version_of(path, name) or "+cpu")]
    if strangers:
        _run(path, "-m", "pip", "uninstall", "--yes", *strangers)


def _run(path: Path, *words: str) -> None:
    with (path / LOG).open("ab") as log:
        done = subprocess.run([python_of(path), *words], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = (path / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise SwiftError(
            "the installation failed: " + " | ".join(line.strip() for line in lines[-3:]),
            where=str(path / LOG),
            fix="see there, and run the same command again",
        )
