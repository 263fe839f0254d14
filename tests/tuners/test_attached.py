"""Adapters that change what modules give: what they compute, where, and that they come back alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import gelu, linear

from swift import Swift
from swift.config import TunerConfig
from swift.errors import SwiftError
from swift.tuners import tuners
from swift.tuners.adapters import add_adapters, save_adapter, tuner_of
from swift.tuners.houlsby import Bottleneck
from swift.tuners.reft import Intervention, Positions, note_prompts, read_positions
from tests.tiny import make_model
from tests.tuners.kinds import ATTACHED
from tests.tuners.test_families import disturb, logits, trained

WIDTH, RANK = 32, 4


def attach(case: str, model: Any = None, **more: Any) -> Any:
    config = TunerConfig(**ATTACHED[case] | more)
    return tuners.get(config.train_type)(model or make_model(), config)


@pytest.mark.parametrize("case", ATTACHED)
def test_exactly_the_parts_are_trained(case: str) -> None:
    model = attach(case)
    names = {name.split(".swift_part.")[0] for name in trained(model)}
    layers = [1] if case == "reft of a prompt" else [0, 1]
    inside = {"adapter": ["self_attn", "mlp"], "adapter of mlp": ["mlp"]}.get(case, [""])
    assert names == {f"model.layers.{layer}.{part}".rstrip(".") for layer in layers for part in inside}
    values = sum(weight.numel() for weight in trained(model).values())
    length = 6 if case == "adapter" else 128
    places = len(layers) * len(inside)
    rank = 2 if case == "reft of a prompt" else RANK
    matrices = 1 if case in ("Consreft", "Lobireft") else 2
    one = 2 * WIDTH * length + WIDTH + length if "adapter" in case else matrices * rank * WIDTH + rank
    assert values == places * one
    with torch.device("meta"):
        skeleton = make_model()
    planned = attach(case, skeleton)
    assert {name: w.shape for name, w in trained(planned).items()} == {n: w.shape for n, w in trained(model).items()}


@pytest.mark.parametrize("case", ATTACHED)
def test_saved_and_loaded_is_the_same(case: str, tmp_path: Path) -> None:
    model = attach(case)
    start = logits(model)
    if case not in ("Consreft", "reft of a prompt"):
        near = 0.5 if "adapter" in case else 1e-4
        assert torch.allclose(start, logits(make_model()), atol=near)
    disturb(model)
    save_adapter(model, tmp_path)
    assert tuner_of(tmp_path) == ATTACHED[case]["train_type"]
    loaded = add_adapters(make_model(), [tmp_path])
    assert not trained(loaded)
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), logits(make_model()), atol=1e-2)
    again = Swift.from_pretrained(make_model(), tmp_path, is_trainable=True)
    assert trained(again).keys() == trained(model).keys()
    assert {weight.dtype for weight in trained(attach(case, lora_dtype="bfloat16")).values()} == {torch.bfloat16}
    assert {weight.dtype for weight in trained(attach(case, make_model().bfloat16())).values()} == {torch.float32}


def test_a_bottleneck_is_its_formula() -> None:
    part = Bottleneck(WIDTH, 6, "gelu")
    assert 0.5e-2 < part.down.weight.std() < 1e-2 and part.up.weight.abs().max() <= 2e-2
    x = torch.randn(2, 5, WIDTH)
    wanted = x + linear(gelu(linear(x, part.down.weight, part.down.bias)), part.up.weight, part.up.bias)
    assert torch.allclose(part(x), wanted, atol=1e-6)


@pytest.mark.parametrize("form", ["Noreft", "Loreft", "Consreft", "Lobireft", "Direft", "Nodireft"])
def test_an_intervention_is_its_formula(form: str) -> None:
    torch.manual_seed(3)
    part = Intervention(form, WIDTH, RANK, "linear", 0.0, Positions("all"))
    with torch.no_grad():
        for weight in part.parameters():
            weight += torch.randn(weight.shape)
    h = torch.randn(2, 5, WIDTH)
    rows = part.directions()
    free = form in ("Noreft", "Nodireft")
    assert torch.allclose(rows @ rows.T, torch.eye(RANK), atol=1e-5) is not free
    # The same directions are spanned by the trained rows.
    assert torch.allclose(rows @ torch.linalg.pinv(part.rotate) @ part.rotate, rows, atol=1e-4)
    w, b = part.source, part.bias
    wanted = {
        "Noreft": lambda: h + (h @ w.T + b - h @ rows.T) @ rows,
        "Loreft": lambda: h + (h @ w.T + b - h @ rows.T) @ rows,
        "Consreft": lambda: h + (b - h @ rows.T) @ rows,
        "Lobireft": lambda: h + b @ rows,
        "Direft": lambda: h + (h @ w.T + b) @ rows,
        "Nodireft": lambda: h + (h @ w.T + b) @ rows,
    }[form]()
    assert torch.allclose(part(h), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "wanted"), [("f7+l7", (7, 7)), ("f3", (3, 0)), ("l2", (0, 2)), ("", None), ("f0", None), ("x", None)]
)
def test_positions_are_read(text: str, wanted: tuple[int, int] | None) -> None:
    if wanted is None:
        with pytest.raises(SwiftError, match='"positions" is'):
            read_positions(text)
    else:
        assert read_positions(text) == wanted


def test_chosen_positions_of_the_prompt_are_edited() -> None:
    model = attach("reft of a prompt")
    where = next(iter(model._swift_attached.parts.values())).where
    ids = torch.arange(3, 15)[None].repeat(2, 1)
    labels = torch.tensor([[-100] * 7 + [1] * 5, [-100] * 4 + [1] * 6 + [-100] * 2])
    note_prompts(model, labels)
    model(input_ids=ids, attention_mask=(labels > -200).long(), use_cache=False)
    assert where.mask.int().tolist() == [[1, 1, 1, 0, 0, 1, 1] + [0] * 5, [1, 1, 1, 1] + [0] * 8]
    mask = torch.tensor([[0, 0] + [1] * 10, [1] * 12])
    model(input_ids=ids, attention_mask=mask, use_cache=False)
    assert where.mask.int().tolist() == [[0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1], [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]]


def test_generation_edits_the_prompt_alone() -> None:
    model = attach("reft of a prompt")
    disturb(model)
    ids = torch.arange(3, 15)[None]
    found = model.eval().generate(ids, max_new_tokens=4, do_sample=False, use_cache=True)
    labels = torch.full_like(found, -100)
    labels[:, 12:] = 1
    note_prompts(model, labels)
    whole = model(input_ids=found, use_cache=False).logits.argmax(-1)
    assert torch.equal(whole[:, 11:-1], found[:, 12:])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train_type": "adapter", "target_modules": ["q"]}, "--target_modules q: no such module"),
        ({"train_type": "adapter", "target_modules": ["k_proj"]}, "k_proj gives 16 values, and the model is 32 wide"),
        ({"train_type": "reft", "reft_layers": [2]}, "--reft_layers 2: there is no such layer"),
        ({"train_type": "reft", "reft_layer_key": "blocks"}, "--reft_layer_key blocks: no such list"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SwiftError, match=said):
        tuners.get(given["train_type"])(make_model(), TunerConfig(**given))


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    save_adapter(attach("Loreft"), tmp_path)
    with pytest.raises(SwiftError, match="and this model wants"):
        add_adapters(make_model(hidden_size=64), [tmp_path])
    with pytest.raises(SwiftError, match="another architecture"):
        add_adapters(make_model(num_hidden_layers=1), [tmp_path])
    with pytest.raises(SwiftError, match="reft does not act together with others"):
        add_adapters(make_model(), [tmp_path, tmp_path])
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "REFT" and config["settings"]["rank"] == RANK
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == 6
