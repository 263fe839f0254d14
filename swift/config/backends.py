"""Options of the back ends that come as packages of their own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from swift.config.fields import at_least, between, option

VLLM = ("infer_backend", "vllm", "auto")
SGLANG = ("infer_backend", "sglang")
LMDEPLOY = ("infer_backend", "lmdeploy")
PACKAGES = ("infer_backend", "vllm", "auto", "sglang", "lmdeploy")


@dataclass
class BackendConfig:
    """Options of back ends: arguments of each by its own names, behind its name; if unset, its defaults hold."""

    vllm_gpu_memory_utilization: float | None = option(
        None, "Share of the device's memory that it takes.", needs=VLLM, check=between(0, 1)
    )
    vllm_tensor_parallel_size: int | None = option(
        None, "Devices that share each layer.", needs=VLLM, check=at_least(1)
    )
    vllm_pipeline_parallel_size: int | None = option(
        None, "Devices that share out the layers.", needs=VLLM, check=at_least(1)
    )
    vllm_data_parallel_size: int | None = option(None, "Copies of the model.", needs=VLLM, check=at_least(1))
    vllm_enable_expert_parallel: bool | None = option(
        None, "Share out experts over the devices instead of slicing each.", needs=VLLM
    )
    vllm_max_num_seqs: int | None = option(None, "Answers generated at once.", needs=VLLM, check=at_least(1))
    vllm_max_model_len: int | None = option(
        None,
        "Longest prompt with its answer; unset means --max_length.",
        unit="tokens",
        needs=VLLM,
        check=at_least(1),
    )
    vllm_disable_custom_all_reduce: bool | None = option(None, "Reduce over devices by NCCL alone.", needs=VLLM)
    vllm_enforce_eager: bool | None = option(None, "No compilation and no CUDA graphs.", needs=VLLM)
    vllm_limit_mm_per_prompt: dict[str, Any] | None = option(
        None, 'Most media of each kind in a prompt, as JSON: {"image": 5}.', needs=VLLM
    )
    vllm_enable_lora: bool | None = option(
        None, "Take adapters at run time; unset means: where --adapters names some.", needs=VLLM
    )
    vllm_max_lora_rank: int | None = option(
        None,
        "Largest rank of an adapter; unset means that of --adapters, 16 where there are none.",
        needs=VLLM,
        check=at_least(1),
    )
    vllm_max_loras: int | None = option(None, "Adapters that act in one batch.", needs=VLLM, check=at_least(1))
    vllm_enable_prefix_caching: bool | None = option(None, "Reuse what prompts begin with alike.", needs=VLLM)
    vllm_quantization: str | None = option(
        None, "How the weights are quantised; unset means as config.json says.", needs=VLLM
    )
    vllm_kv_cache_dtype: str | None = option(None, "Data type of keys and values.", needs=VLLM)
    vllm_disable_cascade_attn: bool | None = option(
        None, "No cascade attention over a common beginning of prompts.", needs=VLLM
    )
    vllm_mm_processor_cache_gb: float | None = option(
        None, "Memory for media that were read.", unit="GiB", needs=VLLM, check=at_least(0)
    )
    vllm_speculative_config: dict[str, Any] | None = option(
        None, 'Speculative decoding, as JSON: {"method": "ngram", "num_speculative_tokens": 3, …}.', needs=VLLM
    )
    sglang_tp_size: int | None = option(None, "Devices that share each layer.", needs=SGLANG, check=at_least(1))
    sglang_pp_size: int | None = option(None, "Devices that share out the layers.", needs=SGLANG, check=at_least(1))
    sglang_dp_size: int | None = option(None, "Copies of the model.", needs=SGLANG, check=at_least(1))
    sglang_ep_size: int | None = option(
        None, "Devices that share out the experts of a layer.", needs=SGLANG, check=at_least(1)
    )
    sglang_enable_dp_attention: bool | None = option(
        None, "Copies of attention beside layers that are shared.", needs=SGLANG
    )
    sglang_mem_fraction_static: float | None = option(
        None, "Share of the device's memory for weights, keys and values.", needs=SGLANG, check=between(0, 1)
    )
    sglang_context_length: int | None = option(
        None,
        "Longest prompt with its answer; unset means --max_length.",
        unit="tokens",
        needs=SGLANG,
        check=at_least(1),
    )
    sglang_disable_cuda_graph: bool | None = option(None, "No CUDA graphs.", needs=SGLANG)
    sglang_disable_custom_all_reduce: bool | None = option(None, "Reduce over devices by NCCL alone.", needs=SGLANG)
    sglang_quantization: str | None = option(
        None, "How the weights are quantised; unset means as config.json says.", needs=SGLANG
    )
    sglang_kv_cache_dtype: str | None = option(None, "Data type of keys and values.", needs=SGLANG)
    sglang_speculative_algorithm: str | None = option(None, "Speculative decoding: EAGLE, NGRAM, …", needs=SGLANG)
    sglang_speculative_num_steps: int | None = option(
        None, "Steps of the draft model.", needs=SGLANG, check=at_least(1)
    )
    sglang_speculative_eagle_topk: int | None = option(
        None, "Tokens that each step of the draft model goes on from.", needs=SGLANG, check=at_least(1)
    )
    sglang_speculative_num_draft_tokens: int | None = option(
        None, "Tokens that are proved at once.", needs=SGLANG, check=at_least(1)
    )
    lmdeploy_tp: int | None = option(None, "Devices that share each layer.", needs=LMDEPLOY, check=at_least(1))
    lmdeploy_session_len: int | None = option(
        None,
        "Longest prompt with its answer; unset means --max_length.",
        unit="tokens",
        needs=LMDEPLOY,
        check=at_least(1),
    )
    lmdeploy_cache_max_entry_count: float | None = option(
        None, "Share of the free memory for keys and values.", needs=LMDEPLOY, check=between(0, 1)
    )
    lmdeploy_quant_policy: int | None = option(
        None, "Bits of keys and values: 4 or 8; 0 means as they are.", needs=LMDEPLOY
    )
    engine_kwargs: dict[str, Any] | None = option(
        None,
        "More arguments of the back end, by its own names, as JSON; they go over all others.",
        aliases=("vllm_engine_kwargs",),
        needs=PACKAGES,
    )

    def arguments(self, name: str) -> dict[str, Any]:
        """The arguments of one back end, by its own names, that somebody set."""
        prefix = f"{name}_"
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name.startswith(prefix)}
        given = {key.removeprefix(prefix): value for key, value in values.items() if value is not None}
        return given | (self.engine_kwargs or {})
