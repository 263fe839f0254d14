"""Which model, from where, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from swift.config.fields import named, option


@dataclass
class SourceConfig:
    """Which model: all that a command without its weights needs."""

    model: str | None = option(
        None,
        "Model: demo, a local folder, a Hugging Face or ModelScope id (HF:: and MS:: choose the hub).",
        check=named,
    )
    adapters: list[str] = option(
        help="Adapters: folders or hub ids; the base model and the template are read from the adapter.",
        factory=list,
        check=named,
    )
    model_revision: str | None = option(None, "Branch, tag or commit of the model on its hub.", aliases=("revision",))
    use_hf: bool | None = option(
        None,
        "Take ids from Hugging Face (true) or ModelScope (false).",
        why="unset means: the environment variable USE_HF, else ModelScope where its package is installed, as ms-swift "
        "does, else Hugging Face",
    )
    hub_token: str | None = option(None, "Token for gated or private models.", secret=True)
    trust_remote_code: bool = option(
        False,
        "Run Python code that comes with the model.",
        why="ms-swift always runs it; code from a hub should run only where the user said so",
    )
    model_type: str | None = option(
        None, "Accepted from old scripts; the model itself says what it is, so it is noted and not needed."
    )


@dataclass
class ModelConfig(SourceConfig):
    """Options of the model: which, and how its weights are loaded."""

    torch_dtype: Literal["bfloat16", "float16", "float32"] | None = option(
        None, "Data type of the weights; unset means the model's own where the device has it.", aliases=("dtype",)
    )
    attn_impl: str | None = option(
        None,
        "Attention: eager, sdpa, flash_attn, flash_attention_2, flash_attention_3, flex_attention; unset means the "
        "fastest present.",
        aliases=("attn_implementation",),
    )
    device_map: str | dict[str, Any] | None = option(None, "Where the weights go: a device, auto, or a JSON map.")
    model_kwargs: dict[str, Any] | None = option(None, "More arguments of from_pretrained, as JSON.")
