"""Pictures sent to the server, by the clients of its protocols."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from swift.engines import InferRequest, PtEngine, RequestConfig
from swift.engines.remote import RemoteEngine
from swift.media import Access
from swift.serve.server import Server
from swift.serve.service import Service
from tests.tiny import ask
from tests.tiny_media import picture, png, save_reader, wav

pytest.importorskip("torchvision")
URL = "data:image/png;base64," + base64.b64encode(png(picture())).decode()
SOUND = base64.b64encode(wav()).decode()
GREEDY = RequestConfig(max_tokens=8, temperature=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Server]:
    engine = PtEngine(str(save_reader(tmp_path_factory.mktemp("model"), "qwen2_vl")), torch_dtype="float32")
    (folder / "one.png").write_bytes(png(picture()))
    results = (folder / "results.jsonl").open("w")
    with Server(Service(engine, "tiny", access=Access(folder, ("localhost",)), results=results)) as server:
        yield server


@pytest.fixture(scope="module")
def wanted(server: Server) -> str:
    [response] = server.service.engine.infer([InferRequest(ask("<image>what?"), images=[picture()])], GREEDY)
    return response.choices[0].message.content


def part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def question(url: str) -> list[Any]:
    return ask([part(url), {"type": "text", "text": "what?"}])


def test_the_chat(server: Server, folder: Path, wanted: str) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    for url in (URL, f"file://{folder}/one.png"):
        chat = client.chat.completions.create(model="tiny", messages=question(url), max_tokens=8, temperature=0)
        assert chat.choices[0].message.content == wanted
        told = client.chat.completions.create(
            model="tiny", messages=question(url), max_tokens=8, temperature=0, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in told if chunk.choices) == wanted
    line = json.loads((folder / "results.jsonl").read_text().splitlines()[0])
    assert line["messages"][0]["content"][0] == part(URL)
    assert chat.usage.prompt_tokens > 10


def test_the_other_protocols(server: Server, wanted: str) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    content = [{"type": "input_image", "image_url": URL, "detail": "auto"}, {"type": "input_text", "text": "what?"}]
    response = client.responses.create(
        model="tiny", input=ask(content), max_output_tokens=8, temperature=0, store=False
    )
    assert response.output_text == wanted
    theirs = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png(picture())).decode()}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "what?"}]
    message = theirs.messages.create(model="tiny", messages=ask(content), max_tokens=8, extra_body={"temperature": 0})
    assert message.content[0].text == wanted
    count = theirs.messages.count_tokens(model="tiny", messages=ask(content))
    assert count.input_tokens == message.usage.input_tokens


def test_our_own_client(server: Server, wanted: str) -> None:
    engine = RemoteEngine(f"{server.url}/v1")
    [response] = engine.infer([InferRequest(ask("<image>what?"), images=[png(picture())])], GREEDY)
    assert response.choices[0].message.content == wanted


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (part("file:///etc/passwd"), "outside the folder"),
        (part("http://169.254.169.254/latest/meta-data"), "may not be fetched from 169.254.169.254"),
        (part("http://localhost:1/x.png"), "localhost has a private address"),
        (part("data:image/png;base64,AAAA"), "a picture cannot be read"),
        (part("data:image/png;base64,A"), "broken base64"),
        ({"type": "image_url"}, "holds nothing"),
        ({"type": "image_url", "image_url": {"url": 5}}, "neither a file, nor a URL"),
        ({"type": "input_audio", "input_audio": {"data": SOUND, "format": "wav"}}, "no place for sounds"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "a sound cannot be read"),
        (part("http://[x/a.png"), "cannot be fetched"),
        ({"type": "hologram"}, "no type of part hologram"),
    ],
)
def test_what_is_refused(server: Server, sent: dict[str, Any], said: str) -> None:
    body = {"model": "tiny", "messages": ask([sent, {"type": "text", "text": "what?"}]), "max_tokens": 4}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"], answer.text


def test_tokens_of_a_prompt_with_a_picture(server: Server) -> None:
    answer = httpx.post(f"{server.url}/tokenize", json={"model": "tiny", "messages": question(URL)}).json()
    engine = server.service.engine
    assert answer["tokens"] == engine.encode(InferRequest(ask("<image>what?"), images=[picture()]))
