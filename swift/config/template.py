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
        "For a base model without a chat template: chatml, llama, alpaca, plain or a .jinja file; elsewhere accepted "
        "from old scripts and not needed.",
    )
    chat_template: str | None = option(None, "A .jinja file to use in place of the model's own template.")
    system: str | None = option(None, "System text for rows that have none: the text, or a .txt file.")
    enable_thinking: bool | None = option(None, "The template's thinking switch; unset means the template's default.")
    preserve_thinking: bool | None = option(
        None,
        "Keep (true) or drop (false) the reasoning of earlier turns, by the template's own switch; unset means the "
        "template's default.",
        why="ms-swift edits the messages; a server that renders the template would not",
    )
    chat_template_kwargs: dict[str, Any] | None = option(None, "More variables for the chat template, as JSON.")
    agent_template: str | None = option(
        None,
        "How tools, calls and results become text for a model whose template knows no tools: react_en, react_zh, "
        "react_grpo, toolbench, hermes, qwen_en, qwen_zh, qwen_en_parallel or qwen_zh_parallel. Names of formats that "
        "chat templates write themselves are accepted and not needed.",
    )
    response_prefix: str | None = option(
        None, "Text behind every generation prompt, such as '<think>\\n': served, and not trained."
    )
    special_tokens_in_content: Literal["text", "refuse", "allow"] | None = option(
        None,
        "Control tokens spelled out in a row's contents: encoded as plain text, a bad row, or control tokens; unset "
        "means text.",
    )
    use_chat_template: bool | None = option(
        None, "false: contents are joined as they stand, for base models; unset means true."
    )


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
    loss_scale: str | None = option(
        None,
        "What is trained: default (the assistant's turns), last_round or all, joined with + to weights: react, hermes, "
        "qwen, agentflan, alpha_umi, ignore_empty_think, ignore_think_prefix, a .json file of patterns, or one from "
        "--external_plugins; unset means default.",
    )
    add_non_thinking_prefix: bool | None = option(
        None,
        "true: turns without reasoning are trained behind the prompt of the thinking switch set off; unset: false.",
        why="ms-swift's default writes the empty reasoning block into the answer and trains it",
    )
    new_special_tokens: list[str] = option(
        help="Special tokens to add, or .txt files of them; their embeddings are trained and saved.", factory=list
    )


@dataclass
class PtTemplateConfig(TrainTemplateConfig):
    """Options of the template in pre-training, where a text is trained as it stands and whole."""

    use_chat_template: bool | None = option(
        False,
        "false: contents are joined as they stand, the end of sequence behind each text or answer; true: by the "
        "template.",
    )
    loss_scale: str | None = option("all", "What is trained: all, or what fine-tuning takes (see swift sft --help).")
