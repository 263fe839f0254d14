"""From options by name to a loaded model with its template, as an engine of this process holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swift.compat import quiet_libraries
from swift.config.commands import InferConfig
from swift.config.decisions import Decisions
from swift.config.fields import options_in
from swift.config.model import ModelConfig
from swift.config.template import TemplateConfig
from swift.errors import SwiftError
from swift.models.heads import Head
from swift.models.length import settle_length
from swift.models.quantization import settle_quantization
from swift.models.source import ModelSource, find_source
from swift.templates.choose import choose_template
from swift.tuners.adapters import add_adapters

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
    concerns = {"model": ModelConfig, "template": TemplateConfig} | (more or {})
    known = {name: spec for group, each in concerns.items() for name, spec in options_in(each, group).items()}
    names = {*known, *(alias for spec in known.values() for alias in spec.aliases)}
    if other := [name for name in given if name not in names]:
        raise SwiftError(
            f"{', '.join(other)}: an engine takes options of the {' and the '.join(concerns)}",
            fix="how an answer is generated stands in a RequestConfig",
        )
    return config


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
    known = options_in(ModelConfig, "model") | options_in(TemplateConfig, "template")
    names = {*known, *(alias for spec in known.values() for alias in spec.aliases)}
    ours = {key: value for key, value in options.items() if key in names}
    own = {key.removeprefix(f"{name}_"): value for key, value in options.items() if key not in names}
    return read_options(model, ours), own


def load_parts(config: InferConfig, *, load_args: bool) -> tuple[Any, Template]:
    """Load the model that the options name, with its adapters, and its template.

    Raises:
        SwiftError: model, adapters or template cannot be found, read or put together.
    """
    decisions = Decisions()
    source, template = find_parts(config, decisions, load_args=load_args)
    return load_source_model(source, config.model, decisions), template


def find_parts(config: InferConfig, decisions: Decisions, *, load_args: bool) -> tuple[ModelSource, Template]:
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
    return add_adapters(loaded.model, source.adapters)


def dtype_name(dtype: Any) -> str:
    """`torch.bfloat16` and `bfloat16` are both `bfloat16`."""
    return str(dtype).removeprefix("torch.")
