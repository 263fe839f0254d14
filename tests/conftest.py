"""What holds for all tests."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Threads that wait must not take the cores from processes that tests start; torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Tests compare with models on the CPU; those of a GPU run alone, by `make test-gpu`.
if "SWIFT_TEST_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

# Tests that run side by side take a core each, and so does what they start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests leave no tokenised rows behind.
os.environ.setdefault("SWIFT_DATASET_CACHE", tempfile.mkdtemp(prefix="swift-tokens-"))
atexit.register(shutil.rmtree, os.environ["SWIFT_DATASET_CACHE"], ignore_errors=True)
