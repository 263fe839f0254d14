"""The names that scripts written for ms-swift import, as thin names over our own code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config import InferConfig, MergeConfig, PtConfig, SftConfig
from swift.config.build import read_arguments
from swift.config.commands import AppConfig, DeployConfig, EvalConfig, RolloutConfig
from swift.errors import SwiftError

if TYPE_CHECKING:
    from swift.data import RowSet
    from swift.engines import AdapterRequest, InferRequest, PtEngine, RequestConfig
    from swift.engines.lmdeploy import LmdeployEngine
    from swift.engines.remote import InferClient
    from swift.engines.sglang import SglangEngine
    from swift.engines.vllm import VllmEngine
    from swift.serve.deployed import run_deploy
    from swift.templates import Template
    from swift.train.result import SftResult

__all__ = [
    "AdapterRequest",
    "AppArguments",
    "DeployArguments",
    "EvalArguments",
    "ExportArguments",
    "InferArguments",
    "InferClient",
    "InferRequest",
    "LmdeployEngine",
    "PtEngine",
    "RequestConfig",
    "RolloutArguments",
    "SglangEngine",
    "TrainArguments",
    "VllmEngine",
    "app_main",
    "deploy_main",
    "eval_main",
    "get_model_tokenizer",
    "get_template",
    "infer_main",
    "load_dataset",
    "merge_lora",
    "pt_main",
    "rollout_main",
    "run_deploy",
    "sft_main",
]

NOT_YET = Path(__file__).parent / "config" / "table" / "names_not_yet.json"
"""Names of ms-swift's module `swift.llm` that are not here."""

_ELSEWHERE = {
    "AdapterRequest": "swift.engines",
    "run_deploy": "swift.serve.deployed",
    "InferClient": "swift.engines.remote",
    "InferRequest": "swift.engines",
    "LmdeployEngine": "swift.engines.lmdeploy",
    "SglangEngine": "swift.engines.sglang",
    "VllmEngine": "swift.engines.vllm",
    "PtEngine": "swift.engines",
    "RequestConfig": "swift.engines",
    "merge_lora": "swift.export.merge",
}

TrainArguments = SftConfig.of
InferArguments = InferConfig.of
DeployArguments = DeployConfig.of
EvalArguments = EvalConfig.of
AppArguments = AppConfig.of
RolloutArguments = RolloutConfig.of
ExportArguments = MergeConfig.of


def __getattr__(name: str) -> Any:
    from importlib import import_module

    from swift.compat import quiet_imports

    if name in _ELSEWHERE:
        quiet_imports()
        return getattr(import_module(_ELSEWHERE[name]), name)
    if name in json.loads(NOT_YET.read_text(encoding="utf-8")):
        raise AttributeError(f"swift.llm.{name} is a name of ms-swift that this version does not have yet")
    raise AttributeError(f"module 'swift.llm' has no attribute {name!r}")


def sft_main(args: SftConfig | Sequence[str]) -> SftResult:
    """Fine-tune with `TrainArguments(...)` or the words of a command line."""
    from swift.train.sft import sft

    return sft(args if isinstance(args, SftConfig) else read_arguments(SftConfig, args))


def pt_main(args: PtConfig | Sequence[str]) -> SftResult:
    """Pre-train with `PtConfig.of(...)` or the words of a command line."""
    from swift.train.sft import pt

    return pt(args if isinstance(args, PtConfig) else read_arguments(PtConfig, args))


def infer_main(args: InferConfig | Sequence[str]) -> int:
    """Infer with `InferArguments(...)` or the words of a command line."""
    from swift.infer.run import main

    return main(args if isinstance(args, InferConfig) else read_arguments(InferConfig, args))


def deploy_main(args: DeployConfig | Sequence[str]) -> int:
    """Serve with `DeployArguments(...)` or the words of a command line, until a signal comes."""
    from swift.serve.run import main

    return main(args if isinstance(args, DeployConfig) else read_arguments(DeployConfig, args))


def rollout_main(args: RolloutConfig | Sequence[str]) -> int:
    """Serve a training run with `RolloutArguments(...)` or the words of a command line, until a signal comes."""
    from swift.serve.run import main

    return main(args if isinstance(args, RolloutConfig) else read_arguments(RolloutConfig, args))


def app_main(args: AppConfig | Sequence[str]) -> int:
    """Serve a chat page with `AppArguments(...)` or the words of a command line, until a signal comes."""
    from swift.ui.app import main

    return main(args if isinstance(args, AppConfig) else read_arguments(AppConfig, args))


def eval_main(args: EvalConfig | Sequence[str]) -> int:
    """Evaluate with `EvalArguments(...)` or the words of a command line."""
    from swift.evaluate.run import main

    return main(args if isinstance(args, EvalConfig) else read_arguments(EvalConfig, args))


def get_model_tokenizer(model: str, torch_dtype: Any = None, **options: Any) -> tuple[Any, Any]:
    """The model with its weights, and its tokenizer; options are those of the model's concern.

    Raises:
        SwiftError: there is no such model, or it cannot be loaded.
    """
    from swift.config import Decisions, ModelConfig
    from swift.config.commands import InferConfig as AnyCommand
    from swift.models.load import load_as
    from swift.models.source import find_source

    if torch_dtype is not None:
        options["torch_dtype"] = str(torch_dtype).removeprefix("torch.")
    config: ModelConfig = AnyCommand.of(model=model, **options).model
    source = find_source(config, Decisions())
    loaded = load_as(config, source.path)
    return loaded.model, source.load_tokenizer(config.trust_remote_code)


def get_template(template: str | None, tokenizer: Any, default_system: str | None = None, **options: Any) -> Template:
    """The model's own template; a name is only needed for models that have none.

    Raises:
        SwiftError: an option is none of a template's, or the template cannot be had.
    """
    from swift.config import Decisions, TemplateConfig
    from swift.config.fields import options_in
    from swift.templates.choose import choose_template

    there = options_in(TemplateConfig, "template")
    if unknown := sorted(options.keys() - there.keys()):
        raise SwiftError(
            f"get_template takes no {', '.join(unknown)}",
            fix=f"it takes {', '.join(there)}; lengths belong to training and to the engine",
        )
    return choose_template(tokenizer, TemplateConfig(template=template, system=default_system, **options), Decisions())


def load_dataset(
    datasets: str | Sequence[str], *, split_dataset_ratio: float = 0.0, seed: int = 42, **options: Any
) -> tuple[RowSet, RowSet | None]:
    """Rows for training and for evaluation; options are those of the data's concern.

    Raises:
        SwiftError: a data set is not there or a row cannot be used.
    """
    from swift.data import load_rows, split_rows

    if "num_proc" in options:
        options["dataset_num_proc"] = options.pop("num_proc")
    names = [datasets] if isinstance(datasets, str) else list(datasets)
    data = SftConfig.of(dataset=names, split_dataset_ratio=split_dataset_ratio, **options).data
    rows = load_rows(names, data, seed=seed, shuffle=data.dataset_shuffle)
    return split_rows(rows, split_dataset_ratio, seed) if split_dataset_ratio else (rows, None)
