"""`swift app`: its conversations, and its page in a real browser."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from swift.cli.main import main
from swift.config.commands import AppConfig
from swift.engines.remote import RemoteEngine
from swift.errors import SwiftError
from swift.ui.talk import Settings, Turn, answer, kind_of, request_of
from tests.serve.serving import Scripted, serve
from tests.tiny import save_tiny
from tests.waiting import until

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
THINKING = (
    "{% for message in messages %}{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n"
    "</think>\n\n{% endif %}{{ message.content }}<|im_end|>{% endfor %}"
)

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="no Chromium or no playwright"
)


async def whole(engine, turns, settings):
    return [Turn(own.role, own.text, own.reasoning) async for own in answer(engine, turns, settings)]


def test_an_answer_grows_and_its_reasoning_stands_apart():
    scripted = Scripted("<think>\nhm hm\n</think>\n\nParis", chat_template=THINKING)
    with serve(scripted) as server:
        engine = RemoteEngine(f"{server.url}/v1")
        turns = [Turn("user", "hi"), Turn("assistant", "ho", reasoning="well"), Turn("user", "where?")]
        settings = Settings(system="be brief", temperature=0.5, top_k=3, max_tokens=100)
        found = asyncio.run(whole(engine, turns, settings))
        engine.close()
    assert found[-1] == Turn("assistant", "Paris", "hm hm")
    assert len(found) > 2 and all(found[-1].text.startswith(own.text) for own in found)
    roles = [(turn["role"], turn["content"]) for turn in scripted.requests[0].messages]
    assert roles == [("system", "be brief"), ("user", "hi"), ("assistant", "ho"), ("user", "where?")]
    config = scripted.tickets[0].config
    assert (config.temperature, config.top_k, config.max_tokens, config.top_p) == (0.5, 3, 100, None)


def test_files_go_along_as_parts(tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"png")
    request = request_of([Turn("user", "what is this?", files=[str(picture)])], Settings(model="m"))
    assert [part["type"] for part in request.messages[0]["content"]] == ["image_url", "text"]
    assert request.adapter == "m" and kind_of("x.mp4") == "video" and kind_of("x.wav") == "audio"
    with pytest.raises(SwiftError, match="neither a picture"):
        kind_of("x.txt")


@needs_gradio
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--base_url", "http://127.0.0.1:9/v1", "--model", "demo"], "--model has no meaning with --base_url"),
        (["--base_url", "http://127.0.0.1:9/v1"], "no server answers"),
        (["--model", "demo", "--is_multimodal", "true"], "reads text alone"),
        (["--model", "./nothere"], "nothere"),
        (["--model", "demo", "--server_name", "256.1.1.1"], "--server_name 256.1.1.1"),
        (["--lang", "fr"], "choose one of: en|zh"),
    ],
)
def test_mistakes(words, said, capsys):
    assert main(["app", "--server_port", "0", *words]) == 2
    assert said in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr("swift.ui.app.find_spec", lambda name: None if name == "gradio" else True)
    assert main(["app", "--model", "demo"]) == 2
    said = capsys.readouterr().err
    assert "swift app needs gradio" in said and "ms-swift[ui]" in said


class Visit:
    """A page over a server that says one thing, open in a browser."""

    def __init__(self, engine, *, lang="en", **page):
        self.server, self.lang, self.more = serve(engine), lang, page

    def __enter__(self):
        from playwright.sync_api import sync_playwright

        from swift.ui.page import Page

        self.server.start()
        url = f"{self.server.url}/v1"
        config = AppConfig.of(base_url=url, server_port=0, lang=self.lang, **self.more)
        self.engine = RemoteEngine(url)
        self.launched = Page(self.engine, config, ["tiny", "robin"]).launched()
        address = self.launched.__enter__()
        self.play = sync_playwright().start()
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        self.browser = self.play.chromium.launch(executable_path=CHROMIUM, args=flags)
        self.page = self.browser.new_page()
        self.page.set_default_timeout(20_000)
        self.page.goto(address)
        return self

    def __exit__(self, *_):
        self.browser.close()
        self.play.stop()
        self.launched.__exit__(None, None, None)
        self.engine.close()
        self.server.stop()

    def send(self, text):
        self.page.locator("#question textarea").fill(text)
        self.page.locator("#send").click()

    def says(self, *texts):
        """Wait until the conversation is these messages."""
        deadline = time.monotonic() + 20
        while self.said() != list(texts):
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def said(self):
        turns = self.page.locator("#chat [data-testid=user], #chat [data-testid=bot]")
        return [text.strip() for text in turns.all_inner_texts()]


@needs_gradio
@needs_browser
def test_a_conversation_in_a_browser(tmp_path):
    with Visit(Scripted("the sky is blue")) as visit:
        visit.page.wait_for_selector("#question textarea")
        assert "--is_multimodal" in visit.page.locator("#files").inner_text() and visit.page.title() == "tiny"
        visit.send("what is blue?")
        visit.says("what is blue?", "the sky is blue")
        visit.page.locator("#settings button").first.click()
        visit.page.locator("#system textarea").fill("be brief")
        visit.page.locator("#temperature textarea").fill("0.5")
        visit.page.locator("#question textarea").click()
        # The page hands its fields on a little later.
        visit.page.wait_for_timeout(500)
        visit.send("and red?")
        visit.says("what is blue?", "the sky is blue", "and red?", "the sky is blue")
        engine = visit.server.service.engine
        assert [turn["role"] for turn in engine.requests[-1].messages] == ["system", "user", "assistant", "user"]
        assert engine.tickets[-1].config.temperature == 0.5
        visit.page.locator("#retry").click()
        until(lambda: len(engine.requests) >= 3)
        visit.says("what is blue?", "the sky is blue", "and red?", "the sky is blue")
        visit.page.locator("#undo").click()
        visit.says("what is blue?", "the sky is blue")
        assert visit.page.locator("#question textarea").input_value() == "and red?"
        visit.page.locator("#clear").click()
        visit.says()
        visit.page.locator("#temperature textarea").fill("-1")
        visit.send("hi")
        visit.page.get_by_text("temperature is -1").wait_for()
        assert visit.page.locator("#question textarea").input_value() == "hi" and visit.said() == []


@needs_gradio
@needs_browser
def test_an_answer_is_stopped_and_stays_as_far_as_it_came():
    hold = threading.Event()
    engine = Scripted("one two three", hold)
    with Visit(engine, lang="zh", studio_title="工作室") as visit:
        assert visit.page.locator("#send").inner_text() == "发送" and visit.page.title() == "工作室"
        visit.send("count")
        until(lambda: engine.tickets)
        visit.page.locator("#stop").click()
        until(lambda: not visit.server.service.open, 10)
        hold.set()
        visit.send("again")
        visit.says("count", "again", "one two three")


@needs_gradio
def test_the_command_serves_a_model_and_ends_with_it(tmp_path):
    from gradio_client import Client

    base = save_tiny(tmp_path / "tiny", max_position_embeddings=512)
    words = ["--model", str(base), "--server_port", "0", "--max_new_tokens", "8", "--torch_dtype", "float32"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "swift", "app", *words], stderr=subprocess.PIPE, text=True, env=environment
    )
    said, late = [], threading.Timer(180, process.kill)
    late.start()
    for line in process.stderr:
        said.append(line)
        if "the page is at" in line:
            break
    late.cancel()
    address = re.search(r"page is at (\S+);", said[-1])
    assert address, "".join(said)
    client = Client(address[1], verbose=False)
    told = client.predict("hi", "tiny", "", "8", "0", "", "", "", api_name="/ask")
    assert [turn["role"] for turn in told[1]] == ["user", "assistant"] and told[0] == ""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)


@needs_gradio
@needs_browser
def test_a_file_goes_along_and_a_server_that_reads_none_says_so(tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "dot.png")
    with Visit(Scripted("blue"), is_multimodal=True) as visit:
        visit.send("hi")
        visit.says("hi", "blue")
        visit.page.locator("#question input[type=file]").set_input_files(str(tmp_path / "dot.png"))
        visit.page.locator("#question img").wait_for()
        visit.send("what is this?")
        visit.page.get_by_text("this model reads text alone").wait_for()
        visit.says("hi", "blue")
        assert visit.page.locator("#question textarea").input_value() == "what is this?"
