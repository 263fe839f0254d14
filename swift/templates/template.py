"""The stage between messages and tokens: the model's own chat template, with exact loss masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from swift.errors import SwiftError
from swift.rows import IGNORE, EncodedRow, Message, Row, Source
from swift.templates import messages as checks
from swift.templates.closing import REASONING, TOOL, USER
from swift.templates.environment import ChatTemplate
from swift.templates.parsing import parse_text
from swift.templates.provenance import LITERAL, Traced, origin_of
from swift.templates.shapes import Shapes, key_of
from swift.templates.skeleton import Skeletons, placed, runs_of
from swift.templates.tokens import Encoder, Tokens
from swift.templates.turns import THINKING, Sample, ServingOptions, Span, Turns

CONTROL_CHOICES = ("text", "token", "error")


class Template:
    """Turns rows into token ids and labels by the model's own chat template.

    Args:
        tokenizer: a transformers tokenizer.
        chat_template: Jinja source; the tokenizer's own where it is None.
        system: a system text for conversations that bring none.
        enable_thinking: the template's reasoning switch; None leaves it to the template.
        chat_template_kwargs: further variables for the template.
        special_tokens_in_content: what becomes of control tokens spelled out in contents: `text` encodes them as
            plain text, `token` as control tokens, `error` refuses the row.
        response_prefix: text that the server puts behind the generation prompt; it is not trained.
        use_chat_template: False joins contents as they are and trains the assistant's, for base models.
        source: where the template came from, for messages and checkpoints.

    Attributes:
        fixed: values that would move by themselves (the date), held still and recorded.
        notes: counted warnings.
    """

    def __init__(
        self,
        tokenizer: Any,
        chat_template: str | None = None,
        *,
        system: str | None = None,
        enable_thinking: bool | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        special_tokens_in_content: str = "text",
        response_prefix: str | None = None,
        use_chat_template: bool = True,
        source: str = "",
    ) -> None:
        if special_tokens_in_content not in CONTROL_CHOICES:
            raise SwiftError(
                f"special_tokens_in_content is {special_tokens_in_content!r}",
                fix=f"use one of: {', '.join(CONTROL_CHOICES)}",
            )
        self.tokenizer, self.system, self.enable_thinking = tokenizer, system, enable_thinking
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.special_tokens_in_content, self.response_prefix = special_tokens_in_content, response_prefix
        self.use_chat_template, self.source = use_chat_template, source
        self.chat_template = chat_template if use_chat_template else _bare()
        self.fixed: dict[str, Any] = {"now": datetime.now().isoformat(timespec="seconds")}
        self.notes: Counter[str] = Counter()
        self._compiled: dict[str, ChatTemplate] = {}
        self._encoder = Encoder(tokenizer)
        self._special = dict(tokenizer.special_tokens_map)
        switches = {"enable_thinking": enable_thinking, **self.chat_template_kwargs}
        off = any(switches.get(name) is False for name in THINKING)
        options = ServingOptions(off, response_prefix or "", str(tokenizer.eos_token or ""))
        self._turns = Turns(self, self._encoder.pattern, self.notes, options)
        self._skeletons, self._shapes = Skeletons(), Shapes()
        self._shows: dict[bool, tuple[bool, bool]] = {}
        self._select(None)

    # What a checkpoint records

    def to_dict(self) -> dict[str, Any]:
        """All that another process needs to render, train and serve identically."""
        return {
            "chat_template": self.chat_template or self.tokenizer.chat_template,
            "system": self.system,
            "enable_thinking": self.enable_thinking,
            "chat_template_kwargs": self.chat_template_kwargs,
            "special_tokens_in_content": self.special_tokens_in_content,
            "response_prefix": self.response_prefix,
            "use_chat_template": self.use_chat_template,
            "source": self.source,
            "fixed": dict(self.fixed),
        }

    @classmethod
    def from_dict(cls, tokenizer: Any, values: dict[str, Any]) -> Template:
        """The template that `to_dict` recorded."""
        options = {key: value for key, value in values.items() if key != "fixed"}
        template = cls(tokenizer, options.pop("chat_template"), **options)
        template.fixed = dict(values["fixed"])
        template._compiled.clear()
        return template

    def __reduce__(self) -> Any:
        # Compiled templates cannot be pickled; what makes them can.
        return Template.from_dict, (self.tokenizer, self.to_dict())

    # Rendering

    def _select(self, tools: Any) -> ChatTemplate:
        source: Any = self.chat_template or self.tokenizer.chat_template
        if isinstance(source, dict):
            source = source["tool_use"] if tools and "tool_use" in source else source.get("default")
        if not source:
            raise SwiftError(
                "the model has no chat template",
                where=self.source or None,
                fix="name one: --template chatml|llama|alpaca|plain, or a file: --chat_template FILE.jinja",
            )
        if source not in self._compiled:
            self._compiled[source] = ChatTemplate(source, datetime.fromisoformat(self.fixed["now"]))
        return self._compiled[source]

    def _variables(self, messages: Any, tools: Any, prompt: bool, switches: dict[str, Any]) -> dict[str, Any]:
        thinking = {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}
        return {
            **self._special,
            **self.chat_template_kwargs,
            **thinking,
            **switches,
            "messages": messages,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": prompt,
        }

    def plain(self, messages: Sequence[Any], tools: Any, *, prompt: bool, **switches: Any) -> str:
        """The model's render of messages as served, with the generation prompt where `prompt` is set.

        Raises:
            SwiftError: with the template's own words, when it refuses the conversation.
        """
        variables = self._variables(messages, tools, prompt, switches)
        text = self._guard(lambda: self._select(tools).render(variables))
        return text + self.response_prefix if prompt and self.response_prefix else text

    def traced(self, messages: Sequence[Any], tools: Any, *, prompt: bool = False, **switches: Any) -> Traced:
        """The same render with origins, checked against the plain one."""
        plain = self.plain(messages, tools, prompt=prompt, **switches)
        variables = self._variables(checks.traced(messages), self._traced_tools(messages, tools), prompt, switches)
        text = self._guard(lambda: self._select(tools).render_traced(variables))
        if prompt and self.response_prefix:
            text = text + self.response_prefix
        if str.__eq__(text, plain) and not lost(text, messages):
            return text
        self.notes["renders whose provenance was found by search"] += 1
        return search_origins(plain, messages)

    def _traced_tools(self, messages: Sequence[Any], tools: Any) -> Any:
        """Tools are followed only where they spell out a control token: that one must not become one."""
        if not tools or not self._encoder.pattern.search(repr(tools)):
            return tools
        return checks.trace_value(tools, origin_of(len(messages), "content"))

    def _guard(self, render: Any) -> Any:
        from jinja2 import TemplateError

        try:
            return render()
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise SwiftError(
                f"the chat template refuses this conversation: {error}",
                where=self.source or None,
                fix="change the row, or give another template with --chat_template FILE.jinja",
            ) from error

    def _conversation(self, messages: Any, where: str | None) -> list[dict[str, Any]]:
        checks.check(messages, where)
        if self.system is not None and messages[0]["role"] not in ("system", "developer"):
            messages = [{"role": "system", "content": self.system}, *messages]
        return checks.served(messages)

    def render(self, messages: Any, tools: Any = None, *, add_generation_prompt: bool = False) -> str:
        """The text of the model's own chat template."""
        return self.plain(self._conversation(messages, None), tools, prompt=add_generation_prompt)

    def prompt_text(self, messages: Any, tools: Any = None) -> str:
        """The text a server sends for the next assistant turn."""
        return self.render(messages, tools, add_generation_prompt=True)

    def prompt(self, messages: Any, tools: Any = None) -> list[int]:
        """The token ids a server sends for the next assistant turn."""
        conversation = self._conversation(messages, None)
        if self._encoder.pattern.search(repr((messages, tools))):
            traced = self.traced(conversation, tools, prompt=True)
            text, origins = str.__getitem__(traced, slice(None)), traced.origins
        else:
            text = self.plain(conversation, tools, prompt=True)
            origins = LITERAL * len(text)
        found = self._encoder.control_text(text, origins) if self._as_text() else ()
        return list(self._encoder.encode(text, found).ids)

    def _as_text(self) -> bool:
        return self.special_tokens_in_content != "token"

    # Encoding

    def encode(self, row: Row, source: Source | None = None) -> list[EncodedRow]:
        """Token ids and labels of a row.

        Returns:
            One sample; several where the template rewrites earlier turns, so that no one text holds them all.

        Raises:
            SwiftError: for a row that no template can take, that this one refuses or drops tool calls of, or that
                has nothing to train on.
        """
        where = None if source is None else str(source)
        try:
            return self._encode(row, source, where)
        except SwiftError as error:
            if where is None or error.where == where:
                raise
            raise SwiftError(error.what, where=where, fix=error.fix) from error

    def _encode(self, row: Row, source: Source | None, where: str | None) -> list[EncodedRow]:
        messages = row.get("messages")
        conversation = self._conversation(messages, where)
        given = [*([{}] if len(conversation) > len(messages or ()) else []), *(messages or ())]
        assistant = [at for at, message in enumerate(conversation) if message["role"] == "assistant"]
        if not assistant:
            raise SwiftError("the row has no assistant turn: there is nothing to train on", where=where)
        wanted = [at for at in assistant if _is_trained(given[at])]
        if not wanted:
            raise SwiftError(
                "every assistant turn of the row has loss: false or weight: 0: there is nothing to train on",
                where=where,
                fix="take the row out, or give one of its turns a loss",
            )
        conversation = self._parse_tags(conversation, row.get("tools"))
        weights = {at: float(given[at]["weight"]) for at in wanted if given[at].get("weight") is not None}
        samples = self._samples(conversation, row.get("tools"), wanted)
        return [encoded for sample in samples for encoded in self._tokenise(sample, weights, source)]

    def _samples(self, conversation: list[dict[str, Any]], tools: Any, wanted: list[int]) -> list[Sample]:
        key = None if tools else key_of(conversation, wanted)
        quick = key and self._shapes.find(key, conversation, lambda: self.plain(conversation, None, prompt=False))
        if quick and not quick[0].compared:
            self.notes.update(quick[0].notes)
            return [quick[1]]
        samples, notes = self._traced_samples(conversation, tools, wanted)
        if quick and (quick[1].spans != samples[0].spans or quick[1].text.origins != samples[0].text.origins):
            raise RuntimeError(f"a remembered shape gives other spans than the template: {conversation}")
        if key and not quick and notes is not None:
            self._shapes.keep(key, conversation, samples[0], notes)
        return samples

    def _traced_samples(
        self, conversation: list[dict[str, Any]], tools: Any, wanted: list[int]
    ) -> tuple[list[Sample], Counter[str] | None]:
        """The samples, and the notes to remember where one sample is the whole render."""
        full = self.traced(conversation, tools)
        runs = runs_of(full)
        shape = (checks.shape_of(conversation), tuple(wanted), bool(tools))
        known = self._skeletons.find(shape, full, runs)
        if known is not None:
            self.notes.update(known.notes)
            return [Sample(full, placed(known, runs))], known.notes
        before = Counter(self.notes)
        samples = self._turns.samples(conversation, tools, wanted, full)
        if len(samples) == 1 and str.__eq__(samples[0].text, full):
            notes = self.notes - before
            self._skeletons.keep(shape, full, runs, samples[0].spans, notes)
            return samples, notes
        return samples, None

    def _tokenise(self, sample: Sample, weights: dict[int, float], source: Source | None) -> list[EncodedRow]:
        """A sample's ids; a turn whose first token would merge with its prompt becomes a sample of its own.

        There the text before the turn is tokenised alone, as a server does before it generates. As history of later
        turns the same text is tokenised in one piece, as a server does as well.
        """
        text, origins = str.__getitem__(sample.text, slice(None)), sample.text.origins
        found = self._encoder.control_text(text, origins)
        self._note_control_text([text[start:stop] for start, stop in found])
        found = found if self._as_text() else []
        edges = [] if self._encoder.fast else [at for span in sample.spans for at in (span.start, span.stop)]
        tokens = self._encoder.encode(text, found, edges)
        merged = self._encoder.unstable(tokens, text, found, [span.start for span in sample.spans])
        if not merged:
            return [self._label(tokens, sample.spans, weights, source)]
        rows = []
        together = [span for span in sample.spans if span.start not in merged]
        if together:
            rows.append((together[-1].message, self._label(tokens, together, weights, source)))
        for span in sample.spans:
            if span.start in merged:
                end = len(text) if span is sample.spans[-1] else span.stop
                places = (span.start,) if self._encoder.fast else (span.start, span.stop)
                inside = [place for place in found if place[0] < end]
                alone = self._encoder.encode(text[:end], inside, places)
                rows.append((span.message, self._label(alone, [span], weights, source)))
        if len(rows) > 1:
            self.notes["rows split, because the first token of a turn would merge with its prompt"] += 1
        return [row for _, row in sorted(rows, key=lambda pair: pair[0])]

    def _label(
        self, tokens: Tokens, spans: Sequence[Span], weights: dict[int, float], source: Source | None
    ) -> EncodedRow:
        ids = np.asarray(tokens.ids, dtype=np.int32)
        labels = np.full(len(ids), IGNORE, dtype=np.int32)
        weight = np.zeros(len(ids), dtype=np.float32) if weights else None
        for span in spans:
            inside = slice(
                int(np.searchsorted(tokens.stops, span.start, "right")), int(np.searchsorted(tokens.starts, span.stop))
            )
            labels[inside] = ids[inside]
            if weight is not None:
                weight[inside] = weights.get(span.message, 1.0)
        encoded = EncodedRow(ids, labels, source, weight)
        if not encoded.trained:
            raise SwiftError("no token of the row carries loss")
        return encoded

    def _note_control_text(self, found: Sequence[str]) -> None:
        if not found:
            return
        if self.special_tokens_in_content == "error":
            raise SwiftError(
                f"the row spells out the control token {found[0]!r} in its contents",
                fix="take it out, or set special_tokens_in_content to text",
            )
        kind = "plain text" if self._as_text() else "a control token"
        self.notes[f"control token text in content encoded as {kind}"] += len(found)

    # What the template can do, and the way back

    def _parse_tags(self, conversation: list[dict[str, Any]], tools: Any) -> list[dict[str, Any]]:
        """Reasoning and tool calls written out in an assistant's text, as fields, where the template needs them so."""
        reads, keeps = self._reasoning(bool(tools))
        if reads or not keeps:
            conversation = [checks.split_reasoning(message, opened=not keeps) for message in conversation]
        if "<tool_call>" in self._encoder.control and self._turns.takes_calls:
            conversation = [checks.split_calls(message) for message in conversation]
        return conversation

    def _reasoning(self, tools: bool) -> tuple[bool, bool]:
        """Whether the template shows `reasoning_content`, and whether it keeps a think block written in the text."""
        if tools not in self._shows:
            field = {"role": "assistant", "content": "a", "reasoning_content": REASONING, "thinking": REASONING}
            inline = {"role": "assistant", "content": f"<think>\n{REASONING}\n</think>\n\na"}
            shown = []
            for turn in (field, inline):
                try:
                    text = self.plain(
                        [{"role": "user", "content": USER}, turn], [TOOL] if tools else None, prompt=False
                    )
                except SwiftError:
                    text = REASONING if turn is inline else ""
                shown.append(REASONING in text)
            self._shows[tools] = (shown[0], shown[1])
        return self._shows[tools]

    @property
    def stop_texts(self) -> list[str]:
        """The text that ends a turn of text, and that which ends a turn of tool calls where it is another."""
        return list(dict.fromkeys((self._turns.text_ending.stop, self._turns.tool_ending.stop)))

    @property
    def stop_token_ids(self) -> list[int]:
        """What ends a generated turn: what the template closes turns with, and the tokenizer's end of sequence."""
        ids = [self.tokenizer.convert_tokens_to_ids(text.strip() or text) for text in self.stop_texts]
        ids = [token for token in ids if token is not None and token != self.tokenizer.unk_token_id]
        if self.tokenizer.eos_token_id is not None:
            ids.append(self.tokenizer.eos_token_id)
        return list(dict.fromkeys(ids))

    def parse(self, text: str) -> Message:
        """The message that a generated text stands for: reasoning, content and tool calls."""
        for stop in self.stop_texts:
            text = text.removesuffix(stop)
        return parse_text(text)


def _is_trained(message: Message) -> bool:
    """Whether an assistant's turn counts: a weight of 0 is no loss, in the sum and in the number of tokens."""
    return message.get("loss") is not False and message.get("weight") != 0


def lost(text: Traced, messages: Sequence[Any]) -> bool:
    """Whether an answer stands in the text without its origin: the template did to it what is not followed."""
    return any(
        message["role"] == "assistant"
        and not message.get("tool_calls")
        and origin_of(index, "content") not in text.origins
        and (content := checks.text_of(message).strip())
        and content in text
        for index, message in enumerate(messages)
    )


def search_origins(text: str, messages: Sequence[Any]) -> Traced:
    """Origins by looking for the contents one after the other; what is not found stays the template's."""
    origins, at = [LITERAL] * len(text), 0
    for index, message in enumerate(messages):
        calls = message.get("tool_calls") or ()
        names = [("name", call.get("function", call)["name"]) for call in calls]
        fields = [("reasoning_content", message.get("reasoning_content") or ""), ("content", checks.text_of(message))]
        for name, value in [*fields, *names]:
            value = value.strip()
            start = text.find(value, at) if value else -1
            if start >= 0:
                at = start + len(value)
                origins[start:at] = origin_of(index, name) * len(value)
    return Traced(text, "".join(origins))


def _bare() -> str:
    from swift.templates.loading import read_table

    return read_table("bare")
