from __future__ import annotations

import sys
import time

import pytest

from swift.plan import measure
from swift.plan.measure import MemoryMeter

MIB = 1 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_block_that_is_gone_again_still_counts() -> None:
    meter = MemoryMeter().start()
    block = bytearray(b"\x01") * (128 * MIB)
    del block
    assert 120 * MIB < meter.stop() < 160 * MIB


def test_the_peak_is_final_after_the_stop() -> None:
    with MemoryMeter() as meter:
        pass
    before = meter.peak
    block = bytearray(b"\x01") * (64 * MIB)
    assert meter.peak == before
    del block


def test_a_thread_samples_where_the_mark_cannot_be_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_reset_high_water_mark", lambda: False)
    meter = MemoryMeter(interval=0.001).start()
    block = bytearray(b"\x01") * (128 * MIB)
    time.sleep(0.1)
    del block
    assert 120 * MIB < meter.stop() < 160 * MIB
