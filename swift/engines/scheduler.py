"""Continuous batching: one thread runs the model, and answers join and leave its batch at any token.

The batch is one padded cache of keys and values in which all rows end together, so that a step is one call of the
model with a token of each row, on any device and for any architecture whose memory are keys and values. Prompts are
read in portions between the steps, so that a long one holds up nobody. What cannot be batched so (a beam search, a
prompt with media, a model with another kind of memory) runs through `generate` in batches that begin and end together.
"""

from __future__ import annotations

import atexit
import inspect
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Cache

from swift.engines.answers import Answer, fail
from swift.engines.cache import join, length_of, new_cache, select
from swift.engines.prefixes import Prefixes
from swift.engines.sampling import pick
from swift.engines.threads import release_threads
from swift.errors import SwiftError

PORTION = {"cpu": 512}
"""Tokens of prompts that are read between two steps, by device."""
PORTION_ELSEWHERE = 8192
STOP_SECONDS = 60.0
"""The longest wait for a step at the end of the process."""
_ALIVE: weakref.WeakSet[Scheduler] = weakref.WeakSet()


class Adapters(Protocol):
    """The adapters on a model, of which each answer may name one."""

    def together(self, one: str | None, other: str | None) -> bool:
        """Whether answers of these two can be in one batch."""
        ...

    def forward(self, names: Sequence[str | None], **inputs: Any) -> Any:
        """Call the model with each row's adapter."""
        ...

    def only(self, name: str | None) -> Any:
        """A context in which this one acts alone."""
        ...


@dataclass
class Batch:
    """Rows under way.

    Attributes:
        mask: int64[rows, width], 0 where a row is padded.
    """

    answers: list[Answer]
    cache: Cache
    mask: torch.Tensor


@dataclass
class Reading:
    """Prompts whose tokens are being read.

    Attributes:
        rows: the place of each answer's prompt among the different prompts.
    """

    answers: list[Answer]
    rows: list[int]
    ids: torch.Tensor
    mask: torch.Tensor
    done: int = 0
    cache: Cache = field(default_factory=new_cache)


class Scheduler:
    """Gives each answer its tokens, in a thread of its own that ends when there is nothing to do.

    Args:
        model: whose `forward` and `config` these are.
        adapters: call it.
        max_batch_size: rows of the batch.
        pad_id: a token for places that nobody looks at.
        generate: answers a batch that begins and ends together.
        batches: whether the model's memory are keys and values alone.
        around: makes the context in which the model is called.
        solo: whether rows of one call change each other, so that each answer has a call of its own.
        prefix_room: bytes for the beginnings of earlier conversations; None means what suits the device.
    """

    def __init__(
        self,
        model: Any,
        adapters: Adapters,
        *,
        max_batch_size: int,
        pad_id: int,
        generate: Callable[[list[Answer]], None],
        batches: bool,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
        prefix_room: int | None = None,
        solo: bool = False,
    ) -> None:
        self.model, self.adapters, self.max_batch_size = model, adapters, max_batch_size
        self._pad_id, self._generate, self._batches, self._around = pad_id, generate, batches, around
        self._solo = solo
        parameters = inspect.signature(model.forward).parameters
        self._takes = {name for name in ("position_ids", "logits_to_keep") if name in parameters}
        # Transformers 5 renames it.
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._portion = PORTION.get(model.device.type, PORTION_ELSEWHERE)
        self._waiting: deque[Answer] = deque()
        self._lock = threading.Lock()
        self.prefixes = Prefixes(model.device, room=prefix_room)
        self._thread: threading.Thread | None = None
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._batch: Batch | None = None
        self._reading: Reading | None = None

    def submit(self, answers: Sequence[Answer]) -> None:
        """Queue answers; those before them come first."""
        with self._lock:
            self._waiting.extend(answers)
            self._wake()

    def call(self, function: Callable[[], Any]) -> Any:
        """What a function gives that is called between two steps, when nobody else uses the model."""
        done: Future[Any] = Future()
        with self._lock:
            self._calls.append((function, done))
            self._wake()
        return done.result()

    def uses(self, adapter: str) -> int:
        """How many answers, under way or waiting, have this adapter; to be asked by `call`."""
        groups = [group.answers for group in (self._batch, self._reading) if group is not None]
        with self._lock:
            everybody = [answer for group in (*groups, self._waiting) for answer in group]
        return sum(answer.adapter == adapter and not answer.over for answer in everybody)

    def stop(self) -> None:
        """Let go of all answers, and wait for the thread: the interpreter must not end under it."""
        with self._lock:
            groups = [group.answers for group in (self._batch, self._reading) if group is not None]
            for answer in [answer for group in (*groups, self._waiting) for answer in group]:
                answer.ticket.cancel()
            thread = self._thread
        if thread is not None:
            thread.join(STOP_SECONDS)

    def _wake(self) -> None:
        if self._thread is None:
            release_threads()
            _ALIVE.add(self)
            self._thread = threading.Thread(target=self._work, name="swift-generate", daemon=True)
            self._thread.start()

    @property
    def waiting(self) -> int:
        """Answers that have not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers under way."""
        return sum(len(group.answers) for group in (self._batch, self._reading) if group is not None)

    def _work(self) -> None:
        try:
            with torch.no_grad(), _kernels(self.model.device), self._around():
                while self._turn():
                    pass
        except BaseException as error:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        """The thread ends before its work is done: tell everybody, so that nobody waits for ever."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
            calls, self._calls = self._calls, deque()
            self._thread = None
        groups = [group.answers for group in (self._batch, self._reading) if group is not None]
        self._batch = self._reading = None
        fail([answer for group in (*groups, waiting) for answer in group], error)
        for _, done in calls:
            done.set_exception(error)

    def _turn(self) -> bool:
        """One portion of prompts and one token of each row; False where nothing is left."""
        with self._lock:
            self._waiting = deque(answer for answer in self._waiting if not answer.over)
            calls, self._calls = self._calls, deque()
            if not (self._waiting or self._batch or self._reading or calls):
                self._thread = None
                return False
        try:
            self._leave()
            for function, done in calls:
                _run(function, done)
            left = self._portion
            while left > 0 and (self._reading is not None or self._admit()):
                left -= self._read(left)
            if self._batch is not None:
                self._step(self._batch)
        except Exception as error:
            self._drop(error)
        return True

    def _drop(self, error: Exception) -> None:
        """Tell everybody under way; who waits gets a turn."""
        groups = [group for group in (self._batch, self._reading) if group is not None]
        self._batch = self._reading = None
        answers = [answer for group in groups for answer in group.answers]
        if isinstance(error, torch.OutOfMemoryError):
            error = SwiftError(
                f"{len(answers)} answers at once do not fit into the device's memory",
                fix="lower --max_batch_size or --max_new_tokens",
            )
        fail(answers, error)

    def _leave(self) -> None:
        batch = self._batch
        if batch is None or not any(answer.over for answer in batch.answers):
            return
        self._remember(batch)
        rows = [row for row, answer in enumerate(batch.answers) if not answer.over]
        if not rows:
            self._batch = None
            return
        mask = batch.mask[rows]
        start = int(mask.argmax(dim=1).min())
        self._batch = Batch([batch.answers[row] for row in rows], select(batch.cache, rows, start), mask[:, start:])

    def _remember(self, batch: Batch) -> None:
        """Keep what is known of the conversations that end."""
        for row, answer in enumerate(batch.answers):
            if answer.over:
                # The last token is not read yet, unless the answer was cancelled while it was.
                tokens = [*answer.prompt, *answer.token_ids][: int(batch.mask[row].sum())]
                self.prefixes.keep(answer.adapter, tokens, batch.cache, row, batch.mask.shape[1] - len(tokens))

    def _admit(self) -> bool:
        """Begin to read the next prompts: as many as the batch has room for and a portion holds, or one long one.

        Returns whether there is something to read now.
        """
        running = self._batch.answers if self._batch is not None else []
        chosen: list[Answer] = []
        with self._lock:
            while self._waiting and len(running) + len(chosen) < self.max_batch_size:
                if not self._fits(self._waiting[0], running, chosen):
                    break
                chosen.append(self._waiting.popleft())
                if self._alone(chosen[0]):
                    break
        if chosen and self._alone(chosen[0]):
            self._run_alone(chosen)
        elif chosen:
            self._reading = self._reading_of(chosen)
        return self._reading is not None

    def _alone(self, answer: Answer) -> bool:
        """Whether an answer goes through `generate`."""
        return not self._batches or answer.picker is None or answer.ticket.media is not None

    def _fits(self, answer: Answer, running: list[Answer], chosen: list[Answer]) -> bool:
        others = [*running, *chosen]
        if self._alone(answer):
            return not others
        if not all(self.adapters.together(other.adapter, answer.adapter) for other in others):
            return False
        # A prompt whose beginning is known is read by itself, for all that ask it.
        if chosen and not _same(chosen[0], answer) and (self._known(answer) or self._known(chosen[0])):
            return False
        different = {tuple(other.prompt) for other in (*chosen, answer)}
        return len(different) == 1 or len(different) * max(map(len, different)) <= self._portion

    def _run_alone(self, chosen: list[Answer]) -> None:
        """Answer the first and those that wait behind it and can be batched with it."""
        first = chosen[0]
        with self._lock:
            later: deque[Answer] = deque()
            for answer in self._waiting:
                alike = self._alone(answer) and _key(answer) == _key(first)
                # Memory of another kind has no mask for padding.
                same = self._batches or len(answer.prompt) == len(first.prompt)
                room = len(chosen) < (1 if self._solo else self.max_batch_size)
                (chosen if alike and same and room else later).append(answer)
            self._waiting = later
        self._batch = None
        try:
            with self.adapters.only(first.adapter):
                self._generate(chosen)
        except Exception as error:
            fail(chosen, error)

    def _reading_of(self, answers: list[Answer]) -> Reading:
        """Equal prompts are read once."""
        places: dict[tuple[Any, ...], int] = {}
        rows = [places.setdefault((answer.adapter, *answer.prompt), len(places)) for answer in answers]
        firsts = [answers[rows.index(place)] for place in range(len(places))]
        width = max(len(answer.prompt) for answer in firsts)
        ids = torch.full((len(firsts), width), self._pad_id)
        mask = torch.zeros_like(ids)
        for row, answer in enumerate(firsts):
            ids[row, width - len(answer.prompt) :] = torch.tensor(answer.prompt)
            mask[row, width - len(answer.prompt) :] = 1
        if len(firsts) > 1:
            return Reading(answers, rows, ids, mask)
        known = self._known(answers[0])
        return Reading(answers, rows, ids, mask, known, self.prefixes.take(answers[0].adapter, answers[0].prompt))

    def _known(self, answer: Answer) -> int:
        return self.prefixes.known(answer.adapter, answer.prompt)

    def _read(self, most: int) -> int:
        """Read up to so many tokens; with the last of them each answer gets its first token and joins the batch.

        Returns how many were read.
        """
        reading = self._reading
        assert reading is not None
        if all(answer.over for answer in reading.answers):
            self._reading = None
            return 0
        # Several prompts fit into a portion, and a row that is all padding has nothing to attend to.
        end = reading.ids.shape[1] if len(reading.ids) > 1 else min(reading.ids.shape[1], reading.done + most)
        positions = (reading.mask.cumsum(dim=1) - 1).clamp(min=0)[:, reading.done : end]
        names = [reading.answers[reading.rows.index(row)].adapter for row in range(len(reading.ids))]
        ids, mask = reading.ids[:, reading.done : end], reading.mask[:, :end]
        logits = self._forward(names, ids, mask, positions, reading.cache)
        reading.done = end
        if end < reading.ids.shape[1]:
            return ids.numel()
        cache, logits, mask = reading.cache, logits[reading.rows], reading.mask[reading.rows]
        if reading.rows != list(range(len(reading.ids))):
            cache = select(cache, reading.rows)
        new = Batch(reading.answers, cache, mask)
        self._push(new, logits)
        self._reading = None
        self._batch = new if self._batch is None else _joined(self._batch, new)
        self._leave()
        return ids.numel()

    def _step(self, batch: Batch) -> None:
        """The next token of each row."""
        rows = len(batch.answers)
        ids = torch.tensor([[answer.token_ids[-1]] for answer in batch.answers])
        positions = torch.tensor([[len(answer.prompt) + len(answer.token_ids) - 1] for answer in batch.answers])
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(rows, 1)], dim=1)
        names = [answer.adapter for answer in batch.answers]
        self._push(batch, self._forward(names, ids, batch.mask, positions, batch.cache))

    def _push(self, batch: Batch, logits: torch.Tensor) -> None:
        pickers = [answer.picker for answer in batch.answers if answer.picker is not None]
        tokens, logprobs = pick(logits, pickers)
        for answer, token, logprob in zip(batch.answers, tokens, logprobs, strict=True):
            if answer.over:
                continue
            try:
                answer.push(token, logprob)
            except Exception as error:
                # What goes wrong in one answer's text, or with who listens to it, is nobody else's affair.
                answer.ticket.cancel()
                fail([answer], error)

    def _forward(
        self, names: list[str | None], ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """The logits [rows, vocabulary] of the last place."""
        device = self.model.device
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device), self._cache_name: cache}
        if "position_ids" in self._takes:
            inputs["position_ids"] = positions.to(device)
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = 1
        return self.adapters.forward(names, use_cache=True, return_dict=True, **inputs).logits[:, -1]


def _kernels(device: torch.device) -> AbstractContextManager[Any]:
    """Attention without cuDNN, which makes a plan for each new shape and thread: here every step has a new one."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


@atexit.register
def _stop_all() -> None:
    for scheduler in list(_ALIVE):
        scheduler.stop()


def _run(function: Callable[[], Any], done: Future[Any]) -> None:
    try:
        done.set_result(function())
    except Exception as error:
        done.set_exception(error)


def _same(one: Answer, other: Answer) -> bool:
    return one.adapter == other.adapter and one.prompt == other.prompt


def _joined(one: Batch, other: Batch) -> Batch:
    cache = join([one.cache, other.cache])
    width = length_of(cache)
    mask = torch.zeros(len(one.answers) + len(other.answers), width, dtype=one.mask.dtype)
    at = 0
    for part in (one.mask, other.mask):
        mask[at : at + len(part), width - part.shape[1] :] = part
        at += len(part)
    return Batch([*one.answers, *other.answers], cache, mask)


def _key(answer: Answer) -> tuple[Any, ...]:
    """What answers of one call of `generate` have in common; where a picker chooses, its parameters are its own."""
    config = answer.ticket.config
    beams = (config.num_beams, config.repetition_penalty) if answer.picker is None else ()
    request = None if answer.ticket.media is None else id(answer.ticket)
    return (answer.adapter, request, answer.picker is None, config.ignore_eos, *beams)
