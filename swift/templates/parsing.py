"""The way back: the text that a model generates, as reasoning, content and tool calls, whole or piece by piece."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from swift.rows import Message
from swift.templates.arguments import Incomplete, Malformed, blank, match_at, skip, tail_of
from swift.templates.grammar import START, THOUGHT, Call, Grammar


@dataclass(frozen=True)
class Piece:
    """A part of a message.

    Attributes:
        kind: what it belongs to; each call gives its name first, then its arguments as JSON text.
        text: the part itself.
        index: which of the calls.
        id: the call's id, with its name.
    """

    kind: Literal["reasoning", "content", "name", "arguments"]
    text: str
    index: int = 0
    id: str = ""


def schemas_of(tools: Sequence[Any] | None) -> dict[str, Any]:
    """The JSON schema of each tool's parameters, by its name."""
    functions = [tool.get("function", tool) for tool in tools or () if isinstance(tool, dict)]
    return {function["name"]: function.get("parameters") for function in functions if "name" in function}


class Parser:
    """Takes an answer in pieces of any size and gives out what is certain.

    Text that may be the start of a tag is held back until that is settled. So is a call, as a whole: one that turns
    out to be malformed becomes content, and what was given out cannot be taken back. The pieces of any split are,
    put together, those of the whole.

    Args:
        grammar: the format.
        tools: the tools of the request; their schemas give types back where the format loses them.
        opened: the prompt has opened the reasoning.
    """

    def __init__(self, grammar: Grammar, *, tools: Sequence[Any] | None = None, opened: bool = False) -> None:
        self.grammar, self._tools = grammar, schemas_of(tools)
        self._text, self._at, self._scan = "", 0, 0
        self._white, self._opened = "", opened
        self._final = False
        self._state: Callable[[], bool] = self._begin
        self._out: list[Piece] = []
        self._said = {"reasoning": False, "content": False}
        self._count = 0

    def feed(self, text: str) -> list[Piece]:
        """Take text and give what is certain now."""
        self._text = self._text[self._at :] + text
        self._scan, self._at = max(self._scan - self._at, 0), 0
        return self._run()

    def finish(self) -> list[Piece]:
        """Give what was held back."""
        self._final = True
        return self._run()

    def _run(self) -> list[Piece]:
        try:
            while self._skip_white() and self._state():
                pass
        except Incomplete:
            pass
        out, self._out = self._out, []
        return out

    def _skip_white(self) -> bool:
        """Leave out the white space that belongs to what was read last."""
        while self._white and self._at < len(self._text):
            done = skip(self._text, self._at, self._white[:1])
            self._white = self._white[1:] if done > self._at else ""
            self._at = done
        return True

    def _pass(self, end: int, literal: str) -> None:
        self._at = self._scan = end
        self._white = tail_of(literal)
        self._skip_white()

    def _match(self, name: str, at: int) -> Any:
        """A match of one of the grammar's patterns; None where it does not match or is not there.

        Raises:
            Incomplete: more text may make it match.
        """
        pattern = self.grammar.patterns.get(name)
        if pattern is None:
            return None
        try:
            return match_at(pattern, self._text, at, must=False)
        except Incomplete:
            if self._final:
                return None
            raise

    def _need(self) -> int:
        """The place of the next character that is no white space."""
        at = blank(self._text, self._at)
        if at == len(self._text) and not self._final:
            raise Incomplete
        return at

    def _give(self, kind: Literal["reasoning", "content"], end: int) -> None:
        """Give text up to a place; white space at the front waits for what follows it."""
        text = self._text[self._at : end]
        if text and (self._said[kind] or text.strip()):
            self._said[kind] = True
            self._out.append(Piece(kind, text))
            self._at = end

    # The states; each gives False where it can do no more.

    def _begin(self) -> bool:
        found = self._match("think_open", self._need())
        if found:
            self._pass(found.end(), self.grammar.think_lead)
        elif self._opened:
            self._white = self.grammar.think_lead
        elif closed := self._match("think_close", self._need()):
            self._pass(closed.end(), self.grammar.think_close)
        self._state = self._think if found or self._opened else self._before(START)
        return True

    def _think(self) -> bool:
        found = self.grammar.patterns["think_close"].search(self._text, self._at, partial=not self._final)
        if found is None or found.partial:
            self._give("reasoning", found.start() if found else self._end())
            return False
        self._give("reasoning", found.start())
        self._pass(found.end(), self.grammar.think_close)
        self._state = self._before(THOUGHT)
        return True

    def _before(self, state: str) -> Callable[[], bool]:
        def step() -> bool:
            at = self._need()
            found = self._match(f"content_open {state}", at)
            if found:
                self._pass(found.end(), self.grammar.content_open[state])
            elif self._call(at, f"call {state}"):
                return True
            elif (white := self.grammar.content_open.get(state, "")).isspace():
                self._white = white
            self._state = self._content
            return True

        return step

    def _content(self) -> bool:
        patterns = [self.grammar.patterns[name] for name in ("call content", "call") if name in self.grammar.patterns]
        found = [pattern.search(self._text, self._scan, partial=not self._final) for pattern in patterns]
        places = [match for match in found if match is not None]
        first = min(places, key=lambda match: (match.start(), match.partial), default=None)
        if first is None:
            self._give("content", self._end())
            return self._done()
        if first.partial:
            self._give("content", min(first.start(), self._end()))
            return False
        name = "call content" if patterns and first.re is patterns[0] else "call"
        try:
            call = self._read(first.end())
        except Incomplete:
            self._give("content", first.start())
            raise
        if call is None:
            self._scan = first.start() + 1
            return True
        self._give("content", first.start())
        return self._call(first.start(), name)

    def _done(self) -> bool:
        """At the end, white space alone is content only where there is nothing else."""
        if self._final and self._at < len(self._text) and not self._said["reasoning"] and not self._count:
            end = self._end()
            if end > self._at:
                self._out.append(Piece("content", self._text[self._at : end]))
            self._at = len(self._text)
        return False

    def _end(self) -> int:
        """Where the text ends that is no stop, and cannot become one."""
        ends = []
        for pattern in self.grammar.endings:
            found = pattern.search(self._text, self._at, partial=not self._final)
            if found is not None:
                ends.append(found.start())
        return min(ends, default=len(self._text))

    def _read(self, at: int) -> tuple[int, Call] | None:
        """The call whose opener ends at a place, with what closes it; None where it is malformed."""
        calls = self.grammar.calls
        assert calls is not None
        try:
            end, call = calls.body.read(self._text, at, self._tools or None, calls.patterns["follow"])
            behind = blank(self._text, end)
            if behind == len(self._text) and self._final:
                return behind, call
            closed = match_at(calls.patterns["unit_close"], self._text, behind)
            return (closed.end() if closed.end() > behind else end), call
        except Malformed:
            return None
        except Incomplete:
            if self._final:
                return None
            raise

    def _call(self, at: int, name: str) -> bool:
        """Read a call with its opener, and give it."""
        if self.grammar.calls is None:
            return False
        opener = self._match(name, at)
        if opener is None and name in self.grammar.patterns:
            return False
        read = self._read(opener.end() if opener else at)
        if read is None:
            return False
        self._at = self._scan = read[0]
        self._give_call(read[1])
        self._state = self._after
        return True

    def _give_call(self, call: Call) -> None:
        index, self._count = self._count, self._count + 1
        self._out.append(Piece("name", call.name, index, call.id or f"call{index:05d}"))
        self._out.append(Piece("arguments", json.dumps(call.arguments, ensure_ascii=False), index))

    def _after(self) -> bool:
        self._said["content"] = False
        calls = self.grammar.calls
        assert calls is not None
        at = self._need()
        closing, following = calls.patterns["section_close"], calls.patterns["next"]
        waits = False
        for pattern, is_close in ((closing, True), (following, False)):
            found = pattern.match(self._text, at, partial=not self._final)
            if found is None or (is_close and found.end() == at and not found.partial):
                continue
            if found.partial:
                waits = True
            elif is_close:
                self._pass(found.end(), calls.close)
                self._state = self._content
                return True
            elif calls.between is not None and (read := self._read(found.end())):
                self._at = self._scan = read[0]
                self._give_call(read[1])
                return True
        if waits:
            raise Incomplete
        self._state = self._content
        return True


def collect(pieces: Iterable[Piece]) -> Message:
    """The message that pieces make up."""
    reasoning, content = "", ""
    calls: list[dict[str, Any]] = []
    for piece in pieces:
        if piece.kind == "reasoning":
            reasoning += piece.text
        elif piece.kind == "content":
            content += piece.text
        elif piece.kind == "name":
            calls.append({"id": piece.id, "type": "function", "function": {"name": piece.text, "arguments": ""}})
        else:
            calls[piece.index]["function"]["arguments"] += piece.text
    for call in calls:
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    message: Message = {"role": "assistant"}
    if reasoning:
        message["reasoning_content"] = reasoning
    message["content"] = content
    if calls:
        message["tool_calls"] = calls
    return message


def pieces_of(message: Message) -> list[Piece]:
    """A whole message as pieces."""
    found = [Piece("reasoning", message.get("reasoning_content") or ""), Piece("content", message.get("content") or "")]
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        found.append(Piece("name", function["name"], index, call.get("id") or ""))
        found.append(Piece("arguments", json.dumps(function["arguments"], ensure_ascii=False), index))
    return [piece for piece in found if piece.text]


def parse(grammar: Grammar, text: str, *, tools: Sequence[Any] | None = None, opened: bool | None = None) -> Message:
    """Split a generated text into reasoning, content and tool calls.

    A call that is not well formed stays in the content, so that nothing the model said is lost.

    Args:
        grammar: the format.
        text: what was generated, with or without what ended it.
        tools: the tools of the request.
        opened: the prompt has opened the reasoning; None where that is not known: then the text's closing tag tells.
    """
    if opened is None:
        close = grammar.think_close.strip()
        opened = bool(grammar.prompt_open) and bool(close) and close in text
    parser = Parser(grammar, tools=tools, opened=opened)
    return collect([*parser.feed(text), *parser.finish()])
