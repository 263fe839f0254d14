"""What a name may have been meant to be, and whether a hub can be reached at all; without heavy imports."""

from __future__ import annotations

import difflib
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from swift.errors import SwiftError

ALIKE = 0.75
"""How alike two names are, by difflib's ratio, for one to be a slip of the other."""

PORTS = {"http": 80, "https": 443}


def closest(name: str, known: Iterable[str] = ()) -> list[str]:
    """Names that `name` is a slip of, three at most: among `known`, and in the folder that it points into.

    Args:
        name: what the user wrote.
        known: names that are no files.
    """
    path = Path(name).expanduser()
    found = slips(name, known)
    if path.parent.is_dir():
        there = {entry.name: entry for entry in path.parent.iterdir() if not entry.name.startswith(".")}
        by_stem = {Path(entry).stem: entry for entry in there}
        alike = difflib.get_close_matches(path.name, [*there, *by_stem], n=3, cutoff=ALIKE)
        found += dict.fromkeys(str(there[by_stem.get(entry, entry)]) for entry in alike)
    return found[:3]


def slips(name: str, known: Iterable[str]) -> list[str]:
    """Names among `known` that `name` is a slip of, three at most."""
    return difflib.get_close_matches(name, list(known), n=3, cutoff=ALIKE)


def did_you_mean(names: list[str], otherwise: str) -> str:
    """The remedy for a name that is nowhere."""
    return f"did you mean {' or '.join(names)}? Else {otherwise}" if names else otherwise


def absent(name: str, option: str, known: Iterable[str] = (), *, what: str = "file or folder") -> SwiftError:
    """The error for a path, or a name that no hub is asked for, that is not there."""
    otherwise = f"check the path; it is looked for in {Path.cwd()}"
    if "/" not in name and not Path(name).suffix:
        otherwise += f"; an id on a hub looks like owner/name, or HF::{name}"
    return SwiftError(f"--{option} {name}: no such {what}", fix=did_you_mean(closest(name, known), otherwise))


def reachable(url: str, seconds: float = 5) -> bool:
    """Whether the host of an address takes connections; behind a proxy only the proxy could tell, so True.

    The hubs' own packages try again for up to half a minute where it does not.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme in getproxies() and not proxy_bypass(host):
        return True
    try:
        socket.create_connection((host, parts.port or PORTS.get(parts.scheme, 443)), seconds).close()
    except OSError:
        return False
    return True
