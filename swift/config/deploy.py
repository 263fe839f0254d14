"""The server: where it listens, who may ask, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.config.fields import above, at_least, between, named, option
from swift.config.generate import SamplingConfig


@dataclass
class RequestDefaultsConfig(SamplingConfig):
    """What holds for a request that does not say otherwise."""

    seed: int | None = option(
        None, "Seed of sampling; unset means another one for each request.", why="42 gives everybody the same answers"
    )


@dataclass
class ServeConfig:
    """Options of the server."""

    infer_backend: str = option(
        "pt",
        "Engine: pt (also called transformers), vllm, auto (vllm where it is there and runs the model), or one from "
        "--external_plugins.",
    )
    load_args: bool = option(True, "Take template, system text and switches from the adapter or checkpoint.")
    max_batch_size: int = option(
        8,
        "Answers generated at once.",
        why="ms-swift's 1 answers one after the other",
        check=at_least(1),
    )
    host: str = option(
        "127.0.0.1",
        "Address to listen at; 0.0.0.0 means every network of this machine.",
        why="ms-swift listens on all networks, without a key",
        check=named,
    )
    port: int = option(8000, "Port to listen at; 0 takes a free one.", check=between(0, 65535))
    served_model_name: str | None = option(
        None, "Name of the model in requests; unset means the last part of --model.", check=named
    )
    owned_by: str = option("swift", "Owner that /v1/models names.")
    api_key: str | None = option(
        None, "Key that requests must carry (Authorization: Bearer KEY); /health needs none.", secret=True, check=named
    )
    max_queue: int = option(
        1024, "Answers that may wait behind those of --max_batch_size; more are refused with 429.", check=at_least(0)
    )
    max_request_size: float = option(
        8.0, "Largest body of a request; more is refused with 413.", unit="MiB", check=above(0)
    )
    request_timeout: float = option(
        600.0, "Longest time for an answer, its waiting included; then 504.", unit="seconds", check=above(0)
    )
    clamp_max_tokens: bool = option(
        False,
        "Cut an answer off where the context ends when a request's max_tokens is more than the context leaves; false "
        "refuses such a request with 400.",
    )
    max_logprobs: int = option(20, "Most top_logprobs that a request may ask for.", check=between(0, 20))
    allowed_media_path: str | None = option(
        None,
        "Folder whose files requests may name as media, as file:///FOLDER/picture.png; unset means none.",
        check=named,
    )
    allowed_media_domains: list[str] = option(
        help="Hosts that media may be fetched from, with all below them; '*' means every one with a public address. "
        "Media inside the request (data URLs) need neither option.",
        factory=list,
        check=named,
    )
    max_media_size: float = option(
        32.0,
        "Largest medium that is read; those of one request together may have four times as much.",
        unit="MiB",
        check=above(0),
    )
    ssl_keyfile: str | None = option(None, "Key of the server's TLS certificate.", check=named)
    ssl_certfile: str | None = option(None, "The certificate; with it the server speaks https.", check=named)
    allow_adapter_loading: bool = option(
        False, "Let whoever may ask load and unload adapters too: /v1/load_lora_adapter, /v1/unload_lora_adapter."
    )
    reranker_use_activation: bool = option(
        True,
        "Scores of a reranker are probabilities (true) or logits.",
        needs=("task_type", "reranker", "generative_reranker"),
    )
    result_path: str | None = option(None, "JSONL file that takes requests with their answers.", check=named)
    log_interval: int = option(
        20, "Time between lines of figures in the log; 0 means none.", unit="seconds", check=at_least(0)
    )
    verbose: bool = option(
        False,
        "Log requests and answers with their contents.",
        why="what users write does not belong into a log unless it is asked for",
    )
    log_level: Literal["critical", "error", "warning", "info", "debug", "trace"] = option(
        "info", "What is logged: info has a line for each request."
    )
