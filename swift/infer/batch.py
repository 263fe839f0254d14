"""Answers to a data set: all checks first, then the model, then lines of JSON."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.config.commands import InferConfig
from swift.config.data import DataConfig
from swift.engines import Engine, InferRequest, RequestConfig, Response
from swift.engines.prompts import read_prompt
from swift.engines.questions import Question, question_of
from swift.errors import SwiftError
from swift.infer.results import ResultFile
from swift.models.source import ModelSource
from swift.tasks.wording import answer_figures
from swift.templates.media import MediaReader

if TYPE_CHECKING:
    from rich.progress import Progress, Task

    from swift.data import Dropped, RowSet
    from swift.templates import Template

SAME = ("columns", "disable_auto_column_mapping", "custom_dataset_info", "strict", "model_name", "model_author")
"""Options of the data that mean here what they mean in training."""


@dataclass
class Batch:
    """Checked rows and the file that their answers go to."""

    questions: list[Question]
    results: ResultFile
    config: RequestConfig
    block: int
    metric: str | None = None
    tokens: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def nothing_left(self) -> bool:
        """Whether the file holds every answer already; says so."""
        if self.results.todo:
            return False
        print(f"{self.results.path} holds the answers to all {len(self.questions)} rows already", file=sys.stderr)
        self.compare()
        return True

    def run(self, engine: Engine) -> int:
        """Answer what is not answered yet; what is done when it breaks off is written."""
        todo = self.results.todo
        done = len(self.questions) - len(todo)
        if done:
            print(f"{done} rows are answered in {self.results.path}; {len(todo)} are left", file=sys.stderr)
        began = time.monotonic()
        try:
            with _progress() as progress:
                task = progress.add_task("rows", total=len(self.questions), completed=done, tokens=0)
                for start in range(0, len(todo), self.block):
                    self._answer(engine, todo[start : start + self.block], progress, task)
        finally:
            self._tell(time.monotonic() - began)
        self.compare()
        return 0

    def compare(self) -> None:
        """Say how near all answers of the file come to those of the rows, where a metric is asked for."""
        if self.metric is None:
            return
        lines = [json.loads(line) for line in self.results.path.read_text(encoding="utf-8").splitlines()]
        answers = [(line["response"] or "", line["labels"]) for line in lines if line["labels"] is not None]
        figures = answer_figures(self.metric, answers)
        told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items()) or "no row has an answer"
        print(f"{told} ({len(answers)} rows with an answer)", file=sys.stderr)

    def _answer(self, engine: Engine, places: list[int], progress: Progress, task: Any) -> None:
        answers: dict[int, Response] = {}

        def take(number: int, response: Response) -> None:
            answers[number] = response
            self.tokens += response.usage.completion_tokens
            self.reasons[response.choices[0].finish_reason] += 1
            progress.update(task, advance=1, tokens=self.tokens)

        requests = [self.questions[place].request for place in places]
        try:
            if self.config.stream:
                self._stream(engine, requests, take)
            else:
                engine.infer(requests, self.config, on_response=take)
        finally:
            lines = [result_line(self.questions[places[number]], answers[number]) for number in sorted(answers)]
            self.results.write(lines)

    def _stream(self, engine: Engine, requests: list[InferRequest], take: Any) -> None:
        for number, request in enumerate(requests):
            for delta in engine.stream(request, self.config):
                print(delta.text, end="", flush=True)
                if delta.response is not None:
                    take(number, delta.response)
            print(flush=True)

    def _tell(self, seconds: float) -> None:
        rows = sum(self.reasons.values())
        ends = ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
        print(
            f"{rows} rows answered ({ends or 'none'}): {self.tokens} tokens in {seconds:.1f} s, "
            f"{self.tokens / max(seconds, 1e-9):.0f} tokens/s; {self.results.path}",
            file=sys.stderr,
        )


def read_rows(config: InferConfig) -> RowSet | None:
    """The rows to answer; None for a conversation.

    Raises:
        SwiftError: a file is not there, or no row can be used.
    """
    from swift.data import load_rows

    if not config.batch.val_dataset:
        return None
    rows = load_rows(
        config.batch.val_dataset,
        DataConfig(**{name: getattr(config.batch, name) for name in SAME}),
        seed=config.generate.seed,
        shuffle=config.batch.val_dataset_shuffle,
        use_hf=config.model.use_hf,
        hub_token=config.model.hub_token,
        option="val_dataset",
        answers=False,
        stop=False,
    )
    most = config.batch.val_dataset_sample
    return rows if most is None else replace(rows, rows=rows.rows[:most])


def prepare(
    config: InferConfig, source: ModelSource, template: Template, request_config: RequestConfig, rows: RowSet
) -> Batch:
    """Tokenise the rows and open the result file: all that can go wrong before the model is loaded.

    Raises:
        SwiftError: rows that cannot be answered, or a result file that cannot be written or continued.
    """
    context = config.generate.max_length or source.limit
    reader = MediaReader.find(source.path, template, trust_remote_code=config.model.trust_remote_code)

    def encode(request: InferRequest) -> list[int] | tuple[list[int], str]:
        ids, media = read_prompt(template, request, context, reader)
        return ids if media is None else (ids, media.digest())

    return open_batch(
        config,
        request_config,
        rows,
        encode,
        settings=settings_of(config, source),
        path=default_path(source),
    )


def open_batch(
    config: InferConfig,
    request_config: RequestConfig,
    rows: RowSet,
    encode: Callable[[InferRequest], Any],
    *,
    settings: list[Any],
    path: Path,
) -> Batch:
    """Check the rows and open the result file.

    Args:
        encode: what is asked with a request, of which its answer depends.
        settings: what else all answers depend on, besides the request's parameters.
        path: the result file where none is named.

    Raises:
        SwiftError: rows that cannot be answered, or a result file that cannot be written or continued.
    """
    questions = [question_of(row, place) for row, place in rows.rows]
    questions, asked = encode_all(questions, encode, rows.dropped, strict=config.batch.strict)
    for question, key in zip(questions, keys_of(asked, request_config, settings), strict=True):
        question.key = key
    path = Path(config.batch.result_path).expanduser() if config.batch.result_path else path
    results = ResultFile(path, [question.key for question in questions])
    return Batch(questions, results, request_config, config.batch.write_batch_size, config.batch.metric)


def encode_all(
    questions: list[Question], encode: Callable[[InferRequest], Any], dropped: Sequence[Dropped], *, strict: bool
) -> tuple[list[Question], list[Any]]:
    """The questions that can be answered, and what is asked with them; says which rows are left out.

    Raises:
        SwiftError: some rows cannot be read or answered (strict); it names the first of each kind.
    """
    from swift.data import Dropped

    kept, asked, bad = [], [], list(dropped)
    for question in questions:
        try:
            asked.append(encode(question.request))
        except SwiftError as error:
            bad.append(Dropped(question.source, error.what))
        else:
            kept.append(question)
    leave_out(bad, len(questions) + len(dropped), stop=strict or not kept)
    return kept, asked


def leave_out(bad: Sequence[Dropped], rows: int, *, stop: bool) -> None:
    """Say which rows are left out.

    Args:
        bad: those that cannot be read or answered.
        rows: how many were looked at.
        stop: stop where there are some.

    Raises:
        SwiftError: `stop`, and there are; it names the first of each kind.
    """
    from swift.data import by_reason
    from swift.data.drops import stop_at

    if stop:
        stop_at(bad, rows, fix="mend these rows; --strict false leaves them out")
    for reason, count in by_reason(bad):
        print(f"{count:,} left out: {reason}", file=sys.stderr)


def keys_of(asked: Sequence[Any], request_config: RequestConfig, settings: list[Any]) -> list[str]:
    """A key for each row, of all that its answer depends on: what is asked, parameters, settings."""
    parameters = asdict(request_config)
    parameters.pop("stream")
    shared = json.dumps([parameters, *settings], default=str)
    return [hashlib.sha256(f"{shared}{each}".encode()).hexdigest()[:16] for each in asked]


def settings_of(config: InferConfig, source: ModelSource) -> list[Any]:
    """What all answers of a model depend on: its weights, how they are loaded, and the engine."""
    weights = []
    for folder in (source.path, *source.adapters):
        files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
        weights.append([str(folder), *((file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files)])
    loading = [config.model.torch_dtype, config.model.model_kwargs, config.generate.max_length]
    return [weights, loading, config.batch.infer_backend]


def default_path(source: ModelSource) -> Path:
    """A new file in infer_result/ of the checkpoint's folder, or of this one where there is no checkpoint."""
    is_checkpoint = bool(source.adapters or source.record.config)
    folder = source.record.folder if is_checkpoint else Path.cwd()
    return folder / "infer_result" / time.strftime("%Y%m%d-%H%M%S.jsonl")


def result_line(question: Question, response: Response) -> dict[str, Any]:
    """One line of the result file."""
    choice = response.choices[0]
    line: dict[str, Any] = {
        "response": choice.message.content,
        "labels": question.labels,
        "messages": [*question.request.messages, choice.message.to_message()],
        "finish_reason": choice.finish_reason,
        "usage": asdict(response.usage),
        "source": str(question.source),
        "key": question.key,
    }
    if question.request.tools:
        line["tools"] = question.request.tools
    if question.extra:
        line["extra"] = question.extra
    return line


def _progress() -> Progress:
    """A bar with tokens/s on stderr; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    class Speed(ProgressColumn):
        def render(self, task: Task) -> str:
            return f"{task.fields['tokens'] / max(task.elapsed or 0, 1e-9):.0f} tokens/s"

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
