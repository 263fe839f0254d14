"""Adapters on quantised weights from options to answers, and what cannot be trained on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swift.config import SftConfig, TunerConfig
from swift.engines import PtEngine
from swift.errors import SwiftError
from swift.models import load_model
from swift.models.quantization import Quantization, is_quantised, quantised_layers
from swift.train.result import SftResult
from swift.train.tuning import check_tuner
from swift.tuners import tuners
from swift.tuners.adapters import add_adapters, save_adapter
from tests.tiny import make_model, save_tiny
from tests.train.conftest import losses
from tests.train.test_tuner_runs import answer
from tests.tuners.kinds import ADAPTERS
from tests.tuners.test_families import disturb, logits

Train = Callable[..., SftResult]
RUNS: dict[str, dict[str, Any]] = {
    "nf4": {"quant_method": "bnb"},
    "fp4": {"quant_method": "bnb", "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False},
    "int8": {"quant_method": "bnb", "quant_bits": 8},
    "hqq": {"quant_method": "hqq", "hqq_axis": 0},
    "quanto": {"quant_method": "quanto", "quant_bits": 4},
    "torchao": {"quant_method": "torchao"},
    "torchao float8": {"quant_method": "torchao", "quant_bits": "float8"},
}
STEPS, STOP = 6, 4
WIDE = {"hidden_size": 64, "intermediate_size": 128}
METHODS = [Quantization("bnb", "4"), Quantization("bnb", "8"), Quantization("hqq", "4"), Quantization("quanto", "8")]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for bitsandbytes, whose blocks hold 64 values of a row."""
    return save_tiny(tmp_path_factory.mktemp("models") / "wide", **WIDE)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.newest] if "torchao" in case else []) for case in RUNS]
)
def test_a_run(case: str, train: Train, base: Path, tmp_path: Path) -> None:
    common = {"max_steps": STEPS, "save_steps": STOP, "learning_rate": 1e-2} | RUNS[case]
    common |= {"split_dataset_ratio": 0.2, "eval_steps": 2}
    whole = train(output_dir=str(tmp_path / "whole"), **common)
    assert losses(whole)[STEPS] < losses(whole)[1]
    assert whole.run_folder is not None and whole.checkpoint is not None
    broken = whole.run_folder / f"checkpoint-{STOP}"
    resumed = train(output_dir=str(tmp_path / "again"), resume_from_checkpoint=str(broken), **common)
    ours, theirs = (load_file(run.checkpoint / "adapter_model.safetensors") for run in (whole, resumed))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

    engine = PtEngine(None, adapters=str(whole.checkpoint), torch_dtype="float32")
    assert is_quantised(engine.model)
    assert len(answer(engine)[0]) > 0
    other = {"quant_method": "hqq", "quant_bits": "3"}
    with pytest.raises(SwiftError, match=r"is .* and was"):
        train(output_dir=str(tmp_path / "x"), resume_from_checkpoint=str(broken), **common | other)


@pytest.mark.newest  # Older versions of PEFT adapt fewer kinds of layers.
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("kind", [*ADAPTERS, "dora"])
def test_each_tuner_on_quantised_weights(kind: str, method: Quantization, base: Path, tmp_path: Path) -> None:
    given = {"use_dora": True} if kind == "dora" else {"train_type": kind, **ADAPTERS[kind]}
    try:
        check_tuner(SftConfig.of(model="x", quant_method=method.method, quant_bits=method.bits, **given))
    except SwiftError as error:
        assert "PEFT cannot put it on these layers" in error.what
        return
    config = TunerConfig(**{"adalora_total_step": 6, **given})
    model = tuners.get(config.train_type)(load_model(base, quantization=method, for_training=True).model, config)
    disturb(model)
    save_adapter(model, tmp_path / "adapter")
    loaded = add_adapters(load_model(base, quantization=method).model, [tmp_path / "adapter"])
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train_type": "full"}, "--train_type full with --quant_method bnb: quantised weights cannot be trained"),
        ({"train_type": "freeze"}, "--train_type freeze with --quant_method bnb"),
        ({"train_type": "llamapro"}, "--train_type llamapro with --quant_method bnb"),
        ({"train_type": "loha"}, "--train_type loha with --quant_method bnb --quant_bits 4: PEFT"),
        ({"quant_bits": "8", "use_dora": True}, "--use_dora true with --quant_method bnb --quant_bits 8: PEFT"),
        ({"init_weights": "pissa"}, "--init_weights pissa with --quant_method bnb: it is computed from weights"),
    ],
)
def test_what_quantised_weights_cannot(options: dict[str, Any], said: str, train: Train) -> None:
    with pytest.raises(SwiftError) as caught:
        train(model="no-such-model", quant_method="bnb", **options)
    assert said in caught.value.what


def test_an_adapter_remembers_how_its_base_was_quantised(train: Train, base: Path, tmp_path: Path) -> None:
    run = train(quant_method="hqq", quant_bits=3, max_steps=3)
    adapter, f32 = str(run.checkpoint), {"torch_dtype": "float32"}
    found = PtEngine(None, adapters=adapter, **f32)
    asked = PtEngine(str(base), adapters=adapter, quant_method="hqq", quant_bits=3, load_args=False, **f32)
    assert answer(found) == answer(asked)
    assert not is_quantised(PtEngine(None, adapters=adapter, load_args=False, **f32).model)
    more = train(output_dir=str(tmp_path / "more"), adapters=[adapter], max_steps=1)
    assert losses(more)[1] < losses(run)[1]


def test_quantised_modules_are_not_trained_beside_the_adapter(train: Train) -> None:
    with pytest.raises(SwiftError, match="--modules_to_save up_proj: the weights of "):
        train(quant_method="bnb", modules_to_save=["up_proj"])
    assert train(quant_method="bnb", modules_to_save=["lm_head"], max_steps=1).steps == 1


def test_a_model_that_came_quantised_is_trained_as_it_came(base: Path, train: Train, tmp_path: Path) -> None:
    came = tmp_path / "came"
    load_model(base, dtype="float32", quantization=Quantization("bnb", "4")).model.save_pretrained(came)
    for file in base.glob("*token*"):
        (came / file.name).write_bytes(file.read_bytes())
    (came / "chat_template.jinja").write_bytes((base / "chat_template.jinja").read_bytes())
    run = train(model=str(came), output_dir=str(tmp_path / "run"), max_steps=4)
    assert losses(run)[4] < losses(run)[1]
    assert is_quantised(PtEngine(None, adapters=str(run.checkpoint)).model)
    with pytest.raises(SwiftError, match="--train_type full with a model whose weights are quantised by bitsandbytes"):
        train(model=str(came), train_type="full")


@pytest.mark.parametrize("start", ["eva", "gaussian"])
def test_starts_that_need_no_weights_in_full(start: str, train: Train) -> None:
    run = train(quant_method="hqq", init_weights=start, lora_rank=2, max_steps=4)
    assert losses(run)[4] < losses(run)[1]


def test_the_plan_is_smaller_where_weights_are_quantised(train: Train) -> None:
    # In another dtype than the files', whose pages would stay in RAM.
    plain, packed = (
        train(dry_run=True, torch_dtype="bfloat16", **given).planned for given in ({}, {"quant_method": "bnb"})
    )
    linear = sum(layer.weight.numel() for _, layer in quantised_layers(make_model(**WIDE)))
    assert plain - packed == pytest.approx(1.5 * linear, rel=0.3)
