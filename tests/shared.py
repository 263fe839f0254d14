"""Where the material that tests share lies: chat templates, reference masks, vocabularies."""

from __future__ import annotations

import os
from pathlib import Path


def shared_dir() -> Path | None:
    """The folder named by SWIFT_SHARED, or the first `shared` beside this checkout or above it; None without one."""
    if given := os.environ.get("SWIFT_SHARED"):
        return Path(given) if Path(given).is_dir() else None
    for folder in Path(__file__).resolve().parents:
        if (folder / "shared" / "chat_templates").is_dir():
            return folder / "shared"
    return None
