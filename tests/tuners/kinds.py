"""Options with which each tuner fits the tiny models."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

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

POSSIBLE_STARTS = [
    pytest.param(name, marks=pytest.mark.skipif(name == "corda" and find_spec("attr") is None, reason="attrs"))
    for name in STARTS
]
