"""The switches of chat templates over reasoning, and what they do to a render."""

from __future__ import annotations

from typing import Any

from swift.errors import SwiftError
from swift.rows import THINKING
from swift.templates.closing import ANSWER, REASONING, TOOL, USER, Renderer

PRESERVING = {
    "preserve_thinking": True,
    "keep_past_thinking": True,
    "clear_thinking": False,
    "truncate_history_thinking": False,
}
"""Variables by which templates keep the reasoning of earlier turns, with the value that keeps it."""


def preserving(wanted: bool | None) -> dict[str, Any]:
    """The variables of `--preserve_thinking`; none where it is not set."""
    return {} if wanted is None else {name: keeps is wanted for name, keeps in PRESERVING.items()}


def check_preserving(renderer: Renderer, wanted: bool) -> None:
    """Stop where the template does otherwise than `--preserve_thinking` says.

    Raises:
        SwiftError: it drops, or keeps, the reasoning of earlier turns, and has no switch for it.
    """
    thought = {"role": "assistant", "content": ANSWER, "reasoning_content": REASONING, "thinking": REASONING}
    last = {"role": "assistant", "content": ANSWER}
    messages = [{"role": "user", "content": USER}, thought, {"role": "user", "content": USER}, last]
    for tools in (None, [TOOL]):
        try:
            kept = REASONING in renderer.plain(messages, tools, prompt=False)
        except SwiftError:
            continue
        if kept is not wanted:
            does = "keeps" if kept else "drops"
            raise SwiftError(
                f"--preserve_thinking {str(wanted).lower()}: the chat template {does} the reasoning of earlier turns "
                f"and has no switch for it ({', '.join(PRESERVING)})",
                fix="leave the option out; each turn then trains behind what it is served with"
                if wanted
                else "leave the option out, or give another template with --chat_template FILE.jinja",
            )
        return


def has_switch(renderer: Renderer) -> bool:
    """Whether the prompt with the thinking switch set off is another than the one with it set on."""
    messages = [{"role": "user", "content": USER}]
    for tools in (None, [TOOL]):
        try:
            prompts = {
                renderer.plain(messages, tools, prompt=True, **dict.fromkeys(THINKING, on)) for on in (True, False)
            }
        except SwiftError:
            continue
        return len(prompts) > 1
    return False
