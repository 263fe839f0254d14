"""The quick ways give what the slow ones give: remembered words, and remembered shapes of conversations."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest

from swift.errors import SwiftError
from swift.templates import shapes
from swift.templates.cutting import ascii_cutter
from swift.templates.template import Template
from swift.templates.tokens import Encoder
from tests.templates.cases import CONVERSATIONS, OWN, TEMPLATES, TOOLS, gguf_tokenizer, tokenizer_for

PIECES = [
    *[
        "the",
        " of",
        " Hello",
        "'s",
        "'LL",
        "I'd",
        " 12345",
        "7",
        "3.14",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        " .",
        "…",
        "é",
    ],
    *[
        "Straße",
        " naïve",
        "数据",
        "こんにちは",
        "한국어",
        "🙂",
        "👩‍👩‍👧",
        "e\u0301",
        "\u00a0",
        "\u200b",
        "\x1c",
        "ſ",
        "K",
        "ﬁ",
        "١٢",
    ],
    *["<|im_end|>", "<|im", "_end|>", "</s>", "!?", " ---", "a_b", "x=1;", "http://a.b/c?d=e", "\u3000", "\U0001f9ff"],
]


@pytest.mark.newest  # tokenizers 0.22 puts an added token behind a composed character one place early.
@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2"])
def test_words_give_the_tokens_and_places_of_the_tokenizer(name: str) -> None:
    encoder = Encoder(gguf_tokenizer(name))
    assert encoder.words is not None
    chance = random.Random(0)
    for _ in range(600):
        text = "".join(chance.choices(PIECES, k=chance.randint(1, 30)))
        quick, slow = encoder.encode(text), encoder._backend(text, False)
        assert quick.ids == slow.ids, text
        assert quick.starts.tolist() == slow.starts.tolist(), text
        assert quick.stops.tolist() == slow.stops.tolist(), text


@pytest.mark.parametrize("name", ["llama-spm", "phi-3"])
def test_other_kinds_of_tokenizers_are_asked_themselves(name: str) -> None:
    assert Encoder(gguf_tokenizer(name)).words is None


@pytest.mark.newest  # Transformers 4.57 makes another tokenizer of llama-bpe, which is asked itself.
@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2"])
def test_the_expressions_for_ascii_cut_as_the_tokenizers_own(name: str) -> None:
    words = Encoder(gguf_tokenizer(name)).words
    assert words is not None and words._cut_ascii is not None
    chance = random.Random(0)
    for _ in range(3000):
        text = "".join(chance.choices("ab Z'sSlL12.,!\n\r\t _-/<|>[]{}\\^\"~", k=16))
        assert words._cut_ascii(text) == words._cut(text)


@pytest.mark.parametrize("pattern", [r"[^\P{L}]+|.", r"\p{Han}+|.", r"\p{L}+(?<=a*)|."])
def test_expressions_that_are_not_understood_stay_with_their_engine(pattern: str) -> None:
    assert ascii_cutter([pattern]) is None


def varied(messages: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    """A conversation of the same shape, and sometimes with white space at its edges or a control token in it."""
    edge = ["", "", "", " ", "\n", "\n\n "]
    text = ["Well", "2+2", "Ünï", "assistant\n", "user", "<|im_end|>"]
    out = copy.deepcopy(messages)
    for message in out:
        if message["role"] != "tool" and message.get("content"):
            middle = " ".join(chance.choices(text, weights=[9, 9, 9, 3, 3, 1], k=3))
            message["content"] = chance.choice(edge) + middle + chance.choice(edge)
    return out


def outcome(template: Template, row: Any) -> Any:
    template.notes.clear()
    try:
        samples = template.encode(row)
    except SwiftError as error:
        return error.what
    return [(s.input_ids.tolist(), s.labels.tolist()) for s in samples], dict(template.notes)


@pytest.mark.parametrize("path", TEMPLATES[::3], ids=lambda path: path.stem)
def test_remembered_shapes_change_nothing(path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, chance = tokenizer_for(path), random.Random(1)
    rows = [
        {"messages": varied(messages, chance), "tools": TOOLS if name == "tools" else None}
        for name, messages in CONVERSATIONS.items()
        for _ in range(8)
    ]
    quick, slow = Template(tokenizer), Template(tokenizer)
    slow.fixed = quick.fixed
    monkeypatch.setattr(shapes, "COMPARED_FIRST", 0)
    found = [outcome(quick, row) for row in rows]
    slow._encoder.__dict__["words"] = None
    monkeypatch.setattr(shapes.Shapes, "find", lambda *_: None)
    assert found == [outcome(slow, row) for row in rows]


def test_most_rows_of_a_shape_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    template, traced = Template(tokenizer_for(OWN / "im_start.jinja")), []
    render = template.traced
    monkeypatch.setattr(template, "traced", lambda *a, **k: traced.append(a) or render(*a, **k))
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    samples = [template.encode(copy.deepcopy(row))[0] for _ in range(8)]
    before = len(traced)
    samples += [template.encode(copy.deepcopy(row))[0] for _ in range(100)]
    assert len(traced) == before
    assert all(np.array_equal(sample.labels, samples[0].labels) for sample in samples)


@pytest.mark.parametrize("path", [path for path in TEMPLATES if "Qwen3-0.6B" in path.name], ids=lambda path: path.stem)
def test_rows_of_a_shape_skip_the_search_for_tokens(path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template, cut = Template(tokenizer_for(path)), []
    tokenise = template._tokenise
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"{text}."}]}
        for text in ("Hi", "Ünï", "a  b\n", "<|im_end|>", " edge", "\u200b", "12, it's")
    ]
    for row in rows * 3:
        template.encode(copy.deepcopy(row))
    monkeypatch.setattr(template, "_tokenise", lambda *a: cut.append(a) or tokenise(*a))
    samples = [template.encode(copy.deepcopy(row))[0] for row in rows]
    # What spells out a control token or holds a rare character goes the long way.
    assert len(cut) == 2
    template._encoder.__dict__["words"] = None
    template._shapes = shapes.Shapes()
    for sample, row in zip(samples, rows, strict=True):
        long = template.encode(copy.deepcopy(row))[0]
        assert sample.same(long)
        assert sample.rendered and long.rendered and sample.rendered.turns == long.rendered.turns
        assert sample.rendered.stops.tolist() == long.rendered.stops.tolist()
