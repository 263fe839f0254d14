"""Tokens that a tokenizer gets for training, and the rows of the embeddings that they need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swift.errors import SwiftError


def read_names(given: Sequence[str]) -> list[str]:
    """Token names from `--new_special_tokens`: names, and text files with one or more of them on each line.

    Raises:
        SwiftError: a file cannot be read.
    """
    names: list[str] = []
    for name in given:
        if not name.endswith(".txt"):
            names.append(name)
            continue
        try:
            names += Path(name).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise SwiftError(f"--new_special_tokens {name}: {error}", fix="name a text file, or the tokens") from None
    return list(dict.fromkeys(names))


def add_tokens(tokenizer: Any, given: Sequence[str]) -> list[int]:
    """Add special tokens to a tokenizer and give their ids, those that it had already among them."""
    names = read_names(given)
    if not names:
        return []
    tokenizer.add_tokens(names, special_tokens=True)
    return [int(token) for token in tokenizer.convert_tokens_to_ids(names)]


def fit_rows(model: Any, rows: int) -> Any:
    """Let the embeddings have at least this many rows; new ones are the mean of the others (Hewitt, 2021)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = inner.get_input_embeddings().weight.shape[0] if rows else 0
    if rows > before:
        inner.resize_token_embeddings(rows, mean_resizing=False)
        start_rows(inner, list(range(before, rows)))
    return model


def start_rows(model: Any, tokens: list[int]) -> None:
    """Let the embeddings of these tokens start from the mean of the others, at the input and at the output."""
    import torch

    if not tokens:
        return
    parts = [model.get_input_embeddings(), model.get_output_embeddings()]
    for weight in {id(part.weight): part.weight for part in parts if part is not None}.values():
        if weight.device.type == "meta":
            continue
        others = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        others[tokens] = False
        with torch.no_grad():
            weight[tokens] = weight[others].float().mean(0).to(weight.dtype)
