"""From options by name to a loaded model with its template, as an engine of this process holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swift.compat import quiet_libraries
from swift.config.commands import InferConfig
from swift.config.decisions import Decisions
from swift.config.fields import options_in
from swift.config.model import AnsweringModelConfig, ModelConfig
from swift.config.template import TemplateConfig
from swift.engines.names import BACKENDS
from swift.errors import SwiftError
from swift.models.heads import Head
from swift.models.length import settle_length
from swift.models.quantization import settle_quantization
from swift.models.source import ModelSource, find_source
from swift.templates.choose import choose_template
from swift.templates.media import MediaReader
from swift.tuners.adapters import add_adapters, check_merges

if TYPE_CHECKING:
    from swift.templates import Template


def read_options(model: str | None, options: dict[str, Any], more: dict[str, type] | None = None) -> InferConfig:
    """The options of model and template, read as `swift infer` reads them; None means not given.

    Args:
        model: what `--model` would say.
        options: by their names.
        more: further concerns whose options count, by their groups.

    Raises:
        SwiftError: there is no such option, its value does not fit, or it belongs to a request.
    """
    given = {name: value for name, value in {"model": model, **options}.items() if value is not None}
    config = InferConfig.of(**given | _dtype(given))
    concerns = {"model": AnsweringModelConfig, "template": TemplateConfig} | (more or {})
    names = _names(concerns)
    if other := [name for name in given if name not in names]:
        raise SwiftError(
            f"{', '.join(other)}: an engine takes options of the {' and the '.join(concerns)}",
            fix="how an answer is generated stands in a RequestConfig",
        )
    return config


def _names(concerns: dict[str, type]) -> set[str]:
    """The options of concerns, and their other names."""
    known = {name: spec for group, each in concerns.items() for name, spec in options_in(each, group).items()}
    return {*known, *(alias for spec in known.values() for alias in spec.aliases)}


def _dtype(given: dict[str, Any]) -> dict[str, str]:
    """`torch.bfloat16` by its name."""
    return {name: dtype_name(given[name]) for name in ("torch_dtype", "dtype") if name in given}


def split_options(model: str | None, options: dict[str, Any], name: str) -> tuple[InferConfig, dict[str, Any]]:
    """The options of model and template, and those of a back end by its own names.

    Args:
        options: of both kinds; a back end's own may have its name before them.
        name: the back end's.

    Raises:
        SwiftError: a value does not fit.
    """
    names = _names({"model": AnsweringModelConfig, "template": TemplateConfig})
    ours = {key: value for key, value in options.items() if key in names}
    own = {key.removeprefix(f"{name}_"): value for key, value in options.items() if key not in names}
    return read_options(model, ours), own


def load_parts(config: InferConfig, *, load_args: bool) -> tuple[Any, Template, MediaReader | None]:
    """Load the model that the options name, with its adapters, its template, and what reads media for it.

    Raises:
        SwiftError: model, adapters or template cannot be found, read or put together.
    """
    decisions = Decisions()
    source, template = find_parts(config, decisions, load_args=load_args)
    reader = MediaReader.find(source.path, template, trust_remote_code=config.model.trust_remote_code)
    return load_source_model(source, config.model, decisions), template, reader


def find_parts(
    config: InferConfig, decisions: Decisions, *, load_args: bool, backend: str = "pt"
) -> tuple[ModelSource, Template]:
    """The model that the options name, not loaded yet, and its template.

    Raises:
        SwiftError: model, adapters or template cannot be found or read.
    """
    from swift.models.load import check_loading

    quiet_libraries()
    check_loading(config.model)
    source = find_source(config.model, decisions)
    if load_args:
        settle_quantization(config.model, source.record, decisions)
    check_merge(source, config.model, backend)
    settle_length(config.model, source, decisions, recorded=load_args)
    tokenizer = source.load_tokenizer(config.model.trust_remote_code)
    # The template first: a mistake in it shows before weights are read.
    recorded = source.recorded_template if load_args else None
    return source, choose_template(tokenizer, config.template, decisions, recorded)


def load_source_model(source: ModelSource, config: ModelConfig, decisions: Decisions, head: Head | None = None) -> Any:
    """The base model with its adapters on it; `head` where the model is of another class than its config.json names."""
    from swift.models.load import load_as

    loaded = load_as(config, source.path, head=head)
    decisions.add("torch_dtype", dtype_name(loaded.dtype), "model", loaded.reasons["dtype"])
    decisions.add("attn_impl", loaded.attn, "machine", loaded.reasons["attention"])
    decisions.add("device", str(loaded.device), "machine", loaded.reasons["device"])
    model = add_adapters(loaded.model, source.adapters)
    return merged(model, source, decisions) if _merges(config, source) else model


def check_merge(source: ModelSource, config: ModelConfig, backend: str) -> None:
    """Stop at --merge_lora where nothing can be merged, before weights are read.

    Raises:
        SwiftError: it says why.
    """
    if not _merges(config, source):
        return
    if backend in BACKENDS:
        raise SwiftError(
            f"--merge_lora: {backend} reads its weights itself", fix="merge them first: swift merge-lora --adapters …"
        )
    if config.quant_method or source.config.get("quantization_config"):
        raise SwiftError(
            "--merge_lora: the weights are quantised, and rounding the sums again would lose the tune",
            fix="leave it out, or swift merge-lora into the base model in its own dtype",
        )
    for folder in source.adapters:
        check_merges(folder)


def _merges(config: ModelConfig, source: ModelSource) -> bool:
    return isinstance(config, AnsweringModelConfig) and config.merge_lora and bool(source.adapters)


def merged(model: Any, source: ModelSource, decisions: Decisions) -> Any:
    """The base model with what its adapters add to the weights."""
    decisions.add("merge_lora", True, "flag", f"{len(source.adapters)} adapters are in the weights, rounded once")
    return model.merge_and_unload(safe_merge=True).eval()


def dtype_name(dtype: Any) -> str:
    """`torch.bfloat16` and `bfloat16` are both `bfloat16`."""
    return str(dtype).removeprefix("torch.")
