"""`swift eval`: serve the model, let EvalScope ask, and tell the results."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from swift.compat import quiet_libraries
from swift.config.commands import EvalConfig
from swift.config.decisions import Decisions
from swift.config.effect import note_without_effect
from swift.errors import SwiftError
from swift.evaluate.installed import EvalScope, task_of
from swift.evaluate.results import Result, append, changes, plot, table
from swift.models.load import check_loading
from swift.plugins import load_plugins


def main(config: EvalConfig) -> int:
    """Run `swift eval` and return its exit status.

    Raises:
        SwiftError: EvalScope, a data set, the model or the server is not as it should be; what can be told before a
            model is loaded is told then.
    """
    load_plugins(config.plugins.external_plugins)
    evaluate = config.evaluate
    harness = EvalScope(evaluate.evalscope_python)
    if evaluate.list:
        return show_datasets(harness, evaluate.format)
    harness.check(evaluate, evaluate.eval_backend)
    if evaluate.compare and len(config.model.adapters) != 1:
        raise SwiftError("--compare needs one adapter", fix="name it with --adapters")
    decisions = Decisions()
    note_without_effect(config, decisions)
    folder = Path(evaluate.eval_output_dir).expanduser() / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    with answering(config, decisions) as (url, models):
        print("\n".join(decisions.table()), file=sys.stderr)
        print(f"EvalScope writes to {folder}", file=sys.stderr, flush=True)
        results = []
        for name in models:
            own = folder / (name.replace("/", "_") if len(models) > 1 else "")
            own.mkdir(exist_ok=True)
            task = task_of(
                evaluate,
                url,
                name,
                own,
                api_key=config.serve.api_key,
                at_once=evaluate.eval_num_proc,
                backend=evaluate.eval_backend,
            )
            found = harness.run(task, own / "evalscope.log")
            results += [Result.of(name, each) for each in found]
    if not results:
        print(f"{evaluate.eval_backend} leaves its own results in {folder}")
        return 0
    append(folder.parent / "eval_result.jsonl", results)
    tell(results, models, evaluate.format)
    if evaluate.format == "text":
        print(f"picture: {plot(folder.parent / 'eval_result.jsonl')}")
        print(f"results: {folder.parent / 'eval_result.jsonl'}")
    return 0


@contextmanager
def answering(config: EvalConfig, decisions: Decisions) -> Iterator[tuple[str, list[str]]]:
    """A server's URL, and the names of the models to ask: with `--compare`, without the adapter first."""
    if config.evaluate.eval_url is not None:
        from swift.engines.remote import RemoteEngine

        engine = RemoteEngine(config.evaluate.eval_url, api_key=config.serve.api_key)
        name = config.serve.served_model_name or engine.model
        decisions.add("eval_url", engine.base_url, "flag", f"the model {name} there answers")
        yield engine.base_url, [name]
        return
    from swift.engines.requests import sampling_request
    from swift.serve.run import NEEDED, find_model, limits_of, load_engine
    from swift.serve.server import Server
    from swift.serve.service import Service

    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise SwiftError(
            f"serving the model needs {', '.join(missing)}, which is not installed", fix="pip install 'ms-swift[serve]'"
        )
    check_loading(config.model)
    name = config.serve.served_model_name or name_of(config)
    if config.evaluate.compare:
        config.model.adapters = [each if "=" in each else f"{name}={each}" for each in config.model.adapters]
        name = f"{name} without"
    source, by_name = find_model(config, decisions)
    quiet_libraries()
    engine = load_engine(config, source, by_name, decisions)
    service = Service(
        engine,
        name,
        list(by_name),
        sampling_request(config.generate, config.generate.seed),
        replace(limits_of(config), clamps=True),
    )
    with Server(service) as server:
        named = [service.name, *service.adapters]
        yield f"{server.url}/v1", named if config.evaluate.compare else named[-1:]


def tell(results: list[Result], models: list[str], form: str) -> None:
    """Print what was found, and what could not be measured."""
    for result in results:
        result.warn()
    compared = changes(results, models) if len(models) == 2 else []
    if form == "json":
        for line in [*(result.line() for result in results), *compared]:
            print(json.dumps(line, ensure_ascii=False))
        return
    print("\n".join(table(results)))
    for change in compared:
        print(
            f"{change['dataset']}: {change['metric']} changes by {change['change']:+.4f} "
            f"[{change['low']:+.4f}, {change['high']:+.4f}] over {change['num']} samples"
        )


def show_datasets(harness: EvalScope, form: str) -> int:
    """Print the data sets that EvalScope knows."""
    for name, told in harness.datasets().items():
        if form == "json":
            print(json.dumps({"id": name, **told}, ensure_ascii=False))
        else:
            print(f"{name:<24} {told['pretty_name'] or '':<28} {', '.join(told['tags'] or ())}")
    return 0


def name_of(config: EvalConfig) -> str:
    """What results call the model: the end of its adapter's path, or of its own."""
    path = (config.model.adapters or [config.model.model or "model"])[-1].rstrip("/")
    parts = path.rpartition("=")[2].split("/")
    return "/".join(parts[-2:] if parts[-1].startswith("checkpoint-") else parts[-1:])
