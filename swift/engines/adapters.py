"""PEFT adapters onto a model, with errors where PEFT warns or fails unreadably."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swift.errors import SwiftError

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
        raise SwiftError(f"adapter_config.json is broken: {error}", where=str(folder)) from None
    weights = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if weights is None:
        raise SwiftError(f"--adapters {folder} holds no weights: {WEIGHT_FILES[0]} is missing")
    if weights.suffix == ".safetensors":
        _check_header(weights)
    return settings


def _check_header(weights: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as opened:
            empty = not list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise _broken(weights, error) from None
    if empty:
        raise SwiftError(f"{weights.name} holds no weights", where=str(weights.parent))


def add_adapters(model: Any, folders: Sequence[Path]) -> Any:
    """Load each adapter onto `model` and let all of them act together; an empty list gives the model back.

    Raises:
        SwiftError: an adapter is broken, or does not fit the model or the other adapters.
    """
    for place, folder in enumerate(folders):
        model = _add(model, folder, f"adapter{place}" if place else "default")
    if len(folders) > 1:
        try:
            model.base_model.set_adapter([f"adapter{place}" if place else "default" for place in range(len(folders))])
        except (ValueError, TypeError, AttributeError) as error:
            raise SwiftError(
                f"these adapters cannot act together: {_first_line(error)}",
                where="--adapters",
                fix="merge them one after the other: swift merge-lora --adapters A B",
            ) from error
    return model.eval() if folders else model


def _add(model: Any, folder: Path, name: str) -> Any:
    from peft import PeftModel
    from safetensors import SafetensorError

    check_adapter(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if isinstance(model, PeftModel):
                model.load_adapter(str(folder), adapter_name=name)
            else:
                model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
        except (SafetensorError, EOFError) as error:
            raise _broken(folder, error) from error
        except (RuntimeError, ValueError, TypeError, KeyError, OSError, AttributeError) as error:
            raise _misfit(model, folder, error) from error
    if model.peft_config[name].is_prompt_learning:
        raise SwiftError(
            f"adapters of the kind {model.peft_config[name].peft_type.value} are not loaded yet", where=str(folder)
        )
    # PEFT warns and goes on with random weights in place of those that the file lacks.
    missing = [str(warning.message) for warning in caught if "missing adapter keys" in str(warning.message)]
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing:
        raise SwiftError(
            f"the adapter's file lacks weights that this base model wants: {missing[0].split(': ', 1)[-1][:200]}",
            where=str(folder),
            fix="the file is not whole, or belongs to another base model: give that as --model",
        )
    return model


def _misfit(model: Any, folder: Path, error: Exception) -> SwiftError:
    text = str(error)
    if "size mismatch" in text:
        detail = next(line.strip() for line in text.splitlines() if "size mismatch" in line)
        return SwiftError(
            f"the adapter was made for a base model of another shape: {detail[:300]}",
            where=str(folder),
            fix="give the base model that it was trained on as --model",
        )
    if "not found in the base model" in text or "No modules were targeted" in text:
        return SwiftError(
            f"the adapter was made for another architecture: {_first_line(error)[:300]}",
            where=str(folder),
            fix="give the base model that it was trained on as --model",
        )
    return SwiftError(f"the adapter cannot be loaded: {_first_line(error)[:300]}", where=str(folder))


def _broken(place: Path, error: Exception) -> SwiftError:
    return SwiftError(
        f"the adapter's weights are broken: {_first_line(error)}",
        where=str(place),
        fix="copy or download the adapter again, or take an earlier checkpoint",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
