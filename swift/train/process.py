"""What libraries set in the process for one run, put back after it: the next run must be what it is alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

VARIABLES = (
    "ACCELERATE_",
    "FSDP_",
    "UNSLOTH_",
    "TENSORBOARD_LOGGING_DIR",
    "CUDA_LAUNCH_BLOCKING",
    "CUBLAS_WORKSPACE_CONFIG",
    "ASCEND_LAUNCH_BLOCKING",
    "HCCL_DETERMINISTIC",
    "FLASH_ATTENTION_DETERMINISTIC",
)
"""How the names of environment variables begin that TrainingArguments, `enable_full_determinism` and we set."""

FLAGS = (
    "fp32_precision",
    "cuda.matmul.fp32_precision",
    "cudnn.conv.fp32_precision",
    "cudnn.rnn.fp32_precision",
    "cudnn.deterministic",
    "cudnn.benchmark",
)
"""Flags of `torch.backends` that the same two set."""


@contextmanager
def process_kept() -> Iterator[None]:
    """Leave environment variables and flags of torch as they were, however the run within ends.

    The precision of autocast is one of them: transformers 4.57 writes it into ACCELERATE_MIXED_PRECISION and takes it
    from there where a later run asks for none (`TrainingArguments.__post_init__`).
    """
    import torch

    variables, flags = _variables(), _flags()
    deterministic = torch.get_deterministic_debug_mode()
    cudnn_attention = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        yield
    finally:
        for name in _variables().keys() - variables.keys():
            del os.environ[name]
        os.environ.update(variables)
        for name, value in flags.items():
            place, _, flag = name.rpartition(".")
            owner = attrgetter(place)(torch.backends) if place else torch.backends
            # Written only where it changed: a written flag no longer follows the one above it.
            if getattr(owner, flag) != value:
                setattr(owner, flag, value)
        torch.set_deterministic_debug_mode(deterministic)
        torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)


def _variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}


def _flags() -> dict[str, Any]:
    import torch

    return {name: attrgetter(name)(torch.backends) for name in FLAGS}
