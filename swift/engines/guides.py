"""Answers that must be something: JSON of a schema, a text that matches, one of several, by llguidance's grammars."""

from __future__ import annotations

import json
from collections.abc import Collection
from importlib.util import find_spec
from typing import Any

import torch

from swift.errors import SwiftError

COMPACT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON on one line: free white space lets a small model write line breaks for ever."""


class Guides:
    """Makes guides for one tokenizer; what llguidance needs of it is worked out once.

    Args:
        tokenizer: the model's.
        ends: tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, ends: Collection[int]) -> None:
        self._tokenizer, self._ends = tokenizer, sorted(ends)
        self._own: Any = None

    def make(self, wanted: dict[str, Any]) -> GrammarGuide:
        """A guide for one answer.

        Raises:
            SwiftError: llguidance is not installed, cannot read this tokenizer, or the grammar is wrong.
        """
        if find_spec("llguidance") is None:
            raise SwiftError(
                "structured answers need llguidance, which is not installed", fix="pip install 'ms-swift[serve]'"
            )
        from llguidance import LLMatcher

        grammar = grammar_of(wanted)
        matcher = LLMatcher(self._tokens(), grammar)
        if matcher.is_error():
            raise SwiftError(
                f"structured_outputs cannot be used: {matcher.get_error().strip()[:300]}",
                fix="mend the schema, expression or grammar",
            )
        return GrammarGuide(matcher, self._ends)

    def _tokens(self) -> Any:
        if self._own is None:
            from llguidance.hf import from_tokenizer

            try:
                self._own = from_tokenizer(self._tokenizer, eos_token=self._ends or None)
            except ValueError as error:
                raise SwiftError(
                    f"structured answers cannot be had with this tokenizer: {error}", fix="use a fast tokenizer"
                ) from error
        return self._own


class GrammarGuide:
    """The state of one answer in its grammar."""

    def __init__(self, matcher: Any, ends: list[int]) -> None:
        self._matcher, self._ends = matcher, ends

    def allowed(self) -> torch.Tensor:
        """bool[vocabulary]: the tokens that may come next; only an end once the grammar is through."""
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) > 0
        if self._matcher.is_stopped() or not allowed.any():
            allowed = torch.zeros_like(allowed)
            allowed[self._ends] = True
        return allowed

    def take(self, token: int) -> None:
        """The token that came."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)


def grammar_of(wanted: dict[str, Any]) -> str:
    """The grammar in llguidance's form.

    Raises:
        SwiftError: it is no schema, expression or list of texts.
    """
    from llguidance import LLMatcher

    if "regex" in wanted:
        return LLMatcher.grammar_from_regex(_text(wanted, "regex"))
    if "grammar" in wanted:
        return LLMatcher.grammar_from_lark(_text(wanted, "grammar"))
    if "choice" in wanted:
        choices = wanted["choice"]
        if not (isinstance(choices, list) and choices and all(isinstance(text, str) and text for text in choices)):
            raise SwiftError(f"structured_outputs.choice is {choices!r}", fix="give a list of texts")
        return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, choices)))
    schema = wanted.get("json", {"type": "object"})
    try:
        return LLMatcher.grammar_from_json_schema(schema, overrides=COMPACT)
    except (ValueError, TypeError) as error:
        raise SwiftError(f"structured_outputs.json is no JSON schema: {error}", fix="give a schema object") from error


def _text(wanted: dict[str, Any], kind: str) -> str:
    value = wanted[kind]
    if not isinstance(value, str) or not value:
        raise SwiftError(f"structured_outputs.{kind} is {value!r}", fix="give a text")
    return value
