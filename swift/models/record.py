"""What a checkpoint says about itself: its run's options, its template, its base model.

A checkpoint folder holds `config.yaml` (the run's options), `template.json` (system text, switches and fixed values of
the template), `base.json` (the base model's name and a fingerprint of its shape) and, where the model gives something
else than text, `task.json` (what it gives).
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.errors import SwiftError, first_line

SHAPE_KEYS = ("architectures", "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")


@dataclass
class CheckpointRecord:
    """What a folder says about itself; each part is empty where the folder does not hold it."""

    folder: Path
    is_adapter: bool
    base_model: str | None = None
    """As the user named it, so that it resolves again: demo, an id, or a path."""
    base_shape: dict[str, Any] = field(default_factory=dict)
    base_weights: str | None = None
    """`fingerprint_of` the base model's folder."""
    config: dict[str, Any] = field(default_factory=dict)
    template: dict[str, Any] | None = None
    task: dict[str, Any] = field(default_factory=dict)
    """`task_type`, and what its model gives; empty for models of text."""


def shape_of(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a model's config.json that an adapter must agree with."""
    text = config.get("text_config") or {}
    return {key: config.get(key, text.get(key)) for key in SHAPE_KEYS}


def fingerprint_of(folder: Path) -> str:
    """Tells a folder's weights from others of the same shape: names, sizes and last 64 KiB of its files."""
    total = 0
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = file.stat().st_size
        with file.open("rb") as opened:
            opened.seek(max(size - 65536, 0))
            total = zlib.crc32(f"{file.name} {size}".encode() + opened.read(), total)
    return f"{total:08x}"


def write_record(
    folder: Path,
    *,
    config: dict[str, Any],
    template: dict[str, Any],
    base_model: str,
    base_config: dict[str, Any],
    base_weights: str | None = None,
    task: dict[str, Any] | None = None,
) -> None:
    """Write the files into a checkpoint folder."""
    import yaml

    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    write_json(folder / "template.json", template)
    base = {"model": base_model, "shape": shape_of(base_config), "weights": base_weights}
    write_json(folder / "base.json", base)
    if task:
        write_json(folder / "task.json", task)


def read_record(folder: str | Path) -> CheckpointRecord:
    """Read what a folder says about itself; PEFT's own `adapter_config.json` serves where ours is missing.

    Raises:
        SwiftError: the folder does not exist, or one of its files is broken.
    """
    import yaml

    folder = Path(folder)
    if not folder.is_dir():
        raise SwiftError(f"{folder}: no such folder", fix="name a checkpoint folder, such as output/.../checkpoint-20")
    adapter = _read_json(folder / "adapter_config.json")
    base = _read_json(folder / "base.json") or {}
    config_file = folder / "config.yaml"
    try:
        config = yaml.safe_load(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    except yaml.YAMLError as error:
        raise SwiftError(
            f"{config_file} is broken: {first_line(error)}", fix="take another checkpoint's file"
        ) from None
    return CheckpointRecord(
        folder=folder,
        is_adapter=adapter is not None,
        base_model=base.get("model") or (adapter or {}).get("base_model_name_or_path"),
        base_shape=base.get("shape") or {},
        base_weights=base.get("weights"),
        config=config or {},
        template=_read_json(folder / "template.json"),
        task=_read_json(folder / "task.json") or {},
    )


def check_base(record: CheckpointRecord, base_config: dict[str, Any], base_name: str) -> None:
    """Stop where an adapter was made for a model of another shape.

    Raises:
        SwiftError: the shapes differ; it names the first difference.
    """
    shape = shape_of(base_config)
    for key, value in record.base_shape.items():
        if value is not None and shape.get(key) != value:
            raise SwiftError(
                f"the adapter was trained on another base model: {key} is {value} there and {shape.get(key)} in "
                f"{base_name}",
                where=str(record.folder),
                fix=f"leave --model out, or give --model {record.base_model}",
            )


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON for people to read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SwiftError(f"{path} is broken: {error}", fix="copy the checkpoint again, or take another one") from None
