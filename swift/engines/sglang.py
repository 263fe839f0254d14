"""The engine on SGLang: our template renders the prompts and parses the answers, SGLang takes and gives token ids.

Written for SGLang 0.5.23: `sglang.Engine` with `ServerArgs`, `async_generate` and the parameters of `SamplingParams`.
It has run on no device yet: its calls are checked against SGLang's own signatures.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from swift.engines.answers import Answer
from swift.engines.base import Logprob, RequestConfig
from swift.engines.names import engine
from swift.engines.packages import NamingEngine, Start, Tokens, check_options
from swift.engines.plain_lora import rank_of
from swift.engines.sampling import row_seed, sampling_of
from swift.errors import SwiftError, first_line

ELSEWHERE = {
    "attn_impl": "--engine_kwargs '{\"attention_backend\": …}'",
    "device_map": "--sglang_tp_size",
    "model_kwargs": "--engine_kwargs",
    "max_memory": "--sglang_mem_fraction_static",
    "rope_scaling": "--engine_kwargs '{\"json_model_override_args\": …}'",
    "init_strategy": "--infer_backend pt",
    "quant_method": "--sglang_quantization",
}
"""Options of loading a model, and what stands for them here."""
MOST_REPETITION = 2.0
"""SGLang's own bound of repetition_penalty."""


@engine("sglang")
class SglangEngine(NamingEngine):
    """Answers by SGLang, in processes that it starts on CUDA devices.

    A greedy answer is `PtEngine`'s up to rounding. A sampled one has the same distribution and a seed of its own, made
    of the config's seed, the prompt and the choice's number; SGLang draws by it in its own way.
    """

    package, media_kinds = "sglang", ("image",)

    def _begin(self, start: Start) -> int:
        check_options(start.config, start.source, "SGLang", ELSEWHERE)
        adapters = self._take_names(start.options.pop("lora_paths", None) or {}, start.source)
        arguments = arguments_of(start, adapters)
        self._numbers = count()
        self._read_media(start)
        self.llm = self._wait(_start_llm(arguments))
        return int(self.llm.tokenizer_manager.model_config.context_len)

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load one more adapter, which requests then choose by its name.

        Raises:
            SwiftError: there is one of this name, or SGLang cannot take it.
        """
        if name in self.names:
            if self.names[name] == folder:
                return
            raise SwiftError(f"there is an adapter {name} already: {self.names[name]}", fix="give it another name")
        rank_of(folder, "SGLang")
        told = self._wait(_loaded(self.llm, name, folder))
        if not told.success:
            raise SwiftError(
                f"SGLang does not take the adapter: {told.error_message}",
                where=str(folder),
                fix='start it with --engine_kwargs \'{"enable_lora": true, "max_lora_rank": …}\', or merge it',
            )
        self.names[name] = folder

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            SwiftError: there is none of this name, or SGLang keeps it.
        """
        self._adapter(name)
        told = self._wait(_unloaded(self.llm, name))
        if not told.success:
            raise SwiftError(f"SGLang keeps the adapter {name}: {told.error_message}", fix="wait for its answers")
        del self.names[name]

    def _params(self, config: RequestConfig, prompt: list[int], index: int, ends: set[int], limit: int) -> Any:
        """The parameters of `SamplingParams`, and those of the request itself."""
        defaults = self._defaults.to_diff_dict()
        sampling = sampling_of(defaults, config)
        own = config.repetition_penalty
        repetition = own if own is not None else defaults.get("repetition_penalty") or 1.0
        if repetition > MOST_REPETITION:
            raise SwiftError(
                f"repetition_penalty is {repetition}; SGLang takes up to {MOST_REPETITION}", fix="lower it"
            )
        params = {
            "temperature": 0.0 if sampling is None else sampling.get("temperature", 1.0),
            "top_k": int((sampling or {}).get("top_k", 0)) or -1,
            "top_p": (sampling or {}).get("top_p", 1.0),
            "min_p": (sampling or {}).get("min_p", 0.0),
            "sampling_seed": row_seed(config.seed, prompt, index) % 2**31,
            "repetition_penalty": repetition,
            "presence_penalty": config.presence_penalty,
            "frequency_penalty": config.frequency_penalty,
            "logit_bias": {str(token): bias for token, bias in config.logit_bias.items()} or None,
            "stop_token_ids": sorted(ends),
            "ignore_eos": config.ignore_eos,
            "min_new_tokens": min(config.min_tokens, limit),
            "max_new_tokens": limit,
            # The token that ends an answer is one of its tokens.
            "no_stop_trim": True,
            "skip_special_tokens": False,
            **structure_of(config.structured_outputs),
        }
        asked = config.logprobs or config.top_logprobs
        return {"sampling_params": params, "return_logprob": bool(asked), "top_logprobs_num": config.top_logprobs}

    async def _tokens(self, answer: Answer, params: Any, adapter: Any) -> AsyncGenerator[Tokens, None]:
        number, known, whole = f"swift-{next(self._numbers)}", 0, False
        media = answer.ticket.media
        prompt = {"input_ids": answer.prompt}
        if media is not None:
            # SGLang's own processor writes the tokens that stand for each.
            prompt = {"input_ids": media.short, "image_data": media.media["image"]}
        told = await self.llm.async_generate(**prompt, stream=True, rid=number, lora_path=adapter, **params)
        try:
            async for output in told:
                # All tokens so far, in a list that SGLang goes on with.
                ids, meta = list(output["output_ids"]), output["meta_info"]
                if params["return_logprob"]:
                    ids = ids[: len(meta["output_token_logprobs"])]
                new = [(token, _logprob(meta, at)) for at, token in enumerate(ids)][known:]
                known, whole = len(ids), meta["finish_reason"] is not None
                yield new
        finally:
            if not whole:
                self.llm.tokenizer_manager.abort_request(number)

    async def _end(self) -> None:
        self.llm.shutdown()

    def _mistake(self, error: Exception) -> Exception:
        if isinstance(error, ValueError):
            return SwiftError(f"SGLang refuses the request: {first_line(error)}", fix="correct it")
        return error


def arguments_of(start: Start, adapters: Mapping[str, Path]) -> dict[str, Any]:
    """The arguments of `sglang.Engine`, which are those of its `ServerArgs`.

    Args:
        adapters: by the names that requests have for them.

    Raises:
        SwiftError: SGLang does not have one of them.
    """
    from sglang.srt.arg_groups.arg_utils import record_fields
    from sglang.srt.server_args import ServerArgs

    if unknown := sorted(start.options.keys() - {each.name for each in record_fields(ServerArgs)}):
        raise SwiftError(
            f"SGLang has no argument {', '.join(unknown)}",
            where="--engine_kwargs",
            fix="see `python -m sglang.launch_server --help`",
        )
    values: dict[str, Any] = {
        "model_path": str(start.source.path),
        "tokenizer_path": str(start.source.tokenizer_folder),
        "trust_remote_code": start.config.trust_remote_code,
        "dtype": start.dtype(),
        "context_length": start.length,
        # Our own defaults of requests hold.
        "sampling_defaults": "openai",
        "grammar_backend": "llguidance",
        **start.options,
    }
    if adapters:
        values["lora_paths"] = {name: str(folder) for name, folder in adapters.items()}
        values.setdefault("max_lora_rank", max(rank_of(folder, "SGLang") for folder in adapters.values()))
    return {key: value for key, value in values.items() if value is not None}


def structure_of(wanted: dict[str, Any] | None) -> dict[str, Any]:
    """What an answer must be, as SGLang's parameters have it.

    Raises:
        SwiftError: SGLang does not have this kind, or it is no schema or expression.
    """
    if wanted is None:
        return {}
    from swift.engines.guides import COMPACT, grammar_of

    if "grammar" in wanted:
        raise SwiftError("structured_outputs.grammar: SGLang takes no Lark grammars", fix="use --infer_backend pt")
    grammar_of(wanted)
    if "regex" in wanted:
        return {"regex": wanted["regex"]}
    if "choice" in wanted:
        return {"regex": "|".join(map(re.escape, wanted["choice"]))}
    schema = wanted.get("json", {"type": "object"})
    schema = json.loads(schema) if isinstance(schema, str) else schema
    return {"json_schema": json.dumps(schema | {"x-guidance": COMPACT} if isinstance(schema, dict) else schema)}


def _logprob(meta: Mapping[str, Any], at: int) -> Logprob | None:
    """The log-probability of the token at a place, where they are asked for."""
    found = meta.get("output_token_logprobs")
    if not found:
        return None
    value, token, _ = found[at]
    top = (meta.get("output_top_logprobs") or [None] * len(found))[at] or ()
    return Logprob(token, value, [(other, each) for each, other, _ in top])


async def _start_llm(arguments: dict[str, Any]) -> Any:
    """SGLang, started in the loop that its answers come to.

    Raises:
        SwiftError: it does not start.
    """
    import sglang

    try:
        return sglang.Engine(**arguments)
    except Exception as error:
        raise SwiftError(
            f"SGLang does not start: {first_line(error)}",
            fix="its lines above tell more; --infer_backend pt runs any model",
        ) from error


async def _loaded(llm: Any, name: str, folder: Path) -> Any:
    from sglang.srt.managers.io_struct import LoadLoRAAdapterReqInput

    request = LoadLoRAAdapterReqInput(lora_name=name, lora_path=str(folder))
    return await llm.tokenizer_manager.load_lora_adapter(request, None)


async def _unloaded(llm: Any, name: str) -> Any:
    from sglang.srt.managers.io_struct import UnloadLoRAAdapterReqInput

    return await llm.tokenizer_manager.unload_lora_adapter(UnloadLoRAAdapterReqInput(lora_name=name), None)
