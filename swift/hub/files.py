"""The files of a model: which are worth downloading, and what a folder without a model holds instead."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from swift.errors import SwiftError

_NEVER = (
    "*.gguf",
    "*.onnx",
    "*.onnx_data",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.tflite",
    "*.mlpackage/*",
    "*.mlmodel",
    "onnx/*",
    "openvino*",
    "coreml/*",
    "original/*",
    "optimizer.*",
    "scheduler.pt",
    "rng_state*.pth",
    "training_args.bin",
    "runs/*",
)
_TORCH = ("*.bin", "*.pt", "*.pth", "*.ckpt", "consolidated*.safetensors")
_VARIANTS = (".fp16.", ".bf16.", ".fp32.", ".int8.")
MAY_BE_ABSENT = [*_NEVER, *_TORCH, *(f"*{variant}*" for variant in _VARIANTS)]
"""Patterns of files that a whole copy of a model may lack."""
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.npz")


def files_to_skip(names: Iterable[str], *, weights: bool = True) -> list[str]:
    """Names out of `names` that the model does not need: the same weights in other formats, leftovers of training.

    Args:
        names: every file of the repository, as paths relative to it.
        weights: False leaves out all weights, for a look at config and tokenizer only.
    """
    everything = sorted(names)
    skipped = [name for name in everything if _matches(name, _NEVER)]
    left = [name for name in everything if not _matches(name, _NEVER)]
    if not weights:
        return skipped + [name for name in left if _matches(name, _WEIGHTS)]
    plain = {name for name in left if name.endswith((".safetensors", ".safetensors.index.json"))}
    variants = [name for name in left if (whole := _without_variant(name)) and whole in plain]
    if any(_is_model(name) for name in plain):
        variants += [name for name in left if _matches(name, _TORCH) or name == "pytorch_model.bin.index.json"]
    return skipped + sorted(set(variants))


def check_model_folder(path: Path, name: str | None = None) -> None:
    """Stop where a folder holds no model, and say what it holds.

    Args:
        path: the folder.
        name: what the user called it, if that is not its path.

    Raises:
        SwiftError: it is a file, or has no config.json.
    """
    shown = name or str(path)
    if path.is_file():
        raise SwiftError(f"{shown} is a file, not a folder with a model.", where="--model", fix="pass its folder.")
    if (path / "config.json").is_file():
        return
    inner = sorted(entry.parent.name for entry in path.glob("*/config.json"))
    if (path / "adapter_config.json").is_file():
        fix = "it holds an adapter: pass it with --adapters, and its base model with --model."
    elif any(path.glob("*.gguf")) or "gguf" in shown.lower():
        fix = "a GGUF model cannot be trained: take the model it was made from."
    elif inner:
        fix = f"pass a folder inside it: {', '.join(inner[:5])}."
    else:
        fix = "pass the folder that holds config.json and the weights."
    raise SwiftError(f"{shown} holds no model: it has no config.json.", where="--model", fix=fix)


def _is_model(name: str) -> bool:
    return any(fnmatch(name, f"{start}*.safetensors") for start in ("model", "pytorch_model", "adapter_model"))


def _without_variant(name: str) -> str | None:
    """`model.fp16.safetensors` -> `model.safetensors`: another precision of weights that are there already."""
    for variant in _VARIANTS:
        if variant in name and name.endswith((".safetensors", ".json")):
            return name.replace(variant, ".")
    return None


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
