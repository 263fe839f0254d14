"""What a client is told that asks wrongly, too much, or too long; and what becomes of the server."""

from __future__ import annotations

import json
import threading

import httpx
import openai
import pytest

from tests.serve.serving import Scripted, serve, tiny_engine
from tests.tiny import ask
from tests.waiting import until

TOOL = {"type": "function", "function": {"name": "f"}}
CHAT = {"model": "tiny", "messages": ask("hi"), "max_tokens": 4}


@pytest.fixture(scope="module")
def server():
    with serve(tiny_engine(), max_queue=8, max_request_size=0.1, max_logprobs=3) as server:
        yield server


def error_of(answer: httpx.Response) -> dict:
    body = answer.json()
    assert body.keys() == {"error"} and body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]


@pytest.mark.parametrize(
    ("change", "param", "said"),
    [
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"temperature": float("nan")}, "temperature", "finite"),
        ({"top_p": 2}, "top_p", "less than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 2048}, "max_tokens", "the context of 2048 tokens leaves"),
        ({"max_tokens": True}, "max_tokens", "valid integer"),
        ({"n": 99}, "n", "are the most"),
        ({"seed": 10**30}, "seed", "less than"),
        ({"top_logprobs": 4, "logprobs": True}, "top_logprobs", "3 are the most"),
        ({"top_logprobs": 2}, None, "logprobs true"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "king", "content": "hi"}]}, "messages.0.role", "'user'"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content.str", "valid string"),
        ({"messages": ask("hi " * 3000)}, None, "the context is 2048"),
        ({"messages": [*ask("hi"), {"role": "assistant", "content": "ho"}]}, None, "nothing to answer"),
        (
            {"messages": ask([{"type": "image_url", "image_url": {"url": "http://x/y.png"}}])},
            "messages",
            "reads text alone",
        ),
        ({"messages": ask("\ud800")}, None, "half a character"),
        ({"tempreature": 1}, "tempreature", "no such parameter"),
        ({"best_of": 3}, None, "best_of can only be 1"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, None, "drops the tools"),
        ({"tool_choice": "required"}, None, "needs tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "needs json_schema"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs", "cannot be used"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "both say"),
        ({"tools": [TOOL], "tool_choice": "required", "guided_regex": "a"}, "tool_choice", "give one of them"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "no token id"),
        ({"stream_options": {"include_usage": True}}, None, "stream true"),
    ],
)
def test_bad_parameters_are_400_and_named(server, change, param, said):
    text = json.dumps({**CHAT, **change})
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=text, headers={"content-type": "application/json"})
    error = error_of(answer)
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["param"] == param and said in error["message"], error


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b'{"messages": "\xc3\x28"}', b"[" * 50000, b"{}", b"1" * 6000],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"])
def test_bodies_that_are_none(server, content, path):
    for kind in ("application/json", "text/plain"):
        answer = httpx.post(server.url + path, content=content, headers={"content-type": kind})
        assert answer.status_code == 400, answer.text
        error_of(answer)


def test_errors_as_the_official_client_raises_them(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)
    with pytest.raises(openai.NotFoundError, match="'huge' does not exist; there are tiny") as caught:
        client.chat.completions.create(**{**CHAT, "model": "huge"})
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**CHAT, temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**CHAT, stream=True, top_p=7)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("huge")
    assert error_of(httpx.get(f"{server.url}/nowhere"))["type"] == "not_found_error"
    assert httpx.get(f"{server.url}/v1/chat/completions").status_code == 405


def test_large_bodies_are_refused_whether_they_say_so_or_not(server):
    large = json.dumps({**CHAT, "messages": ask("x" * 200_000)}).encode()
    headers = {"content-type": "application/json"}
    url = f"{server.url}/v1/chat/completions"
    assert httpx.post(url, content=large, headers=headers).status_code == 413
    parts = (large[at : at + 5000] for at in range(0, len(large), 5000))
    answer = httpx.post(url, content=parts, headers=headers)
    assert answer.status_code == 413 and "0.1 MiB" in error_of(answer)["message"]


def test_a_key_is_needed_everywhere_but_for_health():
    with serve(Scripted("yes"), api_key="sésame") as server:
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic sésame".encode()}):
            answer = httpx.get(f"{server.url}/v1/models", headers=headers)
            assert answer.status_code == 401 and error_of(answer)["code"] == "invalid_api_key"
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        good = {"authorization": "Bearer sésame".encode()}
        assert httpx.get(f"{server.url}/v1/models", headers=good).status_code == 200
        assert httpx.get(f"{server.url}/v1/models", headers={"x-api-key": "sésame".encode()}).status_code == 200


def test_a_full_queue_is_429():
    hold = threading.Event()
    engine = Scripted("yes", hold)
    with serve(engine, max_batch_size=1, max_queue=1) as server, httpx.Client(base_url=server.url) as client:
        threads = [threading.Thread(target=client.post, args=("/v1/chat/completions",), kwargs={"json": CHAT})]
        threads += [threading.Thread(target=client.post, args=("/v1/chat/completions",), kwargs={"json": CHAT})]
        for thread in threads:
            thread.start()
        until(lambda: server.service.open == 2)
        answer = client.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == 429 and error_of(answer)["type"] == "rate_limit_error"
        hold.set()
        for thread in threads:
            thread.join()
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_a_late_answer_is_504_and_its_place_is_free():
    engine = Scripted("yes", threading.Event())
    with serve(engine, request_timeout=0.2) as server:
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT)
        assert answer.status_code == 504 and error_of(answer)["type"] == "timeout_error"
        streamed = httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "stream": True})
        assert streamed.status_code == 200 and "within 0.2 seconds" in streamed.text
        until(lambda: all(ticket.cancelled.is_set() for ticket in engine.tickets) and server.service.open == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place_at_once(stream):
    engine = Scripted("yes", threading.Event())
    with serve(engine) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "stream": stream}, timeout=0.3)
        assert engine.ended.acquire(timeout=1) and engine.tickets[0].cancelled.is_set()
        until(lambda: server.service.open == 0, 1)


def test_a_client_that_leaves_an_engine_of_a_model_frees_its_place():
    engine = tiny_engine(batch=1)
    more = {"max_tokens": 100_000, "ignore_eos": True}
    engine.context = 10_000_000
    with serve(engine) as server:
        with (
            httpx.Client() as client,
            client.stream("POST", f"{server.url}/v1/chat/completions", json={**CHAT, **more, "stream": True}) as lines,
        ):
            assert next(line for line in lines.iter_lines() if "content" in line)
        assert until(lambda: engine.load == (0, 0)) < 1
        assert httpx.post(f"{server.url}/v1/chat/completions", json=CHAT).status_code == 200


def test_what_fails_inside_is_500_without_its_words_and_the_server_lives(caplog):
    engine = Scripted("yes")
    with serve(engine) as server:
        good, engine.encode = engine.encode, lambda request: 1 / 0
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT)
        assert answer.status_code == 500 and "division" not in answer.text
        assert error_of(answer)["type"] == "server_error"
        assert "ZeroDivisionError" in caplog.text
        engine.encode = good
        assert httpx.post(f"{server.url}/v1/chat/completions", json=CHAT).status_code == 200
        assert server.service.open == 0


def test_figures_for_prometheus():
    with serve(Scripted("the sky")) as server:
        httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "stream": True, "max_tokens": 99})
        httpx.post(f"{server.url}/v1/chat/completions", json={})
        httpx.get(f"{server.url}/somewhere/else")
        text = httpx.get(f"{server.url}/metrics").text
        answer = len(server.service.engine.ids)
        for line in (
            'swift_requests_total{path="/v1/chat/completions",status="200"} 1.0',
            'swift_requests_total{path="/v1/chat/completions",status="400"} 1.0',
            'swift_requests_total{path="other",status="404"} 1.0',
            f"swift_generated_tokens_total {answer}.0",
            "swift_time_to_first_token_seconds_count 1.0",
            "swift_answers_open 0.0",
        ):
            assert line in text


def test_the_log_has_contents_only_where_they_are_asked_for(caplog):
    caplog.set_level("INFO", "swift.serve")
    for verbose in (False, True):
        server = serve(Scripted("a secret answer"))
        server.service.verbose = verbose
        with server:
            httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "messages": ask("a secret question")})
        assert ("secret" in caplog.text) == verbose
        assert "POST /v1/chat/completions 200" in caplog.text


def test_an_answer_may_fill_the_context_and_be_cut_there_where_that_is_wanted(server):
    url, ids = "/v1/completions", {"prompt": [70] * 2000, "temperature": 0}
    with httpx.Client(base_url=server.url, timeout=60) as client:
        refused = client.post(url, json={**ids, "max_tokens": 49})
        assert refused.status_code == 400 and "leaves 48" in error_of(refused)["message"]
        assert error_of(refused)["code"] == "context_length_exceeded"
        assert client.post(url, json={**ids, "max_tokens": 48}).status_code == 200
    with serve(Scripted("yes"), clamps=True) as lenient:
        assert httpx.post(lenient.url + url, json={**ids, "max_tokens": 49}).status_code == 200


def test_the_time_to_the_first_token_of_completions_is_measured():
    with serve(Scripted("yes sir")) as server, httpx.Client(base_url=server.url) as client:
        for path, body in (("/v1/completions", {"prompt": "hi"}), ("/v1/chat/completions", CHAT)):
            before = client.get("/metrics").text
            with client.stream("POST", path, json={**body, "stream": True}) as lines:
                assert len(list(lines.iter_lines())) > 3
            after = client.get("/metrics").text
            assert count_of(after) == count_of(before) + 1
            client.post(path, json=body)
            assert count_of(client.get("/metrics").text) == count_of(after)


def count_of(page: str) -> float:
    name = "swift_time_to_first_token_seconds_count "
    return next(float(line.removeprefix(name)) for line in page.splitlines() if line.startswith(name))
