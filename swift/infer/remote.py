"""`swift infer --infer_backend remote`: the same conversation and the same files, answered by a server."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from swift.config.commands import InferConfig, options_of
from swift.config.decisions import Decisions
from swift.config.effect import typed
from swift.engines import InferRequest, RequestConfig
from swift.engines.protocol import body_of
from swift.errors import SwiftError
from swift.infer.batch import Batch, open_batch, read_rows
from swift.templates.choose import system_text

if TYPE_CHECKING:
    from swift.data import RowSet
    from swift.engines.remote import RemoteEngine

OF_REQUESTS = ("system", "enable_thinking", "chat_template_kwargs", "use_hf", "hub_token")
"""Options of model and template that mean something where the server has both."""


def run(config: InferConfig, request_config: RequestConfig, decisions: Decisions) -> int:
    """Answer by a server, and return the exit status.

    Raises:
        SwiftError: an option has no meaning here, the server does not answer, or the rows cannot be used.
    """
    engine = open_engine(config, decisions)
    rows = read_rows(config)
    if rows is not None:
        batch = prepare(config, engine, request_config, rows)
        if batch.nothing_left():
            return 0
    print("\n".join(decisions.table()), file=sys.stderr)
    if rows is not None:
        return batch.run(engine)
    from swift.infer.chat import Chat

    return Chat(engine, request_config.with_values(stream=config.generate.stream is not False)).run()


def open_engine(config: InferConfig, decisions: Decisions) -> RemoteEngine:
    """The engine that the options name; the server is asked for its models.

    Raises:
        SwiftError: there is no URL, an option has no meaning here, or the server does not answer.
    """
    from swift.engines.remote import RemoteEngine

    remote = config.remote
    if remote.base_url is None:
        raise SwiftError("--infer_backend remote needs a server", fix="give --base_url http://HOST:PORT/v1")
    _refuse_local(config)
    template = config.template
    thinking = {} if template.enable_thinking is None else {"enable_thinking": template.enable_thinking}
    engine = RemoteEngine(
        remote.base_url,
        api_key=remote.api_key,
        model=remote.served_model,
        max_batch_size=config.batch.max_batch_size,
        system=None if template.system is None else system_text(template.system),
        chat_template_kwargs=thinking | (template.chat_template_kwargs or {}),
    )
    why = "--served_model" if remote.served_model else f"the first of {', '.join(engine.models[:5])}"
    decisions.add("served_model", engine.model, "flag" if remote.served_model else "server", why)
    decisions.add("base_url", engine.base_url, "flag", "--base_url")
    return engine


def _refuse_local(config: InferConfig) -> None:
    """Options of a model and a template of one's own, which a server has already."""
    for name, spec in options_of(InferConfig).items():
        ours = spec.group in ("model", "task", "template") and name not in OF_REQUESTS
        if (ours or name == "max_length") and typed(config, name):
            raise SwiftError(
                f"--{name} has no meaning with --infer_backend remote: the server has its own model and template",
                fix="leave it out; --served_model names one of the server's models",
            )


def prepare(config: InferConfig, engine: RemoteEngine, request_config: RequestConfig, rows: RowSet) -> Batch:
    """Check the rows and open the result file, before anything is asked.

    Raises:
        SwiftError: rows that cannot be answered, or a result file that cannot be written or continued.
    """

    def asked(request: InferRequest) -> str:
        return json.dumps(body_of(engine.completed(request), request_config, stream=False), sort_keys=True)

    path = Path.cwd() / "infer_result" / time.strftime("%Y%m%d-%H%M%S.jsonl")
    settings = [engine.base_url, engine.model]
    return open_batch(config, request_config, rows, asked, settings=settings, path=path)
