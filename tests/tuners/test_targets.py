"""What `all-linear` stands for."""

from __future__ import annotations

import torch

from swift.tuners.targets import all_linear, linear_names


def test_all_linear_of_a_model_that_sees_is_what_writes() -> None:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1}
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "rope_parameters": rope, **heads}
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2}
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision))
    names = all_linear(model)
    assert names and all("language_model.layers" in name for name in names)
    assert any("visual" in name for name in linear_names(model))
