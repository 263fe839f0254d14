"""SGLang and LMDeploy without a device: what we send them and make of what they tell, and that they take it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, make_dataclass

import pytest

from swift.cli.main import main
from swift.engines import InferRequest, RequestConfig
from swift.environments import kinds
from swift.errors import SwiftError
from tests.engines.packages import Record, Source, module
from tests.tiny import ask, make_tokenizer, save_adapter, save_tiny

TEXT = "the sky is blue"
SGLANG_ARGUMENTS = (
    "model_path", "tokenizer_path", "trust_remote_code", "dtype", "context_length", "sampling_defaults",
    "grammar_backend", "lora_paths", "max_lora_rank", "tp_size",
)  # fmt: skip
LMDEPLOY_ARGUMENTS = ("dtype", "session_len", "adapters", "tp", "cache_max_entry_count")
"""Names that the stand-ins take; a test compares them with the packages' own."""


@pytest.fixture
def folders(tmp_path):
    base = save_tiny(tmp_path / "base", max_position_embeddings=512)
    return base, save_adapter(tmp_path / "one", base)


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(kinds, "has_cuda", lambda: True)
    Record.used.clear()


def answer_ids():
    tokenizer = make_tokenizer()
    return [*tokenizer.encode(TEXT), tokenizer.eos_token_id]


class Field(Record):
    """A field of ServerArgs."""


class LoadLoRAAdapterReqInput(Record):
    """A request of SGLang's."""


@pytest.fixture
def sglang(device, monkeypatch):
    """A stand-in for SGLang whose answers are always the same."""
    seen: list[dict] = []

    class Manager:
        model_config = Record(context_len=512)

        def __init__(self):
            self.aborted = []

        def abort_request(self, rid):
            self.aborted.append(rid)

        async def load_lora_adapter(self, request, _):
            return Record(success=request.lora_name != "bad", error_message="no room")

    class Engine:
        def __init__(self, **arguments):
            assert set(arguments) <= set(SGLANG_ARGUMENTS), arguments
            self.arguments, self.tokenizer_manager = arguments, Manager()

        async def async_generate(self, **given):
            seen.append(given)
            return self._told(given)

        async def _told(self, given):
            ids = answer_ids()[: given["sampling_params"]["max_new_tokens"]]
            whole: list[int] = []
            for at, token in enumerate(ids):
                whole.append(token)
                meta = {"finish_reason": {"type": "stop"} if at + 1 == len(ids) else None}
                if given["return_logprob"]:
                    meta["output_token_logprobs"] = [(-0.5, each, None) for each in whole]
                    meta["output_top_logprobs"] = [[(-0.5, each, None)] for each in whole]
                yield {"text": None, "output_ids": whole, "meta_info": meta}

        def shutdown(self):
            pass

    fields = [Field(name=name) for name in SGLANG_ARGUMENTS]
    modules = {
        "sglang": module("sglang", Engine=Engine),
        "sglang.srt.server_args": module("s", ServerArgs=object),
        "sglang.srt.arg_groups.arg_utils": module("a", record_fields=lambda _: fields),
        "sglang.srt.managers.io_struct": module("i", LoadLoRAAdapterReqInput=LoadLoRAAdapterReqInput),
    }
    for name, made in modules.items():
        monkeypatch.setitem(sys.modules, name, made)
    monkeypatch.setattr("swift.engines.packages.find_spec", lambda name: object())
    return seen


@dataclass
class Told:
    token_ids: list
    logprobs: list | None = None
    finish_reason: str | None = None


@pytest.fixture
def lmdeploy(device, monkeypatch):
    """A stand-in for LMDeploy."""
    seen: list[dict] = []

    class GenerationConfig(Record):
        pass

    class RequestError(RuntimeError):
        pass

    class AsyncEngine:
        session_len = 512

        def __init__(self, path, *, backend, backend_config, trust_remote_code):
            self.backend, self.config = backend, backend_config

        def start_loop(self, loop, use_async_api=False):
            assert use_async_api

        async def preprocess(self, *, messages, session_id, gen_config, do_preprocess, adapter_name, input_ids):
            assert messages is None and do_preprocess is False
            seen.append({"ids": input_ids, "config": gen_config, "adapter": adapter_name, "session": session_id})
            if gen_config.max_new_tokens == 7:
                raise RequestError("too much")
            return gen_config

        async def generate(self, config, stream_response=True):
            ids = answer_ids()[: config.max_new_tokens]
            for token in ids:
                yield Told([token], [{token: -0.5, 1: -2.0}] if config.logprobs else None)
            yield Told([], None, "stop")

        def close(self):
            pass

    kind = make_dataclass("Config", [(name, object, None) for name in LMDEPLOY_ARGUMENTS])
    modules = {
        "lmdeploy": module(
            "lmdeploy", GenerationConfig=GenerationConfig, PytorchEngineConfig=kind, TurbomindEngineConfig=kind
        ),
        "lmdeploy.archs": module("a", autoget_backend=lambda _: "turbomind"),
        "lmdeploy.serve.core": module("c", AsyncEngine=AsyncEngine, RequestError=RequestError),
    }
    for name, made in modules.items():
        monkeypatch.setitem(sys.modules, name, made)
    monkeypatch.setattr("swift.engines.packages.find_spec", lambda name: object())
    return seen


def test_sglang_gets_token_ids_and_gives_them(sglang, folders):
    from swift.engines.sglang import SglangEngine

    base, adapter = folders
    engine = SglangEngine(str(base), adapters=[str(adapter)], torch_dtype="bfloat16", tp_size=2, max_length=256)
    assert engine.llm.arguments["lora_paths"] == {"always": str(adapter)} and engine.llm.arguments["tp_size"] == 2
    config = RequestConfig(50, temperature=0, logprobs=True, top_logprobs=1, stop_token_ids=[5], seed=1)
    choice = engine.infer([InferRequest(ask("hi"))], config)[0].choices[0]
    assert choice.message.content == TEXT and choice.token_ids == answer_ids() and choice.finish_reason == "stop"
    assert [each.token for each in choice.logprobs] == answer_ids() and choice.logprobs[0].top[0][1] == -0.5
    sent = sglang[0]
    assert sent["input_ids"] == engine.encode(InferRequest(ask("hi"))) and sent["lora_path"] == "always"
    params = sent["sampling_params"]
    assert (params["temperature"], params["max_new_tokens"], 5 in params["stop_token_ids"]) == (0.0, 50, True)
    stopped = engine.infer([InferRequest(ask("hi"))], RequestConfig(50, stop=[" is"]))[0].choices[0]
    assert stopped.text == "the sky" and engine.llm.tokenizer_manager.aborted == [sglang[1]["rid"]]
    engine.add_adapter("robin", adapter)
    engine.infer([InferRequest(ask("hi"), adapter="robin")])
    assert sglang[2]["lora_path"] == "robin"
    with pytest.raises(SwiftError, match="no room"):
        engine.add_adapter("bad", adapter)
    with pytest.raises(SwiftError, match="no adapter nobody"):
        engine.infer([InferRequest(ask("hi"), adapter="nobody")])
    with pytest.raises(SwiftError, match="takes up to 2"):
        engine.infer([InferRequest(ask("hi"))], RequestConfig(repetition_penalty=3.0))
    with pytest.raises(SwiftError, match="SGLang has no argument tp_sizes"):
        SglangEngine(str(base), torch_dtype="bfloat16", tp_sizes=2)
    engine.close()


def test_lmdeploy_gets_token_ids_and_gives_them(lmdeploy, folders):
    from swift.engines.lmdeploy import LmdeployEngine

    base, adapter = folders
    engine = LmdeployEngine(str(base), torch_dtype="float16", max_length=256, lmdeploy_tp=2)
    assert engine.llm.backend == "turbomind" and (engine.llm.config.session_len, engine.llm.config.tp) == (256, 2)
    config = RequestConfig(50, temperature=0, top_logprobs=2, repetition_penalty=1.2, seed=1)
    choice = engine.infer([InferRequest(ask("hi"))], config)[0].choices[0]
    assert choice.message.content == TEXT and choice.token_ids == answer_ids() and choice.finish_reason == "stop"
    assert choice.logprobs[0].top == [(answer_ids()[0], -0.5), (1, -2.0)]
    sent = lmdeploy[0]
    assert sent["ids"] == engine.encode(InferRequest(ask("hi"))) and sent["adapter"] is None
    assert (sent["config"].top_k, sent["config"].do_sample, sent["config"].repetition_penalty) == (1, True, 1.2)
    for wrong, said in (({"presence_penalty": 1.0}, "presence_penalty"), ({"num_beams": 2}, "searches no beams")):
        with pytest.raises(SwiftError, match=said):
            engine.infer([InferRequest(ask("hi"))], RequestConfig(**wrong))
    with pytest.raises(SwiftError, match="LMDeploy does not answer: too much"):
        engine.infer([InferRequest(ask("hi"))], RequestConfig(7))
    tuned = LmdeployEngine(str(base), adapters=[str(adapter)], torch_dtype="float16")
    assert tuned.llm.backend == "pytorch" and tuned.llm.config.adapters == {"always": str(adapter)}
    with pytest.raises(SwiftError, match="at its start alone"):
        tuned.add_adapter("late", adapter)
    with pytest.raises(SwiftError, match="no argument session_length"):
        LmdeployEngine(str(base), torch_dtype="float16", session_length=2)
    with pytest.raises(SwiftError, match="float32 is not for LMDeploy"):
        LmdeployEngine(str(base), torch_dtype="float32")
    engine.close()
    tuned.close()


@pytest.mark.parametrize(
    ("wanted", "regex"),
    [({"choice": ["a.b", "c"]}, r"a\.b|c"), ({"regex": "x+"}, "x+")],
)
def test_structures(wanted, regex):
    from swift.engines import lmdeploy, sglang

    assert sglang.structure_of(wanted) == {"regex": regex}
    assert lmdeploy.structure_of(wanted) == {"type": "regex_schema", "regex_schema": regex}
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}}
    assert json.loads(sglang.structure_of({"json": schema})["json_schema"])["properties"] == schema["properties"]
    assert lmdeploy.structure_of({"json": schema})["json_schema"]["schema"] == schema
    for module_ in (lmdeploy, sglang):
        assert not module_.structure_of(None)
        with pytest.raises(SwiftError, match="takes no Lark grammars"):
            module_.structure_of({"grammar": "start: A"})


@pytest.mark.parametrize("name", ["sglang", "lmdeploy"])
@pytest.mark.parametrize("command", ["infer", "deploy"])
def test_without_a_device_nothing_is_loaded(name, command, monkeypatch, capsys):
    monkeypatch.setattr(kinds, "has_cuda", lambda: False)
    assert main([command, "--model", "./nothere", "--infer_backend", name]) == 2
    assert f"--infer_backend {name} needs a CUDA device" in capsys.readouterr().err


needs = {
    name: pytest.mark.skipif(not Source(name).there, reason=f"{name} is not there: make test-signatures")
    for name in ("sglang", "lmdeploy")
}


def test_sglang_gets_pictures(sglang, tmp_path):
    pytest.importorskip("torchvision")
    from swift.engines.sglang import SglangEngine
    from tests.tiny_media import picture, save_reader

    engine = SglangEngine(str(save_reader(tmp_path, "qwen2_vl")), torch_dtype="bfloat16")
    request = InferRequest(ask("<image>hi"), images=[picture()])
    engine.infer([request], RequestConfig(5))
    sent, pad = sglang[0], engine.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert sent["input_ids"].count(pad) == 1 < engine.encode(request).count(pad)
    assert [each.size for each in sent["image_data"]] == [picture().size]
    with pytest.raises(SwiftError, match="sglang is not given video here"):
        engine.infer([InferRequest(ask("hi"), videos=[[picture(), picture(1)]])], RequestConfig(5))
    engine.close()


@needs["sglang"]
def test_sglang_takes_what_we_send(folders, request):
    source = Source("sglang")
    sent = request.getfixturevalue("sglang")
    from swift.engines.sglang import SglangEngine

    engine = SglangEngine(str(folders[0]), torch_dtype="bfloat16")
    engine.infer([InferRequest(ask("hi"))], RequestConfig(5, structured_outputs={"regex": "a"}))
    engine.infer([InferRequest(ask("hi"))], RequestConfig(5, structured_outputs={"json_object": True}))
    engine.close()
    known = source.arguments("sglang/srt/entrypoints/engine.py", "Engine", "async_generate")
    assert all(set(each) <= known for each in sent) and "image_data" in known
    parameters = source.fields("sglang/srt/sampling/sampling_params.py", "SamplingParams")
    assert all(set(each["sampling_params"]) <= parameters for each in sent)
    arguments = source.words("sglang/srt/arg_groups/field_order.py", "POSITIONAL_FIELD_ORDER")
    from dataclasses import fields

    from swift.config.backends import BackendConfig

    ours = {each.name.removeprefix("sglang_") for each in fields(BackendConfig) if each.name.startswith("sglang_")}
    assert {*SGLANG_ARGUMENTS, *ours} <= arguments
    requests = source.fields("sglang/srt/managers/io_struct.py", "LoadLoRAAdapterReqInput")
    assert {"lora_name", "lora_path"} <= requests
    manager = source.arguments("sglang/srt/managers/tokenizer_manager.py", "TokenizerManager", "abort_request")
    assert "rid" in manager


@needs["lmdeploy"]
def test_lmdeploy_takes_what_we_send(folders, request):
    source = Source("lmdeploy")
    request.getfixturevalue("lmdeploy")
    from swift.engines.lmdeploy import LmdeployEngine

    engine = LmdeployEngine(str(folders[0]), torch_dtype="float16")
    engine.infer([InferRequest(ask("hi"))], RequestConfig(5))
    engine.close()
    messages, core = "lmdeploy/messages.py", "lmdeploy/serve/core/async_engine.py"
    assert Record.used["GenerationConfig"] <= source.fields(messages, "GenerationConfig")
    asked = {"messages", "session_id", "gen_config", "do_preprocess", "adapter_name", "input_ids"}
    assert asked <= source.arguments(core, "AsyncEngine", "preprocess")
    assert source.arguments(core, "AsyncEngine", "generate") == {"request", "stream_response"}
    assert {"backend", "backend_config", "trust_remote_code"} <= source.arguments(core, "AsyncEngine", "__init__")
    assert source.arguments(core, "AsyncEngine", "start_loop") == {"loop", "use_async_api"}
    pytorch = source.fields(messages, "PytorchEngineConfig")
    assert set(LMDEPLOY_ARGUMENTS) <= pytorch
    assert {*LMDEPLOY_ARGUMENTS} - {"adapters"} <= source.fields(messages, "TurbomindEngineConfig")
    assert {"session_len", "cache_max_entry_count", "quant_policy", "tp"} <= pytorch
