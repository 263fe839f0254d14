"""Answers on a CUDA device: in a running batch, with adapters, drawn, structured, and in half precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.engines import InferRequest, PtEngine, RequestConfig
from swift.templates import load_template
from tests.tiny import ask, make_model, make_tokenizer, save_adapter, save_tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: make test-gpu")

TEXTS = ["hi", "what is the capital of France?", "你好", "the colour of the sky and the capital", "a" * 60]
GREEDY = RequestConfig(24, temperature=0, ignore_eos=True)


def requests(**fields: Any) -> list[InferRequest]:
    return [InferRequest(ask(text), **fields) for text in TEXTS]


def ids(responses: Any) -> list[list[int]]:
    return [response.choices[0].token_ids for response in responses]


@pytest.fixture
def engine() -> PtEngine:
    return PtEngine((make_model().cuda(), load_template(make_tokenizer())), max_batch_size=3)


def test_a_running_batch_gives_the_answers_of_generate(engine: PtEngine) -> None:
    answers = ids(engine.infer(requests(), GREEDY))
    for request, answer in zip(requests(), answers, strict=True):
        prompt = torch.tensor([engine.encode(request)], device="cuda")
        wanted = engine.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=24, eos_token_id=-1
        )
        assert answer == wanted[0, prompt.shape[1] :].tolist()
        streamed = "".join(delta.text for delta in engine.stream(request, GREEDY))
        assert streamed == engine.tokenizer.decode(answer, skip_special_tokens=False)


@pytest.mark.parametrize(
    "config",
    [
        RequestConfig(16, temperature=0.9, top_p=0.8, top_k=20, seed=3),
        RequestConfig(16, temperature=0.7, repetition_penalty=1.2, presence_penalty=0.5, seed=3, logit_bias={9: 2.0}),
        RequestConfig(16, temperature=0.7, min_p=0.05, seed=3, logprobs=True, top_logprobs=3),
    ],
    ids=["nucleus", "penalties", "logprobs"],
)
def test_a_draw_does_not_depend_on_its_neighbours(engine: PtEngine, config: RequestConfig) -> None:
    together = ids(engine.infer(requests(), config))
    engine.forget()
    assert together == [ids(engine.infer([request], config))[0] for request in requests()]


def test_several_adapters_in_one_batch(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    folders = {f"a{seed}": save_adapter(tmp_path / f"a{seed}", base, seed) for seed in (1, 2)}
    engine = PtEngine(str(base), torch_dtype="float32")
    assert engine.model.device.type == "cuda"
    for name, folder in folders.items():
        engine.add_adapter(name, folder)
    names = [None, "a1", "a2"]
    mixed = [InferRequest(ask(text), adapter=name) for text in TEXTS for name in names]
    found = ids(engine.infer(mixed, GREEDY))
    for name, folder in folders.items():
        alone = PtEngine(str(base), torch_dtype="float32", adapters=[str(folder)])
        wanted = ids(alone.infer(requests(), GREEDY))
        assert [answer for request, answer in zip(mixed, found, strict=True) if request.adapter == name] == wanted


def test_a_structured_answer(engine: PtEngine) -> None:
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 22]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    config = RequestConfig(40, temperature=0, structured_outputs={"json": schema})
    [answer] = engine.infer([InferRequest(ask("hi"))], config)
    assert json.loads(answer.choices[0].message.content)["n"] in (1, 22)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    engine = PtEngine((make_model().to("cuda", dtype), load_template(make_tokenizer())), max_batch_size=3)
    answers = engine.infer(requests(), RequestConfig(24, temperature=0, ignore_eos=True, logprobs=True))
    for answer in answers:
        choice = answer.choices[0]
        assert len(choice.token_ids) == 24
        assert choice.logprobs is not None
        assert all(entry.logprob <= 0 for entry in choice.logprobs)
