"""Conversations and tokenizers that the template tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from survey import byte_tokenizer

from swift.templates.closing import MARK
from swift.templates.conversations import CONVERSATIONS as SHOWN
from tests.shared import shared_dir

SHARED = shared_dir()
OWN = Path(__file__).parent / "own"
"""Small templates of the common forms, which every checkout has."""
TEMPLATES = sorted(OWN.glob("*.jinja")) + (sorted((SHARED / "chat_templates").glob("*.jinja")) if SHARED else [])
MASKS = sorted((SHARED / "chat_templates" / "masks").glob("*_training.jinja")) if SHARED else []

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "The city."}},
                "required": ["city"],
            },
        },
    }
]


def say(*turns: str) -> list[dict[str, Any]]:
    """Messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(turns)]


CALL = {
    "id": "abcdef123",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": 'Paris "x" ü'}},
}
ROME = {"id": "abcdef124", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "single": SHOWN["one turn"],
    "multi": say("Hi", "Hello!", "How are you?", "Fine.", "ok", "Good."),
    "system": SHOWN["system"],
    "white": say("  spaced  \n", "\n  indented\n\ntext  \n", "quux", " y"),
    "unicode": SHOWN["Unicode"],
    "same": SHOWN["same twice"],
    "reasoning": SHOWN["reasoning"],
    "empty": SHOWN["empty answer"],
    "parallel": [
        {"role": "user", "content": "Weather in Paris and Rome?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL, ROME]},
        {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123", "content": '{"temp": 20}'},
        {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef124", "content": '{"temp": 25}'},
        {"role": "assistant", "content": "20 and 25 degrees."},
    ],
    "tools": [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123", "content": '{"temp": 20}'},
        {"role": "assistant", "content": "It is 20 degrees."},
    ],
}
CALLING = ("tools", "parallel")
EOS = ("<|im_end|>", "<|eot_id|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>")


@cache
def gguf_tokenizer(name: str) -> Any:
    """A real vocabulary from the shared folder, with the control tokens of the whole collection added."""
    if SHARED is None or not (SHARED / "vocab").is_dir():
        pytest.skip("no shared folder with vocabularies here")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SHARED / "vocab", gguf_file=f"ggml-vocab-{name}.gguf")
    control = {token for path in TEMPLATES + MASKS for token in MARK.findall(path.read_text(encoding="utf-8"))}
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(control | {"<s>", "</s>", *EOS})})
    return tokenizer


def tokenizer_for(path: Path, name: str = "gpt-2") -> Any:
    """The shared tokenizer, set to one template of the collection; a byte-level one for our own small templates."""
    text = path.read_text(encoding="utf-8")
    if path.parent == OWN:
        return byte_tokenizer(text)
    tokenizer = gguf_tokenizer(name)
    tokenizer.chat_template = text
    tokenizer.bos_token, tokenizer.eos_token = "<s>", next((token for token in EOS if token in text), "</s>")
    return tokenizer


@contextmanager
def clock_of(template: Any) -> Iterator[None]:
    """transformers renders with the time that the template holds still, so that no date changes in between."""
    now = datetime.fromisoformat(template.fixed["now"])
    with mock.patch("transformers.utils.chat_template_utils.datetime", SimpleNamespace(now=lambda: now)):
        yield


def trained_texts(sample: Any, tokenizer: Any) -> list[str]:
    """The trained stretches of a sample, as text."""
    from swift.templates import trained_spans

    return [text for text, trained in trained_spans(sample, tokenizer) if trained]
