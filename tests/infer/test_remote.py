"""`swift infer` with a server in place of a model."""

from __future__ import annotations

import io
import json

import pytest

from swift.cli.main import main
from tests.engines.stand_in import DONE, StandIn, chunk, models, usage


@pytest.fixture
def server():
    stand_in = StandIn()
    stand_in.answers["/v1/models"] = models("base", "adapter")
    yield stand_in
    stand_in.close()


def whole(body):
    content = body["messages"][-1]["content"].upper()
    return {
        "choices": [{"index": 0, "message": {"content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }


def swift(server, *words):
    return main(["infer", "--infer_backend", "remote", "--base_url", server.url, *map(str, words)])


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"query": text, "response": text.upper()}) + "\n" for text in ("a", "b", "c")))
    return file


def test_a_batch_that_goes_on_after_a_break(server, data, tmp_path, capsys):
    server.answers["/v1/chat/completions"] = whole
    path = tmp_path / "result.jsonl"
    words = ["--val_dataset", data, "--result_path", path, "--temperature", 0, "--system", "Shout.", "--metric", "acc"]
    assert swift(server, *words) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["response"] for line in lines] == ["A", "B", "C"]
    assert server.bodies[0]["messages"][0] == {"role": "system", "content": "Shout."}
    said = capsys.readouterr().err
    assert "the first of base, adapter" in said
    assert "accuracy 1.0" in said or "acc 1.0" in said
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:2]))
    assert swift(server, *words) == 0
    assert len(path.read_text().splitlines()) == 3
    assert len(server.bodies) == 4


def test_rows_with_pictures(server, tmp_path):
    server.answers["/v1/chat/completions"] = lambda body: whole({"messages": [{"content": "seen"}]})
    (tmp_path / "dot.png").write_bytes(b"\x89PNG")
    data = tmp_path / "data.jsonl"
    row = {"messages": [{"role": "user", "content": "<image>what?"}], "images": [str(tmp_path / "dot.png")]}
    data.write_text(json.dumps(row) + "\n")
    assert swift(server, "--val_dataset", data, "--result_path", tmp_path / "result.jsonl") == 0
    parts = server.bodies[0]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text"]


def test_a_conversation(server, monkeypatch, capsys):
    server.answers["/v1/chat/completions"] = [
        chunk({"content": "It is "}),
        chunk({"content": "blue."}, "stop"),
        usage(3, 2),
        DONE,
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("sky?\nreally?\n"))
    assert swift(server, "--served_model", "adapter", "--enable_thinking", "false", "--api_key", "k") == 0
    assert capsys.readouterr().out == "It is blue.\nIt is blue.\n"
    body = server.bodies[1]
    assert [message["content"] for message in body["messages"]] == ["sky?", "It is blue.", "really?"]
    assert body["model"] == "adapter"
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert server.headers[-1]["Authorization"] == "Bearer k"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "demo"], "--model has no meaning with --infer_backend remote"),
        (["--max_length", "5"], "--max_length has no meaning"),
        (["--num_beams", "2"], "num_beams 2"),
    ],
)
def test_options_of_a_model_of_one_s_own(server, data, words, said, capsys):
    assert swift(server, "--val_dataset", data, *words) == 2
    assert said in capsys.readouterr().err
    assert server.bodies == []


def test_no_server(capsys):
    assert main(["infer", "--infer_backend", "remote"]) == 2
    assert "give --base_url http://HOST:PORT/v1" in capsys.readouterr().err
    assert main(["infer", "--infer_backend", "remote", "--base_url", "http://127.0.0.1:9"]) == 2
    assert "no server answers" in capsys.readouterr().err
