"""A process that ends while an engine works."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import threading
from swift.engines import InferRequest, PtEngine, RequestConfig
from swift.templates import load_template
from tests.tiny import ask, make_model, make_tokenizer

engine = PtEngine((make_model(max_position_embeddings=4096), load_template(make_tokenizer())))
request = InferRequest(ask("what is the sky? " * 20))
engine.infer([request] * 4, RequestConfig(8, temperature=0, ignore_eos=True))
told = threading.Event()
if {under_way}:
    config = RequestConfig(4000, temperature=0, ignore_eos=True)
    engine.submit(request, config, lambda delta: told.set())
    told.wait()
print("done", flush=True)
"""


@pytest.mark.parametrize("under_way", [False, True])
def test_the_interpreter_ends_in_order(under_way: bool) -> None:
    for _ in range(1 if under_way else 3):
        done = subprocess.run(
            [sys.executable, "-c", CODE.format(under_way=under_way)], capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]
