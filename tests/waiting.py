"""Waiting with an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(happens: Callable[[], Any], seconds: float = 60) -> float:
    """Wait until something is true, and give the seconds that it took; fail where it does not come to be."""
    began = time.monotonic()
    while not happens():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.01)
    return time.monotonic() - began
