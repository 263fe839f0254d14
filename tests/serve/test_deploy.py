"""`swift deploy` as a command: what it loads, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from swift.cli.main import main
from swift.engines import InferRequest, PtEngine, RequestConfig
from swift.errors import SwiftError
from swift.serve.address import bind
from swift.serve.run import check_ssl, split_adapters
from swift.serve.server import Server
from swift.serve.service import Service
from tests.serve.serving import Scripted
from tests.tiny import ask, save_adapter, save_tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = save_tiny(tmp_path_factory.mktemp("model") / "tiny", max_position_embeddings=512)
    return base, *(save_adapter(base.parent / name, base, seed) for seed, name in enumerate(("one", "two"), 1))


class Deployed:
    """`swift deploy` in a process of its own."""

    def __init__(self, *words: str | Path) -> None:
        command = [sys.executable, "-m", "swift", "deploy", "--port", "0", *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.said: list[str] = []
        self._ready, self._all = threading.Event(), threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        assert self._ready.wait(120), "".join(self.said)
        found = re.search(r"served at (\S+)/v1", "".join(self.said))
        assert found, "".join(self.said)
        self.client = httpx.Client(base_url=found[1], timeout=60)

    def _read(self) -> None:
        for line in self.process.stderr:
            self.said.append(line)
            if " is served at " in line:
                self._ready.set()
        self._ready.set()
        self._all.set()

    def end(self, sign: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(sign)
        status = self.process.wait(60)
        self._all.wait(10)
        return status, "".join(self.said)


def answer(client: httpx.Client, model: str | None, **more) -> list[int]:
    body = {"model": model, "messages": ask("hi"), "temperature": 0, "max_tokens": 12, "return_token_ids": True, **more}
    found = client.post("/v1/chat/completions", json=body)
    assert found.status_code == 200, found.text
    return found.json()["choices"][0]["token_ids"]


def test_adapters_are_chosen_by_name_and_running_answers_finish(folders):
    base, one, two = folders
    server = Deployed("--model", base, "--adapters", f"one={one}", f"two={two}", "--torch_dtype", "float32")
    wanted = {}
    for name, adapters in (("tiny", []), ("one", [str(one)]), ("two", [str(two)])):
        engine = PtEngine(str(base), adapters=adapters, torch_dtype="float32")
        wanted[name] = engine.infer([InferRequest(ask("hi"))], RequestConfig(12, temperature=0))[0].choices[0].token_ids
    assert {name: answer(server.client, name) for name in wanted} == wanted
    assert len({tuple(ids) for ids in wanted.values()}) == 3
    models = {model["id"]: model["parent"] for model in server.client.get("/v1/models").json()["data"]}
    assert models == {"tiny": None, "one": "tiny", "two": "tiny"}

    body = {"messages": ask("hi"), "max_tokens": 300, "ignore_eos": True, "stream": True}
    with server.client.stream("POST", "/v1/chat/completions", json=body) as lines:
        pieces = lines.iter_lines()
        assert '"content":""' in next(pieces)
        server.process.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=server.client.base_url) as other:
            while (refused := other.get("/health")).status_code == 200:
                pass
            assert refused.status_code == 503
            late = other.post("/v1/chat/completions", json=body)
            assert late.status_code == 503 and late.json()["error"]["type"] == "overloaded_error"
        rest = list(pieces)
    assert rest[-2:] == ["data: [DONE]", ""] and '"finish_reason":"length"' in rest[-4]
    assert server.process.wait(30) == 0
    server._all.wait(10)
    said = "".join(server.said)
    assert "127.0.0.1" in said and "ms-swift's default is 0.0.0.0" in said and "Traceback" not in said


def test_an_adapter_without_a_name_always_acts_and_answers_are_kept(folders, tmp_path):
    base, one, _ = folders
    results = tmp_path / "new" / "results.jsonl"
    words = ["--adapters", one, "--served_model_name", "robin", "--torch_dtype", "float32", "--result_path", results]
    server = Deployed("--model", base, *words)
    engine = PtEngine(str(base), adapters=[str(one)], torch_dtype="float32")
    wanted = engine.infer([InferRequest(ask("hi"))], RequestConfig(12, temperature=0))[0].choices[0].token_ids
    assert answer(server.client, "robin") == answer(server.client, None) == wanted
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["usage"]["completion_tokens"] for line in lines] == [len(wanted)] * 2
    assert lines[0]["messages"] == ask("hi") and lines[0]["choices"][0]["role"] == "assistant"
    status, said = server.end(signal.SIGINT)
    assert status == 0 and "SIGINT" in said and "hi" not in said.split("served at")[1].split()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "must lie between 0 and 65535"),
        (["--infer_backend", "nothing"], "no such engine"),
        (["--adapters", "one=missing"], "missing"),
        (["--adapters", "=x"], "empty part"),
        (["--adapters", "one=/"], "--adapters / holds no adapter"),
        (["--adapters", "/"], "--adapters / holds no adapter"),
        (["--host", "256.1.1.1"], "--host 256.1.1.1"),
        (["--api_key", ""], "must not be empty"),
        (["--ssl_keyfile", "key.pem"], "--ssl_keyfile without --ssl_certfile"),
        (["--ssl_keyfile", "key.pem", "--ssl_certfile", "no.pem"], "No such file"),
        (["--result_path", "/proc/no/file"], "--result_path /proc/no/file"),
    ],
)
def test_mistakes_are_told_before_the_weights_are_read(folders, words, said, capsys):
    for file in folders[0].glob("*.safetensors"):
        file.rename(file.with_suffix(".away"))
    try:
        assert main(["deploy", "--model", str(folders[0]), *words]) == 2
    finally:
        for file in folders[0].glob("*.away"):
            file.rename(file.with_suffix(".safetensors"))
    assert said in capsys.readouterr().err


def test_an_address_that_is_taken(folders, capsys):
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["deploy", "--model", str(folders[0]), "--port", str(port)]) == 2
    assert f"--port {port}" in capsys.readouterr().err


def test_names_of_adapters(tmp_path):
    (tmp_path / "a=b").mkdir()
    named, always = split_adapters(["x=out/1", "out/2", str(tmp_path / "a=b")])
    assert (named, always) == ({"x": "out/1"}, ["out/2", str(tmp_path / "a=b")])


def test_help_and_listing_import_no_server():
    code = (
        "import sys, swift.cli.main as m; m.main(['deploy', '--help']); import swift.serve; "
        "print([name for name in ('fastapi', 'uvicorn', 'prometheus_client', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert "--api_key" in done.stdout


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_tls(tmp_path):
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", *words.split(), *more], check=True, capture_output=True)
    trusted = ssl.create_default_context(cafile=certificate)
    with Server(Service(Scripted("yes"), "tiny"), ssl=check_ssl(key, certificate)) as server:
        assert server.url.startswith("https://")
        found = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": ask("hi")}, verify=trusted)
        assert found.json()["choices"][0]["message"]["content"] == "yes"


def test_a_server_for_the_time_of_a_block(folders: tuple[Path, Path]) -> None:
    from swift.llm import DeployArguments, run_deploy

    with run_deploy(DeployArguments(model=str(folders[0]), served_model_name="tiny", api_key="k1")) as port:
        url = f"http://127.0.0.1:{port}/v1/models"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"Authorization": "Bearer k1"}).json()["data"][0]["id"] == "tiny"
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_a_server_that_does_not_start_says_why() -> None:
    from swift.llm import DeployArguments, run_deploy

    with (
        pytest.raises(SwiftError, match=r"swift deploy ended with 2: .*nothere"),
        run_deploy(DeployArguments(model="./nothere")),
    ):
        pass
