"""Which files of a model on a hub are worth downloading."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch

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


def _is_model(name: str) -> bool:
    return fnmatch(name, "model*.safetensors") or fnmatch(name, "pytorch_model*.safetensors")


def _without_variant(name: str) -> str | None:
    """`model.fp16.safetensors` -> `model.safetensors`: another precision of weights that are there already."""
    for variant in _VARIANTS:
        if variant in name and name.endswith((".safetensors", ".json")):
            return name.replace(variant, ".")
    return None


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
