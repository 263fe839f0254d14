"""Environments of other back ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.config.fields import named, option


@dataclass
class EnvironmentConfig:
    """Options of what is made, and where."""

    install: Literal["vllm", "sglang", "lmdeploy", "evalscope"] | None = option(
        None, "Make the environment of this back end (also: swift env install NAME); unset lists all."
    )
    path: str | None = option(
        None, "Folder of the environment; unset means one in the cache.", check=named, needs=("install",)
    )
