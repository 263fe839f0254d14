"""Answers under way: tokens in, pieces of text for the listener out."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from swift.engines.base import (
    ChatMessage,
    Choice,
    Delta,
    FinishReason,
    InferRequest,
    Listener,
    Logprob,
    RequestConfig,
    Response,
    Usage,
)
from swift.engines.detokenize import TextStream, decode

if TYPE_CHECKING:
    from swift.engines.sampling import Picker
    from swift.templates import Template
    from swift.templates.media import MediaPrompt

END_TOKENS = 64
"""Tokens of a prompt's end that are looked at."""


class Ticket:
    """One request with its answers; the listener is told of each piece, or of the response alone.

    Args:
        prompt: its token ids.
        template: parses the answer; None where the prompt is no conversation's.
        whole: tell nothing but the response.

    Attributes:
        media: what belongs to the prompt besides its ids.
    """

    media: MediaPrompt | None = None

    def __init__(
        self,
        request: InferRequest,
        config: RequestConfig,
        prompt: list[int],
        template: Template | None,
        tokenizer: Any,
        listener: Listener,
        *,
        whole: bool,
    ) -> None:
        self.request, self.config, self.prompt, self.whole = request, config, prompt, whole
        self.template, self.tokenizer = template, tokenizer
        self.cancelled = threading.Event()
        self._listener = listener
        self._choices: dict[int, Choice] = {}
        self._over = False

    def cancel(self) -> None:
        """Stop answering."""
        self.cancelled.set()

    def tell(self, delta: Delta) -> None:
        """A piece of one answer."""
        if not self.whole and not self._over:
            self._listener(delta)

    def finish(self, choice: Choice, last: Delta) -> None:
        """One answer is whole."""
        self._choices[choice.index] = choice
        if len(self._choices) == self.config.n:
            choices = [self._choices[index] for index in sorted(self._choices)]
            generated = sum(len(choice.token_ids) for choice in choices)
            last.response = Response(choices, Usage(len(self.prompt), generated))
        if not self._over and (last.response is not None or not self.whole):
            self._over = last.response is not None
            self._listener(last)

    def fail(self, error: BaseException) -> None:
        """There will be no answer; said once."""
        if not self._over:
            self._over = True
            self._listener(Delta("", error=error))

    @property
    def prompt_end(self) -> str:
        """The last words of the prompt, which tell whether it has opened the reasoning."""
        prefix = (self.template.response_prefix if self.template else None) or ""
        return decode(self.tokenizer, self.prompt[-END_TOKENS:]).removesuffix(prefix)


class Answer:
    """One answer to a request.

    Args:
        limit: its longest, in tokens.
        ends: tokens that end it.
        picker: chooses its tokens; None where a beam search or another program does.
    """

    def __init__(self, ticket: Ticket, index: int, *, limit: int, ends: Collection[int], picker: Picker | None) -> None:
        self.ticket, self.index, self.limit, self.picker = ticket, index, limit, picker
        self.token_ids: list[int] = []
        self.reason: FinishReason | None = None
        self._ends = ends
        self._stream = TextStream(ticket.tokenizer, ticket.config.stop, whole=ticket.whole)
        self._texts: list[str] = []
        self._logprobs: list[Logprob] = []
        self._told = 0
        template = ticket.template
        self._parser = None
        if template is not None and not ticket.whole:
            self._parser = template.parser(tools=ticket.request.tools, prompt=ticket.prompt_end)
        if template is not None and template.response_prefix and ticket.config.structured_outputs is None:
            self._add(template.response_prefix)

    @property
    def prompt(self) -> list[int]:
        """The prompt's token ids."""
        return self.ticket.prompt

    @property
    def adapter(self) -> str | None:
        """The adapter that answers."""
        return self.ticket.request.adapter

    @property
    def over(self) -> bool:
        """Whether no more tokens are wanted."""
        return self.reason is not None or self.ticket.cancelled.is_set()

    def push(self, token: int, logprob: Logprob | None = None) -> None:
        """Take the next token; the text goes to the listener as far as it is certain."""
        self.token_ids.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        if token in self._ends:
            self._finish("stop")
            return
        text = self._stream.push(token)
        if self._stream.stopped:
            self._finish("stop", text)
        elif len(self.token_ids) >= self.limit:
            self._finish("length", text)
        elif text:
            self._add(text)

    def end(self, reason: FinishReason) -> None:
        """No more tokens will come."""
        if not self.over:
            self._finish(reason)

    def _add(self, text: str) -> None:
        self._texts.append(text)
        if not self.ticket.whole:
            self.ticket.tell(self._delta(text))

    def _delta(self, text: str) -> Delta:
        pieces = self._parser.feed(text) if self._parser is not None else []
        since, self._told = self._told, len(self.token_ids)
        return Delta(
            text, None, None, pieces, self.index, self.token_ids[since:], self._logprobs[since : len(self.token_ids)]
        )

    def _finish(self, reason: FinishReason, text: str = "") -> None:
        self.reason = reason
        rest = text + self._stream.finish()
        self._texts.append(rest)
        last = self._delta(rest)
        last.finish_reason, last.stop_text = reason, self._stop_text
        if self._parser is not None:
            last.pieces += self._parser.finish()
        self.ticket.finish(self._choice(reason), last)

    @property
    def _stop_text(self) -> str | None:
        """Which of the request's texts ended it; the template's own ends of turns are none of them."""
        template = self.ticket.template
        own = template.stop_strings if template is not None else ()
        return None if self._stream.matched in own else self._stream.matched

    def _choice(self, reason: FinishReason) -> Choice:
        text = "".join(self._texts)
        template = self.ticket.template
        if template is None:
            message = ChatMessage("assistant", text)
        else:
            parsed = template.parse(text, tools=self.ticket.request.tools, prompt=self.ticket.prompt_end)
            message = ChatMessage(
                role=parsed.get("role", "assistant"),
                content=parsed.get("content") or "",
                reasoning_content=parsed.get("reasoning_content"),
                tool_calls=parsed.get("tool_calls"),
            )
        config = self.ticket.config
        logprobs = self._logprobs if config.logprobs or config.top_logprobs else None
        return Choice(self.index, message, reason, self.token_ids, text, logprobs, self._stop_text)


def fail(answers: Sequence[Answer], error: BaseException) -> None:
    """None of these will be answered."""
    for answer in answers:
        # A listener that breaks must not keep the others from being told.
        with suppress(Exception):
            answer.ticket.fail(error)
