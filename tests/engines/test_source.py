from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from swift.config.decisions import Decisions
from swift.config.model import ModelConfig
from swift.config.template import TemplateConfig
from swift.engines import InferRequest, PtEngine, RequestConfig
from swift.errors import SwiftError
from swift.models.names import known_names
from swift.models.record import write_record
from swift.models.source import find_source
from swift.templates import load_template
from swift.templates.choose import choose_template
from tests.tiny import ask, make_tokenizer, save_adapter, save_tiny

GREEDY = RequestConfig(16, temperature=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def adapter(base, tmp_path):
    return save_adapter(tmp_path / "adapter", base)


def record(folder, base, system="Answer in French."):
    template = load_template(make_tokenizer(), system=system)
    write_record(
        folder,
        config={"model": str(base)},
        template=template.to_dict(),
        base_model=str(base),
        base_config=json.loads((base / "config.json").read_text()),
    )


def answer(engine):
    return engine.infer([InferRequest(ask("what is the sky?"))], GREEDY)[0].choices[0].token_ids


def test_an_adapter_of_peft_alone_finds_its_base_model(base, adapter):
    engine = PtEngine(None, adapters=str(adapter), torch_dtype=torch.float32)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    prompt = torch.tensor([engine.encode(InferRequest(ask("what is the sky?")))])
    wanted = model.generate(input_ids=prompt, max_new_tokens=16, do_sample=False, pad_token_id=0)[0, prompt.shape[1] :]
    assert answer(engine) == wanted.tolist()
    assert answer(engine) != answer(PtEngine(str(base)))


def test_the_record_brings_system_text_and_flags_go_over_it(base, adapter):
    record(adapter, base)
    with_record = PtEngine(None, adapters=[str(adapter)])
    assert with_record.template.prompt_text(ask("x")).startswith("<|im_start|>system\nAnswer in French.<|im_end|>")
    flagged = PtEngine(None, adapters=[str(adapter)], system="Be brief.")
    assert "Be brief." in flagged.template.prompt_text(ask("x"))
    assert "French" not in PtEngine(None, adapters=[str(adapter)], load_args=False).template.prompt_text(ask("x"))
    named = PtEngine(None, adapters=[str(adapter)], chat_template="alpaca").template
    assert "Answer in French." in named.prompt_text(ask("x")) and "<|im_start|>" not in named.prompt_text(ask("x"))


def test_a_full_checkpoint_brings_its_template(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "tuned")
    record(folder, base)
    assert "French" in PtEngine(str(folder)).template.prompt_text(ask("x"))
    assert "French" in PtEngine(str(folder), adapters=str(save_adapter(tmp_path / "a", folder))).template.prompt_text(
        ask("x")
    )


def test_a_system_text_may_be_a_file(base, tmp_path):
    (tmp_path / "system.txt").write_text("Read from a file.\n")
    assert "Read from a file.<|im_end|>" in PtEngine(
        str(base), system=str(tmp_path / "system.txt")
    ).template.prompt_text(ask("x"))
    with pytest.raises(SwiftError, match="cannot be read"):
        PtEngine(str(base), system="nowhere.txt")


def test_an_engine_takes_every_option_of_model_and_template(base):
    plain = PtEngine(str(base)).template
    engine = PtEngine(
        str(base),
        dtype=torch.bfloat16,
        agent_template="hermes",
        response_prefix="Well: ",
        special_tokens_in_content="allow",
    )
    assert engine.model.dtype == torch.bfloat16 and engine.template.agent.name == "hermes"
    assert engine.template.prompt_text(ask("x")) == plain.prompt_text(ask("x")) + "Well: "
    assert engine.template.special_tokens_in_content == "allow"
    assert PtEngine(str(base), use_chat_template=False).template.prompt_text(ask("x")) == "x"
    with pytest.raises(SwiftError, match="RequestConfig"):
        PtEngine(str(base), temperature=0)
    with pytest.raises(SwiftError, match="did you mean --agent_template"):
        PtEngine(str(base), agent_templte="hermes")
    with pytest.raises(SwiftError, match="no effect on a model and a template that are loaded"):
        PtEngine((engine.model, plain), system="Be brief.")


def test_a_template_of_an_old_script_is_noted(base):
    decisions = Decisions()
    template = choose_template(make_tokenizer(), TemplateConfig(template="qwen"), decisions)
    assert any("not needed" in decision.reason for decision in decisions)
    assert "<|im_start|>" in template.prompt_text(ask("x"))


def test_several_adapters_act_together(base, tmp_path):
    one = save_adapter(tmp_path / "one", base, seed=1)
    two = save_adapter(tmp_path / "two", base, seed=2, target_modules=["q_proj", "down_proj"], r=2)
    engine = PtEngine(None, adapters=[str(one), str(two)])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for folder in (one, two):
        model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    ids = torch.tensor([engine.encode(InferRequest(ask("what is the sky?")))])
    torch.testing.assert_close(engine.model(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


def test_nothing_named():
    with pytest.raises(SwiftError, match="no model is named"):
        PtEngine(None)


def test_an_adapter_for_another_base_model(base, adapter, tmp_path):
    wide = save_tiny(tmp_path / "wide", hidden_size=64)
    with pytest.raises(SwiftError, match="another shape"):
        PtEngine(str(wide), adapters=str(adapter))
    record(adapter, base)
    with pytest.raises(SwiftError, match="hidden_size is 32 there and 64"):
        PtEngine(str(wide), adapters=str(adapter))
    settings = json.loads((adapter / "adapter_config.json").read_text()) | {"target_modules": ["c_attn"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(SwiftError, match="another architecture"):
        PtEngine(str(base), adapters=str(adapter))


def test_folders_that_are_not_adapters(base, adapter, tmp_path):
    with pytest.raises(SwiftError, match=r"adapter_config\.json is missing") as caught:
        PtEngine(None, adapters=str(base))
    assert "--model" in caught.value.fix
    with pytest.raises(SwiftError, match="no file or folder"):
        PtEngine(None, adapters=str(tmp_path / "nowhere"))
    with pytest.raises(SwiftError, match="--adapters"):
        try:
            PtEngine(str(adapter))
        except SwiftError as error:
            raise SwiftError(error.fix) from error
    (tmp_path / "empty").mkdir()
    with pytest.raises(SwiftError, match="no model"):
        PtEngine(str(tmp_path / "empty"))


def test_broken_adapter_weights(base, adapter):
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SwiftError, match="broken"):
        PtEngine(None, adapters=str(adapter))
    weights.write_bytes(b"nonsense")
    with pytest.raises(SwiftError, match="broken"):
        PtEngine(None, adapters=str(adapter))
    weights.unlink()
    with pytest.raises(SwiftError, match="no weights"):
        PtEngine(None, adapters=str(adapter))


def test_adapter_weights_that_are_not_all_there(base, adapter):
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(next(name for name in weights if "lora_B" in name))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(SwiftError, match="lacks weights"):
        PtEngine(None, adapters=str(adapter))


def test_a_base_model_that_is_gone(base, adapter, tmp_path):
    settings = json.loads((adapter / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tmp_path / "gone")
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(SwiftError, match=r"base model .*gone cannot be found"):
        PtEngine(None, adapters=str(adapter))
    settings["base_model_name_or_path"] = None
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(SwiftError, match="does not name its base model"):
        PtEngine(None, adapters=str(adapter))
    assert PtEngine(str(base), adapters=str(adapter))


@pytest.mark.parametrize("name", ["qwen3", "llama", "mixtral"])
def test_a_model_type_of_ours_or_others_is_noted(base, name):
    decisions = Decisions()
    find_source(ModelConfig(model=str(base), model_type=name), decisions)
    assert any(f"--model_type {name} is noted" in decision.reason for decision in decisions)


def test_a_model_type_that_nobody_knows_is_refused(base):
    with pytest.raises(SwiftError, match="--model_type qwn3: there is no such name") as caught:
        find_source(ModelConfig(model=str(base), model_type="qwn3"), Decisions())
    assert "did you mean qwen3" in str(caught.value)


def test_the_names_of_ms_swift_are_a_table():
    for kind, some in (("model_types", {"qwen2", "qwen3"}), ("templates", {"chatml", "qwen2_5"})):
        assert some <= known_names(kind) and all(re.fullmatch(r"[a-z0-9_]+", name) for name in known_names(kind))
