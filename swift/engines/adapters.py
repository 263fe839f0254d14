"""The adapters on one model, of which each answer may name one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer

from swift.engines.plain_lora import no_adapter
from swift.errors import SwiftError
from swift.models.adapter_files import check_adapter
from swift.tuners.adapters import add_named

BASE = "__base__"
"""PEFT's own name for no adapter at all."""
UNMIXED = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "alora_invocation_tokens")
"""Parts of a LoRA adapter that PEFT does not choose row by row."""
ABOUT_FILES = ("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version")
"""Settings that say nothing about what an adapter does."""


class NamedAdapters:
    """The adapters that a model was loaded with, which act where a request names none, and others by name.

    Answers of different LoRA adapters share a batch, by PEFT's own way of it; other kinds take turns.

    Args:
        model: the model, with the adapters that always act on it, if any.
    """

    def __init__(self, model: Any) -> None:
        self.loaded = model
        self.names: dict[str, Path] = {}
        self._usual = list(model.active_adapters) if isinstance(model, PeftModel) else []

    @property
    def model(self) -> Any:
        """The model whose `generate` runs: most adapters stand inside of it; virtual tokens need PEFT's own."""
        loaded = self.loaded
        if isinstance(loaded, PeftModel) and not loaded.active_peft_config.is_prompt_learning:
            return loaded.get_base_model()
        return loaded

    def add(self, name: str, folder: Path) -> None:
        """Load one more, to be asked for by name.

        Raises:
            SwiftError: there is one of this name, or it does not fit the model.
        """
        if "." in name:
            # PEFT makes the name of a module of it.
            raise SwiftError(f"adapter {name}: a name has no full stop", fix="give it another name")
        if name in self.names:
            raise SwiftError(f"there is an adapter {name} already: {self.names[name]}", fix="give it another name")
        try:
            self.loaded = add_named(self.loaded, folder, name)
        except SwiftError:
            self._take_off(name)
            raise
        self.names[name] = folder
        self._act(None)

    def _take_off(self, name: str) -> None:
        """Undo what PEFT did to the model for an adapter that it then refused."""
        if isinstance(self.loaded, PeftModel):
            if name in self.loaded.peft_config:
                self.loaded.delete_adapter(name)
            self._act(None)
            return
        for place, layer in list(self.loaded.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                parent, _, child = place.rpartition(".")
                setattr(self.loaded.get_submodule(parent), child, layer.get_base_layer())
        # Otherwise PEFT takes the next adapter for one more beside it.
        if hasattr(self.loaded, "peft_config"):
            del self.loaded.peft_config

    def remove(self, name: str) -> None:
        """Take one off the model again.

        Raises:
            SwiftError: there is none of this name.
        """
        self.check(name)
        del self.names[name]
        if isinstance(self.loaded, PeftModel):
            if len(self.loaded.peft_config) > 1:
                self.loaded.delete_adapter(name)
                self._act(None)
            else:
                self.loaded = self.loaded.unload()

    def replace(self, name: str, folder: Path) -> None:
        """Put new weights in place of those of one, or add it.

        Raises:
            SwiftError: they do not fit the model, or the settings of the one that is there; nothing has changed then.
        """
        if name not in self.names:
            self.add(name, folder)
            return
        check_adapter(folder)
        settings = PeftConfig.from_pretrained(str(folder)).to_dict()
        there = self.loaded.peft_config[name].to_dict()
        other = sorted(key for key in settings if key not in ABOUT_FILES and settings[key] != there.get(key))
        own, new = get_peft_model_state_dict(self.loaded, adapter_name=name), load_peft_weights(str(folder), "cpu")
        shapes = [{key: weight.shape for key, weight in each.items()} for each in (own, new)]
        if other or shapes[0] != shapes[1]:
            raise SwiftError(
                f"the adapter {name} is of another kind now: {', '.join(other) or 'its weights have other shapes'}",
                where=str(folder),
                fix="unload it first, or give the new one another name",
            )
        set_peft_model_state_dict(self.loaded, new, adapter_name=name)
        self.names[name] = folder

    def check(self, name: str | None) -> None:
        """Raise SwiftError where there is no adapter of this name."""
        if name is not None and name not in self.names:
            raise no_adapter(name, self.names)

    def together(self, one: str | None, other: str | None) -> bool:
        """Whether answers of these two can be in one batch."""
        return one == other or (self._mixes and len(self._usual) <= 1)

    @property
    def _mixes(self) -> bool:
        tuner = getattr(self.loaded, "base_model", None)
        if type(tuner) is not LoraModel:
            return False
        return not any(getattr(config, name, None) for config in self.loaded.peft_config.values() for name in UNMIXED)

    def forward(self, names: Sequence[str | None], **inputs: Any) -> Any:
        """Call the model, each row with its adapter; one that is gone has nobody to answer."""
        names = [name if name in self.names else None for name in names]
        if len(set(names)) == 1:
            with self.only(names[0]):
                return self.model(**inputs)
        usual = self._usual[0] if self._usual else BASE
        return self.loaded(adapter_names=[usual if name is None else name for name in names], **inputs)

    @contextmanager
    def only(self, name: str | None) -> Iterator[None]:
        """A context in which this one acts alone; None means what the model was loaded with."""
        if name is None and not (self.names and not self._usual):
            yield
            return
        if name is None:
            with self.loaded.disable_adapter():
                yield
            return
        self._act(name)
        try:
            yield
        finally:
            self._act(None)

    def _act(self, name: str | None) -> None:
        active = [name] if name is not None else self._usual
        if active:
            self.loaded.base_model.set_adapter(active)
        self.loaded.requires_grad_(False)
