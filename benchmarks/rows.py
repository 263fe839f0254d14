"""Writes the rows of a benchmark, and their token ids for the bare loop: `rows.py FOLDER --rows 50 --length 512`.

Three kinds: `full`, where the words of the answer are counted out so that every sample has exactly `--length` tokens,
nearly all of them trained; `chat`, with answers as long as those of ordinary chats: 20 to 1,000 words, half of them
below 180; and `mixed`, the self-cognition rows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swift.config import DataConfig
from swift.data.self_cognition import read_self_cognition
from swift.hub import resolve
from swift.models.load import choose_loading, load_tokenizer
from swift.templates import load_template

SYSTEM = "You are a helpful assistant."
WORDS = (
    "the of and to in is that for it was on are as with they be at one have this from by hot but some what there we "
    "can out other were all your when up use word how said an each she which do their time if will way about many "
    "then them would write like so these her long make thing see him two has look more day could go come did my no"
)
"""Words that are one token each with a space in front."""


def messages_of(query: str, response: str) -> list[dict[str, str]]:
    """A conversation with its own system message, so that no template adds another one."""
    roles = ("system", "user", "assistant")
    return [{"role": role, "content": text} for role, text in zip(roles, (SYSTEM, query, response), strict=True)]


def full_rows(template: Any, length: int) -> Iterator[list[dict[str, str]]]:
    """Conversations of exactly `length` tokens."""
    chance = random.Random(0)
    [frame] = template.encode({"messages": messages_of("Write.", "Once")})
    while True:
        words = ["Once", *chance.choices(WORDS.split(), k=length - frame.length)]
        yield messages_of("Write.", " ".join(words))


def chat_rows() -> Iterator[list[dict[str, str]]]:
    """Conversations whose lengths are spread as those of chats are, log-normally."""
    chance = random.Random(0)
    while True:
        words = [chance.choices(WORDS.split(), k=_words(chance, median)) for median in (25, 180)]
        yield messages_of(*map(" ".join, words))


def _words(chance: random.Random, median: int) -> int:
    return min(1000, max(20, round(chance.lognormvariate(math.log(median), 0.8))))


def mixed_rows() -> Iterator[list[dict[str, str]]]:
    """The self-cognition rows, in a fixed random order, over and over."""
    config = DataConfig(model_name=["Robin"], model_author=["the Swift team"])
    rows = [record for record, _ in read_self_cognition(config)]
    random.Random(0).shuffle(rows)
    for row in itertools.cycle(rows):
        yield messages_of(row["query"], row["response"])


def main() -> None:
    """Write rows.jsonl and samples.json into the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--lengths", choices=("full", "chat", "mixed"), default="full")
    parser.add_argument("--model", default="demo")
    options = parser.parse_args()

    model = resolve(options.model).path
    template = load_template(load_tokenizer(model))
    sources = {"full": lambda: full_rows(template, options.length), "chat": chat_rows, "mixed": mixed_rows}
    rows = list(itertools.islice(sources[options.lengths](), options.rows))
    samples = [sample for messages in rows for sample in template.encode({"messages": messages})]
    if options.lengths == "full":
        assert {sample.length for sample in samples} == {options.length}, "a word is not one token"
    with open(options.folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for messages in rows:
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    loading = choose_loading(
        model, dtype="auto", attn_impl=None, device_map=None, trust_remote_code=False, for_training=True
    )
    content = {
        "model": str(model),
        "gpu": loading.device.type == "cuda",
        "dtype": str(loading.dtype.dtype).removeprefix("torch."),
        "samples": [{"input_ids": sample.input_ids.tolist(), "labels": sample.labels.tolist()} for sample in samples],
        "lengths": [sample.length for sample in samples],
        "trained": [sample.trained for sample in samples],
    }
    (options.folder / "samples.json").write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()
