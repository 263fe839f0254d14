"""Tiny random models with a real byte-level BPE tokenizer and a ChatML template, and adapters made by peft alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    MixtralConfig,
    Qwen2Config,
)

from tests.tiny_tokenizer import CHATML, TEXT, make_tokenizer

__all__ = ["CHATML", "TEXT", "ask", "make_model", "make_tokenizer", "save_adapter", "save_bert", "save_tiny"]


def make_model(kind: str = "llama", seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(make_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.4,
        "bos_token_id": None,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    } | changes
    if kind == "mixtral":
        sizes = {"num_local_experts": 4} | sizes
    config = {"llama": LlamaConfig, "qwen2": Qwen2Config, "mixtral": MixtralConfig}[kind](**sizes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def save_tiny(folder: Path, kind: str = "llama", seed: int = 0, dtype: Any = torch.float32, **changes: Any) -> Path:
    make_model(kind, seed, **changes).to(dtype).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path, seed: int = 1, **settings: Any) -> Path:
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | settings
    torch.manual_seed(seed)
    peft_model = get_peft_model(model, LoraConfig(**settings))
    for name, weight in peft_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    peft_model.save_pretrained(folder)
    return folder


def save_bert(folder: Path, **labels: Any) -> Path:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(None)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=0, initializer_range=0.5, **sizes, **labels)
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ask(text: str, system: str | None = None) -> list[Any]:
    before = [{"role": "system", "content": system}] if system is not None else []
    return [*before, {"role": "user", "content": text}]
