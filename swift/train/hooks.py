"""What happens beside the steps of a run: the log file, the progress line, interrupts, the last checkpoint."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from swift.compat import evaluates_last_step
from swift.train import distributed


class LogFile(TrainerCallback):
    """Writes each logged step as one JSON object a line; a resumed run goes on after the checkpoint's step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop lines after the step this run goes on from, which it will write again."""
        if not state.is_world_process_zero or not self.path.is_file():
            return
        kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step(line) <= state.global_step]
        temporary = self.path.with_name(f".{self.path.name}")
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        temporary.replace(self.path)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Append the figures with their step."""
        if not state.is_world_process_zero or not logs:
            return
        line = json.dumps({"step": state.global_step, **logs, "time": round(time.time(), 3)})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize


class Progress(TrainerCallback):
    """A bar with time left, loss and tokens a second; plain lines where the output is no terminal."""

    def __init__(self) -> None:
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the bar at the step the run goes on from."""
        if not state.is_world_process_zero or args.disable_tqdm:
            return
        from tqdm.auto import tqdm

        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step", mininterval=0.5)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the newest figures."""
        if self.bar is None or not logs:
            return
        if "loss" in logs:
            shown = {"loss": f"{logs['loss']:.4f}", "tok/s": f"{logs.get('tokens_per_second', 0):.0f}"}
            self.bar.set_postfix(shown, refresh=False)
        if "eval_loss" in logs:
            figures = (
                f"{name} {logs[name]:.4f}" for name in logs if name.startswith("eval_") and name != "eval_runtime"
            )
            self.bar.write(f"step {state.global_step}: {', '.join(figures)}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class LastStep(TrainerCallback):
    """Logs and saves the last step, whatever options say, and evaluates it where evaluation goes by steps."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Ask for a checkpoint where this step is the last one."""
        if state.global_step >= state.max_steps or control.should_training_stop:
            control.should_save = True
        if state.global_step >= state.max_steps:
            control.should_log = True
        by_steps = args.eval_strategy == "steps" and args.eval_delay <= state.global_step
        if state.global_step >= state.max_steps and by_steps and not evaluates_last_step():
            control.should_evaluate = True
        return control


class AfterStep(TrainerCallback):
    """Calls a part of the tuner with the number of steps done, after the optimizer's step and before gradients go."""

    def __init__(self, part: Callable[[int], None]) -> None:
        self.part = part

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Call it; the step that is being done counts."""
        self.part(state.global_step + 1)


class Interrupt(TrainerCallback):
    """Turns Ctrl-C and SIGTERM into a checkpoint and an orderly end; a second one ends at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        if distributed.is_main():
            print(f"\n{signal.Signals(number).name}: saving after this step", file=sys.stderr, flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Save and stop where some process was told to."""
        if distributed.any_process(self.received is not None):
            self.received = self.received or signal.SIGTERM
            control.should_save = control.should_training_stop = True
        return control
