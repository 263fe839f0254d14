"""How token states become one embedding of a text, and how sentence-transformers is told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.compat import read_json
from swift.errors import SwiftError

if TYPE_CHECKING:
    import torch

MODULES = "modules.json"
MODES = ("lasttoken", "mean", "cls")
"""Names of the ways to pool, as sentence-transformers has them."""

OLD = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "lasttoken"}
"""Keys of pooling configurations before sentence-transformers 5."""


@dataclass(frozen=True)
class Pooling:
    """How the states of a text's tokens become its embedding.

    Attributes:
        mode: one of `MODES`.
        normalised: the embedding has length 1.
        why: what says so.
    """

    mode: str
    normalised: bool
    why: str

    def __call__(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """float[texts, d] from states float[texts, n, d] of texts padded on the right and their mask [texts, n]."""
        import torch

        if self.mode == "cls":
            return states[:, 0]
        if self.mode == "lasttoken":
            return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)


def find_pooling(folder: Path, model_config: Any) -> Pooling:
    """By the model's own modules.json, else by its architecture: decoders see a text whole in its last token alone.

    Raises:
        SwiftError: the folder's modules do something else.
    """
    if (folder / MODULES).is_file():
        return _recorded(folder)
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    kind = type(model_config)
    masked = kind in AutoModelForMaskedLM._model_mapping
    if kind in AutoModelForCausalLM._model_mapping and not masked:
        return Pooling("lasttoken", True, "a decoder: its last token alone has seen the whole text")
    return Pooling("mean", True, "an encoder: the mean, as sentence-transformers takes it")


def _recorded(folder: Path) -> Pooling:
    modules = {str(each["type"]).rpartition(".")[2]: each for each in _modules(folder)}
    others = modules.keys() - {"Transformer", "Pooling", "Normalize"}
    if others or "Pooling" not in modules:
        raise SwiftError(
            f"modules.json has {', '.join(sorted(others)) or 'no pooling'}, which is not trained here",
            where=str(folder / MODULES),
            fix="take a model of Transformer, Pooling and Normalize alone",
        )
    settings = read_json(folder / modules["Pooling"]["path"] / "config.json")
    mode = settings.get("pooling_mode") or next((name for key, name in OLD.items() if settings.get(key)), None)
    if mode not in MODES:
        raise SwiftError(f"pooling {mode}", where=str(folder), fix=f"there are: {', '.join(MODES)}")
    return Pooling(mode, "Normalize" in modules, "modules.json of sentence-transformers")


def _modules(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / MODULES).read_text(encoding="utf-8"))


def write_modules(folder: Path, pooling: Pooling, size: int, longest: int | None) -> None:
    """Write what sentence-transformers loads the folder by, where it is not there already.

    Args:
        folder: holds the model.
        pooling: how it pools.
        size: numbers of an embedding.
        longest: tokens to which a text is cut.
    """
    if (folder / MODULES).is_file():
        return
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] * pooling.normalised)]
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind) in enumerate(kinds)
    ]
    for path, _ in kinds[1:]:
        (folder / path).mkdir()
    flags = {key: name == pooling.mode for key, name in OLD.items()}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": size, **flags})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
    _write(folder / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"})
    _write(folder / MODULES, modules)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
