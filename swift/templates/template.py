"""The stage between messages and tokens: the model's own chat template, with exact loss masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from swift.errors import SwiftError
from swift.rows import THINKING, EncodedRow, Message, Row, Source
from swift.templates import messages as checks
from swift.templates.agent_formats import AgentFormat
from swift.templates.answers import Answers
from swift.templates.closing import PROBE_TOOL, REASONING, TOOL, USER
from swift.templates.grammar import Grammar
from swift.templates.parsing import Parser
from swift.templates.provenance import Traced
from swift.templates.quick import Plan
from swift.templates.rendering import Rendering
from swift.templates.scales import LossScale, Weighed, completed, label, read_tables
from swift.templates.shapes import Match, Shapes, key_of
from swift.templates.skeleton import Skeletons, placed, runs_of
from swift.templates.turns import Sample, ServingOptions, Turns

CONTROL_CHOICES = ("text", "refuse", "allow")


class Template(Rendering):
    """Turns rows into token ids and labels by the model's own chat template.

    Args:
        tokenizer: a transformers tokenizer.
        chat_template: Jinja source; the tokenizer's own where it is None.
        system: a system text for conversations that bring none.
        enable_thinking: the template's reasoning switch; None leaves it to the template.
        chat_template_kwargs: further variables for the template.
        special_tokens_in_content: what becomes of control tokens spelled out in contents: `text` encodes them as
            plain text, `allow` as control tokens, `refuse` refuses the row.
        response_prefix: text that the server puts behind the generation prompt; it is not trained.
        use_chat_template: False joins contents as they are and trains the assistant's, for base models.
        loss_scale: what is trained, as `LossScale` takes it.
        loss_scale_tables: what the files that it names hold, so that a checkpoint does not need them.
        preserve_thinking: keep or drop the reasoning of earlier turns; None leaves it to the template.
        add_non_thinking_prefix: turns without reasoning are trained behind the prompt of the thinking switch set off.
        agent_template: the format in which tools become text, for templates that know none.
        new_special_tokens: control tokens that contents may write too, since training added them for that.
        source: where the template came from, for messages and checkpoints.
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
        loss_scale: str = "default",
        loss_scale_tables: dict[str, Any] | None = None,
        preserve_thinking: bool | None = None,
        add_non_thinking_prefix: bool = False,
        agent_template: str | None = None,
        new_special_tokens: Sequence[str] = (),
        source: str = "",
    ) -> None:
        if special_tokens_in_content not in CONTROL_CHOICES:
            raise SwiftError(
                f"special_tokens_in_content is {special_tokens_in_content!r}",
                fix=f"use one of: {', '.join(CONTROL_CHOICES)}",
            )
        super().__init__(
            tokenizer,
            chat_template if use_chat_template else _bare(tokenizer),
            enable_thinking=enable_thinking,
            preserve_thinking=preserve_thinking,
            chat_template_kwargs=chat_template_kwargs,
            response_prefix=response_prefix,
            new_special_tokens=new_special_tokens,
            source=source,
        )
        self.system, self.use_chat_template = system, use_chat_template
        self.special_tokens_in_content = special_tokens_in_content
        self.loss_scale, self.loss_scale_tables = loss_scale, loss_scale_tables or {}
        self.add_non_thinking_prefix = add_non_thinking_prefix
        switches = {"enable_thinking": enable_thinking, **self.chat_template_kwargs}
        off = any(switches.get(name) is False for name in THINKING)
        options = ServingOptions(off, response_prefix or "", str(tokenizer.eos_token or ""), add_non_thinking_prefix)
        self._turns = Turns(self, self._encoder.pattern, self.notes, options)
        self._skeletons, self._shapes = Skeletons(), Shapes()
        self._shows: dict[bool, tuple[bool, bool]] = {}
        self.agent = None if agent_template is None else AgentFormat.load(agent_template)
        self._answers = Answers(self)

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
            "loss_scale": self.loss_scale,
            "loss_scale_tables": read_tables(self.loss_scale, self.loss_scale_tables),
            "preserve_thinking": self.preserve_thinking,
            "add_non_thinking_prefix": self.add_non_thinking_prefix,
            "agent_template": None if self.agent is None else self.agent.name,
            "new_special_tokens": self.new_special_tokens,
            "source": self.source,
            "fixed": dict(self.fixed),
        }

    @classmethod
    def from_dict(cls, tokenizer: Any, values: dict[str, Any]) -> Template:
        """The template that `to_dict` recorded."""
        options = {key: value for key, value in values.items() if key != "fixed"}
        template = cls(tokenizer, options.pop("chat_template"), **options)
        template.hold(values["fixed"])
        return template

    def __reduce__(self) -> Any:
        # Compiled templates cannot be pickled; what makes them can.
        return Template.from_dict, (self.tokenizer, self.to_dict())

    # What the template can do

    @property
    def grammar(self) -> Grammar:
        """The format of the model's answers, read off the template."""
        return self._answers.grammar

    @cached_property
    def shows_tools(self) -> bool:
        """Whether tools reach the prompt; a template that refuses the question is not said to drop them."""
        if self.agent is not None:
            return True
        try:
            text = self.plain([{"role": "user", "content": USER}], [TOOL], prompt=True)
        except SwiftError:
            return True
        return PROBE_TOOL in text

    @property
    def takes_calls(self) -> bool:
        """Whether the chat template writes tool calls."""
        return self._turns.takes_calls

    def _conversation(self, messages: Any, where: str | None) -> list[dict[str, Any]]:
        checks.check(messages, where)
        return checks.served(self.conversation(messages))

    def conversation(self, messages: Any) -> list[Any]:
        """The messages of a row, behind the template's system text where they bring none."""
        if self.system is None or messages[0]["role"] in ("system", "developer"):
            return list(messages)
        return [{"role": "system", "content": self.system}, *messages]

    def prepared(self, messages: Any, tools: Any, where: str | None = None) -> tuple[Any, Any]:
        """Messages, and tools in the OpenAI shape; with an agent format, all of it as text in the messages."""
        tools = checks.tools_of(tools, where)
        if self.agent is None:
            if tools and not self.shows_tools:
                self.notes["conversations whose tools the template drops"] += 1
            return messages, tools
        checks.check(messages, where)
        return self.agent.rewrite(self.conversation(messages), tools), None

    def render(self, messages: Any, tools: Any = None, *, add_generation_prompt: bool = False) -> str:
        """The text of the model's own chat template."""
        messages, tools = self.prepared(messages, tools)
        return self.plain(self._conversation(messages, None), tools, prompt=add_generation_prompt)

    def prompt_text(self, messages: Any, tools: Any = None, **switches: Any) -> str:
        """The text a server sends for the next assistant turn; `switches` are variables of this request alone."""
        messages, tools = self.prepared(messages, tools)
        conversation = self._parse_tags(self._conversation(messages, None), tools)
        return self.plain(conversation, tools, prompt=True, **switches)

    def prompt(self, messages: Any, tools: Any = None, **switches: Any) -> list[int]:
        """The token ids a server sends for the next assistant turn; `switches` as in `prompt_text`."""
        messages, tools = self.prepared(messages, tools)
        conversation = self._parse_tags(self._conversation(messages, None), tools)
        if self._encoder.pattern.search(repr((messages, tools))):
            return self.encode_text(self.traced(conversation, tools, prompt=True, **switches))
        text = self.plain(conversation, tools, prompt=True, **switches)
        return list(self._encoder.encode(text).ids)

    def traced_prompt(self, messages: Any, tools: Any = None, **switches: Any) -> Traced:
        """The text of `prompt` with its origins."""
        messages, tools = self.prepared(messages, tools)
        conversation = self._parse_tags(self._conversation(messages, None), tools)
        return self.traced(conversation, tools, prompt=True, **switches)

    def encode_text(self, text: Traced) -> list[int]:
        """The token ids of a render."""
        plain = str.__getitem__(text, slice(None))
        return list(self._encoder.encode(plain, self.control_text(plain, text.origins)).ids)

    def control_text(self, text: str, origins: str) -> Sequence[tuple[int, int]]:
        """Where contents spell out control tokens that stay text."""
        return self._encoder.control_text(text, origins) if self._as_text() else ()

    def _as_text(self) -> bool:
        return self.special_tokens_in_content != "allow"

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
        checks.check_media(row, row.get("messages"), where)
        messages, tools = self.prepared(row.get("messages"), row.get("tools"), where)
        conversation = self._conversation(messages, where)
        inserted = len(conversation) > len(messages or ())
        given = [*([{"role": "system"}] if inserted else []), *(messages or ())]
        wanted = self.scale.turns(given, where)
        conversation = self._parse_tags(conversation, tools)
        match = self._match(conversation, tools, wanted)
        quick = self._quick(match, source) if match and self.scale.is_plain(given) else None
        if match and quick and not match.shape.compared:
            self.notes.update(match.shape.notes)
            return [quick]
        samples = self._samples(conversation, tools, wanted, match)
        weighed = self.scale.weigh(samples, given, self.stop_texts)
        rows = [encoded for each in weighed for encoded in self._tokenise(each, source)]
        if quick and not (len(rows) == 1 and quick.same(rows[0])):
            raise RuntimeError(f"a remembered shape gives other tokens than the tokenizer: {conversation}")
        return rows

    def _match(self, conversation: list[dict[str, Any]], tools: Any, wanted: list[int]) -> Match | None:
        """A remembered shape that renders this conversation."""
        key = None if tools else key_of(conversation, wanted)
        if key is None:
            return None
        return self._shapes.find(key, conversation, lambda: self.plain(conversation, None, prompt=False))

    def _quick(self, match: Match, source: Source | None) -> EncodedRow | None:
        """The sample of a known shape by its stretches, where it has none that tokens may cross."""
        shape, words = match.shape, self._encoder.words
        if shape.plan is None:
            try:
                shape.plan = Plan(match, words) if words else False
            except ValueError:
                shape.plan = False
        return shape.plan.encode(match, source) if shape.plan else None

    def _samples(
        self, conversation: list[dict[str, Any]], tools: Any, wanted: list[int], match: Match | None
    ) -> list[Sample]:
        if match and not match.shape.compared:
            self.notes.update(match.shape.notes)
            return [match.sample()]
        samples, notes = self._traced_samples(conversation, tools, wanted)
        if match:
            known = match.sample()
            if known.spans != samples[0].spans or known.text.origins != samples[0].text.origins:
                raise RuntimeError(f"a remembered shape gives other spans than the template: {conversation}")
        elif notes is not None and not tools and (key := key_of(conversation, wanted)) is not None:
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
        if self.scale.base == "all":
            samples = completed(samples, full, [message["role"] for message in conversation])
        if len(samples) == 1 and str.__eq__(samples[0].text, full):
            notes = self.notes - before
            self._skeletons.keep(shape, full, runs, samples[0].spans, notes)
            return samples, notes
        return samples, None

    def _tokenise(self, weighed: Weighed, source: Source | None) -> list[EncodedRow]:
        """A sample's ids; a turn whose ends would merge with what stands around it becomes a sample of its own.

        There the text before the turn is tokenised alone, as a server does before it generates. As history of later
        turns the same text is tokenised in one piece, as a server does as well.
        """
        sample, parts = weighed.sample, weighed.parts
        text, origins = str.__getitem__(sample.text, slice(None)), sample.text.origins
        found = self._encoder.control_text(text, origins)
        self._note_control_text([text[start:stop] for start, stop in found])
        found = found if self._as_text() else []
        fast = self._encoder.fast
        edges = [] if fast else [at for span in sample.spans for at in (span.start, span.stop)]
        tokens = self._encoder.encode(text, found, edges)
        open_ended = {span.start for span in sample.spans if tokens.crosses(span.stop)}
        merged = open_ended.union(self._encoder.unstable(tokens, text, found, [span.start for span in sample.spans]))
        if not merged:
            return [label(text, tokens, weighed, parts, source, offsets=fast)]
        rows = []
        together = [part for part in parts if part.span is None or part.span.start not in merged]
        if together:
            row = label(text, tokens, weighed, together, source, offsets=fast)
            rows.append((together[-1].span.message if together[-1].span else len(text), row))
        for part in parts:
            if (span := part.span) is not None and span.start in merged:
                end = len(text) if part is parts[-1] else span.stop
                cut_behind = span.start in open_ended or not fast
                places = (span.start, span.stop) if cut_behind else (span.start,)
                inside = [place for place in found if place[0] < end]
                alone = self._encoder.encode(text[:end], inside, places)
                rows.append((span.message, label(text[:end], alone, weighed, [part], source, offsets=fast)))
        if len(rows) > 1:
            self.notes["rows split, because a token of a turn would merge with what stands around it"] += 1
        return [row for _, row in sorted(rows, key=lambda pair: pair[0])]

    def _note_control_text(self, found: Sequence[str]) -> None:
        if not found:
            return
        if self.special_tokens_in_content == "refuse":
            raise SwiftError(
                f"the row spells out the control token {found[0]!r} in its contents",
                fix="take it out, or set --special_tokens_in_content text",
            )
        kind = "plain text" if self._as_text() else "a control token"
        self.notes[f"control token text in content encoded as {kind}"] += len(found)

    # What the template can do, and the way back

    def _parse_tags(self, conversation: list[dict[str, Any]], tools: Any) -> list[dict[str, Any]]:
        """Reasoning and tool calls written out in an assistant's text, as fields, where the template needs them so."""
        reads, keeps = self._reasoning(bool(tools))
        if reads or not keeps:
            conversation = [checks.split_reasoning(message, opened=not keeps) for message in conversation]
        return [self._answers.read(conversation, at, tools) for at in range(len(conversation))]

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

    @cached_property
    def scale(self) -> LossScale:
        """What is trained of a row."""
        return LossScale(self.loss_scale, self.loss_scale_tables)

    @property
    def stop_texts(self) -> list[str]:
        """The text that ends a turn of text, and that which ends a turn of tool calls where it is another."""
        return list(dict.fromkeys((self._turns.text_ending.stop, self._turns.tool_ending.stop)))

    @property
    def stop_token_ids(self) -> list[int]:
        """What ends a generated turn: what the template closes turns with, and the tokenizer's end of sequence."""
        ids = [token for token in map(self._token_of, self.stop_texts) if token is not None]
        if self.tokenizer.eos_token_id is not None:
            ids.append(self.tokenizer.eos_token_id)
        return list(dict.fromkeys(ids))

    @property
    def stop_strings(self) -> list[str]:
        """The ends of turns that are no single token, so that a server has to watch the text for them."""
        words = [text for text in self.stop_texts if self._token_of(text) is None]
        return words if self.agent is None else [*words, *self.agent.stop]

    def _token_of(self, text: str) -> int | None:
        token = self.tokenizer.convert_tokens_to_ids(text.strip() or text)
        return None if token == self.tokenizer.unk_token_id else token

    def served_turn(self, conversation: Sequence[Any], tools: Any) -> tuple[str, str]:
        """The prompt of a conversation's last turn, and what the model generates for it.

        Raises:
            SwiftError: the template refuses the conversation or drops its calls.
        """
        messages = checks.served(conversation)
        turn = self._turns.turn(messages, tools, len(messages) - 1)
        text = str.__getitem__(turn.text, slice(None))
        return text[: turn.span.start], text[turn.span.start : turn.span.stop]

    def parse(self, text: str, *, tools: Any = None, prompt: str | None = None) -> Message:
        """The message that a generated text stands for: reasoning, content and tool calls.

        Args:
            text: what was generated.
            tools: the tools of the request: their schemas tell the types of arguments, where the format loses them.
            prompt: what it was generated behind, for a prompt may have opened the reasoning.
        """
        return self._answers.parse(text, tools, prompt)

    def parser(self, *, tools: Any = None, prompt: str | None = None) -> Parser:
        """A parser that takes an answer piece by piece; without a prompt, that of a plain question is assumed."""
        return self._answers.parser(tools, prompt)


def _bare(tokenizer: Any) -> str:
    """Contents alone; behind the start of sequence where the tokenizer puts it before a text by itself."""
    from swift.templates.loading import read_table

    start = tokenizer.bos_token_id
    begins = start is not None and list(tokenizer("a").input_ids[:1]) == [start]
    return ("{{- bos_token }}" if begins else "") + read_table("bare")
