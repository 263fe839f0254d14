"""What is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.config.fields import above, at_least, between, option

MODULES = (
    "train_type",
    "lora",
    "longlora",
    "adalora",
    "loha",
    "lokr",
    "vera",
    "boft",
    "oft",
    "fourierft",
    "ia3",
    "bone",
)
"""What options of adapters inside modules need."""
LORA = ("train_type", "lora", "longlora")
FREEZE, ADALORA = ("train_type", "freeze"), ("train_type", "adalora")
SCALED = (*LORA, "adalora", "loha", "lokr")
RANKED = (*LORA, "loha", "lokr", "bone")
LORA_GA = ("init_weights", "lora-ga", "lora_ga")
VERA, BOFT, OFT = ("train_type", "vera"), ("train_type", "boft"), ("train_type", "oft")
FOURIERFT, IA3 = ("train_type", "fourierft"), ("train_type", "ia3")
PROMPT = ("train_type", "prompt")
ADAPTER, REFT = ("train_type", "adapter"), ("train_type", "reft")
LLAMAPRO = ("train_type", "llamapro")


@dataclass
class TunerConfig:
    """Options of the tuner."""

    train_type: str = option(
        "lora",
        "What is trained: lora, longlora, adalora, loha, lokr, vera, boft, oft, fourierft, ia3, bone, adapter, reft, "
        "prompt, prefix leave an adapter; full, freeze, llamapro a whole model; or a tuner from --external_plugins.",
        aliases=("tuner_type", "sft_type"),
    )
    tuner_backend: Literal["peft", "unsloth"] = option(
        "peft",
        "Whose code trains lora and full: PEFT's and transformers', or Unsloth's, which needs a GPU and its package in "
        "an environment of its own.",
    )
    target_modules: list[str] = option(
        help="Modules that get an adapter: names, all-linear (all but the output embedding), or both; with adapter, "
        "all-linear means attention and feed-forward as a whole.",
        factory=lambda: ["all-linear"],
        needs=(*MODULES, "adapter"),
    )
    target_regex: str | None = option(
        None, "Regular expression over module names, in place of --target_modules.", needs=MODULES
    )
    target_parameters: list[str] = option(
        help="Weights that get LoRA without a module of their own, such as a mixture's experts: ends of their names.",
        factory=list,
        needs=LORA,
    )
    modules_to_save: list[str] = option(
        help="Modules trained in full and saved beside the adapter.", factory=list, needs=MODULES
    )
    trainable_token_indices: list[int] = option(
        help="Tokens whose embeddings are trained beside LoRA; --new_special_tokens adds its own.",
        factory=list,
        needs=LORA,
    )
    lora_rank: int = option(8, "Rank of lora, loha, lokr and bone.", check=at_least(1), needs=RANKED)
    lora_alpha: int = option(
        32,
        "Scale of lora, adalora, loha and lokr: their output is multiplied by alpha / rank.",
        check=at_least(1),
        needs=SCALED,
    )
    lora_dropout: float = option(
        0.05, "Dropout before lora, adalora and bone.", check=between(0, 1), needs=(*LORA, "adalora", "bone")
    )
    lora_bias: Literal["none", "all", "lora_only"] = option(
        "none", "Which biases are trained with lora or adalora.", needs=(*LORA, "adalora")
    )
    lora_dtype: Literal["bfloat16", "float16", "float32"] | None = option(
        None,
        "Dtype of the adapter's weights; unset means float32 beside weights of 16 bit, else the model's own.",
        needs=(*MODULES, "adapter", "reft", "prompt", "prefix"),
    )
    use_rslora: bool = option(False, "Scale by alpha / sqrt(rank) (Kalajdzievski, 2023).", needs=LORA)
    use_dora: bool = option(False, "Train magnitude and direction apart: DoRA (Liu et al., 2024).", needs=LORA)
    init_weights: str = option(
        "true",
        "How an adapter starts: true (its output is zero), false (random); lora: gaussian, pissa, pissa_niter_N, "
        "olora, loftq, eva, lora-ga, orthogonal, corda; bone: bat, mini; lokr: lycoris.",
        aliases=("init_lora_weights",),
        needs=(*RANKED, "adalora", "vera", "boft", "oft", "fourierft", "ia3"),
    )
    init_samples: int = option(
        64,
        "eva, corda: samples that the start is computed from.",
        check=at_least(1),
        needs=("init_weights", "eva", "corda"),
    )
    lora_ga_batch_size: int = option(2, "lora-ga: samples in a batch.", check=at_least(1), needs=LORA_GA)
    lora_ga_iters: int = option(2, "lora-ga: batches whose gradients are averaged.", check=at_least(1), needs=LORA_GA)
    lora_ga_max_length: int = option(
        1024, "lora-ga: longer samples are cut.", unit="tokens", check=at_least(2), needs=LORA_GA
    )
    lora_ga_direction: Literal["ArBr", "A2rBr", "ArB2r", "random"] = option(
        "ArB2r", "lora-ga: which singular vectors of the gradient go to A and B.", needs=LORA_GA
    )
    lora_ga_scale: Literal["stable", "gd", "unit", "weightS"] = option(
        "stable", "lora-ga: how A and B are scaled.", needs=LORA_GA
    )
    lora_ga_stable_gamma: int = option(16, "lora-ga: gamma of the stable scale.", check=at_least(1), needs=LORA_GA)
    loftq_bits: Literal[4, 8] = option(4, "loftq: bits of the quantised weights.", needs=("init_weights", "loftq"))
    loftq_iter: int = option(1, "loftq: rounds of quantising.", check=at_least(1), needs=("init_weights", "loftq"))
    lorap_lr_ratio: float | None = option(
        None, "LoRA+ (Hayou et al., 2024): B learns faster than A by this factor.", check=above(0), needs=LORA
    )
    adalora_target_r: int = option(8, "adalora: mean rank at the end.", check=at_least(1), needs=ADALORA)
    adalora_init_r: int = option(12, "adalora: rank at the start.", check=at_least(1), needs=ADALORA)
    adalora_tinit: int = option(0, "adalora: steps before ranks are cut.", check=at_least(0), needs=ADALORA)
    adalora_tfinal: int = option(0, "adalora: steps at the end with fixed ranks.", check=at_least(0), needs=ADALORA)
    adalora_deltaT: int = option(1, "adalora: steps between cuts.", check=at_least(1), needs=ADALORA)
    adalora_beta1: float = option(0.85, "adalora: smoothing of sensitivity.", check=between(0, 1), needs=ADALORA)
    adalora_beta2: float = option(0.85, "adalora: smoothing of uncertainty.", check=between(0, 1), needs=ADALORA)
    adalora_orth_reg_weight: float = option(
        0.5, "adalora: weight of the penalty that keeps A and B orthogonal.", check=at_least(0), needs=ADALORA
    )
    adalora_total_step: int | None = option(
        None, "adalora: steps of the schedule of ranks; unset means those of the run.", check=at_least(1), needs=ADALORA
    )
    vera_rank: int = option(256, "vera: rank of the shared random matrices.", check=at_least(1), needs=VERA)
    vera_projection_prng_key: int = option(0, "vera: seed of the shared matrices.", needs=VERA)
    vera_dropout: float = option(0.0, "vera: dropout before it.", check=between(0, 1), needs=VERA)
    vera_d_initial: float = option(0.1, "vera: start of the vector d.", needs=VERA)
    boft_block_size: int = option(
        4, "boft: size of a block; it divides a layer's width.", check=at_least(0), needs=BOFT
    )
    boft_block_num: int = option(
        0,
        "boft: number of blocks, in place of their size (set that to 0).",
        check=at_least(0),
        needs=BOFT,
    )
    boft_n_butterfly_factor: int = option(
        1, "boft: butterfly factors; 1 is block-diagonal.", check=at_least(1), needs=BOFT
    )
    boft_dropout: float = option(0.0, "boft: share of blocks left out.", check=between(0, 1), needs=BOFT)
    oft_block_size: int = option(32, "oft: size of a block; it divides a layer's width.", check=at_least(1), needs=OFT)
    oft_coft: bool = option(False, "oft: bound the rotation (constrained OFT).", needs=OFT)
    fourier_n_frequency: int = option(
        2000, "fourierft: trained frequencies of a layer.", check=at_least(1), needs=FOURIERFT
    )
    fourier_scaling: float = option(300.0, "fourierft: scale of the change.", needs=FOURIERFT)
    ia3_feedforward_modules: list[str] = option(
        help="ia3: those of --target_modules whose input is scaled; unset means down_proj and its like.",
        factory=list,
        needs=IA3,
    )
    adapter_act: str = option("gelu", "adapter: activation in the bottleneck.", needs=ADAPTER)
    adapter_length: int = option(128, "adapter: values in the bottleneck.", check=at_least(1), needs=ADAPTER)
    reft_layer_key: str | None = option(
        None, "reft: name of the list of layers; unset means the model's own.", needs=REFT
    )
    reft_layers: list[int] = option(
        help="reft: layers whose output is edited; unset means all.", factory=list, needs=REFT
    )
    reft_rank: int = option(4, "reft: directions that are edited.", check=at_least(1), needs=REFT)
    reft_intervention_type: Literal[
        "NoreftIntervention",
        "LoreftIntervention",
        "ConsreftIntervention",
        "LobireftIntervention",
        "DireftIntervention",
        "NodireftIntervention",
    ] = option("LoreftIntervention", "reft: form of the edit (Wu et al., 2024).", needs=REFT)
    reft_args: str | None = option(
        None,
        'reft: more, as JSON: {"positions": "f7+l7"} edits the first and last seven of the prompt (all: every '
        'position), "act_fn" is the activation (linear), "dropout" that of the edit (0).',
        needs=REFT,
    )
    num_virtual_tokens: int = option(
        20, "prompt, prefix: trained positions before each sample.", check=at_least(1), needs=(*PROMPT, "prefix")
    )
    prompt_init_text: str | None = option(
        None, "prompt: text whose embeddings the prompt starts from; unset means random ones.", needs=PROMPT
    )
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
