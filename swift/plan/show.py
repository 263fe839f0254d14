"""The plan of a run, printed for people or as one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TextIO

from swift.config.decisions import Decisions

if TYPE_CHECKING:
    from swift.plan.memory import MemoryPlan
    from swift.rows import EncodedRow

BAR_WIDTH = 24
OPEN, CLOSE = "«", "»"
"""Stand around trained text where there are no colours."""


@dataclass(frozen=True)
class Preview:
    """One of the first rows, as it will be trained on."""

    encoded: EncodedRow
    tokenizer: Any

    def spans(self) -> list[tuple[str, bool]]:
        """Runs of text, each with whether it is trained."""
        from swift.templates.preview import trained_spans

        return trained_spans(self.encoded, self.tokenizer)


@dataclass(frozen=True)
class Counts:
    """How much there is to do.

    Attributes:
        rows: rows of the data.
        samples: samples that come of them.
        packs: packs that the samples lie in, with packing.
        longest: tokens of the longest sample.
        tokens: tokens of all samples.
        trained_tokens: those of them that carry loss.
        steps: optimizer steps.
        trainable: values that are trained.
        parameters: values of the whole model.
    """

    rows: int | None = None
    samples: int | None = None
    packs: int | None = None
    longest: int | None = None
    tokens: int | None = None
    trained_tokens: int | None = None
    steps: int | None = None
    trainable: int | None = None
    parameters: int | None = None


@dataclass
class RunPlan:
    """All that a dry run shows."""

    decisions: Decisions = field(default_factory=Decisions)
    memory: MemoryPlan | None = None
    available: int | None = None
    """Bytes that the device has free for the run."""
    counts: Counts = field(default_factory=Counts)
    remarks: list[str] = field(default_factory=list)
    """What was left out and why, and other counted warnings."""
    previews: list[Preview] = field(default_factory=list)


def show_dry_run(plan: RunPlan, *, format: Literal["text", "json"], stream: TextIO) -> None:
    """Print a plan; colours only on a terminal and without NO_COLOR (no-color.org)."""
    lines = json_lines(plan) if format == "json" else text_lines(plan, colour=wants_colour(stream))
    for line in lines:
        print(line, file=stream)


def wants_colour(stream: TextIO) -> bool:
    """Whether this stream shows colours."""
    return not os.environ.get("NO_COLOR") and stream.isatty()


def json_lines(plan: RunPlan) -> Iterator[str]:
    """The plan as JSON, an object a line, told apart by `kind`."""
    for decision in plan.decisions:
        yield _json(
            "decision", name=decision.name, value=decision.value, origin=decision.origin, reason=decision.reason
        )
    yield _json("counts", **vars(plan.counts))
    for remark in plan.remarks:
        yield _json("remark", text=remark)
    if plan.memory is not None:
        memory = plan.memory
        yield _json(
            "memory",
            device=memory.device,
            total=memory.total,
            available=plan.available,
            parts=memory.parts,
            moment=memory.moment,
            notes=list(memory.notes),
        )
    for preview in plan.previews:
        spans = [{"text": text, "trained": trained} for text, trained in preview.spans()]
        encoded = preview.encoded
        yield _json(
            "row",
            source=str(encoded.source) if encoded.source else None,
            tokens=encoded.length,
            trained=encoded.trained,
            spans=spans,
            **({} if encoded.target is None else {"target": encoded.target.tolist()}),
        )


def text_lines(plan: RunPlan, *, colour: bool) -> Iterator[str]:
    """The plan for people."""
    yield from start_lines(plan)
    if plan.memory is not None:
        yield from [*memory_lines(plan.memory, plan.available), ""]
    for number, preview in enumerate(plan.previews, start=1):
        yield from [*_preview_lines(number, preview, colour=colour), ""]


def start_lines(plan: RunPlan) -> Iterator[str]:
    """The head of a plan and of a run: what was chosen, and how much there is to do."""
    if len(plan.decisions):
        yield from ["Chosen for this run", *plan.decisions.table(), ""]
    counted = [*_count_lines(plan.counts), *(f"  {remark}" for remark in plan.remarks)]
    if counted:
        yield from ["To do", *counted, ""]


def memory_lines(memory: MemoryPlan, available: int | None = None) -> Iterator[str]:
    """The planned peak by part, each with a bar of its share."""
    room = "" if available is None else f" of {human_bytes(available)} free"
    yield f"Planned memory on {memory.device}: {human_bytes(memory.total)}{room}, fullest in {memory.moment}"
    for name, size in memory.parts.items():
        share = size / memory.total if memory.total else 0
        yield f"  {name:<12} {human_bytes(size):>10}  {share:>4.0%}  {'█' * round(share * BAR_WIDTH)}".rstrip()
    if available is not None and memory.total > available:
        yield f"  does not fit: {human_bytes(memory.total - available)} too much"
    for note in memory.notes:
        yield f"  {note}"


def planned_against_measured(planned: int, measured: int) -> str:
    """The line at the end of a run."""
    ratio = f" ({planned / measured:.2f} of it)" if measured else ""
    return f"Memory at the peak: {human_bytes(measured)} measured, {human_bytes(planned)} planned{ratio}"


def human_bytes(size: int) -> str:
    """A number of bytes with a binary unit: 1536 is 1.5 KiB."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _count_lines(counts: Counts) -> Iterator[str]:
    for name in ("rows", "samples", "packs", "longest", "steps"):
        number = getattr(counts, name)
        if number is not None:
            yield f"  {name:<12} {number:,}"
    if counts.tokens is not None:
        share = ""
        if counts.trained_tokens is not None and counts.tokens:
            share = f", {counts.trained_tokens:,} trained ({counts.trained_tokens / counts.tokens:.1%})"
        yield f"  {'tokens':<12} {counts.tokens:,}{share}"
    if counts.trainable is not None:
        share = ""
        if counts.parameters:
            share = f" of {counts.parameters:,} ({counts.trainable / counts.parameters:.2%})"
        yield f"  {'trainable':<12} {counts.trainable:,}{share}"


def _preview_lines(number: int, preview: Preview, *, colour: bool) -> Iterator[str]:
    encoded = preview.encoded
    origin = f" ({encoded.source})" if encoded.source else ""
    how = "green" if colour else f"{OPEN}…{CLOSE}"
    trained = f"{encoded.trained} trained ({how})"
    if encoded.target is not None:
        trained = f"target {' '.join(f'{value:g}' for value in encoded.target)}"
    yield f"Row {number}{origin}: {encoded.length} tokens, {trained}"
    if colour:
        from swift.templates.preview import coloured

        yield coloured(encoded, preview.tokenizer)
    else:
        yield "".join(f"{OPEN}{text}{CLOSE}" if trained else text for text, trained in preview.spans())


def _json(kind: str, **values: Any) -> str:
    return json.dumps({"kind": kind, **values}, ensure_ascii=False, default=str)
