"""Answers that evaluation generates in a run."""

from __future__ import annotations

from dataclasses import dataclass

from swift.config.fields import above, at_least, between, option

PREDICT = ("predict_with_generate",)


@dataclass
class PredictConfig:
    """Options of evaluation by generated answers."""

    predict_with_generate: bool = option(
        False,
        "Let the model answer the rows for evaluation, and compare: rouge-1, rouge-2, rouge-l, bleu-4 (percent) and "
        "acc (the same text, 0 to 1) beside the loss; answers go to predict.jsonl, and the best checkpoint is that of "
        "the best rouge-l.",
    )
    max_new_tokens: int = option(
        64, "Longest answer in evaluation.", unit="tokens", check=at_least(1), aliases=("max_tokens",), needs=PREDICT
    )
    temperature: float = option(0.0, "0 is greedy.", check=at_least(0), needs=PREDICT)
    top_k: int | None = option(None, "Sample among the k likeliest tokens.", check=at_least(0), needs=PREDICT)
    top_p: float | None = option(
        None, "Sample among the tokens that make up this probability.", check=between(0, 1), needs=PREDICT
    )
    repetition_penalty: float | None = option(
        None, "Above 1 makes repeated tokens less likely.", check=above(0), needs=PREDICT
    )
    num_beams: int = option(
        1, "Beams of beam search.", check=at_least(1), aliases=("generation_num_beams",), needs=PREDICT
    )
    stop_words: list[str] = option(
        help="Texts that end an answer; they are not part of it.", factory=list, needs=PREDICT
    )
