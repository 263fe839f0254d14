"""Everything that differs between transformers 4.57 and 5, in one place.

- RoPE in config.json: 4 reads `rope_theta` and `rope_scaling`, 5 writes only `rope_parameters`
  (`heal_config`, `portable_config`).
- number of experts: 5 writes `num_local_experts` where 4 reads `num_experts` (the same two functions).
- dtype in config.json: 5 writes only `dtype`; tools before 4.56 read only `torch_dtype` (`portable_config`).
- the class of a fast tokenizer: 5 writes `TokenizersBackend`, which 4 does not have
  (`tokenizer_loader`, `portable_tokenizer_config`).
- flash attention: 5 knows more versions of it (`flash_attention_available`).
- attention masks of tensors without contents (`real_attention_masks`).
- training: 5 evaluates after the last step (`evaluates_last_step`) and reads an optimizer's state on several CPU
  processes (`restore_indexed_cpu`); its TrainingArguments have other names (`as_installed`).
- weights: 5 renames and fuses some while loading, and undoes it while saving (`save_model`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.errors import SwiftError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_PORTABLE_TOKENIZER = "PreTrainedTokenizerFast"
_ROPE_BASE = ("rope_theta", "partial_rotary_factor")
# Kinds of RoPE scaling that transformers 4.57 has; newer ones would be misread there.
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
_NEW_TOKENIZERS = ("TokenizersBackend",)


@cache
def transformers_major() -> int:
    """4 or 5, read from the installed package without importing it."""
    from importlib.metadata import version

    return int(version("transformers").split(".")[0])


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def heal_config(config: PretrainedConfig, raw: dict[str, Any]) -> PretrainedConfig:
    """Gives `config`, read by transformers 4 from what transformers 5 wrote (`raw`), the values that it means.

    Transformers 4 ignores `rope_parameters` and takes its default `rope_theta`, without a warning. Nested configs
    (`text_config` …) are treated alike. A no-op under transformers 5.
    """
    if transformers_major() >= 5:
        return config
    for key, value in _legacy_keys(raw).items():
        setattr(config, key, value)
    for key, value in raw.items():
        inner = getattr(config, key, None)
        if isinstance(value, dict) and inner is not None and hasattr(inner, "to_dict"):
            heal_config(inner, value)
    return config


def _legacy_keys(raw: dict[str, Any]) -> dict[str, Any]:
    """The keys that transformers 4 reads, for a config that has only what 5 writes in their place.

    RoPE with one set of parameters per layer type has no form in transformers 4 that fits all models: left alone.
    """
    legacy: dict[str, Any] = {}
    if "num_local_experts" in raw and "num_experts" not in raw:
        legacy["num_experts"] = raw["num_local_experts"]
    rope = raw.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" in raw or "rope_theta" not in rope:
        return legacy
    if rope.get("rope_type", "default") not in _ROPE_TYPES:
        return legacy
    legacy["rope_theta"] = rope["rope_theta"]
    if "partial_rotary_factor" in rope and "partial_rotary_factor" not in raw:
        legacy["partial_rotary_factor"] = rope["partial_rotary_factor"]
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    if scaling.get("rope_type", "default") != "default" or len(scaling) > 1:
        legacy["rope_scaling"] = scaling
    return legacy


def rope_of(text: PretrainedConfig) -> dict[str, Any] | None:
    """Parameters of a config's rotary positions; None where it has none. 5 has one dict, 4 two attributes."""
    if hasattr(text, "rope_parameters"):
        return text.rope_parameters or None
    theta = getattr(text, "rope_theta", None)
    return None if theta is None else {"rope_theta": theta, **(getattr(text, "rope_scaling", None) or {})}


def set_rope(text: PretrainedConfig, scaling: dict[str, Any]) -> None:
    """Scale a config's rotary positions otherwise; their base stays."""
    if hasattr(text, "rope_parameters"):
        base = {key: text.rope_parameters[key] for key in _ROPE_BASE if key in text.rope_parameters}
        text.rope_parameters = base | scaling
    else:
        text.rope_scaling = dict(scaling)


def portable_config(raw: dict[str, Any]) -> dict[str, Any]:
    """config.json's content with the keys that either generation of transformers looks for; nothing is taken out."""
    portable = {key: portable_config(value) if isinstance(value, dict) else value for key, value in raw.items()}
    portable.update(_legacy_keys(raw))
    dtype = raw.get("dtype", raw.get("torch_dtype"))
    if isinstance(dtype, str):
        portable["dtype"] = portable["torch_dtype"] = dtype
    return portable


def portable_tokenizer_config(text: str) -> str:
    """tokenizer_config.json's text, with a class that transformers 4 has; byte for byte the same where it does."""
    for name in _NEW_TOKENIZERS:
        text = text.replace(f'"tokenizer_class": "{name}"', f'"tokenizer_class": "{_PORTABLE_TOKENIZER}"')
    return text


def tokenizer_loader(folder: Path) -> Any:
    """The class whose `from_pretrained` reads the tokenizer in `folder`: under transformers 4 also one that 5 wrote."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    written_by_5 = read_json(folder / "tokenizer_config.json").get("tokenizer_class") in _NEW_TOKENIZERS
    return PreTrainedTokenizerFast if written_by_5 and transformers_major() < 5 else AutoTokenizer


def flash_attention_available(version: int) -> bool:
    """Whether transformers would run flash attention `version` (2, 3 …) here: package, accelerator and all."""
    from transformers import utils

    check = getattr(utils, f"is_flash_attn_{version}_available", None)
    return bool(check is not None and check())


def save_model(model: PreTrainedModel, folder: Path, *, safe_serialization: bool = True, **kwargs: Any) -> None:
    """`model.save_pretrained` under the names that the weights had on disk; generation settings are not written.

    Transformers 5 undoes its renaming on its own; 4 renames nothing. Both refuse to save a model whose generation
    settings contradict each other (a temperature without sampling), as many published ones do, so it gets plain ones
    for the time of the call.

    Raises:
        SwiftError: .bin files are asked for, which transformers 5 cannot write.
    """
    if transformers_major() < 5:
        kwargs["safe_serialization"] = safe_serialization
    elif not safe_serialization:
        raise SwiftError(
            "this transformers writes safetensors only.",
            where="--safe_serialization false",
            fix="leave the option out, or install transformers 4.57.",
        )
    from transformers import GenerationConfig

    settings = getattr(model, "generation_config", None)
    try:
        if settings is not None:
            model.generation_config = GenerationConfig()
        model.save_pretrained(folder, **kwargs)
    finally:
        if settings is not None:
            model.generation_config = settings


@contextlib.contextmanager
def real_attention_masks(masked: bool) -> Iterator[None]:
    """Give a step on fake tensors the attention mask that real ones of the same shapes get.

    Transformers 5 leaves the mask out where nothing is packed, but of fake tensors it assumes that they may be packed
    (`find_packed_sequence_indices`, 5.24: its look into the positions is skipped when tracing); this can go when a
    caller can say that nothing is packed. 4.57 builds a mask of positions every time, and looks into a padding mask
    whether it masks anything (`_ignore_causal_mask_sdpa`), which fake tensors cannot tell; this goes with 4.57.

    Args:
        masked: whether attention gets a padding mask, which masks something.
    """
    from transformers import masking_utils

    if transformers_major() >= 5:
        name, answer = "find_packed_sequence_indices", None
    else:
        name, answer = "_ignore_causal_mask_sdpa", False
    before = getattr(masking_utils, name)
    if masked == (answer is False):
        setattr(masking_utils, name, lambda *_, **__: answer)
    try:
        yield
    finally:
        setattr(masking_utils, name, before)


@contextlib.contextmanager
def meta_autocast() -> Iterator[None]:
    """Let models switch autocast off for tensors without storage, which torch before 2.14 refuses; goes with 2.13."""
    import torch

    original: Any = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return contextlib.nullcontext() if device_type == "meta" else original(device_type, *args, **kwargs)

    library: Any = torch
    try:
        original("meta", enabled=False)
    except RuntimeError:
        library.autocast = autocast
    try:
        yield
    finally:
        library.autocast = original


def evaluates_last_step() -> bool:
    """Whether the trainer evaluates after the last step of a run with `--eval_strategy steps`; goes with 4.57."""
    return transformers_major() >= 5


@cache
def restore_indexed_cpu() -> None:
    """Let `torch.load` read onto `cpu:0`, as the trainer of 4.57 asks on several CPU processes; goes with 4.57.

    torch knows only `cpu`; transformers 5 asks for that.
    """
    import torch

    if transformers_major() < 5:
        torch.serialization.register_package(
            100, lambda _: None, lambda storage, location: storage if location.startswith("cpu:") else None
        )


def as_installed(values: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """Arguments of TrainingArguments by the names of the installed transformers.

    transformers 5 takes the warm-up share as `warmup_steps` below 1, and calls gradient checkpointing activation
    checkpointing from 5.22 on.
    """
    named = dict(values)
    if "warmup_ratio" not in known:
        share = named.pop("warmup_ratio", 0.0)
        if share and not named.get("warmup_steps"):
            named["warmup_steps"] = share
    for old, new in (
        ("gradient_checkpointing", "activation_checkpointing"),
        ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
    ):
        if new in known and old in named:
            named[new] = named.pop(old)
    return named


def quiet_imports() -> None:
    """Keep out what torchao and bitsandbytes say when PEFT imports them, whether they are used or not."""
    from logging import getLogger

    for name in ("bitsandbytes", "torch.utils._pytree"):
        getLogger(name).setLevel("ERROR")


def quiet_libraries() -> None:
    """Keep loading bars and notices of names that go in transformers 6 out of our own output."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    quiet_imports()
    warnings.filterwarnings("ignore", message=".*is deprecated and will be removed in v6.*")
    for category in (FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=r"(transformers|peft|accelerate|torch)\b")
