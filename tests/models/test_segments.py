"""A model that attends sample by sample gives what it gives with a mask of the whole pack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from swift.models.segments import attend_by_segments, borders_or_mask, can_attend_by_segments

SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
    "gpt2": (GPT2Config, GPT2LMHeadModel, {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "window": (MistralConfig, MistralForCausalLM, {"sliding_window": 3}),
    "wide-window": (MistralConfig, MistralForCausalLM, {"sliding_window": 64}),
    "softcap": (Gemma2Config, Gemma2ForCausalLM, {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64}),
}
LENGTHS = (7, 12, 1, 5)


def model_of(name: str, attention: str) -> Any:
    config_class, model_class, more = MODELS[name]
    torch.manual_seed(0)
    config = config_class(**{**SIZES, **more})
    config._attn_implementation = attention
    return model_class(config).float()


def run(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[Any]]:
    """Logits and gradients of a pack, and the masks that attention gets."""
    masks: list[Any] = []
    hooks = [
        module.register_forward_pre_hook(lambda _m, _a, given: masks.append(given["attention_mask"]), with_kwargs=True)
        for name, module in model.named_modules()
        if name.endswith(("self_attn", ".attn"))
    ]
    ids = torch.randint(0, 64, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    model.zero_grad()
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    logits.logsumexp(-1).square().sum().backward()
    for hook in hooks:
        hook.remove()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}, masks


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        *[(name, attention) for name in MODELS if name != "softcap" for attention in ("sdpa", "eager")],
        ("softcap", "eager"),
    ],
)
def test_logits_and_gradients_are_those_of_the_masked_pack(name: str, attention: str) -> None:
    model = model_of(name, attention)
    logits, gradients, masks = run(model)
    assert all(mask.dim() == 4 for mask in masks) and masks
    assert can_attend_by_segments(model, attention, "cpu") and attend_by_segments(model)
    ours, theirs, borders = run(model)
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-5)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(theirs[parameter], gradient, rtol=1e-3, atol=1e-4, msg=parameter)
    # A window that is shorter than a sample keeps its mask.
    assert [mask.tolist() == [0, 7, 19, 20, 25] for mask in borders] == [name != "window"] * 2


def test_padded_batches_keep_their_masks() -> None:
    model = model_of("llama", "sdpa")
    ids, mask = torch.arange(1, 17).reshape(2, 8), torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    expected = model(input_ids=ids, attention_mask=mask).logits
    greedy = model.generate(ids[:1], max_new_tokens=6, do_sample=False)
    assert attend_by_segments(model)
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, expected)
    assert model.generate(ids[:1], max_new_tokens=6, do_sample=False).tolist() == greedy.tolist()


def test_attention_that_cannot_be_replaced_stays() -> None:
    config = BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2)
    assert not can_attend_by_segments(BloomForCausalLM(config), "eager", "cpu")
    model = model_of("llama", "sdpa")
    assert not can_attend_by_segments(model, "flash_attention_2", "cpu")
    assert not can_attend_by_segments(model, "sdpa", "cuda")


def test_a_model_that_does_something_else_with_its_mask_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama", "sdpa")
    layer = model.model.layers[0].self_attn
    forward = layer.forward
    monkeypatch.setattr(
        layer, "forward", lambda *a, attention_mask, **k: forward(*a, attention_mask=attention_mask[:, :, :, :], **k)
    )
    assert not attend_by_segments(model)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("sees", "borders"),
    [
        (lambda b, h, q, k: (q >= k) & (q // 3 == k // 3), [0, 3, 6, 9]),
        (lambda b, h, q, k: q >= k, [0, 9]),
        (lambda b, h, q, k: (q >= k) & (q - k < 4), None),
        (lambda b, h, q, k: q // 3 == k // 3, None),
    ],
)
def test_borders_are_read_off_causal_masks_alone(sees: Any, borders: list[int] | None) -> None:
    options = {"batch_size": 1, "q_length": 9, "kv_length": 9, "allow_is_causal_skip": False, "mask_function": sees}
    found = borders_or_mask(lambda **_: None, **options)
    assert (found is None) == (borders is None)
    assert found is None or found.tolist() == borders
