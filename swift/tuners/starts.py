"""What LoRA starts from, and how adapters are kept whose start took a part of the base model's weights away.

PiSSA, OLoRA, CorDA and LoRA-GA put a low-rank part B0 A0 of a weight W into the adapter and train B A on the rest
W - s B0 A0. On disk such an adapter is an ordinary one of twice the rank for the base as it is,
s (B A - B0 A0) = s [B, -B0] [A; A0], so that every tool loads it; a run goes on by taking it apart again.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.tuners import LORA_KINDS

PLAIN = ("true", "false", "gaussian", "orthogonal", "eva", "loftq")
MUTATING = ("pissa", "olora", "corda", "lora_ga")
LORA_GA_SCALES: dict[str, Any] = {"stable": "stable", "unit": "unit", "gd": "gd_scale", "weightS": "weight_svd"}
"""Our names of LoRA-GA's scales, which are those of its authors, and PEFT's."""
START = "_swift_start"
"""The attribute of a PEFT model that holds the first A and B by name."""


def lora_start(config: TunerConfig) -> bool | str:
    """`--init_weights` as PEFT's LoRA takes it."""
    value = config.init_weights.lower().replace("lora-ga", "lora_ga")
    return value == "true" if value in ("true", "false") else value


def family_of(start: bool | str) -> bool | str:
    """The start without the number of iterations that pissa may carry."""
    return "pissa" if isinstance(start, str) and start.startswith("pissa") else start


def reads_data(config: TunerConfig) -> bool:
    """Whether the adapter's start is computed from batches of the training data."""
    return config.train_type in LORA_KINDS and lora_start(config) in FROM_DATA


def takes_weights(config: TunerConfig) -> bool:
    """Whether the adapter's start takes a part of the base model's weights away."""
    return config.train_type in LORA_KINDS and family_of(lora_start(config)) in MUTATING


def check_start(config: TunerConfig) -> None:
    """Stop at a start that is unknown or not possible here, without loading anything.

    Raises:
        SwiftError: it names the start and what it needs.
    """
    start = str(lora_start(config)).lower()
    if start not in (*PLAIN, *MUTATING) and not re.fullmatch(r"pissa_niter_\d+", start):
        names = ", ".join([*PLAIN, *MUTATING[:-1], "pissa_niter_N", "lora-ga"])
        raise SwiftError(f"--init_weights {config.init_weights}: LoRA has no such start", fix=f"choose one of: {names}")
    if start == "orthogonal" and config.lora_rank % 2:
        raise SwiftError(f"--init_weights orthogonal: --lora_rank {config.lora_rank} is odd", fix="give an even rank")
    if takes_weights(config) and config.lora_dtype not in (None, "float32"):
        raise SwiftError(
            f"--init_weights {config.init_weights} with --lora_dtype {config.lora_dtype}: what the adapter takes from "
            "the weights would be rounded",
            fix="leave --lora_dtype out",
        )
    if takes_weights(config) and config.target_parameters:
        raise SwiftError(
            f"--init_weights {config.init_weights} with --target_parameters: PEFT computes this start for modules only",
            fix="leave one of them out",
        )
    if start == "corda" and find_spec("attr") is None:
        raise SwiftError(
            "--init_weights corda: PEFT computes it with the package attrs, which is not installed",
            fix="pip install attrs, or choose another start, such as eva",
        )
    if start == "loftq":
        _check_loftq()


def _check_loftq() -> None:
    import torch

    if find_spec("bitsandbytes") is None:
        raise SwiftError(
            "--init_weights loftq: PEFT quantises with bitsandbytes, which is not installed",
            fix="pip install bitsandbytes",
        )
    if not torch.cuda.is_available() and not (hasattr(torch, "xpu") and torch.xpu.is_available()):
        raise SwiftError(
            "--init_weights loftq: PEFT computes it on a GPU, and there is none",
            fix="choose another start, such as pissa",
        )


def start_fields(config: TunerConfig) -> dict[str, Any]:
    """The fields of PEFT's LoraConfig that the start fills."""
    from peft import EvaConfig
    from peft.tuners.lora.config import CordaConfig, LoraGAConfig

    start = lora_start(config)
    fields: dict[str, Any] = {"init_lora_weights": start}
    if start == "eva":
        fields["eva_config"] = EvaConfig()
    elif start == "corda":
        fields["corda_config"] = CordaConfig(corda_method="kpm")
    elif start == "loftq":
        fields["loftq_config"] = {"loftq_bits": config.loftq_bits, "loftq_iter": config.loftq_iter}
    elif start == "lora_ga":
        fields["lora_ga_config"] = LoraGAConfig(
            direction=config.lora_ga_direction,
            scale=LORA_GA_SCALES[config.lora_ga_scale],
            stable_gamma=config.lora_ga_stable_gamma,
        )
    return fields


Prepare = Callable[[Any, TunerConfig, Any, Sequence[dict[str, Any]]], Any]
"""Takes a model, the tuner's options, PEFT's configuration and batches, and returns the model with the adapter."""


def _eva(model: Any, config: TunerConfig, adapter: Any, batches: Sequence[dict[str, Any]]) -> Any:
    """EVA (Paischer et al., 2024): A holds the directions in which a layer's inputs vary most; ranks are shared out."""
    from peft import initialize_lora_eva_weights

    from swift.tuners.families import attach

    tuned = attach(model, config, adapter)
    # Labels would make the model compute a loss; EVA reads them from the batch itself.
    initialize_lora_eva_weights(tuned, list(batches), forward_fn=_forward, show_progress_bar=False)
    return tuned


def _corda(model: Any, config: TunerConfig, adapter: Any, batches: Sequence[dict[str, Any]]) -> Any:
    """CorDA (Yang et al., 2024): the start is oriented by the covariance of a layer's inputs."""
    import torch
    from peft.tuners.lora.corda import preprocess_corda

    from swift.tuners.families import attach

    def run() -> None:
        with torch.no_grad():
            for batch in batches:
                for row in _rows(batch):
                    _forward(model, row)

    preprocess_corda(model, adapter, run_model=run)
    return attach(model, config, adapter)


def _lora_ga(model: Any, config: TunerConfig, adapter: Any, batches: Sequence[dict[str, Any]]) -> Any:
    """LoRA-GA (Wang et al., 2024): A and B start along the gradient of full fine-tuning."""
    from peft.tuners.lora.loraga import preprocess_loraga

    from swift.tuners.families import attach

    def run() -> None:
        for batch in batches:
            inputs = {name: value for name, value in batch.items() if name != "weights"}
            model(**inputs, use_cache=False).loss.backward()

    preprocess_loraga(model, adapter, run)
    return attach(model, config, adapter)


FROM_DATA: dict[bool | str, Prepare] = {"eva": _eva, "corda": _corda, "lora_ga": _lora_ga}


def _rows(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a batch one by one, without padding: CorDA's hooks take one row at a time."""
    for row in range(len(batch["input_ids"])):
        length = int(batch["attention_mask"][row].sum()) if "attention_mask" in batch else None
        yield {name: value[row : row + 1, :length] for name, value in batch.items()}


def _forward(model: Any, batch: dict[str, Any]) -> Any:
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "weights")}
    return model(**inputs, use_cache=False)


def keep_start(model: Any) -> None:
    """Remember the first A and B, which saving subtracts."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    setattr(model, START, {name: weight.detach().clone() for name, weight in state.items() if _is_factor(name)})


def save_with_start(model: Any, folder: Path) -> None:
    """Write the adapter as an ordinary one of twice the rank for the base model as it was."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    first = getattr(model, START)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    for name, weight in first.items():
        state[name] = torch.cat(
            [state[name], weight] if "lora_A" in name else [state[name], -weight], dim=0 if "lora_A" in name else 1
        )
    adapter = copy.deepcopy(model.peft_config["default"])
    scaling = adapter.lora_alpha / (adapter.r**0.5 if adapter.use_rslora else adapter.r)
    adapter.lora_alpha, adapter.use_rslora = scaling * 2 * adapter.r, False
    adapter.r *= 2
    adapter.init_lora_weights, adapter.corda_config, adapter.lora_ga_config = True, None, None
    adapter.inference_mode = True
    adapter.base_model_name_or_path = getattr(model.get_base_model().config, "_name_or_path", None)
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: weight.detach().cpu().contiguous() for name, weight in state.items()}
    save_file(whole, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    adapter.save_pretrained(str(folder))


def load_with_start(model: Any, config: TunerConfig, folder: Path) -> Any:
    """The model as it was in the run that wrote `folder`: weights without the start, the trained A and B on them."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    from swift.tuners.families import attach
    from swift.tuners.lora import lora_config

    tuned = attach(model, config, lora_config(model, config))
    state = load_file(folder / "adapter_model.safetensors")
    now, first = {}, {}
    for name, weight in state.items():
        if not _is_factor(name):
            now[name] = weight
            continue
        own, taken = weight.chunk(2, dim=0 if "lora_A" in name else 1)
        now[name], first[name] = own.contiguous(), taken if "lora_A" in name else -taken
    set_peft_model_state_dict(tuned, now)
    setattr(tuned, START, {name: weight.contiguous() for name, weight in first.items()})
    _take_away(tuned, first, lora_start(config))
    return tuned


def _take_away(model: Any, first: dict[str, Any], start: bool | str) -> None:
    """W - s B0 A0 in float32, in the order of operations in which PEFT computes it, so that no bit differs."""
    for name, right in first.items():
        if "lora_A" not in name:
            continue
        left = first[name.replace("lora_A", "lora_B")]
        layer = model.get_submodule(name.partition(".lora_A")[0])
        weight = layer.get_base_layer().weight
        scaling = layer.scaling["default"]
        right, left = right.to(weight.device), left.to(weight.device)
        part = scaling * (left @ right) if start == "lora_ga" else scaling * left @ right
        weight.data = (weight.data.float() - (part.T if layer.fan_in_fan_out else part)).to(weight.dtype)


def _is_factor(name: str) -> bool:
    return "lora_A" in name or "lora_B" in name
