from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest

from swift.engines import ChatMessage, Choice, Delta, RequestConfig, Response, Usage
from swift.errors import SwiftError
from swift.infer.chat import Chat


class Echo:
    """Answers with what it was asked, and keeps what it saw."""

    reads_media = False

    def __init__(self):
        self.seen, self.configs, self.requests, self.closed = [], [], [], 0
        self.interrupt_after = None

    def _response(self, request):
        text = f"<{request.messages[-1]['content']}>"
        return Response([Choice(0, ChatMessage("assistant", text), "stop", [1], text)], Usage(1, 1))

    def infer(self, requests, config=None, *, on_response=None):
        self._take(requests[0], config)
        return [self._response(requests[0])]

    def stream(self, request, config=None):
        self._take(request, config)
        return self._pieces(request)

    def _take(self, request, config):
        self.seen.append(request.messages)
        self.requests.append(request)
        self.configs.append(config)
        if "too long" in request.messages[-1]["content"]:
            raise SwiftError("the prompt has 9 tokens; the context is 8")

    def _pieces(self, request):
        response = self._response(request)
        try:
            for place, char in enumerate(response.choices[0].text):
                if place == self.interrupt_after:
                    raise KeyboardInterrupt
                yield Delta(char)
            yield Delta("", "stop", response)
        finally:
            self.closed += 1


@pytest.fixture
def talk(monkeypatch, capsys):
    def run(text, config=None, engine=None):
        engine = engine or Echo()
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        chat = Chat(engine, config or RequestConfig(stream=True))
        status = chat.run()
        shown = capsys.readouterr()
        return chat, engine, status, shown.out, shown.err

    return run


def test_a_conversation_keeps_its_history(talk):
    _, engine, status, out, _ = talk("one\ntwo\n")
    assert (status, out) == (0, "<one>\n<two>\n")
    assert [turn["content"] for turn in engine.seen[1]] == ["one", "<one>", "two"]


def test_without_streaming(talk):
    chat, _, _, out, _ = talk("one\n", RequestConfig())
    assert out == "<one>\n" and len(chat.turns) == 2


@pytest.mark.parametrize("word", ["/exit", "exit", "quit", "QUIT", "/exit now"])
def test_leaving(talk, word):
    assert talk(f"{word}\none\n")[3] == ""


@pytest.mark.parametrize("word", ["/reset", "/clear", "clear"])
def test_reset(talk, word):
    assert len(talk(f"one\n{word}\ntwo\n")[1].seen[1]) == 1


def test_system_begins_anew(talk):
    chat, engine, _, _, err = talk("one\n/system Be brief.\ntwo\n/system\n")
    assert [turn["role"] for turn in engine.seen[1]] == ["system", "user"]
    assert err.count("Be brief.") == 1
    assert chat.system == "Be brief."


def test_undo_and_history(talk):
    chat, _, _, _, err = talk("one\ntwo\n/undo\n/history\n/undo\n/undo\n")
    assert "user: one" in err and "user: two" not in err
    assert "nothing to take back" in err
    assert chat.turns == []


def test_multi_line_input(talk):
    _, engine, _, _, _ = talk("/multi\na\n\nb\n#\n/multi\nc\n")
    assert [messages[-1]["content"] for messages in engine.seen] == ["a\n\nb", "c"]


def test_multi_line_input_that_ends_with_the_pipe(talk):
    assert talk("/multi\na\nb")[1].seen[0][-1]["content"] == "a\nb"


def test_save_is_a_row_of_a_data_set(talk, tmp_path):
    talk(f"/system S\none\n/save {tmp_path / 'chat.jsonl'}\n")
    row = json.loads((tmp_path / "chat.jsonl").read_text())
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
    assert "cannot be written" in talk(f"one\n/save {tmp_path}\n")[4]
    assert "needs a file" in talk("/save\n")[4]


def test_set(talk):
    chat, engine, _, _, err = talk("/set temperature 0.5\n/set max_new_tokens 7\n/set stop a b\none\n")
    assert (engine.configs[0].temperature, engine.configs[0].max_tokens) == (0.5, 7)
    assert engine.configs[0].stop == ["a", "b"] and engine.configs[0].stream
    assert "temperature = 0.5" in err
    chat, _, _, _, err = talk("/set temperature hot\n/set temperature -1\n/set colour red\n/set top_k none\n")
    assert "takes a number" in err and "at least 0" in err and "no such setting" in err
    assert chat.config.temperature is None


def test_slashes(talk):
    _, engine, _, _, err = talk("/nothing\n//usr/bin\n/help\n")
    assert "there is no command /nothing" in err and "/undo" in err
    assert [messages[-1]["content"] for messages in engine.seen] == ["/usr/bin"]


def test_ctrl_c_stops_the_answer_and_keeps_what_came(talk):
    engine = Echo()
    engine.interrupt_after = 3
    chat, engine, status, out, err = talk("long\n/history\n", engine=engine)
    assert out == "<lo\n" and "(stopped)" in err
    assert chat.turns[-1] == {"role": "assistant", "content": "<lo"}
    assert engine.closed == 1 and status == 0


def test_ctrl_c_before_the_first_piece_takes_the_question_back(talk):
    engine = Echo()
    engine.interrupt_after = 0
    assert talk("long\n", engine=engine)[0].turns == []


def test_a_question_that_cannot_be_answered(talk):
    chat, _, status, out, err = talk("one\ntoo long\ntwo\n")
    assert out == "<one>\n<two>\n" and "the context is 8" in err
    assert status == 2 and len(chat.turns) == 4


def test_ctrl_c_at_the_prompt_leaves(monkeypatch, capsys):
    def interrupt(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    assert Chat(Echo(), RequestConfig(), fancy=True).run() == 0


def test_an_adapter_is_chosen_or_loaded(talk, tmp_path):
    engine = Echo()
    engine.adapters, loaded = SimpleNamespace(names={"robin": tmp_path}), []
    engine.add_adapter = lambda name, folder: loaded.append((name, folder))
    _, engine, _, _, err = talk(
        f"/adapter robin\na\n/adapter {tmp_path}\nb\n/adapter none\nc\n/adapter x\n", None, engine
    )
    assert [request.adapter for request in engine.requests] == ["robin", str(tmp_path), None]
    assert loaded == [(str(tmp_path), tmp_path)] and "there is no adapter x" in err and "there are robin" in err


def test_a_folder_with_a_full_stop_is_called_without(talk, tmp_path):
    engine, loaded = Echo(), []
    engine.adapters = SimpleNamespace(names={})
    engine.add_adapter = lambda name, folder: loaded.append((name, folder))
    folder = tmp_path / "v1.5"
    folder.mkdir()
    _, engine, _, _, _ = talk(f"/adapter {folder}\na\n", None, engine)
    assert loaded == [(str(folder).replace(".", "-"), folder)]
    assert engine.requests[-1].adapter == loaded[0][0]


def test_a_picture_goes_along_with_the_next_question(talk, tmp_path):
    (tmp_path / "a.png").write_bytes(b"png")
    engine = Echo()
    engine.reads_media = True
    talk(f"/image {tmp_path / 'a.png'}\nwhat is it?\nand now?\n", None, engine)
    first, second = (request.messages[-1]["content"] for request in engine.requests)
    assert [part["type"] for part in first] == ["image_url", "text"] and second == "and now?"
    *_, err = talk(f"/image {tmp_path / 'a.png'}\n")
    assert "/image: this engine reads text alone" in err
