"""Public templates with `{% generation %}` marks: what they cover beyond what we train is header or glue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swift.errors import SwiftError
from swift.templates import Template
from tests.templates.cases import CALLING, CONVERSATIONS, MASKS, TOOLS, clock_of, tokenizer_for

pytestmark = pytest.mark.skipif(not MASKS, reason="no shared folder with reference masks here")


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("path", MASKS, ids=lambda path: path.stem)
def test_reference_covers_ours(path: Path, name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = Template(tokenizer_for(path))
    messages, tools = CONVERSATIONS[name], TOOLS if name in CALLING else None
    compared = 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        template.notes.clear()
        history = [dict(m, loss=False) if m["role"] == "assistant" else m for m in messages[:index]]
        row: Any = {"messages": [*history, message], **({"tools": tools} if tools else {})}
        conversation = template._conversation(row["messages"], None)
        try:
            full = template.traced(conversation, tools)
            (sample,) = template._turns.samples(conversation, tools, [index], full)
        except SwiftError:
            continue
        with clock_of(template):
            (text,), (marks,) = render_jinja_template(
                [conversation],
                tools=tools,
                chat_template=template.tokenizer.chat_template,
                return_assistant_tokens_mask=True,
                **template.tokenizer.special_tokens_map,
            )
        if text != str.__getitem__(sample.text, slice(None)):
            assert any("served prompt" in note for note in template.notes)
            continue
        (span,) = sample.spans
        covered = {at for start, stop in marks for at in range(start, stop)}
        ours = set(range(span.start, span.stop))
        stop = len(template._turns.text_ending.stop)
        assert not {at for at in ours if at < span.stop - stop} - covered
        begin = min(start for start, end in marks if end > span.start)
        beyond = "".join(text[at] for at in sorted(covered - ours) if at >= begin)
        assert message["content"].strip() not in beyond or not message["content"]
        assert set(sample.text.origins[at] for at in covered - ours if at >= begin) <= {"\0"}
        compared += 1
    if not compared:
        pytest.skip("the template refuses this conversation, or is served unlike it renders")
