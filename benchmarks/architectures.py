"""Tries every causal language model of the installed transformers: `architectures.py OUT.json [--only NAME ...]`.

For each architecture a tiny random model is saved, loaded as `swift sft` loads it, given LoRA on all linear modules,
trained for one step, and asked to generate. Proved is what ran: the loss is finite and every adapter got a gradient.
Each runs in a process of its own, with limits of time and memory. `swift models` reads the result from
`swift/models/table/sweep.json`, with the architectures that transformers has at all.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import tempfile
import warnings
from pathlib import Path
from typing import Any

VOCABULARY = 256
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "d_model": 64,
    "n_embd": 64,
    "n_embed": 64,
    "dim_model": 64,
    "embedding_size": 64,
    "emb_dim": 64,
    "intermediate_size": 64,
    "ffn_dim": 64,
    "d_ff": 64,
    "dim_ff": 64,
    "n_inner": 64,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "decoder_ffn_dim": 64,
    "encoder_ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "decoder_layers": 2,
    "encoder_layers": 2,
    "num_decoder_layers": 2,
    "num_encoder_layers": 2,
    "num_attention_heads": 4,
    "num_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "attention_head_size": 16,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "o_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "n_ctx": 128,
    "mamba_d_state": 16,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "lru_width": 64,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 16,
    "sliding_window": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Sizes by the names that configurations give them; a configuration takes those that it has."""

EXACT = Path(__file__).parent / "architectures.json"
"""Sizes by model type, where the general ones do not fit together."""

TABLES = Path(__file__).parents[1] / "swift" / "models" / "table"

BEYOND_TEXT = ("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "VISUAL_QUESTION_ANSWERING", "SPEECH_SEQ_2_SEQ")
"""Parts of the names of transformers' lists of models that take more than text."""

MEMORY, SECONDS = 8 << 30, 150


def tiny_config(model_type: str) -> Any:
    """A small configuration of that type."""
    from transformers import CONFIG_MAPPING

    exact = json.loads(EXACT.read_text(encoding="utf-8")).get(model_type, {})
    return CONFIG_MAPPING[model_type](**_sizes(CONFIG_MAPPING[model_type](), exact))


def _sizes(default: Any, exact: dict[str, Any]) -> dict[str, Any]:
    there, sizes = default.to_dict(), {}
    for name, size in (SIZES | exact).items():
        if name not in exact and (name not in there or (there[name] is None and not name.endswith("token_id"))):
            continue
        if not isinstance(size, dict):
            sizes[name] = size
    for name in there:
        inner = vars(default).get(name)
        if hasattr(inner, "to_dict"):
            sizes[name] = _sizes(inner, exact.get(name, {}))
    if "kv_lora_rank" in sizes and "head_dim" in sizes and "head_dim" not in exact:
        del sizes["head_dim"]
    return {name: size for name, size in sizes.items() if size != "default"}


def prove(model_type: str) -> dict[str, Any]:
    """Save, load, adapt, train and generate; the facts that were seen."""
    import torch
    from transformers import AutoModelForCausalLM

    from swift.config import TunerConfig
    from swift.models.load import load_model
    from swift.tasks.token_logps import takes_logits_to_keep, token_logps
    from swift.tuners.lora import lora

    torch.manual_seed(0)
    config = tiny_config(model_type)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        base = load_model(folder, dtype="float32", for_training=True).model
    model = lora(base, TunerConfig(target_modules=["all-linear"], lora_rank=4, lora_dropout=0.0))
    ids = torch.randint(3, VOCABULARY, (2, 16))
    batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    select = takes_logits_to_keep(base)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    losses = []
    for _ in range(2):
        loss = -token_logps(model, batch, select=select)[0].logps.mean()
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        # In a fresh adapter only B has a gradient: A is multiplied by B, which is zero.
        without = [name for name, value in model.named_parameters() if "lora_B" in name and value.grad is None]
        optimizer.step()
    if not all(map(math.isfinite, losses)):
        raise ValueError(f"losses {losses}")
    adapters = sum("lora_B" in name for name, _ in model.named_parameters())
    moved = sum(bool(value.abs().sum() > 0) for name, value in model.named_parameters() if "lora_B" in name)
    if not moved:
        raise ValueError("no adapter learned")
    model.eval()
    out = model.generate(input_ids=ids[:1, :8], attention_mask=torch.ones(1, 8, dtype=torch.long), max_new_tokens=4,
                         do_sample=False, pad_token_id=0)  # fmt: skip
    return {
        "loss": [round(value, 4) for value in losses],
        "adapters": adapters,
        "idle_adapters": len(without),
        "generated": int(out.shape[1] - 8),
    }


def _child(model_type: str, out: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    try:
        out.send({"proved": True, **prove(model_type)})
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        out.send({"proved": False, "error": f"{type(error).__name__}: {reason}"})


def run(model_type: str) -> dict[str, Any]:
    """Prove one architecture in a child process."""
    receive, send = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(model_type, send))
    child.start()
    send.close()
    try:
        answer = receive.recv() if receive.poll(SECONDS) else {"proved": False, "error": f"more than {SECONDS} s"}
    except EOFError:
        answer = {"proved": False, "error": "the process died"}
    child.kill()
    child.join()
    return dict(answer)


def known_architectures() -> dict[str, list[str]]:
    """Architectures of the table of models that transformers has itself: for text, and for more than text."""
    from transformers.models.auto import modeling_auto

    names: dict[bool, set[str]] = {False: set(), True: set()}
    for mapping, classes in vars(modeling_auto).items():
        if mapping.startswith("MODEL_") and mapping.endswith("_MAPPING_NAMES") and hasattr(classes, "values"):
            several = any(word in mapping for word in BEYOND_TEXT)
            for entry in classes.values():
                names[several].update([entry] if isinstance(entry, str) else entry)
    table = json.loads((TABLES / "models.json").read_text(encoding="utf-8"))
    wanted = {(group.get("built_as", name), group["multimodal"]) for group in table for name in group["architectures"]}
    return {
        "text": sorted(name for name, several in wanted if not several and name in names[False] | names[True]),
        "multimodal": sorted(name for name, several in wanted if several and name in names[True]),
    }


def write(path: Path, version: str, found: dict[str, Any]) -> None:
    """Write what was found: a line for each architecture that ran."""
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(result)}" for name, result in sorted(found.items()))
    known = ",\n".join(f"  {json.dumps(kind)}: {json.dumps(names)}" for kind, names in known_architectures().items())
    text = f'{{\n "transformers": "{version}",\n "known": {{\n{known}\n }},\n "results": {{\n{lines}\n }}\n}}\n'
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Run the sweep and write its result after each architecture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", help="model types; all where it is left out")
    parser.add_argument("--failed", action="store_true", help="those that OUT.json says failed")
    options = parser.parse_args()

    import torch
    import transformers
    from peft import get_peft_model  # noqa: F401  (imported once, before the children are forked)
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found: dict[str, Any] = {}
    if options.out.is_file():
        earlier = json.loads(options.out.read_text(encoding="utf-8"))
        found = earlier["results"] if earlier["transformers"] == transformers.__version__ else {}
    wanted = options.only or list(NAMES)
    if options.failed:
        wanted = [name for name in wanted if not found.get(name, {}).get("proved")]
    for number, model_type in enumerate(wanted, 1):
        result = {"architecture": NAMES[model_type], **run(model_type)}
        found[model_type] = result
        write(options.out, transformers.__version__, found)
        print(f"{number}/{len(wanted)} {model_type}: {result.get('error', 'proved')}", flush=True)


if __name__ == "__main__":
    main()
