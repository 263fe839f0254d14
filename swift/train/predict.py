"""Evaluation by answers: the model in training answers the rows for evaluation, and what it says is compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from swift.config import Decisions, SftConfig
from swift.engines import RequestConfig
from swift.engines.prompts import encode_prompt
from swift.engines.questions import Question, question_of
from swift.errors import SwiftError
from swift.tasks.wording import answer_figures
from swift.train import distributed

if TYPE_CHECKING:
    from swift.models.source import ModelSource
    from swift.templates import Template
    from swift.train.live import StreamRows
    from swift.train.tokenised import RunRows

PREDICTIONS = "predict.jsonl"


class Measure(Protocol):
    """What evaluation measures besides the loss."""

    def figures(self, model: Any, step: int, around: Callable[[], AbstractContextManager[Any]]) -> dict[str, float]:
        """Figures of the unwrapped model after so many steps; `around` is the context that it computes in."""
        ...


def check_predict(config: SftConfig) -> None:
    """Stop where there are no rows to answer, before one is read.

    Raises:
        SwiftError: it names the option.
    """
    from swift.train.arguments import eval_strategy

    if not config.predict.predict_with_generate:
        return
    if config.data.cached_dataset or config.data.cached_val_dataset:
        raise SwiftError(
            "--predict_with_generate: rows that swift prepare tokenised hold no questions any more",
            fix="name the rows themselves: --dataset with --val_dataset or --split_dataset_ratio",
        )
    if eval_strategy(config) == "no":
        raise SwiftError(
            "--predict_with_generate: there is no evaluation",
            fix="add --val_dataset or --split_dataset_ratio 0.05, and leave --eval_strategy no out",
        )


def read_questions(
    config: SftConfig, source: ModelSource, template: Template, reader: RunRows | StreamRows, decisions: Decisions
) -> list[Question]:
    """The questions of the rows for evaluation; none where evaluation does not answer them.

    Raises:
        SwiftError: none of the rows can be asked and has an answer to compare with.
    """
    if not config.predict.predict_with_generate:
        return []
    rows = reader.held_rows()
    questions: list[Question] = []
    problem: SwiftError | None = None
    for question in (question_of(*placed) for placed in (rows.rows if rows else [])):
        if not (question.labels or "").strip():
            continue
        try:
            encode_prompt(template, question.request, source.limit)
        except SwiftError as error:
            problem = SwiftError(error.what, where=str(question.source), fix=error.fix)
        else:
            questions.append(question)
    if not questions:
        raise problem or SwiftError(
            "--predict_with_generate: no row for evaluation has an answer of text to compare with",
            fix="leave it out, or name other rows with --val_dataset",
        )
    left_out = len(rows.rows if rows else []) - len(questions)
    asked = f"{len(questions)} rows" + (f", {left_out} without a question or an answer of text" if left_out else "")
    decisions.add("predict_with_generate", asked, "flag", f"at most {config.predict.max_new_tokens} tokens each")
    return questions


class Predictions:
    """Lets a model answer questions, all processes together, and measures the answers.

    Args:
        questions: of all processes.
        template: renders them and reads the answers.
        request: how answers are generated.
        batch_size: answers that one process generates at once.
        file: gets a line for each answer; lines of this step and later ones are replaced.
    """

    def __init__(
        self, questions: list[Question], template: Template, request: RequestConfig, batch_size: int, file: Path
    ) -> None:
        self.questions, self.template, self.request = questions, template, request
        self.batch_size, self.file = batch_size, file

    def figures(self, model: Any, step: int, around: Callable[[], AbstractContextManager[Any]]) -> dict[str, float]:
        """rouge-1, rouge-2, rouge-l and bleu-4 in percent, and acc from 0 to 1.

        Args:
            model: the unwrapped model; it is left in eval mode, and nothing else of it changes.
            step: the number of steps done.
            around: makes the context in which the model computes in training.

        Raises:
            SwiftError: the answers do not fit into memory.
        """
        from accelerate.utils.memory import clear_device_cache

        from swift.engines import PtEngine

        engine = PtEngine((model, self.template), max_batch_size=self.batch_size, around=around)
        places = range(distributed.rank(), len(self.questions), distributed.world_size())
        responses = engine.infer([self.questions[place].request for place in places], self.request)
        engine.forget()
        messages = [response.choices[0].message for response in responses]
        own = {place: message.to_message() for place, message in zip(places, messages, strict=True)}
        answers: dict[int, Any] = {}
        for part in distributed.all_gather(own):
            answers |= part
        clear_device_cache()
        if distributed.is_main():
            self._write(answers, step)
        pairs = [(answers[place]["content"], question.labels or "") for place, question in enumerate(self.questions)]
        return answer_figures("rouge", pairs) | answer_figures("acc", pairs)

    def _write(self, answers: dict[int, Any], step: int) -> None:
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else []
        kept = [line for line in lines if json.loads(line)["step"] < step]
        for place, question in enumerate(self.questions):
            line = {
                "step": step,
                "response": answers[place]["content"],
                "labels": question.labels,
                "messages": [*question.request.messages, answers[place]],
                "source": str(question.source),
            }
            kept.append(json.dumps(line, ensure_ascii=False, default=str))
        temporary = self.file.with_name(f".{self.file.name}")
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8", errors="backslashreplace")
        temporary.replace(self.file)
