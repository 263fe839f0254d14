"""The requests of `serve.py` in static batches by transformers' `generate`, without a server."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Read {model, dtype, batch, tokens, prompts} from a file; print seconds and generated tokens as JSON."""
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(given["model"], padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=given["dtype"]).eval()

    def batch_of(prompts: list[str]) -> torch.Tensor:
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**inputs, do_sample=False, max_new_tokens=given["tokens"])
        return out[:, inputs["input_ids"].shape[1] :]

    prompts, size = given["prompts"], given["batch"]
    with torch.inference_mode():
        batch_of(prompts[:1])
        began, tokens = time.perf_counter(), 0
        for start in range(0, len(prompts), size):
            ends = batch_of(prompts[start : start + size]) == tokenizer.eos_token_id
            # Up to the first end, that one included.
            tokens += int((ends.cumsum(1) - ends.long() == 0).sum())
        print(json.dumps({"seconds": time.perf_counter() - began, "tokens": tokens}))


main()
