"""Signals that reach a run started from Python: it is saved, and the signal is not swallowed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from swift.train import callbacks
from swift.train.folders import latest_checkpoint
from swift.train.result import SftResult


class Signalled(TrainerCallback):
    """Sends this process a signal in its second step."""

    number = signal.SIGTERM

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
@pytest.mark.parametrize("steps", [2, 5])
def test_a_signal_saves_and_is_not_swallowed(
    train: Callable[..., SftResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    raised: type[BaseException],
    steps: int,
) -> None:
    monkeypatch.setattr(Signalled, "number", number)
    monkeypatch.setitem(callbacks._parts, "signalled", Signalled)
    output = tmp_path / "signalled"
    with pytest.raises(raised) as caught:
        train(max_steps=steps, callbacks=["signalled"], output_dir=str(output), add_version=False)
    assert raised is KeyboardInterrupt or caught.value.code == 143  # type: ignore[attr-defined]
    assert latest_checkpoint(output) == output / "checkpoint-2"
    told = capsys.readouterr().err
    assert ("go on with:" in told) == (steps == 5)
    assert ("after the last step: all 2 are done" in told) == (steps == 2)
