"""Model, tokenizer and config from a local folder."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.compat import read_json, tokenizer_loader
from swift.errors import SwiftError, first_line
from swift.models.architecture import concrete_class, find_class, load_config, read_config
from swift.models.attention import choose_attention
from swift.models.devices import pick_device
from swift.models.dtype import DtypeChoice, choose_dtype, parse_dtype
from swift.models.heads import Head, is_new, of_head
from swift.models.length import apply_length
from swift.models.quantization import (
    Quantization,
    check_quantization,
    check_stored,
    keep_layout,
    loading_arguments,
    quantise_by_hqq,
)
from swift.models.weights import check_weights, stored_dtype

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from swift.config import ModelConfig

__all__ = ["LoadedModel", "load_config", "load_model", "load_tokenizer"]


PROCESSOR_TEMPLATE = "chat_template.json"
"""Where models that read pictures keep the chat template that their tokenizer lacks."""
PLACES = ("cpu", "disk", "mps")
"""What has memory besides numbered devices."""


@dataclass
class LoadedModel:
    """A model that is ready on its device.

    Attributes:
        model: the model, in eval mode unless loaded for training.
        dtype: of its weights.
        attn: its attention implementation, by transformers' name.
        device: where its first weights are.
        reasons: what was chosen -> why, in words: architecture, dtype, attention, device; `unused weights` where the
            folder has some that the architecture does not take.
        amp: the dtype for autocast in training; None where the weights' own dtype computes.
    """

    model: PreTrainedModel
    dtype: torch.dtype
    attn: str
    device: torch.device
    reasons: dict[str, str] = field(default_factory=dict)
    amp: torch.dtype | None = None


@dataclass
class Loading:
    """How a model will be loaded: all that is chosen before its weights are read."""

    loader: Any
    config: Any
    device: torch.device
    dtype: DtypeChoice
    attn: str | None
    reasons: dict[str, str]


def choose_loading(
    path: str | Path,
    *,
    dtype: str | torch.dtype,
    attn_impl: str | None,
    device_map: str | dict[str, Any] | None,
    trust_remote_code: bool,
    for_training: bool,
    quantization: Quantization | None = None,
    head: Head | None = None,
    rope_scaling: Any = None,
    max_model_len: int | None = None,
) -> Loading:
    """Choose class, device, dtype and attention for the model in the folder `path`, from its config alone.

    Raises:
        SwiftError: a choice does not work here, or the folder holds no model.
    """
    folder = Path(path)
    config = load_config(folder, trust_remote_code=trust_remote_code)
    apply_length(config, rope_scaling, max_model_len)
    raw = read_config(folder)
    if head is None:
        loader, reason = find_class(config, raw, trust_remote_code=trust_remote_code)
    else:
        loader, reason = head.loader(config)
        head.apply(config)
    reasons = {"architecture": reason}
    device, reasons["device"] = chosen_device(device_map)
    check_stored(raw, quantization, device)
    if quantization is not None:
        check_quantization(quantization, device)
    choice = choose_dtype(dtype, _stored_dtype(folder, raw), device, for_training=for_training)
    reasons["dtype"] = choice.reason
    attn, reasons["attention"] = choose_attention(
        attn_impl, device, choice.amp or choice.dtype, concrete_class(loader, config)
    )
    return Loading(loader, config, device, choice, attn, reasons)


def load_model(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    attn_impl: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    trust_remote_code: bool = False,
    for_training: bool = False,
    model_kwargs: dict[str, Any] | None = None,
    quantization: Quantization | None = None,
    head: Head | None = None,
    rope_scaling: Any = None,
    max_model_len: int | None = None,
    max_memory: dict[Any, Any] | None = None,
    init_strategy: str | None = None,
) -> LoadedModel:
    """Loads the model in the folder `path`, whatever its architecture.

    Args:
        path: a folder with config.json and weights, as `swift.hub.resolve` gives it.
        dtype: `auto`, or a name such as `bfloat16`.
        attn_impl: `auto` or None, or a name of either generation: flash_attn, flash_attention_2, flash_attention_3,
            sdpa, eager, flex_attention.
        device_map: passed to transformers; None puts the whole model on this process's device.
        trust_remote_code: run Python code that came with the model.
        for_training: choose for training (float32 weights where only float16 autocast is left) and stay in train mode.
        model_kwargs: further arguments of `from_pretrained`, or `config` settings.
        quantization: how the weights of linear layers are quantised while they load.
        head: another class than the one that config.json names; where the files lack its head, that starts at random.
        rope_scaling: parameters of rotary positions in place of config.json's, whole.
        max_model_len: longest sequence in place of config.json's.
        max_memory: most memory of each device, for a `device_map` that transformers makes.
        init_strategy: how matrices start that the files lack; None makes such weights an error.

    Raises:
        SwiftError: anything about the folder or the choices that does not work; all that can be told from the config
            and the files' headers is told before weights are loaded.
    """
    folder = Path(path)
    check_weights(folder)
    loading = choose_loading(
        folder,
        dtype=dtype,
        attn_impl=attn_impl,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
        for_training=for_training,
        quantization=quantization,
        head=head,
        rope_scaling=rope_scaling,
        max_model_len=max_model_len,
    )
    placed = _placement(loading, device_map, max_memory, quantization)
    with _readable_errors(folder, loading.device):
        model, info = loading.loader.from_pretrained(
            folder,
            config=loading.config,
            dtype=loading.dtype.dtype,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **loading_arguments(read_config(folder)) | (model_kwargs or {}),
            **placed,
        )
        if quantization is not None and quantization.method == "hqq":
            quantise_by_hqq(model, quantization)
    keep_layout(model)
    missing, reasons = list(info.get("missing_keys") or ()), loading.reasons
    fresh = of_head(model, missing) if is_new(head, model, read_config(folder)) else []
    if init_strategy is not None:
        fresh += start_missing(model, missing, init_strategy, reasons)
    _check_loading(info, folder, reasons, fresh)
    model.train(for_training)
    in_use = getattr(model.config, "_attn_implementation", None) or "eager"
    if loading.attn is None:
        reasons["attention"] = f"{in_use}: {reasons['attention']}"
    return LoadedModel(model, model.dtype, in_use, model.device, reasons, loading.dtype.amp)


def _placement(
    loading: Loading, device_map: Any, max_memory: dict[Any, Any] | None, quantization: Quantization | None
) -> dict[str, Any]:
    """Arguments of `from_pretrained` that say where the weights go, as what, and how they attend."""
    if device_map is None and loading.device.type != "cpu" and not _zero3():
        device_map = {"": str(loading.device)}
    placed: dict[str, Any] = {"device_map": device_map}
    if loading.attn is not None:
        placed["attn_implementation"] = loading.attn
    if quantization is not None:
        placed |= quantization.arguments(loading.dtype.dtype)
    if max_memory:
        placed["max_memory"] = {int(key) if str(key).isdigit() else key: size for key, size in max_memory.items()}
    return placed


def check_loading(config: ModelConfig) -> None:
    """Stop at options of the model that this machine cannot follow, before a model is looked for.

    Raises:
        SwiftError: it names the option and what is missing.
    """
    for place, size in (config.max_memory or {}).items():
        if not (str(place).isdigit() or place in PLACES) or not isinstance(size, (str, int)):
            raise SwiftError(
                f"--max_memory: {place!r} with {size!r}",
                fix='name devices by number, cpu or disk, with a size each: {"0": "20GB", "cpu": "60GB"}',
            )
    asked = Quantization.of(config)
    if asked is not None:
        check_quantization(asked, chosen_device(config.device_map)[0])


def load_as(config: ModelConfig, folder: Path, *, for_training: bool = False, head: Head | None = None) -> LoadedModel:
    """Load the model in a folder as the options of the model's concern say."""
    return load_model(
        folder,
        dtype=config.torch_dtype or "auto",
        attn_impl=config.attn_impl,
        device_map=config.device_map,
        trust_remote_code=config.trust_remote_code,
        for_training=for_training,
        model_kwargs=config.model_kwargs,
        quantization=Quantization.of(config),
        head=head,
        **more_of(config),
    )


def more_of(config: ModelConfig) -> dict[str, Any]:
    """Arguments of `load_model` that are options by the same names."""
    names = ("rope_scaling", "max_model_len", "max_memory", "init_strategy")
    return {name: getattr(config, name) for name in names}


def load_tokenizer(path: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in the folder `path`, with its chat template.

    Raises:
        SwiftError: there is none, or it cannot be read.
    """
    folder = Path(path)
    try:
        tokenizer = tokenizer_loader(folder).from_pretrained(folder, trust_remote_code=trust_remote_code)
        if tokenizer.chat_template is None and (folder / PROCESSOR_TEMPLATE).is_file():
            tokenizer.chat_template = read_json(folder / PROCESSOR_TEMPLATE).get("chat_template")
        return tokenizer
    except (ValueError, KeyError, TypeError, OSError, ImportError, AttributeError, RuntimeError) as error:
        if not any(folder.glob("*token*")):
            raise SwiftError(
                f"{folder} holds no tokenizer.",
                where="--model",
                fix="copy the tokenizer files of its base model there.",
            ) from error
        if "trust_remote_code" in str(error):
            raise SwiftError(
                "the tokenizer needs Python code that came with the model.",
                where=str(folder),
                fix="read that code; if you trust it, add `--trust_remote_code true`.",
            ) from error
        raise SwiftError(
            f"the tokenizer cannot be read: {first_line(error)}",
            where=str(folder),
            fix="copy the tokenizer files again from the model's page, or install a newer transformers.",
        ) from error


def start_missing(model: Any, names: list[str], strategy: str, reasons: dict[str, str]) -> list[str]:
    """Start the matrices that the files lack; gives the names of all that the files lack.

    Args:
        model: a loaded model, where transformers has started them already.
        names: of the weights.
        strategy: as `--init_strategy` has it; draws come from torch's own random state.
        reasons: takes a note.
    """
    import torch
    from torch.nn import init

    starts: dict[str, Any] = {
        "zero": init.zeros_,
        "uniform": lambda weight: init.uniform_(weight, -0.1, 0.1),
        "normal": lambda weight: init.normal_(weight, 0.0, 0.01),
        "xavier_uniform": init.xavier_uniform_,
        "xavier_normal": init.xavier_normal_,
        "kaiming_uniform": lambda weight: init.kaiming_uniform_(weight, a=0.1, mode="fan_out"),
        "kaiming_normal": lambda weight: init.kaiming_normal_(weight, nonlinearity="relu"),
        "orthogonal": init.orthogonal_,
    }
    parameters = dict(model.named_parameters())
    matrices = [name for name in names if name in parameters and parameters[name].dim() > 1]
    with torch.no_grad():
        for name in matrices:
            weight = parameters[name]
            weight.copy_(starts[strategy](torch.empty_like(weight, dtype=torch.float32)))
    if names:
        reasons["new weights"] = f"{len(names)} that the files lack start by {strategy}: {_some(sorted(names))}"
    return names


def chosen_device(device_map: Any) -> tuple[torch.device, str]:
    """The device that dtype, attention and quantisation are chosen for, and why."""
    import torch

    if device_map is None or device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        device, why = pick_device()
        return device, why if device_map is None else f"--device_map {device_map}"
    if isinstance(device_map, dict):
        places = [place for place in device_map.values() if place not in ("cpu", "disk")] or ["cpu"]
        first = places[0]
        return torch.device("cuda", first) if isinstance(first, int) else torch.device(first), "--device_map"
    try:
        return torch.device(device_map), "--device_map"
    except (RuntimeError, TypeError) as error:
        raise SwiftError(
            f"unknown device map {device_map!r}.", where="--device_map", fix="use auto, cpu, cuda:0, or a mapping."
        ) from error


def _zero3() -> bool:
    """DeepSpeed ZeRO-3 splits the weights while they load and takes no device map."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    return bool(is_deepspeed_zero3_enabled())


def dtype_of(folder: Path, asked: str | None, device: torch.device) -> DtypeChoice:
    """The dtype in which a model generates here.

    Args:
        asked: its name; None leaves the choice to the model and the device.
    """
    return choose_dtype(asked, _stored_dtype(folder, read_config(folder)), device, for_training=False)


def _stored_dtype(folder: Path, raw: dict[str, Any]) -> torch.dtype | None:
    inner = raw.get("text_config") or {}
    for source in (raw, inner):
        name = source.get("dtype") or source.get("torch_dtype")
        if isinstance(name, str) and name != "auto":
            return parse_dtype(name)
    name = stored_dtype(folder)
    return parse_dtype(name) if name else None


def _check_loading(info: dict[str, Any], folder: Path, reasons: dict[str, str], fresh: list[str]) -> None:
    """Weights that were not in the files would stay random: an error, not a warning, but for those of a new head."""
    missing = sorted(set(info.get("missing_keys") or ()) - set(fresh))
    if missing:
        raise SwiftError(
            f"{len(missing)} weights of the architecture are not in the files: {_some(missing)}.",
            where=str(folder),
            fix="the model would have random weights there: check config.json's `architectures`, or download it again; "
            "--init_strategy normal starts them anew.",
        )
    unused = sorted(info.get("unexpected_keys") or ())
    if unused:
        reasons["unused weights"] = f"{len(unused)} in the files are not part of the architecture: {_some(unused)}"


@contextmanager
def _readable_errors(folder: Path, device: torch.device) -> Iterator[None]:
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SwiftError(
            f"the weights do not fit into the memory of {device}.",
            where=str(folder),
            fix="try --torch_dtype bfloat16, or several devices with --device_map auto, or a smaller model.",
        ) from error
    except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise SwiftError(
            f"the weights are broken: {first_line(error)}", where=str(folder), fix="download the model again."
        ) from error
    except ImportError as error:
        raise SwiftError(
            f"the model needs a package: {first_line(error)}",
            where=str(folder),
            fix="pip install what it names, into the environment of swift.",
        ) from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise SwiftError(
            f"the model cannot be loaded: {first_line(error)}",
            where=str(folder),
            fix="compare its files with the model's page; --model_kwargs go to transformers as given.",
        ) from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
