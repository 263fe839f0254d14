"""Positions scaled for longer sequences: in training, in checkpoints, merged, and in inference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from swift.compat import rope_of, set_rope
from swift.config import Decisions, InferConfig, ModelConfig
from swift.engines import PtEngine
from swift.errors import SwiftError
from swift.export.merge import merge_lora
from swift.models.length import limit_of, settle_length
from swift.models.load import load_as, load_model
from swift.models.source import find_source
from swift.train.sft import sft
from tests.tiny import save_tiny

IDS = torch.arange(3, 90)[None]
ROWS = [
    {"messages": [{"role": "user", "content": f"sky {n}?"}, {"role": "assistant", "content": "Paris"}]} for n in "ab"
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


def settled(base: Path, **options: Any) -> tuple[ModelConfig, Any]:
    config = ModelConfig(model=str(base), torch_dtype="float32", **options)
    source = find_source(config, Decisions())
    settle_length(config, source, Decisions())
    return config, source


def run(base: Path, tmp_path: Path, **options: Any) -> Path:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    given = {"model": str(base), "dataset": [str(rows)], "output_dir": str(tmp_path / "out"), "max_steps": 2}
    given |= {"report_to": ["none"], "torch_dtype": "float32", "learning_rate": 1e-2, "init_weights": "gaussian"}
    result = sft(**given, **options)
    assert result.checkpoint is not None
    return result.checkpoint


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(IDS).logits


@pytest.mark.parametrize("kind", ["linear", "yarn", "dynamic"])
def test_a_name_and_a_length_are_what_transformers_takes(base: Path, kind: str) -> None:
    config, source = settled(base, rope_scaling=kind, max_model_len=900)
    assert config.rope_scaling == {"rope_type": kind, "factor": 4.0, "original_max_position_embeddings": 256}
    assert source.limit == 900
    by_hand = AutoConfig.from_pretrained(base)
    own = {"rope_type": kind, "factor": 4.0}
    if kind != "dynamic":
        by_hand.max_position_embeddings = 900
        own["original_max_position_embeddings"] = 256
    set_rope(by_hand, own)
    expected = AutoModelForCausalLM.from_pretrained(base, config=by_hand, dtype=torch.float32)
    model = load_as(config, base).model
    assert torch.equal(logits(model), logits(expected))
    plain = logits(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    assert torch.equal(logits(model), plain) == (kind == "dynamic")
    assert limit_of(model.config) == (1024 if kind == "dynamic" else 900)
    assert rope_of(model.config)["rope_theta"] == rope_of(AutoConfig.from_pretrained(base))["rope_theta"]  # type: ignore[index]


def test_an_adapter_remembers_it_and_merging_writes_it(base: Path, tmp_path: Path) -> None:
    checkpoint = run(base, tmp_path, rope_scaling='{"type": "yarn", "factor": 2}')
    engine = PtEngine(None, adapters=[str(checkpoint)], torch_dtype="float32")
    assert engine.context == 512
    merged = merge_lora(str(checkpoint), tmp_path / "merged")
    stored = json.loads((merged / "config.json").read_text())
    assert stored["max_position_embeddings"] == 512
    assert stored["rope_scaling"]["rope_type"] == "yarn"
    alone = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    assert torch.allclose(logits(alone), logits(engine.model), atol=1e-4)
    assert not torch.allclose(logits(PtEngine(None, adapters=[str(checkpoint)], load_args=False).model), logits(alone))


def test_a_whole_model_has_it_in_its_config(base: Path, tmp_path: Path) -> None:
    checkpoint = run(base, tmp_path, train_type="full", rope_scaling="linear", max_model_len=300)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    assert (model.config.max_position_embeddings, rope_of(model.config)["factor"]) == (300, 2.0)  # type: ignore[index]
    # From there it can be made longer again.
    config, source = settled(checkpoint, rope_scaling="linear", max_model_len=600)
    assert (config.rope_scaling["factor"], source.limit) == (3.0, 600)  # type: ignore[index]


def test_the_length_alone(base: Path) -> None:
    config, source = settled(base, max_model_len=100)
    assert source.limit == limit_of(load_as(config, base).model.config) == 100


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rope_scaling": "yarn"}, "has no factor"),
        ({"rope_scaling": "yran", "max_model_len": 512}, "yran: there is no such way"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "max_model_len": 600}, "reaches: 256 × 2 = 512"),
        ({"rope_scaling": "llama3", "max_model_len": 512}, "needs low_freq_factor"),
    ],
)
def test_what_does_not_fit_is_told(base: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SwiftError, match=said):
        settled(base, **options)


@pytest.mark.parametrize("strategy", ["zero", "normal", "orthogonal", "kaiming_uniform"])
def test_weights_that_the_files_lack_start_as_asked(base: Path, tmp_path: Path, strategy: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_tiny(tmp_path / "part")
    weights = load_file(folder / "model.safetensors")
    lost = "model.layers.1.mlp.up_proj.weight"
    save_file({name: weight for name, weight in weights.items() if name != lost}, folder / "model.safetensors")
    with pytest.raises(SwiftError, match="--init_strategy"):
        load_model(folder, dtype="float32")
    found = load_model(folder, dtype="float32", init_strategy=strategy)
    fresh = found.model.get_parameter(lost).detach()
    assert lost in found.reasons["new weights"]
    if strategy == "zero":
        assert not fresh.any()
    elif strategy == "orthogonal":
        assert torch.allclose(fresh.T @ fresh, torch.eye(32), atol=1e-4)
    else:
        assert float(fresh.std()) == pytest.approx(
            {"normal": 0.01, "kaiming_uniform": (2 / 1.01 / 64) ** 0.5}[strategy], rel=0.1
        )
    assert torch.equal(found.model.get_parameter("lm_head.weight"), weights["lm_head.weight"])
    with pytest.raises(SwiftError, match="--init_strategy with --train_type lora"):
        sft(model=str(folder), dataset=["self-cognition"], init_strategy=strategy, output_dir=str(tmp_path / "out"))


def test_memory_of_devices(base: Path) -> None:
    placed = load_model(base, dtype="float32", device_map="auto", max_memory={"cpu": "1GB"}).model
    assert placed.device.type == "cpu"
    given = InferConfig.of(model="demo", device_map='{"": "cpu"}', max_memory='{"0": "2GB"}')
    assert (given.model.device_map, given.model.max_memory) == ({"": "cpu"}, {"0": "2GB"})
    from swift.models.load import check_loading

    with pytest.raises(SwiftError, match="--max_memory: 'gpu'"):
        check_loading(ModelConfig(model=str(base), device_map="auto", max_memory={"gpu": "1GB"}))
