"""Each adapter: what it trains, and that it is the same after saving and loading, and after merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.tuners import tuners
from swift.tuners.adapters import add_adapters, save_adapter, tuner_of
from swift.tuners.families import table
from swift.tuners.longlora import shifted_attention
from swift.tuners.lora import lora_from
from tests.tiny import make_model
from tests.tuners.kinds import ADAPTERS, POSSIBLE_STARTS, STARTS, VIRTUAL

IDS = torch.arange(3, 27).view(2, 12)
TRAINED = {
    "lora": {"lora_A", "lora_B"},
    "adalora": {"lora_A", "lora_B", "lora_E"},
    "loha": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    "lokr": {"lokr_w1", "lokr_w2"},
    "vera": {"vera_lambda_b", "vera_lambda_d"},
    "boft": {"boft_R", "boft_s"},
    "oft": {"oft_R"},
    "fourierft": {"fourierft_spectrum"},
    "ia3": {"ia3_l"},
    "bone": {"miss_block"},
}
LINEAR = {
    f"model.layers.{layer}.{name}"
    for layer in (0, 1)
    for name in [
        *(f"self_attn.{part}_proj" for part in "qkvo"),
        *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
    ]
}
SCALED = {name for name in LINEAR if name.rpartition(".")[2] in ("k_proj", "v_proj", "down_proj")}


def options(kind: str, **more: Any) -> TunerConfig:
    return TunerConfig(train_type=kind, **{"adalora_total_step": 6, **ADAPTERS[kind], **more})


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def disturb(model: Any) -> None:
    """Move what is trained away from its start."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in trained(model).values():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found = model.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False).logits
    return found[:, -IDS.shape[1] :]


def test_the_table_names_every_tuner_that_is_tested() -> None:
    assert table().keys() == ADAPTERS.keys() | {"longlora"}
    assert all(name in tuners for name in table())


@pytest.mark.parametrize("kind", TRAINED)
def test_exactly_these_weights_are_trained(kind: str) -> None:
    model = tuners.get(kind)(make_model(), options(kind))
    modules = SCALED if kind == "ia3" else LINEAR
    expected = {(module, part) for module in modules for part in TRAINED[kind]}
    found = set()
    for name in trained(model):
        module, _, part = (
            name.removeprefix("base_model.model.").replace(".weight", "").removesuffix(".default").rpartition(".")
        )
        found.add((module, part))
    assert found == expected
    with torch.device("meta"):
        skeleton = make_model()
    planned = tuners.get(kind)(skeleton, options(kind))
    assert {name: w.shape for name, w in trained(planned).items()} == {n: w.shape for n, w in trained(model).items()}


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_are_all_that_is_trained(kind: str) -> None:
    model = tuners.get(kind)(make_model(), options(kind))
    # A prefix holds keys and values of 2 heads of 8 values in 2 layers.
    assert {name: tuple(w.shape) for name, w in trained(model).items()} == {
        "prompt_encoder.default.embedding.weight": (4, 32 if kind == "prompt" else 2 * 2 * 2 * 8)
    }


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_saved_and_loaded_is_the_same(kind: str, dtype: Any, tmp_path: Any) -> None:
    model = tuners.get(kind)(make_model(), options(kind, lora_dtype=dtype))
    assert {weight.dtype for weight in trained(model).values()} == {getattr(torch, dtype or "float32")}
    if dtype:
        return
    disturb(model)
    save_adapter(model, tmp_path)
    assert tuner_of(tmp_path) == kind
    loaded = add_adapters(make_model(), [tmp_path])
    assert not trained(loaded)
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), logits(make_model()), atol=1e-2)
    again = add_adapters(make_model(), [tmp_path], trainable=True)
    if kind != "adalora":
        assert trained(again).keys() == trained(model).keys()


def random_batches() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, 300, (2, 24), generator=generator) for _ in range(4)]
    return [{"input_ids": one, "attention_mask": torch.ones_like(one), "labels": one} for one in ids]


@pytest.mark.parametrize("start", POSSIBLE_STARTS)
def test_a_start_leaves_the_model_as_it_was_and_loads_onto_the_plain_base(start: str, tmp_path: Any) -> None:
    config = TunerConfig(**STARTS[start])
    model = lora_from(make_model(), config, random_batches())
    if start not in ("false", "orthogonal"):
        assert torch.allclose(logits(model), logits(make_model()), atol=1e-3)
    names = {name.rpartition(".lora_")[2] for name in trained(model)}
    assert names >= {"A.default.weight", "B.default.weight"}
    disturb(model)
    save_adapter(model, tmp_path)
    loaded = add_adapters(make_model(), [tmp_path])
    assert torch.allclose(logits(loaded), logits(model), atol=1e-3)
    assert not torch.allclose(logits(loaded), logits(make_model()), atol=1e-2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"init_weights": "best"}, "--init_weights best: LoRA has no such start"),
        ({"init_weights": "orthogonal", "lora_rank": 3}, "--lora_rank 3 is odd"),
        ({"init_weights": "pissa", "lora_dtype": "bfloat16"}, "--lora_dtype bfloat16"),
        ({"init_weights": "eva"}, "computed from data"),
        (
            {"lora_rank": 33},
            "--lora_rank 33 is more than any layer that gets it has: the largest, .*q_proj, is 32 x 32",
        ),
        ({"target_parameters": ["experts.up"]}, "--target_parameters experts.up: no such weight"),
        ({"trainable_token_indices": [999]}, "--trainable_token_indices 999"),
        ({"train_type": "bone", "init_weights": "pissa"}, "bone has no such start"),
        ({"train_type": "adalora", "adalora_total_step": 5, "adalora_tinit": 5}, "leave none of the 5 steps"),
        ({"train_type": "adalora", "adalora_total_step": 5, "adalora_target_r": 12}, "is not below"),
        ({"train_type": "boft", "boft_block_size": 5}, "PEFT refuses these options"),
        ({"train_type": "oft", "oft_block_size": 24}, "--oft_block_size 24 does not divide the 32 inputs of .*q_proj"),
        ({"train_type": "fourierft"}, "PEFT refuses these options"),
        ({"train_type": "ia3", "target_modules": ["q"]}, "--target_modules q: no such module"),
        ({"train_type": "ia3", "ia3_feedforward_modules": ["up"]}, "--ia3_feedforward_modules up: no such module"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], said: str) -> None:
    config = TunerConfig(**given)
    with pytest.raises(SwiftError, match=said):
        tuners.get(config.train_type)(make_model(), config)


@pytest.mark.newest  # Before transformers 5 each expert is a module.
def test_experts_without_modules_get_lora(tmp_path: Any) -> None:
    config = TunerConfig(
        target_modules=["q_proj"], target_parameters=["experts.down_proj"], lora_dropout=0, lora_rank=4
    )
    model = tuners.get("lora")(make_model("mixtral"), config)
    parts = {name.removeprefix("base_model.model.model.").rpartition(".lora_")[0] for name in trained(model)}
    assert parts == {f"layers.{layer}.{part}" for layer in (0, 1) for part in ("self_attn.q_proj", "mlp.experts")}
    disturb(model)
    save_adapter(model, tmp_path)
    assert torch.equal(logits(add_adapters(make_model("mixtral"), [tmp_path])), logits(model))


def test_biases_are_trained_where_they_are_asked_for() -> None:
    model = tuners.get("lora")(make_model("qwen2"), TunerConfig(lora_bias="all", target_modules=["q_proj"]))
    biases = {name for name in trained(model) if name.endswith("bias")}
    assert len(biases) == 6
    only = tuners.get("lora")(make_model("qwen2"), TunerConfig(lora_bias="lora_only", target_modules=["q_proj"]))
    assert {name for name in trained(only) if name.endswith("bias")} == {name for name in biases if "q_proj" in name}


@pytest.mark.parametrize("tied", [True, False])
def test_chosen_tokens_are_trained_beside_lora(tied: bool, tmp_path: Any) -> None:
    base = {"tie_word_embeddings": tied}
    model = tuners.get("lora")(make_model(**base), TunerConfig(trainable_token_indices=[4, 9]))
    rows = {name: tuple(w.shape) for name, w in trained(model).items() if "lora_" not in name}
    assert len(rows) == (1 if tied else 2) and set(rows.values()) == {(2, 32)}
    disturb(model)
    save_adapter(model, tmp_path)
    assert torch.equal(logits(add_adapters(make_model(**base), [tmp_path])), logits(model))


def test_longlora_attends_in_groups_while_it_trains() -> None:
    model = tuners.get("longlora")(
        make_model(num_key_value_heads=4), TunerConfig(train_type="longlora", lora_dropout=0)
    )
    plain = tuners.get("lora")(make_model(num_key_value_heads=4), TunerConfig(lora_dropout=0))
    assert trained(model).keys() == trained(plain).keys()
    assert torch.allclose(logits(model), logits(make_model(num_key_value_heads=4)), atol=1e-5)
    generator = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(2, 4, 10, 8, generator=generator) for _ in range(3))
    module = model.train().get_base_model().model.layers[0].self_attn
    found, _ = shifted_attention(module, query, key, value, None)
    for heads, borders in ((slice(0, 2), [0, 3, 6, 9]), (slice(2, 4), [0, 1, 4, 7])):
        group = torch.bucketize(torch.arange(10), torch.tensor(borders), right=True)
        mask = (group[:, None] == group[None]) & torch.ones(10, 10, dtype=torch.bool).tril()
        wanted = torch.nn.functional.scaled_dot_product_attention(
            query[:, heads], key[:, heads], value[:, heads], attn_mask=mask
        )
        assert torch.allclose(found.transpose(1, 2)[:, heads], wanted, atol=1e-6)
