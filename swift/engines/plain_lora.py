"""LoRA adapters as the engines of packages take them: plain ones, one to a request."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from swift.errors import SwiftError
from swift.models.adapter_files import check_adapter


def check_alone(always: list[Path], package: str = "vLLM") -> None:
    """Raise SwiftError where several adapters are to act together."""
    if len(always) > 1:
        raise SwiftError(
            f"{len(always)} adapters that act together: {package} applies one to a request",
            where="--adapters",
            fix="merge them first: swift merge-lora --adapters A B",
        )


def rank_of(folder: Path, package: str = "vLLM") -> int:
    """The rank of a LoRA adapter.

    Raises:
        SwiftError: the package cannot run it.
    """
    settings = check_adapter(folder)
    why = None
    if settings.get("peft_type") != "LORA":
        why = f"it is of the kind {settings.get('peft_type')}"
    elif settings.get("use_dora"):
        why = "it is DoRA"
    elif settings.get("modules_to_save") or settings.get("trainable_token_indices"):
        why = "it holds whole modules or tokens of its own"
    if why is not None:
        raise SwiftError(
            f"{package} runs plain LoRA adapters alone, and {why}", where=str(folder), fix="merge it: swift merge-lora"
        )
    return max([settings["r"], *(settings.get("rank_pattern") or {}).values()])


def no_adapter(name: str, known: Collection[str]) -> SwiftError:
    """The error for a name that no adapter has."""
    there = f"there are {', '.join(sorted(known))}" if known else "none is loaded by a name"
    return SwiftError(f"there is no adapter {name}", fix=there)
