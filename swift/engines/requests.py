"""From options of generation to what an engine takes."""

from __future__ import annotations

from swift.config.generate import SamplingConfig
from swift.config.predict import PredictConfig
from swift.engines.base import RequestConfig


def sampling_request(
    config: SamplingConfig | PredictConfig, seed: int | None, *, stream: bool = False
) -> RequestConfig:
    """The parameters that the options name.

    Args:
        config: options of generation.
        seed: of sampling; None draws one.
        stream: whether the caller wants pieces.
    """
    return RequestConfig(
        max_tokens=config.max_new_tokens,
        # Beam search takes no temperature; 0 asks for nothing else.
        temperature=None if config.num_beams > 1 and config.temperature == 0 else config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        repetition_penalty=config.repetition_penalty,
        num_beams=config.num_beams,
        stop=list(config.stop_words),
        seed=seed,
        stream=stream,
    )
