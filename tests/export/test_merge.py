from __future__ import annotations

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift.cli.main import main
from swift.engines import InferRequest, PtEngine, RequestConfig
from swift.errors import SwiftError
from swift.export import merge
from swift.export.logits import logits_of
from swift.export.merge import merge_lora
from swift.export.quantised import gap_of
from swift.models import load_model
from swift.models.quantization import Quantization
from swift.models.record import write_record
from swift.templates import load_template
from swift.tuners.adapters import add_adapters
from tests.tiny import ask, make_tokenizer, save_adapter, save_tiny

REQUESTS = [InferRequest(ask(text)) for text in ("what is the sky?", "hi", "你好")]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def adapter(base, tmp_path):
    return save_adapter(tmp_path / "adapter", base)


def answers(engine):
    config = RequestConfig(24, temperature=0)
    return [response.choices[0].token_ids for response in engine.infer(REQUESTS, config)]


def swift(*words):
    return main(["merge-lora", *map(str, words)])


def test_merged_equals_adapter(base, adapter, tmp_path, capsys):
    assert swift("--adapters", adapter, "--output_dir", tmp_path / "merged") == 0
    assert answers(PtEngine(str(tmp_path / "merged"))) == answers(PtEngine(None, adapters=str(adapter)))
    assert answers(PtEngine(str(tmp_path / "merged"))) != answers(PtEngine(str(base)))
    assert "the adapter moves them by" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"r": 3, "use_rslora": True}]
)
def test_kinds_of_lora(base, tmp_path, settings):
    adapter = save_adapter(tmp_path / "adapter", base, **settings)
    merged = merge_lora(str(adapter))
    assert merged == tmp_path / "adapter-merged"
    assert answers(PtEngine(str(merged))) == answers(PtEngine(None, adapters=str(adapter)))


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_tied_weights_and_bfloat16(kind, tmp_path):
    base = save_tiny(tmp_path / "base", kind, dtype=torch.bfloat16, tie_word_embeddings=True)
    adapter = save_adapter(tmp_path / "adapter", base, target_modules="all-linear")
    merged = merge_lora([str(adapter)], tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(merged, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert json.loads((merged / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_the_dtype_can_be_chosen(adapter, tmp_path):
    assert swift("--adapters", adapter, "--output_dir", tmp_path / "m", "--torch_dtype", "float16") == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto").dtype == torch.float16


def test_several_adapters_are_merged_in_order(base, tmp_path):
    one, two = (save_adapter(tmp_path / name, base, seed=seed) for seed, name in enumerate(["one", "two"], 1))
    merged = merge_lora([str(one), str(two)])
    assert merged == tmp_path / "two-merged"
    assert answers(PtEngine(str(merged))) == answers(PtEngine(None, adapters=[str(one), str(two)]))


def test_system_text_and_tokenizer_stay(base, adapter, tmp_path):
    template = load_template(make_tokenizer(), system="Answer in French.")
    raw = json.loads((base / "config.json").read_text())
    write_record(adapter, config={"lr": 1}, template=template.to_dict(), base_model=str(base), base_config=raw)
    merged = PtEngine(str(merge_lora(str(adapter), tmp_path / "merged")))
    assert "Answer in French." in merged.template.prompt_text(ask("x"))
    assert answers(merged) == answers(PtEngine(None, adapters=str(adapter)))
    assert (tmp_path / "merged" / "config.yaml").read_bytes() == (adapter / "config.yaml").read_bytes()


def test_a_folder_that_is_there(base, adapter, tmp_path, capsys):
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine.txt").write_text("mine")
    assert swift("--adapters", adapter, "--output_dir", tmp_path / "merged") == 2
    assert "--exist_ok" in capsys.readouterr().err
    assert (tmp_path / "merged" / "mine.txt").exists()
    assert swift("--adapters", adapter, "--output_dir", tmp_path / "merged", "--exist_ok", "true") == 0
    assert not (tmp_path / "merged" / "mine.txt").exists()
    for folder in (base, adapter):
        with pytest.raises(SwiftError, match="is what is merged"):
            merge_lora(str(adapter), folder, exist_ok=True)


def test_a_merge_that_went_wrong_leaves_nothing(adapter, tmp_path, monkeypatch):
    keep = merge.merge_in_order

    def lose(*args, **options):
        proofs, model = keep(*args, **options)
        model.model.layers[0].self_attn.q_proj.weight.data.zero_()
        return proofs, model

    monkeypatch.setattr(merge, "merge_in_order", lose)
    with pytest.raises(SwiftError, match="does not answer as the adapter does"):
        merge_lora(str(adapter), tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_a_tune_that_rounding_swallows_is_told(tmp_path, capsys):
    base = save_tiny(tmp_path / "base", dtype=torch.bfloat16)
    adapter = save_adapter(tmp_path / "adapter", base)
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    small = {name: weight * 1e-4 if "lora_B" in name else weight for name, weight in load_file(file).items()}
    save_file(small, file, metadata={"format": "pt"})
    merge_lora(str(adapter), tmp_path / "merged")
    assert "blurs what was trained" in capsys.readouterr().err


def test_nothing_to_merge(base, tmp_path, capsys):
    assert swift("--output_dir", tmp_path / "m") == 2
    assert swift("--adapters", base, "--output_dir", tmp_path / "m") == 2
    assert "adapter_config.json is missing" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_broken_weights_leave_nothing(adapter, tmp_path, capsys):
    (adapter / "adapter_model.safetensors").write_bytes(b"broken")
    assert swift("--adapters", adapter, "--output_dir", tmp_path / "m") == 2
    assert "broken" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Wide enough for bitsandbytes, whose blocks hold 64 values of a row."""
    return save_tiny(tmp_path_factory.mktemp("models") / "wide", hidden_size=64, intermediate_size=128)


def trained_on(base, folder, **quantised):
    """An adapter whose run says that its base was quantised so."""
    save_adapter(folder, base)
    raw = json.loads((base / "config.json").read_text())
    template = load_template(make_tokenizer()).to_dict()
    config = {"torch_dtype": "float32", **quantised}
    write_record(folder, config=config, template=template, base_model=str(base), base_config=raw)
    return folder


def test_an_adapter_of_a_quantised_base_goes_into_the_base_as_it_is(wide, tmp_path, capsys):
    plain = merge_lora(str(save_adapter(tmp_path / "plain", wide)), tmp_path / "one")
    assert "quantised by" not in capsys.readouterr().err
    adapter = trained_on(wide, tmp_path / "adapter", quant_method="bnb", quant_bits="4")
    merged = merge_lora(str(adapter), tmp_path / "two")
    assert (merged / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    said = capsys.readouterr().err
    pattern = r"by bnb 4 bits \(nf4\): .* lie (\S+) from .* at most and (\S+) in the mean .* is ([\d.]+)\)"
    found = re.search(pattern, said)
    largest, mean, deviation = map(float, found.groups())
    coarse = load_model(wide, quantization=Quantization("bnb", "4")).model
    ids = make_tokenizer().encode(merge.QUESTIONS[0])
    fine = load_model(merged).model
    gaps = gap_of([logits_of(fine, ids)], [logits_of(add_adapters(coarse, [adapter]), ids)])
    assert 0 < mean < largest and gaps.mean == pytest.approx(mean, rel=0.5)
    assert mean < 2 * deviation


def test_the_distance_is_not_measured_where_that_does_not_run(wide, tmp_path, capsys):
    adapter = trained_on(wide, tmp_path / "adapter", quant_method="eetq", quant_bits="8")
    assert merge_lora(str(adapter), tmp_path / "merged").is_dir()
    said = capsys.readouterr().err
    assert "eetq 8 bits; the distance from there is not measured: --quant_method eetq: it needs" in said


def test_a_template_that_is_named_goes_into_the_merged_model(adapter, tmp_path, capsys):
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")
    words = ("--adapters", adapter, "--output_dir", tmp_path / "merged")
    assert swift(*words, "--chat_template", tmp_path / "no.jinja") == 2
    assert "--chat_template" in capsys.readouterr().err and not (tmp_path / "merged").exists()
    assert swift(*words, "--chat_template", file, "--system", "Be brief.") == 0
    prompt = "system: Be brief.\nuser: hi\nassistant:"
    assert PtEngine(str(tmp_path / "merged")).template.prompt_text(ask("hi")) == prompt
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.apply_chat_template(ask("hi"), tokenize=False) == "user: hi\nassistant:"


def test_a_template_that_was_trained_goes_into_the_merged_model(base, adapter, tmp_path):
    text = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    template = load_template(make_tokenizer()).to_dict() | {"chat_template": text}
    write_record(adapter, config={}, template=template, base_model=str(base), base_config={})
    tokenizer = AutoTokenizer.from_pretrained(merge_lora(str(adapter)))
    assert tokenizer.apply_chat_template(ask("hi"), tokenize=False) == "[hi]"
