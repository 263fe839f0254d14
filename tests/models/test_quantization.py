"""Weights quantised while they load: what they weigh, what is refused, and that an adapter on them comes back alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.config import ModelConfig, TunerConfig
from swift.errors import SwiftError
from swift.models import load_model, quantization
from swift.models.quantization import METHODS, Quantization, packed_bytes, quantised_layers
from swift.models.skeleton import model_skeleton
from swift.tuners.targets import ALL_LINEAR, targets_of
from tests.tiny import make_model, save_tiny

SIZES = {"hidden_size": 256, "intermediate_size": 512}
ASKED = [
    Quantization("bnb", "4"),
    Quantization("bnb", "4", quant_type="fp4", double_quant=False),
    Quantization("bnb", "8"),
    *(Quantization("hqq", bits) for bits in ("1", "2", "3", "4", "8")),
    *(Quantization("quanto", bits) for bits in ("2", "4", "8", "float8")),
    *(pytest.param(Quantization("torchao", bits), marks=pytest.mark.newest) for bits in ("8", "float8")),
]
IDS = torch.arange(3, 27).view(2, 12)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", **SIZES)


def stored(value: Any) -> int:
    """Bytes of the tensors that a packed weight or layer is made of."""
    if isinstance(value, torch.Tensor) and hasattr(value, "__tensor_flatten__"):
        names, _ = value.__tensor_flatten__()
        return sum(stored(getattr(value, name)) for name in names)
    if isinstance(value, torch.Tensor):
        state = getattr(value, "quant_state", None)
        inner = getattr(value, "SCB", None) if state is None else state.absmax
        nested = getattr(state, "state2", None)
        extra = [part for part in (inner, getattr(nested, "absmax", None)) if part is not None]
        return value.nbytes + sum(part.nbytes for part in extra)
    meta = value.meta
    return value.W_q.nbytes + sum(part.nbytes for part in meta.values() if isinstance(part, torch.Tensor))


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_the_plan_knows_what_packed_weights_weigh(asked: Quantization, base: Path) -> None:
    names = [name for name, _ in quantised_layers(make_model(**SIZES))]
    model = load_model(base, dtype="float32", quantization=asked).model
    found = 0
    for name in names:
        layer = model.get_submodule(name)
        found += stored(layer if asked.method == "hqq" else layer.weight)
    plain = sum(layer.weight.nbytes for _, layer in quantised_layers(make_model(**SIZES)))
    assert plain - packed_bytes(make_model(**SIZES), asked).saved == pytest.approx(found, rel=0.03)
    off = (model(IDS).logits - make_model(**SIZES)(IDS).logits).std() / make_model(**SIZES)(IDS).logits.std()
    assert 0 < off < (0.3 if asked.bits in ("8", "float8") else 2)


def test_layers_of_other_libraries_are_linear_too(base: Path) -> None:
    model = load_model(base, quantization=Quantization("hqq", "4")).model
    assert set(targets_of(model, TunerConfig())) == {name for name, _ in quantised_layers(make_model(**SIZES))}
    bnb = load_model(base, quantization=Quantization("bnb", "4")).model
    assert targets_of(bnb, TunerConfig()) == ALL_LINEAR


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quant_method": "bnb", "quant_bits": "3"}, "--quant_bits 3 with --quant_method bnb.*it has 4, 8"),
        ({"quant_method": "eetq"}, "--quant_method eetq: it needs cuda, and the device is cpu.*here run bnb"),
        ({"quant_method": "fp8"}, "--quant_method fp8: it needs cuda or xpu, and the device is cpu"),
    ],
)
def test_what_does_not_run_here_is_told_before_the_model_is_looked_for(given: dict[str, str], said: str) -> None:
    from swift.models.load import check_loading

    with pytest.raises(SwiftError, match=f"(?s){said}"):
        check_loading(ModelConfig(model="no-such-model", device_map="cpu", **given))  # type: ignore[arg-type]


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "_installed", lambda package: False)
    for name, method in METHODS.items():
        said = quantization.lacking(method.packages, ("cpu",), torch.device("cpu"), name)
        assert (said is None) == (not method.packages)
        assert said is None or said[1].startswith("pip install ")


@pytest.mark.newest  # The oldest supported versions have no torchao beside them.
@pytest.mark.parametrize("method", METHODS)
def test_each_is_asked_of_transformers_by_its_own_config(method: str) -> None:
    build = METHODS[method].build
    if build is None:
        assert method == "hqq"
        return
    for bits in METHODS[method].bits:
        built = build(Quantization(method, bits), torch.float32)
        assert built.quant_method.value == {"bnb": "bitsandbytes"}.get(method, method)


def test_every_option_of_bnb_reaches_its_config() -> None:
    asked = Quantization.of(
        ModelConfig(
            quant_method="bnb",
            bnb_4bit_compute_dtype="float16",
            bnb_4bit_quant_type="fp4",
            bnb_4bit_use_double_quant=False,
            bnb_4bit_quant_storage="bfloat16",
        )
    )
    assert asked is not None and METHODS["bnb"].build is not None
    built = METHODS["bnb"].build(asked, torch.float32)
    assert built.load_in_4bit and not built.bnb_4bit_use_double_quant and built.bnb_4bit_quant_type == "fp4"
    assert (built.bnb_4bit_compute_dtype, built.bnb_4bit_quant_storage) == (torch.float16, torch.bfloat16)
    plain = METHODS["bnb"].build(Quantization("bnb", "4"), torch.bfloat16)
    assert plain.bnb_4bit_compute_dtype == torch.bfloat16 and plain.bnb_4bit_use_double_quant


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gptq", "quantised by gptq: the package .* is not installed.*pip install"),
        ("awq", "quantised by awq: the package .* is not installed"),
        ("aqlm", "quantised by aqlm: the package aqlm is not installed"),
        ("compressed-tensors", "the package compressed_tensors is not installed"),
        ("eetq", "quantised by eetq: it needs cuda, and the device is cpu"),
    ],
)
def test_a_model_that_came_quantised_says_what_it_needs(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit_json: Callable[..., None]
) -> None:
    monkeypatch.setattr(quantization, "_installed", lambda package: False)
    folder = save_tiny(tmp_path / "quantised")
    edit_json(folder / "config.json", quantization_config={"quant_method": name, "bits": 4})
    with pytest.raises(SwiftError, match=f"(?s){said}"):
        load_model(folder, device_map="cpu")
    with pytest.raises(SwiftError, match=f"--quant_method bnb: .* quantised already, by {name}"):
        load_model(folder, device_map="cpu", quantization=Quantization("bnb", "4"))


def test_a_model_that_came_quantised_loads_as_it_came(base: Path, tmp_path: Path) -> None:
    first = load_model(base, dtype="float32", quantization=Quantization("bnb", "4")).model
    first.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["quant_method"] == "bitsandbytes"
    again = load_model(tmp_path).model
    assert type(again.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    assert torch.equal(again(IDS).logits, first(IDS).logits)
    packed = model_skeleton(tmp_path, ModelConfig(model=str(tmp_path))).packed
    whole = sum(weight.nbytes for weight in make_model(**SIZES).parameters())
    assert (
        packed is not None
        and packed.whole == 0
        and packed.saved == whole - (tmp_path / "model.safetensors").stat().st_size
    )
