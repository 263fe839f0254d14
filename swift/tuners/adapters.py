"""PEFT adapters onto a model, with errors where PEFT warns or fails unreadably."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from swift.errors import SwiftError, first_line
from swift.models.adapter_files import broken_weights, check_adapter
from swift.models.new_tokens import fit_rows
from swift.tuners.attached import ATTACHED, KINDS, attached, load_parts, save_parts
from swift.tuners.families import table
from swift.tuners.starts import START, save_with_start

SHARED = re.compile(r"\.vera_[AB]\.|unilora")
"""Weights that an adapter may take from another one of its kind."""


def add_adapters(model: Any, folders: Sequence[Path], *, trainable: bool = False) -> Any:
    """Load each adapter onto `model` and let all of them act together; an empty list gives the model back.

    Raises:
        SwiftError: an adapter is broken, or does not fit the model or the other adapters.
    """
    fit_rows(model, max(map(rows_wanted, folders), default=0))
    _check_alone(folders)
    for place, folder in enumerate(folders):
        model = _add(model, folder, f"adapter{place}" if place else "default", trainable)
    if len(folders) > 1:
        try:
            model.base_model.set_adapter([f"adapter{place}" if place else "default" for place in range(len(folders))])
        except (ValueError, TypeError, AttributeError) as error:
            raise SwiftError(
                f"these adapters cannot act together: {first_line(error)}",
                where="--adapters",
                fix="merge them one after the other: swift merge-lora --adapters A B",
            ) from error
    return model.eval() if folders and not trainable else model


def add_named(model: Any, folder: Path, name: str) -> Any:
    """Load one more adapter under a name of its own; it acts once that is made active.

    Raises:
        SwiftError: it is broken, does not fit the model, or is of a kind that always acts.
    """
    _check_alone([folder, *([folder] if tuner_of(folder) in ATTACHED else [])])
    if attached(model) is not None:
        raise SwiftError("the model carries an adapter that no other goes with", where=str(folder), fix="load it alone")
    fit_rows(model, rows_wanted(folder))
    return _add(model, folder, name, trainable=False).eval()


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter on a model as PEFT keeps its own, loadable on the base model as its files hold it."""
    if attached(model) is not None:
        save_parts(model, folder)
    elif hasattr(model, START):
        save_with_start(model, folder)
    else:
        # PEFT would write whole embeddings where the vocabulary grew; the trained rows are in the adapter.
        model.save_pretrained(str(folder), save_embedding_layers=_embeds(model))


def carries_adapter(model: Any) -> bool:
    """Whether what a run trains on this model is an adapter."""
    return hasattr(model, "peft_config") or attached(model) is not None


def _embeds(model: Any) -> str | bool:
    return False if any(getattr(c, "trainable_token_indices", None) for c in model.peft_config.values()) else "auto"


def rows_wanted(folder: Path) -> int:
    """The rows of the embedding that an adapter's own tokens need; 0 where it has none."""
    tokens = check_adapter(folder).get("trainable_token_indices") or []
    lists = tokens.values() if isinstance(tokens, dict) else [tokens]
    return max((max(ids) + 1 for ids in lists if ids), default=0)


def _check_alone(folders: Sequence[Path]) -> None:
    kinds = [tuner_of(folder) for folder in folders]
    alone = next((kind for kind in kinds if kind in ATTACHED or (kind and table()[kind].get("virtual"))), None)
    if len(folders) > 1 and alone:
        raise SwiftError(
            f"an adapter of the kind {alone} does not act together with others",
            where="--adapters",
            fix="name one of them",
        )


def tuner_of(folder: Path) -> str | None:
    """The `--train_type` that an adapter's kind goes by; None for kinds that have no name here."""
    kind = check_adapter(folder).get("peft_type")
    if kind in KINDS:
        return KINDS[kind][0]
    return next((name for name, row in table().items() if row["kind"] == kind), None)


def check_merges(adapter: Path) -> None:
    """Stop at an adapter that is not a change of weights.

    Raises:
        SwiftError: it names the tuner.
    """
    kind = tuner_of(adapter)
    if kind in ATTACHED:
        raise SwiftError(
            f"--adapters {adapter}: an adapter of the kind {kind} changes what modules give, not their weights: there "
            "is nothing to merge",
            fix="keep the adapter beside its base: swift infer --adapters",
        )
    if kind and table()[kind].get("virtual"):
        raise SwiftError(
            f"--adapters {adapter}: {kind} tuning trains virtual tokens, not weights: there is nothing to merge",
            fix="keep the adapter beside its base: swift infer --adapters",
        )


def _add(model: Any, folder: Path, name: str, trainable: bool) -> Any:
    from peft import PeftModel
    from safetensors import SafetensorError

    if check_adapter(folder).get("peft_type") in KINDS:
        return load_parts(model, folder, trainable=trainable)
    lacking: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if isinstance(model, PeftModel):
                result = model.load_adapter(str(folder), adapter_name=name, is_trainable=trainable)
                lacking = [key for key in result.missing_keys if f".{name}" in key and not SHARED.search(key)]
            else:
                load = _trainable_by_hand(model, folder) if trainable else None
                model = (load or PeftModel.from_pretrained)(
                    model, str(folder), adapter_name=name, is_trainable=trainable
                )
        except (SafetensorError, EOFError) as error:
            raise broken_weights(folder, error) from error
        except (RuntimeError, ValueError, TypeError, KeyError, OSError, AttributeError) as error:
            raise _misfit(model, folder, error) from error
    if not trainable:
        # PEFT lets virtual tokens require gradients all the same.
        model.requires_grad_(False)
    # PEFT warns of a first adapter, and tells of later ones, and goes on with random weights for what the file lacks.
    missing = [str(warning.message) for warning in caught if "missing adapter keys" in str(warning.message)]
    missing += [str(lacking)] if lacking else []
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno, "peft")
    if missing:
        raise SwiftError(
            f"the adapter's file lacks weights that this base model wants: {missing[0].split(': ', 1)[-1][:200]}",
            where=str(folder),
            fix="the file is not whole, or belongs to another base model: give that as --model",
        )
    return model


def _trainable_by_hand(model: Any, folder: Path) -> Callable[..., Any] | None:
    """How an adapter is loaded for further training that PEFT itself does not load so."""
    kind = tuner_of(folder)
    if kind and table()[kind].get("virtual"):
        return _load_virtual
    meta = next(model.parameters()).device.type == "meta"
    return _shapes_of_ranks if kind == "adalora" and meta else None


def _load_virtual(model: Any, folder: str, **_: Any) -> Any:
    """PEFT loads virtual tokens for inference only; as new ones with the trained weights they go on."""
    from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    adapter = PeftConfig.from_pretrained(folder)
    adapter.inference_mode = False
    tuned = get_peft_model(model, adapter)
    if next(model.parameters()).device.type != "meta":
        set_peft_model_state_dict(tuned, load_peft_weights(folder, device="cpu"))
    return tuned


def _shapes_of_ranks(model: Any, folder: str, **_: Any) -> Any:
    """AdaLoRA of the ranks in the file on a model without storage, where PEFT cannot count them."""
    import torch
    from peft import PeftConfig, get_peft_model
    from safetensors import safe_open

    adapter = PeftConfig.from_pretrained(folder)
    adapter.inference_mode, adapter.rank_pattern = False, None
    tuned = get_peft_model(model, adapter)
    with safe_open(Path(folder) / "adapter_model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            module, _, part = name.rpartition(".")
            if part.startswith("lora_"):
                empty = torch.empty(file.get_slice(name).get_shape(), device="meta")
                getattr(tuned.get_submodule(module), part)["default"] = torch.nn.Parameter(empty)
    return tuned


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
            f"the adapter was made for another architecture: {first_line(error)[:300]}",
            where=str(folder),
            fix="give the base model that it was trained on as --model",
        )
    return SwiftError(
        f"the adapter cannot be loaded: {first_line(error)[:300]}",
        where=str(folder),
        fix="check that adapter_config.json and the base model (--model) belong to it, and that peft is new enough",
    )
