"""A model before its weights: base model, adapters and records, found from the names that a user gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config.decisions import Decisions
from swift.config.model import SourceConfig
from swift.errors import SwiftError
from swift.models.adapter_files import check_adapter
from swift.models.architecture import read_config
from swift.models.names import known_names, unknown_name
from swift.models.record import CheckpointRecord, check_base, read_record

if TYPE_CHECKING:
    from swift.hub import Resolved


@dataclass
class ModelSource:
    """A model as it lies on this disk.

    Attributes:
        base: the base model as somebody named it, so that it resolves again.
        path: its folder.
        config: its config.json.
        adapters: folders of PEFT adapters, in the order in which they go onto the base.
        record: what the last adapter, or else the model's folder, says about itself.
        recorded_template: the `template.json` of the last of adapters and model that has one.
        new_tokens: ids of the tokens that a run adds to the tokenizer.
        longest: the longest sequence in tokens, where an option sets it.
    """

    base: str
    path: Path
    config: dict[str, Any]
    adapters: list[Path]
    record: CheckpointRecord
    recorded_template: dict[str, Any] | None = None
    new_tokens: list[int] = field(default_factory=list)
    longest: int | None = None

    @property
    def tokenizer_folder(self) -> Path:
        """The last adapter's folder where training left a tokenizer there, else the model's."""
        kept = [folder for folder in self.adapters if (folder / "tokenizer_config.json").is_file()]
        return kept[-1] if kept else self.path

    @property
    def limit(self) -> int | None:
        """The longest sequence by option or config.json, in tokens; None where neither sets a bound."""
        if self.longest is not None:
            return self.longest
        text = self.config.get("text_config") or self.config
        keys = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
        return next((text[key] for key in keys if text.get(key)), None)

    def load_tokenizer(self, trust_remote_code: bool) -> Any:
        """The tokenizer, as transformers loads it."""
        from swift.models.load import load_tokenizer

        return load_tokenizer(self.tokenizer_folder, trust_remote_code)


def find_source(config: SourceConfig, decisions: Decisions, *, weights: bool = True) -> ModelSource:
    """Find base model and adapters and check that they belong together, before any weights are loaded.

    Args:
        config: which model.
        decisions: takes where it was found.
        weights: False downloads config and tokenizer only.

    Raises:
        SwiftError: neither is given, one of them is not what it should be, or they do not fit each other.
    """
    if config.model is None and not config.adapters:
        raise SwiftError(
            "no model is named", fix="give --model (demo, a folder or an id), or --adapters with a checkpoint's folder"
        )
    folders = [adapter_folder(name, config.use_hf, config.hub_token) for name in config.adapters]
    settings = [check_adapter(folder) for folder in folders]
    records = [read_record(folder) for folder in folders]
    if config.model is None:
        name, found = _base_of(records, settings, config, weights)
        decisions.add("model", name, "adapter", f"named by {records[0].folder}")
    else:
        name, found = (
            config.model,
            _resolve(config.model, config.model_revision, config.use_hf, config.hub_token, weights),
        )
    if folders:
        decisions.add("adapters", folders, "flag", "--adapters")
    decisions.add("model folder", str(found.path), found.hub, found.reason)
    path = found.path
    raw = read_config(path)
    if config.model_type:
        own = raw.get("model_type", "?")
        _check_model_type(config.model_type, own)
        decisions.add("model_type", own, "model", f"--model_type {config.model_type} is noted and not needed")
    for record in records:
        check_base(record, raw, name)
    told = [read_record(path), *records]
    templates = [record.template for record in told if record.template is not None]
    return ModelSource(name, path, raw, folders, told[-1], templates[-1] if templates else None)


def _check_model_type(name: str, own: str) -> None:
    """Refuse a `--model_type` that neither the model nor transformers nor scripts for ms-swift know."""
    if name == own or name in known_names("model_types"):
        return
    from transformers import CONFIG_MAPPING

    if name not in CONFIG_MAPPING:
        raise unknown_name("model_type", name, "model_types", [own], f"leave it out: the model's own is {own}")


def _resolve(name: str, revision: str | None, use_hf: bool | None, token: str | None, weights: bool) -> Resolved:
    from swift.hub import resolve

    return resolve(name, revision=revision, use_hf=use_hf, token=token, download_weights=weights)


def adapter_folder(name: str, use_hf: bool | None = None, token: str | None = None) -> Path:
    """The folder of an adapter: a local one, or a hub's.

    Raises:
        SwiftError: there is no such folder or id, or it cannot be downloaded.
    """
    from swift.hub import resolve_adapter

    return resolve_adapter(name, use_hf=use_hf, token=token).path


def _base_of(
    records: list[CheckpointRecord], settings: list[dict[str, Any]], config: SourceConfig, weights: bool
) -> tuple[str, Resolved]:
    """The base model that the adapters name, from where their run took it."""
    named = {record.base_model for record in records if record.base_model}
    if len(named) > 1:
        raise SwiftError(
            f"the adapters name different base models: {', '.join(sorted(named))}",
            where="--adapters",
            fix="give the right one as --model if they are the same model under two names",
        )
    if not named:
        raise SwiftError("the adapter does not name its base model", where=str(records[0].folder), fix="give --model")
    name, run = named.pop(), records[0].config
    revision = config.model_revision or run.get("model_revision") or settings[0].get("revision")
    use_hf = run.get("use_hf") if config.use_hf is None else config.use_hf
    try:
        return name, _resolve(name, revision, use_hf, config.hub_token, weights)
    except SwiftError as error:
        raise SwiftError(
            f"the adapter's base model {name} cannot be found: {error.what}",
            where=str(records[0].folder),
            fix="give the base model's folder or id as --model",
        ) from error
