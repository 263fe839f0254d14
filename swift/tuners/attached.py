"""Adapters that PEFT does not have: parts that change what modules give, kept in the folder form of PEFT's adapters.

A part is a module of its own inside the module whose output it changes. It is not a change of weights, so it does not
merge.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.errors import SwiftError
from swift.models.adapter_files import AGAIN, broken_weights, check_adapter

if TYPE_CHECKING:
    from torch import nn

KINDS = {"HOULSBY": ("adapter", "swift.tuners.houlsby"), "REFT": ("reft", "swift.tuners.reft")}
"""`peft_type` in adapter_config.json -> value of --train_type, and the module whose `parts_of(model, settings)` gives
the parts by the names of the modules that they go into."""
ATTACHED = {name: kind for kind, (name, _) in KINDS.items()}
"""Value of --train_type -> `peft_type`."""
PART, STATE = "swift_part", "_swift_attached"
"""Attributes: of a module, its part; of a model, what is attached to it."""


@dataclass
class Attached:
    """What a model carries: the kind, the settings it was made from, and the parts by their modules' names."""

    kind: str
    settings: dict[str, Any]
    parts: dict[str, nn.Module]


def attached(model: Any) -> Attached | None:
    """What is attached to a model, if anything."""
    return getattr(model, STATE, None)


def attach_parts(model: Any, kind: str, settings: dict[str, Any], dtype: str | None = None) -> Any:
    """Attach an adapter and train it alone.

    Args:
        model: the model; one without storage gets parts without storage.
        kind: a key of `KINDS`.
        settings: what its parts are made from, as adapter_config.json holds it.
        dtype: of the parts; None means float32 beside weights of 16 bit, else the weights' own.
    """
    import torch

    model.requires_grad_(False)
    parts: dict[str, nn.Module] = import_module(KINDS[kind][1]).parts_of(model, settings)
    for name, part in parts.items():
        host = model.get_submodule(name)
        weight = next(host.parameters())
        own = torch.float32 if weight.dtype.itemsize < 4 else weight.dtype
        part.to(device=weight.device, dtype=getattr(torch, dtype) if dtype else own)
        host.add_module(PART, part)
        host.register_forward_hook(_change)
    setattr(model, STATE, Attached(kind, settings, parts))
    return model


def _change(module: Any, _args: Any, output: Any) -> Any:
    """What the module's part makes of its output, or of the first of several."""
    part = getattr(module, PART)
    return (part(output[0]), *output[1:]) if isinstance(output, tuple) else part(output)


def save_parts(model: Any, folder: Path) -> None:
    """Write what is attached to a model: adapter_model.safetensors and adapter_config.json."""
    from safetensors.torch import save_file

    found: Attached = getattr(model, STATE)
    state = {
        f"{name}.{own}": weight.detach().cpu().contiguous()
        for name, part in found.parts.items()
        for own, weight in part.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    base = {"peft_type": found.kind, "base_model_name_or_path": getattr(model.config, "_name_or_path", None)}
    text = json.dumps({**base, "settings": found.settings}, indent=2, ensure_ascii=False)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def load_parts(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """The model with the adapter in a folder attached.

    Raises:
        SwiftError: the adapter is broken, or was made for another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = check_adapter(folder)
    try:
        state = load_file(folder / "adapter_model.safetensors")
    except (SafetensorError, OSError) as error:
        raise broken_weights(folder, error) from None
    try:
        model = attach_parts(model, config["peft_type"], config["settings"])
    except (AttributeError, KeyError, TypeError) as error:
        raise SwiftError(
            f"the adapter was made for another architecture: {error}",
            where=str(folder),
            fix="give the base model that it was trained on as --model",
        ) from None
    for name, part in getattr(model, STATE).parts.items():
        prefix = f"{name}."
        own = {key.removeprefix(prefix): state.pop(key) for key in list(state) if key.startswith(prefix)}
        _fill(part, own, name, folder)
    if state:
        raise SwiftError(f"the adapter's file holds weights of no part: {min(state)}", where=str(folder), fix=AGAIN)
    if not trainable:
        model.requires_grad_(False)
    return model


def _fill(part: nn.Module, own: dict[str, Any], name: str, folder: Path) -> None:
    wanted = {key: tuple(value.shape) for key, value in part.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in own.items()}
    if wanted != given:
        key = min(key for key in wanted.keys() | given.keys() if wanted.get(key) != given.get(key))
        ours, theirs = wanted.get(key, "none"), given.get(key, "missing")
        raise SwiftError(
            f"the adapter's {name}.{key} is {theirs}, and this model wants {ours}",
            where=str(folder),
            fix="give the base model that it was trained on as --model",
        )
    if next(part.parameters()).device.type != "meta":
        part.load_state_dict(own)
