"""What the template stage does with each template of a folder: `python -m swift.templates.survey FOLDER`.

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
LEGEND = """\
One sample: all turns train in one text. *n* samples: the template rewrites earlier turns, so each turn trains in the
text it is served with. *reasoning dropped*: the template has no place for it (counted in the plan). *refused*: the
template itself raises an error. *drops calls*: it writes no tool calls, and rows with some are refused; give a template
that writes them with `--chat_template`. The stop column is the text that ends a trained turn, and that of a tool call
where it is another.
"""


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


def outcome(template: Template, name: str) -> str:
    """What becomes of one conversation."""
    template.notes.clear()
    try:
        samples = template.encode(conversation_row(name))
    except SwiftError as error:
        return "drops calls" if "drops the tool calls" in error.what else "refused"
    said = "one sample" if len(samples) == 1 else f"{len(samples)} samples"
    return said + (", reasoning dropped" if template.notes["reasoning dropped by the template"] else "")


def survey(folder: Path) -> str:
    """The page: a table of templates and conversations, and the totals."""
    names = list(CONVERSATIONS)
    lines = [
        "# Chat templates",
        "",
        LEGEND,
        f"| template | stop | {' | '.join(names)} |",
        "| --- " * (len(names) + 2) + "|",
    ]
    total: Counter[str] = Counter()
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        template = Template(byte_tokenizer(source), source=path.stem)
        cells = [outcome(template, name) for name in names]
        total.update("trained" if "sample" in cell else cell for cell in cells)
        lines.append(f"| {path.stem} | {_stops(template)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "; ".join(f"{count} {kind}" for kind, count in total.most_common()) + "."])


def _stops(template: Template) -> str:
    try:
        stops = dict.fromkeys(template.stop_texts)
    except SwiftError:
        return "–"
    return " ".join(f"`{stop}`" for stop in stops).replace("\n", "\\n").replace("|", "\\|")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python -m swift.templates.survey FOLDER")
    print(survey(Path(sys.argv[1])))
