"""For which machine and which samples settings are proposed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from swift.config.fields import at_least, option

GPUS = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)(?:gi?b?)?", re.IGNORECASE)
"""8x80: how many GPUs, and GiB of each."""


def _gpus(value: str | None) -> str | None:
    found = GPUS.fullmatch(value.strip()) if value is not None else None
    if value is None or (found and int(found[1] or 1) and float(found[2])):
        return None
    return "must be NUMBERxGIB, such as 8x80 for eight GPUs of 80 GiB"


@dataclass
class MachineConfig:
    """Options of the machine and of the samples that settings are proposed for."""

    gpus: str | None = option(
        None, "GPUs, as NUMBERxGIB: 8x80 is eight of 80 GiB. Unset means what this machine has free.", check=_gpus
    )
    train_type: list[Literal["full", "lora", "qlora"]] = option(
        help="Kinds of training to plan; qlora is lora on a base of 4 bits.",
        factory=lambda: ["full", "lora", "qlora"],
        aliases=("tuner_type",),
    )
    max_length: int | None = option(
        None, "Tokens of the longest sample; unset means the model's limit, 4096 at most.", check=at_least(2)
    )
    global_batch_size: int = option(16, "Samples of a step, over all devices.", check=at_least(1))
    lora_rank: int = option(8, "Rank of LoRA's matrices.", check=at_least(1))
