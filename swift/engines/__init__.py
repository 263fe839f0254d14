"""Engines: messages and sampling parameters in, messages and token ids out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from swift.engines.base import (
    AdapterRequest,
    ChatMessage,
    Choice,
    Delta,
    Engine,
    InferRequest,
    RequestConfig,
    Response,
    Usage,
)
from swift.engines.names import engine, engines

if TYPE_CHECKING:
    from swift.engines.texts import TextEngine
    from swift.engines.transformers import PtEngine

__all__ = [
    "AdapterRequest",
    "ChatMessage",
    "Choice",
    "Delta",
    "Engine",
    "InferRequest",
    "PtEngine",
    "RequestConfig",
    "Response",
    "TextEngine",
    "Usage",
    "engine",
    "engines",
]

_HOMES = {"PtEngine": "swift.engines.transformers", "TextEngine": "swift.engines.texts"}
"""Engines that bring torch along, which who only names one should not wait for."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
