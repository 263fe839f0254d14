"""What a run prints before, and what it does and says after its steps."""

from __future__ import annotations

import errno
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config import SftConfig
from swift.errors import SwiftError
from swift.train import distributed
from swift.train.assemble import Prepared
from swift.train.folders import step_of
from swift.train.result import SftResult

if TYPE_CHECKING:
    from swift.plan.measure import MemoryMeter
    from swift.plan.show import RunPlan
    from swift.train.setup import TrainPlan
    from swift.train.trainer import SwiftTrainer

PREVIEWS = 3
"""Rows that a dry run shows as tokens."""
UNMERGED = ("prompt", "prefix", "adapter", "reft")
"""Tuners whose adapters are no change of weights."""


def screen(plan: TrainPlan, data: Prepared, tokenizer: Any) -> RunPlan:
    """What the plan's screens show."""
    from swift.plan.show import Counts, Preview, RunPlan

    dataset = data.train.dataset
    counts = Counts(steps=plan.steps, trainable=plan.trainable, parameters=plan.parameters)
    if data.live is not None:
        counts = replace(counts, rows=data.live.rows)
    else:
        counts = replace(
            counts,
            rows=dataset.rows,
            samples=len(dataset),
            packs=data.train.count if data.train.units is not None else None,
            longest=int(dataset.lengths.max()),
            tokens=int(dataset.lengths.sum(dtype="int64")),
            trained_tokens=int(dataset.trained.sum(dtype="int64")) if dataset.targets is None else None,
        )
    previews = [Preview(dataset[number], tokenizer) for number in range(min(PREVIEWS, len(dataset)))]
    return RunPlan(plan.decisions, plan.memory, plan.available, counts, data.remarks(), previews)


def show_dry_run(config: SftConfig, whole: RunPlan) -> None:
    """Print the plan, the first rows and the planned memory."""
    from swift.plan.show import show_dry_run as show

    if distributed.is_main():
        show(whole, format=config.output.format, stream=sys.stdout)


def show_start(whole: RunPlan, run_folder: Path) -> None:
    """What was chosen and how much there is to do, at the head of a run."""
    from swift.plan.show import start_lines

    if distributed.is_main():
        print("\n".join([*start_lines(whole), f"run folder: {run_folder}"]), file=sys.stderr, flush=True)


def run(
    config: SftConfig,
    trainer: SwiftTrainer,
    plan: TrainPlan,
    run_folder: Path,
    resume: Path | None,
    meter: MemoryMeter,
) -> SftResult:
    """Train, with interrupts turned into checkpoints, and measure the peak of memory.

    Raises:
        SwiftError: a row that was read during the run cannot be used, the disk is full, or the folder has gone;
            checkpoints stay.
    """
    from swift.train.hooks import Interrupt
    from swift.train.plots import read_log
    from swift.train.told import Halt

    interrupt = Interrupt()
    trainer.add_callback(interrupt)
    with interrupt:
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
            checkpoint = trainer.save_last()
        except Halt as halt:
            # The checkpoint that a run goes on from is whole already.
            if trainer.state.global_step > (step_of(resume) if resume else 0):
                kept = SftResult(run_folder=run_folder, checkpoint=trainer.save_now())
                halt.fix = f"{halt.fix}; step {trainer.state.global_step} is kept, go on with: {again(config, kept)}"
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise SwiftError(
                f"the disk is full: step {trainer.state.global_step} could not be logged; checkpoints are whole",
                where=str(run_folder),
                fix="free some space there, then add --resume_from_checkpoint latest",
            ) from None
    best = trainer.state.best_model_checkpoint
    return SftResult(
        run_folder=run_folder,
        checkpoint=Path(best) if best and trainer.args.load_best_model_at_end else checkpoint,
        steps=trainer.state.global_step,
        log=read_log(run_folder / "logging.jsonl"),
        planned=plan.memory.total,
        measured=meter.stop(),
        whole=trainer.state.global_step >= trainer.state.max_steps,
        status=128 + interrupt.received if interrupt.received else 0,
        remarks=trainer.told.lines() if trainer.told else [],
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
    lines = ["", terminal_plot(steps, losses), *result.remarks]
    if losses:
        lines.append(f"loss {losses[0]:.4f} at step {steps[0]:g}, {losses[-1]:.4f} at step {steps[-1]:g}")
    if result.planned and result.measured:
        lines.append(planned_against_measured(result.planned, result.measured))
    if pictures:
        lines.append(f"pictures: {pictures[0].parent}")
    lines.append(f"checkpoint: {result.checkpoint}")
    kind = "adapters" if (result.checkpoint and (result.checkpoint / "adapter_config.json").exists()) else "model"
    name = signal.Signals(result.status - 128).name if result.status else None
    if name and not result.whole:
        lines += [f"stopped by {name} after step {result.steps}; go on with:"]
        lines.append(f"  {again(config, result)}")
    else:
        if name:
            lines.append(f"stopped by {name} after the last step: all {result.steps} are done")
        lines += ["next:", f"  swift infer --{kind} {result.checkpoint}"]
        if kind == "adapters" and config.tuner.train_type not in UNMERGED:
            lines.append(f"  swift merge-lora --adapters {result.checkpoint} --output_dir merged")
    print("\n".join(lines), file=sys.stderr, flush=True)


def again(config: SftConfig, result: SftResult) -> str:
    """The command that goes on with a run."""
    words = ["swift", config.command, "--config", f"{result.run_folder}/config.yaml"]
    words += ["--resume_from_checkpoint", str(result.checkpoint)]
    if config.train.save_only_model:
        words += ["--resume_only_model", "true"]
    return shlex.join(words)
