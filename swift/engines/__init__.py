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
    engine,
    engines,
)

if TYPE_CHECKING:
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
    "Usage",
    "engine",
    "engines",
]


def __getattr__(name: str) -> Any:
    # PtEngine brings torch along, which who only names an engine should not wait for.
    if name == "PtEngine":
        return import_module("swift.engines.transformers").PtEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
