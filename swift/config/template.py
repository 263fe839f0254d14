"""How messages become text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from swift.config.fields import at_least, option


@dataclass
class TemplateConfig:
    """Options of the template."""

    template: str | None = option(
        None,
        "For a base model without a chat template: chatml, llama, alpaca or plain; elsewhere accepted from old scripts "
        "and not needed.",
    )
    chat_template: str | None = option(None, "A .jinja file to use in place of the model's own template.")
    system: str | None = option(None, "System text for rows that have none: the text, or a .txt file.")
    enable_thinking: bool | None = option(None, "The template's thinking switch; unset means the template's default.")
    chat_template_kwargs: dict[str, Any] | None = option(None, "More variables for the chat template, as JSON.")


@dataclass
class TrainTemplateConfig(TemplateConfig):
    """Options of the template in training, where a row has a length to keep."""

    max_length: int | None = option(
        None, "Longest sample; unset means the model's own limit.", unit="tokens", check=at_least(1)
    )
    truncation_strategy: Literal["delete", "left", "right", "split", "raise"] = option(
        "delete",
        "What happens to a longer row: dropped and counted, cut on one side, cut into several samples, or an error.",
    )
