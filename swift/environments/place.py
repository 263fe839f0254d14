"""Where environments lie, and what is wrong with each."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift.atomic import lives
from swift.environments.kinds import NAMES, Kind, kind_of
from swift.hub.cache import cache_root

RECORD = "swift-environment.json"
"""In each environment: what was installed, and whether that came to its end."""
OWN = "swift-code"
"""The folder in an environment that leads to this package."""
ABSENT, WHOLE, BROKEN = "absent", "whole", "broken"


@dataclass(frozen=True)
class Environment:
    """One environment as it is now.

    Attributes:
        version: of the package that it is made for; None where that is not there.
        state: absent, whole or broken.
        wrong: what is wrong with it; in one that is whole, what may be.
    """

    name: str
    path: Path
    state: str
    version: str | None = None
    wrong: str | None = None

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return python_of(self.path)


def default_place(name: str) -> Path:
    """Where an environment lies unless another place is named: there a link leads to it then."""
    return cache_root() / "environments" / name


def python_of(path: Path) -> Path:
    """The interpreter of a virtual environment."""
    return path / "bin" / "python"


def packages_of(path: Path) -> Path | None:
    """The folder of its packages."""
    return next(iter(sorted(path.glob("lib/python3*/site-packages"))), None)


def read_record(path: Path) -> dict[str, Any] | None:
    """What its installation wrote; None where none began."""
    try:
        return json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_record(path: Path, **values: Any) -> None:
    """Replace the record in one step."""
    temporary = path / f".{RECORD}"
    temporary.write_text(json.dumps(values), encoding="utf-8")
    os.replace(temporary, path / RECORD)


def look(name: str, path: Path | None = None) -> Environment:
    """An environment with its state, told from its files alone.

    Args:
        path: its folder; None means where it usually lies.

    Raises:
        SwiftError: there is no such kind.
    """
    kind = kind_of(name)
    path = (path or default_place(name)).expanduser()
    if not os.path.lexists(path):
        return Environment(name, path, ABSENT, wrong=f"swift env install {name} makes it")
    path = path.resolve()
    version = version_of(path, kind.package)
    if wrong := _broken(path, kind, version):
        return Environment(name, path, BROKEN, version, wrong)
    note = None if version == kind.pinned else f"this ms-swift is tested with {kind.pinned}: install it again"
    return Environment(name, path, WHOLE, version, note)


def look_at_all() -> list[Environment]:
    """Every kind of environment."""
    return [look(name) for name in NAMES]


def version_of(path: Path, package: str) -> str | None:
    """The version of an installed package; None where it is not there."""
    folder = packages_of(path)
    pattern = f"{package.replace('-', '_')}-*.dist-info"
    found = sorted(folder.glob(pattern)) if folder is not None else []
    return found[0].name.removesuffix(".dist-info").rpartition("-")[2] if found else None


def _broken(path: Path, kind: Kind, version: str | None) -> str | None:
    """Why it cannot be used."""
    record = read_record(path)
    if record is None:
        return "it is no environment of ms-swift's"
    if record["state"] == "installing":
        alive = lives(record["pid"])
        return f"it is being installed by process {record['pid']}" if alive else "its installation broke off"
    if record["state"] != WHOLE:
        return record.get("wrong", "its installation failed")
    if not python_of(path).exists():
        return f"its Python is gone: {os.readlink(python_of(path)) if python_of(path).is_symlink() else 'bin/python'}"
    if version is None:
        return f"{kind.package} is not in it"
    if record.get("package") != kind.package:
        return f"it was made with {record.get('package')}, and this machine needs {kind.package}"
    code = path / OWN / "swift"
    if not (code / "__init__.py").is_file():
        return f"this package is not found from it any more: {code}"
    return None


def own_code() -> Path:
    """The folder of this package."""
    return Path(sys.modules["swift"].__file__ or "").resolve().parent
