"""The parts of a model that cost nothing: its folder, config, tokenizer and record; weights are loaded later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift.config import Decisions, ModelConfig
from swift.errors import SwiftError
from swift.models.architecture import read_config
from swift.models.record import CheckpointRecord, check_base, read_record


@dataclass
class OpenedModel:
    """A model before its weights.

    Attributes:
        name: as the user named it: demo, an id, or a path.
        path: its folder on this machine.
        config: its config.json.
        tokenizer: transformers' tokenizer.
        adapters: records of the adapters named with it.
        record: what the folder says about itself where it is a checkpoint of ours.
    """

    name: str
    path: Path
    config: dict[str, Any]
    tokenizer: Any
    adapters: list[CheckpointRecord]
    record: CheckpointRecord

    @property
    def limit(self) -> int | None:
        """Longest sequence that the model was made for, in tokens."""
        text = self.config.get("text_config") or self.config
        value = text.get("max_position_embeddings") or text.get("n_positions") or text.get("seq_length")
        return int(value) if value else None

    @property
    def recorded_template(self) -> dict[str, Any] | None:
        """The template that the last adapter, or the checkpoint itself, was trained with."""
        records = [*self.adapters, self.record]
        return next((record.template for record in records if record.template), None)


def open_model(config: ModelConfig, decisions: Decisions) -> OpenedModel:
    """Find the folder, read config.json and the tokenizer; an adapter brings its base model along.

    Raises:
        SwiftError: no model is named, it is not there, or an adapter was made for another one.
    """
    from swift.hub import resolve
    from swift.models.load import load_tokenizer

    adapters = [adapter_record(name, config) for name in config.adapters]
    name = config.model
    if name is None:
        name = next((record.base_model for record in adapters if record.base_model), None)
        if name is None:
            raise SwiftError("no model is named", fix="add --model demo, a folder or an id; or --adapters DIR")
        decisions.add("model", name, "adapter", "the base model that the adapter names")
    elif _is_adapter(name):
        raise SwiftError(f"--model {name} is an adapter, not a whole model", fix=f"write --adapters {name}")
    resolved = resolve(name, revision=config.model_revision, use_hf=config.use_hf, token=config.hub_token)
    decisions.add("model folder", str(resolved.path), resolved.hub, resolved.reason)
    raw = read_config(resolved.path)
    for record in adapters:
        check_base(record, raw, name)
    if config.model_type:
        own = raw.get("model_type", "?")
        decisions.add("model_type", own, "model", f"--model_type {config.model_type} is noted and not needed")
    tokenizer = load_tokenizer(resolved.path, trust_remote_code=config.trust_remote_code)
    return OpenedModel(name, resolved.path, raw, tokenizer, adapters, read_record(resolved.path))


def adapter_record(name: str, config: ModelConfig) -> CheckpointRecord:
    """The record of an adapter: a folder, or an id of a hub.

    Raises:
        SwiftError: it is not there, or holds no adapter.
    """
    from swift.hub import resolve

    folder = Path(name)
    if not folder.is_dir() and "/" in name and not name.startswith((".", "/", "~")) and name.count("/") == 1:
        folder = resolve(name, use_hf=config.use_hf, token=config.hub_token).path
    record = read_record(folder)
    if not record.is_adapter:
        raise SwiftError(
            f"--adapters {name} holds no adapter (no adapter_config.json)",
            fix="name a checkpoint of an adapter run; a whole model goes to --model",
        )
    return record


def _is_adapter(name: str) -> bool:
    folder = Path(name)
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()
