"""The steps between checked options and a trainer that is ready to run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config import Decisions, SftConfig
from swift.config.build import write_config
from swift.data import check_layers, probe_packing, write_dropped
from swift.errors import SwiftError
from swift.train import distributed
from swift.train.assemble import Prepared
from swift.train.chosen import autocast_dtype, chosen_arguments, learning_rate, workers
from swift.train.folders import new_run_folder, resume_point
from swift.train.optimizers import check_device, optimizer_maker, optimizer_step
from swift.train.tuning import (
    WHOLE_WEIGHTS,
    check_quantised,
    check_saved_modules,
    first_batches,
    replaced_bytes,
    resume_adapter,
    resume_grown,
    schedule_of,
    settle_dropout,
    settle_kind,
    settle_schedule,
    settle_tokens,
    tune,
)

if TYPE_CHECKING:
    import torch

    from swift.engines.questions import Question
    from swift.models.load import LoadedModel
    from swift.models.skeleton import Skeleton
    from swift.models.source import ModelSource
    from swift.plan.measure import MemoryMeter
    from swift.plan.memory import MemoryPlan
    from swift.plan.optimizer_step import OptimizerStep
    from swift.tasks.base import Task
    from swift.templates import Template
    from swift.train.predict import Measure
    from swift.train.trainer import SwiftTrainer

NOT_REPEATED = ("resume_from_checkpoint", "resume_only_model", "overwrite_output_dir")
"""Options that config.yaml leaves out: a run that repeats this one is a new one."""

FEW_SIZES = 8
"""Sizes of micro-batches that cuDNN's attention may make a plan for each of."""

SETTLED = (
    "learning_rate",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "max_length",
    "packing_length",
)
"""Options whose chosen value goes into config.yaml."""


@dataclass
class TrainPlan:
    """What is known before any weight is loaded.

    Attributes:
        decisions: what was chosen, and why.
        steps: optimizer steps in all.
        memory: planned peak by part.
        available: bytes that the device has free.
        arguments: what the run decided itself, by the names of TrainingArguments.
        trainable: number of trained parameters.
        parameters: number of all parameters.
    """

    decisions: Decisions
    steps: int
    memory: MemoryPlan
    available: int
    arguments: dict[str, Any]
    trainable: int
    parameters: int


def open_for_training(config: SftConfig, decisions: Decisions, *, weights: bool = True) -> ModelSource:
    """Find model and tokenizer; a checkpoint to start anew from takes the place of the model or adapter.

    Args:
        config: the run's options.
        decisions: takes where the model was found.
        weights: False downloads config and tokenizer only, for a run that stops at its rows.
    """
    from swift.models.length import settle_length
    from swift.models.load import check_loading
    from swift.models.quantization import settle_quantization, stored_method
    from swift.models.record import read_record
    from swift.models.source import find_source

    model = config.model
    if config.train.more.get("use_cpu") and model.device_map is None:
        model.device_map = "cpu"
    wanted = config.train.resume_from_checkpoint if config.train.resume_only_model else None
    checkpoint = resume_point(wanted, output_dir(config))
    if checkpoint is not None:
        if read_record(checkpoint).is_adapter:
            model.adapters = [str(checkpoint)]
        else:
            model.model = str(checkpoint)
    if len(model.adapters) > 1:
        raise SwiftError("--adapters: training goes on from one adapter", fix="merge the others first")
    check_loading(model)
    source = find_source(model, decisions, weights=weights)
    settle_quantization(model, source.record, decisions)
    settle_length(model, source, decisions)
    settle_kind(config, source, decisions)
    check_quantised(config, stored_method(source.config))
    return source


def output_dir(config: SftConfig) -> Path:
    """`--output_dir`, or output/NAME-OF-MODEL."""
    if config.output.output_dir:
        return Path(config.output.output_dir).expanduser()
    name = config.model.model or Path(config.model.adapters[0]).resolve().name
    return Path("output") / Path(name.rstrip("/")).name.replace(":", "-")


def template_of(config: SftConfig, source: ModelSource, task: Task, decisions: Decisions) -> Template:
    """The template to train with; going on from an adapter keeps the adapter's own."""
    from swift.templates.choose import open_template

    template = open_template(config, source, decisions, chat=task.chat)
    settle_tokens(config, source)
    return template


def plan_run(
    config: SftConfig, source: ModelSource, template: Template, task: Task, data: Prepared, decisions: Decisions
) -> TrainPlan:
    """Count steps and parameters and plan the memory, on a model without storage."""
    from swift.models.skeleton import model_skeleton
    from swift.models.weights import prediction_heads
    from swift.plan.fits import available_memory
    from swift.train.arguments import training_arguments
    from swift.tuners.layers import layer_turns

    train = config.train
    skeleton = model_skeleton(source.path, config.model, task.head(template.tokenizer))
    reason = skeleton.reasons["dtype"]
    if config.tuner.train_type in WHOLE_WEIGHTS and str(skeleton.dtype) == "torch.bfloat16":
        reason += "; a change below 1/256 of a weight is rounded away: --torch_dtype float32 keeps it"
    if skeleton.model.config.get_text_config() is not skeleton.model.config:
        why = "rows with pictures or sounds are refused in training, and what reads them is not trained"
        decisions.add("modalities", "text", "model", why)
    if heads := prediction_heads(source.path, skeleton.model.config.get_text_config()):
        why = "transformers does not load them: they stay as they are, and whole models are saved with them"
        decisions.add("multi-token prediction", f"{len(heads)} weights", "model", why)
    decisions.add("torch_dtype", str(skeleton.dtype).removeprefix("torch."), "model", reason)
    decisions.add("device", str(skeleton.device), "machine", skeleton.reasons["device"])
    if data.end_to_end:
        check_layers(skeleton.model)
    if skeleton.packed is not None:
        check_saved_modules(config, skeleton.model)
    check_device(config, skeleton.device.type, skeleton.amp is not None and str(skeleton.amp) == "torch.float16")
    check_offload(config, skeleton.device.type)
    steps = count_steps(config, data)
    settle_schedule(config, steps, decisions)
    settle_dropout(config, skeleton.model, decisions)
    model = tune(config, skeleton.model, source)
    by_segment = _attend(config, data, model)
    attention = skeleton.reasons["attention"] + ("; each sample of a pack by itself" if by_segment else "")
    if without_cudnn(config, data, skeleton.device, skeleton.attn):
        attention += "; without cuDNN's, which makes a plan for each size of micro-batch"
    decisions.add("attn_impl", skeleton.attn, "machine", attention)
    turns = layer_turns(model, config.optimizer, train.optimizer, train.seed)
    if turns:
        turns.set_step(model, 0)
    rate = learning_rate(config, decisions)

    loading = {"dataloader_num_workers": workers(config, decisions)} if data.live is not None else {}

    def chosen(checkpointing: bool) -> dict[str, Any]:
        return chosen_arguments(config, skeleton, data.plan.accumulation, rate, checkpointing) | loading

    def arguments(checkpointing: bool) -> Any:
        return training_arguments(config, output_dir(config), chosen(checkpointing), task.figures)

    step = optimizer_step(config, model, partial(arguments, False))
    planned = _memory_planner(config, task, skeleton, model, data, step)
    available = available_memory(skeleton.device.type)
    checkpointing, memory = _settle_checkpointing(config, planned, available, decisions)
    # Made here for their checks alone, before a folder is made or a weight is loaded.
    arguments(checkpointing)
    config.settle({decision.name: decision.value for decision in decisions if decision.name in SETTLED})
    return TrainPlan(
        decisions=decisions,
        steps=steps,
        memory=memory,
        available=available,
        arguments=chosen(checkpointing),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        parameters=sum(p.numel() for p in model.parameters()),
    )


def _settle_checkpointing(
    config: SftConfig, planned: Callable[[bool], MemoryPlan], available: int, decisions: Decisions
) -> tuple[bool, MemoryPlan]:
    """Whether activations are computed again, and the plan that goes with it."""
    from swift.plan.fits import choose_checkpointing

    if config.tuner.train_type == "prefix":
        decisions.add("gradient_checkpointing", False, "tuner", "a prefix does not go with it")
        return False, planned(False)
    asked = config.train.gradient_checkpointing
    if asked is not None:
        return asked, planned(asked)
    plain, saving = planned(False), planned(True)
    checkpointing, reason = choose_checkpointing(plain, saving, available)
    decisions.add("gradient_checkpointing", checkpointing, "machine", reason)
    return checkpointing, saving if checkpointing else plain


def _memory_planner(
    config: SftConfig, task: Task, skeleton: Skeleton, model: Any, data: Prepared, step: OptimizerStep | None
) -> Callable[[bool], MemoryPlan]:
    """Plans the peak of the run, with gradient checkpointing or without."""
    from swift.models.segments import takes_borders
    from swift.plan.memory import plan_memory

    largest = data.largest_micro_batch(rounding(skeleton.device))
    loss = task.planned(model, largest.logits)

    def planned(checkpointing: bool) -> MemoryPlan:
        return plan_memory(
            model,
            dtype=skeleton.dtype,
            micro_batch_tokens=largest.tokens,
            trained_positions=largest.logits,
            rows=largest.rows,
            shapes=data.shapes(rounding(skeleton.device), count_steps(config, data)),
            masked=(data.end_to_end and not takes_borders(model)) or largest.rows > 1,
            by_segment=data.end_to_end and takes_borders(model),
            accumulated=data.plan.accumulation > 1,
            loss=loss,
            optimizer=config.train.optimizer or config.train.optim,
            gradient_checkpointing=checkpointing,
            autocast=autocast_dtype(skeleton.dtype, skeleton.amp) is not None,
            world_size=distributed.world_size(),
            device=skeleton.device.type,
            step=step,
            packed=skeleton.packed,
            replaced=replaced_bytes(config, skeleton.packed, model) if skeleton.mapped else 0,
            averaged=config.train.ema_decay is not None,
            offload=config.train.activation_cpu_offload,
        )

    return planned


def check_offload(config: SftConfig, device: str) -> None:
    """Stop where activations are asked to go where they are.

    Raises:
        SwiftError: the model runs on a CPU.
    """
    if config.train.activation_cpu_offload and device == "cpu":
        raise SwiftError(
            "--activation_cpu_offload true: the model runs on a CPU, in whose memory activations are anyway",
            fix="leave it out; --gradient_checkpointing true keeps fewer of them",
        )


def count_steps(config: SftConfig, data: Prepared) -> int:
    """Optimizer steps of the run."""
    if config.train.max_steps > 0:
        return config.train.max_steps
    return math.ceil(config.train.num_train_epochs * data.plan.steps_per_epoch)


def find_checkpoint(config: SftConfig, source: ModelSource, data: Prepared, decisions: Decisions) -> Path | None:
    """The checkpoint that the run goes on from, if any; every process gets the same answer.

    Raises:
        SwiftError: the checkpoint was made with other data, options or another model.
    """
    return distributed.from_main(lambda: _find_checkpoint(config, source, data, decisions))


def _find_checkpoint(config: SftConfig, source: ModelSource, data: Prepared, decisions: Decisions) -> Path | None:
    from swift.train.resume import check_same_run

    if config.train.resume_only_model:
        return None
    base, wanted = output_dir(config), config.train.resume_from_checkpoint
    resume = resume_point(wanted, base)
    if resume is not None:
        check_same_run(config, resume, data, source, decisions)
        decisions.add("resume", str(resume), "flag", "goes on from its step, in the same run folder")
    elif wanted:
        decisions.add("resume", "none", "flag", f"there is no whole checkpoint under {base}: starts anew")
    return resume


def open_run_folder(config: SftConfig, data: Prepared, resume: Path | None, decisions: Decisions) -> Path:
    """Make the run's folder, or go on in the one of the checkpoint; every process gets the same answer.

    Raises:
        SwiftError: the folder cannot be written.
    """
    return distributed.from_main(lambda: _open_run_folder(config, data, resume, decisions))


def _open_run_folder(config: SftConfig, data: Prepared, resume: Path | None, decisions: Decisions) -> Path:
    base = output_dir(config)
    if resume is None or (config.given("output_dir") and base.resolve() not in resume.parents):
        if not config.output.add_version and any(base.glob("checkpoint-*")):
            why = "--overwrite_output_dir true: checkpoints of an earlier run are replaced where steps are the same"
            decisions.add("output_dir", str(base), "flag", why)
        run_folder = new_run_folder(base, config.output.add_version).resolve()
    else:
        run_folder = resume.parent.resolve()
    if data.dropped and data.live is None:
        write_dropped(data.dropped, run_folder / "dropped.jsonl")
    write_config(config, run_folder / "config.yaml", leave_out=NOT_REPEATED)
    return run_folder


def start_meter(plan: TrainPlan) -> MemoryMeter:
    """Measure memory from here on; the code that the trainer brings along is not in the plan, and comes before."""
    from swift.plan.measure import MemoryMeter

    import_module("swift.train.trainer")
    return MemoryMeter(plan.memory.device).start()


def load_and_tune(
    config: SftConfig, source: ModelSource, template: Template, task: Task, data: Prepared, resume: Path | None
) -> LoadedModel:
    """Load the weights and attach what is trained; a checkpoint of whole weights is loaded in their place.

    Raises:
        SwiftError: the weights cannot be loaded, or samples that share a sequence would see each other.
    """
    import transformers

    from swift.models.heads import train_head_in_float32
    from swift.models.load import load_as

    whole = config.tuner.train_type in WHOLE_WEIGHTS
    folder = resume if resume is not None and whole else source.path
    # The weights of a new head are random.
    transformers.set_seed(config.train.seed)
    if config.tuner.tuner_backend == "unsloth":
        from swift.tuners.unsloth import load_with_unsloth

        return load_with_unsloth(config, source, folder, resume)
    head = task.head(template.tokenizer)
    loaded = load_as(config.model, folder, for_training=True, head=head)
    if head is not None and not whole:
        train_head_in_float32(loaded.model)
    transformers.set_seed(config.train.seed)
    if resume is not None and config.tuner.train_type == "llamapro":
        loaded.model = resume_grown(config, loaded.model, source)
    elif resume is not None and (resume / "adapter_config.json").is_file():
        loaded.model = resume_adapter(config, loaded.model, source, resume)
    else:
        batches = first_batches(config, data, template.tokenizer, loaded.device)
        loaded.model = tune(config, loaded.model, source, batches)
    if without_cudnn(config, data, loaded.device, loaded.attn):
        import torch

        torch.backends.cuda.enable_cudnn_sdp(False)
    if data.end_to_end:
        probe_packing(loaded.model, borders=_attend(config, data, loaded.model), use_cache=False)
    return loaded


def without_cudnn(config: SftConfig, data: Prepared, device: torch.device, attention: str) -> bool:
    """Whether cuDNN's attention is kept out, which PyTorch prefers on Hopper.

    It makes a plan for each new size: steps of ever new lengths took 2.2 times as long with it on an H200, steps of one
    length about as long (docs/benchmarks.md).
    """
    if device.type != "cuda" or attention != "sdpa":
        return False
    return data.shapes(rounding(device), count_steps(config, data)) > FEW_SIZES


def _attend(config: SftConfig, data: Prepared, model: Any) -> bool:
    """Let the samples of a pack attend one by one, where the model can and the optimizer need not see a mask."""
    from swift.models.segments import attend_by_segment

    return data.end_to_end and config.train.optimizer != "muonclip" and attend_by_segment(model)


def make_trainer(
    config: SftConfig,
    source: ModelSource,
    template: Template,
    task: Task,
    loaded: LoadedModel,
    data: Prepared,
    plan: TrainPlan,
    run_folder: Path,
    questions: list[Question],
) -> SwiftTrainer:
    """Put model, batches, objective and checkpoints together."""
    from transformers.trainer_callback import EarlyStoppingCallback, PrinterCallback, ProgressCallback

    from swift.models.segments import takes_borders
    from swift.train import callbacks
    from swift.train.arguments import training_arguments
    from swift.train.average import WeightAverage
    from swift.train.hooks import LastStep, LogFile, Progress
    from swift.train.keep import model_keeper
    from swift.train.meter import ChannelMeter
    from swift.train.swanlab import start_swanlab
    from swift.train.told import Told
    from swift.train.trainer import SwiftTrainer
    from swift.tuners.adapters import carries_adapter
    from swift.tuners.layers import layer_turns

    train, multiple = config.train, rounding(loaded.device)
    args = training_arguments(config, run_folder, plan.arguments, task.figures)
    computation = task.computation(loaded.model, data.largest_micro_batch(multiple).logits)
    turns = layer_turns(loaded.model, config.optimizer, train.optimizer, train.seed)
    extra = [*([turns] if turns else []), *(callbacks.get(name)() for name in train.callbacks)]
    if train.early_stop_interval:
        extra.append(EarlyStoppingCallback(train.early_stop_interval))
    borders = takes_borders(loaded.model)
    collator = data.train_collator(template.tokenizer, multiple, borders)
    trainer = SwiftTrainer(
        loaded.model,
        args,
        plan=data.plan,
        collator=collator,
        eval_collator=data.collator(template.tokenizer, data.held, multiple, borders) if data.held else None,
        eval_units=data.held.count if data.held else 0,
        computation=computation,
        measures=_measures(config, template, questions, run_folder),
        offload=train.activation_cpu_offload,
        keep_model=model_keeper(config, source, template, task, data),
        make_optimizer=optimizer_maker(config),
        symlinks=config.output.create_checkpoint_symlink,
        save_total_limit=train.save_total_limit,
        weights_loaded=config.tuner.train_type in WHOLE_WEIGHTS or carries_adapter(loaded.model),
        schedule=schedule_of(config, loaded.model, source),
        average=WeightAverage(loaded.model, train.ema_decay) if train.ema_decay else None,
        told=Told(run_folder / "dropped.jsonl", data.live.first, collator, template.fixed) if data.live else None,
        channel_meter=ChannelMeter(data.channels.names, computation.loss) if data.channels else None,
        callbacks=[LogFile(run_folder / "logging.jsonl"), Progress(), *extra, LastStep()],
    )
    if "swanlab" in train.report_to and distributed.is_main():
        start_swanlab(config, run_folder)
    for unwanted in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(unwanted)
    return trainer


def _measures(config: SftConfig, template: Template, questions: list[Question], run_folder: Path) -> list[Measure]:
    """What evaluation measures besides the loss: answers to the rows, and data sets of EvalScope."""
    from swift.engines.requests import sampling_request
    from swift.train.benchmarks import Benchmarks
    from swift.train.predict import PREDICTIONS, Predictions

    measures: list[Measure] = []
    at_once = config.train.per_device_eval_batch_size
    if questions:
        request = sampling_request(config.predict, config.train.seed)
        measures.append(Predictions(questions, template, request, at_once, run_folder / PREDICTIONS))
    if config.evaluate.eval_use_evalscope:
        measures.append(Benchmarks(config, template, at_once, run_folder / "eval_output"))
    return measures


def rounding(device: torch.device) -> int:
    """What lengths of batches are rounded up to.

    On a CPU oneDNN compiles kernels for each new shape and keeps them: few lengths cost less time and memory than a
    little padding.
    """
    return 16 if device.type == "cpu" else 1
