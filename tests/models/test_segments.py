"""A model that attends sample by sample gives what it gives for each sample alone, and makes no mask of the pack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from swift.data.collator import segment_kwargs
from swift.models.segments import NAMES, attend_by_segment, takes_borders
from tests.data.test_pack_leaks import SIZES

GEMMA2 = {"head_dim": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0, "sliding_window": 3}
GPT_OSS = {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 3}
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
    "window": (MistralConfig, MistralForCausalLM, {"sliding_window": 3}),
    "wide-window": (MistralConfig, MistralForCausalLM, {"sliding_window": 64}),
    "caps": (Gemma2Config, Gemma2ForCausalLM, GEMMA2),
    "sinks": (GptOssConfig, GptOssForCausalLM, GPT_OSS),
}
SDPA = ("llama", "qwen3", "window", "wide-window")
LENGTHS = (7, 12, 1, 5)


def model_of(name: str, attention: str = "sdpa") -> Any:
    config_class, model_class, more = MODELS[name]
    torch.manual_seed(0)
    config = config_class(**{**SIZES, **more})
    config._attn_implementation = attention
    return model_class(config).float()


def pack() -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and positions, int64[1, n] both."""
    ids = torch.randint(0, 64, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))
    return ids, torch.cat([torch.arange(length) for length in LENGTHS])[None]


def run(model: Any, batches: Sequence[dict[str, Any]]) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[Any]]:
    """Logits and gradients of batches together, and the masks that attention gets."""
    masks: list[Any] = []
    hooks = [
        module.register_forward_pre_hook(lambda _m, _a, given: masks.append(given["attention_mask"]), with_kwargs=True)
        for name, module in model.named_modules()
        if name.endswith("self_attn")
    ]
    model.zero_grad()
    logits = torch.cat([model(use_cache=False, **batch).logits for batch in batches], dim=1)
    logits.logsumexp(-1).square().sum().backward()
    for hook in hooks:
        hook.remove()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}, masks


@pytest.mark.parametrize("borders", [True, False], ids=["borders", "positions-alone"])
@pytest.mark.parametrize(
    ("name", "attention"), [*((name, "sdpa") for name in SDPA), *((name, "eager") for name in MODELS)]
)
def test_logits_and_gradients_are_those_of_the_samples_alone(name: str, attention: str, borders: bool) -> None:
    if name == "sinks" and not borders:
        pytest.skip("the architecture masks without a look at positions")
    model, (ids, positions) = model_of(name, attention), pack()
    logits, gradients, _ = run(model, [{"input_ids": sample} for sample in ids.split(LENGTHS, dim=1)])
    assert attend_by_segment(model) and takes_borders(model)
    given = {"input_ids": ids, "position_ids": positions, **(segment_kwargs(LENGTHS) if borders else {})}
    found, theirs, masks = run(model, [given])
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(theirs[parameter], gradient, rtol=1e-3, atol=1e-4, msg=parameter)
    assert masks == [None, None] or name == "sinks"


def test_the_masked_pack_has_a_mask() -> None:
    ids, positions = pack()
    _, _, masks = run(model_of("llama"), [{"input_ids": ids, "position_ids": positions}])
    assert masks and all(mask.dim() == 4 for mask in masks)


@pytest.mark.parametrize("attention", list(NAMES))
def test_padded_batches_and_generation_keep_their_masks(attention: str) -> None:
    model = model_of("llama", attention)
    ids, mask = torch.arange(1, 17).reshape(2, 8), torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    expected = model(input_ids=ids, attention_mask=mask).logits
    greedy = model.generate(ids[:1], max_new_tokens=6, do_sample=False)
    assert attend_by_segment(model)
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, expected)
    assert model.generate(ids[:1], max_new_tokens=6, do_sample=False).tolist() == greedy.tolist()


def test_attention_that_cannot_be_replaced_stays() -> None:
    bloom = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2))
    capped = model_of("llama")
    capped.config.attn_logit_softcapping = 5.0
    for model in (bloom, capped):
        before = model.config._attn_implementation
        assert not attend_by_segment(model)
        assert model.config._attn_implementation == before not in NAMES.values()


def test_a_model_that_hands_no_borders_on_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    layer = model.model.layers[0].self_attn
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *a, segments=None, position_ids=None, **given: forward(*a, **given))
    assert not attend_by_segment(model)
    assert model.config._attn_implementation == "sdpa"
