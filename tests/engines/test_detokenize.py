from __future__ import annotations

import random
import subprocess
import sys

import pytest

from swift.engines import InferRequest, RequestConfig
from swift.engines.answers import Answer, Ticket
from swift.engines.detokenize import TextStream, decode
from tests.tiny import make_tokenizer

TOKENIZER = make_tokenizer()


def pieces(ids, stop=()):
    stream = TextStream(TOKENIZER, stop)
    return [*(stream.push(token) for token in ids), stream.finish()], stream


@pytest.mark.parametrize("text", ["你好，世界 🎉 é", "naïve café", "𝔘𝔫𝔦 ✓ plain", "\ufffd between \ufffd"])
def test_no_half_characters(text):
    parts, _ = pieces(TOKENIZER.encode(text))
    assert "".join(parts) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts)
        assert len([part for part in parts if part]) > 1


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_equal_the_whole_decode(seed):
    draw = random.Random(seed)
    ids = [draw.randrange(len(TOKENIZER)) for _ in range(80)]
    assert "".join(pieces(ids)[0]) == decode(TOKENIZER, ids)


def test_what_may_begin_a_stop_text_is_held_back():
    ids = TOKENIZER.encode("one two END three")
    seen = ""
    stream = TextStream(TOKENIZER, ["END"])
    for token in ids:
        seen += stream.push(token)
        assert "E" not in seen
    assert (seen, stream.stopped) == ("one two ", True)
    assert stream.finish() == ""


def test_a_false_beginning_is_let_go():
    parts, stream = pieces(TOKENIZER.encode("one EN two E"), ["END"])
    assert "".join(parts) == "one EN two E"
    assert not stream.stopped


def answered(ids, *, limit=100, ends=(2,), stop=()):
    """The choice and the deltas of an answer that these tokens are pushed into until it is over."""
    deltas = []
    ticket = Ticket(InferRequest(), RequestConfig(stop=list(stop)), [5], None, TOKENIZER, deltas.append, whole=False)
    answer = Answer(ticket, 0, limit=limit, ends=ends, picker=None)
    for token in ids:
        if not answer.over:
            answer.push(token)
    return deltas[-1].response.choices[0], deltas


@pytest.mark.parametrize("stop", [["sky"], ["of the", "sky"], ["🎉"], [" t"]])
def test_an_answer_ends_before_a_stop_text(stop):
    text = "what is the colour of the sky 🎉 today"
    choice, deltas = answered(TOKENIZER.encode(text), stop=stop)
    assert choice.text == text[: min(at for at in map(text.find, stop) if at >= 0)]
    assert (choice.finish_reason, deltas[-1].finish_reason) == ("stop", "stop")
    assert "".join(delta.text for delta in deltas) == choice.text
    assert [token for delta in deltas for token in delta.token_ids] == choice.token_ids
    assert any(word in decode(TOKENIZER, choice.token_ids) for word in stop)
    assert not any(word in decode(TOKENIZER, choice.token_ids[:-1]) for word in stop)


def test_an_answer_ends_at_a_stop_token_or_its_limit():
    choice, _ = answered([70, 71, 2, 0, 0], limit=5)
    assert (choice.token_ids, choice.text, choice.finish_reason) == ([70, 71, 2], TOKENIZER.decode([70, 71]), "stop")
    choice, _ = answered([70, 71, 72, 2], limit=3)
    assert (choice.token_ids, choice.finish_reason) == ([70, 71, 72], "length")


def test_naming_engines_brings_no_torch():
    code = "import sys, swift.engines; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
