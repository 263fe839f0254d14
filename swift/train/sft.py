"""Supervised fine-tuning from options to checkpoint, top to bottom in `train`."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

from swift.config import Decisions, PtConfig, SftConfig
from swift.config.effect import note_without_effect
from swift.plugins import load_plugins
from swift.train.result import SftResult

if TYPE_CHECKING:
    from swift.models.source import ModelSource
    from swift.train.live import StreamRows
    from swift.train.tokenised import RunRows


def main(config: SftConfig) -> int:
    """`swift sft` and `swift pt`."""
    from swift.train import distributed

    result = train(config)
    distributed.stop()
    return result.status


def sft(config: SftConfig | None = None, **options: Any) -> SftResult:
    """Fine-tune: `sft(model="demo", dataset=["rows.jsonl"])`, or `sft(SftConfig.of(...))`.

    Raises:
        SwiftError: a mistake in the options, the rows or the model.
        KeyboardInterrupt: Ctrl-C came; the run is saved.
        SystemExit: SIGTERM came, with the code 143; the run is saved.
    """
    result = train(config or SftConfig.of(**options))
    if result.status == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if result.status:
        raise SystemExit(result.status)
    return result


def train(config: SftConfig) -> SftResult:
    """Check options and rows, then run; a signal that stopped the run is told by the result's status.

    Raises:
        SwiftError: a mistake in the options, the rows or the model.
    """
    decisions = Decisions()
    say(config, "checking options and rows")
    check_options(config, decisions)
    from swift.train import assemble, setup

    rows = assemble.read_rows(config)
    source = setup.open_for_training(config, decisions, weights=not rows.fails)
    say(config, "loading torch and transformers")
    from swift.train.process import process_kept

    with process_kept():
        return run(config, source, rows, decisions)


def run(config: SftConfig, source: ModelSource, rows: RunRows | StreamRows, decisions: Decisions) -> SftResult:
    """The run itself, from the template to the report.

    Raises:
        SwiftError: a mistake in the options, the rows or the model.
    """
    from swift.compat import quiet_libraries
    from swift.tasks.choose import open_task
    from swift.train import assemble, batch_size, distributed, outcome, predict, setup
    from swift.train.arguments import check_best

    quiet_libraries()
    task = open_task(config, source, decisions)
    task.check()
    check_best(config, task.figures)
    template = setup.template_of(config, source, task, decisions)
    data = assemble.prepare(config, source, template, task, rows, decisions)
    assemble.check_prompts(template, task, rows, decisions)
    questions = predict.read_questions(config, source, template, rows, decisions)
    plan = setup.plan_run(config, source, template, task, data, decisions)
    screen = outcome.screen(plan, data, template.tokenizer)
    if config.output.dry_run:
        outcome.show_dry_run(config, screen)
        return SftResult(steps=plan.steps, planned=plan.memory.total)

    distributed.start(config.train.more.get("ddp_backend"))
    resume = setup.find_checkpoint(config, source, data, decisions)
    batch_size.take_split(config, data, plan, resume)
    meter = setup.start_meter(plan)
    loaded = setup.load_and_tune(config, source, template, task, data, resume)
    batch_size.find_batch_size(config, loaded, template, task, data, plan, decisions)
    run_folder = setup.open_run_folder(config, data, resume, decisions)
    trainer = setup.make_trainer(config, source, template, task, loaded, data, plan, run_folder, questions)
    outcome.show_start(screen, run_folder)
    result = outcome.run(config, trainer, plan, run_folder, resume, meter)
    outcome.report(config, result)
    return result


def say(config: SftConfig, doing: str) -> None:
    """Tell whoever sits before a terminal what takes the next seconds; JSON output stays alone."""
    from swift.train import distributed

    if distributed.is_main() and config.output.format == "text" and sys.stderr.isatty():
        print(f"{doing} …", file=sys.stderr, flush=True)


def pt(config: PtConfig | None = None, **options: Any) -> SftResult:
    """Pre-train on whole texts: `pt(model="demo", dataset=["texts.jsonl"])`; all else as `sft`."""
    return sft(config or PtConfig.of(**options))


def check_options(config: SftConfig, decisions: Decisions) -> None:
    """All that can be said without reading a row or a model; options without effect go into the run's table.

    Raises:
        SwiftError: an option is missing or does not fit.
    """
    from swift.tasks.choose import check_early
    from swift.templates.scales import LossScale
    from swift.train import callbacks
    from swift.train.arguments import check_missing, check_more, check_packages, eval_strategy
    from swift.train.benchmarks import check_benchmarks
    from swift.train.folders import check_earlier, check_resume, check_writable
    from swift.train.live import check_live
    from swift.train.optimizers import settle_optimizer
    from swift.train.predict import check_predict
    from swift.train.setup import output_dir
    from swift.train.tuning import check_tuner
    from swift.tuners import optimizers, tuners

    load_plugins(config.plugins.external_plugins)
    check_missing(config.model, config.data.dataset or config.data.cached_dataset)
    LossScale(config.template.loss_scale or "default")
    train = config.train
    tuners.check(config.tuner.train_type)
    check_early(config)
    for name in train.callbacks:
        callbacks.check(name)
    settle_optimizer(config, decisions)
    if train.optimizer:
        optimizers.check(train.optimizer)
    check_tuner(config)
    note_without_effect(config, decisions, () if tuners.is_builtin(config.tuner.train_type) else ("train_type",))
    check_live(config)
    check_more(train.more)
    check_packages(config)
    eval_strategy(config)
    check_predict(config)
    check_benchmarks(config)
    output = output_dir(config)
    check_resume(train, output)
    check_earlier(config, output)
    check_writable(output)
