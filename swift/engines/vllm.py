"""The engine on vLLM: our template renders the prompts and parses the answers, vLLM takes and gives token ids.

Written for vLLM 0.32: `AsyncLLM`, `AsyncEngineArgs` and `SamplingParams`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import Any

from swift.engines.answers import Answer
from swift.engines.base import InferRequest, Logprob, RequestConfig, Scored
from swift.engines.names import engine
from swift.engines.packages import PackageEngine, Start, Tokens, check_options
from swift.engines.prompts import encode_scored
from swift.engines.sampling import row_seed, sampling_of
from swift.engines.vllm_adapters import VllmAdapters, lora_arguments
from swift.environments.guard import descendants, end_with_us
from swift.errors import SwiftError, first_line
from swift.templates.media import MediaPrompt

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
class VllmEngine(PackageEngine):
    """Answers by vLLM, in processes that it starts.

    A greedy answer is `PtEngine`'s up to rounding. A sampled one has the same distribution and a seed of its own, made
    of the config's seed, the prompt and the choice's number; vLLM draws by it in its own way.
    """

    package, media_kinds = "vllm", ("image", "video", "audio")

    def _begin(self, start: Start) -> int:
        self.adapters = VllmAdapters(start.source.adapters)
        self._read_media(start)
        self._numbers = count()
        arguments = arguments_of(start)
        before = descendants()
        self.llm = self._wait(_start_llm(arguments))
        # vLLM's own processes stay behind, with the device's memory, where this one is killed (0.32).
        self._guard = end_with_us(sorted(descendants() - before))
        return int(self.llm.model_config.max_model_len)

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

    def score(
        self,
        requests: Sequence[InferRequest],
        answers: Sequence[str | list[int]] | None = None,
        *,
        top_logprobs: int = 0,
    ) -> list[Scored]:
        """The log-probabilities of prompts, and of answers to them.

        Raises:
            SwiftError: a request cannot be read, leaves no room in the context, or there is no such adapter.
        """
        # vLLM generates a token behind what it reads.
        parts = encode_scored(self.template, requests, answers, self.context - 1)
        loras = [self.adapters.request(request.adapter) for request in requests]

        async def work() -> list[Scored]:
            asked = zip(parts, loras, strict=True)
            return await asyncio.gather(*(self._score(*part, lora, top_logprobs) for part, lora in asked))

        return self._wait(work())

    async def _score(self, prompt: list[int], ids: list[int], lora: Any, top: int) -> Scored:
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=top, detokenize=False)
        number, tokens = str(next(self._numbers)), [*prompt, *ids]
        told: Any = None
        async for output in self.llm.generate(tokens_input(tokens), params, number, lora_request=lora):
            told = output.prompt_logprobs or told
        found = [None if each is None else _logprob(token, each, top) for token, each in zip(tokens, told, strict=True)]
        ranks = [0 if each is None else each[token].rank for token, each in zip(tokens, told, strict=True)]
        return Scored(tokens, found, ranks, len(prompt))

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

    async def _tokens(self, answer: Answer, params: Any, adapter: Any) -> AsyncGenerator[Tokens, None]:
        from vllm.inputs.engine import tokens_input

        number = str(next(self._numbers))
        media = answer.ticket.media
        prompt: Any = tokens_input(answer.prompt) if media is None else _media_input(media)
        outputs = self.llm.generate(prompt, params, number, lora_request=adapter)
        async with aclosing(outputs) as told:
            async for output in told:
                new = output.outputs[0]
                logprobs = new.logprobs if params.logprobs is not None else [None] * len(new.token_ids)
                yield [
                    (token, None if each is None else _logprob(token, each, params.logprobs))
                    for token, each in zip(new.token_ids, logprobs, strict=True)
                ]

    def _adapter(self, name: str | None) -> Any:
        return self.adapters.request(name)

    async def _end(self) -> None:
        self.llm.shutdown()
        if self.llm.output_handler is not None:
            await asyncio.wait([self.llm.output_handler], timeout=5)
        del self.llm

    def _mistake(self, error: Exception) -> Exception:
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        if isinstance(error, (EngineDeadError, EngineGenerateError)):
            return SwiftError(f"vLLM broke down: {first_line(error)}", fix="its lines above tell why; start again")
        if isinstance(error, ValueError):
            return SwiftError(f"vLLM refuses the request: {first_line(error)}", fix="correct it")
        return error


def arguments_of(start: Start) -> dict[str, Any]:
    """The arguments of `AsyncEngineArgs`.

    Raises:
        SwiftError: vLLM does not have one of them, or does not have what the model's options ask for.
    """
    from dataclasses import fields

    from vllm.engine.arg_utils import AsyncEngineArgs

    check_options(start.config, start.source, "vLLM", ELSEWHERE)
    if unknown := sorted(start.options.keys() - {each.name for each in fields(AsyncEngineArgs)}):
        raise SwiftError(
            f"vLLM has no argument {', '.join(unknown)}", where="--engine_kwargs", fix="see `vllm serve --help=all`"
        )
    values: dict[str, Any] = {
        "model": str(start.source.path),
        "tokenizer": str(start.source.tokenizer_folder),
        "trust_remote_code": start.config.trust_remote_code,
        "dtype": start.dtype(),
        "max_model_len": start.length,
        # Our own defaults of requests hold, and our own ends of answers.
        "generation_config": "vllm",
        "structured_outputs_config": {"backend": "guidance"},
        "disable_log_stats": True,
        **start.options,
        **lora_arguments(start.source.adapters, start.options),
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


def _media_input(media: MediaPrompt) -> dict[str, Any]:
    """A prompt with media as vLLM takes it: it writes the tokens that stand for each by itself."""
    told: dict[str, Any] = {}
    if pictures := media.media.get("image"):
        told["image"] = pictures
    if films := media.media.get("video"):
        told["video"] = [_film(*each) for each in films]
    if sounds := media.media.get("audio"):
        told["audio"] = [(samples, media.rate) for samples in sounds]
    return {"prompt_token_ids": media.short, "multi_modal_data": told}


def _film(frames: Any, metadata: Any) -> Any:
    return frames if metadata is None else (frames, {**metadata, "do_sample_frames": False})


def _logprob(token: int, told: Mapping[int, Any], top: int | None) -> Logprob:
    """The log-probability of a token among those that vLLM tells."""
    likeliest = sorted(told.items(), key=lambda pair: pair[1].rank)[: top or 0]
    return Logprob(token, told[token].logprob, [(other, each.logprob) for other, each in likeliest])
