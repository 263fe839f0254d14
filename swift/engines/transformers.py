"""The engine on a model in this process: any architecture, any device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationMixin, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from swift.compat import rope_of
from swift.config.decisions import Decisions
from swift.config.model import ModelConfig
from swift.engines.adapters import NamedAdapters
from swift.engines.answers import Answer, Ticket
from swift.engines.base import Delta, Engine, InferRequest, Listener, Logprob, RequestConfig, Scored
from swift.engines.cache import grows
from swift.engines.guides import Guides
from swift.engines.names import engine
from swift.engines.options import load_parts, load_source_model, read_options
from swift.engines.prompts import answer_limit, encode_scored, end_ids, read_prompt, with_stops
from swift.engines.sampling import OF_GENERATE, Picker, PickingProcessor, greedy_arguments, row_seed
from swift.engines.scheduler import Scheduler
from swift.engines.scores import score
from swift.engines.threads import release_threads
from swift.engines.weights import read_weights, replace_weights
from swift.errors import SwiftError
from swift.models.length import limit_of
from swift.models.source import ModelSource
from swift.templates.media import MediaReader, repeated

if TYPE_CHECKING:
    from swift.templates import Template


class _Watch(StoppingCriteria):
    """Hands each row's token to its answer, and ends the rows that are over."""

    def __init__(self, answers: list[Answer]) -> None:
        self._answers = answers
        self._logprobs: list[Logprob | None] = [None] * len(answers)

    def note(self, logprobs: list[Logprob | None]) -> None:
        """The log-probabilities of the tokens that come next."""
        self._logprobs = logprobs

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Token ids [rows, width + generated] -> which rows end here."""
        last = input_ids[:, -1].tolist()
        for answer, token, logprob in zip(self._answers, last, self._logprobs, strict=True):
            if not answer.over:
                answer.push(token, logprob)
        return torch.tensor([answer.over for answer in self._answers], device=input_ids.device)


class _Cancelled(StoppingCriteria):
    """Ends a beam search that nobody waits for any more."""

    def __init__(self, answers: list[Answer]) -> None:
        self._answers = answers

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Token ids [rows * beams, width + generated] -> which of them end here."""
        over = all(answer.over for answer in self._answers)
        return torch.full((input_ids.shape[0],), over, device=input_ids.device)


@engine("pt")
@engine("transformers")
class PtEngine(Engine):
    """Answers with a model in this process, batched continuously.

    A greedy answer is the same alone and in a batch, up to the rounding of the device. A sampled one has a seed of its
    own, made of the config's seed, the prompt and the choice's number, so it does not depend on its neighbours either.

    Args:
        model: a model's name or folder, or a loaded `(model, template)`.
        max_batch_size: answers generated at once.
        max_length: longest prompt with its answer, in tokens; None means the model's context.
        load_args: take template, system text and switches from the adapter or checkpoint.
        around: makes the context in which the model is called, such as autocast.
        reader: reads media for a model that is loaded; None means that it reads text alone.
        options: the options of the model and the template that `swift infer` takes, by their names: `adapters`,
            `torch_dtype`, `agent_template`, …

    Raises:
        SwiftError: an option is unknown; model, adapters or template cannot be found, read or put together.
    """

    def __init__(
        self,
        model: str | tuple[Any, Template] | None,
        *,
        max_batch_size: int = 8,
        max_length: int | None = None,
        load_args: bool = True,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
        reader: MediaReader | None = None,
        **options: Any,
    ) -> None:
        if max_batch_size < 1:
            raise SwiftError(f"max_batch_size is {max_batch_size}; it must be at least 1", fix="8 is usual")
        if not isinstance(model, tuple):
            found, template, reader = load_parts(read_options(model, options), load_args=load_args)
            model = found, template
        elif options:
            raise SwiftError(
                f"{', '.join(options)}: no effect on a model and a template that are loaded",
                fix="load them with it, or name the model instead",
            )
        loaded, self.template = model
        self.reader, self.reads_media = reader, reader is not None
        loaded.eval()
        self.adapters = NamedAdapters(loaded)
        self.model = self.adapters.model
        self.tokenizer = self.template.tokenizer
        self.max_batch_size = max_batch_size
        self.context = max_length or context_of(self.model.config)
        self._stop_ids = end_ids(self.template, self.model.generation_config)
        self._pad_id = self.tokenizer.pad_token_id
        if self._pad_id is None:
            self._pad_id = next(iter(self._stop_ids), 0)
        # A text is read in portions, all by the same weights.
        self._steady = threading.Lock()
        self._guides = Guides(self.tokenizer, self._stop_ids)
        self.scheduler = Scheduler(
            self.model,
            self.adapters,
            max_batch_size=max_batch_size,
            pad_id=self._pad_id,
            generate=self._generate,
            batches=batches(self.model),
            around=around,
            solo=stretched(self.model),
        )
        # Who asks may be another thread than who loaded.
        release_threads()

    @classmethod
    def from_source(
        cls,
        source: ModelSource,
        template: Template,
        config: ModelConfig,
        *,
        max_batch_size: int = 8,
        max_length: int | None = None,
        decisions: Decisions,
    ) -> PtEngine:
        """Load what `find_source` found; the command line builds its engine so."""
        loaded = load_source_model(source, config, decisions)
        reader = MediaReader.find(source.path, template, trust_remote_code=config.trust_remote_code)
        return cls((loaded, template), max_batch_size=max_batch_size, max_length=max_length, reader=reader)

    def submit(
        self, request: InferRequest, config: RequestConfig, listener: Listener, *, whole: bool = False
    ) -> Ticket:
        """Take a request; the listener is told in the thread that runs the model.

        Raises:
            SwiftError: the prompt is longer than the context, holds media that the model does not read, or cannot be
                rendered; there is no such adapter.
        """
        answers = self._answers(request, config, listener, whole=whole)
        self.scheduler.submit(answers)
        return answers[0].ticket

    @property
    def load(self) -> tuple[int, int]:
        """Answers under way and answers that have not begun."""
        return self.scheduler.running, self.scheduler.waiting

    def submit_all(
        self, requests: Sequence[InferRequest], config: RequestConfig, listener: Callable[[int, Delta], None]
    ) -> list[Ticket]:
        """All are checked before the first is begun; the longest come first: too little memory shows at once."""
        told = [partial(listener, number) for number in range(len(requests))]
        answers = [
            self._answers(request, config, listener, whole=True)
            for request, listener in zip(requests, told, strict=True)
        ]
        ordered = sorted(answers, key=lambda own: -len(own[0].prompt))
        self.scheduler.submit([answer for own in ordered for answer in own])
        return [own[0].ticket for own in answers]

    def score(
        self,
        requests: Sequence[InferRequest],
        answers: Sequence[str | list[int]] | None = None,
        *,
        top_logprobs: int = 0,
    ) -> list[Scored]:
        """The log-probabilities of prompts, and of answers to them; others are answered meanwhile.

        Raises:
            SwiftError: a request cannot be read, or there is no such adapter.
        """
        for request in requests:
            self.adapters.check(request.adapter)
        found = []
        for request, (prompt, ids) in zip(
            requests, encode_scored(self.template, requests, answers, self.context), strict=True
        ):
            forward = partial(self.adapters.forward, [request.adapter])
            with self._steady:
                scored = score(
                    self.scheduler.call,
                    forward,
                    [*prompt, *ids],
                    model=self.model,
                    top=top_logprobs,
                    whole=not batches(self.model),
                )
            found.append(replace(scored, prompt_tokens=len(prompt)))
        return found

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load one more adapter, which requests then choose by its name; others are answered meanwhile.

        Raises:
            SwiftError: there is one of this name, or it does not fit the model.
        """
        self.scheduler.call(partial(self.adapters.add, name, folder))

    def remove_adapter(self, name: str) -> None:
        """Take an adapter off the model again.

        Raises:
            SwiftError: there is none of this name, or answers use it.
        """
        self.scheduler.call(partial(self._remove, name))

    def _remove(self, name: str) -> None:
        if users := self.scheduler.uses(name):
            raise SwiftError(f"{users} answers use the adapter {name}", fix="wait for them")
        self.adapters.remove(name)
        self.scheduler.prefixes.forget()

    def read_weights(self, folder: Path) -> dict[str, torch.Tensor]:
        """The weights of a saved model, for `update_weights`.

        Raises:
            SwiftError: the folder holds none of this model's class.
        """
        return read_weights(self.model, folder)

    def update_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Put new weights in place of those of the same names, between two steps; adapters stay as they are.

        Answers under way go on with the new ones: who does not want that waits for them first.

        Raises:
            SwiftError: a name or a shape is none of the model's; then nothing has changed.
        """
        with self._steady:
            self.scheduler.call(partial(self._update, weights))

    def _update(self, weights: Mapping[str, torch.Tensor]) -> None:
        replace_weights(self.model, weights)
        self.scheduler.prefixes.forget()

    def replace_adapter(self, name: str, folder: Path) -> None:
        """Put an adapter in place of the one of its name, or beside the others.

        Raises:
            SwiftError: it does not fit the model, or the one before; that is there as it was then.
        """
        with self._steady:
            self.scheduler.call(partial(self._replace, name, folder))

    def _replace(self, name: str, folder: Path) -> None:
        self.adapters.replace(name, folder)
        self.scheduler.prefixes.forget()

    def forget(self) -> None:
        """Drop what is kept of earlier conversations: the weights change, or their memory is wanted elsewhere."""
        self.scheduler.call(self.scheduler.prefixes.forget)

    def encode(self, request: InferRequest) -> list[int]:
        """The prompt's token ids.

        Raises:
            SwiftError: the request holds media that the model does not read, has nothing to answer, or is longer than
                the context.
        """
        return read_prompt(self.template, request, self.context, self.reader)[0]

    def _answers(
        self, request: InferRequest, config: RequestConfig, listener: Listener, *, whole: bool
    ) -> list[Answer]:
        config = with_stops(config, self.template)
        self.adapters.check(request.adapter)
        prompt, media = read_prompt(self.template, request, self.context, self.reader)
        template = self.template if request.prompt is None else None
        ticket = Ticket(request, config, prompt, template, self.tokenizer, listener, whole=whole)
        if media is not None:
            # The model takes the tensors; what they were made of need not wait with them.
            media.media.clear()
            ticket.media = media
        ends = set(config.stop_token_ids) | (set() if config.ignore_eos else self._stop_ids)
        limit = answer_limit(config, prompt, self.context)
        return [
            Answer(ticket, index, limit=limit, ends=ends, picker=self._picker(config, prompt, index, ends))
            for index in range(config.n)
        ]

    def _picker(self, config: RequestConfig, prompt: list[int], index: int, ends: set[int]) -> Picker | None:
        if config.num_beams > 1:
            return None
        guide = self._guides.make(config.structured_outputs) if config.structured_outputs is not None else None
        defaults = self.model.generation_config.to_diff_dict()
        return Picker(prompt, defaults, config, row_seed(config.seed, prompt, index), ends, guide)

    def _generate(self, answers: list[Answer]) -> None:
        """Answer a batch that begins and ends together."""
        width = max(len(answer.prompt) for answer in answers)
        ids = torch.full((len(answers), width), self._pad_id)
        mask = torch.zeros_like(ids)
        for row, answer in enumerate(answers):
            ids[row, width - len(answer.prompt) :] = torch.tensor(answer.prompt)
            mask[row, width - len(answer.prompt) :] = 1
        pickers = [answer.picker for answer in answers if answer.picker is not None]
        watch = _Watch(answers)
        criteria = [watch] if pickers else [_Cancelled(answers)]
        forever = any(answer.ticket.config.ignore_eos for answer in answers)
        # Answers with media are those of one request.
        media = answers[0].ticket.media
        tensors = {} if media is None else repeated(media.tensors, len(answers), self.model)
        out = self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            logits_processor=LogitsProcessorList([PickingProcessor(pickers, watch.note)] if pickers else []),
            stopping_criteria=StoppingCriteriaList(criteria),
            **tensors,
            **greedy_arguments(
                answers[0].ticket.config,
                max_new_tokens=max(answer.limit for answer in answers),
                stop_ids=[-1] if forever else sorted(self._stop_ids),
                pad_id=self._pad_id,
            ),
        )
        if not pickers:
            for answer, row in zip(answers, out[:, width:].tolist(), strict=True):
                for token in row:
                    if not answer.over:
                        answer.push(token)
        for answer in answers:
            answer.end("length")


def context_of(config: Any) -> int | None:
    """The longest sequence that a model's config allows; None where it sets no bound, as recurrent models do."""
    return limit_of(config.get_text_config() if hasattr(config, "get_text_config") else config)


def batches(model: Any) -> bool:
    """Whether rows can join and leave a batch of this model."""
    plain = type(model).prepare_inputs_for_generation is GenerationMixin.prepare_inputs_for_generation
    given = model.generation_config.to_diff_dict()
    return plain and grows(model) and not stretched(model) and not any(given.get(name) for name in OF_GENERATE)


def stretched(model: Any) -> bool:
    """Whether the rotary frequencies of a call depend on its longest row, so that rows change each other."""
    text = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    return (rope_of(text) or {}).get("rope_type") in ("dynamic", "longrope")
