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
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from swift.data.collator import segment_kwargs
from swift.models.segments import NAME, attend_by_segment, takes_borders
from tests.data.test_pack_leaks import SIZES

MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
    "window": (MistralConfig, MistralForCausalLM, {"sliding_window": 3}),
    "wide-window": (MistralConfig, MistralForCausalLM, {"sliding_window": 64}),
}
LENGTHS = (7, 12, 1, 5)


def model_of(name: str, attention: str = "sdpa") -> Any:
    config_class, model_class, more = MODELS[name]
    torch.manual_seed(0)
    config = config_class(**{**SIZES, **more})
    config._attn_implementation = attention
    return model_class(config).float()


def run(model: Any, **given: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[Any]]:
    """Logits and gradients of a pack, and the masks that attention gets."""
    masks: list[Any] = []
    hooks = [
        module.register_forward_pre_hook(lambda _m, _a, given: masks.append(given["attention_mask"]), with_kwargs=True)
        for name, module in model.named_modules()
        if name.endswith("self_attn")
    ]
    ids = torch.randint(0, 64, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    model.zero_grad()
    logits = model(input_ids=ids, position_ids=positions, use_cache=False, **given).logits
    logits.logsumexp(-1).square().sum().backward()
    for hook in hooks:
        hook.remove()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}, masks


@pytest.mark.parametrize("borders", [True, False], ids=["borders", "positions-alone"])
@pytest.mark.parametrize("name", list(MODELS))
def test_logits_and_gradients_are_those_of_the_masked_pack(name: str, borders: bool) -> None:
    model = model_of(name)
    logits, gradients, masks = run(model)
    assert masks and all(mask.dim() == 4 for mask in masks)
    assert attend_by_segment(model) and takes_borders(model)
    found, theirs, no_masks = run(model, **(segment_kwargs(LENGTHS) if borders else {}))
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(theirs[parameter], gradient, rtol=1e-3, atol=1e-4, msg=parameter)
    assert no_masks == [None, None]


def test_padded_batches_and_generation_keep_their_masks() -> None:
    model = model_of("llama")
    ids, mask = torch.arange(1, 17).reshape(2, 8), torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    expected = model(input_ids=ids, attention_mask=mask).logits
    greedy = model.generate(ids[:1], max_new_tokens=6, do_sample=False)
    assert attend_by_segment(model)
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, expected)
    assert model.generate(ids[:1], max_new_tokens=6, do_sample=False).tolist() == greedy.tolist()


def test_attention_that_cannot_be_replaced_stays() -> None:
    bloom = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2))
    capped = Gemma2ForCausalLM(Gemma2Config(**{**SIZES, "head_dim": 8}))
    for model in (bloom, capped, model_of("llama", "eager")):
        before = model.config._attn_implementation
        assert not attend_by_segment(model)
        assert model.config._attn_implementation == before != NAME


def test_a_model_that_does_something_else_with_its_mask_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    layer = model.model.layers[0].self_attn
    forward = layer.forward
    monkeypatch.setattr(
        layer, "forward", lambda *a, attention_mask, **k: forward(*a, attention_mask=attention_mask[:, :, :, :], **k)
    )
    assert not attend_by_segment(model)
    assert model.config._attn_implementation == "sdpa"
