"""Answers that join and leave a running batch are those that the model gives alone."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPTNeoXConfig, MambaConfig, MistralConfig

from swift.compat import set_rope
from swift.engines import InferRequest, PtEngine, RequestConfig
from swift.engines.cache import grows, join, length_of, new_cache, select
from swift.engines.prefixes import Prefixes
from swift.errors import SwiftError
from swift.templates import load_template
from tests.tiny import ask, make_model, make_tokenizer, save_adapter, save_tiny

TEXTS = ["hi", "what is the capital of France?", "你好", "sky", "the colour of the sky and the capital", "a" * 60]
GREEDY = RequestConfig(20, temperature=0, ignore_eos=True)


def make_engine(model: Any = None, **options: Any) -> PtEngine:
    return PtEngine((model or make_model(), load_template(make_tokenizer())), **options)


def requests(**fields: Any) -> list[InferRequest]:
    return [InferRequest(ask(text), **fields) for text in TEXTS]


def ids(responses: Any) -> list[list[int]]:
    return [choice.token_ids for response in responses for choice in response.choices]


def alone(model: Any, prompt: list[int], tokens: int = 20) -> list[int]:
    """Greedy tokens by one call of the model for each, without a cache."""
    found = list(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            found.append(int(model(torch.tensor([found])).logits[0, -1].argmax()))
    return found[len(prompt) :]


def sizes(**changes: Any) -> dict[str, Any]:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    return {"vocab_size": len(make_tokenizer()), "initializer_range": 0.3, "eos_token_id": 2} | small | changes


WINDOWED = {
    "mistral": MistralConfig(**sizes(num_key_value_heads=2, sliding_window=8)),
    "gemma2": Gemma2Config(**sizes(num_key_value_heads=2, head_dim=8, sliding_window=8)),
    "neox": GPTNeoXConfig(**sizes()),
}


@pytest.mark.parametrize("kind", WINDOWED)
def test_windows_and_other_positions(kind: str) -> None:
    torch.manual_seed(0)
    config = WINDOWED[kind]
    config._attn_implementation = "eager" if kind == "gemma2" else "sdpa"
    engine = make_engine(AutoModelForCausalLM.from_config(config).eval(), max_batch_size=4)
    assert grows(engine.model)
    wanted = [alone(engine.model, engine.encode(request)) for request in requests()]
    assert ids(engine.infer(requests(), GREEDY)) == wanted


def test_a_model_with_another_memory_is_not_batched_so() -> None:
    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    assert not grows(AutoModelForCausalLM.from_config(config))


def test_answers_join_and_leave() -> None:
    engine = make_engine(max_batch_size=4)
    wanted = {text: alone(engine.model, engine.encode(InferRequest(ask(text))), 60) for text in TEXTS}
    widths: list[int] = []
    engine.model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    told: queue.Queue[Any] = queue.Queue()
    lengths = {text: 3 + 9 * number for number, text in enumerate(TEXTS)}

    def send(text: str) -> None:
        config = GREEDY.with_values(max_tokens=lengths[text])
        engine.submit(InferRequest(ask(text)), config, lambda delta: told.put((text, delta)), whole=True)

    for text in TEXTS[:3]:
        send(text)
    answers = {}
    for late in [*TEXTS[3:], None, None, None]:
        text, delta = told.get(timeout=30)
        answers[text] = delta.response.choices[0].token_ids
        if late is not None:
            send(late)
    assert answers == {text: wanted[text][: lengths[text]] for text in TEXTS}
    assert max(widths) > 1 and min(widths) == 1


def test_a_long_prompt_is_read_in_portions_between_steps() -> None:
    engine = make_engine(max_batch_size=4)
    engine.scheduler._portion = 16
    lengths: list[int] = []
    engine.model.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    answers = ids(engine.infer(requests(), GREEDY))
    assert max(lengths) <= 16
    first = lengths.index(1)
    assert any(length > 1 for length in lengths[first:])
    engine.model._forward_pre_hooks.clear()
    assert answers == [alone(engine.model, engine.encode(request)) for request in requests()]


def test_equal_prompts_are_read_once() -> None:
    engine = make_engine()
    rows: list[int] = []
    engine.model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    hot = RequestConfig(8, temperature=1.0, seed=1, n=4, ignore_eos=True)
    four = ids(engine.infer([requests()[1]], hot))
    assert rows == [1, *[4] * 7]
    assert len({tuple(answer) for answer in four}) > 1


def test_a_known_beginning_is_not_read_again() -> None:
    engine = make_engine(max_batch_size=4)
    lengths: list[int] = []
    engine.model.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    talk = ask("what is the capital of France? " * 6)
    first = engine.infer([InferRequest(talk)], GREEDY)[0].choices[0]
    prompt = engine.encode(InferRequest(talk))
    assert lengths == [len(prompt), *[1] * 19]
    longer = [*talk, first.message.to_message(), {"role": "user", "content": "sky"}]
    other = [*ask("what is the capital of France? " * 6 + "you")]
    for messages in (longer, other, talk):
        lengths.clear()
        request = InferRequest(messages)
        answer = ids(engine.infer([request], GREEDY))[0]
        assert sum(lengths) - 19 < len(engine.encode(request)) - 32
        assert answer == alone(PtEngine((make_model(), engine.template)).model, engine.encode(request))
    lengths.clear()
    engine.scheduler.prefixes.forget()
    engine.infer([InferRequest(talk)], GREEDY)
    assert lengths[0] == len(prompt)


def test_an_answer_that_is_cancelled_within_a_step_is_remembered_as_it_was_read() -> None:
    model = make_model()
    engine = make_engine(model)
    request = InferRequest(ask("the capital of France is Paris " * 4))
    wanted = alone(model, engine.encode(request))
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    tickets: list[Any] = []
    cancelled = threading.Event()

    def cancel(*_: Any) -> None:
        if told.qsize() == 3:
            tickets[0].cancel()
            cancelled.set()

    def begin() -> Any:
        tickets.append(engine.submit(request, GREEDY, told.put))
        return model.register_forward_hook(cancel)

    hook = engine.scheduler.call(begin)
    assert cancelled.wait(30)
    hook.remove()
    assert ids(engine.infer([request], GREEDY)) == [wanted]


def test_little_room_keeps_the_latest() -> None:
    cache = new_cache()
    cache.update(torch.randn(1, 2, 40, 4), torch.randn(1, 2, 40, 4), 0)
    size = 2 * cache.layers[0].keys.nbytes
    prefixes = Prefixes(torch.device("cpu"), room=2 * size)
    for start in (0, 100, 200):
        prefixes.keep(None, range(start, start + 40), cache, 0, 0)
    assert [prefixes.known(None, range(start, start + 90)) for start in (0, 100, 200)] == [0, 40, 40]
    assert prefixes.known("other", range(100, 140)) == 0
    assert prefixes.known(None, range(100, 131)) == 0
    assert torch.equal(prefixes.take(None, range(200, 236)).layers[0].keys, cache.layers[0].keys[:, :, :35])


def test_who_leaves_changes_nothing_for_the_others() -> None:
    engine = make_engine(max_batch_size=8)
    wanted = ids(engine.infer(requests(), GREEDY.with_values(max_tokens=100)))
    told: queue.Queue[Any] = queue.Queue()
    long = GREEDY.with_values(max_tokens=100)
    gone = engine.submit(InferRequest(ask("gone")), long, lambda delta: gone.cancel())
    for number, request in enumerate(requests()):
        engine.submit(request, long, lambda delta, number=number: told.put((number, delta)), whole=True)
    answers = dict(told.get(timeout=30) for _ in TEXTS)
    assert [answers[number].response.choices[0].token_ids for number in range(len(TEXTS))] == wanted


def test_an_error_ends_those_under_way_and_no_others() -> None:
    engine = make_engine(max_batch_size=2)
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("no room")

    engine.model.register_forward_hook(fail)
    told: queue.Queue[Any] = queue.Queue()
    for number in range(4):
        engine.submit(requests()[number], GREEDY, lambda delta, number=number: told.put((number, delta)), whole=True)
    answers = dict(told.get(timeout=30) for _ in range(4))
    failed = [number for number, delta in answers.items() if delta.error is not None]
    # The second may come when the third call is over already.
    assert 1 <= len(failed) <= 2
    assert all("lower --max_batch_size" in str(answers[number].error) for number in failed)
    engine.model._forward_hooks.clear()
    for number in set(range(4)) - set(failed):
        found = answers[number].response.choices[0].token_ids
        assert found == ids(engine.infer([requests()[number]], GREEDY))[0]


def test_logprobs_are_the_models_own() -> None:
    engine = make_engine()
    config = RequestConfig(12, temperature=0.7, seed=3, logprobs=True, top_logprobs=3, repetition_penalty=1.2)
    for request, response in zip(requests(), engine.infer(requests(), config), strict=True):
        (choice,) = response.choices
        prompt = engine.encode(request)
        with torch.inference_mode():
            logits = engine.model(torch.tensor([prompt + choice.token_ids])).logits[0]
        logps = logits.float().log_softmax(-1)[len(prompt) - 1 : -1]
        assert choice.logprobs is not None
        assert [one.token for one in choice.logprobs] == choice.token_ids
        own = logps[range(len(choice.token_ids)), choice.token_ids]
        assert torch.allclose(torch.tensor([one.logprob for one in choice.logprobs]), own, atol=1e-4)
        top = logps.topk(3)
        assert [[token for token, _ in one.top] for one in choice.logprobs] == top.indices.tolist()
        streamed = [one for delta in engine.stream(request, config) for one in delta.logprobs]
        assert [one.token for one in streamed] == choice.token_ids


def test_penalties_follow_their_formulas() -> None:
    engine = make_engine()
    request = requests()[1]
    config = RequestConfig(30, temperature=0, presence_penalty=1.5, frequency_penalty=0.7, ignore_eos=True)
    found = list(prompt := engine.encode(request))
    with torch.inference_mode():
        for _ in range(30):
            logits = engine.model(torch.tensor([found])).logits[0, -1]
            own = torch.tensor(found[len(prompt) :], dtype=torch.long)
            counts = torch.bincount(own, minlength=len(logits))
            found.append(int((logits - 1.5 * (counts > 0) - 0.7 * counts).argmax()))
    assert ids(engine.infer([request], config))[0] == found[len(prompt) :]
    assert ids(engine.infer([request], config)) != ids(engine.infer([request], GREEDY.with_values(max_tokens=30)))


def test_ends_of_an_answer() -> None:
    engine = make_engine()
    request = requests()[1]
    free = ids(engine.infer([request], GREEDY))[0]
    ended = engine.infer([request], GREEDY.with_values(stop_token_ids=[free[4]]))[0].choices[0]
    assert (ended.token_ids, ended.finish_reason) == (free[: free.index(free[4]) + 1], "stop")
    later = ids(engine.infer([request], GREEDY.with_values(stop_token_ids=[free[4]], min_tokens=8)))[0]
    assert len(later) >= 8 and free[4] not in later[:8]
    banned = ids(engine.infer([request], GREEDY.with_values(logit_bias={free[0]: -100})))[0]
    assert banned[0] != free[0]


def test_text_and_ids_to_go_on_with() -> None:
    engine = make_engine()
    prompt = engine.tokenizer.encode("what is the")
    wanted = alone(engine.model, prompt)
    assert ids(engine.infer([InferRequest(prompt="what is the")], GREEDY)) == [wanted]
    assert ids(engine.infer([InferRequest(prompt=prompt)], GREEDY)) == [wanted]
    with pytest.raises(SwiftError, match="is no token id"):
        engine.infer([InferRequest(prompt=[10**6])], GREEDY)


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any) -> Any:
    return save_tiny(tmp_path_factory.mktemp("models") / "base")


def test_adapters_share_a_batch(base: Any, tmp_path: Any) -> None:
    folders = {name: save_adapter(tmp_path / name, base, seed) for seed, name in enumerate(("one", "two"))}
    own = {name: PtEngine(None, adapters=[str(folder)]) for name, folder in folders.items()}
    wanted = {name: ids(engine.infer(requests(), GREEDY)) for name, engine in own.items()}
    wanted[None] = ids(PtEngine(str(base)).infer(requests(), GREEDY))
    assert len({str(answers) for answers in wanted.values()}) == 3
    engine = PtEngine(str(base), max_batch_size=18)
    for name, folder in folders.items():
        engine.add_adapter(name, folder)
    mixed = [request for name in wanted for request in requests(adapter=name)]
    assert ids(engine.infer(mixed, GREEDY)) == [answer for answers in wanted.values() for answer in answers]
    with pytest.raises(SwiftError, match="there is no adapter three\n  fix: there are one, two"):
        engine.infer(requests(adapter="three"))
    engine.remove_adapter("one")
    assert ids(engine.infer(requests(adapter="two"), GREEDY)) == wanted["two"]
    engine.remove_adapter("two")
    assert ids(engine.infer(requests(), GREEDY)) == wanted[None]


def test_adapters_of_other_kinds_take_turns(base: Any, tmp_path: Any) -> None:
    usual = save_adapter(tmp_path / "usual", base, 3)
    dora = save_adapter(tmp_path / "dora", base, 4, use_dora=True)
    wanted = ids(PtEngine(None, adapters=[str(dora)]).infer(requests(), GREEDY))
    engine = PtEngine(None, adapters=[str(usual)])
    before = ids(engine.infer(requests(), GREEDY))
    engine.add_adapter("dora", dora)
    answers = ids(engine.infer([*requests(adapter="dora"), *requests()], GREEDY))
    assert answers == [*wanted, *before]


def test_structured_answers() -> None:
    pytest.importorskip("llguidance")
    engine = make_engine(make_model(max_position_embeddings=2048))
    hot = RequestConfig(200, temperature=1.5, seed=5)

    def texts(**wanted: Any) -> list[str]:
        responses = engine.infer(requests(), hot.with_values(structured_outputs=wanted))
        assert {response.choices[0].finish_reason for response in responses} == {"stop"}
        return [response.choices[0].text for response in responses]

    assert set(texts(choice=["sky", "the capital"])) <= {"sky", "the capital"}
    assert all(text in ("ab", "abb", "abbb") for text in texts(regex="ab{1,3}"))
    schema = {
        "type": "object",
        "properties": {"size": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["a", "b"]}},
        "required": ["size", "kind"],
        "additionalProperties": False,
    }
    for text in texts(json=schema):
        value = json.loads(text)
        assert 0 <= value["size"] <= 99 and value["kind"] in "ab" and "\n" not in text
    for wrong in ({"regex": "("}, {"json": {"type": "nothing"}}, {"choice": []}):
        with pytest.raises(SwiftError, match="structured_outputs"):
            engine.infer(requests(), hot.with_values(structured_outputs=wrong))


def test_from_an_event_loop() -> None:
    engine = make_engine()
    wanted = ids(engine.infer(requests(), GREEDY))

    async def gather() -> list[Any]:
        return await asyncio.gather(*(engine.infer_async(request, GREEDY) for request in requests()))

    async def first_pieces() -> list[int]:
        found: list[int] = []
        async for delta in engine.stream_async(requests()[1], GREEDY.with_values(max_tokens=200)):
            found += delta.token_ids
            if len(found) >= 5:
                break
        return found

    assert ids(asyncio.run(gather())) == wanted
    found = asyncio.run(first_pieces())
    assert found[:5] == wanted[1][:5]
    with pytest.raises(SwiftError, match="no messages"):
        asyncio.run(engine.infer_async(InferRequest(), GREEDY))


def test_the_thread_ends_with_the_work() -> None:
    engine = make_engine()
    engine.infer(requests(), GREEDY)
    thread = engine.scheduler._thread
    if thread is not None:
        thread.join(timeout=10)
    assert engine.scheduler._thread is None
    assert not any(thread.name == "swift-generate" and thread.is_alive() for thread in threading.enumerate())


def test_caches_join_and_select() -> None:
    torch.manual_seed(0)

    def filled(rows: int, width: int) -> Any:
        cache = new_cache()
        for layer in range(2):
            cache.update(torch.randn(rows, 2, width, 4), torch.randn(rows, 2, width, 4), layer)
        return cache

    one, other = filled(2, 5), filled(1, 9)
    both = join([one, other])
    assert length_of(both) == 9
    for layer in range(2):
        keys = both.layers[layer].keys
        assert torch.equal(keys[:2, :, 4:], one.layers[layer].keys) and not keys[:2, :, :4].any()
        assert torch.equal(keys[2:], other.layers[layer].keys)
        last = select(both, [1], 4).layers[layer]
        assert torch.equal(last.keys, one.layers[layer].keys[1:]) and torch.equal(
            last.values, one.layers[layer].values[1:]
        )
    for _ in range(300):
        both.update(torch.ones(3, 2, 1, 4), torch.ones(3, 2, 1, 4), 0)
    assert both.layers[0].keys.shape[-2] == 309
    assert torch.equal(both.layers[0].keys[2:, :, :9], other.layers[0].keys)


def test_an_adapter_that_is_refused_leaves_nothing_behind(base: Any, tmp_path: Any) -> None:
    from safetensors.torch import load_file, save_file

    broken = save_adapter(tmp_path / "broken", base)
    weights = load_file(broken / "adapter_model.safetensors")
    weights.popitem()
    save_file(weights, broken / "adapter_model.safetensors")
    good = save_adapter(tmp_path / "good", base, 2)
    engine = PtEngine(str(base))
    wanted = ids(engine.infer(requests(), GREEDY))
    with pytest.raises(SwiftError):
        engine.add_adapter("broken", broken)
    assert ids(engine.infer(requests(), GREEDY)) == wanted
    engine.add_adapter("good", good)
    with pytest.raises(SwiftError):
        engine.add_adapter("broken", broken)
    assert ids(engine.infer(requests(), GREEDY)) == wanted
    own = ids(PtEngine(None, adapters=[str(good)]).infer(requests(), GREEDY))
    assert ids(engine.infer(requests(adapter="good"), GREEDY)) == own


def test_a_name_that_comes_back_with_other_weights(base: Any, tmp_path: Any) -> None:
    folders = [save_adapter(tmp_path / str(seed), base, seed) for seed in (1, 2)]
    engine = PtEngine(str(base))
    long = [InferRequest(ask("what is the capital of France? " * 6), adapter="x")]
    for folder in folders:
        engine.add_adapter("x", folder)
        wanted = ids(PtEngine(None, adapters=[str(folder)]).infer([InferRequest(long[0].messages)], GREEDY))
        assert ids(engine.infer(long, GREEDY)) == wanted
        engine.remove_adapter("x")
        assert engine.scheduler.prefixes.known("x", engine.encode(long[0])) == 0


def test_rows_of_stretched_positions_have_calls_of_their_own() -> None:
    model = make_model(max_position_embeddings=32)
    set_rope(model.config, {"rope_type": "dynamic", "factor": 4.0})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(model.config).eval()
    several, single = (make_engine(model, max_batch_size=size, max_length=128) for size in (8, 1))
    assert ids(several.infer(requests(), GREEDY)) == ids(single.infer(requests(), GREEDY))


def test_parameters_that_break_a_step_are_refused_before() -> None:
    engine = make_engine()
    with pytest.raises(SwiftError, match="stop_token_ids: 1000000 is no token id"):
        engine.infer(requests(), GREEDY.with_values(stop_token_ids=[10**6], min_tokens=1))
    with pytest.raises(SwiftError, match="does not go with structured_outputs"):
        GREEDY.with_values(structured_outputs={"regex": "a"})
    pytest.importorskip("llguidance")
    config = RequestConfig(50, temperature=0, min_tokens=20, structured_outputs={"choice": ["sky", "capital"]})
    assert engine.infer(requests(), config)[0].choices[0].text in ("sky", "capital")


def test_a_listener_that_breaks_breaks_nobody_else() -> None:
    engine = make_engine()
    told: queue.Queue[Any] = queue.Queue()

    def breaks(delta: Any) -> None:
        raise ValueError("no room")

    engine.submit(requests()[0], GREEDY, breaks, whole=True)
    engine.submit(requests()[1], GREEDY, told.put, whole=True)
    assert told.get(timeout=30).response is not None or told.get(timeout=30).error is not None
    assert ids(engine.infer(requests(), GREEDY)) == [
        alone(engine.model, engine.encode(request)) for request in requests()
    ]
