"""The names that scripts import: all there, and quiet."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize("code", ["from swift import Trainer", "from swift.llm import PtEngine, merge_lora"])
def test_importing_prints_nothing(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"{code}; import peft"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_name_of_ms_swift_that_is_not_here_yet_is_told_plainly() -> None:
    import swift.llm

    table = json.loads(swift.llm.NOT_YET.read_text(encoding="utf-8"))
    assert "rlhf_main" in table and not set(table) & set(swift.llm.__all__)
    with pytest.raises(AttributeError, match="rlhf_main is a name of ms-swift that this version does not have yet"):
        swift.llm.rlhf_main  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'nosuch'"):
        swift.llm.nosuch  # noqa: B018
    for name in swift.llm.__all__:
        assert getattr(swift.llm, name)
