"""All weights are trained."""

from __future__ import annotations

from typing import Any

from swift.config import TunerConfig
from swift.tuners import tuner


@tuner("full")
def full(model: Any, config: TunerConfig) -> Any:
    """Train every parameter."""
    return model.requires_grad_(True)
