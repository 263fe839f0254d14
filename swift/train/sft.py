"""Supervised fine-tuning from options to checkpoint, top to bottom in `sft`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.config import Decisions, SftConfig
from swift.errors import SwiftError
from swift.plugins import load_plugins


@dataclass
class SftResult:
    """What a run left.

    Attributes:
        run_folder: its folder; None after a dry run.
        checkpoint: its last checkpoint.
        steps: optimizer steps in all.
        log: the logged steps, oldest first.
        planned: planned peak memory in bytes.
        measured: measured peak memory in bytes.
        status: exit status: 0, or 130 and 143 after an interrupt.
    """

    run_folder: Path | None = None
    checkpoint: Path | None = None
    steps: int = 0
    log: list[dict[str, float]] = field(default_factory=list)
    planned: int | None = None
    measured: int | None = None
    status: int = 0


def main(config: SftConfig) -> int:
    """`swift sft`."""
    from swift.train import distributed

    result = sft(config)
    distributed.stop()
    return result.status


def sft(config: SftConfig | None = None, **options: Any) -> SftResult:
    """Fine-tune: `sft(model="demo", dataset=["rows.jsonl"])`, or `sft(SftConfig.of(...))`.

    Raises:
        SwiftError: a mistake in the options, the rows or the model.
    """
    from swift.compat import quiet_libraries
    from swift.plan.measure import MemoryMeter
    from swift.train import assemble, distributed, outcome, setup

    config = config or SftConfig.of(**options)
    decisions = Decisions()
    check_options(config)
    rows, held = assemble.read_rows(config)

    quiet_libraries()
    source = setup.open_for_training(config, decisions)
    template = setup.template_of(config, source, decisions)
    data = assemble.prepare(config, source, template, rows, held, decisions)
    assemble.check_prompts(template, rows, held, decisions)
    plan = setup.plan_run(config, source, data, decisions)
    screen = outcome.screen(plan, data, template.tokenizer)
    if config.output.dry_run:
        outcome.show_dry_run(config, screen)
        return SftResult(steps=plan.steps, planned=plan.memory.total)

    distributed.start(config.train.more.get("ddp_backend"))
    run_folder, resume = setup.open_run_folder(config, source, data, decisions)
    meter = MemoryMeter(plan.memory.device).start()
    loaded = setup.load_and_tune(config, source, data, resume)
    trainer = setup.make_trainer(config, source, template, loaded, data, plan, run_folder)
    outcome.show_start(screen, run_folder)
    result = outcome.run(trainer, plan, run_folder, resume, meter)
    outcome.report(config, result)
    return result


def check_options(config: SftConfig) -> None:
    """All that can be said without reading a row or a model.

    Raises:
        SwiftError: an option is missing or does not fit.
    """
    from swift.objectives import objectives
    from swift.train import callbacks, metrics
    from swift.train.arguments import check_more, check_names, check_packages, eval_strategy
    from swift.train.folders import check_writable, resume_point
    from swift.train.setup import output_dir
    from swift.tuners import optimizers, tuners

    load_plugins(config.plugins.external_plugins)
    if not config.model.model and not config.model.adapters:
        raise SwiftError("--model is missing", fix="add --model demo, a folder, or an id of a hub")
    if not config.data.dataset:
        raise SwiftError("--dataset is missing", fix="add --dataset self-cognition, a file, or an id of a hub")
    train = config.train
    tuners.check(config.tuner.train_type)
    objectives.check(train.loss_type or "cross_entropy")
    for name in train.callbacks:
        callbacks.check(name)
    if train.optimizer:
        optimizers.check(train.optimizer)
    if train.eval_metric:
        metrics.check(train.eval_metric)
    check_more(train.more)
    check_names(config)
    check_packages(config)
    eval_strategy(config)
    output = output_dir(config)
    resume_point(train.resume_from_checkpoint, output)
    check_writable(output)
