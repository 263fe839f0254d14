"""What an engine runs: base model, adapters and template, found from the names that a user gives."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config.model import ModelConfig
from swift.config.template import TemplateConfig
from swift.engines.adapters import add_adapters, check_adapter
from swift.errors import SwiftError
from swift.models.record import CheckpointRecord, check_base, read_record

if TYPE_CHECKING:
    from swift.templates import Template


SWITCHES = ("system", "enable_thinking", "chat_template_kwargs")
"""Options of a template that stay when its Jinja source is replaced."""


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
        reasons: what was chosen -> why.
    """

    base: str
    path: Path
    config: dict[str, Any]
    adapters: list[Path]
    record: CheckpointRecord
    recorded_template: dict[str, Any] | None = None
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def tokenizer_folder(self) -> Path:
        """The last adapter's folder where training left a tokenizer there, else the model's."""
        kept = [folder for folder in self.adapters if (folder / "tokenizer_config.json").is_file()]
        return kept[-1] if kept else self.path


def find_source(config: ModelConfig) -> ModelSource:
    """Find base model and adapters and check that they belong together, before any weights are loaded.

    Raises:
        SwiftError: neither is given, one of them is not what it should be, or they do not fit each other.
    """
    if config.model is None and not config.adapters:
        raise SwiftError(
            "no model is named", fix="give --model (demo, a folder or an id), or --adapters with a checkpoint's folder"
        )
    folders = [_adapter_folder(name, config) for name in config.adapters]
    settings = [check_adapter(folder) for folder in folders]
    records = [read_record(folder) for folder in folders]
    reasons: dict[str, str] = {}
    if config.model is None:
        name, path = _base_of(records, settings, config)
        reasons["model"] = f"named by {records[0].folder}"
    else:
        name, path = config.model, _resolve(config.model, config.model_revision, config.use_hf, config.hub_token)
    raw = read_model_config(path)
    for record in records:
        check_base(record, raw, name)
    told = [read_record(path), *records]
    templates = [record.template for record in told if record.template is not None]
    return ModelSource(name, path, raw, folders, told[-1], templates[-1] if templates else None, reasons)


def _resolve(name: str, revision: str | None, use_hf: bool | None, token: str | None) -> Path:
    from swift.hub import resolve

    return resolve(name, revision=revision, use_hf=use_hf, token=token).path


def _adapter_folder(name: str, config: ModelConfig) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    raise SwiftError(
        f"--adapters {name}: no such folder", fix="name a checkpoint folder, such as output/.../checkpoint-20"
    )


def _base_of(records: list[CheckpointRecord], settings: list[dict[str, Any]], config: ModelConfig) -> tuple[str, Path]:
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
        return name, _resolve(name, revision, use_hf, config.hub_token)
    except SwiftError as error:
        raise SwiftError(
            f"the adapter's base model {name} cannot be found: {error.what}",
            where=str(records[0].folder),
            fix="give the base model's folder or id as --model",
        ) from error


def read_model_config(folder: Path) -> dict[str, Any]:
    """The model's config.json.

    Raises:
        SwiftError: there is none, or it is broken.
    """
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SwiftError(f"{folder} holds no model: config.json is missing", fix="name a model's folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SwiftError(f"config.json is broken: {error}", where=str(folder)) from None


def context_in(config: dict[str, Any]) -> int | None:
    """The longest sequence by config.json, for checks before the model is loaded; None where it sets no bound."""
    text = config.get("text_config") or config
    return next((text[key] for key in ("max_position_embeddings", "n_positions", "max_seq_len") if text.get(key)), None)


def choose_template(
    source: ModelSource, flags: TemplateConfig, config: ModelConfig, *, load_args: bool = True
) -> Template:
    """The template that a checkpoint recorded, or the tokenizer's own, with flags over it.

    Args:
        source: the model; its `reasons` take a note.
        flags: options of the template; None means not given.
        config: options of the model.
        load_args: take what the checkpoint recorded.

    Raises:
        SwiftError: there is no template, or a flag names none.
    """
    from swift.models import load_tokenizer
    from swift.templates import Template, load_template

    tokenizer = load_tokenizer(source.tokenizer_folder, trust_remote_code=config.trust_remote_code)
    recorded = source.recorded_template if load_args else None
    options: dict[str, Any] = {name: value for name in SWITCHES if (value := getattr(flags, name)) is not None}
    if flags.system is not None:
        options["system"] = read_system(flags.system)
    name = flags.chat_template
    if flags.template is not None and name is None:
        if recorded is None and not getattr(tokenizer, "chat_template", None):
            name = flags.template
        else:
            source.reasons["template"] = f"the model's own; --template {flags.template} is not needed"
    if recorded is None:
        return load_template(tokenizer, template=name, **options)
    if name is not None:
        return load_template(tokenizer, template=name, **({key: recorded.get(key) for key in SWITCHES} | options))
    source.reasons.setdefault("template", "as the checkpoint recorded it")
    try:
        return Template.from_dict(tokenizer, recorded | options)
    except (KeyError, TypeError) as error:
        raise SwiftError(
            f"template.json is not as this version writes it: {error}",
            where=str(source.record.folder),
            fix="give --load_args false and the template's options yourself",
        ) from error


def read_system(system: str) -> str:
    """A system text: the text itself, or what a .txt file holds.

    Raises:
        SwiftError: the file is not there or not text.
    """
    if not system.endswith(".txt") or "\n" in system:
        return system
    try:
        return Path(system).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SwiftError(f"--system {system} cannot be read: {error}") from None


def load_source_model(source: ModelSource, config: ModelConfig) -> Any:
    """The base model with its adapters on it; `source.reasons` takes what the loading chose."""
    from swift.models import load_model

    loaded = load_model(
        source.path,
        dtype=config.torch_dtype or "auto",
        attn_impl=config.attn_impl,
        device_map=config.device_map,
        trust_remote_code=config.trust_remote_code,
        model_kwargs=config.model_kwargs,
    )
    source.reasons |= loaded.reasons
    return add_adapters(loaded.model, source.adapters)
