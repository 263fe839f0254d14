"""What an engine runs: base model, adapters and template, found from the names that a user gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.engines.adapters import add_adapters, check_adapter
from swift.errors import SwiftError
from swift.models.record import CheckpointRecord, check_base, read_record

if TYPE_CHECKING:
    from swift.templates import Template


@dataclass
class ModelSource:
    """A model as it lies on this disk.

    Attributes:
        base: the base model as somebody named it, so that it resolves again.
        path: its folder.
        config: its config.json.
        adapters: folders of PEFT adapters, in the order in which they go onto the base.
        record: what the last adapter, or else the model's folder, says about itself.
        reasons: what was chosen -> why.
    """

    base: str
    path: Path
    config: dict[str, Any]
    adapters: list[Path]
    record: CheckpointRecord
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def tokenizer_folder(self) -> Path:
        """The last adapter's folder where training left a tokenizer there, else the model's."""
        kept = [folder for folder in self.adapters if (folder / "tokenizer_config.json").is_file()]
        return kept[-1] if kept else self.path


def find_source(
    model: str | None,
    adapters: str | Sequence[str] | None = None,
    *,
    revision: str | None = None,
    use_hf: bool | None = None,
    token: str | None = None,
) -> ModelSource:
    """Find base model and adapters and check that they belong together, before any weights are loaded.

    Args:
        model: name or folder; None takes the base model that the adapters name.
        adapters: folders or ids of PEFT adapters.

    Raises:
        SwiftError: neither is given, one of them is not what it should be, or they do not fit each other.
    """
    from swift.hub import resolve

    names = [adapters] if isinstance(adapters, str) else list(adapters or ())
    if model is None and not names:
        raise SwiftError(
            "no model is named", fix="give --model (demo, a folder or an id), or --adapters with a checkpoint's folder"
        )
    folders = [_adapter_folder(name, use_hf, token) for name in names]
    settings = [check_adapter(folder) for folder in folders]
    records = [read_record(folder) for folder in folders]
    reasons: dict[str, str] = {}
    if model is None:
        model, revision = _base_of(records, settings, revision)
        reasons["model"] = f"named by {records[0].folder}"
    try:
        found = resolve(model, revision=revision, use_hf=use_hf, token=token)
    except SwiftError as error:
        if "model" not in reasons:
            raise
        raise SwiftError(
            f"the adapter's base model {model} cannot be found: {error.what}",
            where=str(records[0].folder),
            fix="give the base model's folder or id as --model",
        ) from error
    config = read_model_config(found.path)
    for record in records:
        check_base(record, config, model)
    record = records[-1] if records else read_record(found.path)
    return ModelSource(model, found.path, config, folders, record, reasons)


def _adapter_folder(name: str, use_hf: bool | None, token: str | None) -> Path:
    from swift.hub import resolve

    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        # An id on a hub: resolve asks for config.json, which an adapter lacks, so the words are only about the hub.
        try:
            return resolve(name, use_hf=use_hf, token=token).path
        except SwiftError as error:
            raise SwiftError(f"--adapters {name}: {error.what}", where=error.where, fix=error.fix) from error
    raise SwiftError(
        f"--adapters {name}: no such folder", fix="name a checkpoint folder, such as output/v0/checkpoint-20"
    )


def _base_of(
    records: list[CheckpointRecord], settings: list[dict[str, Any]], revision: str | None
) -> tuple[str, str | None]:
    """The base model that the adapters name, and its revision."""
    named = {record.base_model for record in records if record.base_model}
    if len(named) > 1:
        raise SwiftError(
            f"the adapters name different base models: {', '.join(sorted(named))}",
            where="--adapters",
            fix="give the right one as --model if they are the same model under two names",
        )
    if not named:
        raise SwiftError("the adapter does not name its base model", where=str(records[0].folder), fix="give --model")
    return named.pop(), revision or settings[0].get("revision")


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
    tokenizer: Any, flags: dict[str, Any], recorded: dict[str, Any] | None = None, reasons: dict[str, str] | None = None
) -> Template:
    """The template that a checkpoint recorded, or the tokenizer's own, with flags over it.

    Args:
        flags: template, chat_template, system, enable_thinking, chat_template_kwargs; None means not given.
        recorded: `template.json` of the checkpoint.
        reasons: takes a note on what was chosen.

    Raises:
        SwiftError: there is no template, or a flag names none.
    """
    from swift.templates import Template, load_template

    reasons = {} if reasons is None else reasons
    kept = ("system", "enable_thinking", "chat_template_kwargs")
    options: dict[str, Any] = {key: flags[key] for key in kept if flags.get(key) is not None}
    if "system" in options:
        options["system"] = read_system(options["system"])
    name = flags.get("chat_template")
    if flags.get("template") and name is None:
        if recorded is None and not getattr(tokenizer, "chat_template", None):
            name = flags["template"]
        else:
            reasons["template"] = f"the model's own; --template {flags['template']} is not needed"
    if recorded is None:
        return load_template(tokenizer, template=name, **options)
    if name is not None:
        return load_template(tokenizer, template=name, **({key: recorded.get(key) for key in kept} | options))
    reasons.setdefault("template", "as the checkpoint recorded it")
    try:
        return Template.from_dict(tokenizer, recorded | options)
    except (KeyError, TypeError) as error:
        raise SwiftError(
            f"template.json of the checkpoint is not as this version writes it: {error}",
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


def load_source_model(source: ModelSource, loading: dict[str, Any]) -> Any:
    """The base model with its adapters on it.

    Args:
        loading: what `swift.models.load_model` takes beside the folder.
    """
    from swift.models import load_model

    loaded = load_model(source.path, **loading)
    source.reasons |= loaded.reasons
    return add_adapters(loaded.model, source.adapters)


def load_engine_parts(
    model: str | None,
    adapters: str | Sequence[str] | None,
    *,
    hub: dict[str, Any],
    loading: dict[str, Any],
    flags: dict[str, Any],
    load_args: bool,
) -> tuple[Any, Template]:
    """Model and template from names: the template first, for a mistake in it shows in no time."""
    from swift.models import load_tokenizer

    source = find_source(model, adapters, **hub)
    tokenizer = load_tokenizer(source.tokenizer_folder, trust_remote_code=loading.get("trust_remote_code", False))
    template = choose_template(tokenizer, flags, source.record.template if load_args else None)
    return load_source_model(source, loading), template
