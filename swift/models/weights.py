"""The weight files of a model folder, read by their headers only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swift.errors import SwiftError

WEIGHT_SUFFIXES = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack", ".ot", ".npz", ".tflite"}
)
"""Endings of files that hold weights, in any format."""

_HEADS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers", "mtp_num_layers")
"""What config.json may call the number of heads that predict further tokens."""

_MTP, _LAYER = re.compile(r"(^|\.)mtp(_|\.|$)"), re.compile(r"\blayers\.(\d+)\.")

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLES = ("model.safetensors", "pytorch_model.bin")


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers would load from `folder`, in order; empty where there are none."""
    for single, index in zip(_SINGLES, _INDEXES, strict=True):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return [folder / name for name in sorted(set(_weight_map(folder / index).values()))]
    return []


def check_weights(folder: Path) -> None:
    """Checks, without reading tensors, that every shard is there and whole.

    Raises:
        SwiftError: no weights, a shard that is missing, or a safetensors file that is cut off or not one.
    """
    files = weight_files(folder)
    if not files:
        raise SwiftError(
            f"there are no weights in {folder}.",
            where=f"looked for {', '.join(_SINGLES)} and their index files",
            fix="download the model again, or point at the folder that holds its weights.",
        )
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise SwiftError(
            f"{len(missing)} of {len(files)} weight files are missing: {', '.join(missing[:3])}{more}.",
            where=str(folder),
            fix="download the model again; what is there already is kept.",
        )
    for file in files:
        if file.suffix == ".safetensors":
            tensor_headers(file)


def tensor_headers(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> {dtype, shape, data_offsets} of a safetensors file (https://github.com/huggingface/safetensors#format).

    Raises:
        SwiftError: the header cannot be read, or the file is shorter or longer than the header says.
    """
    size = file.stat().st_size
    try:
        with open(file, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if length > size - 8:
                raise ValueError(f"its header would be {length} bytes long")
            header = json.loads(handle.read(length))
        header.pop("__metadata__", None)
        expected = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if expected != size:
            raise ValueError(f"it should be {expected} bytes long and is {size}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SwiftError(
            f"the weights in {file.name} are broken: {error}.",
            where=str(file),
            fix="delete this file and download the model again.",
        ) from error
    return header


def tensor_names(folder: Path) -> set[str]:
    """Names of all tensors in the folder's weight files; for .bin files without an index this loads the file."""
    return set(tensor_files(folder))


def tensor_files(folder: Path) -> dict[str, Path]:
    """Name of a tensor -> the file that holds it."""
    found: dict[str, Path] = {}
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            found.update(dict.fromkeys(tensor_headers(file), file))
        elif (folder / _INDEXES[1]).is_file():
            return {name: folder / shard for name, shard in _weight_map(folder / _INDEXES[1]).items()}
        else:
            import torch

            found.update(dict.fromkeys(torch.load(file, map_location="meta", weights_only=True), file))
    return found


def prediction_heads(folder: Path, config: Any) -> list[str]:
    """Tensors of heads that predict further tokens (DeepSeek-V3, section 2.2), which transformers does not load.

    They are called mtp, or lie in layers behind those of the model.

    Args:
        folder: the model's.
        config: its config of text, as transformers reads it.
    """
    layers = getattr(config, "num_hidden_layers", None)

    def is_head(name: str) -> bool:
        layer = _LAYER.search(name)
        behind = layer is not None and layers is not None and int(layer[1]) >= layers
        return behind or _MTP.search(name) is not None

    if not any(getattr(config, key, None) for key in _HEADS):
        return []
    return sorted(filter(is_head, tensor_names(folder)))


def stored_dtype(folder: Path) -> str | None:
    """torch's name of the dtype that most floating-point tensors have; None where no safetensors file tells."""
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    counts: dict[str, int] = {}
    for entry in _headers(folder):
        if entry["dtype"] in names:
            counts[entry["dtype"]] = counts.get(entry["dtype"], 0) + 1
    return names[max(counts, key=lambda key: counts[key])] if counts else None


def _headers(folder: Path) -> Iterator[dict[str, Any]]:
    for file in weight_files(folder):
        if file.suffix == ".safetensors" and file.is_file():
            yield from tensor_headers(file).values()


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError) as error:
        raise SwiftError(
            f"the list of weight files {index.name} is broken: {error}.",
            where=str(index),
            fix="delete this file and download the model again.",
        ) from error
