"""How answers are generated."""

from __future__ import annotations

from dataclasses import dataclass

from swift.config.fields import above, at_least, between, option


@dataclass
class SamplingConfig:
    """Options of how tokens are chosen and where an answer ends."""

    max_length: int | None = option(
        None,
        "Longest prompt with its answer; unset means the model's context.",
        unit="tokens",
        check=at_least(1),
    )
    max_new_tokens: int | None = option(
        None,
        "Longest answer; unset means what the model's context leaves, 2048 at most.",
        unit="tokens",
        check=at_least(1),
        aliases=("max_tokens",),
    )
    temperature: float | None = option(
        None, "0 is greedy; unset means the model's own generation config.", check=at_least(0)
    )
    top_k: int | None = option(None, "Sample among the k likeliest tokens.", check=at_least(0))
    top_p: float | None = option(None, "Sample among the tokens that make up this probability.", check=between(0, 1))
    repetition_penalty: float | None = option(None, "Above 1 makes repeated tokens less likely.", check=above(0))
    num_beams: int = option(1, "Beams of beam search.", check=at_least(1))
    stop_words: list[str] = option(help="Texts that end an answer; they are not part of it.", factory=list)


@dataclass
class GenerateConfig(SamplingConfig):
    """Options of generation."""

    stream: bool | None = option(None, "Print tokens as they come; unset means: in a conversation, not in a batch.")
    seed: int = option(42, "Seed of sampling.")
