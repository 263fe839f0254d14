"""Unsloth is called as its interface is documented, and refused where it cannot train; the package is a stand-in."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from swift.errors import SwiftError
from swift.train.result import SftResult
from tests.train.conftest import losses


class FastLanguageModel:
    """With the parameters of the public one, and the defaults of those that are left out."""

    @staticmethod
    def from_pretrained(
        model_name: str,
        max_seq_length: int = 2048,
        dtype: Any = None,
        load_in_4bit: bool = True,
        load_in_8bit: bool = False,
        full_finetuning: bool = False,
        trust_remote_code: bool = False,
        use_gradient_checkpointing: Any = "unsloth",
        fix_tokenizer: bool = True,
    ) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        assert not load_in_4bit and not load_in_8bit and use_gradient_checkpointing is False
        model = AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype)
        model.max_seq_length = max_seq_length
        model.requires_grad_(full_finetuning)
        return model, AutoTokenizer.from_pretrained(model_name)

    @staticmethod
    def get_peft_model(
        model: Any,
        r: int = 16,
        target_modules: Any = (),
        lora_alpha: int = 16,
        lora_dropout: float = 0.0,
        bias: str = "none",
        use_gradient_checkpointing: Any = "unsloth",
        random_state: int = 3407,
        max_seq_length: int = 2048,
        use_rslora: bool = False,
        modules_to_save: Any = None,
    ) -> Any:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(random_state)
        more = {"bias": bias, "use_rslora": use_rslora, "modules_to_save": modules_to_save}
        rank = {"r": r, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout}
        return get_peft_model(model, LoraConfig(target_modules=target_modules, task_type="CAUSAL_LM", **rank, **more))


@pytest.fixture
def unsloth(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("unsloth")
    module.__spec__ = ModuleSpec("unsloth", None)
    module.FastLanguageModel = FastLanguageModel
    monkeypatch.setitem(sys.modules, "unsloth", module)
    monkeypatch.setattr("swift.tuners.unsloth.has_gpu", lambda: True)
    monkeypatch.setenv("UNSLOTH_RETURN_LOGITS", "0")


@pytest.mark.usefixtures("unsloth")
def test_a_run_trains_saves_and_resumes(train: Callable[..., SftResult], tmp_path: Path) -> None:
    common = {"tuner_backend": "unsloth", "lora_dropout": 0.0, "max_steps": 4, "save_steps": 2, "lora_rank": 4}
    whole = train(output_dir=str(tmp_path / "whole"), **common)
    assert whole.run_folder is not None and losses(whole)[4] < losses(whole)[1]
    settings = json.loads((whole.run_folder / "checkpoint-4" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 32)
    names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(settings["target_modules"]) == names
    part = whole.run_folder / "checkpoint-2"
    resumed = train(output_dir=str(tmp_path / "resumed"), resume_from_checkpoint=str(part), **common)
    assert {step: loss for step, loss in losses(whole).items() if step > 2} == {
        step: loss for step, loss in losses(resumed).items() if step > 2
    }
    full = train(output_dir=str(tmp_path / "full"), **{**common, "train_type": "full", "max_steps": 1})
    assert full.run_folder is not None and (full.run_folder / "checkpoint-1" / "model.safetensors").is_file()


@pytest.mark.usefixtures("unsloth")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train_type": "loha"}, "--train_type loha: it trains lora and full"),
        ({"packing": True}, "--packing with --tuner_backend unsloth"),
        ({"use_dora": True}, "--use_dora with --tuner_backend unsloth"),
        ({"init_weights": "pissa"}, "--init_weights pissa with --tuner_backend unsloth"),
        ({"quant_method": "hqq"}, "--quant_method hqq with --tuner_backend unsloth"),
        ({"task_type": "embedding"}, "--task_type embedding: it trains models of text"),
    ],
)
def test_what_it_does_not_train(train: Callable[..., SftResult], options: dict[str, Any], said: str) -> None:
    with pytest.raises(SwiftError, match=said):
        train(tuner_backend="unsloth", dataset=["nowhere.jsonl"], **options)


def test_it_is_refused_where_it_is_not(train: Callable[..., SftResult], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unsloth", None)
    monkeypatch.setattr("swift.tuners.unsloth.find_spec", lambda name: None)
    with pytest.raises(SwiftError, match="the package is not installed") as caught:
        train(tuner_backend="unsloth", dataset=["nowhere.jsonl"])
    assert "pip install unsloth" in str(caught.value)
    monkeypatch.setattr("swift.tuners.unsloth.find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setattr("swift.tuners.unsloth.has_gpu", lambda: False)
    with pytest.raises(SwiftError, match="needs an NVIDIA, AMD or Intel GPU"):
        train(tuner_backend="unsloth", dataset=["nowhere.jsonl"])
