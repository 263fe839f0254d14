"""A pack trains like its samples one by one: same loss, same gradients."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from swift.data import Collator, EncodedDataset, Layout, check_layers, check_packing, probe_packing
from swift.errors import SwiftError
from swift.models.segments import attend_by_segment
from swift.rows import IGNORE, EncodedRow

SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
WINDOWS = functools.partial(Qwen2Config, use_sliding_window=True, sliding_window=4, max_window_layers=1)
MODELS = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "windows": (WINDOWS, Qwen2ForCausalLM),
}


def tiny_model(name: str, attention: str, **changes):
    config_class, model_class = MODELS[name]
    torch.manual_seed(0)
    config = config_class(**SIZES | changes)
    config._attn_implementation = attention.removesuffix(" segments")
    model = model_class(config).float()
    assert not attention.endswith("segments") or attend_by_segment(model)
    return model


@pytest.fixture
def dataset() -> EncodedDataset:
    random = np.random.RandomState(0)
    samples = []
    for length in (7, 12, 1, 5, 9):
        ids = random.randint(1, 64, length).astype(np.int32)
        labels = np.where(random.rand(length) < 0.7, ids, IGNORE).astype(np.int32)
        labels[0] = ids[0]
        samples.append(EncodedRow(ids, labels))
    return EncodedDataset(samples)


def loss_and_gradients(model, batches, tokens: int):
    """Token-normalised loss over all batches, as the trainer forms it."""
    model.zero_grad()
    total = torch.zeros(())
    for batch in batches:
        labels = batch.pop("labels")
        logits = model(**batch, use_cache=False).logits
        total = total + torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum"
        )
    loss = total / tokens
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ["eager", "sdpa", "eager segments", "sdpa segments"])
@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("multiple", [None, 16])
def test_a_pack_gives_the_loss_and_gradients_of_its_samples(name, attention, multiple, dataset):
    model, tokens = tiny_model(name, attention), int(dataset.trained.sum())
    single = Collator(dataset, None, Layout(pad_token_id=0, padding_free=False))
    borders = attention.endswith("segments")
    layout = Layout(pad_token_id=0, padding_free=True, pad_to_multiple_of=multiple, borders=borders)
    packed = Collator(dataset, [[0, 1, 2], [3, 4]], layout)
    free = Collator(dataset, None, Layout(pad_token_id=0, padding_free=True))
    expected = loss_and_gradients(tiny_model(name, "eager"), [single([i]) for i in range(5)], tokens)
    layouts = {
        "two packs in two batches": [packed([0]), packed([1])],
        "two packs in one batch": [packed([0, 1])],
        "padding free": [free([4, 2, 0]), free([1, 3])],
        "padded": [single([0, 1, 2, 3, 4])],
        "with an empty micro-batch": [packed([0, 1]), packed([])],
    }
    for layout, batches in layouts.items():
        loss, gradients = loss_and_gradients(model, batches, tokens)
        assert torch.allclose(loss, expected[0], atol=1e-5, rtol=0), layout
        for weight, gradient in gradients.items():
            assert torch.allclose(gradient, expected[1][weight], atol=1e-5, rtol=0), (layout, weight)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "eager segments", "sdpa segments"])
@pytest.mark.parametrize("name", list(MODELS))
def test_the_probe_passes_models_that_keep_samples_apart(name, attention):
    model = tiny_model(name, attention).train()
    probe_packing(model, use_cache=False)
    probe_packing(model, borders=attention.endswith("segments"), use_cache=False)
    assert model.training


@pytest.mark.parametrize("changes", [{"attention_chunk_size": 4}, {"layer_types": ["chunked_attention"] * 2}])
def test_models_whose_layers_do_not_tell_their_masks_keep_them(changes):
    model = tiny_model("llama", "sdpa")
    for name, value in changes.items():
        setattr(model.config, name, value)
    assert not attend_by_segment(model)
    assert model.config._attn_implementation == "sdpa"


def test_attention_that_was_asked_for_by_name_stays():
    model = tiny_model("llama", "eager")
    model.config._attn_implementation = "flex_attention"
    assert not attend_by_segment(model) and model.config._attn_implementation == "flex_attention"


def test_the_probe_finds_a_cache_that_is_left_on():
    model = tiny_model("llama", "sdpa")
    with pytest.raises(SwiftError, match="sees the one before it"):
        probe_packing(model)
    model.config.use_cache = False
    probe_packing(model)


def test_the_probe_finds_a_model_that_does_not():
    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4))
    with pytest.raises(SwiftError, match="in bloom a sample of a pack sees the one before it"):
        probe_packing(model, use_cache=False)


@pytest.mark.parametrize(
    "config",
    [
        SimpleNamespace(model_type="qwen3_next", layer_types=["linear_attention", "full_attention"]),
        SimpleNamespace(model_type="new", layer_types=["mamba", "attention"]),
        SimpleNamespace(model_type="lfm2", layer_types=["conv", "full_attention"]),
        SimpleNamespace(model_type="granitemoehybrid", layers_block_type=["mamba", "attention"]),
        SimpleNamespace(model_type="mamba2"),
        SimpleNamespace(model_type="recurrent_gemma"),
        SimpleNamespace(model_type="some_vl", text_config=SimpleNamespace(model_type="t", layer_types=["recurrent"])),
    ],
    ids=lambda config: config.model_type,
)
def test_models_that_carry_a_state_are_refused_by_name(config):
    with pytest.raises(SwiftError, match=r"--packing: \w+ has [\w, -]+ layers, which carry one sample into the next"):
        check_packing(config)


def test_a_state_is_seen_in_the_parameters_of_a_model_that_no_table_knows():
    class Unknown(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.A_log = torch.nn.Parameter(torch.zeros(2, device="meta"))

    with pytest.raises(SwiftError, match="Unknown has A_log"):
        check_layers(Unknown())


def test_attention_models_are_accepted():
    check_layers(tiny_model("llama", "eager"))
    check_packing(LlamaConfig(**SIZES))
    check_packing(SimpleNamespace(model_type="granitemoehybrid", layer_types=["attention", "attention"]))
    check_packing(SimpleNamespace(model_type="gemma3", layer_types=["sliding_attention", "full_attention"]))
