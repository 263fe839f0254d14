"""`swift infer`: a conversation with a model, or answers to a data set."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from swift.compat import quiet_libraries
from swift.config.commands import InferConfig
from swift.config.decisions import Decisions
from swift.config.effect import note_without_effect
from swift.engines import Engine, engines
from swift.engines.backends import (
    Backend,
    check_backend,
    choose_backend,
    engine_options,
    options_for,
    start_outside,
)
from swift.engines.parity import check_deployment
from swift.engines.requests import sampling_request
from swift.errors import SwiftError
from swift.infer.batch import prepare, read_rows
from swift.models.length import settle_length
from swift.models.load import check_loading
from swift.models.quantization import settle_quantization
from swift.models.source import ModelSource, find_source
from swift.plugins import load_plugins
from swift.tasks.choose import open_task
from swift.tasks.texts import TextTask
from swift.templates.choose import choose_template

if TYPE_CHECKING:
    from swift.templates import Template


def main(config: InferConfig) -> int:
    """Run `swift infer` and return its exit status.

    Raises:
        SwiftError: model, adapters, template, data or result file are not as they should be; all of it that can be
            told without the model's weights is told before they are read, and most of it before torch is imported.
    """
    load_plugins(config.plugins.external_plugins)
    check_backend(config.batch.infer_backend)
    decisions = Decisions()
    note_without_effect(config, decisions)
    request_config = sampling_request(config.generate, config.generate.seed, stream=bool(config.generate.stream))
    if config.batch.infer_backend == "remote":
        from swift.infer.remote import run as run_remote

        if (count := wanted_processes()) > 1:
            raise SwiftError(f"NPROC_PER_NODE={count}: a remote server is asked by one process", fix="unset it")
        return run_remote(config, request_config, decisions)
    if config.model.quant_method or config.model.max_memory:
        check_loading(config.model)
    source = find_source(config.model, decisions)
    if config.batch.load_args:
        settle_quantization(config.model, source.record, decisions)
    if config.model.merge_lora:
        from swift.engines.options import check_merge

        check_merge(source, config.model, config.batch.infer_backend)
    settle_length(config.model, source, decisions, recorded=config.batch.load_args)
    task = open_task(config, source, decisions)
    count = wanted_processes() if config.batch.val_dataset else 1
    if isinstance(task, TextTask):
        if count > 1:
            raise SwiftError(
                f"NPROC_PER_NODE={count}: a model of the task {task.name} answers in one process", fix="unset it"
            )
        from swift.infer.texts import run

        return run(config, source, task, decisions)
    rows = read_rows(config)

    quiet_libraries()
    backend = choose_backend(config.batch.infer_backend, source, config.model, decisions)
    config.batch.infer_backend = backend.name
    tokenizer = source.load_tokenizer(config.model.trust_remote_code)
    recorded = source.recorded_template if config.batch.load_args else None
    template = choose_template(tokenizer, config.template, decisions, recorded)
    same = "an answer's prompt and what training puts before it are the same, id for id"
    checked = check_deployment(template, rows.rows if rows is not None else ())
    what = "built-in samples" if rows is None else "built-in samples and rows"
    decisions.add("parity", f"{checked.samples} {what} checked", "model", same)
    if rows is not None:
        batch = prepare(config, source, template, request_config, rows)
        if batch.nothing_left():
            return 0
    if count > 1:
        options = options_for(config, source) | {"infer_backend": backend.name}
        decisions.add("NPROC_PER_NODE", count, "environment", "processes that share out the rows")
        from swift.engines.copies import Copies

        engine: Engine = Copies(count, backend.environment, options)
    else:
        engine = open_engine(config, backend, source, template, decisions)
    print("\n".join(decisions.table()), file=sys.stderr)
    if rows is not None:
        return batch.run(engine)
    from swift.infer.chat import Chat

    return Chat(engine, request_config.with_values(stream=config.generate.stream is not False)).run()


def wanted_processes() -> int:
    """How many processes share out the rows: torchrun's variables, as for training.

    Raises:
        SwiftError: they ask for several machines, or for something that is no number.
    """
    wanted = os.environ.get("NPROC_PER_NODE", "1")
    if os.environ.get("NNODES", "1") != "1":
        raise SwiftError(
            "NNODES in the environment: swift infer answers on one machine",
            fix="unset it, and give each machine a share of the rows",
        )
    if not wanted.isdigit() or int(wanted) < 1:
        raise SwiftError(f"NPROC_PER_NODE={wanted} in the environment is not a whole number", fix="export it as 2")
    return int(wanted)


def open_engine(
    config: InferConfig, backend: Backend, source: ModelSource, template: Template, decisions: Decisions
) -> Engine:
    """The engine with its model, here or in its environment.

    Raises:
        SwiftError: it does not start.
    """
    if backend.environment is not None:
        return start_outside(backend.environment, config, source)
    return engines.get(backend.name).from_source(
        source,
        template,
        config.model,
        max_batch_size=config.batch.max_batch_size,
        max_length=config.generate.max_length,
        decisions=decisions,
        **engine_options(config.backend, backend.name),
    )
