"""What a checkpoint holds besides the trainer's state: weights in the ecosystem's formats, and the run's record."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config import SftConfig
from swift.errors import SwiftError
from swift.models.record import fingerprint_of, write_record
from swift.train.assemble import Prepared
from swift.train.resume import write_position
from swift.tuners.adapters import carries_adapter, save_adapter

if TYPE_CHECKING:
    from swift.models.source import ModelSource
    from swift.tasks.base import Task
    from swift.templates import Template

KeepModel = Callable[[Any, Path], None]
"""Writes the model, its tokenizer and its record into a checkpoint's folder."""


def model_keeper(config: SftConfig, source: ModelSource, template: Template, task: Task, data: Prepared) -> KeepModel:
    """A function that writes the model and its record into a folder: an adapter by PEFT, whole weights portably."""
    fingerprint, weights = data.fingerprint(), fingerprint_of(source.path)
    told = task.record()
    base = str(source.path) if Path(source.base).is_dir() else source.base

    def keep(model: Any, folder: Path) -> None:
        write_weights(model, folder, source.path, template.tokenizer, config.train.max_shard_size)
        if source.new_tokens:
            keep_tokenizer(template.tokenizer, folder)
        write_record(
            folder,
            config=config.flat(),
            template=template.to_dict(),
            base_model=base,
            base_config=source.config,
            base_weights=weights,
            task=told and {"task_type": task.name, **told},
        )
        task.keep(model, folder)
        write_position(folder, fingerprint, data.plan)

    return keep


def prepared_model_keeper(template: Template) -> KeepModel:
    """The same for a model that a Python user prepared: its base is what it was loaded from."""

    def keep(model: Any, folder: Path) -> None:
        base = Path(model.config._name_or_path)
        known = (base / "config.json").is_file()
        write_weights(model, folder, base if known else None, template.tokenizer)
        write_record(
            folder,
            config={},
            template=template.to_dict(),
            base_model=str(base),
            base_config=model.config.to_dict(),
            base_weights=fingerprint_of(base) if known else None,
        )

    return keep


def keep_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer that training changed."""
    from swift.models.save import save_tokenizer

    with tempfile.TemporaryDirectory() as temporary:
        tokenizer.save_pretrained(temporary)
        save_tokenizer(temporary, folder)


def write_weights(model: Any, folder: Path, base: Path | None, tokenizer: Any, max_shard_size: str = "5GB") -> None:
    """An adapter by PEFT; a whole model portably, where the folder of its base is known."""
    if carries_adapter(model):
        save_adapter(model, folder)
    elif base is not None:
        from swift.models.save import save_pretrained

        save_pretrained(model, folder, base_dir=base, max_shard_size=max_shard_size)
    else:
        model.save_pretrained(str(folder), max_shard_size=max_shard_size)
        tokenizer.save_pretrained(str(folder))


def load_whole(model: Any, folder: Path) -> None:
    """Load a checkpoint's whole weights into a model that is there already.

    Raises:
        SwiftError: the checkpoint lacks weights that are trained.
    """
    from safetensors.torch import load_file

    weights = {
        name: weight for file in sorted(folder.glob("*.safetensors")) for name, weight in load_file(file).items()
    }
    missing = set(model.load_state_dict(weights, strict=False).missing_keys)
    lost = [name for name, parameter in model.named_parameters() if parameter.requires_grad and name in missing]
    if lost:
        raise SwiftError(
            f"the checkpoint lacks {len(lost)} trained weights, such as {lost[0]}",
            where=str(folder),
            fix="start from it as a model: --model CHECKPOINT",
        )
