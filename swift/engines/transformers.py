"""The engine on transformers' own `generate`: any architecture, any device."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from swift.config.decisions import Decisions
from swift.config.model import ModelConfig
from swift.engines.base import (
    ChatMessage,
    Choice,
    Delta,
    InferRequest,
    OnResponse,
    RequestConfig,
    Response,
    Usage,
    engine,
)
from swift.engines.detokenize import TextStream, cut, decode
from swift.engines.options import load_parts, load_source_model, read_options
from swift.engines.prompts import encode_prompt
from swift.engines.sampling import SeededSampler, greedy_arguments, row_seed, sampling_of
from swift.errors import SwiftError
from swift.models.source import ModelSource
from swift.templates.parsing import pieces_of

if TYPE_CHECKING:
    from swift.templates import Template

END_TOKENS = 64
"""Tokens of a prompt's end that are looked at."""
LONGEST_DEFAULT = 2048
"""Tokens of an answer where nobody sets a limit and the context leaves more."""


@dataclass
class _Job:
    """One answer to generate: a request may want several."""

    request: int
    choice: int
    prompt: list[int]
    limit: int
    seed: int
    tools: list[dict[str, Any]] | None = None


class _Watch(StoppingCriteria):
    """Ends each row at its own limit or stop text, all rows when cancelled, and hands tokens on as they come."""

    def __init__(
        self,
        width: int,
        limits: list[int],
        streams: list[TextStream] | None = None,
        cancelled: threading.Event | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> None:
        self._width, self._limits, self._streams = width, torch.tensor(limits), streams
        self._cancelled, self._on_token = cancelled, on_token
        self._done = torch.zeros(len(limits), dtype=torch.bool)

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Token ids [rows, width + generated] -> which rows end here."""
        if self._cancelled is not None and self._cancelled.is_set():
            return torch.ones(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        if self._on_token is not None:
            self._on_token(int(input_ids[0, -1]))
        if input_ids.shape[0] != len(self._limits):
            return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)  # beams
        self._done |= self._limits <= input_ids.shape[1] - self._width
        if self._streams is not None:
            last = input_ids[:, -1].tolist()
            for row, stream in enumerate(self._streams):
                if not self._done[row]:
                    stream.push(last[row])
                    self._done[row] = stream.stopped
        return self._done.to(input_ids.device)


@engine("pt")
@engine("transformers")
class PtEngine:
    """Answers with a model in this process.

    Batches are static and padded on the left; requests of like length go together, and the responses come in the
    order of the requests. A greedy answer is the same alone and in a batch, up to the rounding of the device. A
    sampled one has a seed of its own, made of the config's seed, the prompt and the choice's number, so it does not
    depend on its neighbours either.

    Args:
        model: a model's name or folder, or a loaded `(model, template)`.
        max_batch_size: answers generated at once.
        max_length: longest prompt with its answer, in tokens; None means the model's context.
        load_args: take template, system text and switches from the adapter or checkpoint.
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
        **options: Any,
    ) -> None:
        if max_batch_size < 1:
            raise SwiftError(f"max_batch_size is {max_batch_size}; it must be at least 1", fix="8 is usual")
        if not isinstance(model, tuple):
            model = load_parts(read_options(model, options), load_args=load_args)
        elif options:
            raise SwiftError(
                f"{', '.join(options)}: no effect on a model and a template that are loaded",
                fix="load them with it, or name the model instead",
            )
        loaded, self.template = model
        self.model = _unwrap(loaded)
        self.tokenizer = self.template.tokenizer
        self.max_batch_size = max_batch_size
        self.context = max_length or context_of(self.model.config)
        self._stop_ids = self._find_stop_ids()
        self._pad_id = self.tokenizer.pad_token_id
        if self._pad_id is None:
            self._pad_id = next(iter(self._stop_ids), 0)
        self.model.eval()

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
        return cls((loaded, template), max_batch_size=max_batch_size, max_length=max_length)

    def infer(
        self,
        requests: Sequence[InferRequest],
        config: RequestConfig | None = None,
        *,
        on_response: OnResponse | None = None,
    ) -> list[Response]:
        """Answer all requests; the responses come in their order.

        Raises:
            SwiftError: a prompt is longer than the context, holds media, or cannot be rendered.
        """
        config = self._with_stops(config)
        jobs = self._jobs(requests, config)
        choices: dict[tuple[int, int], Choice] = {}
        prompts = {job.request: len(job.prompt) for job in jobs}
        responses: dict[int, Response] = {}
        for batch in self._batches(jobs):
            for job, row in zip(batch, self._generate(batch, config), strict=True):
                choices[job.request, job.choice] = self._choice(job, row, config)
            for request in dict.fromkeys(job.request for job in batch):
                own = [choices.get((request, number)) for number in range(config.n)]
                whole = [choice for choice in own if choice is not None]
                if len(whole) < config.n or request in responses:
                    continue
                usage = Usage(prompts[request], sum(len(choice.token_ids) for choice in whole))
                responses[request] = Response(whole, usage)
                if on_response is not None:
                    on_response(request, responses[request])
        return [responses[request] for request in range(len(requests))]

    def stream(self, request: InferRequest, config: RequestConfig | None = None) -> Iterator[Delta]:
        """Answer one request piece by piece; closing the iterator stops the generation.

        The pieces together are `Choice.text`. The request is checked here, not at the first piece.

        Raises:
            SwiftError: as `infer`; or more than one answer is asked for.
        """
        config = self._with_stops(config)
        if config.n > 1:
            raise SwiftError(f"n is {config.n}; one answer can be streamed", fix="call infer")
        job = self._jobs([request], config)[0]
        if config.num_beams > 1:
            return self._whole(request, config)
        return self._pieces(job, config)

    def encode(self, request: InferRequest) -> list[int]:
        """The prompt's token ids.

        Raises:
            SwiftError: the request holds media, has nothing to answer, or is longer than the context.
        """
        return encode_prompt(self.template, request, self.context)

    def _jobs(self, requests: Sequence[InferRequest], config: RequestConfig) -> list[_Job]:
        jobs = []
        for number, request in enumerate(requests):
            prompt = self.encode(request)
            limit = config.max_tokens or LONGEST_DEFAULT
            if self.context is not None:
                limit = min(limit, self.context - len(prompt))
            jobs += [
                _Job(number, choice, prompt, limit, row_seed(config.seed, prompt, choice), request.tools)
                for choice in range(config.n)
            ]
        return jobs

    def _batches(self, jobs: list[_Job]) -> Iterator[list[_Job]]:
        """Longest first: what does not fit into memory shows at once."""
        # Recurrent models have no mask for padding: there only prompts of one length go together.
        alike = bool(getattr(self.model, "_is_stateful", False))
        batch: list[_Job] = []
        for job in sorted(jobs, key=lambda job: -len(job.prompt)):
            if batch and (len(batch) == self.max_batch_size or (alike and len(job.prompt) != len(batch[0].prompt))):
                yield batch
                batch = []
            batch.append(job)
        if batch:
            yield batch

    def _generate(
        self,
        batch: list[_Job],
        config: RequestConfig,
        cancelled: threading.Event | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        """The generated ids of each row, padded at their end."""
        width = max(len(job.prompt) for job in batch)
        ids = torch.full((len(batch), width), self._pad_id)
        mask = torch.zeros_like(ids)
        for row, job in enumerate(batch):
            ids[row, width - len(job.prompt) :] = torch.tensor(job.prompt)
            mask[row, width - len(job.prompt) :] = 1
        limits = [job.limit for job in batch]
        sampling = sampling_of(self.model.generation_config.to_diff_dict(), config)
        processors = [] if sampling is None else [SeededSampler(sampling, [job.seed for job in batch])]
        # A beam's text changes under way, so that there the stop texts are cut off after the search.
        watched = bool(config.stop) and config.num_beams == 1
        streams = [TextStream(self.tokenizer, config.stop) for _ in batch] if watched else None
        try:
            out = self.model.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                logits_processor=LogitsProcessorList(processors),
                stopping_criteria=StoppingCriteriaList([_Watch(width, limits, streams, cancelled, on_token)]),
                **greedy_arguments(
                    config, max_new_tokens=max(limits), stop_ids=sorted(self._stop_ids), pad_id=self._pad_id
                ),
            )
        except torch.OutOfMemoryError as error:
            raise SwiftError(
                f"{len(batch)} answers to prompts of up to {width} tokens do not fit into the device's memory",
                fix="lower --max_batch_size or --max_new_tokens",
            ) from error
        return out[:, width:].tolist()

    def _choice(self, job: _Job, row: list[int], config: RequestConfig) -> Choice:
        ids, text, reason = cut(self.tokenizer, row, limit=job.limit, stop_ids=self._stop_ids, stop=config.stop)
        text = (self.template.response_prefix or "") + text
        parsed = self.template.parse(text, tools=job.tools, prompt=self._prompt_end(job))
        message = ChatMessage(
            role=parsed.get("role", "assistant"),
            content=parsed.get("content") or "",
            reasoning_content=parsed.get("reasoning_content"),
            tool_calls=parsed.get("tool_calls"),
        )
        return Choice(job.choice, message, reason, ids, text)

    def _prompt_end(self, job: _Job) -> str:
        """The last words of a prompt, which tell whether it has opened the reasoning."""
        return decode(self.tokenizer, job.prompt[-END_TOKENS:]).removesuffix(self.template.response_prefix or "")

    def _whole(self, request: InferRequest, config: RequestConfig) -> Iterator[Delta]:
        response = self.infer([request], config)[0]
        choice = response.choices[0]
        yield Delta(choice.text, choice.finish_reason, response, pieces_of(choice.message.to_message()))

    def _pieces(self, job: _Job, config: RequestConfig) -> Iterator[Delta]:
        """`generate` runs in a thread and puts tokens into a queue; None ends them."""
        tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        cancelled = threading.Event()
        failure: list[BaseException] = []
        rows: list[list[int]] = []

        def work() -> None:
            try:
                rows.extend(self._generate([job], config, cancelled, tokens.put))
            except BaseException as error:
                failure.append(error)
            finally:
                tokens.put(None)

        thread = threading.Thread(target=work, name="swift-generate", daemon=True)
        thread.start()
        parser = self.template.parser(tools=job.tools, prompt=self._prompt_end(job))
        text = TextStream(self.tokenizer, config.stop)
        try:
            if self.template.response_prefix:
                yield Delta(self.template.response_prefix, pieces=parser.feed(self.template.response_prefix))
            while (token := tokens.get()) is not None:
                piece = "" if token in self._stop_ids else text.push(token)
                if piece:
                    yield Delta(piece, pieces=parser.feed(piece))
            if failure:
                raise failure[0]
        finally:
            cancelled.set()
            thread.join()
        choice = self._choice(job, rows[0], config)
        response = Response([choice], Usage(len(job.prompt), len(choice.token_ids)))
        rest = text.finish()
        yield Delta(rest, choice.finish_reason, response, [*parser.feed(rest), *parser.finish()])

    def _with_stops(self, config: RequestConfig | None) -> RequestConfig:
        """The parameters with the template's ends of turns that are text to this tokenizer."""
        config = config or RequestConfig()
        stops = self.template.stop_strings
        return config.with_values(stop=[*config.stop, *stops]) if stops else config

    def _find_stop_ids(self) -> set[int]:
        """What ends an answer: the template's end of turn, and what model and tokenizer call their end."""
        ids = set(self.template.stop_token_ids)
        for end in (self.model.generation_config.eos_token_id, self.tokenizer.eos_token_id):
            ids |= set(end) if isinstance(end, (list, tuple)) else {end}
        return {int(token) for token in ids if token is not None}


def context_of(config: Any) -> int | None:
    """The longest sequence that a model's config allows; None where it sets no bound, as recurrent models do."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(text, "max_position_embeddings", None) or None


def _unwrap(model: Any) -> Any:
    """The model whose `generate` runs: most adapters stand inside the base model; virtual tokens need PEFT's own."""
    from peft import PeftModel

    if isinstance(model, PeftModel) and not model.active_peft_config.is_prompt_learning:
        return model.get_base_model()
    return model
