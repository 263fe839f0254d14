"""Which weights of a model a rule for matrices applies to."""

from __future__ import annotations

from typing import Any

from swift.errors import SwiftError


def matrix_names(model: Any, targets: list[str], option: str, *, embeddings: bool = False) -> set[str]:
    """Names of the weights of linear modules, the output embedding aside unless `embeddings`.

    Args:
        model: the model.
        targets: names or endings of modules; empty or all-linear means every one.
        option: the option that gave them, for errors.
        embeddings: both embeddings as well.

    Raises:
        SwiftError: a target fits no linear module.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and not any(module is end for end in ends)
    }
    wanted = [target for target in targets if target.replace("_", "-") != "all-linear"]
    for target in wanted:
        if not any(_fits(name, target) for name in linear):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise SwiftError(f"--{option} {target}: no linear module has this name", fix=f"there are: {known}")
    found = {
        f"{name}.weight"
        for name in linear
        if not wanted or len(wanted) < len(targets) or any(_fits(name, target) for target in wanted)
    }
    if embeddings:
        found |= {f"{name}.weight" for name, module in model.named_modules() if any(module is end for end in ends)}
    return found


def _fits(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}") or f".{target}." in f".{name}."
