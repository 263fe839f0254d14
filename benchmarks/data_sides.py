"""One side of the data benchmark, in a process of its own: prints one JSON object.

Every side reads the same file of conversations. Time starts when the tokenizer is loaded and the libraries are
imported, and ends when all rows are read, rendered, masked, tokenised and packed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\n' }}{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)
"""The demo model's turns, with the marks that TRL reads the assistant's tokens off."""


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """Our way, as `swift sft` goes it."""
    from swift.config import DataConfig
    from swift.data import encode_rows, load_rows, plan_packs
    from swift.models.load import load_tokenizer
    from swift.templates import load_template

    template = load_template(load_tokenizer(options.model))
    clock = Clock()
    rows = load_rows([str(options.file)], DataConfig(), seed=0, shuffle=True)
    samples = encode_rows(
        rows, template, max_length=options.length, truncation_strategy="delete", num_proc=options.num_proc
    )
    packs = plan_packs(samples.lengths, options.length, "binpack")
    return clock.figures(len(samples), int(samples.lengths.sum()), len(packs))


def bare(options: argparse.Namespace) -> dict[str, Any]:
    """The limit: the tokenizer alone, over all rendered texts at once; no reading, no masks, no packs."""
    from swift.models.load import load_tokenizer
    from swift.templates import load_template

    tokenizer = load_tokenizer(options.model)
    template = load_template(tokenizer)
    with options.file.open(encoding="utf-8") as file:
        texts = [template.render(json.loads(line)["messages"]) for line in file]
    backend, tokens = tokenizer.backend_tokenizer, 0
    clock = Clock()
    for start in range(0, len(texts), 1000):
        tokens += sum(map(len, backend.encode_batch(texts[start : start + 1000], add_special_tokens=False)))
    return clock.figures(len(texts), tokens, 0)


def trl(options: argparse.Namespace) -> dict[str, Any]:
    """What TRL's SFTTrainer does with `assistant_only_loss` and `packing`: a map over rows, then `pack_dataset`."""
    from datasets import disable_caching, load_dataset
    from transformers import AutoTokenizer
    from trl import pack_dataset

    disable_caching()
    tokenizer = AutoTokenizer.from_pretrained(options.model)

    def tokenise(row: dict[str, Any]) -> dict[str, Any]:
        found = tokenizer.apply_chat_template(
            row["messages"], chat_template=CHATML, return_dict=True, return_assistant_tokens_mask=True
        )
        return {"input_ids": found["input_ids"], "assistant_masks": found["assistant_masks"]}

    clock = Clock()
    rows = load_dataset("json", data_files=str(options.file), split="train", cache_dir=str(options.folder))
    mapped = rows.map(tokenise, remove_columns=rows.column_names, num_proc=workers(options))
    tokens = sum(map(len, mapped["input_ids"]))
    packed = pack_dataset(mapped, options.length, "bfd", map_kwargs={"num_proc": workers(options)})
    return clock.figures(len(mapped), tokens, len(packed))


def peer(options: argparse.Namespace) -> dict[str, Any]:
    """ms-swift as its `swift sft --packing true` prepares data: `load_dataset`, encoded by a map, and packed.

    Its map keeps the lengths alone; rows are encoded once more when the training loop asks for them.
    """
    from swift.dataset import AddLengthPreprocessor, PackingDataset, load_dataset
    from swift.model import get_processor
    from swift.template import get_template

    processor = get_processor(str(options.model), model_type="llama")
    template = get_template(processor, template_type="chatml", max_length=options.length)
    template.set_mode("train")
    template.packing = template.padding_free = True
    clock = Clock()
    rows, _ = load_dataset([str(options.file)], num_proc=options.num_proc, load_from_cache_file=False)
    mapped = AddLengthPreprocessor(template=template)(rows, num_proc=options.num_proc, load_from_cache_file=False)
    packed = PackingDataset(
        template, mapped, num_proc=options.num_proc, packing_length=options.length, load_from_cache_file=False
    )
    tokens = sum(each if isinstance(each, int) else sum(each) for each in mapped["lengths"])
    return clock.figures(len(mapped), tokens, len(packed))


def workers(options: argparse.Namespace) -> int | None:
    """Processes for a map of `datasets`, which takes none for one."""
    return options.num_proc if options.num_proc > 1 else None


class Clock:
    """Wall time, and processor time of this process and its ended children, since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), sum(os.times()[:4])

    def figures(self, rows: int, tokens: int, packs: int) -> dict[str, Any]:
        """The figures of a side."""
        seconds, cpu = time.perf_counter() - self.wall, sum(os.times()[:4]) - self.cpu
        return {"seconds": seconds, "cpu_seconds": cpu, "rows": rows, "tokens": tokens, "packs": packs}


def main() -> None:
    """Run the side that is named."""
    sides = {"swift": ours, "tokenizer": bare, "trl": trl, "ms-swift": peer}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=sides)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--num_proc", type=int, default=1)
    parser.add_argument("--length", type=int, default=4096)
    options = parser.parse_args()
    print("\n" + json.dumps(sides[options.side](options)))


if __name__ == "__main__":
    main()
