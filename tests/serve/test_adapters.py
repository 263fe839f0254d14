"""Adapters that come and go while others are answered."""

from __future__ import annotations

import threading

import httpx
import pytest

from swift.engines import InferRequest, PtEngine, RequestConfig
from swift.serve.server import Server
from swift.serve.service import Limits, Service
from tests.serve.serving import Scripted
from tests.tiny import ask, save_adapter, save_tiny
from tests.waiting import until

CONFIG = RequestConfig(12, temperature=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = save_tiny(tmp_path_factory.mktemp("model") / "tiny", max_position_embeddings=2048)
    return base, save_adapter(base.parent / "one", base, 1), save_adapter(base.parent / "two", base, 2)


def body(model, **more):
    return {"model": model, "messages": ask("hi"), "temperature": 0, "max_tokens": 12, **more}


def test_adapters_come_and_go(folders):
    base, *adapters = folders
    engine = PtEngine(str(base), torch_dtype="float32")
    wanted = {}
    for folder in (None, *adapters):
        alone = PtEngine(str(base), adapters=[str(folder)] if folder else [], torch_dtype="float32")
        name = folder.name if folder else "tiny"
        wanted[name] = alone.infer([InferRequest(ask("hi"))], CONFIG)[0].choices[0].message.content
    server = Server(Service(engine, "tiny", loads_adapters=True))
    with server, httpx.Client(base_url=server.url, timeout=60) as client:

        def told(name):
            return client.post("/v1/chat/completions", json=body(name)).json()["choices"][0]["message"]["content"]

        with client.stream(
            "POST", "/v1/chat/completions", json=body("tiny", max_tokens=400, ignore_eos=True, stream=True)
        ) as running:
            lines = running.iter_lines()
            next(lines)
            with httpx.Client(base_url=server.url, timeout=60) as other:
                for name, folder in zip(("one", "two"), adapters, strict=True):
                    sent = {"lora_name": name, "lora_path": str(folder)}
                    assert other.post("/v1/load_lora_adapter", json=sent).status_code == 200
                    assert other.post("/v1/load_lora_adapter", json=sent).status_code == 400
            assert '"finish_reason":"length"' in list(lines)[-4]
        assert {name: told(name) for name in wanted} == wanted
        assert client.post("/v1/unload_lora_adapter", json={"lora_name": "one"}).status_code == 200
        assert client.post("/v1/chat/completions", json=body("one")).status_code == 404
        assert client.post("/v1/unload_lora_adapter", json={"lora_name": "one"}).status_code == 404
        missing = {"lora_name": "x", "lora_path": str(base.parent / "nowhere")}
        assert client.post("/v1/load_lora_adapter", json=missing).status_code == 404
        broken = client.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": str(base)})
        assert broken.status_code == 400, broken.text
        assert {name: told(name) for name in ("tiny", "two")} == {name: wanted[name] for name in ("tiny", "two")}
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tiny", "two"]


def test_an_adapter_that_answers_is_not_taken_away(folders):
    base, one, _ = folders
    engine = PtEngine(str(base), torch_dtype="float32")
    engine.adapters.add("one", one)
    server = Server(Service(engine, "tiny", ["one"], loads_adapters=True))
    with server, httpx.Client(base_url=server.url, timeout=60) as client:
        first, ended = threading.Event(), threading.Event()

        def long():
            with (
                httpx.Client(base_url=server.url, timeout=60) as other,
                other.stream(
                    "POST", "/v1/chat/completions", json=body("one", max_tokens=1900, ignore_eos=True, stream=True)
                ) as lines,
            ):
                for _ in lines.iter_lines():
                    first.set()
                    if ended.is_set():
                        return

        thread = threading.Thread(target=long)
        thread.start()
        first.wait(30)
        refused = client.post("/v1/unload_lora_adapter", json={"lora_name": "one"})
        assert refused.status_code == 400 and "1 answers use" in refused.json()["error"]["message"]
        ended.set()
        thread.join()
        assert client.post("/v1/chat/completions", json=body("one")).status_code == 200


def test_a_slow_adapter_holds_nobody_up_and_its_client_is_told_in_time():
    engine, loads = Scripted("yes"), threading.Event()
    engine.add_adapter = lambda name, folder: loads.wait(30)
    with Server(Service(engine, "tiny", loads_adapters=True, limits=Limits(request_timeout=0.5))) as server:
        sent = {"lora_name": "slow", "lora_path": "/"}
        with httpx.Client(base_url=server.url, timeout=60) as client:
            waiting = threading.Thread(target=lambda: answers.append(client.post("/v1/load_lora_adapter", json=sent)))
            answers: list[httpx.Response] = []
            waiting.start()
            assert httpx.post(f"{server.url}/v1/chat/completions", json=body("tiny")).status_code == 200
            waiting.join()
            assert answers[0].status_code == 504
            loads.set()
            until(lambda: len(client.get("/v1/models").json()["data"]) > 1)


def test_nobody_loads_adapters_unasked(folders):
    base, one, _ = folders
    with Server(Service(PtEngine(str(base), torch_dtype="float32"), "tiny")) as server:
        sent = {"lora_name": "one", "lora_path": str(one)}
        assert httpx.post(f"{server.url}/v1/load_lora_adapter", json=sent).status_code == 404
