"""Memory of whole renders: a conversation like one before is put together from the template's text and its fields.

What is put together counts only where it equals the template's own render to the letter; some uses of each shape are
also compared with the render that keeps provenance.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swift.templates.provenance import FIELDS, LITERAL, Traced, message_of
from swift.templates.turns import Sample, Span

LIMIT = 1024
VARIANTS = 4
"""Renders kept of one key: a template may look at more than the key tells."""

COMPARED_FIRST, COMPARED_EACH = 2, 512
"""Uses of a shape that are compared with the traced render: the first ones, and one in so many."""

KEYS = frozenset({"role", "content", "reasoning_content", "thinking"})
NO_EDGES = ((False, False), None)
"""What a key holds of a text without white space at its edges, and of no reasoning."""
EDGES: tuple[Callable[[str], str], ...] = (str, str.strip, str.lstrip, str.rstrip)


@dataclass
class Shape:
    """The template's text of a conversation, with holes.

    Attributes:
        pieces: text of the template, or a hole: message, name of its field, what is done to its edges, its origin.
        spans: start and stop as (piece, place in it), and the span that was there.
        notes: counted warnings that come with the shape.
        uses: how often it was taken.
        plan: how its rows become tokens, once that was asked for; False where there is no short way.
    """

    pieces: list[str | tuple[int, str, Callable[[str], str], str]]
    spans: list[tuple[tuple[int, int], tuple[int, int], Span]]
    notes: Counter[str]
    uses: int = 0
    plan: Any = None

    def __post_init__(self) -> None:
        self._holes = [(at, *piece[:3]) for at, piece in enumerate(self.pieces) if not isinstance(piece, str)]

    def fill(self, messages: Sequence[Any]) -> list[str]:
        """The pieces for another conversation."""
        found: list[Any] = self.pieces.copy()
        for at, message, field, edges in self._holes:
            found[at] = edges(messages[message][field])
        return found

    def sample(self, texts: Sequence[str]) -> Sample:
        """The filled pieces with origins and spans."""
        ends = [0]
        origins = []
        for piece, text in zip(self.pieces, texts, strict=True):
            ends.append(ends[-1] + len(text))
            origins.append((LITERAL if isinstance(piece, str) else piece[3]) * len(text))
        spans = [replace(span, start=ends[a] + x, stop=ends[b] + y) for (a, x), (b, y), span in self.spans]
        return Sample(Traced("".join(texts), "".join(origins)), spans)

    @property
    def compared(self) -> bool:
        """Whether this use is compared with the traced render."""
        return self.uses <= COMPARED_FIRST or self.uses % COMPARED_EACH == 0


@dataclass
class Match:
    """A conversation in a known shape.

    Attributes:
        shape: the shape.
        texts: its pieces, filled.
        plain: the template's render, which they make up.
    """

    shape: Shape
    texts: list[str]
    plain: str

    def sample(self) -> Sample:
        """The text with origins and spans."""
        return self.shape.sample(self.texts)


class Shapes:
    """Remembers the shapes of the conversations seen last."""

    def __init__(self) -> None:
        self._known: OrderedDict[Any, list[Shape]] = OrderedDict()

    def find(self, key: Any, messages: Sequence[Any], render: Callable[[], str]) -> Match | None:
        """The shape that gives `render()`."""
        shapes = self._known.get(key)
        if not shapes:
            return None
        self._known.move_to_end(key)
        plain = render()
        for shape in shapes:
            texts = shape.fill(messages)
            if "".join(texts) == plain:
                shape.uses += 1
                return Match(shape, texts, plain)
        return None

    def keep(self, key: Any, messages: Sequence[Any], sample: Sample, notes: Counter[str]) -> None:
        """Remember a conversation's render, if each stretch of it is a field as it is or stripped."""
        shapes = self._known.setdefault(key, [])
        if len(shapes) < VARIANTS and (shape := _shape(messages, sample, notes)):
            shapes.append(shape)
        if len(self._known) > LIMIT:
            self._known.popitem(last=False)


def key_of(messages: Sequence[Any], wanted: Sequence[int]) -> Any:
    """What conversations have in common that are worth comparing; None where a template may look inside the texts."""
    key: list[Any] = []
    for message in messages:
        if not message.keys() <= KEYS:
            return None
        key.append(message["role"])
        text = message.get("content")
        if len(message) == 2 and type(text) is str and text and not (text[0].isspace() or text[-1].isspace()):
            # Nearly every message is a role and a text.
            if "think>" in text or "<tool" in text:
                return None
            key += NO_EDGES
            continue
        for name in ("content", "reasoning_content"):
            text = message.get(name)
            if text:
                if not isinstance(text, str) or "think>" in text or "<tool" in text:
                    return None
                first, last = text[0].isspace(), text[-1].isspace()
                if first and last and text.isspace():
                    return None
                key.append((first, last))
            else:
                key.append(text)
    return tuple(key), tuple(wanted)


def _shape(messages: Sequence[Any], sample: Sample, notes: Counter[str]) -> Shape | None:
    from swift.templates.skeleton import place_in, runs_of

    runs = runs_of(sample.text)
    pieces: list[Any] = []
    for start, stop in runs:
        text, origin = str.__getitem__(sample.text, slice(start, stop)), sample.text.origins[start]
        if origin == LITERAL:
            pieces.append(text)
            continue
        message, name = message_of(origin), FIELDS[(ord(origin) - 1) % len(FIELDS)]
        value = messages[message].get(name)
        edges = next((cut for cut in EDGES if isinstance(value, str) and cut(value) == text), None)
        if edges is None:
            return None
        pieces.append((message, name, edges, origin))
    spans = []
    for span in sample.spans:
        places = place_in(sample.text, runs, span.start), place_in(sample.text, runs, span.stop)
        if places[0] is None or places[1] is None:
            return None
        spans.append((places[0], places[1], span))
    return Shape(pieces, spans, notes)
