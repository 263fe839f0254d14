"""The head some tokens at a time equals the whole one, and is used only where it is all that makes the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from swift.errors import SwiftError
from swift.rows import IGNORE
from swift.tasks import head as module
from swift.tasks.head import separable_head
from swift.tasks.token_logps import token_logps
from swift.train.result import SftResult
from tests.tiny import make_model
from tests.train.conftest import losses


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(300, (3, 20), generator=generator)
    labels = ids.masked_fill(torch.rand(3, 20, generator=generator) < 0.4, IGNORE)
    weights = torch.rand(3, 20, generator=generator)
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids), "weights": weights}


def gradients(model: Any, head: Any, inputs: dict[str, Any], smoothing: float) -> tuple[Any, dict[str, torch.Tensor]]:
    model.zero_grad()
    outputs, logits, _ = token_logps(model, inputs, select=True, label_smoothing=smoothing, head=head)
    assert (logits is None) == (head is not None)
    (outputs.logps * outputs.weights).sum().backward()
    return outputs.logps, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def full(model: Any) -> Any:
    return model


def with_bias(model: Any) -> Any:
    model.lm_head = torch.nn.Linear(32, model.config.vocab_size)
    return model


def lora(model: Any) -> Any:
    return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False))


def lora_on_the_head(model: Any) -> Any:
    return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False))


def head_saved_whole(model: Any) -> Any:
    return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("tuner", [full, with_bias, lora, lora_on_the_head, head_saved_whole])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equal_to_the_whole_head(
    tuner: Callable[[Any], Any], tied: bool, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tied and tuner is not full and tuner is not lora:
        pytest.skip("another head unties it")
    monkeypatch.setattr(module, "CPU_ELEMENTS", 320 * 7)
    model = tuner(make_model(tie_word_embeddings=tied))
    head = separable_head(model)
    assert head is not None
    plain, theirs = gradients(model, None, batch(), smoothing)
    chunked, ours = gradients(model, head, batch(), smoothing)
    torch.testing.assert_close(chunked, plain, rtol=1e-5, atol=1e-5)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("tuner", [full, lora])
def test_in_bfloat16_and_under_autocast_the_same_up_to_rounding(
    tuner: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CPU_ELEMENTS", 320 * 7)
    for dtype, autocast in ((torch.bfloat16, False), (torch.float32, True)):
        model = tuner(make_model(initializer_range=0.1).to(dtype))
        head = separable_head(model)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            plain, theirs = gradients(model, None, batch(), 0.0)
            chunked, ours = gradients(model, head, batch(), 0.0)
        torch.testing.assert_close(chunked, plain, rtol=1e-2, atol=1e-2)
        for name, gradient in ours.items():
            error = (gradient - theirs[name]).float().norm() / theirs[name].float().norm()
            assert error < 2e-2, name


@pytest.mark.parametrize("tuner", [full, lora, lora_on_the_head])
def test_a_batch_without_trained_tokens_gives_zero_gradients(tuner: Callable[[Any], Any]) -> None:
    model = tuner(make_model())
    inputs = batch()
    inputs["labels"] = torch.full_like(inputs["labels"], IGNORE)
    _, found = gradients(model, separable_head(model), inputs, 0.0)
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(not gradient.any() for gradient in found.values())


def test_heads_whose_logits_are_changed_afterwards_keep_the_plain_way() -> None:
    from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig

    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    for config in (Gemma2Config(**sizes), GraniteConfig(**sizes, logits_scaling=4.0), CohereConfig(**sizes)):
        assert separable_head(AutoModelForCausalLM.from_config(config)) is None, type(config).__name__
    assert separable_head(make_model().to("meta")) is not None
    assert separable_head(torch.nn.Linear(2, 2)) is None


def test_a_run_is_the_same_either_way(train: Callable[..., SftResult], tmp_path: Any) -> None:
    for kind in ("lora", "full"):
        plain, chunked = (
            train(
                output_dir=str(tmp_path / f"{kind} {way}"),
                max_steps=3,
                train_type=kind,
                lora_dropout=0.0,
                learning_rate=1e-3,
                chunked_cross_entropy=way,
            )
            for way in (False, True)
        )
        assert list(losses(chunked).values()) == pytest.approx(list(losses(plain).values()), rel=1e-5)


def test_dft_weighs_each_token_by_its_probability(train: Callable[..., SftResult]) -> None:
    from swift.objectives.dft import dft
    from swift.objectives.types import TokenLogps

    logps = torch.tensor([-0.5, -2.0], requires_grad=True)
    loss = dft(TokenLogps(logps, torch.tensor([1.0, 0.5]))).total
    loss.backward()
    p = logps.detach().exp()
    torch.testing.assert_close(loss.detach(), 0.5 * p[0] + 1.0 * p[1])
    torch.testing.assert_close(logps.grad, -p * torch.tensor([1.0, 0.5]))
    with pytest.raises(SwiftError, match="--enable_dft_loss true with --loss_type cross_entropy"):
        train(enable_dft_loss=True, loss_type="cross_entropy")
