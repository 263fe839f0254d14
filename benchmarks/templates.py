"""ms-swift's registered templates beside the models' own: `templates.py FOLDER [--peer PYTHON] [--page FILE]`.

FOLDER holds the models' own `.jinja` files. Each family that the peer registers for one of those models renders five
conversations for training; the text is compared with what transformers renders from the model's own template. A token
at the very start and white space at the end are not compared, and reasoning may stand in its field or in the text.
`--page` writes the table into a page, `--show` prints where the texts part.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from processes import environment_of, find_peer, table
from survey import byte_tokenizer, put_section

from swift.templates import Template
from swift.templates.conversations import conversation_row

FAMILIES = {
    "ByteDance-Seed-OSS": "seed_oss",
    "GLM-4.6": "glm4_5",
    "Kimi-K2-Thinking": "kimi_k2",
    "Kimi-K3": "kimi_k3",
    "MiMo-VL": "mimo_vl",
    "MiniMax-M1": "minimax_m1",
    "MiniMax-M3": "minimax_m3_vl",
    "Qwen-QwQ-32B": "qwq",
    "Qwen-Qwen2.5-7B-Instruct": "qwen2_5",
    "Qwen-Qwen3-0.6B": "qwen3",
    "Qwen3-Coder": "qwen3_coder",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "deepseek_r1",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek_r1",
    "deepseek-ai-DeepSeek-V3.1": "deepseek_v3_1",
    "deepseek-ai-DeepSeek-V4": "deepseek_v4",
    "google-gemma-4-31B-it": "gemma4",
    "inclusionai-ling-3.0-flash": "ling3",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3_2",
    "meta-llama-Llama-3.3-70B-Instruct": "llama3_2",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral_nemo",
    "moonshotai-Kimi-K2": "kimi_k2",
    "openai-gpt-oss-120b": "gpt_oss",
    "openbmb-MiniCPM5-1B": "minicpm5",
}
"""Template of the collection -> what the peer's own model table gives that model."""

STARTS = ("<s>", "<｜begin▁of▁sentence｜>", "<bos>", "<|begin_of_text|>")
NAMES = ("one turn", "three turns", "system", "reasoning", "tools")
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "num_attention_heads": 1}
CONFIG |= {"num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 1024, "max_position_embeddings": 65536}


def own_texts(tokenizer: Any, name: str) -> list[str]:
    """What transformers renders of either way to write the row; nothing where the model's template refuses it."""
    found = []
    for row in (conversation_row(name), peer_row(name)):
        try:
            found.append(tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False))  # type: ignore[typeddict-item]
        except Exception:
            continue
    # A template that leaves a last turn open gets the token that ends it, from us as from the peer.
    return found + [text + stop for text in found for stop in Template(tokenizer).stop_texts]


def peer_row(name: str) -> dict[str, Any]:
    """The row as the peer documents it: reasoning stands in the text."""
    row: Any = {**conversation_row(name)}
    messages = []
    for message in row["messages"]:
        thought = message.get("reasoning_content")
        kept = {key: value for key, value in message.items() if key != "reasoning_content"}
        if thought:
            kept["content"] = f"<think>\n{thought}\n</think>\n\n{message['content']}"
        messages.append(kept)
    return {**row, "messages": messages}


def compare(own: list[str], other: dict[str, str]) -> str:
    """One cell of the table."""
    if not own:
        return "–"
    if "error" in other:
        return "fails"
    return "same" if bare(other["text"]) in map(bare, own) else "differs"


def bare(text: str) -> str:
    """A text without its first token, where that marks the start, and without white space at its end."""
    for start in STARTS:
        text = text.removeprefix(start)
    return text.rstrip()


def parting(own: str, other: str) -> str:
    """Where two texts part, with a little of both."""
    at = next((k for k, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), min(len(own), len(other)))
    return f"{own[max(0, at - 30) : at]!r} own {own[at : at + 60]!r} peer {other[at : at + 60]!r}"


def ask_peer(python: str, folder: Path, tokenizers: dict[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
    """The texts of the peer, by family and conversation."""
    families = []
    for name, tokenizer in tokenizers.items():
        place = folder / name
        tokenizer.save_pretrained(place)
        (place / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        families.append({"name": name, "template": FAMILIES[name], "tokenizer": str(place)})
    job = {"families": families, "rows": {name: peer_row(name) for name in NAMES}}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    script = Path(__file__).with_name("peer_render.py").resolve()
    command = [python, str(script), str(folder / "job.json"), str(folder / "answers.json")]
    done = subprocess.run(
        command, env=environment_of(ours=False), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        sys.exit(f"the peer failed:\n{done.stdout.decode(errors='replace')[-2000:]}")
    answers: dict[str, dict[str, dict[str, str]]] = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return answers


def main() -> None:
    """Compare, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the models' own .jinja files")
    parser.add_argument("--peer", metavar="PYTHON", help="interpreter of an environment with ms-swift 4.6")
    parser.add_argument("--page", type=Path, help="Markdown page whose section is replaced")
    parser.add_argument("--show", action="store_true", help="print where the texts part, or the error")
    options = parser.parse_args()

    python = find_peer(options.peer)
    if python is None:
        sys.exit("no environment with ms-swift: name one with --peer, or make .venv-peer")
    paths = [options.folder / f"{name}.jinja" for name in FAMILIES]
    tokenizers = {path.stem: byte_tokenizer(path.read_text(encoding="utf-8")) for path in paths if path.is_file()}
    with tempfile.TemporaryDirectory() as folder:
        answers = ask_peer(python, Path(folder), tokenizers)
    lines, same, asked = [], 0, 0
    for family, tokenizer in tokenizers.items():
        owns = {name: own_texts(tokenizer, name) for name in NAMES}
        cells = [compare(owns[name], answers[family][name]) for name in NAMES]
        asked, same = asked + len(cells) - cells.count("–"), same + cells.count("same")
        lines.append([family, f"`{FAMILIES[family]}`", *cells])
        for name, cell in zip(NAMES, cells, strict=True):
            if options.show and cell in ("differs", "fails"):
                own, other = bare(owns[name][0]), answers[family][name]
                print(family, name, other.get("error") or parting(own, bare(other["text"])), sep=" | ", file=sys.stderr)
    shown = table(["model", "its template", *NAMES], lines)
    total = f"The text is the same in {same} of the {asked} conversations that the models' own templates take."
    if options.page:
        put_section(options.page, "peer", f"{shown}\n\n{total}")
    else:
        print(f"{shown}\n\n{total}")


if __name__ == "__main__":
    main()
