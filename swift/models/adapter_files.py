"""The files of a PEFT adapter, looked at without loading them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swift.errors import SwiftError, first_line

AGAIN = "copy or download the adapter again, or take another checkpoint"

WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def check_adapter(folder: Path) -> dict[str, Any]:
    """Look at an adapter's files without loading them, and give its adapter_config.json.

    Raises:
        SwiftError: a file is missing or broken, or the adapter is of a kind that is not loaded yet.
    """
    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        whole = (folder / "config.json").is_file()
        raise SwiftError(
            f"--adapters {folder} holds no adapter: adapter_config.json is missing",
            fix="it holds a whole model: give it as --model" if whole else "name the folder of a checkpoint",
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SwiftError(f"adapter_config.json is broken: {error}", where=str(folder), fix=AGAIN) from None
    if not isinstance(settings, dict):
        raise SwiftError("adapter_config.json is broken: it holds no object", where=str(folder), fix=AGAIN)
    weights = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if weights is None:
        raise SwiftError(f"--adapters {folder} holds no weights: {WEIGHT_FILES[0]} is missing", fix=AGAIN)
    if weights.suffix == ".safetensors":
        _check_header(weights)
    return settings


def _check_header(weights: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as opened:
            empty = not list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise broken_weights(weights, error) from None
    if empty:
        raise SwiftError(f"{weights.name} holds no weights", where=str(weights.parent), fix=AGAIN)


def broken_weights(place: Path, error: Exception) -> SwiftError:
    """The error for weights that cannot be read."""
    return SwiftError(
        f"the adapter's weights are broken: {first_line(error)}",
        where=str(place),
        fix=AGAIN,
    )
