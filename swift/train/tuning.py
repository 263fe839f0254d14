"""What a run trains: its tuner checked, attached, gone on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config import Decisions, SftConfig, TunerConfig
from swift.config.effect import typed
from swift.errors import SwiftError
from swift.models.quantization import Packed, Quantization, quantised_layers
from swift.tuners import LORA_KINDS, tuners
from swift.tuners.attached import ATTACHED

if TYPE_CHECKING:
    from swift.models.source import ModelSource
    from swift.train.assemble import Prepared
    from swift.tuners.adalora import RankSchedule

WHOLE_WEIGHTS = ("full", "freeze", "llamapro")
"""Tuners that train the model's own weights: their checkpoints are whole models."""

ADAPTERS_OWN = (
    *("target_modules", "target_regex", "target_parameters", "modules_to_save", "lora_bias", "trainable_token_indices"),
    *("use_rslora", "use_dora", "init_weights", "vera_rank", "boft_block_size", "oft_block_size"),
    *("fourier_n_frequency", "num_virtual_tokens", "adapter_length", "adapter_act"),
    *("reft_rank", "reft_layers", "reft_layer_key", "reft_intervention_type", "reft_args"),
)
"""Options of the shape of an adapter, which one that training goes on from has already."""

ON_PACKED = (True, False, "gaussian", "eva")
"""Starts of LoRA that need no weights in full."""

NEW_TOKENS = (*LORA_KINDS, "full", "freeze")
"""Tuners that train the embeddings of new tokens."""


def check_tuner(config: SftConfig) -> None:
    """Stop at options of the tuner that do not go together, before a row or a model is read.

    Raises:
        SwiftError: it names the options and the way out.
    """
    from swift.tuners.families import start_of, table
    from swift.tuners.starts import check_start, takes_weights

    tuner, train = config.tuner, config.train
    kind = tuner.train_type
    row = table().get(kind, {})
    if kind in LORA_KINDS:
        check_start(tuner)
    elif "init_weights" in row.get("options", {}):
        start_of(tuner)
    shared = config.data.packing or config.data.padding_free
    if (row.get("virtual") or kind == "longlora") and shared:
        option = "packing" if config.data.packing else "padding_free"
        what = "groups of positions" if kind == "longlora" else "its virtual tokens"
        raise SwiftError(
            f"--{option} true with --train_type {kind}: samples that share a sequence would share {what}",
            fix=f"leave --{option} out",
        )
    if kind == "longlora" and config.given("attn_impl"):
        raise SwiftError(
            f"--attn_impl {config.model.attn_impl} with --train_type longlora, which attends in its own way",
            fix="leave one of them out",
        )
    if kind in ATTACHED:
        _check_attached(tuner, shared)
    if kind == "prefix" and train.gradient_checkpointing:
        raise SwiftError(
            "--gradient_checkpointing true with --train_type prefix: layers that are computed again get no prefix",
            fix="leave it out",
        )
    if config.template.new_special_tokens and kind not in NEW_TOKENS:
        raise SwiftError(
            f"--new_special_tokens with --train_type {kind}: their embeddings would stay untrained",
            fix=f"choose one of: {', '.join(NEW_TOKENS)}",
        )
    if train.more.get("load_best_model_at_end") and (kind == "adalora" or takes_weights(tuner)):
        what = "adalora" if kind == "adalora" else f"lora --init_weights {tuner.init_weights}"
        raise SwiftError(
            f"--load_best_model_at_end true with {what}: its checkpoints have another shape than the model in training",
            fix="leave it out; --create_checkpoint_symlink true points at the best checkpoint",
        )
    if config.model.init_strategy and kind not in WHOLE_WEIGHTS:
        raise SwiftError(
            f"--init_strategy with --train_type {kind}: only the adapter is saved, not what starts anew",
            fix="start it with --train_type full, and put an adapter on its checkpoint",
        )
    _check_loraplus(config)
    check_quantised(config)
    if tuner.tuner_backend == "unsloth":
        from swift.tuners.unsloth import check_unsloth

        check_unsloth(config)


def _check_attached(tuner: TunerConfig, shared: bool) -> None:
    """Stop at options of Houlsby's adapters or ReFT that do not fit; `shared` says that samples share sequences."""
    if tuner.train_type == "adapter":
        from swift.tuners.houlsby import check_act

        check_act(tuner)
        return
    from swift.tuners.reft import read_arguments

    if read_arguments(tuner)["positions"] != "all" and shared:
        raise SwiftError(
            f"--reft_args {tuner.reft_args} with samples that share a sequence: their prompts cannot be told apart",
            fix='edit all positions ("positions": "all"), or leave --packing and --padding_free out',
        )


def check_quantised(config: SftConfig, stored: str | None = None) -> None:
    """Stop at what cannot be trained on quantised weights.

    Args:
        config: the run's options.
        stored: the method that the model came quantised by, once it is known.

    Raises:
        SwiftError: it names the tuner, its start, and how the weights are quantised.
    """
    from swift.tuners.families import table
    from swift.tuners.starts import lora_start

    asked, tuner = Quantization.of(config.model), config.tuner
    how = f"--quant_method {asked.method}" if asked else f"a model whose weights are quantised by {stored}"
    if asked is None and stored is None:
        return
    if tuner.train_type in WHOLE_WEIGHTS:
        raise SwiftError(
            f"--train_type {tuner.train_type} with {how}: quantised weights cannot be trained",
            fix="train an adapter on them (--train_type lora), or take weights that are not quantised",
        )
    unfit = table().get(tuner.train_type, {}).get("not_on", [])
    dora = tuner.train_type in LORA_KINDS and tuner.use_dora and asked and (asked.method, asked.bits) == ("bnb", "8")
    if asked and (dora or asked.method in unfit or f"{asked.method} {asked.bits}" in unfit):
        what = "--use_dora true" if dora else f"--train_type {tuner.train_type}"
        raise SwiftError(
            f"{what} with {how} --quant_bits {asked.bits}: PEFT cannot put it on these layers",
            fix="choose another --train_type, such as lora, or another way to quantise",
        )
    if tuner.train_type in ATTACHED:
        raise SwiftError(
            f"--train_type {tuner.train_type} with {how}: transformers trains adapters of PEFT alone on such weights",
            fix="choose another --train_type, such as lora",
        )
    if tuner.train_type in LORA_KINDS and lora_start(tuner) not in ON_PACKED:
        raise SwiftError(
            f"--init_weights {tuner.init_weights} with {how}: it is computed from weights that are not quantised",
            fix="leave it out; eva and gaussian go with quantised weights",
        )


def replaced_bytes(config: SftConfig, packed: Packed | None, model: Any) -> int:
    """Bytes of the weights that are read and then replaced: by quantised ones, or by what a start leaves of them.

    Args:
        config: the run's options.
        packed: what quantising changes, if it is asked for.
        model: the model with its tuner, meta device is enough.
    """
    from swift.tuners.starts import takes_weights

    if packed is not None:
        return packed.whole
    if not takes_weights(config.tuner):
        return 0
    return sum(weight.nbytes for name, weight in model.named_parameters() if name.endswith(".base_layer.weight"))


def check_saved_modules(config: SftConfig, model: Any) -> None:
    """Stop where `--modules_to_save` would train quantised weights.

    Args:
        config: the run's options.
        model: the model without quantised weights, meta device is enough.

    Raises:
        SwiftError: it names the module.
    """
    for wanted in config.tuner.modules_to_save:
        hit = next((name for name, _ in quantised_layers(model) if f".{wanted}." in f".{name}."), None)
        if hit is not None:
            raise SwiftError(
                f"--modules_to_save {wanted}: the weights of {hit} are quantised and cannot be trained",
                fix="name modules that are not, such as lm_head or embed_tokens",
            )


def _check_loraplus(config: SftConfig) -> None:
    """`--optimizer lorap` and `--lorap_lr_ratio` are one thing, and it is LoRA's."""
    kind, ratio, name = config.tuner.train_type, config.tuner.lorap_lr_ratio, config.train.optimizer
    if name == "lorap" and not (kind in LORA_KINDS and ratio):
        raise SwiftError(
            f"--optimizer lorap with --train_type {kind} and --lorap_lr_ratio {ratio}",
            fix="it needs LoRA and a ratio: --train_type lora --lorap_lr_ratio 16",
        )
    if ratio and kind in LORA_KINDS and name not in (None, "lorap"):
        raise SwiftError(f"--lorap_lr_ratio with --optimizer {name}", fix="keep one of them")


def settle_kind(config: SftConfig, source: ModelSource, decisions: Decisions) -> None:
    """Take the tuner from the adapter that training goes on from; note options that its shape decides.

    Raises:
        SwiftError: the adapter is of another kind than `--train_type` says.
    """
    from swift.tuners.adapters import tuner_of

    if not source.adapters:
        return
    for name in ADAPTERS_OWN:
        if typed(config, name):
            decisions.add(name, getattr(config.tuner, name), "flag", "has no effect: --adapters keep their modules")
    kind, asked = tuner_of(source.adapters[0]), config.tuner.train_type
    if (
        kind is None
        or kind == asked
        or (kind == "lora" and asked in LORA_KINDS)
        or asked in WHOLE_WEIGHTS
        or not tuners.is_builtin(asked)
    ):
        return
    if config.given("train_type"):
        raise SwiftError(
            f"--train_type {asked}: the adapter is {kind}",
            where=str(source.adapters[0]),
            fix="leave --train_type out, or start a new adapter without --adapters",
        )
    config.tuner.train_type = decisions.add("train_type", kind, "adapter", "the kind of the adapter to go on from")
    check_tuner(config)


def settle_dropout(config: SftConfig, model: Any, decisions: Decisions) -> None:
    """Train without dropout where nobody set it and LoRA lies on weights of experts, before which PEFT has none."""
    from swift.tuners.lora import adapts_parameters

    tuner = config.tuner
    if tuner.train_type not in LORA_KINDS or config.model.adapters or config.given("lora_dropout"):
        return
    if tuner.lora_dropout and adapts_parameters(model, tuner):
        why = "PEFT has no dropout before the weights of fused experts"
        tuner.lora_dropout = decisions.add("lora_dropout", 0.0, "model", why)


def settle_schedule(config: SftConfig, steps: int, decisions: Decisions) -> None:
    """Give AdaLoRA's schedule the steps of the run where nobody gave it a length."""
    if config.tuner.train_type == "adalora" and config.tuner.adalora_total_step is None:
        reason = "the steps of the run, over which ranks are cut"
        config.tuner.adalora_total_step = decisions.add("adalora_total_step", steps, "default", reason)


def settle_tokens(config: SftConfig, source: ModelSource) -> None:
    """Train the rows of `--new_special_tokens` beside LoRA."""
    if source.new_tokens and config.tuner.train_type in LORA_KINDS and not source.adapters:
        own = config.tuner.trainable_token_indices
        config.tuner.trainable_token_indices = list(dict.fromkeys([*own, *source.new_tokens]))


def tune(config: SftConfig, model: Any, source: ModelSource, batches: Sequence[dict[str, Any]] | None = None) -> Any:
    """Attach the tuner, or go on with an adapter that is there.

    Args:
        config: the run's options.
        model: the base model; one without storage gets the same shapes.
        source: where it came from, and the adapter to go on from.
        batches: batches of the training data, where the adapter's start reads them.
    """
    from swift.models.new_tokens import fit_rows, start_rows
    from swift.tuners.lora import lora_from

    kind = config.tuner.train_type
    if source.new_tokens:
        fit_rows(model, max(source.new_tokens) + 1)
    if not source.adapters:
        start_rows(model, source.new_tokens)
        if batches is not None:
            return _own_attention(config, lora_from(model, config.tuner, batches))
        return tuners.get(kind)(model, config.tuner)
    if kind in WHOLE_WEIGHTS:
        raise SwiftError(
            f"--adapters with --train_type {kind}: an adapter cannot be trained as whole weights",
            fix="merge it first (swift merge-lora), or leave --train_type out",
        )
    check_shape_options(config, source)
    return _load_trained(config, model, source.adapters[0])


def resume_adapter(config: SftConfig, model: Any, source: ModelSource, checkpoint: Path) -> Any:
    """The model with the adapter of a checkpoint on it, as the run left it."""
    from swift.models.new_tokens import fit_rows
    from swift.tuners.starts import load_with_start, takes_weights

    fresh = not source.adapters
    if fresh and takes_weights(config.tuner):
        if source.new_tokens:
            fit_rows(model, max(source.new_tokens) + 1)
        return _own_attention(config, load_with_start(model, config.tuner, checkpoint))
    if fresh and config.tuner.train_type == "adalora":
        # The adapter's file holds the ranks that are left; the schedule's own state brings back all of them.
        return tune(config, model, source)
    return _load_trained(config, model, checkpoint)


def resume_grown(config: SftConfig, model: Any, source: ModelSource) -> Any:
    """LLaMA Pro's model as a checkpoint holds it, with its new layers trained."""
    from swift.models import load_config
    from swift.tuners.llamapro import new_places, train_layers

    base = load_config(source.path, trust_remote_code=config.model.trust_remote_code)
    return train_layers(model, new_places(base.get_text_config().num_hidden_layers, config.tuner))


def _load_trained(config: SftConfig, model: Any, folder: Path) -> Any:
    from swift.tuners.adalora import only_matrices
    from swift.tuners.adapters import add_adapters
    from swift.tuners.families import cast_adapter

    tuned = only_matrices(cast_adapter(add_adapters(model, [folder], trainable=True), config.tuner))
    return _own_attention(config, tuned)


def _own_attention(config: SftConfig, model: Any) -> Any:
    """LongLoRA's adapter is LoRA's; the way of attending is the run's."""
    from swift.tuners.longlora import group_attention

    return group_attention(model) if config.tuner.train_type == "longlora" else model


def schedule_of(config: SftConfig, model: Any, source: ModelSource) -> RankSchedule | None:
    """AdaLoRA's schedule of ranks; those of an adapter that training goes on from stay as they are."""
    from swift.tuners.adalora import RankSchedule, is_adalora

    return RankSchedule(model, cuts=not source.adapters) if is_adalora(model) else None


def check_shape_options(config: SftConfig, source: ModelSource) -> None:
    """Stop where an option says otherwise than the adapter that training goes on from.

    Raises:
        SwiftError: it names the option and the adapter's value.
    """
    settings = json.loads((source.adapters[0] / "adapter_config.json").read_text(encoding="utf-8"))
    for option, name in (("lora_rank", "r"), ("lora_alpha", "lora_alpha"), ("lora_dropout", "lora_dropout")):
        value = getattr(config.tuner, option)
        if config.given(option) and name in settings and settings[name] != value:
            raise SwiftError(
                f"--{option} {value}: the adapter has {settings[name]}",
                where=str(source.adapters[0]),
                fix="leave the option out; an adapter keeps its shape",
            )


def first_batches(config: SftConfig, data: Prepared, tokenizer: Any, device: Any) -> list[dict[str, Any]] | None:
    """The first batches of the training data, where the adapter's start is computed from them.

    Raises:
        SwiftError: there are none.
    """
    from swift.tuners.starts import lora_start, reads_data

    tuner = config.tuner
    if not reads_data(tuner):
        return None
    gradients = lora_start(tuner) == "lora_ga"
    size = tuner.lora_ga_batch_size if gradients else config.train.per_device_train_batch_size
    wanted = size * tuner.lora_ga_iters if gradients else tuner.init_samples
    units = data.first_units()[:wanted]
    collate = data.collator(tokenizer, data.train, 1)
    batches = [collate(units[start : start + size]) for start in range(0, len(units), size)]
    if gradients:
        batches = [{name: value[:, : tuner.lora_ga_max_length] for name, value in batch.items()} for batch in batches]
    return [
        {name: value.to(device) for name, value in batch.items() if hasattr(value, "to") and name != "channels"}
        for batch in batches
    ]
