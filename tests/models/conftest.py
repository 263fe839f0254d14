"""Tiny random models with a real tokenizer beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"


def build_model(architecture: str, **changes: Any) -> Any:
    """A model of the class `architecture` of transformers, with seeded random weights."""
    import torch
    import transformers

    kind = getattr(transformers, architecture)
    torch.manual_seed(0)
    return kind(kind.config_class(**{**SIZES, **changes})).eval()


def write_tokenizer(folder: Path) -> None:
    vocab = {f"<{index}>": index for index in range(62)} | {"<|end|>": 62, "<|pad|>": 63}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": index, "content": name, **special} for name, index in vocab.items() if name.startswith("<|")]
    content = {"version": "1.0", "added_tokens": added, "pre_tokenizer": {"type": "WhitespaceSplit"}}
    content["model"] = {"type": "WordLevel", "vocab": vocab, "unk_token": "<0>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|pad|>"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "own_key": "stays"}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


@pytest.fixture
def build() -> Callable[..., Any]:
    """`build("LlamaForCausalLM", vocab_size=…)`: the model that `make_folder` saves for the same arguments."""
    return build_model


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny model of a given class, with tokenizer, into a new folder."""

    def make(architecture: str = "LlamaForCausalLM", name: str = "base", **changes: Any) -> Path:
        folder = tmp_path / name
        build_model(architecture, **changes).save_pretrained(folder)
        write_tokenizer(folder)
        return folder

    return make


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """Sets keys of a JSON file; a value of None takes the key out."""

    def edit(file: Path, **changes: Any) -> None:
        content = json.loads(file.read_text())
        content.update(changes)
        file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return edit
