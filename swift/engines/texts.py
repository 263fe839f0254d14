"""Models that give one thing for a whole text: classes, scores, embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from swift.data import Layout
from swift.errors import SwiftError
from swift.models.tokenizer import pad_id
from swift.rows import EncodedRow

if TYPE_CHECKING:
    from swift.tasks.texts import TextTask


class TextEngine:
    """Runs texts through a model in this process, those of like length together, padded on the right.

    Args:
        model: the model, with its adapters.
        task: what it gives.
        tokenizer: pads.
        max_batch_size: texts at once.
    """

    def __init__(self, model: Any, task: TextTask, tokenizer: Any, max_batch_size: int = 8) -> None:
        self.model, self.task, self.max_batch_size = model.eval(), task, max_batch_size
        self.layout = Layout(pad_token_id=pad_id(tokenizer), padding_free=False)

    @torch.inference_mode()
    def outputs(self, samples: Sequence[EncodedRow]) -> Iterator[tuple[int, np.ndarray]]:
        """The place of each text and float32[n], what the model gives for it; the longest first."""
        order = sorted(range(len(samples)), key=lambda at: -samples[at].length)
        for start in range(0, len(order), self.max_batch_size):
            places = order[start : start + self.max_batch_size]
            batch = self.layout([samples[at] for at in places])
            del batch["labels"]
            inputs = {name: value.to(self.model.device) for name, value in batch.items()}
            try:
                found = self.task.forward(self.model, inputs).float().cpu().numpy()
            except torch.OutOfMemoryError as error:
                raise SwiftError(
                    f"{len(places)} texts of {samples[places[0]].length} tokens do not fit into the device's memory",
                    fix="lower --max_batch_size",
                ) from error
            yield from zip(places, found, strict=True)
