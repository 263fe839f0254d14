"""The server over an engine, with the interface of OpenAI's."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swift.serve.server import Server
    from swift.serve.service import Limits

__all__ = ["Limits", "Server"]

_ELSEWHERE = {"Server": "swift.serve.server", "Limits": "swift.serve.service"}


def __getattr__(name: str) -> Any:
    # FastAPI waits until somebody serves.
    if name in _ELSEWHERE:
        return getattr(import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
