"""vLLM's answers beside our own engine's, in an environment that has vLLM: `make test-vllm`."""

from __future__ import annotations

import asyncio
import json
import os
import time
from importlib.util import find_spec

import pytest

from swift.engines import InferRequest, RequestConfig
from swift.errors import SwiftError
from tests.tiny import ask, save_adapter, save_tiny

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not in this environment: make test-vllm")

QUESTIONS = ["hi", "what is the capital of France?", "你好", "the colour of the sky and the capital", "a" * 60]
GREEDY = RequestConfig(16, temperature=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    # vLLM has attention for the CPU with heads of 32 and more.
    return save_tiny(tmp_path_factory.mktemp("models") / "base", hidden_size=128)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return save_adapter(tmp_path_factory.mktemp("adapters") / "one", base)


@pytest.fixture(scope="module")
def ours(base):
    from swift.engines import PtEngine

    return PtEngine(str(base), torch_dtype="float32")


@pytest.fixture(scope="module")
def theirs(base):
    from swift.engines.vllm import VllmEngine

    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    options = {"enforce_eager": True, "vllm_max_num_seqs": 8, "enable_lora": True}
    engine = VllmEngine(str(base), torch_dtype="float32", **options)
    yield engine
    engine.close()


def requests():
    return [InferRequest(ask(text)) for text in QUESTIONS]


def ids(responses):
    return [choice.token_ids for response in responses for choice in response.choices]


@pytest.mark.parametrize(
    "config",
    [
        GREEDY,
        GREEDY.with_values(repetition_penalty=1.4),
        GREEDY.with_values(presence_penalty=1.5, frequency_penalty=0.5),
        GREEDY.with_values(logit_bias={65: 5.0, 70: -5.0}),
        GREEDY.with_values(stop=["e"]),
        GREEDY.with_values(stop_token_ids=list(range(60, 90))),
        GREEDY.with_values(stop_token_ids=list(range(60, 90)), min_tokens=4),
        GREEDY.with_values(ignore_eos=True),
        RequestConfig(temperature=0),
        GREEDY.with_values(max_tokens=24, structured_outputs={"regex": "[a-c]{3,6}"}),
        GREEDY.with_values(max_tokens=24, structured_outputs={"choice": ["sky", "Paris"]}),
        GREEDY.with_values(
            max_tokens=48, structured_outputs={"json": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}}
        ),
    ],
)
def test_greedy_answers_are_our_own_engine_s(ours, theirs, config):
    wanted, found = ours.infer(requests(), config), theirs.infer(requests(), config)
    assert found == wanted


def test_log_probabilities(ours, theirs):
    config = GREEDY.with_values(top_logprobs=3, repetition_penalty=1.2)
    for wanted, found in zip(ours.infer(requests(), config), theirs.infer(requests(), config), strict=True):
        for one, other in zip(wanted.choices[0].logprobs, found.choices[0].logprobs, strict=True):
            assert one.token == other.token
            assert other.logprob == pytest.approx(one.logprob, abs=1e-3)
            assert [token for token, _ in one.top] == [token for token, _ in other.top]
            assert [value for _, value in other.top] == pytest.approx([value for _, value in one.top], abs=1e-3)


def test_a_stream_is_the_answer(theirs):
    request = requests()[1]
    deltas = list(theirs.stream(request, GREEDY.with_values(n=2)))
    response = deltas[-1].response
    for choice in response.choices:
        told = [delta for delta in deltas if delta.index == choice.index]
        assert "".join(delta.text for delta in told) == choice.text
        assert [token for delta in told for token in delta.token_ids] == choice.token_ids
    assert response.usage.completion_tokens == sum(len(choice.token_ids) for choice in response.choices)


def test_seeds(theirs):
    hot = RequestConfig(16, temperature=1.5, seed=1)
    one = theirs.infer(requests(), hot)
    assert ids(one) == ids(theirs.infer(requests()[::-1], hot))[::-1]
    assert ids(one) != ids(theirs.infer(requests(), hot.with_values(seed=2)))
    many = theirs.infer(requests()[:1], hot.with_values(n=3))[0].choices
    assert many[0].token_ids == one[0].choices[0].token_ids
    assert len({tuple(choice.token_ids) for choice in many}) == 3


def test_an_adapter_for_each_request(base, adapter, ours, theirs):
    from swift.engines import PtEngine

    theirs.add_adapter("one", adapter)
    mixed = [InferRequest(ask(text), adapter="one" if number % 2 else None) for number, text in enumerate(QUESTIONS)]
    with_adapter = PtEngine(str(base), adapters=[str(adapter)], torch_dtype="float32")
    alone = [with_adapter.infer(requests(), GREEDY), ours.infer(requests(), GREEDY)]
    wanted = [alone[0 if number % 2 else 1][number] for number in range(len(QUESTIONS))]
    assert ids(theirs.infer(mixed, GREEDY)) == ids(wanted)
    with pytest.raises(SwiftError, match="there is an adapter one already"):
        theirs.add_adapter("one", adapter)
    theirs.remove_adapter("one")
    with pytest.raises(SwiftError, match="there is no adapter one"):
        theirs.infer(mixed, GREEDY)


def test_a_prompt_of_tokens(ours, theirs):
    request = InferRequest(prompt=[5, 6, 7])
    assert theirs.infer([request], GREEDY) == ours.infer([request], GREEDY)


def test_cancelling_frees_the_place(theirs):
    deltas = theirs.stream(requests()[1], RequestConfig(200, temperature=0, ignore_eos=True))
    next(deltas)
    deltas.close()
    deadline = time.monotonic() + 5
    while theirs.load != (0, 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert theirs.load == (0, 0)


def test_in_an_event_loop(theirs):
    async def both():
        texts = [delta.text async for delta in theirs.stream_async(requests()[0], GREEDY)]
        return "".join(texts), (await theirs.infer_async(requests()[0], GREEDY)).choices[0].text

    one, other = asyncio.run(both())
    assert one == other


def test_what_vllm_lacks_is_said_before_it_is_asked(theirs, base, tmp_path):
    from swift.engines.packages import generation_config_of
    from swift.engines.vllm import VllmEngine

    with pytest.raises(SwiftError, match="num_beams 2"):
        theirs.infer(requests(), RequestConfig(num_beams=2))
    with pytest.raises(SwiftError, match="no argument tensor_paralel_size"):
        VllmEngine(str(base), tensor_paralel_size=2)
    with pytest.raises(SwiftError, match="--vllm_tensor_parallel_size"):
        VllmEngine(str(base), device_map="auto")
    (tmp_path / "generation_config.json").write_text(json.dumps({"no_repeat_ngram_size": 2}))
    with pytest.raises(SwiftError, match="no_repeat_ngram_size"):
        generation_config_of(tmp_path)
    with pytest.raises(SwiftError, match="give a list of texts"):
        theirs.infer(requests(), RequestConfig(structured_outputs={"choice": "sky"}))


def test_prompts_and_answers_have_our_log_probabilities(ours, theirs):
    asked, answers = [InferRequest(ask("hi")), InferRequest(prompt="The capital of France is")], ["yes", [70, 71]]
    wanted, found = (engine.score(asked, answers, top_logprobs=2) for engine in (ours, theirs))
    for one, other in zip(wanted, found, strict=True):
        assert (one.token_ids, one.ranks, one.prompt_tokens) == (other.token_ids, other.ranks, other.prompt_tokens)
        assert other.logprobs[0] is None
        told = [[each.logprob for each in scored.logprobs[1:]] for scored in (one, other)]
        assert told[1] == pytest.approx(told[0], abs=1e-3)
        assert [[token for token, _ in each.top] for each in one.logprobs[1:]] == [
            [token for token, _ in each.top] for each in other.logprobs[1:]
        ]


@pytest.mark.parametrize("kind", ["qwen2_vl", "smolvlm"])
def test_pictures(kind, tmp_path_factory):
    # PyPI's torchvision is built for CUDA's torch: beside vLLM's build for the CPU it does not load.
    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    from swift.engines import PtEngine
    from swift.engines.vllm import VllmEngine
    from tests.tiny_media import picture, save_reader

    folder = save_reader(tmp_path_factory.mktemp("models") / "reader", kind, hidden_size=128)
    asked = [InferRequest(ask(f"<image>{text}"), images=[picture(seed)]) for seed, text in enumerate(QUESTIONS)]
    asked.append(InferRequest(ask("a <image> spelled out")))
    wanted = ids(PtEngine(str(folder), torch_dtype="float32").infer(asked, GREEDY))
    engine = VllmEngine(str(folder), torch_dtype="float32", enforce_eager=True, vllm_max_num_seqs=8)
    try:
        assert engine.reads_media
        told = engine.infer(asked, GREEDY)
    finally:
        engine.close()
    assert ids(told) == wanted
    assert len({tuple(each) for each in wanted}) > 1
