"""`swift infer`: a conversation with a model, or answers to a data set."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from swift.config.commands import InferConfig
from swift.config.generate import GenerateConfig
from swift.engines import RequestConfig, engines
from swift.engines.source import ModelSource, choose_template, find_source
from swift.plugins import load_plugins

if TYPE_CHECKING:
    from swift.templates import Template


def main(config: InferConfig) -> int:
    """Run `swift infer` and return its exit status.

    Raises:
        SwiftError: model, adapters, template, data or result file are not as they should be; all of it that can be
            told without the model's weights is told before they are read.
    """
    load_plugins(config.plugins.external_plugins)
    engine_class = engines.get(config.batch.infer_backend)
    source = find_source(config.model)
    template = choose_template(source, config.template, config.model, load_args=config.batch.load_args)
    request_config = request_config_of(config.generate)
    if config.batch.val_dataset:
        from swift.infer.batch import prepare

        batch = prepare(config, source, template, request_config)
        if batch.nothing_left():
            return 0
    engine = engine_class.from_source(
        source,
        template,
        config.model,
        max_batch_size=config.batch.max_batch_size,
        max_length=config.template.max_length,
    )
    show_choices(source, template)
    if config.batch.val_dataset:
        return batch.run(engine)
    from swift.infer.chat import Chat

    return Chat(engine, request_config.with_values(stream=config.generate.stream is not False)).run()


def request_config_of(config: GenerateConfig) -> RequestConfig:
    """The options of generation as an engine takes them."""
    return RequestConfig(
        max_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        repetition_penalty=config.repetition_penalty,
        num_beams=config.num_beams,
        stop=list(config.stop_words),
        seed=config.seed,
        stream=bool(config.stream),
    )


def show_choices(source: ModelSource, template: Template) -> None:
    """Print what was chosen and why, to stderr, so that stdout holds answers only."""
    lines = {"model": f"{source.base} ({source.path})"}
    if source.adapters:
        lines["adapters"] = ", ".join(map(str, source.adapters))
    if template.system is not None:
        lines["system"] = template.system
    lines |= {name: f"{lines[name]}: {why}" if name in lines else why for name, why in source.reasons.items()}
    width = max(map(len, lines))
    for name, why in lines.items():
        print(f"{name:<{width}}  {why}", file=sys.stderr)
