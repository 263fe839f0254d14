"""The engine on LMDeploy: our template renders the prompts and parses the answers, LMDeploy takes and gives token ids.

Written for LMDeploy 0.18: `AsyncEngine.preprocess` of `input_ids` and `generate`, `GenerationConfig`,
`TurbomindEngineConfig` and `PytorchEngineConfig`. It has run on no device yet: its calls are checked against LMDeploy's
own signatures.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
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
    "attn_impl": "--infer_backend pt",
    "device_map": "--lmdeploy_tp",
    "model_kwargs": "--engine_kwargs",
    "max_memory": "--lmdeploy_cache_max_entry_count",
    "rope_scaling": "--engine_kwargs '{\"hf_overrides\": …}'",
    "init_strategy": "--infer_backend pt",
    "quant_method": "--engine_kwargs '{\"model_format\": …}'",
}
"""Options of loading a model, and what stands for them here."""
LACKING = ("presence_penalty", "frequency_penalty", "logit_bias")
"""Parameters of requests that LMDeploy does not have."""


@engine("lmdeploy")
class LmdeployEngine(NamingEngine):
    """Answers by LMDeploy on CUDA devices: by TurboMind where that runs the model, by its PyTorch engine where not.

    A greedy answer is `PtEngine`'s up to rounding. A sampled one has the same distribution and a seed of its own, made
    of the config's seed, the prompt and the choice's number; LMDeploy draws by it in its own way.
    """

    package = "lmdeploy"

    def _begin(self, start: Start) -> int:
        check_options(start.config, start.source, "LMDeploy", ELSEWHERE)
        adapters = self._take_names(start.options.pop("adapters", None) or {}, start.source)
        self._numbers = count(1)
        backend, arguments = arguments_of(start, adapters)
        start.decisions.add("lmdeploy", backend, "machine", "its engine for this model")
        self.llm = self._wait(_start_llm(start, backend, arguments))
        return int(self.llm.session_len)

    def add_adapter(self, name: str, folder: Path) -> None:
        """An adapter that LMDeploy was started with; it takes none later.

        Raises:
            SwiftError: it is another one.
        """
        if self.names.get(name) != folder:
            raise SwiftError(
                f"adapter {name}: LMDeploy takes adapters at its start alone", fix="name it with --adapters name=folder"
            )

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter's name; LMDeploy keeps its weights.

        Raises:
            SwiftError: there is none of this name.
        """
        self._adapter(name)
        del self.names[name]

    def _params(self, config: RequestConfig, prompt: list[int], index: int, ends: set[int], limit: int) -> Any:
        """The parameters as LMDeploy's GenerationConfig."""
        from lmdeploy import GenerationConfig

        if given := [name for name in LACKING if getattr(config, name)]:
            raise SwiftError(f"{given[0]}: LMDeploy does not have it", fix="leave it out, or use --infer_backend pt")
        defaults = self._defaults.to_diff_dict()
        sampling = sampling_of(defaults, config)
        own = config.repetition_penalty
        asked = config.logprobs or config.top_logprobs
        return GenerationConfig(
            # What is greedy drops the penalty there; one candidate is the same and keeps it.
            do_sample=True,
            temperature=(sampling or {}).get("temperature", 1.0),
            top_k=1 if sampling is None else int(sampling.get("top_k", 0)),
            top_p=(sampling or {}).get("top_p", 1.0),
            min_p=(sampling or {}).get("min_p", 0.0),
            random_seed=row_seed(config.seed, prompt, index),
            repetition_penalty=own if own is not None else defaults.get("repetition_penalty") or 1.0,
            ignore_eos=config.ignore_eos,
            stop_token_ids=sorted(ends) or None,
            # The token that ends an answer is one of its tokens.
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            min_new_tokens=min(config.min_tokens, limit) or None,
            max_new_tokens=limit,
            logprobs=max(config.top_logprobs, 1) if asked else None,
            response_format=structure_of(config.structured_outputs),
        )

    async def _tokens(self, answer: Answer, params: Any, adapter: Any) -> AsyncGenerator[Tokens, None]:
        request = await self.llm.preprocess(
            messages=None,
            session_id=next(self._numbers),
            gen_config=params,
            do_preprocess=False,
            adapter_name=adapter,
            input_ids=list(answer.prompt),
        )
        async with aclosing(self.llm.generate(request, stream_response=True)) as told:
            async for output in told:
                ids = list(output.token_ids or ())
                logprobs = output.logprobs or [None] * len(ids)
                yield [(token, _logprob(token, each)) for token, each in zip(ids, logprobs, strict=True)]

    async def _end(self) -> None:
        self.llm.close()

    def _mistake(self, error: Exception) -> Exception:
        from lmdeploy.serve.core import RequestError

        if isinstance(error, (RequestError, ValueError)):
            return SwiftError(f"LMDeploy does not answer: {first_line(error)}", fix="its lines above may tell more")
        return error


def arguments_of(start: Start, adapters: Mapping[str, Path]) -> tuple[str, Any]:
    """The name of LMDeploy's engine for a model, and its config.

    Args:
        start: among its options `backend` names the engine.
        adapters: by the names that requests have for them; its PyTorch engine alone has any.

    Raises:
        SwiftError: the engine does not have one of the options.
    """
    from dataclasses import fields

    from lmdeploy import PytorchEngineConfig, TurbomindEngineConfig
    from lmdeploy.archs import autoget_backend

    options = dict(start.options)
    backend = options.pop("backend", None) or ("pytorch" if adapters else autoget_backend(str(start.source.path)))
    kind = {"pytorch": PytorchEngineConfig, "turbomind": TurbomindEngineConfig}.get(backend)
    if kind is None or (adapters and backend != "pytorch"):
        raise SwiftError(f"--engine_kwargs backend {backend}", fix="pytorch or turbomind; adapters need pytorch")
    if unknown := sorted(options.keys() - {each.name for each in fields(kind)}):
        raise SwiftError(
            f"LMDeploy's engine {backend} has no argument {', '.join(unknown)}",
            where="--engine_kwargs",
            fix=f"see {kind.__name__} in its documentation",
        )
    name = start.dtype()
    if name == "float32":
        raise SwiftError("--torch_dtype float32 is not for LMDeploy", fix="give bfloat16 or float16")
    values: dict[str, Any] = {"dtype": name, "session_len": start.length, **options}
    if adapters:
        for folder in adapters.values():
            rank_of(folder, "LMDeploy")
        values["adapters"] = {name: str(folder) for name, folder in adapters.items()}
    return backend, kind(**{key: value for key, value in values.items() if value is not None})


def structure_of(wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    """What an answer must be, as LMDeploy's response_format.

    Raises:
        SwiftError: LMDeploy does not have this kind, or it is no schema or expression.
    """
    if wanted is None:
        return None
    from swift.engines.guides import grammar_of

    if "grammar" in wanted:
        raise SwiftError("structured_outputs.grammar: LMDeploy takes no Lark grammars", fix="use --infer_backend pt")
    grammar_of(wanted)
    if "regex" in wanted or "choice" in wanted:
        regex = wanted.get("regex") or "|".join(map(re.escape, wanted["choice"]))
        return {"type": "regex_schema", "regex_schema": regex}
    schema = wanted.get("json", {"type": "object"})
    schema = json.loads(schema) if isinstance(schema, str) else schema
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _logprob(token: int, told: Mapping[int, float] | None) -> Logprob | None:
    if told is None:
        return None
    return Logprob(token, told[token], [*sorted(told.items(), key=lambda pair: -pair[1])])


async def _start_llm(start: Start, backend: str, arguments: Any) -> Any:
    """LMDeploy, started in the loop that its answers come to.

    Raises:
        SwiftError: it does not start.
    """
    import asyncio

    from lmdeploy.serve.core import AsyncEngine

    try:
        found = AsyncEngine(
            str(start.source.path),
            backend=backend,
            backend_config=arguments,
            trust_remote_code=start.config.trust_remote_code,
        )
        found.start_loop(asyncio.get_running_loop(), use_async_api=True)
        return found
    except Exception as error:
        raise SwiftError(
            f"LMDeploy does not start: {first_line(error)}",
            fix="its lines above tell more; --infer_backend pt runs any model",
        ) from error
