"""Which engine answers, and where it runs: in this process, or in an environment of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config.backends import BackendConfig
from swift.config.commands import CommandConfig, DeployConfig, concerns, options_of
from swift.config.decisions import Decisions
from swift.config.model import ModelConfig
from swift.engines.names import BACKENDS, engines
from swift.environments.kinds import check_device
from swift.environments.place import WHOLE, Environment, look, packages_of
from swift.errors import SwiftError

if TYPE_CHECKING:
    from swift.engines.outside import OutsideEngine
    from swift.models.source import ModelSource

AUTO = "auto"


@dataclass(frozen=True)
class Backend:
    """The engine of a run.

    Attributes:
        name: as `--infer_backend` has it.
        environment: where it runs; None means here.
    """

    name: str
    environment: Environment | None = None


def check_backend(name: str) -> Backend | None:
    """What can be told of a name without a model; None where the model decides.

    Raises:
        SwiftError: there is no such engine, or it is neither installed here nor in an environment of its own.
    """
    if name == AUTO:
        return None
    engines.check(name)
    if engines.is_builtin(name):
        check_device(name)
    if name not in BACKENDS or not engines.is_builtin(name) or find_spec(name) is not None:
        return Backend(name)
    environment = look(name)
    if environment.state == WHOLE and Path(sys.prefix).resolve() == environment.path:
        raise SwiftError(
            f"--infer_backend {name}: {name} is not found in its own environment",
            fix=f"rm -r {sys.prefix}, and make it again: swift env install {name}",
        )
    if environment.state != WHOLE:
        raise SwiftError(
            f"--infer_backend {name}: {name} is not installed here, and its environment is {environment.state}"
            + (f": {environment.wrong}" if environment.state != "absent" else ""),
            fix=f"swift env install {name}",
        )
    return Backend(name, environment)


def choose_backend(name: str, source: ModelSource, config: ModelConfig, decisions: Decisions) -> Backend:
    """The engine for a model: `auto` takes vLLM where it is there and can run it.

    Raises:
        SwiftError: as `check_backend`.
    """
    found = check_backend(name)
    if name == "remote":
        raise SwiftError("--infer_backend remote: a server has its own model", fix="ask it with swift infer --base_url")
    if found is not None:
        if found.environment is not None:
            decisions.add("infer_backend", name, "flag", f"in its environment: {found.environment.path}")
        return found
    why = _why_not_vllm(source, config)
    if why is None:
        found = check_backend("vllm")
        assert found is not None
        place = f"in its environment: {found.environment.path}" if found.environment else "it is installed here"
        decisions.add("infer_backend", "vllm", "machine", place)
        return found
    decisions.add("infer_backend", "pt", "machine", f"not vllm: {why}")
    return Backend("pt")


def _why_not_vllm(source: ModelSource, config: ModelConfig) -> str | None:
    """What keeps vLLM from running this model here; None where nothing does."""
    from swift.engines.packages import generation_config_of
    from swift.engines.plain_lora import check_alone, rank_of
    from swift.engines.vllm import ELSEWHERE

    registry = _registry()
    if registry is None:
        return "it is not there; swift env install vllm makes it an environment"
    names = source.config.get("architectures") or ["none"]
    if not any(f'"{name}"' in registry for name in names):
        return f"it does not know {', '.join(names)}"
    if given := [f"--{name}" for name in ELSEWHERE if getattr(config, name) is not None]:
        return f"it has no {', '.join(given)}"
    try:
        generation_config_of(source.path)
        check_alone(source.adapters)
        for folder in source.adapters:
            rank_of(folder)
    except SwiftError as error:
        return error.what
    return None


def _registry() -> str | None:
    """The text of vLLM's list of architectures, which is read without importing vLLM; None where it is not there."""
    spec = find_spec("vllm")
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    environment = look("vllm")
    packages = packages_of(environment.path) if environment.state == WHOLE else None
    folders += [packages / "vllm"] if packages is not None else []
    for folder in folders:
        file = folder / "model_executor" / "models" / "registry.py"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return None


def engine_options(config: BackendConfig, name: str, named: Mapping[str, Path] | None = None) -> dict[str, Any]:
    """What `from_source` of an engine takes besides: nothing where it has no options of its own.

    Args:
        named: adapters that requests will ask for by name, and their folders.

    Raises:
        SwiftError: the back end does not run one of the adapters.
    """
    if name not in BACKENDS or not engines.is_builtin(name):
        return {}
    options = config.arguments(name)
    if name == "vllm" and named:
        from swift.engines.plain_lora import rank_of

        folders = list(named.values())
        options = {"enable_lora": True, "max_lora_rank": max(map(rank_of, folders)), "max_loras": len(named)} | options
    elif named:
        # They take adapters by name when they start.
        options = {{"sglang": "lora_paths", "lmdeploy": "adapters"}[name]: dict(named)} | options
    return {"engine_options": options}


def options_for(config: CommandConfig, source: ModelSource) -> dict[str, Any]:
    """The options of a run for `swift deploy` in another environment: those given, and the model where it was found."""
    found = {"model": str(source.path), "adapters": [str(folder) for folder in source.adapters]}
    return given_options(config) | found


def given_options(config: CommandConfig) -> dict[str, Any]:
    """The options that somebody gave and that `swift deploy` has, secrets included."""
    known = options_of(DeployConfig)
    values: dict[str, Any] = {}
    for part in concerns(type(config)):
        concern = getattr(config, part)
        values |= {name: getattr(concern, name) for name in config.origins if name in known and hasattr(concern, name)}
    return values


def start_outside(environment: Environment, config: CommandConfig, source: ModelSource) -> OutsideEngine:
    """Start a back end in its environment with the options of this run.

    Raises:
        SwiftError: it does not start.
    """
    from swift.engines.outside import OutsideEngine

    return OutsideEngine(environment, options_for(config, source) | {"infer_backend": environment.name})
