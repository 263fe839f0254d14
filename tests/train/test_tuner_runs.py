"""Each adapter from options to answers: the loss falls, a resumed run is the unbroken one, it serves and merges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swift.engines import InferRequest, PtEngine, RequestConfig
from swift.errors import SwiftError
from swift.export.merge import merge_lora
from swift.train.result import SftResult
from tests.tiny import ask
from tests.train.conftest import losses
from tests.tuners.kinds import ADAPTERS, ATTACHED, STARTS, VIRTUAL

RATES = {"ia3": 0.1, "prompt": 0.3, "prefix": 0.1, "vera": 0.1, "fourierft": 0.02, "lora-ga": 1e-3, "pissa": 1e-3}
CASES: dict[str, dict[str, Any]] = {
    **{kind: {"train_type": kind, **given} for kind, given in ADAPTERS.items() if kind != "lora"},
    "adalora-cuts-seldom": {
        **{"train_type": "adalora", "adalora_init_r": 6, "adalora_target_r": 3},
        **{"adalora_deltaT": 3, "adalora_tinit": 1, "adalora_tfinal": 2},
    },
    **{start: STARTS[start] for start in ("dora", "pissa-rslora", "olora", "eva", "corda", "lora-ga")},
    "longlora": {"train_type": "longlora"},
    **{name: ATTACHED[name] for name in ("adapter", "Loreft", "Nodireft", "reft of a prompt")},
    "lora+": {"lorap_lr_ratio": 8.0},
    "tokens": {"new_special_tokens": ["<mark>", "<end>"]},
}
STEPS, STOP = 6, 4
Train = Callable[..., SftResult]


def answer(engine: PtEngine) -> list[Any]:
    requests = [InferRequest(ask(text)) for text in ("what is the sky?", "hi")]
    return [response.choices[0].token_ids for response in engine.infer(requests, RequestConfig(12, temperature=0))]


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.newest] if case == "lora-ga" else []) for case in CASES]
)
def test_a_run(case: str, train: Train, tmp_path: Path) -> None:
    common = {"max_steps": STEPS, "save_steps": STOP, "learning_rate": RATES.get(case.split("-rs")[0], 1e-2)} | CASES[
        case
    ]
    whole = train(output_dir=str(tmp_path / "whole"), **common)
    assert losses(whole)[STEPS] < losses(whole)[1]
    assert whole.run_folder is not None and whole.checkpoint is not None
    broken = whole.run_folder / f"checkpoint-{STOP}"
    resumed = train(output_dir=str(tmp_path / "again"), resume_from_checkpoint=str(broken), **common)
    after = {step: loss for step, loss in losses(whole).items() if step > STOP}
    assert {step: loss for step, loss in losses(resumed).items() if step > STOP} == after
    ours, theirs = (load_file(run.checkpoint / "adapter_model.safetensors") for run in (whole, resumed))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

    served = answer(PtEngine(None, adapters=str(whole.checkpoint), torch_dtype="float32"))
    if case in VIRTUAL:
        with pytest.raises(SwiftError, match=f"{case} tuning trains virtual tokens"):
            merge_lora(str(whole.checkpoint))
        return
    if case in ATTACHED:
        with pytest.raises(SwiftError, match="changes what modules give, not their weights"):
            merge_lora(str(whole.checkpoint))
        return
    merged = merge_lora(str(whole.checkpoint), tmp_path / "merged")
    assert answer(PtEngine(str(merged), torch_dtype="float32")) == served


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train_type": "prompt", "packing": True}, "--packing true with --train_type prompt"),
        ({"train_type": "longlora", "padding_free": True}, "--padding_free true with --train_type longlora"),
        ({"train_type": "prefix", "gradient_checkpointing": True}, "get no prefix"),
        ({"train_type": "vera", "new_special_tokens": ["<a>"]}, "--new_special_tokens with --train_type vera"),
        ({"init_weights": "loftq"}, "--init_weights loftq: PEFT"),
        ({"init_weights": "bat"}, "LoRA has no such start"),
        ({"train_type": "adapter", "adapter_act": "soft"}, "--adapter_act soft: no such activation"),
        ({"train_type": "reft", "reft_args": "{"}, "--reft_args is no JSON"),
        ({"train_type": "reft", "reft_args": '{"position": 1}'}, "--reft_args: position"),
        ({"train_type": "reft", "reft_args": '{"positions": "first"}'}, "write all, or f7+l7"),
        ({"train_type": "reft", "reft_args": '{"positions": "l2"}', "packing": True}, "cannot be told apart"),
        ({"train_type": "reft", "quant_method": "bnb"}, "--train_type reft with --quant_method bnb"),
        ({"train_type": "oft", "init_weights": "pissa"}, "oft has no such start"),
        ({"optimizer": "lorap"}, "it needs LoRA and a ratio"),
        ({"init_weights": "pissa", "load_best_model_at_end": True}, "--load_best_model_at_end true with lora"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], said: str, train: Train) -> None:
    with pytest.raises(SwiftError) as caught:
        train(model="no-such-model", **options)
    assert said in f"{caught.value.what} {caught.value.fix}"


def test_training_goes_on_from_each_kind_of_adapter(train: Train, tmp_path: Path) -> None:
    for kind in ("adalora", "vera", "prompt", "pissa"):
        options = CASES.get(kind, {"init_weights": "pissa"}) | {"learning_rate": RATES.get(kind, 1e-2), "max_steps": 3}
        first = train(output_dir=str(tmp_path / kind), **options)
        again = train(output_dir=str(tmp_path / f"{kind}-again"), adapters=[str(first.checkpoint)], max_steps=2)
        assert losses(again)[1] < losses(first)[1]
        with pytest.raises(SwiftError, match="--train_type boft: the adapter is"):
            train(output_dir=str(tmp_path / "x"), adapters=[str(first.checkpoint)], train_type="boft")


def test_new_tokens_are_trained_with_whole_weights_too(train: Train, tmp_path: Path) -> None:
    run = train(train_type="full", learning_rate=1e-3, max_steps=2, new_special_tokens=["<mark>"])
    engine = PtEngine(str(run.checkpoint))
    token = engine.tokenizer.convert_tokens_to_ids("<mark>")
    assert engine.tokenizer.tokenize("a<mark>b")[1] == "<mark>"
    assert engine.model.get_input_embeddings().weight.shape[0] == token + 1 == engine.model.config.vocab_size


@pytest.mark.newest  # Before transformers 5 each expert is a module.
def test_lora_on_fused_experts_trains_without_dropout(train: Train, tmp_path: Path, capsys: Any) -> None:
    from tests.tiny import save_tiny

    model = save_tiny(tmp_path / "experts", "mixtral")
    result = train(model=str(model), max_steps=2)
    assert "PEFT has no dropout before the weights of fused experts" in capsys.readouterr().err
    settings = json.loads((result.checkpoint / "adapter_config.json").read_text())  # type: ignore[operator]
    assert settings["lora_dropout"] == 0 and settings["target_parameters"]
    again = train(model=str(model), max_steps=4, resume_from_checkpoint=str(result.checkpoint))
    assert again.status == 0
    with pytest.raises(SwiftError, match="lora_dropout"):
        train(model=str(model), lora_dropout=0.1)
