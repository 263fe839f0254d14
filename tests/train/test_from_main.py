"""What process 0 does for all: at length, and with whatever it ends with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import time
from swift.errors import SwiftError
from swift.train import distributed

distributed.start(None)
distributed.BEAT_SECONDS = 0.05

def slow():
    time.sleep(0.3)
    return 7

def wrong():
    raise KeyError("no such thing")

def mistake():
    raise SwiftError("mend it")

print("found", distributed.from_main_at_length(slow), flush=True)
for function in (wrong, mistake):
    try:
        distributed.from_main_at_length(function)
    except Exception as error:
        print(distributed.rank(), type(error).__name__, error, flush=True)
distributed.stop()
"""


def test_the_others_wait_as_long_as_process_0_is_at_work(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(file)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "0 KeyError 'no such thing'",
        "0 SwiftError mend it",
        "1 RuntimeError process 0 failed: KeyError('no such thing')",
        "1 SwiftError mend it",
        "found 7",
        "found 7",
    ]
