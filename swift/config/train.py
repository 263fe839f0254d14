"""How the run goes: optimisation, logging, evaluation, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from swift.config.fields import above, at_least, between, file_size, named, one_of, option
from swift.config.training_arguments import names_of


@dataclass
class TrainConfig:
    """Options of the training loop; those of transformers' TrainingArguments not named here lie in `more`."""

    num_train_epochs: float = option(3.0, "Passes over the data.", check=above(0))
    max_steps: int = option(
        -1,
        "Optimizer steps in all; -1 means --num_train_epochs decides.",
        check=lambda value: None if value == -1 or value >= 1 else "must be at least 1, or -1",
    )
    per_device_train_batch_size: int = option(1, "Samples (packs with --packing) in a micro-batch.", check=at_least(1))
    auto_find_batch_size: bool = option(
        False,
        "Take --per_device_train_batch_size as the largest to try: smaller micro-batches, and as many more in a step, "
        "where the largest of the run does not fit; a step keeps its samples and its loss.",
    )
    per_device_eval_batch_size: int = option(1, "The same in evaluation.", check=at_least(1))
    gradient_accumulation_steps: int | None = option(
        None, "Micro-batches in a step; unset means a step of 16 samples or more.", check=at_least(1)
    )
    learning_rate: float | None = option(
        None, "Unset means 1e-4 for adapters and 1e-5 for whole weights.", check=at_least(0)
    )
    lr_scheduler_type: str = option(
        "cosine", "Course of the learning rate.", check=one_of(names_of("lr_scheduler_type"))
    )
    warmup_ratio: float = option(0.0, "Share of the steps over which the learning rate rises.", check=between(0, 1))
    weight_decay: float = option(0.1, "Weight decay of AdamW.", check=at_least(0))
    adam_beta2: float = option(0.95, "AdamW's beta2.", check=between(0, 1))
    max_grad_norm: float = option(1.0, "Gradients are scaled down to this norm.", check=at_least(0))
    optim: str = option("adamw_torch_fused", "Optimizer, by its name in transformers.", check=one_of(names_of("optim")))
    optimizer: str | None = option(
        None,
        "An optimizer of our own in place of --optim: adalomo, adam_mini, apollo, badam, galore, lomo, muon, muonclip, "
        "or one from --external_plugins.",
    )
    loss_type: str | None = option(
        None,
        "Objective: cross_entropy or dft for text, infonce, cosine_similarity, contrastive or online_contrastive for "
        "embeddings, pointwise_reranker or listwise_reranker for rerankers, or one from --external_plugins; unset: the "
        "first of the task.",
    )
    enable_dft_loss: bool = option(False, "The same as --loss_type dft: each token's loss times its own probability.")
    router_aux_loss_coef: float = option(
        0.0,
        "Mixtures of experts: share of the loss that keeps experts equally busy (Fedus et al., 2021, eq. 4), which "
        "each micro-batch has of its own.",
        check=at_least(0),
    )
    enable_channel_loss: bool = option(False, "Log the loss of each value of the rows' channel column by itself.")
    chunked_cross_entropy: bool | None = option(
        None,
        "Compute the logits of some tokens at a time, so that those of a whole micro-batch never lie in memory; unset "
        "means yes, where the output embedding alone makes the model's logits, is not trained, and a micro-batch "
        "trains 1,024 tokens or more: then it costs no time. A trained one computes its logits twice.",
    )
    eval_metric: str | None = option(
        None,
        "Metric of evaluation besides the loss: acc (right tokens), nlg (that of --predict_with_generate), or one from "
        "a plugin; classifiers give theirs always.",
        aliases=("metric",),
    )
    acc_strategy: Literal["token", "seq"] = option(
        "token",
        "What --eval_metric acc counts: right tokens (token_acc), or samples whose trained tokens are all right "
        "(seq_acc).",
        needs=("eval_metric", "acc"),
    )
    callbacks: list[str] = option(help="Callbacks from --external_plugins, by name.", factory=list)
    gradient_checkpointing: bool | None = option(
        None,
        "Compute activations again in the backward pass to save memory.",
        aliases=("activation_checkpointing",),
        why="ms-swift always does; unset here means: only where the planned memory would not fit, since it costs a "
        "quarter of the speed",
    )
    activation_cpu_offload: bool = option(
        False,
        "Keep what the backward pass needs in the host's memory: all of it, or with --gradient_checkpointing true the "
        "inputs of layers. Frees the device's memory and costs copies.",
        aliases=("activation_offloading",),
    )
    ema_decay: float | None = option(
        None,
        "Evaluate and save the exponential moving average of the trained weights: after each step this share of it "
        "stays (less in the first steps) and the weights give the rest; 0.999 is usual. Unset: the weights themselves.",
        check=lambda value: None if 0 < value < 1 else "must be between 0 and 1",
    )
    logging_steps: float = option(5, "Steps between logged losses.", check=above(0))
    logging_first_step: bool = option(True, "Log the first step as well.")
    eval_strategy: str | None = option(None, "no, steps or epoch; unset means --save_strategy where rows are kept.")
    eval_steps: float | None = option(None, "Steps between evaluations; unset means --save_steps.", check=above(0))
    early_stop_interval: int | None = option(
        None,
        "Stop after so many evaluations in a row without a better --metric_for_best_model (unset: the loss).",
        check=at_least(1),
    )
    save_strategy: str = option("steps", "no, steps or epoch; the last step is always saved.")
    save_steps: float = option(500, "Steps between checkpoints.", check=above(0))
    save_total_limit: int | None = option(None, "Checkpoints kept; older ones are removed.", check=at_least(1))
    save_only_model: bool = option(False, "Leave optimizer and random state out of checkpoints: smaller, no resume.")
    resume_from_checkpoint: str | None = option(
        None,
        "Go on from this checkpoint; latest means the newest whole one under --output_dir. Where there is none, the "
        "run starts anew with a warning, so that one command both starts a run and goes on with it.",
        check=named,
    )
    resume_only_model: bool = option(
        False, "Take only the weights from --resume_from_checkpoint and start anew.", needs=("resume_from_checkpoint",)
    )
    seed: int = option(42, "Seed of everything random.", check=between(0, 2**32 - 1))
    data_seed: int | None = option(None, "Seed of the order of the data; unset means --seed.", check=at_least(0))
    report_to: list[str] = option(
        help="tensorboard, wandb, swanlab, trackio, none: where losses are reported.",
        factory=lambda: ["tensorboard"],
        check=one_of(names_of("report_to")),
    )
    max_shard_size: str = option("5GB", "Largest file of saved weights.", check=file_size)
    more: dict[str, Any] = field(default_factory=dict)
