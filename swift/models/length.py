"""Longer sequences than a model was made for: `--rope_scaling` and `--max_model_len`."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from swift.compat import rope_of, set_rope
from swift.config.decisions import Decisions
from swift.config.model import ModelConfig
from swift.errors import SwiftError
from swift.models.architecture import load_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from swift.models.source import ModelSource

NAMES = ("linear", "dynamic", "yarn")
"""Ways of scaling that need a factor alone."""
NEEDED = {"llama3": ("low_freq_factor", "high_freq_factor"), "longrope": ("short_factor", "long_factor")}
"""Ways that need more, which stands in a JSON object."""
KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""What config.json may call the longest sequence."""
ORIGINAL = "original_max_position_embeddings"


def settle_length(config: ModelConfig, source: ModelSource, decisions: Decisions, recorded: bool = True) -> None:
    """Work out the scaling of positions; that of an adapter's training counts where nobody says otherwise.

    `config` then holds all of it, so that a checkpoint, merging and inference have the same.

    Args:
        config: options of the model.
        source: the model; takes the longest sequence.
        decisions: takes a note.
        recorded: take what the adapter's record says.

    Raises:
        SwiftError: the model has no rotary positions, or the options do not fit each other.
    """
    before = source.record.config if recorded and source.record.is_adapter else {}
    origin, reason = "flag", "positions are scaled"
    if config.rope_scaling is None and config.max_model_len is None:
        config.rope_scaling, config.max_model_len = before.get("rope_scaling"), before.get("max_model_len")
        origin, reason = "adapter", "as in its training"
    if config.rope_scaling is None and config.max_model_len is None:
        return
    text = load_config(source.path, trust_remote_code=config.trust_remote_code).get_text_config()
    made_for = next((getattr(text, key) for key in KEYS if getattr(text, key, None)), None)
    if config.rope_scaling is not None:
        rope = _scaling(config.rope_scaling, text, made_for, config.max_model_len)
        reach = int(rope[ORIGINAL] * rope["factor"])
        if (config.max_model_len or reach) > reach:
            raise SwiftError(
                f"--max_model_len {config.max_model_len} is more than --rope_scaling reaches: {rope[ORIGINAL]} × "
                f"{rope['factor']:g} = {reach}",
                fix=f'leave the "factor" out, or give one of {math.ceil(config.max_model_len / rope[ORIGINAL])}',
            )
        config.rope_scaling = rope
        config.max_model_len = config.max_model_len or reach
        decisions.add("rope_scaling", f"{rope['rope_type']}, factor {rope['factor']:g}", origin, reason)
    source.longest = config.max_model_len
    decisions.add("max_model_len", config.max_model_len, origin, f"the model was made for {made_for or 'any length'}")


def _scaling(asked: str | dict[str, Any], text: Any, made_for: int | None, longest: int | None) -> dict[str, Any]:
    """The whole set of parameters: rope_type, factor, original_max_position_embeddings and what was given besides."""
    given: dict[str, Any] = {"rope_type": asked} if isinstance(asked, str) else dict(asked)
    kind = given["rope_type"] = given.pop("type", given.get("rope_type"))
    if kind not in (*NAMES, *NEEDED):
        raise SwiftError(f"--rope_scaling {kind}: there is no such way", fix=f"one of: {', '.join((*NAMES, *NEEDED))}")
    if missing := [key for key in NEEDED.get(kind, ()) if key not in given]:
        example = {"rope_type": kind, "factor": 4.0, **dict.fromkeys(missing, "…")}
        raise SwiftError(f"--rope_scaling {kind} needs {', '.join(missing)}", fix=f"write it as {json.dumps(example)}")
    rope = rope_of(text)
    if rope is None or any(isinstance(value, dict) for value in rope.values()):
        raise SwiftError(
            f"--rope_scaling: {text.model_type} has no rotary positions that are the same in all layers",
            fix="leave it out",
        )
    original = given.get(ORIGINAL) or rope.get(ORIGINAL)
    if original is None and made_for:
        original = made_for if rope.get("rope_type") == "dynamic" else int(made_for / (rope.get("factor") or 1))
    if not original:
        raise SwiftError("--rope_scaling: config.json does not say for which length the model was made", fix="leave it")
    if "factor" not in given and longest is None:
        raise SwiftError(
            f"--rope_scaling {kind} has no factor",
            fix=f'add --max_model_len, or write it as {{"rope_type": "{kind}", "factor": 4.0}}',
        )
    factor = float(given["factor"]) if "factor" in given else float(max(1, math.ceil((longest or 0) / original)))
    return {**given, "factor": factor, ORIGINAL: int(original)}


def apply_length(config: PretrainedConfig, rope: Any, longest: int | None) -> None:
    """Put settled options into a model's config.

    Dynamic scaling starts beyond the length that config.json names, which therefore stays.
    """
    text = config.get_text_config()
    dynamic = isinstance(rope, dict) and rope["rope_type"] == "dynamic"
    if isinstance(rope, dict):
        set_rope(text, {key: value for key, value in rope.items() if not (dynamic and key == ORIGINAL)})
    key = next((key for key in KEYS if getattr(text, key, None)), None)
    if key is not None and longest:
        setattr(text, key, rope[ORIGINAL] if dynamic else longest)


def limit_of(text: Any) -> int | None:
    """The longest sequence that a model's text config allows; None where it sets no bound, as recurrent models do."""
    limit = getattr(text, "max_position_embeddings", None) or None
    rope = rope_of(text) or {}
    dynamic = limit and rope.get("rope_type", rope.get("type")) == "dynamic"
    return int(limit * rope.get("factor", 1)) if limit and dynamic else limit
