from __future__ import annotations

import threading
import time

import pytest
import torch

from swift.engines import InferRequest, PtEngine, RequestConfig, engines
from swift.engines.prompts import answer_limit
from swift.engines.sampling import Picker, pick
from swift.errors import SwiftError
from swift.templates import load_template
from swift.templates.parsing import collect
from tests.tiny import ask, make_model, make_tokenizer, save_adapter, save_tiny

QUESTIONS = ["hi", "what is the capital of France?", "你好", "sky", "the colour of the sky and the capital", "a" * 60]


def make_engine(kind="llama", batch=8, **changes):
    return PtEngine((make_model(kind, **changes), load_template(make_tokenizer())), max_batch_size=batch)


@pytest.fixture(scope="module")
def engine():
    return make_engine()


def requests():
    return [InferRequest(ask(text)) for text in QUESTIONS]


def ids(responses):
    return [choice.token_ids for response in responses for choice in response.choices]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("config", [RequestConfig(24, temperature=0), RequestConfig(24, temperature=0.9, seed=7)])
def test_an_answer_is_the_same_alone_and_in_a_batch(kind, config):
    batched, single = make_engine(kind, batch=4), make_engine(kind, batch=1)
    assert ids(batched.infer(requests(), config)) == ids(single.infer(requests(), config))
    assert ids(batched.infer(requests()[::-1], config)) == ids(single.infer(requests(), config))[::-1]


def test_greedy_equals_generate(engine):
    for request in requests():
        prompt = torch.tensor([engine.encode(request)])
        wanted = engine.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=20, pad_token_id=0
        )[0, prompt.shape[1] :]
        response = engine.infer([request], RequestConfig(20, temperature=0))[0]
        assert response.choices[0].token_ids == wanted.tolist()
        assert response.usage.prompt_tokens == prompt.shape[1]
        assert response.usage.completion_tokens == len(wanted)


def test_beams_equal_generate(engine):
    request = requests()[1]
    prompt = torch.tensor([engine.encode(request)])
    wanted = engine.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, num_beams=3, max_new_tokens=12, pad_token_id=0
    )[0, prompt.shape[1] :]
    config = RequestConfig(12, num_beams=3)
    assert engine.infer([request], config)[0].choices[0].token_ids == wanted.tolist()
    told = "".join(delta.text for delta in engine.stream(request, config))
    assert told == engine.infer([request], config)[0].choices[0].text


def test_sampling_follows_the_probabilities():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(4000, 1)

    def shares(**values):
        pickers = [Picker([], {}, RequestConfig(**values), seed) for seed in range(4000)]
        return torch.tensor(pick(logits, pickers)[0]).bincount(minlength=4) / 4000

    assert torch.allclose(shares(temperature=1.0), torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.03)
    assert torch.allclose(shares(top_k=2), torch.tensor([0.625, 0.375, 0.0, 0.0]), atol=0.03)
    assert torch.allclose(shares(temperature=1.0, min_p=0.2), torch.tensor([0.526, 0.316, 0.158, 0]), atol=0.03)
    pushed = shares(temperature=1.0, logit_bias={3: 10.0})
    assert pushed[3] > 0.99


def test_seeds(engine):
    request = requests()[1]
    hot = RequestConfig(24, temperature=1.5, seed=1)
    one = engine.infer([request], hot)
    assert ids(one) == ids(engine.infer([request], hot))
    assert ids(one) != ids(engine.infer([request], hot.with_values(seed=2)))
    assert ids(engine.infer([request], hot.with_values(seed=None))) != ids(
        engine.infer([request], hot.with_values(seed=None))
    )
    many = engine.infer([request], hot.with_values(n=3))[0].choices
    assert [choice.index for choice in many] == [0, 1, 2]
    assert many[0].token_ids == one[0].choices[0].token_ids
    assert len({tuple(choice.token_ids) for choice in many}) == 3


def test_parameters_come_from_the_model_then_from_the_request():
    engine = make_engine()
    engine.model.generation_config.update(do_sample=True, temperature=1.5, repetition_penalty=1.3)
    request, seeded = requests()[1], RequestConfig(24, seed=3)
    own = ids(engine.infer([request], seeded))
    assert own == ids(engine.infer([request], seeded.with_values(temperature=1.5, repetition_penalty=1.3)))
    assert own != ids(engine.infer([request], seeded.with_values(temperature=0.7)))
    assert own != ids(engine.infer([request], seeded.with_values(repetition_penalty=1.0)))
    greedy = ids(engine.infer([request], seeded.with_values(temperature=0)))
    assert greedy == ids(engine.infer([request], seeded.with_values(top_k=1)))
    engine.model.generation_config.update(do_sample=False, temperature=None, repetition_penalty=1.3)
    assert greedy == ids(engine.infer([request], seeded))


def test_a_stop_text_ends_the_answer(engine):
    request = requests()[1]
    whole = engine.infer([request], RequestConfig(40, temperature=0))[0].choices[0]
    stop = whole.text[10:13]
    config = RequestConfig(40, temperature=0, stop=[stop])
    choice = engine.infer([*requests(), request], config)[-1].choices[0]
    assert choice.text == whole.text[: whole.text.index(stop)]
    assert choice.finish_reason == "stop"
    assert len(choice.token_ids) < len(whole.token_ids)
    assert whole.token_ids[: len(choice.token_ids)] == choice.token_ids
    assert "".join(delta.text for delta in engine.stream(request, config)) == choice.text


def test_finish_reasons(engine):
    prompt = engine.encode(requests()[0])
    choice = engine.infer([requests()[0]], RequestConfig(5, temperature=0))[0].choices[0]
    assert (choice.finish_reason, len(choice.token_ids)) == ("length", 5)
    stopping = make_engine()
    stopping._stop_ids = {choice.token_ids[2]}
    ended = stopping.infer([requests()[0]], RequestConfig(5, temperature=0))[0].choices[0]
    assert (ended.finish_reason, ended.token_ids) == ("stop", choice.token_ids[:3])
    assert ended.text == engine.tokenizer.decode(choice.token_ids[:2])
    assert len(prompt) > 1


def test_the_default_limit_is_what_the_context_leaves(engine):
    free = make_engine(eos_token_id=None)
    free._stop_ids = {0}
    prompt = free.encode(requests()[0])
    choice = free.infer([requests()[0]], RequestConfig(temperature=0))[0].choices[0]
    assert len(choice.token_ids) == 256 - len(prompt) or choice.finish_reason == "stop"
    assert answer_limit(RequestConfig(5000), prompt, free.context) == 256 - len(prompt)
    wide = make_engine(max_position_embeddings=9000)
    assert answer_limit(RequestConfig(), prompt, wide.context) == 2048
    assert answer_limit(RequestConfig(5000), prompt, wide.context) == 5000


def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(engine):
    request = InferRequest(ask("sky " * 300))
    with pytest.raises(SwiftError, match=r"the prompt has \d{3,} tokens; the context is 256"):
        engine.infer([request])


@pytest.mark.parametrize("config", [RequestConfig(60, temperature=0), RequestConfig(60, temperature=1.2, seed=5)])
def test_streamed_pieces_are_the_answer(engine, config):
    for request in requests():
        deltas = list(engine.stream(request, config))
        response = engine.infer([request], config)[0]
        assert "".join(delta.text for delta in deltas) == response.choices[0].text
        assert deltas[-1].response == response
        message = collect(piece for delta in deltas for piece in delta.pieces)
        assert message == response.choices[0].message.to_message()
        assert deltas[-1].finish_reason == response.choices[0].finish_reason
        assert all(delta.finish_reason is None for delta in deltas[:-1])


def test_closing_the_stream_stops_the_generation():
    engine = make_engine(max_position_embeddings=4096)
    engine._stop_ids = {0}
    steps = []
    engine.model.register_forward_hook(lambda *_: (steps.append(1), time.sleep(0.002))[1])
    stream = engine.stream(requests()[0], RequestConfig(2000, temperature=1.0, seed=1))
    next(stream)
    stream.close()
    deadline = time.monotonic() + 10
    while any(thread.name == "swift-generate" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(steps) < 1000


def test_an_error_in_the_thread_reaches_the_caller():
    engine = make_engine()

    def fail(*_):
        raise RuntimeError("boom")

    engine.model.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="boom"):
        list(engine.stream(requests()[0]))


def test_responses_are_told_as_they_come(engine):
    seen = {}
    responses = make_engine(batch=2).infer(requests(), RequestConfig(4, temperature=0), on_response=seen.__setitem__)
    assert seen == dict(enumerate(responses))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (InferRequest([]), "no messages"),
        (InferRequest([{"role": "assistant", "content": "x"}]), "nothing to answer"),
        (InferRequest(ask("x"), images=["a.png"]), "reads text alone"),
    ],
)
def test_requests_that_cannot_be_answered(engine, request_, words):
    with pytest.raises(SwiftError, match=words):
        engine.infer([request_])


@pytest.mark.parametrize(
    "values",
    [{"temperature": -1}, {"top_p": 0}, {"n": 0}, {"num_beams": 2, "temperature": 1}, {"num_beams": 2, "n": 2}],
)
def test_parameters_that_do_not_fit(values):
    with pytest.raises(SwiftError):
        RequestConfig(**values)


def test_registry():
    assert engines.get("pt") is engines.get("transformers") is PtEngine
    assert engines.get("sglang").package == "sglang" and engines.get("lmdeploy").package == "lmdeploy"
    with pytest.raises(SwiftError, match="there is no such engine"):
        engines.get("nothing")


def test_recurrent_models_are_not_padded():
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.4}
    model = MambaForCausalLM(MambaConfig(vocab_size=len(make_tokenizer()), eos_token_id=2, **sizes)).eval()
    template = load_template(make_tokenizer())
    batched, single = PtEngine((model, template)), PtEngine((model, template), max_batch_size=1)
    config = RequestConfig(12, temperature=0)
    assert batched.context is None
    assert ids(batched.infer([*requests(), *requests()], config)) == ids(single.infer(requests(), config)) * 2


def test_an_answer_begins_with_the_response_prefix():
    """It is part of the prompt and of the answer, streamed or not."""
    template = load_template(make_tokenizer(), response_prefix="Well, ")
    engine = PtEngine((make_model(), template))
    request, config = requests()[1], RequestConfig(8, temperature=0)
    assert template.tokenizer.decode(engine.encode(request)).endswith("assistant\nWell, ")
    (choice,) = engine.infer([request], config)[0].choices
    assert choice.text == "Well, " + template.tokenizer.decode(choice.token_ids)
    assert choice.message.content == choice.text
    assert "".join(delta.text for delta in engine.stream(request, config)) == choice.text


def test_a_stop_that_is_no_token_is_watched_for():
    """A template whose end of turn the vocabulary has no token for: the answer ends before it."""

    def template(stop):
        return load_template(
            make_tokenizer(
                "{% for m in messages %}{{ m.role }}: {{ m.content }}"
                f"{{{{ '{stop}' if m.role == 'assistant' else '' }}}}\n"
                "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
            )
        )

    engine = make_engine()
    engine.template = template("never said")
    request, config = requests()[1], RequestConfig(24, temperature=0)
    text = engine.infer([request], config)[0].choices[0].text
    parts = (text[at : at + 2] for at in range(4, len(text) - 2))
    stop = next(part for part in parts if part.isprintable() and part == part.strip() and "�" not in part)
    engine.template = template(stop)
    assert engine.template.stop_strings == [stop]
    choice = engine.infer([request], config)[0].choices[0]
    assert (choice.text, choice.finish_reason) == (text[: text.index(stop)], "stop")


def test_an_adapter_by_its_folder_as_old_scripts_name_it(tmp_path):
    from swift.llm import AdapterRequest

    base = save_tiny(tmp_path / "base")
    folder = save_adapter(tmp_path / "one", base)
    engine, config = PtEngine(str(base)), RequestConfig(8, temperature=0)
    adapter = AdapterRequest("one", str(folder))
    wanted = ids(PtEngine(str(base), adapters=[str(folder)]).infer(requests(), config))
    assert ids(engine.infer(requests(), config, adapter_request=adapter)) == wanted
    assert (
        ids(engine.infer(requests(), config, adapter_request=adapter))
        == wanted
        != ids(engine.infer(requests(), config))
    )
    with pytest.raises(SwiftError, match="there is an adapter one already"):
        engine.infer(requests(), config, adapter_request=AdapterRequest("one", str(base)))
