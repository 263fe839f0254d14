"""Options with which each tuner fits the tiny models."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from peft.tuners.lora import config as peft_config

ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "adalora": {"adalora_init_r": 6, "adalora_target_r": 3},
    "loha": {},
    "lokr": {},
    "vera": {"vera_rank": 16},
    "boft": {},
    "oft": {"oft_block_size": 8},
    "fourierft": {"fourier_n_frequency": 64},
    "ia3": {},
    "bone": {"lora_dropout": 0},
    "prompt": {"num_virtual_tokens": 4},
    "prefix": {"num_virtual_tokens": 4},
}
ATTACHED: dict[str, dict[str, Any]] = {
    "adapter": {"train_type": "adapter", "adapter_length": 6},
    "adapter of mlp": {"train_type": "adapter", "adapter_act": "relu", "target_modules": ["mlp"]},
    **{
        form: {"train_type": "reft", "reft_intervention_type": f"{form}Intervention"}
        for form in ("Noreft", "Loreft", "Consreft", "Lobireft", "Direft", "Nodireft")
    },
    "reft of a prompt": {
        **{"train_type": "reft", "reft_layers": [1], "reft_rank": 2, "reft_layer_key": "layers"},
        "reft_args": '{"positions": "f3+l2", "act_fn": "gelu"}',
    },
}
"""Adapters that change what modules give."""
VIRTUAL = ("prompt", "prefix")
STARTS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "false": {"init_weights": "false"},
    "gaussian": {"init_weights": "gaussian"},
    "orthogonal": {"init_weights": "orthogonal"},
    "pissa": {"init_weights": "pissa"},
    "pissa-rslora": {"init_weights": "pissa", "use_rslora": True},
    "pissa_niter_4": {"init_weights": "pissa_niter_4"},
    "olora": {"init_weights": "olora"},
    "eva": {"init_weights": "eva", "lora_rank": 2},
    "corda": {"init_weights": "corda"},
    "lora-ga": {"init_weights": "lora-ga", "lora_ga_stable_gamma": 64},
}
"""Ways in which LoRA starts; a random start is a different model, the others are the base model's."""

LACKING = {
    "corda": "attrs is not installed" if find_spec("attr") is None else "",
    "lora-ga": "" if hasattr(peft_config, "LoraGAConfig") else "this peft has no LoRA-GA",
}
POSSIBLE_STARTS = [
    pytest.param(name, marks=pytest.mark.skipif(bool(LACKING.get(name)), reason=LACKING.get(name) or "there"))
    for name in STARTS
]
