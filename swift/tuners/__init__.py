"""What is trained: one file for each tuner or family of tuners, registered by a decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from swift.registry import Registry

if TYPE_CHECKING:
    from swift.config import TunerConfig

Tuner = Callable[[Any, "TunerConfig"], Any]
"""Takes a model and the tuner's options, and returns the model with exactly what is trained requiring gradients."""

PEFT = ("loha", "lokr", "vera", "boft", "oft", "fourierft", "ia3", "bone", "prompt", "prefix")
"""Tuners that PEFT has and that need nothing but their options."""

LORA_KINDS = ("lora", "longlora")
"""Tuners whose adapter is LoRA's."""

tuners: Registry[Tuner] = Registry(
    "tuner",
    "train_type",
    {
        "lora": "swift.tuners.lora",
        "longlora": "swift.tuners.longlora",
        "adalora": "swift.tuners.adalora",
        "full": "swift.tuners.full",
        "freeze": "swift.tuners.freeze",
        "llamapro": "swift.tuners.llamapro",
        "adapter": "swift.tuners.houlsby",
        "reft": "swift.tuners.reft",
        **dict.fromkeys(PEFT, "swift.tuners.families"),
    },
)
tuner = tuners.register

Optimizer = Callable[..., Any]
"""Takes the model and the TrainingArguments, and returns a torch optimizer; ours also take the `OptimizerConfig`."""

optimizers: Registry[Optimizer] = Registry(
    "optimizer",
    "optimizer",
    {
        "adalomo": "swift.tuners.optim.lomo",
        "adam_mini": "swift.tuners.optim.adam_mini",
        "apollo": "swift.tuners.optim.apollo",
        "badam": "swift.tuners.optim.badam",
        "galore": "swift.tuners.optim.galore",
        "lorap": "swift.tuners.lorap",
        "lomo": "swift.tuners.optim.lomo",
        "muon": "swift.tuners.optim.muon",
        "muonclip": "swift.tuners.optim.muonclip",
    },
)
optimizer = optimizers.register


def __getattr__(name: str) -> Any:
    # Python users know this folder as the home of `Swift` and of the tuners' configurations.
    if name == "Swift" or name.endswith("Config"):
        import swift

        return getattr(swift, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
