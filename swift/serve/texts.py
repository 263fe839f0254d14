"""Models that give one thing for a whole text: texts of different clients share a batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from swift.engines.texts import TextEngine
from swift.rows import EncodedRow
from swift.serve.errors import ApiError

Waiting = tuple[EncodedRow, "asyncio.Future[np.ndarray]"]


@dataclass
class TextModel:
    """A model of texts.

    Attributes:
        engine: runs it.
        activation: scores of rerankers are probabilities, not logits.
    """

    engine: TextEngine
    activation: bool = True

    def __post_init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="swift-texts")

    @property
    def kind(self) -> str:
        """The name of its task."""
        return self.engine.task.name

    @property
    def load(self) -> None:
        """Its batches are too short for figures."""
        return

    async def outputs(self, samples: Sequence[EncodedRow]) -> list[np.ndarray]:
        """What the model gives for each, float32[n]; a caller that is cancelled takes its texts along.

        Raises:
            SwiftError: they do not fit into the device's memory.
        """
        loop = asyncio.get_running_loop()
        found = [loop.create_future() for _ in samples]
        self._waiting.extend(zip(samples, found, strict=True))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        try:
            return list(await asyncio.gather(*found))
        finally:
            for future in found:
                future.cancel()

    async def _work(self) -> None:
        while self._waiting:
            batch: list[Waiting] = []
            while self._waiting and len(batch) < self.engine.max_batch_size:
                sample, future = self._waiting.popleft()
                if not future.done():
                    batch.append((sample, future))
            try:
                outputs = await asyncio.get_running_loop().run_in_executor(self._pool, self._run, batch)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for place, (_, future) in enumerate(batch):
                if not future.done():
                    future.set_result(outputs[place])

    def _run(self, batch: list[Waiting]) -> dict[int, np.ndarray]:
        return dict(self.engine.outputs([sample for sample, _ in batch]))


def text_model(service: Any, *kinds: str) -> TextModel:
    """The service's model of texts.

    Raises:
        ApiError: its task is none of these.
    """
    model: TextModel = service.engine
    if model.kind not in kinds:
        raise ApiError(400, f"this model's task is {model.kind}; this endpoint is for {' and '.join(kinds)}")
    return model
