"""What is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.config.fields import at_least, between, option

LORA, FREEZE = ("train_type", "lora"), ("train_type", "freeze")
LLAMAPRO = ("train_type", "llamapro")
"""What options of one tuner need."""


@dataclass
class TunerConfig:
    """Options of the tuner."""

    train_type: str = option(
        "lora",
        "What is trained: lora, full, freeze, llamapro, or a tuner from --external_plugins.",
        aliases=("tuner_type", "sft_type"),
    )
    target_modules: list[str] = option(
        help="Modules that get LoRA: names, all-linear (all but the output embedding), or both.",
        factory=lambda: ["all-linear"],
        needs=LORA,
    )
    target_regex: str | None = option(
        None, "Regular expression over module names, in place of --target_modules.", needs=LORA
    )
    modules_to_save: list[str] = option(help="Modules trained in full and saved beside LoRA.", factory=list, needs=LORA)
    lora_rank: int = option(8, "Rank of LoRA.", check=at_least(1), needs=LORA)
    lora_alpha: int = option(32, "Scale of LoRA: its output is multiplied by alpha / rank.", needs=LORA)
    lora_dropout: float = option(0.05, "Dropout before LoRA.", check=between(0, 1), needs=LORA)
    lora_bias: Literal["none", "all", "lora_only"] = option("none", "Which biases are trained with LoRA.", needs=LORA)
    freeze_parameters: list[str] = option(
        help="freeze: prefixes of parameters left as they are.", factory=list, needs=FREEZE
    )
    freeze_parameters_regex: str | None = option(
        None, "freeze: regular expression of parameters left as they are.", needs=FREEZE
    )
    freeze_parameters_ratio: float = option(
        0.0, "freeze: share of parameters left as they are, from the input side.", check=between(0, 1), needs=FREEZE
    )
    trainable_parameters: list[str] = option(
        help="freeze: prefixes of parameters trained all the same.", factory=list, needs=FREEZE
    )
    trainable_parameters_regex: str | None = option(
        None, "freeze: regular expression of parameters trained all the same.", needs=FREEZE
    )
    llamapro_num_new_blocks: int = option(
        4, "llamapro: new layers, the only ones that are trained.", check=at_least(1), needs=LLAMAPRO
    )
    llamapro_num_groups: int | None = option(
        None,
        "llamapro: groups of layers, each followed by its share of the new ones; unset means one new layer each.",
        check=at_least(1),
        needs=LLAMAPRO,
    )
