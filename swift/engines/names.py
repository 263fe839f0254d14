"""The engines by their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from swift.registry import Registry

E = TypeVar("E", bound=type)

engines: Registry[Any] = Registry(
    "engine",
    "infer_backend",
    {
        "pt": "swift.engines.transformers",
        "transformers": "swift.engines.transformers",
        "remote": "swift.engines.remote",
        "vllm": "swift.engines.vllm",
        "sglang": "swift.engines.sglang",
        "lmdeploy": "swift.engines.lmdeploy",
    },
)

BACKENDS = ("vllm", "sglang", "lmdeploy")
"""Engines that are packages of their own, with options of their own."""


def engine(name: str) -> Callable[[E], E]:
    """Decorator: register an engine class under the name that `--infer_backend` takes.

    The command line makes one by `from_source(source, template, config, *, max_batch_size, max_length, decisions)`:
    what `swift.models.source.find_source` found, not loaded yet, the options of the model, and the table that takes a
    note of what was chosen. Back ends with options of their own take `engine_options` besides.
    """
    return engines.register(name)
