"""`swift app`: a chat page over a model that is served for it, or over a server at a URL."""

from __future__ import annotations

import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from swift.config.commands import AppConfig, options_of
from swift.config.decisions import Decisions
from swift.config.effect import note_without_effect, typed
from swift.engines.backends import given_options
from swift.engines.remote import RemoteEngine
from swift.environments.child import Child
from swift.errors import SwiftError
from swift.serve.address import bind
from swift.ui.talk import NUMBERS

NEEDED = ("gradio", "fastapi", "uvicorn", "prometheus_client")
OF_A_URL = ("api_key", "served_model_name", "ssl_keyfile", "ssl_certfile")
"""Options of the server that mean something where it is somebody else's."""
OF_THE_SERVER = {"log_level": "warning", "max_request_size": 256.0, "max_media_size": 64.0}
"""What the page's own server has unless it is told otherwise: room for the files that visitors send."""
OF_THE_PAGE = ("ssl_keyfile", "ssl_certfile")
SAMPLED = ("max_new_tokens", *NUMBERS)
"""Options of generation that the page's settings begin with."""


def main(config: AppConfig) -> int:
    """Run `swift app` until Ctrl-C or SIGTERM, and return its exit status.

    Raises:
        SwiftError: a package is missing, an address is taken, the model cannot be served, or the server at the URL does
            not answer.
    """
    check(config)
    decisions = Decisions()
    note_without_effect(config, decisions)
    with answering(config, decisions) as engine:
        from swift.ui.page import Page

        settle_media(engine, config, decisions)
        page = Page(engine, config, models_of(engine, config))
        print("\n".join(decisions.table()), file=sys.stderr)
        over = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: over.set())
        with page.launched() as url:
            print(f"the page is at {url}; Ctrl-C or SIGTERM ends it", file=sys.stderr, flush=True)
            over.wait()
    return 0


def check(config: AppConfig) -> None:
    """Stop at what is wrong before a model is loaded.

    Raises:
        SwiftError: a package is missing, the page's address is taken, or an option has no meaning.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise SwiftError(
            f"swift app needs {', '.join(missing)}, which is not installed", fix="pip install 'ms-swift[ui]'"
        )
    page = config.page
    bind(page.server_name, page.server_port, names=("server_name", "server_port")).close()
    _check_certificate(config)
    if page.base_url is None:
        return
    for name, spec in options_of(AppConfig).items():
        local = spec.group in ("model", "task", "template", "backend", "serve", "plugins") and name not in OF_A_URL
        unset = spec.group == "generate" and name not in SAMPLED
        if (local or unset) and name != "system" and typed(config, name):
            raise SwiftError(
                f"--{name} has no meaning with --base_url: the server there has its own model",
                fix="leave it out; --served_model_name names one of the server's models",
            )


def _check_certificate(config: AppConfig) -> None:
    for name in OF_THE_PAGE:
        file = getattr(config.serve, name)
        if file is not None and not Path(file).is_file():
            raise SwiftError(f"--{name} {file} is no file", fix="name one in PEM form")


@contextmanager
def answering(config: AppConfig, decisions: Decisions) -> Iterator[RemoteEngine]:
    """The engine behind the page: the server at the URL, or `swift deploy` in a process of its own.

    Raises:
        SwiftError: it does not answer, or does not start; with its own words.
    """
    if config.page.base_url is not None:
        engine = RemoteEngine(config.page.base_url, api_key=config.serve.api_key, model=config.serve.served_model_name)
        decisions.add("base_url", engine.base_url, "flag", f"{engine.model} there answers")
        yield engine
        engine.close()
        return
    options = {"port": 0, "api_key": secrets.token_hex(16), **OF_THE_SERVER} | given_options(config)
    # The page has them: between it and its own server nobody listens.
    for name in OF_THE_PAGE:
        options.pop(name, None)
    child = Child(None, options, private=False)
    try:
        engine = RemoteEngine(child.base_url, api_key=str(options["api_key"]))
        decisions.add("served", engine.model, "model", f"by swift deploy at {child.base_url}")
        yield engine
        with suppress(SwiftError):
            engine.close()
    finally:
        child.close()


def settle_media(engine: RemoteEngine, config: AppConfig, decisions: Decisions) -> None:
    """Whether files can be sent along, where the user does not say.

    Raises:
        SwiftError: the server of this page reads text alone.
    """
    told, page = engine.says_reads_media, config.page
    if page.is_multimodal and told is False:
        raise SwiftError(
            f"--is_multimodal true: {engine.model} reads text alone",
            fix="leave it out, or take a model that reads more",
        )
    if page.is_multimodal is None:
        page.is_multimodal = bool(told)
        said = {None: "does not say", True: "reads pictures, films or sounds", False: "reads text alone"}[told]
        decisions.add("is_multimodal", page.is_multimodal, "model", f"the server {said}")


def models_of(engine: RemoteEngine, config: AppConfig) -> list[str]:
    """The names of the models and adapters to choose from, the one that answers first."""
    first: Any = config.serve.served_model_name or engine.model
    return [first, *(name for name in engine.models if name != first)]
