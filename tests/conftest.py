"""What holds for all tests."""

from __future__ import annotations

import os

# Threads that wait must not take the cores from processes that tests start; torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
