"""What stands on a model in place of its output embedding."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swift.errors import SwiftError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Head:
    """A model of another class than the one that its config.json names.

    Attributes:
        auto: transformers' auto class.
        settings: what its config says, such as `num_labels`.
        why: who asked for it.
    """

    auto: str
    settings: dict[str, Any] = field(default_factory=dict)
    why: str = ""

    def loader(self, config: PretrainedConfig) -> tuple[Any, str]:
        """The auto class, and the reason.

        Raises:
            SwiftError: transformers has no such class for this architecture.
        """
        import transformers

        auto = getattr(transformers, self.auto)
        if type(config) not in auto._model_mapping and self.auto not in (getattr(config, "auto_map", None) or {}):
            raise SwiftError(
                f"transformers has no {self.auto.removeprefix('AutoModel')} for model type {config.model_type}",
                where=self.why,
                fix="choose a model of another architecture",
            )
        return auto, f"{self.auto}, for {self.why}"

    def apply(self, config: PretrainedConfig) -> None:
        """Put its settings into a model's config."""
        for name, value in self.settings.items():
            setattr(config, name, value)


def without_cache(model: Any) -> dict[str, bool]:
    """The argument that keeps a model from storing keys and values, where it takes it: encoders do not."""
    inner = getattr(model, "module", model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return {"use_cache": False} if "use_cache" in inspect.signature(inner.forward).parameters else {}


def is_new(head: Head | None, model: Any, raw: dict[str, Any]) -> bool:
    """Whether the files of a model do not hold the head's weights: they were saved from another class."""
    return head is not None and type(model).__name__ not in (raw.get("architectures") or [])


def of_head(model: Any, names: list[str]) -> list[str]:
    """Those of a model's weights that do not belong to its body; a pooling layer does not."""
    prefix = model.base_model_prefix
    body = f"{prefix}." if hasattr(model, prefix) else ""
    return [name for name in names if not name.startswith(body) or "pooler." in name]


def train_head_in_float32(model: Any) -> None:
    """Steps of training are smaller than what a weight of 16 bits tells apart; autocast computes as before."""
    parameters = dict(model.named_parameters())
    for name in of_head(model, list(parameters)):
        parameters[name].data = parameters[name].data.float()
