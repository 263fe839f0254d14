"""Which attention implementation runs, and why."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from swift.compat import flash_attention_available
from swift.errors import SwiftError

if TYPE_CHECKING:
    import torch

_ALIASES = {
    "flash_attn": "flash_attention_2",
    "flash_attn_2": "flash_attention_2",
    "flash_attn_3": "flash_attention_3",
    "flash": "flash_attention_2",
    "flex": "flex_attention",
}
_PLAIN = ("sdpa", "eager", "flex_attention")
_PACKAGES = {2: "flash-attn", 3: "flash-attn-3", 4: "flash-attn-4"}


def choose_attention(
    asked: str | None, device: torch.device, dtype: torch.dtype, model_class: type | None
) -> tuple[str | None, str]:
    """The value for transformers' `attn_implementation`, and the reason; None leaves it to the architecture.

    Args:
        asked: the user's choice, in either generation's name; None or `auto` picks flash_attention_2 where it runs.
        device: where the model will run.
        dtype: what attention will be computed in.
        model_class: the model's class, whose flags tell what it supports; None for remote code.

    Raises:
        SwiftError: the asked implementation cannot run here or in this architecture.
    """
    if asked is None or asked == "auto":
        problem = _flash_problem(2, device, dtype) or _class_problem("flash_attention_2", model_class)
        if problem is None:
            return "flash_attention_2", "flash_attention_2: flash-attn is installed and the GPU can run it"
        return None, problem
    name = _ALIASES.get(asked, asked)
    match = re.fullmatch(r"flash_attention_(\d)", name)
    if match is None and name not in _PLAIN and "/" not in name:
        raise SwiftError(
            f"unknown attention implementation {asked!r}.",
            where="--attn_impl",
            fix="use auto, sdpa, eager, flex_attention, flash_attention_2 or flash_attention_3.",
        )
    problem = _flash_problem(int(match[1]), device, dtype) if match else None
    problem = problem or _class_problem(name, model_class)
    if problem is not None:
        raise SwiftError(f"{asked} cannot run: {problem}.", where="--attn_impl", fix="use sdpa, or leave it out.")
    return name, "asked for"


def _flash_problem(version: int, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why flash attention `version` cannot run here; None where it can."""
    import torch

    name = f"flash_attention_{version}"
    if device.type != "cuda":
        return f"{name} needs a CUDA GPU and the model runs on {device.type}"
    if not flash_attention_available(version):
        return f"{name} needs the package {_PACKAGES.get(version, 'flash-attn')}, which is not installed"
    if not torch.version.hip:
        capability = torch.cuda.get_device_capability(device)
        if capability < (8, 0) or (version == 3 and capability[0] != 9):
            needs = "Hopper" if version == 3 else "Ampere or newer (compute capability 8.0)"
            return f"{name} needs {needs} and this GPU has compute capability {capability[0]}.{capability[1]}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"{name} computes in float16 or bfloat16 and the model is in {str(dtype).removeprefix('torch.')}"
    return None


def _class_problem(name: str, model_class: Any) -> str | None:
    """Why the architecture has no such attention; None where it has, or where nothing tells."""
    if model_class is None or name == "eager" or "/" in name:
        return None
    flags = {"sdpa": ["_supports_sdpa"], "flex_attention": ["_supports_flex_attn"]}.get(
        name, ["_supports_flash_attn", "_supports_flash_attn_2"]
    )
    if any(getattr(model_class, flag, False) for flag in flags):
        return None
    return f"{model_class.__name__} has no {name}"
