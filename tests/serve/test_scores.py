"""Log-probabilities of prompts, by the engine and by `/v1/completions`."""

from __future__ import annotations

import httpx
import openai
import pytest
import torch

from swift.engines import InferRequest, PtEngine
from swift.engines import scores as scoring
from swift.errors import SwiftError
from tests.serve.serving import Scripted, serve, tiny_engine
from tests.tiny import ask, save_adapter, save_tiny

TEXT = "The capital of France is Paris."


def wanted(model, ids):
    """log-probabilities float32[tokens - 1, vocabulary] by one plain call of the model."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)


@pytest.fixture(scope="module")
def server():
    with serve(tiny_engine()) as server:
        yield server


@pytest.mark.parametrize("portion", [512, 3])
def test_prompts_and_answers_have_the_models_log_probabilities(server, portion, monkeypatch):
    monkeypatch.setattr(scoring, "PORTION", portion)
    engine = server.service.engine
    requests = [InferRequest(ask("hi")), InferRequest(prompt=TEXT)]
    found = engine.score(requests, ["yes", [70, 71]], top_logprobs=2)
    for request, answer, scored in zip(requests, (engine.tokenizer.encode("yes"), [70, 71]), found, strict=True):
        prompt = engine.encode(request)
        assert scored.token_ids == [*prompt, *answer] and scored.prompt_tokens == len(prompt)
        logps = wanted(engine.model, scored.token_ids)
        own = [float(row[token]) for row, token in zip(logps, scored.token_ids[1:], strict=True)]
        assert scored.logprobs[0] is None and scored.ranks[0] == 0
        assert [each.logprob for each in scored.logprobs[1:]] == pytest.approx(own, abs=1e-4)
        best = logps.topk(2).indices.tolist()
        assert [[token for token, _ in each.top] for each in scored.logprobs[1:]] == best
        ranks = [int((row > value).sum()) + 1 for row, value in zip(logps, own, strict=True)]
        assert scored.ranks[1:] == ranks


def test_an_adapter_scores_its_own(tmp_path):
    base = save_tiny(tmp_path / "base")
    adapter = save_adapter(tmp_path / "one", base)
    engine = PtEngine(str(base), torch_dtype="float32")
    engine.add_adapter("one", adapter)
    alone = PtEngine(str(base), adapters=[str(adapter)], torch_dtype="float32")
    (plain,), (named,) = (engine.score([InferRequest(prompt=TEXT, adapter=name)]) for name in (None, "one"))
    (own,) = alone.score([InferRequest(prompt=TEXT)])
    told = [[each.logprob for each in scored.logprobs[1:]] for scored in (plain, named, own)]
    assert told[1] == pytest.approx(told[2], abs=1e-4) and told[0] != pytest.approx(told[1], abs=1e-2)


def test_a_completion_tells_its_prompts(server):
    engine = server.service.engine
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    (scored,) = engine.score([InferRequest(prompt=TEXT)], top_logprobs=2)
    more = {"model": "tiny", "prompt": TEXT, "temperature": 0, "echo": True, "logprobs": 2}
    found = client.completions.create(**more, max_tokens=3).choices[0]
    prompt, own = len(scored.token_ids), found.logprobs
    assert own.token_logprobs[0] is None and own.top_logprobs[0] is None
    assert own.token_logprobs[1:prompt] == pytest.approx([each.logprob for each in scored.logprobs[1:]], abs=1e-4)
    assert len(own.tokens) == len(own.token_logprobs) == len(own.text_offset) == prompt + 3
    assert "".join(own.tokens) == found.text and found.text.startswith(TEXT)
    assert own.text_offset[prompt] == len(TEXT)
    alone = client.completions.create(**more, max_tokens=0)
    assert alone.choices[0].text == TEXT and alone.choices[0].logprobs.tokens == own.tokens[:prompt]
    assert alone.usage.completion_tokens == 0
    chunks = [chunk.choices[0] for chunk in client.completions.create(**more, max_tokens=3, stream=True)]
    told = [value for chunk in chunks if chunk.logprobs for value in chunk.logprobs.token_logprobs]
    assert told == own.token_logprobs


def test_prompt_logprobs_as_vllm_has_them(server):
    (scored,) = server.service.engine.score([InferRequest(prompt=TEXT)], top_logprobs=1)
    body = {"prompt": [TEXT, "hi"], "max_tokens": 1, "prompt_logprobs": 1}
    choices = httpx.post(f"{server.url}/v1/completions", json=body).json()["choices"]
    told = choices[0]["prompt_logprobs"]
    assert told[0] is None and len(told) == len(scored.token_ids) and choices[0]["logprobs"] is None
    for entry, each, rank in zip(told[1:], scored.logprobs[1:], scored.ranks[1:], strict=True):
        assert entry[str(each.token)]["rank"] == rank
        assert entry[str(each.token)]["logprob"] == pytest.approx(each.logprob, abs=1e-4)
        assert len(entry) == (1 if rank == 1 else 2) and entry[str(each.top[0][0])]["rank"] == 1


def test_what_cannot_be_scored(server):
    engine = server.service.engine
    with pytest.raises(SwiftError, match="1 answers to 2 requests"):
        engine.score([InferRequest(ask("hi"))] * 2, ["yes"])
    with pytest.raises(SwiftError, match="the context is 2048"):
        engine.score([InferRequest(prompt=[70] * 2000)], [[70] * 49])
    assert len(engine.score([InferRequest(prompt=[70] * 2000)], [[70] * 48])[0].logprobs) == 2048
    url = f"{server.url}/v1/completions"
    for body, said in (
        ({"prompt": "hi", "max_tokens": 0}, "with echo or prompt_logprobs alone"),
        ({"prompt": "hi", "max_tokens": 0, "echo": True, "stream": True}, "nothing to stream"),
        ({"prompt": "hi", "prompt_logprobs": 99}, "20 are the most"),
    ):
        told = httpx.post(url, json=body)
        assert told.status_code == 400 and said in told.json()["error"]["message"], told.text
    with serve(Scripted("yes")) as other:
        told = httpx.post(f"{other.url}/v1/completions", json={"prompt": "hi", "prompt_logprobs": 1})
        assert told.status_code == 400 and "gives no log-probabilities of prompts" in told.text
