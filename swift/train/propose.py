"""`swift plan`: settings of training that fit a machine, from the model's config alone."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from swift.config import Decisions, SftConfig, TemplateConfig
from swift.config.build import words_of
from swift.config.commands import PlanConfig
from swift.config.fields import options_in
from swift.config.plan import GPUS
from swift.errors import SwiftError

if TYPE_CHECKING:
    from swift.models.source import ModelSource
    from swift.plan.propose import Kind, Machine, Proposal

LONGEST = 4096
HANDED_ON = ("model_revision", "use_hf", "trust_remote_code", *options_in(TemplateConfig, "template"))
"""Options that the proposed commands take over as they were given."""

HEAD = ("", "train_type", "samples", "accumulation", "checkpointing", "devices", "planned for each", "speed")


def main(config: PlanConfig) -> int:
    """Run `swift plan`; its exit status is 1 where nothing fits.

    Raises:
        SwiftError: the model, its template or the machine cannot be read.
    """
    from swift.models.source import find_source

    source = find_source(config.model, Decisions(), weights=False)
    from swift.compat import quiet_libraries
    from swift.plan.propose import proposals
    from swift.templates.choose import choose_template

    quiet_libraries()
    config.model.model = config.model.model or source.base
    if config.template != TemplateConfig():
        choose_template(source.load_tokenizer(config.model.trust_remote_code), config.template, Decisions())
    machine = machine_of(config)
    length = config.machine.max_length or min(source.limit or LONGEST, LONGEST)
    kinds = [kind for name in config.machine.train_type for kind in traced_kinds(config, source, name, machine, length)]
    found = proposals(kinds, machine, config.machine.global_batch_size)
    lines = json_lines if config.report.format == "json" else text_lines
    for line in lines(config, machine, length, found):
        print(line)
    return 0 if any(each.fits for each in found) else 1


def machine_of(config: PlanConfig) -> Machine:
    """The machine that `--gpus` describes, or this one as it is now.

    Raises:
        SwiftError: this machine's devices are not of a kind that plans know.
    """
    from swift.plan.propose import Machine

    if config.machine.gpus is not None:
        found = GPUS.fullmatch(config.machine.gpus.strip())
        assert found is not None
        return Machine(int(found[1] or 1), round(float(found[2]) * 2**30), "cuda")
    import torch

    from swift.plan.fits import available_memory

    count = torch.cuda.device_count()
    if count:
        return Machine(count, min(available_memory(f"cuda:{number}") for number in range(count)), "cuda")
    return Machine(1, available_memory(), "cpu")


def traced_kinds(config: PlanConfig, source: ModelSource, name: str, machine: Machine, length: int) -> Iterator[Kind]:
    """One kind of training, traced for one sample; none where it cannot run.

    Raises:
        SwiftError: the model cannot be built from its config.
    """
    from swift.models.skeleton import model_skeleton
    from swift.plan.memory import trace_batch
    from swift.plan.propose import Kind
    from swift.tasks.causal_lm import CausalLm
    from swift.tasks.tokens import chosen_head
    from swift.train.chosen import autocast_dtype
    from swift.train.tuning import replaced_bytes, settle_dropout, tune

    run = SftConfig.of(**_options(config, source, name, machine))
    try:
        skeleton = model_skeleton(source.path, run.model)
    except SwiftError as error:
        if name != "qlora":
            raise
        print(f"qlora is left out: {error.what}", file=sys.stderr)
        return
    settle_dropout(run, skeleton.model, Decisions())
    model = tune(run, skeleton.model, source)
    head = chosen_head(run, model, length)
    loss = CausalLm(run).planned(model, length)
    mapped = skeleton.mapped and machine.device == "cpu"
    traced = {
        checkpointing: trace_batch(
            model,
            dtype=skeleton.dtype,
            micro_batch_tokens=length,
            trained_positions=length,
            gradient_checkpointing=checkpointing,
            autocast=autocast_dtype(skeleton.dtype, skeleton.amp) is not None,
            device=machine.device,
            loss=loss,
            packed=skeleton.packed,
            replaced=replaced_bytes(run, skeleton.packed, model) if mapped else 0,
        )
        for checkpointing in (False, True)
    }
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", 1)
    yield Kind(name, run.train.optim, traced, layers, head is not None)


def _options(config: PlanConfig, source: ModelSource, name: str, machine: Machine) -> dict[str, Any]:
    """The options of a run of this kind."""
    model = config.model
    options: dict[str, Any] = {"model": model.model, "trust_remote_code": model.trust_remote_code}
    options["train_type"] = "full" if name == "full" else "lora"
    if name != "full" and config.given("lora_rank"):
        options["lora_rank"] = config.machine.lora_rank
    if name == "qlora":
        options["quant_method"] = "bnb"
    if config.machine.gpus is not None:
        # GPUs of today have bfloat16, whatever this machine has.
        inner = source.config.get("text_config") or {}
        stored = next((part.get(key) for part in (source.config, inner) for key in ("dtype", "torch_dtype")), None)
        options["torch_dtype"] = "float32" if stored == "float32" else "bfloat16"
    return options


def command_of(config: PlanConfig, machine: Machine, length: int, each: Proposal) -> str:
    """The command line of a run with these settings."""
    words = ["swift", "sft", "--model", str(config.model.model), *words_of(config, HANDED_ON), "--dataset", "YOUR_ROWS"]
    words += ["--train_type", "full" if each.kind == "full" else "lora"]
    if each.kind != "full" and config.given("lora_rank"):
        words += ["--lora_rank", str(config.machine.lora_rank)]
    if each.kind == "qlora":
        words += ["--quant_method", "bnb"]
    if each.spread:
        words += ["--device_map", "auto"]
    words += ["--max_length", str(length), "--per_device_train_batch_size", str(each.micro_batch)]
    words += ["--gradient_accumulation_steps", str(each.accumulation)]
    words += ["--gradient_checkpointing", str(each.gradient_checkpointing).lower()]
    several = f"NPROC_PER_NODE={machine.count} " if machine.count > 1 and not each.spread else ""
    return several + shlex.join(words)


def json_lines(config: PlanConfig, machine: Machine, length: int, found: list[Proposal]) -> Iterator[str]:
    """An object for each proposal, the best of each kind first."""
    for each in found:
        values = {
            "train_type": each.kind,
            "fits": each.fits,
            "per_device_train_batch_size": each.micro_batch,
            "gradient_accumulation_steps": each.accumulation,
            "gradient_checkpointing": each.gradient_checkpointing,
            "devices": machine.count,
            "spread": each.spread,
            "max_length": length,
            "memory": each.memory.total,
            "available": machine.memory,
            "parts": each.memory.parts,
            "notes": list(each.memory.notes),
            "command": command_of(config, machine, length, each),
        }
        yield json.dumps(values, ensure_ascii=False)


def text_lines(config: PlanConfig, machine: Machine, length: int, found: list[Proposal]) -> Iterator[str]:
    """The table of proposals, and the command line of the best of each kind."""
    from swift.plan.fits import ROOM
    from swift.plan.show import human_bytes

    where = f"{machine.count} × {human_bytes(machine.memory)} of {machine.device}"
    yield f"{config.model.model} on {where}, samples of {length:,} tokens, {config.machine.global_batch_size} in a step"
    yield ""
    fastest = max(each.speed for each in found)
    rows = [HEAD]
    for number, each in enumerate(found, start=1):
        placed = "layers over all" if each.spread else "a copy on each" if machine.count > 1 else "one"
        size = human_bytes(each.memory.total) + ("" if each.fits else ", does not fit")
        cells = (str(number), each.kind, str(each.micro_batch), str(each.accumulation))
        checkpointing = "yes" if each.gradient_checkpointing else "no"
        rows.append((*cells, checkpointing, placed, size, f"{each.speed / fastest:.2f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield from ["", f"A plan fits where it leaves {1 - ROOM:.0%} of the memory; speed counts passes over the weights."]
    yield from sorted({note for each in found for note in each.memory.notes})
    told: set[str] = set()
    for each in found:
        if each.fits and each.kind not in told:
            told.add(each.kind)
            yield from ["", f"{each.kind}:", f"  {command_of(config, machine, length, each)}"]
