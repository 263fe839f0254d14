"""What a run really took."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from types import TracebackType

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


class MemoryMeter:
    """The peak of a process's memory above a start mark.

    On a GPU it is what PyTorch's allocator gave out at most. On Linux it is the kernel's own high-water mark
    (proc_pid_status(5), VmHWM), set back at the start; where the kernel does not let a process do so, a thread
    samples the resident memory instead.

    Args:
        device: cpu or cuda.
        interval: seconds between the thread's samples.
    """

    def __init__(self, device: str = "cpu", *, interval: float = 0.02) -> None:
        self.device = device
        self.interval = interval
        self.baseline = 0
        self._highest = 0
        self._final: int | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> MemoryMeter:
        """Set the mark; return the meter itself."""
        self._final = None
        self._stop.clear()
        if self.device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            self.baseline = torch.cuda.memory_allocated()
            return self
        self.baseline = self._highest = resident_bytes()
        if not _reset_high_water_mark():
            self._thread = threading.Thread(target=self._sample, name="memory-meter", daemon=True)
            self._thread.start()
        return self

    @property
    def peak(self) -> int:
        """Bytes above the mark at the highest so far; after the stop, at the highest until then."""
        if self._final is not None:
            return self._final
        if self.device == "cuda":
            import torch

            return max(0, torch.cuda.max_memory_allocated() - self.baseline)
        now = resident_bytes() if self._thread else max(high_water_mark(), resident_bytes())
        self._highest = max(self._highest, now)
        return self._highest - self.baseline

    def stop(self) -> int:
        """Stop measuring and return the peak."""
        self._final = self.peak
        if self._thread:
            self._stop.set()
            self._thread.join()
            self._thread = None
        return self._final

    def __enter__(self) -> MemoryMeter:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _sample(self) -> None:
        while not self._stop.is_set():
            self._highest = max(self._highest, resident_bytes())
            time.sleep(self.interval)


def resident_bytes() -> int:
    """Bytes of this process that lie in RAM now."""
    found = _status("VmRSS")
    if found is None:
        import psutil

        return int(psutil.Process().memory_info().rss)
    return found


def high_water_mark() -> int:
    """The most bytes of this process that lay in RAM together since the start or the last reset; 0 off Linux."""
    return _status("VmHWM") or 0


def _status(field: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return None


def _reset_high_water_mark() -> bool:
    try:
        CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    return high_water_mark() > 0
