from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from swift.compat import portable_config, portable_tokenizer_config, transformers_major
from swift.errors import SwiftError
from swift.models import load_model
from swift.models.save import save_pretrained, save_tokenizer
from swift.models.weights import prediction_heads, tensor_files, tensor_names

ARCHITECTURES = [
    ("LlamaForCausalLM", {}),
    ("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    ("Qwen3MoeForCausalLM", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
    ("MixtralForCausalLM", {"num_local_experts": 4}),
    ("GPT2LMHeadModel", {"n_embd": 32, "n_head": 4, "n_layer": 2}),
]
EXTRA = {
    "preprocessor_config.json": '{"size":   3}',
    "generation_config.json": '{"temperature": 0.7,   "do_sample": false}',
    "own_code.py": "x = 1\n",
    "LICENSE": "free",
    "vocab.txt": "a\n",
    "additional_chat_templates/tools.jinja": "{{ tools }}",
    "1_Pooling/config.json": "{ }",
}
LEFT = {
    "trainer_state.json": "{}",
    "checkpoint-1/config.json": "{}",
    "README.md": "about the base",
    ".hidden.json": "{}",
}


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in set(tensor_files(folder).values()):
        found |= load_file(file)
    return found


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(("architecture", "changes"), ARCHITECTURES)
@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
def test_an_untrained_model_is_saved_as_its_base(
    make_folder: Callable[..., Path], tmp_path: Path, architecture: str, changes: dict[str, Any], shard_size: str
) -> None:
    base, output = make_folder(architecture, **changes), tmp_path / "out"
    save_pretrained(load_model(base, device_map="cpu").model, output, base_dir=base, max_shard_size=shard_size)
    before, after = read_all(base), read_all(output)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    load_model(output, device_map="cpu")


def test_an_image_text_model_keeps_the_names_of_its_base(tmp_path: Path) -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    base, output = tmp_path / "base", tmp_path / "out"
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision = {"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, **small}
    text = {"model_type": "llama", "vocab_size": 64, **small}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=5, vision_feature_layer=-1)
    LlavaForConditionalGeneration(config).save_pretrained(base)
    # The names that published models have: those of transformers before 4.52.
    weights = load_file(base / "model.safetensors")
    legacy = {
        name.replace("model.language_model.", "language_model.model.").replace("model.vision", "vision"): tensor
        for name, tensor in weights.items()
    }
    save_file(legacy, base / "model.safetensors", metadata={"format": "pt"})
    loaded = load_model(base, device_map="cpu")
    save_pretrained(loaded.model, output, base_dir=base)
    assert tensor_names(output) == set(legacy)


def test_files_of_the_base_come_along_byte_for_byte(make_folder: Any, tmp_path: Path) -> None:
    base, output = make_folder(), tmp_path / "out"
    write(base, EXTRA | LEFT)
    save_pretrained(load_model(base, device_map="cpu").model, output, base_dir=base)
    for name in [*EXTRA, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]:
        assert (output / name).read_bytes() == (base / name).read_bytes(), name
    assert not any((output / name).exists() for name in LEFT)


def test_no_generation_config_is_made_up(make_folder: Any, tmp_path: Path) -> None:
    base, output = make_folder(), tmp_path / "out"
    (base / "generation_config.json").unlink()
    save_pretrained(load_model(base, device_map="cpu").model, output, base_dir=base)
    assert not (output / "generation_config.json").exists()


def test_an_unchanged_portable_config_keeps_its_bytes(make_folder: Any, tmp_path: Path) -> None:
    base, output = make_folder(), tmp_path / "out"
    raw = portable_config(json.loads((base / "config.json").read_text()))
    (base / "config.json").write_text(
        json.dumps({**raw, "own_key": [1, 2], "transformers_version": "4.40.0"}, indent=7)
    )
    model = load_model(base, device_map="cpu").model
    model.config.use_cache = False  # the Trainer does so
    model.config.pad_token_id = 5
    save_pretrained(model, output, base_dir=base)
    assert (output / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_only_what_changed_changes_in_config(make_folder: Any, edit_json: Any, tmp_path: Path) -> None:
    base, output = make_folder(vocab_size=64), tmp_path / "out"
    edit_json(base / "config.json", own_key={"a": None, "b": [1]}, dtype="float32", torch_dtype="float32")
    model = load_model(base, device_map="cpu").model
    model.resize_token_embeddings(80)
    model.to(torch.bfloat16)
    save_pretrained(model, output, base_dir=base)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (base, output))
    changed = {key for key in after if after[key] != before.get(key)}
    assert changed <= {"vocab_size", "dtype", "torch_dtype", "rope_theta"}
    assert after["vocab_size"] == 80 and after["dtype"] == after["torch_dtype"] == "bfloat16"
    assert after["own_key"] == {"a": None, "b": [1]}
    assert load_model(output, device_map="cpu").dtype in (torch.bfloat16, torch.float32)


def test_a_change_to_the_default_of_the_architecture_is_kept(make_folder: Any, tmp_path: Path) -> None:
    base, output = make_folder(rms_norm_eps=1e-5), tmp_path / "out"
    model = load_model(base, device_map="cpu").model
    model.config.rms_norm_eps = 1e-6  # what LlamaConfig has by default, and leaves out when it writes
    save_pretrained(model, output, base_dir=base)
    assert load_model(output, device_map="cpu").model.config.rms_norm_eps == 1e-6


def test_a_tied_weight_stored_twice_is_stored_twice_with_trained_values(make_folder: Any, tmp_path: Path) -> None:
    base, output = make_folder("Qwen2ForCausalLM", tie_word_embeddings=True), tmp_path / "out"
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    model = load_model(base, device_map="cpu").model
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(1.0)
    save_pretrained(model, output, base_dir=base)
    after = read_all(output)
    assert after.keys() == weights.keys()
    assert torch.equal(after["lm_head.weight"], weights["lm_head.weight"] + 1.0)
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])


def test_weights_that_the_architecture_does_not_load_are_carried_over(make_folder: Any, tmp_path: Path) -> None:
    base, output = make_folder(), tmp_path / "out"
    mtp = {"model.layers.2.mtp.weight": torch.arange(6.0).reshape(2, 3)}
    weights = load_file(base / "model.safetensors") | mtp
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    for size in ("5GB", "20KB"):
        save_pretrained(load_model(base, device_map="cpu").model, output / size, base_dir=base, max_shard_size=size)
        assert tensor_names(output / size) == set(weights)
        assert torch.equal(read_all(output / size)["model.layers.2.mtp.weight"], mtp["model.layers.2.mtp.weight"])
        load_model(output / size, device_map="cpu")


HEADS = {
    "DeepseekV3ForCausalLM": ("model.layers.2", {"num_nextn_predict_layers": 1, "first_k_dense_replace": 1}),
    "Glm4MoeForCausalLM": ("model.layers.2", {"num_nextn_predict_layers": 1, "first_k_dense_replace": 1}),
}
MIXED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}


@pytest.mark.parametrize("architecture", HEADS)
def test_heads_of_further_tokens_stay(make_folder: Any, tmp_path: Path, architecture: str) -> None:
    prefix, changes = HEADS[architecture]
    base, output = make_folder(architecture, **MIXED, **changes), tmp_path / "out"
    heads = {f"{prefix}.eh_proj.weight": torch.rand(32, 64), f"{prefix}.enorm.weight": torch.rand(32)}
    save_file(load_file(base / "model.safetensors") | heads, base / "model.safetensors", metadata={"format": "pt"})
    model = load_model(base, device_map="cpu").model
    assert prediction_heads(base, model.config.get_text_config()) == sorted(heads)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(1.0)
    save_pretrained(model, output, base_dir=base)
    after = read_all(output)
    assert after.keys() == read_all(base).keys()
    assert all(torch.equal(after[name], heads[name]) for name in heads)
    plain = make_folder(name="plain")
    assert prediction_heads(plain, load_model(plain, device_map="cpu").model.config) == []


def test_a_given_state_dict_is_what_is_saved(make_folder: Any, tmp_path: Path) -> None:
    base, output = make_folder(), tmp_path / "out"
    model = load_model(base, device_map="cpu").model
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    save_pretrained(model, output, base_dir=base, state_dict=state)
    after = read_all(output)
    assert all(torch.equal(after[name], state[name]) for name in after)


def test_contradicting_generation_settings_do_not_stop_a_save(make_folder: Any, tmp_path: Path) -> None:
    base, output = make_folder(), tmp_path / "out"
    model = load_model(base, device_map="cpu").model
    model.generation_config.temperature = 0.3
    model.generation_config.do_sample = False
    save_pretrained(model, output, base_dir=base)
    assert model.generation_config.temperature == 0.3


def test_bin_files_where_transformers_writes_them(make_folder: Any, tmp_path: Path) -> None:
    base, output = make_folder(), tmp_path / "out"
    model = load_model(base, device_map="cpu").model
    if transformers_major() >= 5:
        with pytest.raises(SwiftError, match="safetensors only"):
            save_pretrained(model, output, base_dir=base, safe_serialization=False)
        return
    save_pretrained(model, output, base_dir=base, safe_serialization=False)
    assert tensor_names(output) == tensor_names(base)


def test_a_tokenizer_is_copied(make_folder: Any, tmp_path: Path) -> None:
    base, output = make_folder(), tmp_path / "out"
    write(base, EXTRA)
    save_tokenizer(base, output)
    names = {str(file.relative_to(output)) for file in output.rglob("*") if file.is_file()}
    assert names == {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "vocab.txt",
        "additional_chat_templates/tools.jinja",
    }


def test_portable_texts() -> None:
    new = '{\n  "tokenizer_class": "TokenizersBackend",\n  "x":  1}'
    assert portable_tokenizer_config(new) == new.replace("TokenizersBackend", "PreTrainedTokenizerFast")
    raw = {
        "dtype": "bfloat16",
        "text_config": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}},
    }
    portable = portable_config(raw)
    assert portable["torch_dtype"] == "bfloat16"
    assert portable["text_config"]["rope_theta"] == 1e6
    assert portable["text_config"]["rope_scaling"] == {"rope_type": "yarn", "factor": 4.0}
    assert portable_config(portable) == portable
    mrope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}}
    assert portable_config(mrope)["rope_scaling"] == {"rope_type": "default", "mrope_section": [1, 1, 2]}
    assert portable_config({"num_local_experts": 4})["num_experts"] == 4
    newer = {"rope_parameters": {"rope_type": "axial", "rope_theta": 1.0}}
    assert portable_config(newer) == newer
    per_layer = {"rope_parameters": {"full_attention": {"rope_theta": 1.0}, "sliding_attention": {"rope_theta": 2.0}}}
    assert portable_config(per_layer) == per_layer
