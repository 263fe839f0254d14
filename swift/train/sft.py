"""Supervised fine-tuning from options to checkpoint, top to bottom in `sft`."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.config import Decisions, SftConfig
from swift.config.build import write_config
from swift.errors import SwiftError
from swift.plugins import load_plugins
from swift.train import distributed


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
    return sft(config).status


def sft(config: SftConfig | None = None, **options: Any) -> SftResult:
    """Fine-tune: `sft(model="demo", dataset=["rows.jsonl"])`, or `sft(SftConfig.of(...))`.

    Raises:
        SwiftError: a mistake in the options, the rows or the model.
    """
    config = config or SftConfig.of(**options)
    decisions = Decisions()
    load_plugins(config.plugins.external_plugins)
    check_options(config)
    rows, held = assemble().read_rows(config)

    setup = open_model_folder(config, decisions)
    data = prepare_data(config, rows, held, setup, decisions)
    plan = plan_run(config, setup, data, decisions)
    if config.output.dry_run:
        return show_plan(config, plan)

    distributed.start(config.train.more.get("ddp_backend"))
    resume = find_resume_point(config, data, decisions)
    run_folder = open_run_folder(config, resume)
    model = load_and_tune(config, setup, resume, decisions)
    trainer = make_trainer(config, model, setup, data, plan, run_folder)
    show_decisions(config, plan, data)
    result = run(config, trainer, plan, run_folder, resume)
    return report(config, result)
