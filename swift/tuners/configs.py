"""Configurations of tuners that PEFT does not have, by the names and fields that Python users of ms-swift know.

`Swift.prepare_model(model, config)` takes them beside PEFT's own. Fields that a model answers by itself (`model_type`,
`dim`) are taken and not needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig as LoRAConfig
from peft import MissConfig as BoneConfig

from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.tuners.targets import ALL_LINEAR

__all__ = ["AdapterConfig", "BoneConfig", "LLaMAProConfig", "LoRAConfig", "LongLoRAConfig", "ReftConfig"]


@dataclass
class OwnConfig:
    """A configuration that says the options of `--train_type`."""

    model_type: str | None = None

    def to_options(self, model: Any) -> TunerConfig:
        """The same as the command line has it.

        Raises:
            SwiftError: a field has a value that this tuner does not take.
        """
        raise TypeError(f"{type(self).__name__} names no tuner")


@dataclass
class AdapterConfig(OwnConfig):
    """Bottlenecks behind modules (`--train_type adapter`).

    Attributes:
        dim: width of the model.
        target_modules: ends of modules' names, or a regular expression of whole names; None means attention and
            feed-forward of each layer.
        hidden_pos: which output is changed: the first.
        method_name: which method gives it: forward.
        adapter_length: values in the bottleneck.
        act_layer: its activation.
    """

    dim: int | None = None
    target_modules: str | Sequence[str] | None = None
    hidden_pos: int | str | None = None
    method_name: str = "forward"
    adapter_length: int = 128
    act_layer: str = "gelu"

    def to_options(self, model: Any) -> TunerConfig:
        """As `--adapter_length`, `--adapter_act` and `--target_modules`."""
        width = model.config.get_text_config().hidden_size
        if self.dim not in (None, width):
            raise SwiftError(f"AdapterConfig: dim is {self.dim} and the model is {width} wide", fix="leave dim out")
        if self.hidden_pos not in (None, 0) or self.method_name != "forward":
            raise SwiftError(
                f"AdapterConfig: hidden_pos {self.hidden_pos}, method_name {self.method_name}",
                fix="what changes is the first output of forward: leave both out",
            )
        targets = _names(model, self.target_modules)
        length, act = self.adapter_length, self.act_layer
        return TunerConfig(train_type="adapter", target_modules=targets, adapter_length=length, adapter_act=act)


@dataclass
class ReftConfig(OwnConfig):
    """Edits of what layers give (`--train_type reft`); fields as the options `--reft_…`, `args` as JSON."""

    layer_key: str | None = None
    layers: Sequence[int] | None = None
    r: int = 4
    intervention_type: str = "LoreftIntervention"
    args: str | None = None

    def to_options(self, model: Any) -> TunerConfig:
        """As `--reft_rank`, `--reft_layers` and the others."""
        from swift.tuners.reft import FORMS

        if self.intervention_type.removesuffix("Intervention") not in FORMS:
            raise SwiftError(
                f"ReftConfig: there is no {self.intervention_type}",
                fix=f"choose one of: {', '.join(f'{form}Intervention' for form in FORMS)}",
            )
        return TunerConfig(
            train_type="reft",
            reft_layer_key=self.layer_key,
            reft_layers=list(self.layers or []),
            reft_rank=self.r,
            reft_intervention_type=self.intervention_type,  # type: ignore[arg-type]
            reft_args=self.args,
        )


@dataclass
class LLaMAProConfig(OwnConfig):
    """New layers that alone are trained (`--train_type llamapro`)."""

    num_new_blocks: int = 4
    num_groups: int | None = None

    def to_options(self, model: Any) -> TunerConfig:
        """As `--llamapro_num_new_blocks` and `--llamapro_num_groups`."""
        new, groups = self.num_new_blocks, self.num_groups
        return TunerConfig(train_type="llamapro", llamapro_num_new_blocks=new, llamapro_num_groups=groups)


@dataclass
class LongLoRAConfig(OwnConfig):
    """LoRA with shifted sparse attention in training (`--train_type longlora`).

    Attributes:
        embedder_and_normalizer: parts of names of modules that are trained as a whole beside it, such as
            `("embed", "norm")`; ms-swift trains these two unless told otherwise.
        group_size_ratio: share of a sequence that a group has: a fourth.
    """

    r: int = 8
    lora_alpha: int = 8
    target_modules: str | Sequence[str] | None = None
    lora_dropout: float = 0.0
    bias: str = "none"
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: Sequence[str] | None = None
    embedder_and_normalizer: Sequence[str] = field(default_factory=tuple)
    group_size_ratio: float = 0.25

    def to_options(self, model: Any) -> TunerConfig:
        """As `--lora_rank`, `--lora_alpha` and the others."""
        from swift.tuners.longlora import SHARE

        if self.group_size_ratio != 1 / SHARE:
            raise SwiftError(
                f"LongLoRAConfig: group_size_ratio is {self.group_size_ratio}", fix=f"a group has {1 / SHARE}: leave it"
            )
        wanted = self.embedder_and_normalizer
        parts = (wanted,) if isinstance(wanted, str) else tuple(wanted)
        whole = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if any(part in name.rpartition(".")[2] for part in parts) and any(True for _ in module.parameters())
        }
        return TunerConfig(
            train_type="longlora",
            lora_rank=self.r,
            lora_alpha=self.lora_alpha,
            target_modules=_names(model, self.target_modules),
            lora_dropout=self.lora_dropout,
            lora_bias=self.bias,  # type: ignore[arg-type]
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            modules_to_save=sorted({*(self.modules_to_save or []), *whole}),
        )


def _names(model: Any, wanted: str | Sequence[str] | None) -> list[str]:
    """Target modules as options name them: a text that is no name is a regular expression over whole names."""
    if wanted is None or wanted == ALL_LINEAR:
        return [ALL_LINEAR]
    if not isinstance(wanted, str):
        return list(wanted)
    if re.fullmatch(r"[\w.]+", wanted) and any(f".{name}".endswith(f".{wanted}") for name, _ in model.named_modules()):
        return [wanted]
    found = [name for name, _ in model.named_modules() if re.fullmatch(wanted, name)]
    if not found:
        raise SwiftError(f"target_modules {wanted!r} matches no module", fix="name modules, such as ['q_proj']")
    return found
