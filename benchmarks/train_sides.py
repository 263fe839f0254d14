"""The programs that `train.py` compares, and how each is told to do the same work."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
LORA = {"lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.05}
LOGGED = {"logging_steps": 1, "save_strategy": "no", "report_to": "none"}
SAME = {"learning_rate": "1e-4", "seed": 42, "gradient_accumulation_steps": 1, "gradient_checkpointing": "false"}
SAME |= {"dataset_shuffle": "false", "train_dataloader_shuffle": "false", "dataloader_num_workers": 0}
"""Flags of the work that both command lines called `swift` take."""


@dataclass(frozen=True)
class Work:
    """What every side is given.

    Attributes:
        folder: holds rows.jsonl and samples.json.
        model: the model's folder.
        dtype: of its weights.
        gpu: whether a GPU trains.
        kind: lora or full.
        lengths: tokens of each sample, in order.
        trained: trained tokens of each sample.
        batch: samples in a step; None where each side takes its own defaults.
        warmup: steps that are not timed.
        steps: steps that are.
    """

    folder: Path
    model: str
    dtype: str
    gpu: bool
    kind: str
    lengths: list[int]
    trained: list[int]
    batch: int | None
    warmup: int
    steps: int

    @property
    def rows(self) -> str:
        """The file of the conversations."""
        return str(self.folder / "rows.jsonl")

    @property
    def all_steps(self) -> int:
        """Steps of the run."""
        return self.warmup + self.steps

    @property
    def limit(self) -> int:
        """Longest sample, with room for a template that adds a token."""
        return max(self.lengths) + 64

    def timed_tokens(self, usual: int) -> float:
        """Tokens of the timed steps; where samples are shuffled, of so many samples in a step on average."""
        if self.batch:
            return sum(self.lengths[self.warmup * self.batch : self.all_steps * self.batch])
        return sum(self.lengths) / len(self.lengths) * usual * self.steps


@dataclass(frozen=True)
class Side:
    """How one side is run.

    Attributes:
        command: from the work and an empty folder to a command line.
        log_name: name of the log it writes below the folder, a line for each step.
        imports: what it imports before it can train, as a program.
        python: its interpreter.
        usual: samples in a step by its own defaults; None where it has none.
        ours: whether it needs this tree.
    """

    command: Callable[[Work, Path], list[str]]
    log_name: str
    imports: str
    python: str = sys.executable
    usual: int | None = None
    ours: bool = False


def swift() -> Side:
    """`swift sft`, from this tree."""

    def command(work: Work, folder: Path) -> list[str]:
        return [sys.executable, "-m", "swift", "sft", "--train_type", work.kind, *_flags(work, folder)]

    return Side(command, "logging.jsonl", "import swift.train.sft, swift.train.trainer, peft", usual=16, ours=True)


def bare() -> Side:
    """The plain loop in bare.py, which has no defaults."""

    def command(work: Work, folder: Path) -> list[str]:
        command = [sys.executable, str(HERE / "bare.py"), str(work.folder / "samples.json"), str(folder / "log.jsonl")]
        return [*command, "--batch", str(work.batch), "--steps", str(work.all_steps), "--train_type", work.kind]

    return Side(command, "log.jsonl", "import torch, transformers, peft; transformers.AutoModelForCausalLM")


def peer(python: str) -> Side:
    """`swift sft` of ms-swift; it is told type and template, which it does not find out for a local folder."""

    def command(work: Work, folder: Path) -> list[str]:
        words = [python, "-m", "swift.cli.main", "sft", "--tuner_type", work.kind, *_flags(work, folder)]
        words += ["--model_type", "llama", "--template", "chatml", "--torch_dtype", work.dtype]
        return [*words, "--use_cpu", str(not work.gpu).lower(), "--split_dataset_ratio", "0"]

    return Side(command, "logging.jsonl", "from swift.pipelines import sft_main", python, usual=16)


def _flags(work: Work, folder: Path) -> list[str]:
    flags = {"model": work.model, "dataset": work.rows, "output_dir": folder / "out", "max_steps": work.all_steps}
    flags |= LOGGED
    if work.batch:
        flags |= {"max_length": work.limit, "per_device_train_batch_size": work.batch, **SAME}
    if work.batch and work.kind == "lora":
        flags |= {**LORA, "target_modules": "all-linear"}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def trl(python: str) -> Side:
    """TRL's SFTTrainer, in trl_side.py."""

    def command(work: Work, folder: Path) -> list[str]:
        given = {"learning_rate": 1e-4, "gradient_checkpointing": False, "max_length": work.limit}
        given |= {"per_device_train_batch_size": work.batch, "train_sampling_strategy": "sequential"}
        own = {"output_dir": str(folder / "out"), "max_steps": work.all_steps, "use_cpu": not work.gpu, **LOGGED}
        settings = own | (given if work.batch else {})
        request = {"model": work.model, "dtype": work.dtype, "rows": work.rows, "lora": work.kind == "lora"}
        (folder / "trl.json").write_text(json.dumps(request | {"settings": settings}), encoding="utf-8")
        return [python, str(HERE / "trl_side.py"), str(folder / "trl.json"), str(folder / "log.jsonl")]

    return Side(command, "log.jsonl", "from trl import SFTTrainer; import peft", python, usual=8)


def llamafactory(python: str) -> Side:
    """`llamafactory-cli train`."""

    def command(work: Work, folder: Path) -> list[str]:
        roles = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        tags = roles | {"system_tag": "system"}
        rows = {"file_name": work.rows, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
        (folder / "dataset_info.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
        settings = {"model_name_or_path": work.model, "stage": "sft", "do_train": True, "finetuning_type": work.kind}
        settings |= {"dataset": "rows", "dataset_dir": str(folder), "template": "chatml", "output_dir": str(folder)}
        settings |= {"overwrite_output_dir": True, "overwrite_cache": True, "max_steps": work.all_steps, **LOGGED}
        settings |= {"bf16": work.dtype == "bfloat16", "use_cpu": not work.gpu}
        if work.batch:
            settings |= {"per_device_train_batch_size": work.batch, "gradient_accumulation_steps": 1}
            settings |= {"learning_rate": 1e-4, "cutoff_len": work.limit, "disable_gradient_checkpointing": True}
            settings |= {"disable_shuffling": True, "seed": 42}
            if work.kind == "lora":
                settings |= {**LORA, "lora_target": "all"}
        # JSON is YAML.
        (folder / "run.yaml").write_text(json.dumps(settings), encoding="utf-8")
        return [python, "-m", "llamafactory.cli", "train", str(folder / "run.yaml")]

    return Side(command, "trainer_log.jsonl", "from llamafactory.train.tuner import run_exp", python, usual=8)
