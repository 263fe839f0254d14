"""Optimizers of our own, and methods that train some layers at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.config.fields import above, at_least, between, option

GALORE, APOLLO, BADAM = ("optimizer", "galore"), ("optimizer", "apollo"), ("optimizer", "badam")
QUANTIZED = ("galore_quantization", True)


@dataclass
class OptimizerConfig:
    """Options of single optimizers."""

    use_galore: bool = option(False, "The same as --optimizer galore.")
    galore_target_modules: list[str] = option(
        help="Linear modules whose gradients are projected; unset means all but the output embedding.",
        factory=list,
        needs=GALORE,
    )
    galore_rank: int = option(128, "Rank of the projected gradients.", check=at_least(1), needs=GALORE)
    galore_update_proj_gap: int = option(50, "Steps between new projections.", check=at_least(1), needs=GALORE)
    galore_scale: float = option(1.0, "Scale of the update.", check=above(0), needs=GALORE)
    galore_proj_type: Literal["std", "reverse_std", "left", "right", "full"] = option(
        "std", "Sides that are projected: std the shorter one, reverse_std the longer one.", needs=GALORE
    )
    galore_optim_per_parameter: bool = option(
        False, "Update each weight in the backward pass as soon as its gradient is there.", needs=GALORE
    )
    galore_with_embedding: bool = option(False, "Project the gradients of the embeddings too.", needs=GALORE)
    galore_quantization: bool = option(
        False,
        "Q-GaLore: projections in few bits, made anew less often where they stay alike; weights keep their dtype, "
        "without that paper's 8-bit weights.",
        needs=GALORE,
    )
    galore_proj_quant: bool = option(
        True,
        "Keep the projections in --galore_proj_bits.",
        needs=QUANTIZED,
        why="ms-swift's false leaves of Q-GaLore only its lazy updates",
    )
    galore_proj_bits: Literal[4, 8] = option(4, "Bits of each value of a projection.", needs=QUANTIZED)
    galore_proj_group_size: int = option(
        256, "Values of a projection that share a scale.", check=at_least(2), needs=QUANTIZED
    )
    galore_cos_threshold: float = option(
        0.4,
        "Likeness of successive projections from which they are made less often.",
        check=between(0, 1),
        needs=QUANTIZED,
    )
    galore_gamma_proj: int = option(
        2, "Then the steps between projections are multiplied by this.", check=at_least(1), needs=QUANTIZED
    )
    galore_queue_size: int = option(5, "Successive projections that must be alike.", check=at_least(1), needs=QUANTIZED)
    apollo_rank: int | None = option(
        None,
        "Rank of APOLLO's gradients; unset means 256, or 1 with --apollo_scale_type tensor.",
        check=at_least(1),
        needs=APOLLO,
    )
    apollo_scale: float | None = option(
        None,
        "Scale of APOLLO's update; unset means 1, or the root of 128 with --apollo_scale_type tensor.",
        check=above(0),
        needs=APOLLO,
    )
    apollo_scale_type: Literal["channel", "tensor"] = option(
        "channel", "One factor for each channel, or for each tensor (APOLLO-Mini).", needs=APOLLO
    )
    apollo_update_proj_gap: int = option(200, "Steps between new projections.", check=at_least(1), needs=APOLLO)
    muonclip_tau: float = option(
        100.0, "Largest attention logit that MuonClip leaves as it is.", check=above(0), needs=("optimizer", "muonclip")
    )
    badam_switch_interval: int = option(50, "Steps that a layer is trained for.", check=at_least(1), needs=BADAM)
    badam_switch_mode: Literal["ascending", "descending", "random"] = option(
        "ascending", "The order in which layers take turns.", needs=BADAM
    )
    lisa_activated_layers: int = option(
        0,
        "LISA: layers drawn to be trained at a time, beside the embeddings, norm and head; 0 means all.",
        check=at_least(0),
        needs=("train_type", "full"),
    )
    lisa_step_interval: int = option(
        20, "LISA: steps between draws.", check=at_least(1), needs=("lisa_activated_layers",)
    )
