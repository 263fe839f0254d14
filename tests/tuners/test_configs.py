"""Configurations of tuners from Python: the same as by options, trained, kept and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import swift
from swift import AdapterConfig, BoneConfig, LLaMAProConfig, LongLoRAConfig, LoRAConfig, ReftConfig, Swift
from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.train.keep import write_weights
from swift.tuners.adapters import carries_adapter
from tests.tiny import make_model, make_tokenizer

IDS = torch.arange(3, 30)[None]
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "adapter": (
        AdapterConfig(dim=32, target_modules=["mlp"], hidden_pos=0, adapter_length=8),
        {"target_modules": ["mlp"], "adapter_length": 8},
    ),
    "adapter-regex": (
        AdapterConfig(target_modules=r".*layers\.1\.self_attn"),
        {"train_type": "adapter", "target_modules": ["layers.1.self_attn"]},
    ),
    "reft": (ReftConfig(model_type="llama", layers=[1], r=2), {"reft_layers": [1], "reft_rank": 2}),
    "llamapro": (LLaMAProConfig(num_new_blocks=2), {"llamapro_num_new_blocks": 2}),
    "longlora": (
        LongLoRAConfig(r=4, target_modules=["q_proj"], embedder_and_normalizer=("norm",)),
        {
            "lora_rank": 4,
            "lora_alpha": 8,
            "lora_dropout": 0.0,
            "target_modules": ["q_proj"],
            "modules_to_save": ["input_layernorm", "norm", "post_attention_layernorm"],
        },
    ),
}


def trained(model: Any) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_is_what_options_are_and_comes_back(case: str, tmp_path: Path) -> None:
    config, options = CASES[case]
    model = Swift.prepare_model(make_model(), config)
    expected = Swift.prepare_model(make_model(), TunerConfig(**{"train_type": case, **options}))
    assert trained(model) == trained(expected) != set()
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.5)
    losses = []
    for _ in range(3):
        loss = model(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    if not carries_adapter(model):
        return
    write_weights(model, tmp_path, None, make_tokenizer())
    again = Swift.from_pretrained(make_model(), tmp_path)
    with torch.no_grad():
        assert torch.allclose(again.eval()(IDS).logits, model.eval()(IDS).logits, atol=1e-5)


@pytest.mark.parametrize(
    "config", [BoneConfig(r=4, target_modules=["q_proj"]), LoRAConfig(target_modules=["all-linear"])]
)
def test_pefts_own_by_other_names(config: Any) -> None:
    assert trained(Swift.prepare_model(make_model(), config))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (AdapterConfig(dim=64), "dim is 64 and the model is 32 wide"),
        (AdapterConfig(hidden_pos=1), "hidden_pos 1"),
        (AdapterConfig(target_modules="nothing.*"), "matches no module"),
        (ReftConfig(intervention_type="Other"), "there is no Other"),
        (LongLoRAConfig(group_size_ratio=0.5), "group_size_ratio is 0.5"),
        (3, "not int"),
    ],
)
def test_what_does_not_fit_is_told(config: Any, said: str) -> None:
    with pytest.raises(SwiftError, match=said):
        Swift.prepare_model(make_model(), config)


def test_every_name_is_there_in_both_places() -> None:
    for name in swift.__all__:
        assert getattr(swift, name) is not None
    from swift import tuners

    assert tuners.Swift is Swift
    assert tuners.AdapterConfig is AdapterConfig
    with pytest.raises(AttributeError):
        _ = tuners.nothing
