"""Which model, from where, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from swift.config.fields import at_least, named, one_of, option

ATTENTION = (
    "auto",
    "eager",
    "sdpa",
    "flex_attention",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "flash_attn",
    "flash_attn_2",
    "flash_attn_3",
    "flash",
    "flex",
)
"""Names of attention implementations, of either generation."""

BNB = ("quant_method", "bnb")


def _axis(value: int) -> str | None:
    return None if value in (0, 1) else "must be 0 or 1"


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
        "Attention: eager, sdpa, flash_attn, flash_attention_2, flash_attention_3, flex_attention, or the id of a "
        "kernel on the hub; unset means the fastest present.",
        aliases=("attn_implementation",),
        check=one_of(lambda: ATTENTION, besides="/"),
    )
    device_map: dict[str, Any] | str | None = option(None, "Where the weights go: a device, auto, or a JSON map.")
    max_memory: dict[str, Any] | None = option(
        None,
        'How much of each device --device_map auto may take, as JSON: {"0": "20GB", "cpu": "60GB"}.',
        needs=("device_map",),
    )
    rope_scaling: dict[str, Any] | str | None = option(
        None,
        "Scale rotary positions for longer sequences: linear, dynamic or yarn, by the factor that --max_model_len asks "
        'for; or JSON: {"rope_type": "yarn", "factor": 4.0}. An adapter remembers it, a whole model has it in '
        "config.json.",
    )
    max_model_len: int | None = option(
        None, "Longest sequence, in place of config.json's.", unit="tokens", check=at_least(1)
    )
    init_strategy: (
        Literal[
            "zero",
            "uniform",
            "normal",
            "xavier_uniform",
            "xavier_normal",
            "kaiming_uniform",
            "kaiming_normal",
            "orthogonal",
        ]
        | None
    ) = option(
        None,
        "How matrices start that the files lack, such as a custom architecture's new ones (vectors: as transformers "
        "has it); unset means that missing weights are an error.",
    )
    model_kwargs: dict[str, Any] | None = option(None, "More arguments of from_pretrained, as JSON.")
    quant_method: Literal["bnb", "hqq", "eetq", "quanto", "fp8", "torchao"] | None = option(
        None,
        "Quantise the weights while they load, for an adapter on top; swift doctor tells which methods run here. A "
        "checkpoint remembers it.",
    )
    quant_bits: Literal["1", "2", "3", "4", "8", "float8"] | None = option(
        None,
        "Bits of a quantised weight: bnb 4, 8; hqq 1, 2, 3, 4, 8; quanto 2, 4, 8, float8; torchao 8, float8; eetq, fp8 "
        "8; unset means 4 for bnb and hqq, else 8.",
        needs=("quant_method",),
    )
    bnb_4bit_compute_dtype: Literal["bfloat16", "float16", "float32"] | None = option(
        None, "bnb: dtype that 4-bit layers compute in; unset means that of the other weights.", needs=BNB
    )
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = option(
        "nf4", "bnb: values of 4 bits (Dettmers et al., 2023).", needs=BNB
    )
    bnb_4bit_use_double_quant: bool = option(True, "bnb: quantise the scales of 4-bit weights too.", needs=BNB)
    bnb_4bit_quant_storage: str | None = option(
        None, "bnb: dtype that packed 4-bit weights are kept as, for FSDP; unset means uint8.", needs=BNB
    )
    hqq_axis: int | None = option(
        None,
        "hqq: axis along which weights are grouped, 0 or 1; unset means 1.",
        check=_axis,
        needs=("quant_method", "hqq"),
    )


@dataclass
class AnsweringModelConfig(ModelConfig):
    """The same for a model that answers."""

    merge_lora: bool = option(
        False,
        "Merge the adapters that always act into the weights once they are loaded, in the dtype of the weights: faster "
        "answers, up to rounding the same. swift merge-lora writes a merged model and proves it.",
        needs=("adapters",),
    )
