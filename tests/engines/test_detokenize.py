from __future__ import annotations

import random
import subprocess
import sys

import pytest

from swift.engines.detokenize import TextStream, cut, decode
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


@pytest.mark.parametrize("stop", [["sky"], ["of the", "sky"], ["🎉"], [" t"]])
def test_stream_and_cut_agree(stop):
    ids = TOKENIZER.encode("what is the colour of the sky 🎉 today")
    kept, text, reason = cut(TOKENIZER, ids, limit=100, stop_ids={2}, stop=stop)
    parts, stream = pieces(ids, stop)
    assert "".join(parts) == text
    assert reason == "stop" and stream.stopped
    assert any(word in decode(TOKENIZER, kept) for word in stop)
    assert not any(word in decode(TOKENIZER, kept[:-1]) for word in stop)


def test_cut_at_stop_token_and_limit():
    assert cut(TOKENIZER, [70, 71, 2, 0, 0], limit=5, stop_ids={2}, stop=[]) == (
        [70, 71, 2],
        TOKENIZER.decode([70, 71]),
        "stop",
    )
    assert cut(TOKENIZER, [70, 71, 72, 2], limit=3, stop_ids={2}, stop=[])[2] == "length"


def test_naming_engines_brings_no_torch():
    code = "import sys, swift.engines; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
