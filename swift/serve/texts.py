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
from swift.errors import SwiftError
from swift.rows import EncodedRow, Message
from swift.serve.errors import ApiError
from swift.tasks.texts import IdsOf, text_sample

Waiting = tuple[EncodedRow, "asyncio.Future[np.ndarray]"]


@dataclass
class TextModel:
    """A model of texts.

    Attributes:
        engine: runs it.
        ids_of: gives the tokens of a conversation, or of one with a passage.
        context: longest text in tokens; None means any.
        activation: scores of rerankers are probabilities, not logits.
    """

    engine: TextEngine
    ids_of: IdsOf
    tokenizer: Any
    context: int | None = None
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

    def sample(self, text: str | list[int], passage: str | None = None) -> EncodedRow:
        """The tokens of a text, or of a question with a passage.

        Raises:
            SwiftError: it is too long, or an id is none of the tokenizer's.
        """
        if isinstance(text, list):
            most = len(self.tokenizer)
            if wrong := [token for token in text if not 0 <= token < most]:
                raise SwiftError(
                    f"{wrong[0]} is no token id: there are {most}", fix="give ids of this model's tokenizer"
                )
            ids = np.asarray(text, dtype=np.int32)
        elif passage is None:
            ids = self.ids_of(_turn(text))
        else:
            ids = self.ids_of(_turn(text), _turn(passage))
        if not len(ids):
            raise SwiftError("a text has no tokens", fix="give it some")
        if self.context is not None and len(ids) > self.context:
            raise SwiftError(f"a text has {len(ids)} tokens; the model takes {self.context}", fix="shorten it")
        return text_sample(ids)

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


def _turn(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def text_model(service: Any, *kinds: str) -> TextModel:
    """The service's model of texts.

    Raises:
        ApiError: its task is none of these.
    """
    model: TextModel = service.engine
    if model.kind not in kinds:
        raise ApiError(400, f"this model's task is {model.kind}; this endpoint is for {' and '.join(kinds)}")
    return model
