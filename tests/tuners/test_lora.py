"""Where LoRA goes: exact names of what is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PhimoeConfig, PhimoeForCausalLM

from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.tuners.lora import lora
from tests.tiny import make_model

ATTENTION = [f"self_attn.{name}_proj" for name in "qkvo"]
MLP = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
LINEAR = {f"model.layers.{layer}.{name}" for layer in (0, 1) for name in [*ATTENTION, *MLP]}


def trained(model: Any, **options: Any) -> set[str]:
    """Names of what requires gradients, by the model's own names."""
    tuned = lora(model, TunerConfig(**options))
    names = (name for name, parameter in tuned.named_parameters() if parameter.requires_grad)
    return {name.removeprefix("base_model.model.").replace(".default", "") for name in names}


def pairs(modules: set[str]) -> set[str]:
    return {f"{module}.lora_{matrix}.weight" for module in modules for matrix in "AB"}


@pytest.mark.parametrize(
    ("options", "modules"),
    [
        ({}, LINEAR),
        ({"target_modules": ["all-linear", "lm_head"]}, LINEAR | {"lm_head"}),
        ({"target_modules": ["lm_head", "all-linear"]}, LINEAR | {"lm_head"}),
        ({"target_modules": ["all-linear", "q_proj"]}, LINEAR),
        ({"target_modules": ["lm_head"]}, {"lm_head"}),
        ({"target_regex": r".*\.1\.mlp\..*"}, {f"model.layers.1.{name}" for name in MLP}),
    ],
)
def test_lora_goes_to_these_modules_and_no_others(options: dict[str, Any], modules: set[str]) -> None:
    assert trained(make_model(), **options) == pairs(modules)


def test_all_linear_beside_an_embedding() -> None:
    names = trained(make_model(), target_modules=["all-linear", "embed_tokens"])
    assert names - pairs(LINEAR) == {f"model.embed_tokens.lora_embedding_{matrix}" for matrix in "AB"}
    assert names >= pairs(LINEAR)


def test_linear_modules_of_gpt2_count_as_linear() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    inside = {f"transformer.h.0.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert trained(model) == pairs(inside)


def test_a_router_that_returns_more_than_a_product_is_left_alone() -> None:
    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}
    with torch.device("meta"):
        names = trained(PhimoeForCausalLM(PhimoeConfig(**sizes, **heads)))
    assert names == pairs({f"model.layers.0.{name}" for name in ATTENTION})


def test_modules_to_save_are_trained_in_full_beside_all_linear() -> None:
    names = trained(make_model(), modules_to_save=["lm_head"])
    assert names == pairs(LINEAR) | {"lm_head.modules_to_save.weight"}


@pytest.mark.parametrize("where", [{}, {"target_modules": ["q_proj"]}, {"target_regex": r".*q_proj"}])
def test_modules_to_save_that_no_module_is_named_like(where: dict[str, Any]) -> None:
    with pytest.raises(SwiftError, match="--modules_to_save score: no such module") as caught:
        trained(make_model(), modules_to_save=["score"], **where)
    assert "embed_tokens" in (caught.value.fix or "")
    assert "lm_head" in (caught.value.fix or "")


def test_target_modules_that_no_module_is_named_like() -> None:
    with torch.device("meta"), pytest.raises(SwiftError, match="--target_modules c_attn: no such module") as caught:
        trained(make_model(), target_modules=["all-linear", "c_attn"])
    assert "q_proj" in (caught.value.fix or "")
