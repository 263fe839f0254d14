"""Inference where a model gives one thing for a whole text: a line of JSON for each row, or for each line typed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swift.config.commands import InferConfig
from swift.config.decisions import Decisions
from swift.engines import RequestConfig
from swift.errors import SwiftError
from swift.infer.batch import default_path, keys_of, leave_out, read_rows, settings_of
from swift.infer.results import ResultFile
from swift.models.source import ModelSource
from swift.rows import EncodedRow, Row, Source
from swift.tasks.texts import TextTask

if TYPE_CHECKING:
    from swift.data import RowSet
    from swift.engines.texts import TextEngine


class Texts:
    """The texts of rows.

    Args:
        rows: the rows, with their places.
        samples: the texts of each.
    """

    def __init__(self, rows: list[tuple[Row, Source]], samples: list[list[EncodedRow]]) -> None:
        self.rows, self.samples = rows, samples
        self.outputs: dict[int, np.ndarray] = {}

    def run(self, engine: TextEngine, places: Sequence[int]) -> None:
        """Ask about the rows at these places."""
        texts = [(place, sample) for place in places for sample in self.samples[place]]
        found = dict(engine.outputs([sample for _, sample in texts]))
        for place in places:
            self.outputs[place] = np.stack([found[at] for at, (own, _) in enumerate(texts) if own == place])

    def line(self, task: TextTask, place: int, key: str) -> dict[str, Any]:
        """One line of the result file."""
        row, source = self.rows[place]
        line = {**task.told(self.outputs[place]), "labels": row.get("label"), "messages": row["messages"]}
        extra = {"extra": row["extra"]} if row.get("extra") else {}
        return {**line, **extra, "source": str(source), "key": key}

    def figures(self, task: TextTask) -> dict[str, float]:
        """How good the answers are; nothing where a row has no label."""
        samples = [sample for place in sorted(self.outputs) for sample in self.samples[place]]
        if not samples or any(sample.target is None for sample in samples):
            return {}
        outputs = np.concatenate([self.outputs[place] for place in sorted(self.outputs)])
        return task.measure(outputs, task.targets(samples).numpy())


def run(config: InferConfig, source: ModelSource, task: TextTask, decisions: Decisions) -> int:
    """Answer the rows of `--val_dataset`, or lines of the input.

    Raises:
        SwiftError: rows, result file, adapters or weights are not as they should be.
    """
    from swift.engines.texts import TextEngine, load_texts, open_texts

    rows = read_rows(config)
    template = open_texts(source, config, task, decisions, load_args=config.batch.load_args)
    longest = config.generate.max_length or source.limit
    ids_of = task.encoder(template, None).ids
    texts = None if rows is None else encode(rows, task, ids_of, longest, strict=config.batch.strict)
    results = None if texts is None else open_results(config, source, texts)
    if results is not None and not results.todo:
        print(f"{results.path} holds the answers to all {len(results.keys)} rows already", file=sys.stderr)
        return 0
    model = load_texts(source, config, task, template, decisions)
    engine = TextEngine((model, task, template), max_batch_size=config.batch.max_batch_size, max_length=longest)
    print("\n".join(decisions.table()), file=sys.stderr)
    if texts is None or results is None:
        return answer_lines(engine, ids_of)
    began = time.monotonic()
    for start in range(0, len(results.todo), config.batch.write_batch_size):
        places = results.todo[start : start + config.batch.write_batch_size]
        texts.run(engine, places)
        results.write(texts.line(task, place, results.keys[place]) for place in places)
    figures = "".join(f", {name} {value:.4f}" for name, value in texts.figures(task).items())
    seconds = time.monotonic() - began
    print(f"{len(results.todo)} rows answered in {seconds:.1f} s{figures}; {results.path}", file=sys.stderr)
    return 0


def encode(rows: RowSet, task: TextTask, ids_of: Any, longest: int | None, *, strict: bool) -> Texts:
    """The texts of rows that can be asked about; says which are left out.

    Raises:
        SwiftError: some cannot be read or asked about (strict); it names the first of each kind.
    """
    from swift.data import Dropped

    kept: list[tuple[Row, Source]] = []
    samples: list[list[EncodedRow]] = []
    bad: list[Dropped] = list(rows.dropped)
    for row, place in rows.rows:
        try:
            found = task.asked(row, ids_of)
        except SwiftError as error:
            bad.append(Dropped(place, error.what))
            continue
        if longest and max(sample.length for sample in found) > longest:
            bad.append(Dropped(place, f"a text has more tokens than the model takes, {longest}"))
            continue
        kept.append((row, place))
        samples.append(found)
    leave_out(bad, len(rows.rows) + len(rows.dropped), stop=strict or not kept)
    return Texts(kept, samples)


def open_results(config: InferConfig, source: ModelSource, texts: Texts) -> ResultFile:
    """The file of answers, gone on with where it has some."""
    prompts = [[token for sample in samples for token in sample.input_ids.tolist()] for samples in texts.samples]
    keys = keys_of(prompts, RequestConfig(), settings_of(config, source))
    path = Path(config.batch.result_path).expanduser() if config.batch.result_path else default_path(source)
    return ResultFile(path, keys)


def answer_lines(engine: TextEngine, ids_of: Any) -> int:
    """A line of JSON for each line of the input."""
    if sys.stdin.isatty():
        print("Type a text; an empty line or Ctrl-D ends.", file=sys.stderr)
    for line in sys.stdin:
        text = line.rstrip("\n")
        if not text:
            break
        row: Row = {"messages": [{"role": "user", "content": text}]}
        texts = Texts([(row, Source("input", 1))], [engine.task.asked(row, ids_of)])
        texts.run(engine, [0])
        print(json.dumps(engine.task.told(texts.outputs[0]), ensure_ascii=False), flush=True)
    return 0
