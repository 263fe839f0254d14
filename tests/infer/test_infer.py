from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from swift.cli.main import main
from swift.engines import InferRequest, PtEngine, RequestConfig
from swift.models.record import write_record
from swift.templates import Template, load_template
from tests.tiny import ask, make_tokenizer, save_adapter, save_tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def data(tmp_path):
    rows = [
        {"messages": [*ask("what is the sky?"), {"role": "assistant", "content": "blue"}], "id": 7},
        {"messages": ask("hi", system="Be brief.")},
        {"query": "the capital of France", "response": "Paris"},
        {"query": "sky"},
        {"messages": ask("what is the sky?")},
    ]
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def swift(*words):
    return main(["infer", *map(str, words)])


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def unloaded(monkeypatch):
    """Loading a model is an error: what is checked must be checked before."""

    def fail(*_):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("swift.engines.transformers.load_source_model", fail)


def test_a_template_that_serves_other_prompts_is_refused(base, data, unloaded, monkeypatch, capsys):
    prompt = Template.prompt
    monkeypatch.setattr(Template, "prompt", lambda self, *args, **switches: [5, *prompt(self, *args, **switches)])
    assert swift("--model", base, "--val_dataset", data) == 2
    assert "parity: the prompt that serving sends" in capsys.readouterr().err


def test_batch(base, data, tmp_path, capsys):
    path = tmp_path / "deep" / "result.jsonl"
    words = ["--model", base, "--val_dataset", data, "--result_path", path, "--max_new_tokens", 12]
    assert swift(*words, "--temperature", 0, "--max_batch_size", 3) == 0
    found = lines(path)
    engine = PtEngine(str(base), max_batch_size=1)
    wanted = engine.infer(
        [
            InferRequest(messages)
            for messages in (
                ask("what is the sky?"),
                ask("hi", system="Be brief."),
                ask("the capital of France"),
                ask("sky"),
                ask("what is the sky?"),
            )
        ],
        RequestConfig(12, temperature=0),
    )
    assert [line["response"] for line in found] == [response.choices[0].message.content for response in wanted]
    assert [line["labels"] for line in found] == ["blue", None, "Paris", None, None]
    assert found[0]["messages"] == [*ask("what is the sky?"), {"role": "assistant", "content": found[0]["response"]}]
    assert found[0]["usage"] == {"prompt_tokens": wanted[0].usage.prompt_tokens, "completion_tokens": 12}
    assert found[0]["finish_reason"] == "length"
    assert found[0]["extra"] == {"id": 7}
    assert found[3]["source"].endswith("data.jsonl:4")
    assert "5 rows answered (5 length): 60 tokens" in capsys.readouterr().err


@pytest.mark.parametrize("temperature", [0, 1.2])
def test_a_broken_run_goes_on(base, data, tmp_path, capsys, temperature):
    path = tmp_path / "result.jsonl"
    words = ["--model", base, "--val_dataset", data, "--result_path", path, "--max_new_tokens", 8]
    words += ["--write_batch_size", 2, "--temperature", temperature]
    assert swift(*words) == 0
    whole = path.read_bytes()
    parts = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(parts[:2]) + parts[2][:20])
    assert swift(*words) == 0
    assert path.read_bytes() == whole
    assert "2 rows are answered" in capsys.readouterr().err
    assert swift(*words) == 0
    assert "holds the answers to all 5 rows already" in capsys.readouterr().err


def test_answers_are_written_when_the_run_breaks_off(base, data, tmp_path, monkeypatch):
    path = tmp_path / "result.jsonl"
    words = ["--model", base, "--val_dataset", data, "--result_path", path, "--max_new_tokens", 8]
    words += ["--max_batch_size", 2, "--temperature", 0]
    infer, calls = PtEngine.infer, []

    def interrupted(self, requests, config=None, *, on_response=None):
        def told(number, response):
            on_response(number, response)
            calls.append(number)
            if len(calls) == 2:
                raise KeyboardInterrupt

        return infer(self, requests, config, on_response=told)

    monkeypatch.setattr(PtEngine, "infer", interrupted)
    assert swift(*words) == 130
    assert len(lines(path)) == 2
    monkeypatch.setattr(PtEngine, "infer", infer)
    assert swift(*words) == 0
    assert len(lines(path)) == 5


@pytest.mark.parametrize("change", [["--max_new_tokens", 9], ["--system", "Be loud."], ["--temperature", 0.5]])
def test_a_result_file_of_another_run_is_not_touched(base, data, tmp_path, capsys, change):
    path = tmp_path / "result.jsonl"
    words = ["--model", base, "--val_dataset", data, "--result_path", path]
    options = {"--max_new_tokens": 8, "--temperature": 0}
    assert swift(*words, *[word for pair in options.items() for word in pair]) == 0
    before = path.read_bytes()
    options |= {change[0]: change[1]}
    assert swift(*words, *[word for pair in options.items() for word in pair]) == 2
    assert "answers of another run" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_answers_are_compared_with_those_of_the_rows(base, data, tmp_path, capsys):
    path = tmp_path / "result.jsonl"
    words = ["--model", base, "--val_dataset", data, "--result_path", path, "--max_new_tokens", 4]
    assert swift(*words, "--temperature", 0) == 0
    found = [line | ({"response": " blue\n"} if line["labels"] == "blue" else {}) for line in lines(path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in found))
    capsys.readouterr()
    # Also where every row was answered before.
    assert swift(*words, "--temperature", 0, "--metric", "acc") == 0
    assert "acc 0.5000 (2 rows with an answer)" in capsys.readouterr().err
    assert swift(*words, "--temperature", 0, "--metric", "rouge") == 0
    assert "rouge-1 50.0000, rouge-2 0.0000, rouge-l 50.0000, bleu-4 17.6777" in capsys.readouterr().err


def test_streamed_batch(base, data, tmp_path, capsys):
    path = tmp_path / "result.jsonl"
    words = ["--model", base, "--val_dataset", data, "--result_path", path, "--max_new_tokens", 8]
    assert swift(*words, "--temperature", 0, "--stream", "true") == 0
    out = capsys.readouterr().out
    assert out == "".join(line["response"] + "\n" for line in lines(path))


def test_default_path_of_an_adapter(base, data, tmp_path):
    adapter = save_adapter(tmp_path / "adapter", base)
    assert swift("--adapters", adapter, "--val_dataset", data, "--max_new_tokens", 4) == 0
    (path,) = (adapter / "infer_result").iterdir()
    assert len(lines(path)) == 5


def test_default_path_without_a_checkpoint(base, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert swift("--model", base, "--val_dataset", data, "--max_new_tokens", 4) == 0
    assert len(list((tmp_path / "infer_result").iterdir())) == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": ask("sky " * 300)}, "data.jsonl:6: the prompt has"),
        ({"messages": ask("x"), "images": ["a.png"]}, "data.jsonl:6: this model reads text alone"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "data.jsonl:6"),
        ({"nothing": 1}, "data.jsonl:6"),
    ],
)
def test_bad_rows_are_told_before_the_model_is_loaded(base, data, tmp_path, capsys, unloaded, row, words):
    data.write_text(data.read_text() + json.dumps(row) + "\n")
    assert swift("--model", base, "--val_dataset", data, "--result_path", tmp_path / "r.jsonl") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "r.jsonl").exists()


def test_all_bad_rows_are_told_at_once(base, data, tmp_path, capsys, unloaded):
    with data.open("a") as file:
        file.write("broken\n" + json.dumps({"query": "q", "images": ["a.png"]}) + "\n")
    assert swift("--model", base, "--val_dataset", data) == 2
    told = capsys.readouterr().err
    assert "2 of 7 rows cannot be used" in told
    assert f"{data}:6: not JSON" in told and f"{data}:7: this model reads text alone" in told


def test_bad_rows_are_left_out_where_that_is_asked_for(base, data, tmp_path, capsys):
    bad = [{"nothing": 1}, {"messages": ask("x"), "images": ["a.png"]}]
    data.write_text("".join(json.dumps(row) + "\n" for row in bad) + data.read_text())
    path = tmp_path / "r.jsonl"
    words = ["--model", base, "--val_dataset", data, "--result_path", path, "--max_new_tokens", 2]
    assert swift(*words, "--strict", "false") == 0
    assert [line["source"].rpartition(":")[2] for line in lines(path)] == ["3", "4", "5", "6", "7"]
    told = capsys.readouterr().err
    assert "1 left out: columns nothing are no known form" in told
    assert "1 left out: this model reads text alone, and there are images" in told


def test_a_result_path_that_cannot_be_written(base, data, tmp_path, capsys, unloaded):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "r.jsonl"):
        assert swift("--model", base, "--val_dataset", data, "--result_path", path) == 2
        assert "cannot be written" in capsys.readouterr().err


def test_mistakes(base, data, capsys):
    assert swift() == 2
    assert "no model is named" in capsys.readouterr().err
    assert swift("--model", base, "--infer_backend", "sglang") == 2
    assert "needs a CUDA device, and this machine has none" in capsys.readouterr().err
    assert swift("--model", base, "--val_dataset", data, "--max_batch_size", 0) == 2
    assert swift("--model", base, "--num_beams", 2, "--temperature", 1) == 2


def test_conversation_with_an_adapter(base, tmp_path, monkeypatch, capsys):
    adapter = save_adapter(tmp_path / "adapter", base)
    template = load_template(make_tokenizer(), system="Answer in French.")
    raw = json.loads((base / "config.json").read_text())
    write_record(adapter, config={}, template=template.to_dict(), base_model=str(base), base_config=raw)
    engine = PtEngine(None, adapters=str(adapter))
    wanted = engine.infer([InferRequest(ask("hi"))], RequestConfig(10, temperature=0))[0].choices[0].text
    for stream in ("true", "false"):
        monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
        assert swift("--adapters", adapter, "--max_new_tokens", 10, "--temperature", 0, "--stream", stream) == 0
        shown = capsys.readouterr()
        assert shown.out == wanted + "\n"
        assert "Answer in French." in shown.err and str(base) in shown.err


def test_a_users_engine(base, tmp_path, monkeypatch, capsys):
    (tmp_path / "shout.py").write_text(
        "from swift.engines import ChatMessage, Choice, Delta, Response, Usage, engine\n"
        "@engine('shout')\n"
        "class Shout:\n"
        "    @classmethod\n"
        "    def from_source(cls, source, template, config, *, max_batch_size, max_length, decisions):\n"
        "        return cls()\n"
        "    def stream(self, request, config=None):\n"
        "        text = request.messages[-1]['content'].upper()\n"
        "        choice = Choice(0, ChatMessage('assistant', text), 'stop', [], text)\n"
        "        yield Delta(text, 'stop', Response([choice], Usage(0, 0)))\n"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    words = ["--external_plugins", tmp_path / "shout.py", "--infer_backend", "shout"]
    assert swift("--model", base, *words) == 0
    assert capsys.readouterr().out == "HELLO\n"


def test_an_engine_of_a_users_own(base, data, tmp_path, unloaded):
    path = tmp_path / "result.jsonl"
    plugin = Path(__file__).parents[2] / "examples" / "my_parts.py"
    words = ["--external_plugins", plugin, "--infer_backend", "echo", "--model", base]
    assert swift(*words, "--val_dataset", data, "--result_path", path) == 0
    questions = ["what is the sky?", "hi", "the capital of France", "sky", "what is the sky?"]
    assert [row["response"] for row in lines(path)] == questions


def test_max_length_bounds_prompt_and_answer(base, data, tmp_path, capsys):
    path = tmp_path / "result.jsonl"
    words = ["--model", base, "--val_dataset", data, "--result_path", path, "--temperature", 0]
    assert swift(*words, "--max_length", 8) == 2
    assert "the context is 8" in capsys.readouterr().err
    longest = len(load_template(make_tokenizer()).prompt(ask("hi", system="Be brief.")))
    assert swift(*words, "--max_length", longest + 3) == 0
    usages = [row["usage"] for row in lines(path)]
    assert max(usage["prompt_tokens"] + usage["completion_tokens"] for usage in usages) == longest + 3


def test_several_processes_share_out_the_rows_and_go_on_after_a_break(base, data, tmp_path, monkeypatch, capsys):
    words = [
        "--model",
        base,
        "--val_dataset",
        data,
        "--temperature",
        "0",
        "--max_new_tokens",
        "8",
        "--write_batch_size",
    ]
    words += ["2", "--torch_dtype", "float32"]
    assert swift(*words, "--result_path", tmp_path / "one.jsonl") == 0
    wanted = {line["key"]: line["response"] for line in lines(tmp_path / "one.jsonl")}
    kept = (tmp_path / "one.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "two.jsonl").write_text("".join(kept[:2]) + kept[2][:10])
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    capsys.readouterr()
    assert swift(*words, "--result_path", tmp_path / "two.jsonl") == 0
    said = capsys.readouterr().err
    assert "NPROC_PER_NODE" in said and "2 rows are answered" in said
    assert {line["key"]: line["response"] for line in lines(tmp_path / "two.jsonl")} == wanted
    monkeypatch.setenv("NPROC_PER_NODE", "two")
    assert swift(*words, "--result_path", tmp_path / "two.jsonl") == 2
    assert "NPROC_PER_NODE=two" in capsys.readouterr().err


def test_a_mistake_of_one_of_several_processes_is_told(base, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    (base / "model.safetensors").rename(tmp_path / "away")
    try:
        assert swift("--model", base, "--val_dataset", data, "--result_path", tmp_path / "a.jsonl") == 2
    finally:
        (tmp_path / "away").rename(base / "model.safetensors")
    assert "ended with 2" in capsys.readouterr().err


def test_a_sample_of_the_rows(base, data, tmp_path):
    assert (
        swift("--model", base, "--val_dataset", data, "--val_dataset_sample", 2, "--result_path", tmp_path / "a") == 0
    )
    assert len(lines(tmp_path / "a")) == 2


def test_a_merged_adapter_answers_as_the_adapter_does(base, tmp_path, capsys):
    adapter = save_adapter(tmp_path / "one", base)
    asked, config = InferRequest(ask("hi")), RequestConfig(16, temperature=0)
    engines = [
        PtEngine(str(base), adapters=[str(adapter)], torch_dtype="float32", merge_lora=merge) for merge in (False, True)
    ]
    apart, merged = (engine.infer([asked], config)[0].choices[0].token_ids for engine in engines)
    assert apart == merged and not any("lora" in name for name, _ in engines[1].model.named_parameters())
    assert any("lora" in name for name, _ in engines[0].model.named_parameters())
    words = ["--adapters", adapter, "--merge_lora", "true"]
    assert swift("--model", base, *words, "--quant_method", "bnb") == 2
    assert "the weights are quantised" in capsys.readouterr().err
