"""The server of a training run: what it may change."""

from __future__ import annotations

from dataclasses import dataclass

from swift.config.fields import above, named, option


@dataclass
class RolloutOptions:
    """Options of new weights."""

    allowed_update_path: str | None = option(
        None,
        "Folder in which saved models and adapters may lie that /update_weights and /update_adapter name; unset means "
        "that weights come in the body alone.",
        check=named,
    )
    max_update_size: float = option(
        64.0,
        "Largest body of /update_weights and /update_adapter; more is refused with 413.",
        unit="GiB",
        check=above(0),
    )
