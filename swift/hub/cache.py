"""Where this project keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Folder of the cache: `$SWIFT_CACHE`, else `$XDG_CACHE_HOME/ms-swift`, else `~/.cache/ms-swift`.

    The folder need not exist yet.
    """
    if own := os.environ.get("SWIFT_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "ms-swift"
