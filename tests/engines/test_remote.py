from __future__ import annotations

import asyncio
import threading
import time

import pytest

from swift.engines import InferRequest, RequestConfig, engines
from swift.engines.base import Logprob, Usage
from swift.engines.remote import InferClient, RemoteEngine, checked_url, is_loopback
from swift.errors import SwiftError
from swift.templates.parsing import collect
from tests.engines.stand_in import DONE, StandIn, chunk, models, usage
from tests.tiny import ask

CHAT, TEXTS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def server():
    stand_in = StandIn()
    yield stand_in
    stand_in.close()


@pytest.fixture
def engine(server):
    engine = RemoteEngine(server.url, api_key="secret")
    yield engine
    engine.close()


def answer(content="blue", reason="stop", **message):
    return {
        "choices": [{"index": 0, "message": {"content": content, **message}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    }


def test_it_is_found_by_its_name():
    assert engines.get("remote") is RemoteEngine


def test_an_answer(server, engine):
    server.answers[CHAT] = answer()
    response = engine.infer([InferRequest(ask("sky?"))], RequestConfig(4, temperature=0, top_k=3, stop=["x"], seed=1))[
        0
    ]
    assert response.choices[0].message.to_message() == {"role": "assistant", "content": "blue"}
    assert (response.choices[0].text, response.choices[0].finish_reason) == ("blue", "stop")
    assert response.usage == Usage(5, 2)
    assert server.bodies == [
        {
            "model": "stand-in",
            "messages": ask("sky?"),
            "max_tokens": 4,
            "temperature": 0,
            "top_k": 3,
            "stop": ["x"],
            "seed": 1,
        }
    ]
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}


def test_only_what_was_set_is_sent(server, engine):
    server.answers[CHAT] = answer()
    engine.infer([InferRequest(ask("sky?"))])
    assert server.bodies == [{"model": "stand-in", "messages": ask("sky?")}]


def test_responses_come_in_the_order_of_the_requests(server, engine):
    def echo(body):
        time.sleep(0.1 if body["messages"][0]["content"] == "0" else 0)
        return answer(body["messages"][0]["content"])

    server.answers[CHAT] = echo
    told = []
    requests = [InferRequest(ask(str(number))) for number in range(5)]
    responses = engine.infer(requests, on_response=lambda number, _: told.append(number))
    assert [response.choices[0].text for response in responses] == ["0", "1", "2", "3", "4"]
    assert sorted(told) == [0, 1, 2, 3, 4]
    assert told[-1] == 0


def test_a_conversation_with_tools_is_sent_in_the_protocol_s_form(server, engine):
    server.answers[CHAT] = answer()
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        *ask("add"),
        {"role": "assistant", "content": None, "tool_calls": [call], "loss": False},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
    ]
    bare = {"name": "add", "parameters": {"type": "object"}}
    engine.infer([InferRequest(messages, tools=[bare], chat_template_kwargs={"enable_thinking": False})])
    body = server.bodies[0]
    sent = body["messages"][1]
    assert sent == {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
    }
    assert body["tools"] == [{"type": "function", "function": bare}]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_media_go_along(server, engine, tmp_path):
    server.answers[CHAT] = answer()
    file = tmp_path / "dot.png"
    file.write_bytes(b"\x89PNG")
    sound = tmp_path / "hum.mp3"
    sound.write_bytes(b"hum")
    request = InferRequest(
        [*ask("<image>and <image> differ?"), {"role": "assistant", "content": "yes"}, *ask("and this?")],
        images=["https://example.org/a.jpg", {"bytes": None, "path": str(file)}],
        audios=[str(sound)],
    )
    engine.infer([request])
    first, _, last = server.bodies[0]["messages"]
    assert first["content"] == [
        {"type": "image_url", "image_url": {"url": "https://example.org/a.jpg"}},
        {"type": "text", "text": "and "},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
        {"type": "text", "text": " differ?"},
    ]
    assert last["content"] == [
        {"type": "input_audio", "input_audio": {"data": "aHVt", "format": "mp3"}},
        {"type": "text", "text": "and this?"},
    ]
    with pytest.raises(SwiftError, match="more <image> than"):
        engine.infer([InferRequest(ask("<image><image>"), images=[str(file)])])
    with pytest.raises(SwiftError, match="there is no file nowhere"):
        engine.infer([InferRequest(ask("a"), images=["nowhere.png"])])


CHUNKS = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "let me"}),
    chunk({"reasoning": " see"}),
    chunk({"content": "It is\u2028"}),
    ": a comment\n\n",
    chunk({"content": "blue."}),
    chunk({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "add", "arguments": ""}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]}),
    chunk(reason="tool_calls"),
    usage(7, 9),
    DONE,
]


def test_a_stream(server, engine):
    server.answers[CHAT] = CHUNKS
    deltas = list(engine.stream(InferRequest(ask("sky?")), RequestConfig()))
    response = deltas[-1].response
    assert all(delta.response is None for delta in deltas[:-1])
    assert response.usage == Usage(7, 9)
    choice = response.choices[0]
    assert "".join(delta.text for delta in deltas) == choice.text == "let me see\n\nIt is\u2028blue."
    message = collect([piece for delta in deltas for piece in delta.pieces])
    assert message == choice.message.to_message()
    assert message["reasoning_content"] == "let me see"
    assert message["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    ]
    assert (deltas[-1].finish_reason, choice.finish_reason) == ("stop", "stop")
    assert server.bodies[0]["stream_options"] == {"include_usage": True}


def test_a_whole_answer_equals_the_stream(server, engine):
    server.answers[CHAT] = CHUNKS
    streamed = list(engine.stream(InferRequest(ask("sky?"))))[-1].response
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    whole = answer("It is\u2028blue.", "tool_calls", reasoning="let me see", tool_calls=[call])
    server.answers[CHAT] = whole | {"usage": {"prompt_tokens": 7, "completion_tokens": 9}}
    assert engine.infer([InferRequest(ask("sky?"))])[0] == streamed


def test_several_answers_to_one_request(server, engine):
    server.answers[CHAT] = [
        chunk({"content": "a"}, index=1),
        chunk({"content": "b"}),
        chunk(reason="length", index=1),
        chunk(reason="stop"),
        DONE,
    ]
    deltas = list(engine.stream(InferRequest(ask("sky?")), RequestConfig(n=2)))
    choices = deltas[-1].response.choices
    assert [(choice.text, choice.finish_reason) for choice in choices] == [("b", "stop"), ("a", "length")]
    assert [(delta.index, delta.finish_reason) for delta in deltas if delta.finish_reason] == [
        (1, "length"),
        (0, "stop"),
    ]
    assert server.bodies[0]["n"] == 2


def test_log_probabilities_and_ids(server, engine):
    server.answers["/v1/models"] = models("own", owner="vllm")
    content = [{"token": "token_id:7", "logprob": -0.5, "top_logprobs": [{"token": "token_id:7", "logprob": -0.5}]}]
    told = {"token_ids": [7], "logprobs": {"content": content}}
    server.answers[CHAT] = [chunk({"content": "b"}, **told), chunk(reason="stop"), DONE]
    deltas = list(engine.stream(InferRequest(ask("sky?")), RequestConfig(top_logprobs=1)))
    assert deltas[0].logprobs == deltas[-1].response.choices[0].logprobs == [Logprob(7, -0.5, [(7, -0.5)])]
    assert deltas[0].token_ids == deltas[-1].response.choices[0].token_ids == [7]
    assert server.bodies[0]["return_token_ids"] is True
    assert (server.bodies[0]["logprobs"], server.bodies[0]["top_logprobs"]) == (True, 1)


def test_a_text_to_go_on_with(server, engine):
    server.answers[TEXTS] = {
        "choices": [
            {
                "index": 0,
                "text": " blue",
                "finish_reason": "length",
                "logprobs": {"tokens": [" blue"], "token_logprobs": [-1.5], "top_logprobs": [{"a": -2, " blue": -1.5}]},
            }
        ]
    }
    choice = engine.infer([InferRequest(prompt="The sky is")], RequestConfig(1, top_logprobs=2))[0].choices[0]
    assert (choice.text, choice.message.content, choice.finish_reason) == (" blue", " blue", "length")
    assert choice.logprobs == [Logprob(" blue", -1.5, [(" blue", -1.5), ("a", -2.0)])]
    assert server.bodies == [{"model": "stand-in", "prompt": "The sky is", "max_tokens": 1, "logprobs": 2}]


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        (
            {"json": {"type": "object"}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        ({"json_object": True}, {"response_format": {"type": "json_object"}}),
        ({"choice": ["a", "b"]}, {"structured_outputs": {"choice": ["a", "b"]}}),
    ],
)
def test_structured_answers(server, engine, wanted, sent):
    server.answers[CHAT] = answer()
    engine.infer([InferRequest(ask("sky?"))], RequestConfig(structured_outputs=wanted))
    assert sent.items() <= server.bodies[0].items()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ((400, '{"error": {"message": "max_tokens is too high"}}'), ["says 400: max_tokens is too high", "correct it"]),
        ((401, '{"error": {"message": "wrong key"}}'), ["wrong key", "--api_key"]),
        ((404, '{"detail": "Not Found"}'), ["says 404: Not Found", "/v1"]),
        ((500, ""), ["says 500: status 500 without a message", "log"]),
        ((200, "<html>"), ["something else than JSON", "/v1"]),
        ([chunk({"content": "b"}), {"error": {"message": "out of memory"}}], ["broke off: out of memory"]),
        ([chunk({"content": "b"})], ["in the middle of an answer"]),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_errors_of_the_server(server, engine, told, words, streamed):
    server.answers[CHAT] = told
    with pytest.raises(SwiftError) as error:
        list(engine.stream(InferRequest(ask("a")))) if streamed else engine.infer([InferRequest(ask("a"))])
    assert all(word in str(error.value) for word in words)
    assert len(server.bodies) == 1  # nothing is tried twice


def test_what_the_protocol_cannot_carry_is_refused_before_it_is_sent(server, engine):
    with pytest.raises(SwiftError, match="num_beams 2"):
        engine.stream(InferRequest(ask("a")), RequestConfig(num_beams=2))
    with pytest.raises(SwiftError, match="no message"):
        engine.stream(InferRequest([]))
    assert server.headers == []


def test_no_server():
    with pytest.raises(SwiftError, match="no server answers at http"):
        RemoteEngine("http://127.0.0.1:9").infer([InferRequest(ask("a"))])


def test_leaving_a_stream_closes_the_connection(server, engine):
    server.answers[CHAT] = [chunk({"content": "b"}), threading.Event()]
    deltas = engine.stream(InferRequest(ask("sky?")))
    assert next(deltas).text == "b"
    deltas.close()
    assert server.gone.wait(5)


def test_in_an_event_loop(server, engine):
    server.answers[CHAT] = CHUNKS

    async def ask_both():
        texts = [delta.text async for delta in engine.stream_async(InferRequest(ask("sky?")))]
        return texts, await engine.infer_async(InferRequest(ask("sky?")))

    texts, response = asyncio.run(ask_both())
    assert "".join(texts) == response.choices[0].text


def test_the_client_of_old_scripts(server):
    server.answers["/v1/models"] = models("base", "adapter")
    server.answers[CHAT] = answer()
    port = int(server.url.rsplit(":")[-1].split("/")[0])
    client = InferClient("127.0.0.1", port)
    assert client.models == ["base", "adapter"]
    client.infer([InferRequest(ask("a"))], RequestConfig(max_tokens=3))
    client.infer([InferRequest(ask("a"))], request_config=RequestConfig(max_tokens=3), model="adapter")
    assert [body["model"] for body in server.bodies] == ["base", "adapter"]
    assert "Authorization" not in server.headers[0]
    assert InferClient(base_url=server.url).model == "base"


def test_a_server_without_a_list_of_models(server):
    server.answers["/v1/models"] = (404, "")
    server.answers[CHAT] = answer()
    assert RemoteEngine(server.url, model="mine").infer([InferRequest(ask("a"))])[0].choices[0].text == "blue"
    assert server.bodies[0]["model"] == "mine"
    with pytest.raises(SwiftError, match="404"):
        RemoteEngine(server.url).infer([InferRequest(ask("a"))])


def test_urls():
    assert checked_url("http://host:1/") == "http://host:1/v1"
    assert checked_url("https://host/api/v3/") == "https://host/api/v3"
    with pytest.raises(SwiftError, match="no URL"):
        checked_url("host:8000")
    assert is_loopback("http://localhost:1/v1")
    assert is_loopback("http://[::1]:1/v1")
    assert not is_loopback("https://example.org/v1")
