"""What a model is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from swift.config.fields import at_least, named, option


@dataclass
class EvaluateConfig:
    """Options of an evaluation by EvalScope, by a command of its own or in a training run."""

    eval_dataset: list[str] = option(
        help="Data sets by EvalScope's names (swift eval --list true shows them); general_qa and general_mcq take your "
        "own files.",
        factory=list,
    )
    eval_limit: int | None = option(None, "Samples of each subset; unset means all.", check=at_least(1))
    eval_dataset_args: dict[str, Any] | None = option(
        None, 'Options by data set, as JSON: {"general_qa": {"local_path": "FOLDER", "subset_list": ["default"]}}.'
    )
    eval_generation_config: dict[str, Any] | None = option(
        None, 'Parameters of the answers, as JSON: {"max_tokens": 512, "temperature": 0}; greedy where it names none.'
    )
    extra_eval_args: dict[str, Any] | None = option(
        None, "More of EvalScope's TaskConfig, as JSON; it goes over all the rest."
    )
    evalscope_python: str | None = option(
        None, "Interpreter of an environment with EvalScope; unset means this one, or the one swift env made."
    )


@dataclass
class TrainEvaluateConfig(EvaluateConfig):
    """The same in a training run."""

    eval_use_evalscope: bool = option(
        False, "At each evaluation let EvalScope ask the model in training the questions of --eval_dataset as well."
    )


@dataclass
class EvalCommandConfig(EvaluateConfig):
    """The same with what the command alone has."""

    eval_num_proc: int = option(16, "Questions asked at once.", check=at_least(1))
    eval_output_dir: str = option("eval_output", "Folder of results; each evaluation has its own in it.", check=named)
    eval_backend: Literal["Native", "OpenCompass", "VLMEvalKit"] = option(
        "Native", "Who knows the data sets: EvalScope itself, or what it hands them to."
    )
    eval_url: str | None = option(
        None, "A server that answers, http://HOST:PORT/v1; unset means that the model is served here.", check=named
    )
    compare: bool = option(
        False, "Evaluate the model without its adapter as well, and say what the adapter changed.", needs=("adapters",)
    )
    list: bool = option(False, "Show the data sets that EvalScope knows, and stop.")
    format: Literal["text", "json"] = option("text", "How results and lists are printed; json: one object a line.")
