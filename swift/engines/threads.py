"""OpenMP's threads: those of a thread that computes no more are in the way of the others.

Each thread that calls torch gets a pool of OpenMP threads. Where the pools together have more threads than there are
processors, GCC's libgomp lets all of them sleep at once instead of waiting awake (`gomp_throttled_spin_count_var`), and
then waking them takes as long as a small operation: a step of a model has hundreds.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

SOFT = 1
"""`omp_pause_soft` of OpenMP 5.0: the pool comes back by itself when it is wanted."""


def release_threads() -> None:
    """Give the calling thread's OpenMP threads back, if it has any; nothing happens with another OpenMP."""
    library = _libgomp()
    if library is not None:
        library.omp_pause_resource_all(SOFT)


@cache
def _libgomp() -> Any:
    """The libgomp that is loaded."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return None
    for line in maps.read_text(encoding="utf-8").splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith("libgomp"):
            library = ctypes.CDLL(path)
            return library if hasattr(library, "omp_pause_resource_all") else None
    return None
