"""OpenMP's threads go with who computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, threading
import torch
from swift.engines.threads import _libgomp, release_threads

def there():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(4)
size = 400
product = torch.ones(size, size).exp().sum()
large = torch.ones(4_000_000)
before = large.exp().sum()
many = there()
release_threads()
few = there()
assert large.exp().sum() == before
print(_libgomp() is not None, many, few, there())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts the threads in /proc")
def test_a_thread_gives_its_pool_back_and_gets_it_again() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.split()
    if found[0] == "False":
        pytest.skip("torch computes with another OpenMP")
    many, few, again = map(int, found[1:])
    assert few < many and again == many
