"""A conversation on the terminal, or with lines from a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from swift.engines import Delta, Engine, InferRequest, RequestConfig
from swift.engines.media import KINDS, part_of
from swift.errors import SwiftError
from swift.rows import Message

HELP = """\
/help               this list
/reset              begin a new conversation (also: /clear, clear)
/system TEXT        set the system text and begin anew; without TEXT, show it
/adapter NAME       answer with this adapter: one that is loaded, or a folder; none means the model as it was loaded
/image FILE         send a picture along with the next question (also: /video, /audio)
/multi              switch multi-line input: a line with only # ends it
/undo               take back the last question and its answer
/history            show the conversation
/save FILE          append the conversation to FILE, as a row of a data set
/set NAME VALUE     set temperature, top_k, top_p, max_tokens, repetition_penalty, num_beams, seed or stop
/exit               leave (also: exit, quit, Ctrl-D)
A text that begins with / is sent with one more: //text. Ctrl-C stops an answer."""

SETTINGS: dict[str, type] = {
    "max_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "repetition_penalty": float,
    "num_beams": int,
    "seed": int,
}
ALIASES = {"max_new_tokens": "max_tokens", "stop_words": "stop"}
BARE = {"exit": "/exit", "quit": "/exit", "clear": "/reset"}


class Chat:
    """One conversation at a time, with commands.

    Args:
        engine: who answers.
        config: how; `/set` changes it.
        fancy: prompts and line editing; None means: when stdin is a terminal.
    """

    def __init__(self, engine: Engine, config: RequestConfig, *, fancy: bool | None = None) -> None:
        self.engine, self.config = engine, config
        self.system: str | None = None
        self.turns: list[Message] = []
        self.adapter: str | None = None
        self.media: list[dict[str, Any]] = []
        self.multi = False
        self._fancy = sys.stdin.isatty() if fancy is None else fancy
        self._failed = False
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self._say(HELP),
            "/reset": self._reset,
            "/clear": self._reset,
            "/system": self._set_system,
            "/adapter": self._choose,
            **{f"/{kind}": partial(self._attach, kind) for kind in KINDS},
            "/multi": self._switch_multi,
            "/undo": self._undo,
            "/history": self._show,
            "/save": self._save,
            "/set": self._set,
        }

    def run(self) -> int:
        """Talk until the input ends; 2 where a piped question could not be answered, else 0."""
        if self._fancy:
            with suppress(ImportError):
                import readline  # noqa: F401 - input() edits lines and keeps a history once it is imported
            self._say("Type a question, or /help.")
        while True:
            try:
                text = self._read()
            except (EOFError, KeyboardInterrupt):
                if self._fancy:
                    self._say("")
                break
            if text.strip() and not self._handle(text):
                break
        return 2 if self._failed and not self._fancy else 0

    def _read(self) -> str:
        """One question; EOFError where the input ends."""
        text = self._line("<<< ")
        if not self.multi or text.lstrip().startswith("/"):
            return text
        lines: list[str] = []
        while text.strip() != "#":
            lines.append(text)
            try:
                text = self._line("... ")
            except EOFError:
                break
        return "\n".join(lines)

    def _line(self, prompt: str) -> str:
        if self._fancy:
            return input(prompt)
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise SwiftError(f"the input is not UTF-8: {error}", where="stdin", fix="convert it to UTF-8") from None
        if not line:
            raise EOFError
        return line.rstrip("\n")

    def _handle(self, text: str) -> bool:
        """Do what the text asks for; False where it ends the conversation."""
        text = BARE.get(text.strip().lower(), text)
        if text.startswith("//"):
            text = text[1:]
        elif text.startswith("/"):
            name, _, rest = text.strip().partition(" ")
            if name == "/exit":
                return False
            command = self._commands.get(name)
            if command is None:
                self._say(f"there is no command {name}; /help lists them, //... sends a text that begins with /")
                return True
            try:
                command(rest.strip())
            except SwiftError as error:
                self._say(f"error: {error}")
            return True
        self._answer(text)
        return True

    def _answer(self, text: str) -> None:
        """Ask, print the answer as it comes, and keep both; what Ctrl-C cuts off is kept as far as it came."""
        media, self.media = self.media, []
        content: Any = [*media, {"type": "text", "text": text}] if media else text
        question = Message(role="user", content=content)
        request = InferRequest([*self._before(), *self.turns, question], adapter=self.adapter)
        pieces: list[str] = []
        answer: Message | None = None
        try:
            # closing() ends the generation when Ctrl-C falls between two pieces.
            with closing(self._deltas(request)) as deltas:
                for delta in deltas:
                    pieces.append(delta.text)
                    print(delta.text, end="", flush=True)
                    if delta.response is not None:
                        answer = delta.response.choices[0].message.to_message()
        except KeyboardInterrupt:
            self._say("\n(stopped)")
            answer = Message(role="assistant", content="".join(pieces)) if any(pieces) else None
        except SwiftError as error:
            self._failed, self.media = True, media
            self._say(f"error: {error}")
            return
        print(flush=True)
        if answer is not None:
            self.turns += [question, answer]

    def _deltas(self, request: InferRequest) -> Any:
        if self.config.stream:
            return self.engine.stream(request, self.config)
        return self._at_once(request)

    def _at_once(self, request: InferRequest) -> Any:
        response = self.engine.infer([request], self.config)[0]
        yield Delta(response.choices[0].text, response.choices[0].finish_reason, response)

    def _before(self) -> list[Message]:
        return [] if self.system is None else [Message(role="system", content=self.system)]

    def _reset(self, _: str) -> None:
        self.turns.clear()
        self.media.clear()
        self._say("a new conversation")

    def _set_system(self, text: str) -> None:
        if not text:
            recorded = getattr(getattr(self.engine, "template", None), "system", None)
            self._say(self.system or recorded or "the model's own")
            return
        self.system = text
        self._reset("")

    def _choose(self, name: str) -> None:
        """Let another adapter answer from now on."""
        if name.lower() in ("", "none"):
            self.adapter = None if name else self.adapter
            self._say(self.adapter or "the model as it was loaded")
            return
        engine: Any = self.engine
        known: list[str] = list(getattr(engine, "models", ()))
        known += getattr(getattr(engine, "adapters", None), "names", ())
        folder = Path(name).expanduser()
        if name not in known and folder.is_dir() and hasattr(engine, "add_adapter"):
            # Engines take no full stop in a name.
            name = name.replace(".", "-")
            if name not in known:
                engine.add_adapter(name, folder)
        elif name not in known:
            there = f"there are {', '.join(known)}" if known else "name the folder of one"
            raise SwiftError(f"there is no adapter {name}", fix=there)
        self.adapter = name
        self._say(f"{name} answers from now on")

    def _attach(self, kind: str, name: str) -> None:
        """Keep a picture, film or sound for the next question."""
        if not self.engine.reads_media:
            raise SwiftError(
                f"/{kind}: this engine reads text alone", fix="ask a server that does: --infer_backend remote"
            )
        if not name:
            raise SwiftError(f"/{kind} needs a file or a URL", fix=f"/{kind} FILE")
        self.media.append(part_of(kind, name))
        self._say(f"{len(self.media)} go along with the next question")

    def _switch_multi(self, _: str) -> None:
        self.multi = not self.multi
        self._say("multi-line input: a line with only # ends it" if self.multi else "single lines")

    def _undo(self, _: str) -> None:
        if not self.turns:
            self._say("there is nothing to take back")
            return
        del self.turns[-2:]
        self._say(f"taken back; {len(self.turns) // 2} questions are left")

    def _show(self, _: str) -> None:
        for turn in [*self._before(), *self.turns]:
            self._say(f"{turn['role']}: {turn['content']}")
        if not self.turns:
            self._say("nothing was said yet")

    def _save(self, name: str) -> None:
        if not name or not self.turns:
            raise SwiftError("/save needs a file and a conversation", fix="/save chat.jsonl after a question")
        try:
            with Path(name).expanduser().open("a", encoding="utf-8") as file:
                file.write(json.dumps({"messages": [*self._before(), *self.turns]}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise SwiftError(
                f"{name} cannot be written: {error.strerror}", fix="name a file in a folder that you may write to"
            ) from None
        self._say(f"appended to {name}")

    def _set(self, words: str) -> None:
        name, _, value = words.partition(" ")
        name, value = ALIASES.get(name, name), value.strip()
        if name == "stop":
            self.config = self.config.with_values(stop=value.split())
        elif name not in SETTINGS:
            raise SwiftError(f"/set {name}: there is no such setting", fix=f"one of: {', '.join([*SETTINGS, 'stop'])}")
        else:
            none = value.lower() in ("", "none") and name != "num_beams"
            try:
                self.config = self.config.with_values(**{name: None if none else SETTINGS[name](value)})
            except ValueError:
                raise SwiftError(
                    f"/set {name} takes a number, got {value!r}", fix=f"write it like /set {name} 1"
                ) from None
        self._say(f"{name} = {getattr(self.config, name)}")

    def _say(self, text: str) -> None:
        """Everything but answers goes to stderr, so that a pipe gets the answers alone."""
        print(text, file=sys.stderr, flush=True)
