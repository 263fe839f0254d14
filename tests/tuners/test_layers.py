"""LLaMA Pro's new layers, LISA's draws, BAdam's turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from swift.config import OptimizerConfig, TunerConfig
from swift.errors import SwiftError
from swift.train.result import SftResult
from swift.tuners import tuners
from swift.tuners.layers import block_turns, layer_turns, layers_of, lisa_turns
from swift.tuners.llamapro import new_places
from tests.tiny import make_model
from tests.train.conftest import base, losses, rows, train  # noqa: F401
from tests.train.test_resume import weights

IDS = torch.arange(24).view(2, 12) + 5


def grown(model: Any, blocks: int, groups: int | None = None) -> Any:
    config = TunerConfig(train_type="llamapro", llamapro_num_new_blocks=blocks, llamapro_num_groups=groups)
    return tuners.get("llamapro")(model, config)


@pytest.mark.parametrize(
    ("blocks", "groups", "places"),
    [(2, None, [2, 5]), (4, 2, [2, 3, 6, 7]), (1, None, [4]), (4, None, [1, 3, 5, 7])],
)
def test_new_layers_change_nothing_and_alone_are_trained(blocks: int, groups: int | None, places: list[int]) -> None:
    model = make_model(num_hidden_layers=4)
    before = model(IDS).logits
    model = grown(model, blocks, groups)
    assert torch.equal(model(IDS).logits, before)
    assert model.config.num_hidden_layers == 4 + blocks == len(layers_of(model))
    trained = {int(name.split(".")[2]) for name, p in model.named_parameters() if p.requires_grad}
    assert sorted(trained) == places
    assert [layer.self_attn.layer_idx for layer in layers_of(model)] == list(range(4 + blocks))
    assert model.generate(IDS, max_new_tokens=3, do_sample=False).shape == (2, 15)


@pytest.mark.parametrize("kind", ["gpt2", "mixtral", "gemma2", "olmo2", "smollm3", "gpt_oss"])
def test_other_architectures_grow_and_load_alone(kind: str, tmp_path: Path) -> None:
    model = small(kind).eval()
    before = model(IDS).logits
    grown(model, 2)
    assert torch.equal(model(IDS).logits, before)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(again(IDS).logits, before)


def small(kind: str) -> Any:
    from transformers import AutoConfig

    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
    if kind == "gpt2":
        sizes = {"vocab_size": 64, "n_embd": 16, "n_layer": 4, "n_head": 2, "n_positions": 64}
    if kind in ("mixtral", "gpt_oss"):
        sizes |= {"num_local_experts": 2, "num_experts_per_tok": 1}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes), dtype=torch.float32)


@pytest.mark.parametrize(("blocks", "groups"), [(3, None), (4, 3), (2, 4)])
def test_layers_that_cannot_be_shared_out_are_refused(blocks: int, groups: int | None) -> None:
    config = TunerConfig(llamapro_num_new_blocks=blocks, llamapro_num_groups=groups)
    with pytest.raises(SwiftError, match="cannot be shared out"):
        new_places(4, config)


def test_a_run_leaves_a_whole_larger_model_and_resumes_exactly(
    train: Callable[..., SftResult],  # noqa: F811
    tmp_path: Path,
) -> None:
    common = {"train_type": "llamapro", "llamapro_num_new_blocks": 2, "max_steps": 6, "save_steps": 3}
    common |= {"learning_rate": 3e-3}
    whole = train(output_dir=str(tmp_path / "whole"), **common)
    assert losses(whole)[6] < losses(whole)[1]
    checkpoint = whole.run_folder / "checkpoint-3"  # type: ignore[operator]
    resumed = train(output_dir=str(tmp_path / "resumed"), resume_from_checkpoint=str(checkpoint), **common)
    ours, theirs = weights(whole), weights(resumed)
    assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in ours)
    assert AutoModelForCausalLM.from_pretrained(whole.checkpoint).config.num_hidden_layers == 4


def test_lisa_draws_by_seed_and_period_alone() -> None:
    turns = lisa_turns(8, 2, 5, seed=1)
    assert turns(0) == turns(4) and len(turns(0)) == 2
    assert len({frozenset(turns(step)) for step in range(0, 200, 5)}) > 10
    assert any(turns(step) != lisa_turns(8, 2, 5, seed=2)(step) for step in range(0, 50, 5))


@pytest.mark.parametrize("mode", ["ascending", "descending", "random"])
def test_every_layer_has_its_turn_before_any_has_it_again(mode: str) -> None:
    turns = block_turns(5, 3, mode, seed=0)
    order = [next(iter(turns(step))) for step in range(0, 30, 3)]
    assert sorted(order[:5]) == sorted(order[5:]) == list(range(5))
    assert mode == "random" or order[:5] == (list(range(5)) if mode == "ascending" else [4, 3, 2, 1, 0])


def test_resting_layers_have_neither_gradients_nor_state() -> None:
    model = make_model(num_hidden_layers=4)
    optimizer = torch.optim.AdamW(model.parameters())
    lisa = layer_turns(model, OptimizerConfig(lisa_activated_layers=1, lisa_step_interval=1), None, seed=0)
    assert lisa is not None
    state = type("State", (), {"global_step": 0})()
    for step in range(6):
        state.global_step = step
        lisa.on_step_begin(None, state, None, model=model, optimizer=optimizer)
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        active = {f"layers.{number}." for number in lisa.turns(step)}
        for name, parameter in model.named_parameters():
            resting = "layers." in name and not any(part in name for part in active)
            assert (parameter in optimizer.state) != resting, name
