"""What a run prints before, and what it does and says after its steps."""

from __future__ import annotations

import errno
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config import SftConfig
from swift.errors import SwiftError
from swift.train import distributed
from swift.train.assemble import Prepared
from swift.train.sft import SftResult

if TYPE_CHECKING:
    from swift.plan.measure import MemoryMeter
    from swift.train.setup import TrainPlan
    from swift.train.trainer import SwiftTrainer

PREVIEWS = 3
"""Rows that a dry run shows as tokens."""


def show_dry_run(config: SftConfig, plan: TrainPlan, data: Prepared, tokenizer: Any) -> None:
    """Print the plan, the first rows and the planned memory."""
    if not distributed.is_main():
        return
    from swift.plan import show

    dataset = data.train.dataset
    counts = show.Counts(
        rows=dataset.rows,
        samples=len(dataset),
        tokens=int(dataset.lengths.sum()),
        trained_tokens=int(dataset.trained.sum()),
        steps=plan.steps,
        trainable=plan.trainable,
        parameters=plan.parameters,
    )
    previews = [show.Preview(dataset[number], tokenizer) for number in range(min(PREVIEWS, len(dataset)))]
    whole = show.RunPlan(plan.decisions, plan.memory, plan.available, counts, previews)
    show.show_dry_run(whole, format=config.output.format, stream=sys.stdout)
    if config.output.format == "text":
        print(data.summary())


def show_start(plan: TrainPlan, data: Prepared, run_folder: Path) -> None:
    """The table of chosen values at the head of a run."""
    if not distributed.is_main():
        return
    lines = ["Chosen for this run", *plan.decisions.table(), "", data.summary(), f"run folder: {run_folder}"]
    print("\n".join(lines), file=sys.stderr, flush=True)


def run(trainer: SwiftTrainer, plan: TrainPlan, run_folder: Path, resume: Path | None, meter: MemoryMeter) -> SftResult:
    """Train, with interrupts turned into checkpoints, and measure the peak of memory.

    Raises:
        SwiftError: the disk is full or the folder has gone; earlier checkpoints stay.
    """
    from swift.train.hooks import Interrupt
    from swift.train.plots import read_log

    interrupt = Interrupt()
    trainer.add_callback(interrupt)
    with interrupt:
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise SwiftError(
                f"the disk is full: step {trainer.state.global_step} could not be logged; checkpoints are whole",
                where=str(run_folder),
                fix="free some space there, then add --resume_from_checkpoint latest",
            ) from None
    step = trainer.state.global_step
    checkpoint = run_folder / f"checkpoint-{step}"
    return SftResult(
        run_folder=run_folder,
        checkpoint=checkpoint if checkpoint.is_dir() else None,
        steps=step,
        log=read_log(run_folder / "logging.jsonl"),
        planned=plan.memory.total,
        measured=meter.stop(),
        status=128 + interrupt.received if interrupt.received else 0,
    )


def report(config: SftConfig, result: SftResult) -> None:
    """Pictures, the small plot, memory planned and measured, and what to type next."""
    if not distributed.is_main():
        return
    from swift.plan.show import planned_against_measured
    from swift.train.plots import curve, save_pictures, terminal_plot

    assert result.run_folder is not None
    pictures: list[Path] = []
    try:
        pictures = save_pictures(result.log, result.run_folder / "images")
    except OSError as error:
        print(f"warning: no pictures in {result.run_folder / 'images'}: {error.strerror}", file=sys.stderr)
    steps, losses = curve(result.log, "loss")
    lines = ["", terminal_plot(steps, losses)]
    if losses:
        lines.append(f"loss {losses[0]:.4f} at step {steps[0]:g}, {losses[-1]:.4f} at step {steps[-1]:g}")
    if result.planned and result.measured:
        lines.append(planned_against_measured(result.planned, result.measured))
    if pictures:
        lines.append(f"pictures: {pictures[0].parent}")
    lines.append(f"checkpoint: {result.checkpoint}")
    kind = "adapters" if (result.checkpoint and (result.checkpoint / "adapter_config.json").exists()) else "model"
    if result.status:
        name = signal.Signals(result.status - 128).name
        lines += [f"stopped by {name} after step {result.steps}; go on with:"]
        lines.append(f"  {again(config, result)}")
    else:
        lines += ["next:", f"  swift infer --{kind} {result.checkpoint}"]
        if kind == "adapters":
            lines.append(f"  swift merge-lora --adapters {result.checkpoint} --output_dir merged")
    print("\n".join(lines), file=sys.stderr, flush=True)


def again(config: SftConfig, result: SftResult) -> str:
    """The command that goes on with a run."""
    return f"swift sft --config {result.run_folder}/config.yaml --resume_from_checkpoint {result.checkpoint}"
