"""Names that scripts for ms-swift give models and templates: they are noted and not needed, slips of them refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from swift.errors import SwiftError
from swift.hub.nearby import did_you_mean, slips

TABLE = Path(__file__).parent / "table" / "known_names.json"
"""`model_types` and `templates` of ms-swift 3.5, 3.9 and 4.6."""


@cache
def known_names(kind: str) -> frozenset[str]:
    """The names of a kind: `model_types` or `templates`."""
    return frozenset(json.loads(TABLE.read_text(encoding="utf-8"))[kind])


def unknown_name(option: str, name: str, kind: str, ours: Iterable[str], otherwise: str) -> SwiftError:
    """The error for a name that neither we nor ms-swift know, with names that it may be a slip of."""
    near = slips(name, dict.fromkeys([*ours, *sorted(known_names(kind))]))
    return SwiftError(f"--{option} {name}: there is no such name", fix=did_you_mean(near, otherwise))
