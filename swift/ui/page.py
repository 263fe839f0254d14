"""The chat page itself, made of Gradio's parts (Gradio 6)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from swift.config.commands import AppConfig
from swift.engines.base import Engine
from swift.errors import SwiftError
from swift.serve.address import bind
from swift.templates.choose import system_text
from swift.ui.talk import Settings, Turn, answer

WORDS = Path(__file__).parent / "table" / "words.json"
AT_ONCE = 64
"""Visitors that are answered at the same time; the server makes others wait."""
FONTS: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
"""Fonts that need no visit to another server."""
LARGEST_FILE = "64mb"
FORGOTTEN = (3600, 86400)
"""Seconds between two looks for old files that visitors sent, and their age."""
CSS = "footer {display: none !important}"
View = tuple[Any, list[dict[str, Any]], list[Turn]]
"""What the question's box, the conversation and its memory show."""


class Page:
    """A page over an engine.

    Args:
        engine: who answers.
        config: the options of the page, and what its settings begin with.
        models: the names to choose from; the first answers unless another is chosen.
    """

    def __init__(self, engine: Engine, config: AppConfig, models: list[str]) -> None:
        self.engine, self.config, self.models = engine, config, models
        self.title = config.page.studio_title or models[0]
        words = json.loads(WORDS.read_text(encoding="utf-8"))
        self.words = {key: told[config.page.lang] for key, told in words.items()}
        self.blocks = self._built()

    def _built(self) -> gr.Blocks:
        with gr.Blocks(title=self.title, analytics_enabled=False, fill_height=True, delete_cache=FORGOTTEN) as blocks:
            gr.Markdown(f"# {self.title}")
            chat = gr.Chatbot(show_label=False, elem_id="chat", scale=1, min_height=320)
            turns = gr.State([])
            question = self._question()
            with gr.Row():
                send, stop, retry, undo, clear = (
                    gr.Button(self.words[name], elem_id=name, variant="primary" if name == "send" else "secondary")
                    for name in ("send", "stop", "retry", "undo", "clear")
                )
            if not self.config.page.is_multimodal:
                gr.Markdown(self.words["no_files" if self.config.page.base_url else "text_only"], elem_id="files")
            settings = self._settings()
            view, given = [question, chat, turns], [turns, *settings]
            asked = gr.on([send.click, question.submit], self.ask, [question, *given], view, api_name="ask")
            again = gr.on([retry.click], self.retry, given, view, api_name="retry")
            stop.click(None, cancels=[asked, again])
            undo.click(self.undo, [turns], view, cancels=[asked, again], api_name="undo")
            clear.click(self.clear, None, view, cancels=[asked, again], api_name="clear")
        blocks.queue(default_concurrency_limit=AT_ONCE)
        return blocks

    def _question(self) -> Any:
        more = {
            "label": self.words["question"],
            "placeholder": self.words["question"],
            "show_label": False,
            "elem_id": "question",
            "max_lines": 12,
        }
        if self.config.page.is_multimodal:
            kinds = ["image", "video", "audio"]
            return gr.MultimodalTextbox(file_types=kinds, file_count="multiple", submit_btn=False, **more)
        return gr.Textbox(lines=1, **more)

    def _settings(self) -> list[Any]:
        """A field for each of `Settings`, in their order; empty ones leave the value to the server."""
        generate, words = self.config.generate, self.words
        begin = {
            "max_tokens": generate.max_new_tokens,
            "temperature": generate.temperature,
            "top_p": generate.top_p,
            "top_k": generate.top_k,
            "repetition_penalty": generate.repetition_penalty,
        }
        system = self.config.template.system if self.config.page.base_url else None
        with gr.Accordion(words["settings"], open=False, elem_id="settings"):
            found = [
                gr.Dropdown(self.models, value=self.models[0], label=words["model"], elem_id="model"),
                gr.Textbox(system_text(system) if system else "", label=words["system"], lines=2, elem_id="system"),
            ]
            with gr.Row():
                # Gradio's own field for numbers makes 0 of an empty one (6.31).
                for name, value in begin.items():
                    text = "" if value is None else str(value)
                    found.append(gr.Textbox(text, label=words[name], placeholder=words["unset"], elem_id=name))
        return found

    async def ask(self, question: Any, turns: list[Turn], *settings: Any) -> AsyncIterator[View]:
        """Ask a question and show the answer as it comes."""
        given = question if isinstance(question, dict) else {"text": question}
        text, files = given.get("text") or "", list(given.get("files") or ())
        if not (text.strip() or files):
            yield question, shown(turns, self.words), turns
            return
        asked = [*turns, Turn("user", text, files=files)]
        async for view in self._answered(asked, settings, back=(question, turns)):
            yield view

    async def retry(self, turns: list[Turn], *settings: Any) -> AsyncIterator[View]:
        """Answer the last question once more."""
        last = max((at for at, turn in enumerate(turns) if turn.role == "user"), default=None)
        if last is None:
            yield self._empty, shown(turns, self.words), turns
            return
        async for view in self._answered(turns[: last + 1], settings, back=(self._empty, turns)):
            yield view

    async def _answered(
        self, asked: list[Turn], settings: tuple[Any, ...], *, back: tuple[Any, list[Turn]]
    ) -> AsyncIterator[View]:
        """The page while an answer comes; as it was before where there is none.

        Args:
            back: the question's box and the conversation as they were.
        """
        yield self._empty, shown(asked, self.words), asked
        try:
            async for own in answer(self.engine, asked, Settings.read(settings)):
                turns = [*asked, replace(own)]
                yield self._empty, shown(turns, self.words), turns
        except SwiftError as error:
            gr.Warning(str(error), duration=None)
            yield back[0], shown(back[1], self.words), back[1]

    def undo(self, turns: list[Turn]) -> View:
        """Take the last question and its answer back; the question can be changed and sent again."""
        last = max((at for at, turn in enumerate(turns) if turn.role == "user"), default=None)
        if last is None:
            return self._empty, shown(turns, self.words), turns
        return self._boxed(turns[last]), shown(turns[:last], self.words), turns[:last]

    def clear(self) -> View:
        """Begin a new conversation."""
        return self._empty, [], []

    @property
    def _empty(self) -> Any:
        return {"text": "", "files": []} if self.config.page.is_multimodal else ""

    def _boxed(self, turn: Turn) -> Any:
        return {"text": turn.text, "files": turn.files} if self.config.page.is_multimodal else turn.text

    @contextmanager
    def launched(self) -> Iterator[str]:
        """Serve the page for the time of a block, which gets its address.

        Raises:
            SwiftError: somebody took the address meanwhile.
        """
        page = self.config.page
        port = page.server_port
        if port == 0:
            with bind(page.server_name, 0) as free:
                port = free.getsockname()[1]
        try:
            self.blocks.launch(
                server_name=page.server_name,
                server_port=port,
                share=page.share,
                theme=gr.themes.Default(**FONTS),
                css=CSS,
                prevent_thread_lock=True,
                quiet=True,
                ssr_mode=False,
                footer_links=[],
                max_file_size=LARGEST_FILE,
                ssl_keyfile=self.config.serve.ssl_keyfile,
                ssl_certfile=self.config.serve.ssl_certfile,
                # Gradio asks its own page whether it is there.
                ssl_verify=False,
            )
        except OSError as error:
            raise SwiftError(
                f"--server_name {page.server_name} --server_port {port}: {error}", fix="choose another --server_port"
            ) from None
        try:
            yield self.blocks.share_url or self.blocks.local_url or ""
        finally:
            self.blocks.close(verbose=False)


def shown(turns: list[Turn], words: dict[str, str]) -> list[dict[str, Any]]:
    """A conversation as Gradio's Chatbot takes it: files and reasoning are messages of their own."""
    found: list[dict[str, Any]] = []
    for turn in turns:
        found += [{"role": turn.role, "content": {"path": file}} for file in turn.files]
        if turn.reasoning:
            found.append({"role": turn.role, "content": turn.reasoning, "metadata": {"title": words["reasoning"]}})
        if turn.text or not (turn.files or turn.reasoning):
            found.append({"role": turn.role, "content": turn.text})
    return found
