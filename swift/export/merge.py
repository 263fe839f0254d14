"""`swift merge-lora`: adapters into their base model, proven before anybody relies on it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.compat import quiet_libraries
from swift.config.commands import MergeConfig
from swift.config.decisions import Decisions
from swift.config.model import ModelConfig
from swift.config.task import TaskConfig
from swift.config.template import TemplateConfig
from swift.errors import SwiftError
from swift.export.logits import distance, greedy_answer, logits_of
from swift.export.quantised import compare
from swift.models.heads import Head
from swift.models.length import settle_length
from swift.models.quantization import settle_quantization
from swift.models.record import write_json
from swift.models.source import ModelSource, find_source
from swift.plugins import load_plugins
from swift.tasks.base import Task
from swift.tasks.choose import open_task
from swift.tasks.texts import TextTask
from swift.templates.choose import choose_template
from swift.tuners.adapters import check_merges

if TYPE_CHECKING:
    import torch

RECORD_FILES = ("config.yaml", "task.json")
QUESTIONS = ("What is the capital of France?", "Write one sentence about the sea.")
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest distance of the merged model's logits from the adapter's, as a share of the logits' standard deviation.

Both sides compute in float32, so that only the rounding of the merged weights to their dtype is in it. Measured on the
135M demo model: 3e-6 in float32, 1e-3 in float16, 5e-3 in bfloat16.
"""


@dataclass
class Proof:
    """What the merged model must give.

    Attributes:
        ids: a prompt with the adapter's greedy answer behind it.
        without: logits float32[tokens, vocabulary] of the model without its last adapter.
        wanted: the same with it.
    """

    ids: list[int]
    without: torch.Tensor
    wanted: torch.Tensor

    @property
    def effect(self) -> float:
        """How far the adapter moves the logits, as a share of their standard deviation."""
        return distance(self.without, self.wanted)


def main(config: MergeConfig) -> int:
    """Run `swift merge-lora` and return its exit status.

    Raises:
        SwiftError: as `merge_lora`.
    """
    load_plugins(config.plugins.external_plugins)
    merge_lora(
        config.model.adapters,
        config.output.output_dir,
        config=config.model,
        exist_ok=config.output.exist_ok,
        max_shard_size=config.output.max_shard_size,
        safe_serialization=config.output.safe_serialization,
        task=config.task,
        template=config.template,
    )
    return 0


def merge_lora(
    adapters: str | Sequence[str],
    output_dir: str | Path | None = None,
    *,
    config: ModelConfig | None = None,
    exist_ok: bool = False,
    max_shard_size: str = "5GB",
    safe_serialization: bool = True,
    task: TaskConfig | None = None,
    template: TemplateConfig | None = None,
) -> Path:
    """Merge adapters into their base model, one after the other, and write a whole model.

    The sums are made in float32 and rounded once, to the dtype of the base. Before the folder gets its name, the
    model in it is loaded again and its logits are compared with those of the adapters on the base. An adapter that was
    trained on a quantised base is merged into the base as its files hold it; how far the merged model lies from the
    adapter on the quantised base is printed.

    Args:
        adapters: folders of PEFT adapters; the base model is found from them.
        output_dir: folder of the merged model; None means the last adapter's name with `-merged` behind it.
        config: options of the model, such as another base model.
        exist_ok: replace a folder that is there.
        max_shard_size: largest file of weights.
        safe_serialization: write safetensors.
        task: what the model gives, where the adapter does not say.
        template: options of the merged model's template, over those that the adapter was trained with.

    Returns:
        The folder.

    Raises:
        SwiftError: adapters, base and template do not fit, the folder is there already or cannot be written, or the
            merged model answers otherwise than the adapters do; then nothing is left behind.
    """
    names = [adapters] if isinstance(adapters, str) else list(adapters)
    if not names:
        raise SwiftError(
            "--adapters is missing",
            fix="name what to merge: --adapters output/demo/v0-…/checkpoint-20, or an id of a hub",
        )
    config = replace(config or ModelConfig(), adapters=names)
    decisions = Decisions()
    source = find_source(config, decisions)
    settle_quantization(config, source.record, decisions)
    settle_length(config, source, decisions)
    goal = open_task(MergeConfig(model=config, task=task or TaskConfig()), source, decisions)
    for adapter in source.adapters:
        check_merges(adapter)
    output = Path(output_dir) if output_dir else source.adapters[-1].with_name(f"{source.adapters[-1].name}-merged")
    check_output(output, source, exist_ok)
    from swift.atomic import atomic_folder
    from swift.models.save import save_pretrained

    quiet_libraries()
    tokenizer = source.load_tokenizer(config.trust_remote_code)
    if isinstance(goal, TextTask):
        goal.open(source, decisions)
    head = goal.head(tokenizer)
    record = template_record(template or TemplateConfig(), source, tokenizer, goal, decisions)
    proofs, model = merged_in_float32(source, config, [tokenizer.encode(text) for text in QUESTIONS], head)
    dtype = model.dtype
    with atomic_folder(output) as folder:
        save_pretrained(
            model,
            folder,
            base_dir=source.path,
            max_shard_size=max_shard_size,
            safe_serialization=safe_serialization,
        )
        copy_records(source, folder)
        if record is not None:
            write_template(record, tokenizer, folder)
        goal.keep(model, folder)
        del model
        off, logits = prove(folder, proofs, dtype, config, head)
    report(output, source, proofs, off, dtype)
    if config.quant_method:
        print(compare(source, config, _how(config), [proof.ids for proof in proofs], logits), file=sys.stderr)
    return output


def merged_in_float32(
    source: ModelSource, config: ModelConfig, prompts: list[list[int]], head: Head | None = None
) -> tuple[Any, Any]:
    """What `merge_in_order` gives; the model's weights are rounded to the dtypes of the base."""
    model = load_base(source, config, head)
    dtypes = {name: weight.dtype for name, weight in model.named_parameters()}
    proofs, model = merge_in_order(model.float(), source.adapters, prompts, answers=head is None)
    for name, weight in model.named_parameters():
        weight.data = weight.data.to(dtypes.get(name, model.dtype))
    return proofs, model


def load_base(source: ModelSource, config: ModelConfig, head: Head | None = None) -> Any:
    """The base model in the dtype of its files, on the CPU unless the user says otherwise: memory is widest there.

    Raises:
        SwiftError: its weights are quantized: rounding the sums again would lose the tune.
    """
    from swift.models import load_model
    from swift.models.weights import stored_dtype

    quantized = bool(source.config.get("quantization_config"))
    if not quantized:
        dtype = config.torch_dtype or stored_dtype(source.path) or "auto"
        model = load_model(source.path, dtype=dtype, head=head, **_how(config)).model
        quantized = bool(getattr(model, "is_quantized", False))
    if quantized:
        raise SwiftError(
            f"--model {source.base} is quantized: an adapter cannot be merged into it without loss",
            where=str(source.path),
            fix="give the model that it was made from, in its own dtype, as --model",
        )
    return model


def check_output(output: Path, source: ModelSource, exist_ok: bool) -> None:
    """Refuse a folder that is there, and those that are read from.

    Raises:
        SwiftError: the folder must not be written.
    """
    if output.resolve() in (source.path.resolve(), *source.adapters):
        raise SwiftError(f"--output_dir {output} is what is merged", fix="name another folder")
    if output.exists() and not exist_ok:
        raise SwiftError(f"--output_dir {output} is there already", fix="name another folder, or give --exist_ok true")
    if output.exists() and not output.is_dir():
        raise SwiftError(f"--output_dir {output} is a file", fix="name a folder")


def merge_in_order(
    model: Any, adapters: Sequence[Path], prompts: Sequence[list[int]], answers: bool = True
) -> tuple[list[Proof], Any]:
    """Merge each adapter into the float32 model; what the merged one must give, and the merged model.

    `answers` puts a greedy answer behind each prompt.
    """
    from swift.tuners.adapters import add_adapters

    proofs: list[Proof] = []
    for adapter in adapters:
        model = add_adapters(model, [adapter])
        if adapter == adapters[-1]:
            asked = [greedy_answer(model, prompt) if answers else list(prompt) for prompt in prompts]
            with model.disable_adapter():
                before = [logits_of(model, ids) for ids in asked]
            proofs = [Proof(ids, logits, logits_of(model, ids)) for ids, logits in zip(asked, before, strict=True)]
        model = model.merge_and_unload(safe_merge=True)
    return proofs, model


def copy_records(source: ModelSource, folder: Path) -> None:
    """What a later `swift infer` reads: the run's options, the task, and a tokenizer that training changed."""
    from swift.models.save import save_tokenizer

    if source.tokenizer_folder != source.path:
        save_tokenizer(source.tokenizer_folder, folder)
    for name in RECORD_FILES:
        for place in (source.path, *source.adapters):
            if (place / name).is_file():
                shutil.copyfile(place / name, folder / name)


def template_record(
    options: TemplateConfig, source: ModelSource, tokenizer: Any, goal: Task, decisions: Decisions
) -> dict[str, Any] | None:
    """What the adapters and the base say of their template, with options over it; None where nothing is said."""
    if options == TemplateConfig():
        return source.recorded_template
    return choose_template(tokenizer, options, decisions, source.recorded_template, goal.chat).to_dict()


def write_template(record: dict[str, Any], tokenizer: Any, folder: Path) -> None:
    """Write the template for a later `swift infer`; where the tokenizer has another, also for all other programs."""
    write_json(folder / "template.json", record)
    text = record.get("chat_template")
    if record.get("use_chat_template") and isinstance(text, str) and text != tokenizer.chat_template:
        (folder / "chat_template.jinja").write_text(text, encoding="utf-8")


def prove(
    folder: Path, proofs: Sequence[Proof], dtype: torch.dtype, config: ModelConfig, head: Head | None = None
) -> tuple[float, list[torch.Tensor]]:
    """Load the merged model from its folder and compare it with what the adapters gave.

    Returns:
        The largest distance, and the merged model's logits of each proof.

    Raises:
        SwiftError: its logits differ by more than the rounding of its dtype.
    """
    from swift.models import load_model

    model = load_model(folder, dtype="float32", head=head, **_how(config)).model
    logits = [logits_of(model, proof.ids) for proof in proofs]
    off = max(distance(ours, proof.wanted) for ours, proof in zip(logits, proofs, strict=True))
    allowed = TOLERANCE.get(str(dtype).removeprefix("torch."), TOLERANCE["bfloat16"])
    # Written so that a NaN fails too.
    if not off <= allowed:
        raise SwiftError(
            f"the merged model does not answer as the adapter does: its logits are off by {off:.2g} of their standard "
            f"deviation, and rounding to {dtype} explains {allowed:g}; nothing was written",
            where="--adapters",
            fix="keep the adapter beside its base, or merge with --torch_dtype float32",
        )
    return off, logits


def report(output: Path, source: ModelSource, proofs: Sequence[Proof], off: float, dtype: torch.dtype) -> None:
    """Say what was merged and how far off it is, and warn where rounding swallowed the tune."""
    effect = max(proof.effect for proof in proofs)
    print(f"merged {', '.join(map(str, source.adapters))} into {source.base} ({dtype}): {output}", file=sys.stderr)
    print(f"logits: the adapter moves them by {effect:.2g} of their deviation, merging by {off:.2g}", file=sys.stderr)
    if off > effect / 2:
        print(
            f"warning: rounding to {dtype} blurs what was trained, by over half of it; --torch_dtype float32 keeps it",
            file=sys.stderr,
        )


def _how(config: ModelConfig) -> dict[str, Any]:
    return {
        "attn_impl": config.attn_impl,
        "device_map": config.device_map or "cpu",
        "trust_remote_code": config.trust_remote_code,
        "model_kwargs": config.model_kwargs,
        "rope_scaling": config.rope_scaling,
        "max_model_len": config.max_model_len,
    }
