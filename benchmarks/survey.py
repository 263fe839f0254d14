"""What becomes of conversations under each template of a folder: `python benchmarks/survey.py FOLDER [PAGE.md]`.

Every `.jinja` file meets a handful of conversations, on a byte-level vocabulary that holds its control tokens.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from swift.errors import SwiftError
from swift.templates.closing import MARK
from swift.templates.conversations import CONVERSATIONS, conversation_row
from swift.templates.template import Template

EOS = ("<|im_end|>", "<|eot_id|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>")

VARIABLES: dict[str, dict[str, Any]] = {
    "fireworks-ai-llama-3-firefunction-v2": {"functions": "[]", "datetime": "2026-01-01 12:00:00"}
}
"""What templates read besides messages and tools, as `--chat_template_kwargs` gives it."""


def byte_tokenizer(source: str) -> Any:
    """A byte-level tokenizer with the control tokens that a template's source spells out."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {char: at for at, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token=next((token for token in EOS if token in source), "</s>"),
        additional_special_tokens=sorted(set(MARK.findall(source))),
        chat_template=source,
    )


def outcome(template: Template, name: str) -> tuple[str, str]:
    """What becomes of one conversation, and why where nothing does."""
    template.notes.clear()
    try:
        samples = template.encode(conversation_row(name))
    except SwiftError as error:
        return "drops calls" if "drops the tool calls" in error.what else "refused", error.what
    return str(len(samples)) + (" −r" if template.notes["reasoning dropped by the template"] else ""), ""


def reasons(found: dict[tuple[str, str], list[str]]) -> str:
    """A table of what is refused and why.

    Args:
        found: template and reason -> conversations.
    """
    lines = ["| template | conversations | what it says |", "| --- | --- | --- |"]
    for (template, reason), names in found.items():
        told = " ".join(reason.replace("|", "\\|").split())
        every = "all" if len(names) == len(CONVERSATIONS) else ", ".join(names)
        lines.append(f"| {template} | {every} | {told} |")
    return "\n".join(lines)


def survey(folder: Path) -> str:
    """A table of templates and conversations, the totals, and why some are refused."""
    names = list(CONVERSATIONS)
    lines = [f"| template | stop | {' | '.join(names)} |", "| --- " * (len(names) + 2) + "|"]
    total: Counter[str] = Counter()
    refused: dict[tuple[str, str], list[str]] = {}
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        variables = VARIABLES.get(path.stem, {})
        template = Template(byte_tokenizer(source), source=path.stem, chat_template_kwargs=variables)
        cells = []
        for name in names:
            cell, reason = outcome(template, name)
            cells.append(cell)
            if reason:
                refused.setdefault((path.stem, reason), []).append(name)
        total.update("trained" if cell[0].isdigit() else cell for cell in cells)
        total["of them in more than one sample"] += sum(cell[0].isdigit() and cell[0] != "1" for cell in cells)
        lines.append(f"| {path.stem} | {_stops(template)} | {' | '.join(cells)} |")
    totals = "; ".join(f"{count} {kind}" for kind, count in total.most_common()) + "."
    return "\n".join([*lines, "", totals, "", "What is refused, and why:", "", reasons(refused)])


def put_section(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- end of NAME -->` in a page."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    head, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SwiftError(f"{page} has no section {name}", fix=f"put {begin.strip()} and {end} into it")
    page.write_text(f"{head}{begin}{text}\n{end}{tail}", encoding="utf-8")


def _stops(template: Template) -> str:
    try:
        stops = dict.fromkeys(template.stop_texts)
    except SwiftError:
        return "–"
    return " ".join(f"`{stop}`" for stop in stops).replace("\n", "\\n").replace("|", "\\|")


def main(words: list[str]) -> None:
    """Print the table of a folder, or put it into a page."""
    if len(words) not in (1, 2) or not Path(words[0]).is_dir():
        sys.exit("usage: python benchmarks/survey.py FOLDER [PAGE.md]")
    text = survey(Path(words[0]))
    if len(words) == 2:
        put_section(Path(words[1]), "survey", text)
    else:
        print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
