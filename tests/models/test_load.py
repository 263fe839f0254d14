from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.config import ModelConfig
from swift.errors import SwiftError
from swift.models import load_config, load_model, load_tokenizer
from swift.models.skeleton import model_skeleton
from swift.plugins import load_plugins

ARCHITECTURES = [
    ("LlamaForCausalLM", {}),
    ("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    ("Qwen3MoeForCausalLM", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
    ("GPT2LMHeadModel", {"n_embd": 32, "n_head": 4, "n_layer": 2}),
    ("MambaForCausalLM", {"state_size": 4}),
    ("LlamaForSequenceClassification", {"pad_token_id": 63}),
    ("T5ForConditionalGeneration", {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}),
]


@pytest.mark.parametrize(("architecture", "changes"), ARCHITECTURES)
def test_any_architecture_loads_with_the_same_weights(
    make_folder: Callable[..., Path], build: Callable[..., Any], architecture: str, changes: dict[str, Any]
) -> None:
    loaded = load_model(make_folder(architecture, **changes), device_map="cpu")
    assert type(loaded.model).__name__ == architecture
    expected = build(architecture, **changes).state_dict()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_an_image_text_model_loads(tmp_path: Path) -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision = {"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, **small}
    text = {"model_type": "llama", "vocab_size": 64, **small}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=5, vision_feature_layer=-1)
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device_map="cpu")
    assert type(loaded.model).__name__ == "LlavaForConditionalGeneration"


def test_the_auto_class_is_taken_where_config_names_no_class(make_folder: Any, edit_json: Any) -> None:
    folder = make_folder()
    edit_json(folder / "config.json", architectures=None)
    loaded = load_model(folder, device_map="cpu")
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert loaded.reasons["architecture"] == "AutoModelForCausalLM, for model type llama"


def test_every_choice_has_a_reason(make_folder: Any) -> None:
    loaded = load_model(make_folder(), device_map="cpu")
    assert {"architecture", "device", "dtype", "attention"} <= set(loaded.reasons)
    assert all(loaded.reasons.values())
    assert loaded.attn == "sdpa" and loaded.device.type == "cpu"


def test_train_mode_only_for_training(make_folder: Any) -> None:
    folder = make_folder()
    assert not load_model(folder, device_map="cpu").model.training
    assert load_model(folder, device_map="cpu", for_training=True).model.training


@pytest.mark.parametrize("name", ["eager", "sdpa", "flex_attention"])
def test_attention_by_name(make_folder: Any, name: str) -> None:
    assert load_model(make_folder(), attn_impl=name, device_map="cpu").attn == name


@pytest.mark.parametrize("name", ["flash_attn", "flash_attention_2", "flash_attention_3", "nonsense"])
def test_attention_that_cannot_run_is_refused_before_weights_are_read(make_folder: Any, name: str) -> None:
    folder = make_folder()
    with pytest.raises(SwiftError) as caught:
        load_model(folder, attn_impl=name, device_map="cpu")
    assert name in str(caught.value) and "--attn_impl" in str(caught.value)


def test_an_architecture_without_flex_attention_says_so(make_folder: Any) -> None:
    with pytest.raises(SwiftError, match="MambaForCausalLM has no flex_attention"):
        load_model(make_folder("MambaForCausalLM", state_size=4), attn_impl="flex_attention", device_map="cpu")


def test_explicit_dtype(make_folder: Any) -> None:
    loaded = load_model(make_folder(), dtype="bf16", device_map="cpu")
    assert loaded.dtype == torch.bfloat16 and loaded.reasons["dtype"].startswith("asked for")
    with pytest.raises(SwiftError, match="unknown dtype 'int3'"):
        load_model(make_folder(name="other"), dtype="int3")


def test_remote_code_is_not_run_unasked(make_folder: Any, edit_json: Any, tmp_path: Path) -> None:
    folder = make_folder()
    witness = tmp_path / "ran"
    (folder / "own_code.py").write_text(f"open({str(witness)!r}, 'w').close()\nclass OwnConfig: pass\n")
    edit_json(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own_code.OwnConfig"})
    with pytest.raises(SwiftError) as caught:
        load_model(folder)
    assert "--trust_remote_code true" in str(caught.value) and "own_code.py" in str(caught.value)
    assert not witness.exists()


def test_remote_code_runs_when_trusted(make_folder: Any, edit_json: Any, monkeypatch: Any, tmp_path: Path) -> None:
    folder = make_folder()
    (folder / "own_code.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own_llama'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    auto_map = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnModel"}
    edit_json(folder / "config.json", model_type="own_llama", auto_map=auto_map, architectures=["OwnModel"])
    loaded = load_model(folder, trust_remote_code=True, device_map="cpu")
    assert type(loaded.model).__name__ == "OwnModel"


def test_an_unknown_architecture_without_code_says_to_upgrade(make_folder: Any, edit_json: Any) -> None:
    folder = make_folder()
    edit_json(folder / "config.json", model_type="from_the_future")
    with pytest.raises(SwiftError, match="does not know the architecture 'from_the_future'"):
        load_model(folder)


def test_missing_shards_are_named(make_folder: Any, build: Any, tmp_path: Path) -> None:
    folder = make_folder()
    (folder / "model.safetensors").unlink()
    build("LlamaForCausalLM").save_pretrained(folder, max_shard_size="20KB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(SwiftError, match=shard.name):
        load_model(folder)


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
def test_broken_weights(make_folder: Any, damage: str) -> None:
    file = make_folder() / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "garbage":
        file.write_bytes(b"not safetensors at all, whatever its name says")
    else:
        file.unlink()
    with pytest.raises(SwiftError) as caught:
        load_model(file.parent)
    assert str(file.parent) in str(caught.value) and "download the model again" in str(caught.value)


def test_broken_bin_weights(make_folder: Any) -> None:
    folder = make_folder()
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    with pytest.raises(SwiftError):
        load_model(folder, device_map="cpu")


def test_weights_that_would_stay_random_are_an_error(make_folder: Any) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_folder()
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SwiftError, match=r"1 weights .* model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(folder, device_map="cpu")


def test_weights_of_another_shape(make_folder: Any, edit_json: Any) -> None:
    folder = make_folder()
    edit_json(folder / "config.json", vocab_size=65)
    with pytest.raises(SwiftError):
        load_model(folder, device_map="cpu")


def test_unused_weights_are_reported(make_folder: Any) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_folder()
    weights = load_file(folder / "model.safetensors") | {"mtp.head.weight": torch.ones(2, 2)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "mtp.head.weight" in load_model(folder, device_map="cpu").reasons["unused weights"]


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(SwiftError, match=r"no config\.json"):
        load_config(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"no": "type"}'])
def test_broken_config(make_folder: Any, text: str) -> None:
    folder = make_folder()
    (folder / "config.json").write_text(text)
    with pytest.raises(SwiftError) as caught:
        load_config(folder)
    assert str(folder / "config.json") in str(caught.value)


def test_tokenizer(make_folder: Any, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_folder())
    assert tokenizer("<5> <7>")["input_ids"] == [5, 7]
    assert tokenizer.chat_template is not None
    with pytest.raises(SwiftError, match="holds no tokenizer"):
        load_tokenizer(tmp_path / "none")


def test_what_transformers_5_writes_is_read_alike(make_folder: Any, edit_json: Any) -> None:
    folder = make_folder()
    edit_json(
        folder / "config.json",
        rope_theta=None,
        rope_scaling=None,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 100000.0},
        torch_dtype=None,
        dtype="float32",
    )
    edit_json(folder / "tokenizer_config.json", tokenizer_class="TokenizersBackend")
    loaded = load_model(folder, device_map="cpu")
    frequencies = loaded.model.model.rotary_emb.inv_freq
    expected = 1.0 / (100000.0 ** (torch.arange(0, 8, 2) / 8)) / 2.0
    torch.testing.assert_close(frequencies, expected)
    assert load_tokenizer(folder)("<5>")["input_ids"] == [5]


def test_config_means_what_the_file_says(make_folder: Any) -> None:
    folder = make_folder(rms_norm_eps=1e-5)
    assert load_config(folder).rms_norm_eps == json.loads((folder / "config.json").read_text())["rms_norm_eps"]


def test_a_users_class_is_taken_where_config_names_it(make_folder: Any, edit_json: Any) -> None:
    load_plugins([str(Path(__file__).parents[2] / "examples" / "my_parts.py")])
    folder = make_folder()
    plain = load_model(folder).model
    edit_json(folder / "config.json", architectures=["EvenLlamaForCausalLM"])
    loaded = load_model(folder)
    assert type(loaded.model).__name__ == "EvenLlamaForCausalLM"
    assert loaded.reasons["architecture"] == "EvenLlamaForCausalLM, from --external_plugins"
    assert loaded.model.state_dict().keys() == plain.state_dict().keys()
    skeleton = model_skeleton(folder, ModelConfig())
    assert type(skeleton.model) is type(loaded.model)
    ids = torch.arange(3, 20)[None]
    assert not torch.allclose(loaded.model(ids).logits, plain(ids).logits)
