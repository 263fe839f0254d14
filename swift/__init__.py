"""Fine-tune, run and serve any language model.

    from swift import sft, PtEngine

    result = sft(model="demo", dataset=["self-cognition"], model_name=["Robin"], model_author=["the team"])
    engine = PtEngine("demo", adapters=[result.checkpoint])

Names are found when they are used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from peft import (
        AdaLoraConfig,
        BOFTConfig,
        FourierFTConfig,
        IA3Config,
        LoftQConfig,
        LoHaConfig,
        LoKrConfig,
        LoraConfig,
        MissConfig,
        OFTConfig,
        PeftConfig,
        PeftModel,
        PeftModelForCausalLM,
        PeftModelForSequenceClassification,
        PrefixTuningConfig,
        PromptEncoderConfig,
        PromptLearningConfig,
        PromptTuningConfig,
        VeraConfig,
        get_peft_model,
    )
    from transformers import TrainingArguments

    from swift.config import InferConfig, MergeConfig, PtConfig, SftConfig, TunerConfig
    from swift.data import load_rows
    from swift.engines import AdapterRequest, InferRequest, PtEngine, RequestConfig, TextEngine
    from swift.engines.lmdeploy import LmdeployEngine
    from swift.engines.remote import InferClient
    from swift.engines.sglang import SglangEngine
    from swift.engines.vllm import VllmEngine
    from swift.errors import SwiftError
    from swift.export.merge import merge_lora
    from swift.models.load import load_model
    from swift.models.tokenizer import load_tokenizer
    from swift.templates import Template, load_template
    from swift.train.api import Seq2SeqTrainer, Trainer
    from swift.train.result import SftResult
    from swift.train.sft import pt, sft
    from swift.tuners.api import Swift
    from swift.tuners.configs import (
        AdapterConfig,
        BoneConfig,
        LLaMAProConfig,
        LongLoRAConfig,
        LoRAConfig,
        ReftConfig,
    )

_HOMES = {
    "AdaLoraConfig": "peft",
    "AdapterRequest": "swift.engines",
    "AdapterConfig": "swift.tuners.configs",
    "BOFTConfig": "peft",
    "BoneConfig": "swift.tuners.configs",
    "FourierFTConfig": "peft",
    "IA3Config": "peft",
    "InferClient": "swift.engines.remote",
    "InferConfig": "swift.config",
    "InferRequest": "swift.engines",
    "LLaMAProConfig": "swift.tuners.configs",
    "LmdeployEngine": "swift.engines.lmdeploy",
    "LoHaConfig": "peft",
    "LoKrConfig": "peft",
    "LoRAConfig": "swift.tuners.configs",
    "LoftQConfig": "peft",
    "LongLoRAConfig": "swift.tuners.configs",
    "LoraConfig": "peft",
    "MergeConfig": "swift.config",
    "MissConfig": "peft",
    "OFTConfig": "peft",
    "PeftConfig": "peft",
    "PeftModel": "peft",
    "PeftModelForCausalLM": "peft",
    "PeftModelForSequenceClassification": "peft",
    "PrefixTuningConfig": "peft",
    "PromptEncoderConfig": "peft",
    "PromptLearningConfig": "peft",
    "PromptTuningConfig": "peft",
    "PtConfig": "swift.config",
    "PtEngine": "swift.engines",
    "ReftConfig": "swift.tuners.configs",
    "RequestConfig": "swift.engines",
    "Seq2SeqTrainer": "swift.train.api",
    "SftConfig": "swift.config",
    "SftResult": "swift.train.result",
    "SglangEngine": "swift.engines.sglang",
    "Swift": "swift.tuners.api",
    "SwiftError": "swift.errors",
    "Template": "swift.templates",
    "TextEngine": "swift.engines",
    "Trainer": "swift.train.api",
    "TrainingArguments": "transformers",
    "TunerConfig": "swift.config",
    "VeraConfig": "peft",
    "VllmEngine": "swift.engines.vllm",
    "get_peft_model": "peft",
    "load_model": "swift.models.load",
    "load_rows": "swift.data",
    "load_template": "swift.templates",
    "load_tokenizer": "swift.models.tokenizer",
    "merge_lora": "swift.export.merge",
    "pt": "swift.train.sft",
    "sft": "swift.train.sft",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from swift.compat import quiet_imports

        quiet_imports()
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'swift' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
