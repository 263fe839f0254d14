"""The remote engine over our own server gives what the engine behind it gives."""

from __future__ import annotations

import pytest

from swift.engines import InferRequest, RequestConfig
from swift.engines.remote import RemoteEngine
from swift.errors import SwiftError
from tests.serve.serving import Scripted, serve, tiny_engine
from tests.tiny import ask

GREEDY = RequestConfig(12, temperature=0)
QUESTIONS = ["hi", "what is the capital of France?", "你好", "a" * 60]


@pytest.fixture(scope="module")
def engines():
    local = tiny_engine()
    with serve(local, api_key="k") as server:
        remote = RemoteEngine(f"{server.url}/v1", api_key="k")
        yield local, remote
        remote.close()


def requests():
    return [InferRequest(ask(text)) for text in QUESTIONS]


@pytest.mark.parametrize(
    "config",
    [
        GREEDY,
        GREEDY.with_values(stop=["e"], repetition_penalty=1.3, logit_bias={70: 3.0}),
        GREEDY.with_values(n=2, temperature=1.2, seed=3, top_k=20, min_p=0.01),
        GREEDY.with_values(stop_token_ids=list(range(60, 90)), min_tokens=3, presence_penalty=1.0),
        GREEDY.with_values(structured_outputs={"choice": ["sky", "Paris"]}),
        GREEDY.with_values(
            max_tokens=40, structured_outputs={"json": {"type": "array", "items": {"type": "null"}, "maxItems": 2}}
        ),
    ],
)
def test_the_same_answers(engines, config):
    local, remote = engines
    wanted = local.infer(requests(), config)
    assert remote.infer(requests(), config) == wanted
    for request, response in zip(requests(), wanted, strict=True):
        deltas = list(remote.stream(request, config))
        assert deltas[-1].response == response


def test_a_text_to_go_on_with(engines):
    local, remote = engines
    for prompt in ("The sky is", [5, 6, 7]):
        request = InferRequest(prompt=prompt)
        assert remote.infer([request], GREEDY) == local.infer([request], GREEDY)


def test_tools_and_reasoning():
    text = '<think>\nlet me see\n</think>\n\nSo.<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    request = InferRequest(ask("add"), tools=tools)
    engine = Scripted(text, agent_template="hermes")
    with serve(engine) as server:
        remote = RemoteEngine(f"{server.url}/v1")
        wanted = engine.infer([request], RequestConfig())[0].choices[0].message
        assert wanted.tool_calls
        found = remote.infer([request], RequestConfig())[0].choices[0].message
        assert (found.content, found.reasoning_content) == (wanted.content, wanted.reasoning_content)
        assert [call["function"] for call in found.tool_calls] == [call["function"] for call in wanted.tool_calls]
        assert list(remote.stream(request))[-1].response.choices[0].message.reasoning_content == found.reasoning_content


def test_log_probabilities(engines):
    local, remote = engines
    config = GREEDY.with_values(top_logprobs=2)
    wanted, found = local.infer(requests(), config), remote.infer(requests(), config)
    for one, other in zip(wanted, found, strict=True):
        for told, heard in zip(one.choices[0].logprobs, other.choices[0].logprobs, strict=True):
            assert heard.logprob == pytest.approx(told.logprob, abs=1e-4)
            assert [value for _, value in heard.top] == pytest.approx([value for _, value in told.top], abs=1e-4)


def test_errors_keep_their_words(engines):
    local, remote = engines
    long = InferRequest(ask("a " * 3000))
    with pytest.raises(SwiftError) as ours:
        local.infer([long])
    with pytest.raises(SwiftError, match="the server says 400") as theirs:
        remote.infer([long])
    assert ours.value.what in theirs.value.what
    with pytest.raises(SwiftError, match="the server says 404"):
        remote.infer([InferRequest(ask("a"), adapter="nobody")])
    with pytest.raises(SwiftError, match="the server says 401"):
        RemoteEngine(remote.base_url, api_key="wrong").infer(requests())
