"""Tiny random models that read pictures, films and sounds, with the processors of their architectures."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.tiny_tokenizer import make_tokenizer

TURN = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}PARTS{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARTS_ALONE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.4,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}


def turn(**shown: str) -> str:
    cases = [f"if part.type == '{kind}' %}}{text}" for kind, text in shown.items()]
    return TURN.replace("PARTS", "{% " + "{% el".join(cases) + "{% else %}{{ part.text }}{% endif %}")


def save_reader(folder: Path, kind: str, **text: Any) -> Path:
    """A model of the kind, with all that it needs to read media; `text` changes the config of its language model."""
    torch.manual_seed(0)
    makers = {
        "qwen2_vl": _qwen2_vl,
        "smolvlm": _smolvlm,
        "gemma3": _gemma3,
        "llava": _llava,
        "qwen2_audio": _qwen2_audio,
    }
    model, processor = makers[kind](TEXT | text)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # The pictures must matter beside the text.
            if weight.dim() > 1 and "language_model" not in name and "lm_head" not in name:
                weight.normal_(std=0.3)
            elif kind == "gemma3" and weight.dim() > 1:
                weight.normal_(std=0.1)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(template: str, *tokens: str, **named: str) -> Any:
    tokenizer = make_tokenizer(template)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    special = [*tokens, *named.values()]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    for name, token in named.items():
        tokenizer.init_kwargs[name] = token
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer


def _qwen2_vl(text: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    template = turn(
        image="<|vision_start|><|image_pad|><|vision_end|>", video="<|vision_start|><|video_pad|><|vision_end|>"
    )
    tokenizer = _tokenizer(template, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    ids = tokenizer.convert_tokens_to_ids
    quarter = text["hidden_size"] // text["num_attention_heads"] // 8
    sections = [quarter, quarter, 2 * quarter]
    config = Qwen2VLConfig(
        text_config={
            **text,
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections},
            "rope_scaling": {"type": "mrope", "mrope_section": sections},
        },
        vision_config={
            "depth": 1,
            "embed_dim": 32,
            "hidden_size": text["hidden_size"],
            "num_heads": 4,
            "mlp_ratio": 2,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    sizes = {"min_pixels": 28 * 28 * 4, "max_pixels": 28 * 28 * 16}
    images, films = Qwen2VLImageProcessor(**sizes), Qwen2VLVideoProcessor(**sizes, max_frames=8)
    processor = Qwen2VLProcessor(images, tokenizer, films, chat_template=template)
    return Qwen2VLForConditionalGeneration(config), processor


def _smolvlm(text: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    rows = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    around = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    tokenizer = _tokenizer(PARTS_ALONE, *around, *rows)
    config = Idefics3Config(
        text_config={"model_type": "llama", **text, "vocab_size": len(tokenizer)},
        vision_config={
            **VISION,
            "image_size": 32,
            "patch_size": 8,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    images = Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=PARTS_ALONE)
    return Idefics3ForConditionalGeneration(config), processor


def _gemma3(text: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    template = turn(image="<start_of_image>")
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = _tokenizer(template, **named)
    config = Gemma3Config(
        text_config={**text, "vocab_size": len(tokenizer), "head_dim": 8, "sliding_window": 64},
        vision_config={
            **VISION,
            "image_size": 56,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    images = Gemma3ImageProcessor(size={"height": 56, "width": 56})
    processor = Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=4)
    return Gemma3ForConditionalGeneration(config), processor


def _llava(text: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    template = turn(image="<image>\n")
    tokenizer = _tokenizer(template, "<image>")
    config = LlavaConfig(
        text_config={"model_type": "llama", **text, "vocab_size": len(tokenizer)},
        vision_config={
            "model_type": "clip_vision_model",
            **VISION,
            "num_hidden_layers": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=template,
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    return LlavaForConditionalGeneration(config), processor


def _qwen2_audio(text: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    template = turn(audio="<|audio_bos|><|AUDIO|><|audio_eos|>\n")
    tokenizer = _tokenizer(template, "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    config = Qwen2AudioConfig(
        audio_config={
            "num_mel_bins": 16,
            "d_model": 32,
            "encoder_layers": 1,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "max_source_positions": 100,
        },
        text_config={"model_type": "qwen2", **text, "vocab_size": len(tokenizer)},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    sounds = WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    return Qwen2AudioForConditionalGeneration(config), Qwen2AudioProcessor(sounds, tokenizer, chat_template=template)


def picture(seed: int = 0, width: int = 90, height: int = 60) -> Any:
    from PIL import Image

    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def wav(seconds: float = 0.5, rate: int = 16000, tone: float = 440.0) -> bytes:
    samples = np.sin(np.arange(int(seconds * rate)) * 2 * np.pi * tone / rate)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((samples * 20000).astype("<i2").tobytes())
    return file.getvalue()


def film(path: Path, frames: int = 12, width: int = 64, height: int = 64) -> Path:
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("libvpx" if path.suffix == ".webm" else "mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            values = np.full((height, width, 3), number * 20, dtype=np.uint8)
            values[: height // 2, number * 4 : number * 4 + 8] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path
