"""The official client against the server: answers, streams, tools, structures, log-probabilities."""

from __future__ import annotations

import json

import openai
import pytest
import torch

from swift.engines import InferRequest, RequestConfig
from swift.engines.remote import RemoteEngine
from swift.templates.messages import text_of
from tests.serve.serving import Scripted, serve, tiny_engine
from tests.tiny import ask

QUESTION = ask("what is the capital of France?")
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "the weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
OTHER = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}
CALLS = (
    'I look.<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
)


@pytest.fixture(scope="module")
def engine():
    return tiny_engine(agent_template="hermes")


@pytest.fixture(scope="module")
def client(engine):
    with serve(engine, max_queue=64) as server:
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def scripted(text, **template):
    server = serve(Scripted(text, **template))
    return server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_a_greedy_answer_is_that_of_generate(client, engine):
    prompt = torch.tensor([engine.encode(InferRequest(QUESTION))])
    wanted = engine.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=24, pad_token_id=0
    )[0, prompt.shape[1] :].tolist()
    own = engine.infer([InferRequest(QUESTION)], RequestConfig(24, temperature=0))[0]
    found = client.chat.completions.create(
        model="tiny", messages=QUESTION, temperature=0, max_tokens=24, extra_body={"return_token_ids": True}
    )
    choice = found.choices[0]
    assert choice.token_ids == own.choices[0].token_ids == wanted
    assert choice.message.content == own.choices[0].message.content
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (prompt.shape[1], len(wanted))
    assert found.model == "tiny" and choice.finish_reason in ("stop", "length")


def test_the_pieces_of_a_stream_are_the_whole_answer(client):
    more = {"model": "tiny", "messages": QUESTION, "max_tokens": 20, "n": 2, "seed": 3, "temperature": 1}
    whole = client.chat.completions.create(**more, logprobs=True, top_logprobs=2)
    texts, tokens, reasons, usage = ["", ""], [[], []], [None, None], None
    with client.chat.completions.create(
        **more, logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True}
    ) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                tokens[choice.index] += choice.logprobs.content if choice.logprobs else []
                reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert tokens == [choice.logprobs.content for choice in whole.choices]
    assert usage == whole.usage and texts[0] != texts[1]


def test_log_probabilities_are_the_models(client, engine):
    found = client.chat.completions.create(
        model="tiny", messages=QUESTION, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3
    )
    ids = engine.encode(InferRequest(QUESTION))
    for entry in found.choices[0].logprobs.content:
        logps = torch.log_softmax(engine.model(torch.tensor([ids])).logits[0, -1].float(), dim=-1)
        best = logps.detach().topk(3)
        assert [other.logprob for other in entry.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert entry.logprob == pytest.approx(float(best.values[0]), abs=1e-4)
        ids.append(int(best.indices[0]))
        assert bytes(entry.bytes).decode() == entry.token == engine.tokenizer.decode(ids[-1:])


@pytest.mark.parametrize(
    ("more", "fits"),
    [
        ({"response_format": {"type": "json_object"}}, lambda text: isinstance(json.loads(text), dict)),
        ({"extra_body": {"structured_outputs": {"regex": "a{3}b"}}}, lambda text: text == "aaab"),
        ({"extra_body": {"guided_choice": ["yes", "no"]}}, lambda text: text in ("yes", "no")),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "c", "schema": TOOL["function"]["parameters"], "strict": True},
                }
            },
            lambda text: json.loads(text)["city"] in ("Paris", "Rome"),
        ),
    ],
)
def test_answers_have_the_structure_that_is_asked_for(client, more, fits):
    if "json_object" in str(more):
        # A random model would go on for ever: the grammar ends it where only a closing brace may come.
        more = {**more, "logit_bias": {client_id(client, "}"): 100}}
    found = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=100, seed=1, **more)
    assert fits(found.choices[0].message.content)


def client_id(client, text):
    return str(client.post("../tokenize", body={"prompt": text}, cast_to=object)["tokens"][0])


def test_tools_are_called_by_what_the_model_writes():
    server, client = scripted(CALLS, agent_template="hermes")
    with server:
        found = client.chat.completions.create(model="tiny", messages=QUESTION, tools=[TOOL, OTHER]).choices[0]
        assert (found.finish_reason, found.message.content) == ("tool_calls", "I look.")
        calls = [(call.function.name, json.loads(call.function.arguments)) for call in found.message.tool_calls]
        assert calls == [("weather", {"city": "Paris"}), ("time", {})]
        assert len({call.id for call in found.message.tool_calls}) == 2

        with client.chat.completions.stream(model="tiny", messages=QUESTION, tools=[TOOL, OTHER]) as stream:
            last = stream.get_final_completion().choices[0]
        assert [(call.function.name, json.loads(call.function.arguments)) for call in last.message.tool_calls] == calls
        assert (last.finish_reason, last.message.content) == ("tool_calls", "I look.")

        single = client.chat.completions.create(
            model="tiny", messages=QUESTION, tools=[TOOL, OTHER], parallel_tool_calls=False
        )
        assert [call.function.name for call in single.choices[0].message.tool_calls] == ["weather"]

        history = [
            *QUESTION,
            {"role": "assistant", "tool_calls": [call.model_dump() for call in found.message.tool_calls[:1]]},
            {"role": "tool", "tool_call_id": found.message.tool_calls[0].id, "content": "sunny"},
        ]
        client.chat.completions.create(model="tiny", messages=history, tools=[TOOL])
        assert "sunny" in str([text_of(message) for message in server.service.engine.requests[-1].messages])
        client.chat.completions.create(model="tiny", messages=QUESTION, tools=[TOOL], tool_choice="none")
        assert server.service.engine.requests[-1].tools is None


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_tool_that_has_to_be_called_is_called(client, choice):
    more = {"model": "tiny", "messages": QUESTION, "tools": [TOOL], "tool_choice": choice, "seed": 1, "max_tokens": 99}
    found = client.chat.completions.create(**more).choices[0]
    call = found.message.tool_calls[0].function
    assert call.name == "weather" and json.loads(call.arguments)["city"] in ("Paris", "Rome")
    assert (found.finish_reason, found.message.content) == ("tool_calls", None)
    with client.chat.completions.stream(**more) as stream:
        last = stream.get_final_completion().choices[0]
    assert last.message.tool_calls[0].function.arguments == call.arguments and last.finish_reason == "tool_calls"


def test_reasoning_has_a_field_of_its_own():
    template = (
        "{% for message in messages %}{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n"
        "</think>\n\n{% endif %}{{ message.content }}<|im_end|>{% endfor %}"
    )
    server, client = scripted("<think>\nhm hm\n</think>\n\nParis", chat_template=template)
    with server:
        message = client.chat.completions.create(model="tiny", messages=QUESTION).choices[0].message
        assert (message.reasoning_content, message.content) == ("hm hm", "Paris")
        parts = {"reasoning_content": "", "content": ""}
        for chunk in client.chat.completions.create(model="tiny", messages=QUESTION, stream=True):
            for name in parts:
                parts[name] += getattr(chunk.choices[0].delta, name, None) or ""
        assert parts == {"reasoning_content": "hm hm", "content": "Paris"}


def test_completions_go_on_with_texts_and_ids(client, engine):
    ids = engine.tokenizer.encode("the sky")
    more = {"model": "tiny", "max_tokens": 6, "temperature": 0, "logprobs": 2}
    both = client.completions.create(prompt=["the sky", "the capital"], **more)
    one = client.completions.create(prompt=ids, **more)
    assert [choice.index for choice in both.choices] == [0, 1]
    assert one.choices[0].text == both.choices[0].text
    logprobs = one.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 6
    assert logprobs.top_logprobs[0][logprobs.tokens[0]] == logprobs.token_logprobs[0]
    texts = ["", ""]
    for chunk in client.completions.create(prompt=["the sky", "the capital"], stream=True, **more):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in both.choices]
    echoed = client.completions.create(model="tiny", prompt=ids, echo=True, max_tokens=6, temperature=0)
    assert echoed.choices[0].text == "the sky" + one.choices[0].text


def test_the_stop_text_is_left_out(client):
    more = {"model": "tiny", "prompt": "the", "max_tokens": 12, "temperature": 0}
    text = client.completions.create(**more).choices[0].text
    stopped = client.completions.create(**more, stop=[text[4:7]]).choices[0]
    assert (stopped.text, stopped.finish_reason) == (text[: text.index(text[4:7])], "stop")


def test_models_and_tokens(client, engine):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    told = client.post("../tokenize", body={"messages": QUESTION, "return_token_strs": True}, cast_to=object)
    assert told["tokens"] == engine.encode(InferRequest(QUESTION)) and told["count"] == len(told["token_strs"])
    assert told["max_model_len"] == 2048
    back = client.post("../detokenize", body={"tokens": told["tokens"]}, cast_to=object)["prompt"]
    assert back == engine.template.prompt_text(QUESTION)


@pytest.mark.parametrize("prompt", [None, "the sky"])
def test_the_remote_engine_gets_what_the_engine_gives(engine, prompt):
    request = InferRequest(prompt=prompt) if prompt else InferRequest(QUESTION)
    config = RequestConfig(12, temperature=0.8, seed=5, n=2, logprobs=True, top_logprobs=2)
    with serve(engine) as server:
        remote = RemoteEngine(server.url)
        told, wanted = remote.infer([request], config)[0], engine.infer([request], config)[0]
        assert [choice.token_ids for choice in told.choices] == [choice.token_ids for choice in wanted.choices]
        assert [choice.logprobs for choice in told.choices] == [choice.logprobs for choice in wanted.choices]
        assert told.usage == wanted.usage
        last = list(remote.stream(request, config))[-1].response
        assert [choice.logprobs for choice in last.choices] == [choice.logprobs for choice in wanted.choices]
        assert [choice.text for choice in last.choices] == [choice.text for choice in wanted.choices]
        remote.close()
