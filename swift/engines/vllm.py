"""The engine on vLLM: our template renders the prompts and parses the answers, vLLM takes and gives token ids.

Written for vLLM 0.32: `AsyncLLM`, `AsyncEngineArgs` and `SamplingParams`.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from swift.config.decisions import Decisions
from swift.config.model import ModelConfig
from swift.engines.answers import Answer, Ticket, fail
from swift.engines.base import Engine, InferRequest, Listener, Logprob, RequestConfig, engine
from swift.engines.prompts import answer_limit, encode_prompt, end_ids, with_stops
from swift.engines.sampling import OF_GENERATE, row_seed, sampling_of
from swift.engines.vllm_adapters import VllmAdapters, lora_arguments
from swift.environments.guard import descendants, end_with_us
from swift.errors import SwiftError, first_line
from swift.models.source import ModelSource

if TYPE_CHECKING:
    from swift.templates import Template

T = TypeVar("T")

NOT_OF_VLLM = ("typical_p", "epsilon_cutoff", "eta_cutoff")
"""Parameters of sampling that a generation config may set and vLLM does not have."""
ELSEWHERE = {
    "attn_impl": "--engine_kwargs '{\"attention_backend\": …}'",
    "device_map": "--vllm_tensor_parallel_size",
    "model_kwargs": "--engine_kwargs",
    "max_memory": "--vllm_gpu_memory_utilization",
    "rope_scaling": '--engine_kwargs \'{"hf_overrides": {"rope_parameters": …}}\'',
    "init_strategy": "--infer_backend pt",
    "quant_method": "--vllm_quantization",
}
"""Options of loading a model, and what stands for them here."""


@engine("vllm")
class VllmEngine(Engine):
    """Answers by vLLM, in processes that it starts.

    A greedy answer is `PtEngine`'s up to rounding. A sampled one has the same distribution and a seed of its own, made
    of the config's seed, the prompt and the choice's number; vLLM draws by it in its own way.

    Args:
        model: a model's name or folder.
        max_length: longest prompt with its answer, in tokens; None means the model's context.
        load_args: take template, system text and switches from the adapter or checkpoint.
        options: the options of the model and the template that `swift infer` takes, and vLLM's own, with `vllm_` before
            their names or without.

    Raises:
        SwiftError: vLLM is not installed, an option is unknown, or the model is none that vLLM runs.
    """

    def __init__(
        self,
        model: str | None,
        *,
        max_length: int | None = None,
        load_args: bool = True,
        engine_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        from swift.engines.options import find_parts, split_options

        check_installed()
        config, own = split_options(model, options, "vllm")
        decisions = Decisions()
        source, template = find_parts(config, decisions, load_args=load_args)
        self._start(source, template, config.model, own | dict(engine_kwargs or {}), max_length, decisions)

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
        engine_options: Mapping[str, Any] | None = None,
    ) -> VllmEngine:
        """Start vLLM on what `find_source` found; how many answers are generated at once is its own choice."""
        made = cls.__new__(cls)
        made._start(source, template, config, dict(engine_options or {}), max_length, decisions)
        return made

    def _start(
        self,
        source: ModelSource,
        template: Template,
        config: ModelConfig,
        options: dict[str, Any],
        max_length: int | None,
        decisions: Decisions,
    ) -> None:
        check_installed()
        self.template, self.tokenizer = template, template.tokenizer
        self.adapters = VllmAdapters(source.adapters)
        self._defaults = generation_config_of(source.path)
        self._stop_ids = end_ids(template, self._defaults)
        self._numbers = count()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True).start()
        arguments = arguments_of(source, config, options, max_length, decisions)
        before = descendants()
        self.llm = self._wait(_start_llm(arguments))
        # vLLM's own processes stay behind, with the device's memory, where this one is killed (0.32).
        self._guard = end_with_us(sorted(descendants() - before))
        atexit.register(self.close)
        self.context: int = self.llm.model_config.max_model_len
        decisions.add("max_model_len", self.context, "model", "prompt and answer together, in tokens")

    def submit(
        self, request: InferRequest, config: RequestConfig, listener: Listener, *, whole: bool = False
    ) -> Ticket:
        """Take a request; the listener is told in a thread of the engine.

        Raises:
            SwiftError: the prompt is longer than the context, holds media, or cannot be rendered; vLLM lacks a
                parameter; there is no such adapter.
        """
        if config.num_beams > 1:
            raise SwiftError(f"num_beams {config.num_beams}: vLLM searches no beams", fix="use --infer_backend pt")
        config = with_stops(config, self.template)
        lora = self.adapters.request(request.adapter)
        prompt = self.encode(request)
        template = self.template if request.prompt is None else None
        ticket = VllmTicket(request, config, prompt, template, self.tokenizer, listener, whole=whole)
        ends = set(config.stop_token_ids) | (set() if config.ignore_eos else self._stop_ids)
        limit = answer_limit(config, prompt, self.context)
        params = [self._params(config, prompt, index, ends, limit) for index in range(config.n)]
        ticket.loop = self._loop
        for index, each in enumerate(params):
            answer = Answer(ticket, index, limit=limit, ends=ends, picker=None)
            ticket.work.append(asyncio.run_coroutine_threadsafe(self._answer(answer, each, lora), self._loop))
        return ticket

    @property
    def load(self) -> tuple[int, int] | None:
        """Answers under way, those that vLLM makes wait included."""
        return self.llm.get_num_unfinished_requests(), 0

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load one more adapter, which requests then choose by its name.

        Raises:
            SwiftError: there is one of this name, or vLLM cannot take it.
        """
        if not self.llm.vllm_config.lora_config:
            raise SwiftError(
                f"adapter {name}: vLLM was started without room for adapters",
                fix="start it with --vllm_enable_lora true",
            )
        self.adapters.add(name, folder)
        try:
            self._wait(self.llm.add_lora(self.adapters.request(name)))
        except Exception as error:
            self.adapters.remove(name)
            raise SwiftError(
                f"vLLM does not take the adapter: {first_line(error)}", where=str(folder), fix="merge it, or use pt"
            ) from error

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter; its answers under way go on to their end.

        Raises:
            SwiftError: there is none of this name.
        """
        lora = self.adapters.request(name)
        self.adapters.remove(name)
        self._wait(self.llm.remove_lora(lora.lora_int_id))

    def encode(self, request: InferRequest) -> list[int]:
        """The prompt's token ids.

        Raises:
            SwiftError: the request holds media, has nothing to answer, or is longer than the context.
        """
        return encode_prompt(self.template, request, self.context)

    def close(self) -> None:
        """End vLLM's processes; the interpreter does it at its end."""
        atexit.unregister(self.close)
        self._wait(_end(self.llm))
        del self.llm
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _params(self, config: RequestConfig, prompt: list[int], index: int, ends: set[int], limit: int) -> Any:
        """The request's parameters over the model's own, as vLLM takes them."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        defaults = self._defaults.to_diff_dict()
        sampling = sampling_of(defaults, config)
        repetition = config.repetition_penalty
        return SamplingParams(
            temperature=0.0 if sampling is None else sampling.get("temperature", 1.0),
            top_k=int((sampling or {}).get("top_k", 0)),
            top_p=(sampling or {}).get("top_p", 1.0),
            min_p=(sampling or {}).get("min_p", 0.0),
            seed=row_seed(config.seed, prompt, index),
            repetition_penalty=repetition if repetition is not None else defaults.get("repetition_penalty") or 1.0,
            presence_penalty=config.presence_penalty,
            frequency_penalty=config.frequency_penalty,
            logit_bias=config.logit_bias or None,
            # All that ends an answer is here; vLLM's own idea of it is switched off.
            stop_token_ids=sorted(ends),
            ignore_eos=True,
            min_tokens=min(config.min_tokens, limit),
            max_tokens=limit,
            logprobs=config.top_logprobs if config.logprobs or config.top_logprobs else None,
            structured_outputs=structure_of(config.structured_outputs),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    async def _answer(self, answer: Answer, params: Any, lora: Any) -> None:
        """Hand vLLM's tokens to an answer; leaving the iteration makes vLLM drop the request."""
        from vllm.inputs.engine import tokens_input

        number = str(next(self._numbers))
        try:
            outputs = self.llm.generate(tokens_input(answer.prompt), params, number, lora_request=lora)
            async with aclosing(outputs) as told:
                async for output in told:
                    _push(answer, output.outputs[0], params.logprobs)
                    if answer.over:
                        break
            answer.end("length")
        except Exception as error:
            fail([answer], _mistake(error))


class VllmTicket(Ticket):
    """A request whose answers vLLM makes."""

    loop: asyncio.AbstractEventLoop

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.work: list[Any] = []

    def cancel(self) -> None:
        """Stop answering, also where no token has come yet."""
        super().cancel()
        for future in self.work:
            future.cancel()


def check_installed() -> None:
    """Raise SwiftError where vLLM is not in this environment."""
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        raise SwiftError(
            "--infer_backend vllm needs vLLM, which is not installed here",
            fix="pip install vllm; or swift env install vllm, which swift infer and swift deploy use by themselves",
        )


def arguments_of(
    source: ModelSource, config: ModelConfig, options: dict[str, Any], max_length: int | None, decisions: Decisions
) -> dict[str, Any]:
    """The arguments of `AsyncEngineArgs`.

    Args:
        options: vLLM's own, by its names; they go over all others.

    Raises:
        SwiftError: vLLM does not have one of them, or does not have what the model's options ask for.
    """
    from dataclasses import fields

    from vllm.engine.arg_utils import AsyncEngineArgs

    from swift.models.devices import pick_device
    from swift.models.load import dtype_of

    for name, instead in ELSEWHERE.items():
        if getattr(config, name) is not None:
            raise SwiftError(
                f"--{name} {getattr(config, name)} is not for vLLM", fix=f"leave it out; there is {instead}"
            )
    if source.new_tokens:
        raise SwiftError("the adapter has tokens of its own, which vLLM cannot add", fix="merge it: swift merge-lora")
    if unknown := sorted(options.keys() - {each.name for each in fields(AsyncEngineArgs)}):
        raise SwiftError(
            f"vLLM has no argument {', '.join(unknown)}", where="--engine_kwargs", fix="see `vllm serve --help=all`"
        )
    dtype = dtype_of(source.path, config.torch_dtype, pick_device()[0])
    name = str(dtype.dtype).removeprefix("torch.")
    decisions.add("torch_dtype", name, "model", dtype.reason)
    values: dict[str, Any] = {
        "model": str(source.path),
        "tokenizer": str(source.tokenizer_folder),
        "trust_remote_code": config.trust_remote_code,
        "dtype": name,
        "max_model_len": config.max_model_len or max_length,
        # Our own defaults of requests hold, and our own ends of answers.
        "generation_config": "vllm",
        "structured_outputs_config": {"backend": "guidance"},
        "disable_log_stats": True,
        **options,
        **lora_arguments(source.adapters, options),
    }
    return {key: value for key, value in values.items() if value is not None}


async def _start_llm(arguments: dict[str, Any]) -> Any:
    """vLLM, started in the loop that its answers come to.

    Raises:
        SwiftError: it does not start.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    except Exception as error:
        raise SwiftError(
            f"vLLM does not start: {first_line(error)}",
            fix="its lines above tell more; --infer_backend pt runs any model",
        ) from error


async def _end(llm: Any) -> None:
    llm.shutdown()
    if llm.output_handler is not None:
        await asyncio.wait([llm.output_handler], timeout=5)


def generation_config_of(folder: Path) -> Any:
    """The model's generation config, as transformers reads it.

    Raises:
        SwiftError: it asks for what vLLM does not have.
    """
    from transformers import AutoConfig, GenerationConfig

    if (folder / "generation_config.json").is_file():
        found = GenerationConfig.from_pretrained(folder)
    else:
        found = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))
    asked = found.to_diff_dict()
    if wrong := [name for name in (*NOT_OF_VLLM, *OF_GENERATE) if asked.get(name)]:
        raise SwiftError(
            f"generation_config.json sets {', '.join(wrong)}, which vLLM does not have",
            where=str(folder),
            fix="use --infer_backend pt, or take it out of the file",
        )
    return found


def structure_of(wanted: dict[str, Any] | None) -> Any:
    """What an answer must be, as vLLM's llguidance takes it: the grammars of our own engine.

    Raises:
        SwiftError: it is no schema, expression or grammar.
    """
    if wanted is None:
        return None
    from vllm.sampling_params import StructuredOutputsParams

    from swift.engines.guides import COMPACT, grammar_of

    grammar_of(wanted)
    given = dict(wanted)
    if given.pop("json_object", None):
        given["json"] = {"type": "object"}
    if isinstance(given.get("json"), str):
        import json

        given["json"] = json.loads(given["json"])
    if "json" in given:
        given["json"] = given["json"] | {"x-guidance": COMPACT}
    return StructuredOutputsParams(**given)


def _push(answer: Answer, output: Any, top: int | None) -> None:
    """New tokens with their log-probabilities."""
    logprobs = output.logprobs if top is not None else [None] * len(output.token_ids)
    for token, told in zip(output.token_ids, logprobs, strict=True):
        if answer.over:
            return
        if told is None:
            answer.push(token)
            continue
        likeliest = sorted(told.items(), key=lambda pair: pair[1].rank)[: top or 0]
        answer.push(token, Logprob(token, told[token].logprob, [(other, each.logprob) for other, each in likeliest]))


def _mistake(error: Exception) -> Exception:
    """What a user can do about an error of vLLM; our own bugs stay as they are."""
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    if isinstance(error, (EngineDeadError, EngineGenerateError)):
        return SwiftError(f"vLLM broke down: {first_line(error)}", fix="its lines above tell why; start again")
    if isinstance(error, ValueError):
        return SwiftError(f"vLLM refuses the request: {first_line(error)}", fix="correct it")
    return error
