"""What the other environment does for `test_across.py`: `python -m tests.compat.other full|lora|merge|answer …`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

QUESTION = "What is the capital of France?"


def train(output: str, *options: str) -> str:
    """A short run on the demo model; prints its checkpoint."""
    from swift.config import SftConfig
    from swift.config.build import read_arguments
    from swift.train.sft import sft

    words = f"""--model demo --dataset self-cognition#8 --model_name Swift --model_author Us --max_length 256
        --torch_dtype float32 --per_device_train_batch_size 1 --gradient_accumulation_steps 1 --learning_rate 1e-4
        --logging_steps 1 --report_to none --add_version false --use_cpu true --output_dir {output}"""
    return str(sft(read_arguments(SftConfig, [*words.split(), *options])).checkpoint)


def merge(adapter: str, output: str) -> str:
    """The adapter merged into the demo model."""
    from swift.cli.main import main

    assert main(["merge-lora", "--adapters", adapter, "--output_dir", output]) == 0
    return output


def answer(folder: str) -> dict[str, Any]:
    """Ids and greedy answer of plain transformers, and the numbers of the first place that is predicted."""
    import torch
    import transformers
    from peft import PeftModel

    settings = Path(folder, "adapter_config.json")
    base = json.loads(settings.read_text())["base_model_name_or_path"] if settings.is_file() else folder
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if settings.is_file():
        model = PeftModel.from_pretrained(model, folder)
    model.eval()
    messages = [{"role": "user", "content": QUESTION}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        logits = model(**ids).logits[0, -1]
        out = model.generate(**ids, max_new_tokens=24, do_sample=False)
    return {
        "version": transformers.__version__,
        "ids": out[0].tolist(),
        "answer": tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True),
        "logits": logits[:64].tolist(),
    }


if __name__ == "__main__":
    result = {"train": train, "merge": merge, "answer": answer}[sys.argv[1]](*sys.argv[2:])
    print("\n" + json.dumps(result))
