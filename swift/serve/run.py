"""`swift deploy`: a model behind OpenAI's interface."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from swift.compat import quiet_libraries
from swift.config.commands import DeployConfig, RolloutConfig
from swift.config.decisions import Decisions
from swift.config.deploy import ServeConfig
from swift.config.effect import note_without_effect
from swift.engines.backends import AUTO, check_backend, choose_backend, engine_options, options_for
from swift.engines.names import engines
from swift.engines.requests import sampling_request
from swift.environments.child import enter
from swift.errors import SwiftError
from swift.media import Access
from swift.models.adapter_files import check_adapter
from swift.models.length import settle_length
from swift.models.load import check_loading
from swift.models.quantization import settle_quantization
from swift.models.record import check_base, read_record
from swift.models.source import ModelSource, adapter_folder, find_source
from swift.plugins import load_plugins
from swift.serve.address import bind
from swift.tasks.choose import open_task
from swift.tasks.texts import TextTask
from swift.templates.choose import choose_template

if TYPE_CHECKING:
    from swift.serve.rollout import Updates

NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def main(config: DeployConfig) -> int:
    """Run `swift deploy` or `swift rollout` and return its exit status.

    Raises:
        SwiftError: model, adapters, template or address are not as they should be; all of it is told before the
            model's weights are read.
    """
    load_plugins(config.plugins.external_plugins)
    check_backend(config.serve.infer_backend)
    decisions = Decisions()
    note_without_effect(config, decisions)
    defaults = sampling_request(config.generate, config.generate.seed)
    check_loading(config.model)
    ssl = check_ssl(config.serve.ssl_keyfile, config.serve.ssl_certfile)
    access = open_access(config.serve)
    bound = bind(config.serve.host, config.serve.port)
    source, named = find_model(config, decisions)
    task = open_task(config, source, decisions)
    check_updates(config, task)
    if not isinstance(task, TextTask):
        settle_backend(config, source, named, decisions)
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise SwiftError(
            f"a server needs {', '.join(missing)}, which is not installed", fix="pip install 'ms-swift[serve]'"
        )
    from swift.serve.server import Server
    from swift.serve.service import Service

    results = open_results(config.serve.result_path)
    quiet_libraries()
    loaded = load_texts(config, source, task, decisions) if isinstance(task, TextTask) else None
    name = config.serve.served_model_name or name_of(source)
    if name in named:
        raise SwiftError(
            f"--adapters {name}={named[name]}: the model itself is served as {name}",
            fix="give the adapter another name, or the model one with --served_model_name",
        )
    if loaded is not None and named:
        raise SwiftError(
            f"--adapters by name with --task_type {task.name}", fix="give the folder alone: it acts always"
        )
    engine = loaded or load_engine(config, source, named, decisions)
    service = Service(
        engine,
        name,
        list(named),
        defaults,
        limits_of(config),
        owned_by=config.serve.owned_by,
        verbose=config.serve.verbose,
        results=results,
        access=access,
        loads_adapters=config.serve.allow_adapter_loading and hasattr(engine, "add_adapter"),
        updates=open_updates(config),
    )
    server = Server(service, bound=bound, ssl=ssl, log_interval=config.serve.log_interval)
    _note_serving(config, decisions)
    print("\n".join(decisions.table()), file=sys.stderr)
    start_log(config.serve.log_level)
    print(f"{service.name} is served at {server.url}/v1; Ctrl-C or SIGTERM ends it", file=sys.stderr, flush=True)
    server.run()
    return 0


def check_updates(config: DeployConfig, task: Any) -> None:
    """Stop where a training run could not change the weights.

    Raises:
        SwiftError: the engine does not take new weights, or the folder of saved ones is not there.
    """
    if not isinstance(config, RolloutConfig):
        return
    backend = config.serve.infer_backend
    if isinstance(task, TextTask):
        raise SwiftError(f"swift rollout: a model of the task {task.name} writes no answers", fix="use swift deploy")
    if backend == AUTO or not hasattr(engines.get(backend), "update_weights"):
        raise SwiftError(
            f"--infer_backend {backend}: swift rollout cannot change its weights", fix="use --infer_backend pt"
        )
    given = config.rollout.allowed_update_path
    if given is not None and not Path(given).expanduser().is_dir():
        raise SwiftError(f"--allowed_update_path {given} is no folder", fix="make it, or name another")


def open_updates(config: DeployConfig) -> Updates | None:
    """What of the weights a training run may change; None where nobody may."""
    from swift.serve.rollout import Updates

    if not isinstance(config, RolloutConfig):
        return None
    given = config.rollout.allowed_update_path
    return Updates(Path(given).expanduser() if given else None)


def settle_backend(config: DeployConfig, source: ModelSource, named: dict[str, Path], decisions: Decisions) -> None:
    """Choose the engine; where it has an environment of its own, this process goes on there and does not come back.

    Raises:
        SwiftError: the engine is not there.
    """
    backend = choose_backend(config.serve.infer_backend, source, config.model, decisions)
    if backend.environment is not None:
        options = {"served_model_name": name_of(source), **options_for(config, source), "infer_backend": backend.name}
        options["adapters"] += [f"{name}={folder}" for name, folder in named.items()]
        enter(backend.environment, "deploy", options)
    config.serve.infer_backend = backend.name


def load_engine(config: DeployConfig, source: ModelSource, named: dict[str, Path], decisions: Decisions) -> Any:
    """The engine, with the adapters that are asked for by name.

    Raises:
        SwiftError: template, weights or adapters are not as they should be.
    """
    from swift.engines.parity import check_deployment

    tokenizer = source.load_tokenizer(config.model.trust_remote_code)
    recorded = source.recorded_template if config.serve.load_args else None
    template = choose_template(tokenizer, config.template, decisions, recorded)
    same = "an answer's prompt and what training puts before it are the same, id for id"
    decisions.add("parity", f"{check_deployment(template).samples} built-in samples checked", "model", same)
    engine: Any = engines.get(config.serve.infer_backend).from_source(
        source,
        template,
        config.model,
        max_batch_size=config.serve.max_batch_size,
        max_length=config.generate.max_length,
        decisions=decisions,
        **engine_options(config.backend, config.serve.infer_backend, named),
    )
    for name, folder in named.items():
        engine.add_adapter(name, folder)
    return engine


def load_texts(config: DeployConfig, source: ModelSource, task: TextTask, decisions: Decisions) -> Any:
    """A model that gives one thing for a whole text.

    Raises:
        SwiftError: template or weights are not as they should be.
    """
    from swift.engines import texts
    from swift.serve.texts import TextModel

    template = texts.open_texts(source, config, task, decisions, load_args=config.serve.load_args)
    model = texts.load_texts(source, config, task, template, decisions)
    longest = config.generate.max_length or source.limit
    batch = config.serve.max_batch_size
    engine = texts.TextEngine((model, task, template), max_batch_size=batch, max_length=longest)
    return TextModel(engine, config.serve.reranker_use_activation)


def check_ssl(key: str | None, certificate: str | None) -> dict[str, str]:
    """The two as uvicorn takes them; empty where the server speaks plain HTTP.

    Raises:
        SwiftError: one is missing, or they do not belong together.
    """
    import ssl

    if not (key or certificate):
        return {}
    if not (key and certificate):
        given, other = ("ssl_keyfile", "ssl_certfile") if key else ("ssl_certfile", "ssl_keyfile")
        raise SwiftError(f"--{given} without --{other}", fix="give both")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except OSError as error:
        what = f"--ssl_keyfile {key} --ssl_certfile {certificate}: {error.strerror or error}"
        raise SwiftError(what, fix="give a key and its certificate as PEM files") from None
    return {"ssl_keyfile": key, "ssl_certfile": certificate}


def open_access(config: ServeConfig) -> Access:
    """Where media of requests may come from.

    Raises:
        SwiftError: the folder is not there.
    """
    folder = None if config.allowed_media_path is None else Path(config.allowed_media_path).expanduser()
    if folder is not None and not folder.is_dir():
        raise SwiftError(f"--allowed_media_path {folder}: there is no such folder", fix="name a folder that is there")
    most = int(config.max_media_size * (1 << 20))
    return Access(folder, tuple(config.allowed_media_domains), most_bytes=most, most_together=4 * most)


def open_results(path: str | None) -> TextIO | None:
    """The file of requests and answers, opened for more.

    Raises:
        SwiftError: it cannot be written.
    """
    if path is None:
        return None
    file = Path(path).expanduser()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open("a", encoding="utf-8")
    except OSError as error:
        raise SwiftError(f"--result_path {path}: {error.strerror}", fix="give a file that can be written") from None


def find_model(config: DeployConfig, decisions: Decisions) -> tuple[ModelSource, dict[str, Path]]:
    """The model with the adapters that always act, and folders of those that are asked for by name.

    Raises:
        SwiftError: one of them is not what it should be, or does not fit the model.
    """
    named, always = split_adapters(config.model.adapters)
    folders = {}
    for name, given in named.items():
        folders[name] = adapter_folder(given, config.model.use_hf, config.model.hub_token)
        check_adapter(folders[name])
    chosen = replace(config.model, adapters=always or ([] if config.model.model else list(named.values())))
    source = find_source(chosen, decisions)
    if not always:
        source = replace(source, adapters=[])
    if config.serve.load_args:
        settle_quantization(config.model, source.record, decisions)
    if config.model.merge_lora:
        from swift.engines.options import check_merge

        check_merge(source, config.model, config.serve.infer_backend)
    settle_length(config.model, source, decisions, recorded=config.serve.load_args)
    for name, folder in folders.items():
        check_base(read_record(folder), source.config, source.base)
        decisions.add(f"model {name}", str(folder), "flag", "--adapters: this one acts where a request names it")
    return source, folders


def split_adapters(adapters: list[str]) -> tuple[dict[str, str], list[str]]:
    """`name=folder` by name, and those without a name.

    Raises:
        SwiftError: a name is given twice, or is empty.
    """
    named: dict[str, str] = {}
    always = []
    for given in adapters:
        name, equals, folder = given.partition("=")
        if not equals or Path(given).exists():
            always.append(given)
        elif not name or not folder or name in named:
            what = "is given twice" if name in named else "has an empty part"
            raise SwiftError(f"--adapters {given}: the name {what}", fix="write name=folder, each name once")
        else:
            named[name] = folder
    return named, always


def name_of(source: ModelSource) -> str:
    """The last part of what the model is called by."""
    return source.base.rstrip("/").rpartition("/")[2].rpartition("::")[2]


def limits_of(config: DeployConfig) -> Any:
    """How much may be asked."""
    from swift.serve.service import Limits

    given = config.serve
    return Limits(
        api_key=given.api_key,
        max_batch_size=given.max_batch_size,
        max_queue=given.max_queue,
        max_request_size=given.max_request_size,
        request_timeout=given.request_timeout,
        max_logprobs=given.max_logprobs,
        clamps=given.clamp_max_tokens,
        max_update_size=config.rollout.max_update_size * 1024 if isinstance(config, RolloutConfig) else 0.0,
    )


def start_log(level: str) -> None:
    """Send the server's lines to the error output."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("swift.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(5 if level == "trace" else level.upper())
    logging.getLogger("uvicorn.error").setLevel("WARNING")


def _note_serving(config: DeployConfig, decisions: Decisions) -> None:
    serve = config.serve
    origin = "flag" if config.given("infer_backend") else "default"
    decisions.add("infer_backend", serve.infer_backend, origin, f"{serve.max_batch_size} answers at once")
    key = "requests must carry it" if serve.api_key else "none: whoever reaches the address may ask"
    decisions.add("api_key", "set" if serve.api_key else "none", "flag" if serve.api_key else "default", key)
    for name, theirs in (("host", "0.0.0.0"), ("max_batch_size", 1), ("verbose", True)):
        value = getattr(serve, name)
        if not config.given(name) and value != theirs:
            shown = str(theirs).lower() if isinstance(theirs, bool) else theirs
            decisions.add(name, value, "default", f"ms-swift's default is {shown}; docs/serving.md says why not here")
