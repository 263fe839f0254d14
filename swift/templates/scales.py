"""What is trained of a conversation, and how much each token weighs: `--loss_scale`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from swift.errors import SwiftError
from swift.rows import IGNORE, EncodedRow, Rendered, Source, TurnStart
from swift.templates import loss_scales
from swift.templates.closing import first_after, last_of
from swift.templates.messages import text_of
from swift.templates.patterns import PatternTable, Scale, builtin_tables, is_weight, read_table_file
from swift.templates.provenance import LITERAL, Traced, message_of
from swift.templates.skeleton import runs_of
from swift.templates.tokens import Tokens
from swift.templates.turns import Sample, Span

BASES = {
    "default": "the assistant's turns",
    "last_round": "the assistant's last turn",
    "all": "every token, the prompt's too",
}
"""What is trained, by the name of the strategy."""


@dataclass(frozen=True)
class Part:
    """The characters `[start, stop)` whose tokens are labelled with those of one turn; none without a turn."""

    start: int
    stop: int
    span: Span | None = None


@dataclass
class Weighed:
    """A sample with what is trained of it.

    Attributes:
        sample: the text and its generated spans.
        parts: what is labelled, in order.
        weights: float32[characters]; None where every character of the parts weighs 1.
    """

    sample: Sample
    parts: list[Part] = field(default_factory=list)
    weights: np.ndarray | None = None


class LossScale:
    """A strategy and the scales that are joined to it with `+`; their weights are multiplied.

    Args:
        spec: such as `default`, `last_round`, `hermes`, `last_round+hermes+ignore_empty_think` or `weights.json`.
        tables: what files hold, by their names; others are read.

    Raises:
        SwiftError: a name is unknown or there twice, or a file holds no table.
    """

    def __init__(self, spec: str, tables: Mapping[str, Any] | None = None) -> None:
        self.spec = spec
        names = names_in(spec)
        bases = [name for name in names if name in BASES]
        if len(bases) > 1 or len(set(names)) < len(names):
            what = "several strategies" if len(bases) > 1 else "a name twice"
            raise SwiftError(f"--loss_scale {spec} has {what}", fix=f"take one of {', '.join(BASES)}, each name once")
        self.base = bases[0] if bases else "default"
        self.names = [name for name in names if name not in BASES]
        tables = read_tables(spec, tables or {})
        self._scales = [(name, scale_of(name, tables)) for name in self.names]

    def describe(self) -> str:
        """What is trained, in words."""
        joined = f", weighed by {' × '.join(self.names)}" if self.names else ""
        return BASES[self.base] + joined

    def turns(self, given: Sequence[Any], where: str | None) -> list[int]:
        """The indices of the assistant's turns whose samples are wanted.

        `last_round` takes the turns behind the last one of the user or a tool, and those with `loss: true`.

        Raises:
            SwiftError: there is no such turn, or none that is trained.
        """
        assistant = [at for at, message in enumerate(given) if message["role"] == "assistant"]
        if self.base == "all":
            return assistant
        if not assistant:
            raise SwiftError(
                "no message is an assistant's turn: there is nothing to train on", where=where, fix="add the answer"
            )
        chosen = assistant
        if self.base == "last_round":
            before = [at for at in range(assistant[-1]) if given[at]["role"] != "assistant"]
            chosen = [at for at in assistant if at > max(before, default=-1) or given[at].get("loss") is True]
        wanted = [at for at in chosen if is_trained(given[at])]
        if not wanted:
            which = "every assistant turn" if self.base == "default" else "the last assistant turn"
            raise SwiftError(
                f"{which} of the row has loss: false or weight: 0: there is nothing to train on",
                where=where,
                fix="take the row out, or give one of its turns a loss",
            )
        return wanted

    def is_plain(self, given: Sequence[Any]) -> bool:
        """Whether the generated tokens of a conversation are trained, with the same weight each, and no others."""
        plain = self.base != "all" and not self._scales
        return plain and not any(message.get("weight") is not None for message in given)

    def weigh(self, samples: Sequence[Sample], given: Sequence[Any], stops: Sequence[str]) -> list[Weighed]:
        """What is trained of each sample of a row.

        Args:
            samples: in the order of their last turns.
            given: the row's messages, as the data has them, with the system text that was put before them.
            stops: the texts that end a turn.
        """
        if self.base == "all":
            return self._whole(samples, given, stops)
        plain = self.is_plain(given)
        weighed = []
        for sample in samples:
            parts = [Part(span.start, span.stop, span) for span in sample.spans]
            weights = None if plain else np.zeros(len(sample.text), dtype=np.float32)
            if weights is not None:
                for span in sample.spans:
                    self._weigh_turn(weights, sample, span, given, stops)
            weighed.append(Weighed(sample, parts, weights))
        return weighed

    def _weigh_turn(
        self, weights: np.ndarray, sample: Sample, span: Span, given: Sequence[Any], stops: Sequence[str]
    ) -> None:
        """A turn's own `loss` and `weight` count before all scales; the token that stops it weighs 1 in scales."""
        message = given[span.message]
        inside = weights[span.start : span.stop]
        inside[:] = 1
        if not is_trained(message):
            inside[:] = 0
        elif message.get("weight") is not None:
            inside[:] = message["weight"]
        elif self._scales:
            text = str.__getitem__(sample.text, slice(span.start, span.stop))
            answer = text[: len(text) - len(stop_of(text, stops))]
            before: Any = next((m for m in reversed(given[: span.message]) if m["role"] != "assistant"), {})
            for name, scale in self._scales:
                at = 0
                for start, stop, weight in scale(answer, text_of(before)):
                    if not (at <= start <= stop <= len(answer) and is_weight(weight)):
                        raise SwiftError(
                            f"loss scale {name} gives [{start}, {stop}) of an answer of {len(answer)} characters the "
                            f"weight {weight}",
                            fix="give stretches in their order that do not overlap, with weights from 0 on",
                        )
                    inside[start:stop] *= weight
                    at = stop

    def _whole(self, samples: Sequence[Sample], given: Sequence[Any], stops: Sequence[str]) -> list[Weighed]:
        """`all`: each sample from where the one before it ended, so that no text is trained twice."""
        weighed: list[Weighed] = []
        done = -1
        ended = ""
        for sample in samples:
            text, spans = sample.text, sample.spans
            begin = _behind(text, done, ended) if done >= 0 else 0
            borders = [begin, *(span.stop for span in spans[:-1])]
            ends = [span.stop for span in spans] or [len(text)]
            if sample is samples[-1]:
                ends[-1] = len(text)
            turns: Sequence[Span | None] = spans or [None]
            parts = [Part(start, stop, span) for start, stop, span in zip(borders, ends, turns, strict=True)]
            weights = np.ones(len(text), dtype=np.float32)
            for start, stop in runs_of(text):
                weights[start:stop] = _weight_of_run(text.origins[start], done, given)
            for span in spans:
                self._weigh_turn(weights, sample, span, given, stops)
            weighed.append(Weighed(sample, parts, weights))
            if spans:
                done = spans[-1].message
                ended = stop_of(str.__getitem__(text, slice(spans[-1].start, spans[-1].stop)), stops)
        return weighed


def completed(samples: list[Sample], full: Traced, roles: Sequence[str]) -> list[Sample]:
    """The samples of `all`: those of the assistant's turns, and one for what no turn of the assistant follows."""
    if samples and (roles[-1] == "assistant" or str.__eq__(samples[-1].text, full)):
        return samples
    return [*samples, Sample(full)]


def names_in(spec: str) -> list[str]:
    """The names that `+` joins."""
    return [name.strip() for name in spec.split("+")]


def read_tables(spec: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """What the files hold that a `--loss_scale` names: what is known of them, or else what stands in them now.

    Raises:
        SwiftError: a file cannot be read.
    """
    files = [name for name in names_in(spec) if name.endswith(".json") and name not in loss_scales]
    return {name: known[name] if name in known else read_table_file(name) for name in files}


def scale_of(name: str, tables: Mapping[str, Any]) -> Scale:
    """The scale of a name: a plug-in, one of the library's, or a file's table.

    Raises:
        SwiftError: there is none of that name.
    """
    if name in loss_scales:
        return loss_scales.get(name)
    table = tables[name] if name in tables else builtin_tables().get(name)
    if table is None:
        raise SwiftError(
            f"--loss_scale: there is no {name!r}",
            fix=f"join with +: {', '.join([*BASES, *builtin_tables(), *loss_scales])}, or a .json file of patterns",
        )
    return PatternTable(table, name)


def is_trained(message: Any) -> bool:
    """Whether a turn counts: a weight of 0 is no loss, in the sum and in the number of tokens."""
    return message.get("loss") is not False and message.get("weight") != 0


def stop_of(turn: str, stops: Sequence[str]) -> str:
    """The text that stops a turn."""
    return max((stop for stop in stops if turn.endswith(stop)), key=len, default="")


def _behind(text: Any, message: int, ended: str) -> int:
    """Where the text after a turn begins, behind what stopped it."""
    at = next((end for index in range(message, -1, -1) if (end := last_of(text, index)) >= 0), 0)
    found = str.find(text, ended, at, first_after(text, message, at)) if ended else -1
    return at if found < 0 else found + len(ended)


def _weight_of_run(origin: str, done: int, given: Sequence[Any]) -> float:
    """The weight of text that one message brought: none where an earlier sample had it."""
    index = -1 if origin == LITERAL else message_of(origin)
    if not 0 <= index < len(given):
        return 1.0
    if index <= done or not is_trained(given[index]):
        return 0.0
    weight = given[index].get("weight")
    return 1.0 if weight is None else float(weight)


def label(
    text: str, tokens: Tokens, weighed: Weighed, parts: Sequence[Part], source: Source | None, *, offsets: bool = True
) -> EncodedRow:
    """Labels and weights of a tokenised text.

    A token has the weight of the character that it begins with; where that is 0, it carries no loss and counts in no
    denominator.

    Args:
        text: the sample's, or its beginning.
        tokens: of the text.
        weighed: the sample.
        parts: those of its parts that are labelled here, in order.
        source: where the row came from.
        offsets: the tokenizer tells the characters of each token, not only those of a whole part.

    Raises:
        SwiftError: no token is left that carries loss, or weights change where there are no offsets.
    """
    weights = weighed.weights
    if weights is not None and not offsets:
        _check_even(tokens, weights)
    ids = np.asarray(tokens.ids, dtype=np.int32)
    labels = np.full(len(ids), IGNORE, dtype=np.int32)
    each = np.zeros(len(ids), dtype=np.float32) if weights is not None else None
    for part in reversed(parts):
        inside = slice(_first(tokens, part.start), int(np.searchsorted(tokens.starts, part.stop)))
        labels[inside] = ids[inside]
        if each is not None and weights is not None:
            each[inside] = weights[np.clip(tokens.starts[inside], part.start, part.stop - 1)]
    if each is not None:
        labels[each == 0] = IGNORE
        if not ((each != 0) & (each != 1)).any():
            each = None
    spans = [part.span for part in parts if part.span is not None]
    turns = tuple(TurnStart(span.message, _first(tokens, span.start), span.thinking) for span in spans)
    encoded = EncodedRow(ids, labels, source, each, Rendered(text, turns, lambda: tokens.stops))
    if not encoded.trained:
        raise SwiftError(
            "no token of the row carries loss", fix="look at --loss_scale, and loss and weight of its turns"
        )
    return encoded


def _first(tokens: Tokens, place: int) -> int:
    """The first token that reaches behind a place in the text."""
    return int(np.searchsorted(tokens.stops, place, "right"))


def _check_even(tokens: Tokens, weights: np.ndarray) -> None:
    for start, stop in set(zip(tokens.starts.tolist(), tokens.stops.tolist(), strict=True)):
        if len(np.unique(weights[start:stop])) > 1:
            raise SwiftError(
                "the weights change inside a turn, and the tokenizer does not tell where in the text its tokens stand",
                fix="use a fast tokenizer (tokenizer.json), or another --loss_scale",
            )
