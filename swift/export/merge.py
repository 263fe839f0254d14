"""`swift merge-lora`: adapters into their base model, proven before anybody relies on it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config.commands import MergeConfig
from swift.config.model import ModelConfig
from swift.config.template import TemplateConfig
from swift.engines.source import ModelSource, choose_template, find_source
from swift.errors import SwiftError
from swift.plugins import load_plugins

if TYPE_CHECKING:
    import torch

    from swift.templates import Template

RECORD_FILES = ("config.yaml", "template.json")
QUESTIONS = ("What is the capital of France?", "Write one sentence about the sea.")
ANSWER_TOKENS = 8
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest distance of the merged model's logits from the adapter's, as a share of the logits' standard deviation.

The adapter computes in float32 for the proof; the merged weights are rounded once, to their dtype. Rounding errors of
the 135M demo model are 0.02 in bfloat16; a wrong or missing adapter moves logits by far more.
"""


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
) -> Path:
    """Merge adapters into their base model, one after the other, and write a whole model.

    The sums are made in float32 and rounded once, to the dtype of the base. Before the folder gets its name, the
    model in it is loaded again and its logits are compared with those of the adapters on the base.

    Args:
        adapters: folders of PEFT adapters; the base model is found from them.
        output_dir: folder of the merged model; None means the last adapter's name with `-merged` behind it.
        config: options of the model, such as another base model.
        exist_ok: replace a folder that is there.
        max_shard_size: largest file of weights.
        safe_serialization: write safetensors.

    Returns:
        The folder.

    Raises:
        SwiftError: adapters and base do not fit, the folder is there already or cannot be written, or the merged
            model answers otherwise than the adapters do; then nothing is left behind.
    """
    from swift.hub.atomic import atomic_folder
    from swift.models import load_model
    from swift.models.save import save_pretrained

    names = [adapters] if isinstance(adapters, str) else list(adapters)
    if not names:
        raise SwiftError("--adapters names no adapter", fix="name the folder of a checkpoint")
    config = replace(config or ModelConfig(), adapters=names)
    source = find_source(config)
    output = Path(output_dir) if output_dir else source.adapters[-1].with_name(f"{source.adapters[-1].name}-merged")
    check_output(output, source, exist_ok)
    template = choose_template(source, TemplateConfig(), config)
    loaded = load_model(source.path, dtype="auto" if config.torch_dtype is None else config.torch_dtype, **_how(config))
    dtype = loaded.dtype
    refuse_quantized(loaded.model)
    model = loaded.model.float()
    prompts = [template.prompt([{"role": "user", "content": text}]) for text in QUESTIONS]
    wanted, model = merge_in_order(model, source.adapters, prompts)
    model.to(dtype)
    with atomic_folder(output) as folder:
        save_pretrained(
            model,
            folder,
            base_dir=source.path,
            max_shard_size=max_shard_size,
            safe_serialization=safe_serialization,
        )
        copy_records(source, template, folder)
        del model, loaded
        prove(folder, wanted, dtype, config)
    print(f"merged {', '.join(names)} into {source.base}: {output}", file=sys.stderr)
    return output


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


def refuse_quantized(model: Any) -> None:
    """Stop where the base's weights are quantized: rounding the sum again would lose the tune.

    Raises:
        SwiftError: they are.
    """
    if getattr(model, "is_quantized", False) or getattr(model.config, "quantization_config", None):
        raise SwiftError(
            "the base model is quantized: an adapter cannot be merged into it without loss",
            where="--model",
            fix="give the base model in its own dtype as --model",
        )


def merge_in_order(
    model: Any, adapters: Sequence[Path], prompts: list[list[int]]
) -> tuple[list[tuple[list[int], torch.Tensor]], Any]:
    """Merge each adapter into the float32 model.

    Returns:
        For each prompt its ids with a greedy answer behind them and their logits float32[tokens, vocabulary], from
        the last adapter before it was merged; and the merged model.
    """
    from swift.engines.adapters import add_adapters

    wanted: list[tuple[list[int], torch.Tensor]] = []
    for adapter in adapters:
        model = add_adapters(model, [adapter])
        if adapter is adapters[-1]:
            wanted = [answer_logits(model.get_base_model(), prompt) for prompt in prompts]
        model = model.merge_and_unload(safe_merge=True)
    return wanted, model


def answer_logits(model: Any, prompt: list[int]) -> tuple[list[int], torch.Tensor]:
    """The prompt with a short greedy answer, and the logits of all of it."""
    import torch

    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(ANSWER_TOKENS):
            logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0]
            ids.append(int(logits[-1].argmax()))
    return ids[:-1], logits.float().cpu()


def copy_records(source: ModelSource, template: Template, folder: Path) -> None:
    """What a later `swift infer` reads: the run's options, the template, and a tokenizer that training changed."""
    import json

    from swift.models.save import save_tokenizer

    if source.tokenizer_folder != source.path:
        save_tokenizer(source.tokenizer_folder, folder)
    for name in RECORD_FILES:
        for place in (source.path, *source.adapters):
            if (place / name).is_file():
                shutil.copyfile(place / name, folder / name)
    if not (folder / "template.json").is_file() and template.chat_template is not None:
        text = json.dumps(template.to_dict(), indent=2, ensure_ascii=False)
        (folder / "template.json").write_text(text + "\n", encoding="utf-8")


def prove(folder: Path, wanted: list[tuple[list[int], torch.Tensor]], dtype: torch.dtype, config: ModelConfig) -> None:
    """Load the merged model from its folder and compare it with what the adapters gave.

    Raises:
        SwiftError: its logits differ by more than the rounding of its dtype.
    """
    import torch

    from swift.models import load_model

    # In float32, so that only the rounding of the merged weights is measured and not that of the arithmetic.
    model = load_model(folder, dtype="float32", **_how(config)).model
    allowed = TOLERANCE.get(str(dtype).removeprefix("torch."), TOLERANCE["bfloat16"])
    for ids, logits in wanted:
        with torch.inference_mode():
            got = model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float().cpu()
        distance = float((got - logits).pow(2).mean().sqrt() / logits.std())
        if not distance <= allowed:
            raise SwiftError(
                f"the merged model does not answer as the adapter does: its logits are off by {distance:.2g} of their "
                f"standard deviation, {allowed:g} is what {dtype} may round; nothing was written",
                where="--adapters",
                fix="keep the adapter beside its base, or merge with --torch_dtype float32",
            )


def _how(config: ModelConfig) -> dict[str, Any]:
    return {
        "attn_impl": config.attn_impl,
        "device_map": config.device_map,
        "trust_remote_code": config.trust_remote_code,
        "model_kwargs": config.model_kwargs,
    }
