from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

from swift.config.data import DataConfig
from swift.data import load_rows
from swift.data.checks import check_row
from swift.data.converters import CONVERTERS
from swift.data.formats import to_row
from swift.data.known import TABLE, known_dataset, read_table
from swift.errors import SwiftError

ENTRIES = read_table(str(TABLE))
ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def turns(*texts):
    return [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 9, texts, strict=False)]


QUESTION = {"question": "q", "choices": ["x", "a"]}
CHOSEN = turns("q\nA. x\nB. a", "B. a")
PICTURE = turns("<image>Describe the picture.", "a")

ROWS: dict[str, tuple[dict, dict]] = {
    "lvjianjin/AdvertiseGen": ({"content": "q", "summary": "a"}, {"messages": turns("q", "a")}),
    "AI-ModelScope/synthetic_text_to_sql": (
        {"id": 1, "domain": "d", "sql_prompt": "q", "sql_context": "c", "sql": "a", "sql_explanation": "e"},
        {"messages": turns("q\nc", "a")},
    ),
    "AI-ModelScope/sql-create-context": (
        {"answer": "a", "question": "q", "context": "c"},
        {"messages": turns("q\nc", "a")},
    ),
    "AI-ModelScope/blossom-math-v2": (
        {"id": "1", "input": "q", "output": "a", "answer": "2", "dataset": "d"},
        {"messages": turns("q", "a")},
    ),
    "codefuse-ai/CodeExercise-Python-27k": (
        {"id": 1, "chat_rounds": [{"role": "human", "content": "q"}, {"role": "bot", "content": "a"}]},
        {"messages": turns("q", "a")},
    ),
    "simpleai/HC3": (
        {"id": "1", "question": "q", "human_answers": ["h"], "chatgpt_answers": ["a", "b"]},
        {"messages": turns("q", "a")},
    ),
    "LLM-Research/xlam-function-calling-60k": (
        {
            "id": 0,
            "query": "q",
            "answers": '[{"name": "f", "arguments": {"x": 1}}]',
            "tools": '[{"name": "f", "description": "d", "parameters": {"x": {"type": "int"}}}]',
        },
        {
            "messages": [
                {"role": "user", "content": "q"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
                },
            ],
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "f", "description": "d", "parameters": {"x": {"type": "int"}}},
                }
            ],
        },
    ),
    "AI-ModelScope/hh_rlhf_cn": (
        {
            "context": [{"role": "human", "text": "q"}],
            "chosen": {"role": "assistant", "text": "a"},
            "rejected": {"role": "assistant", "text": "b"},
        },
        {"messages": turns("q", "a"), "rejected_messages": turns("q", "b")},
    ),
    "hjh0119/shareAI-Llama3-DPO-zh-en-emoji": (
        {"question": "q", "answer_zh": "a", "answer_en": "b"},
        {"messages": turns("q", "a"), "rejected_messages": turns("q", "b")},
    ),
    "OmniData/Zhihu-KOL": (
        {"INSTRUCTION": "q", "RESPONSE": "a", "SOURCE": "s", "METADATA": "m"},
        {"messages": turns("q", "a")},
    ),
    "swift/gpt4v-dataset": ({"caption": "a", "link": "u"}, {"messages": PICTURE, "images": ["u"]}),
    "swift/pixelprose": (
        {"uid": "1", "url": "u", "key": "k", "vlm_caption": "a"},
        {"messages": PICTURE, "images": ["u"]},
    ),
    "swift/moondream2-coyo-5M-captions": (
        {"url": "u", "moondream2_caption": "a"},
        {"messages": PICTURE, "images": ["u"]},
    ),
    "AI-ModelScope/LaTeX_OCR": (
        {"image": {"bytes": b"1", "path": None}, "text": "a"},
        {"messages": turns("<image>Write what the picture shows as LaTeX.", "a"), "images": [{"bytes": b"1"}]},
    ),
    "speech_asr/speech_asr_aishell1_trainsets": (
        {"Audio:FILE": "a.wav", "Text:LABEL": "a"},
        {"messages": turns("<audio>Write down what is said.", "a"), "audios": ["a.wav"]},
    ),
    "AI-ModelScope/M3IT": (
        {"instruction": "q", "inputs": "c", "outputs": "a", "image_base64_str": ["MQ=="]},
        {"messages": turns("q\nc", "a"), "images": ["data:image/jpeg;base64,MQ=="]},
    ),
    "swift/OK-VQA_train": (
        {"image": "i.jpg", "question": "q", "answers": ["a", "b"], "question_type": "t"},
        {"messages": turns("q", "a"), "images": ["i.jpg"]},
    ),
    "swift/ChartQA": (
        {"image": "i.jpg", "query": "q", "label": ["a"], "human_or_machine": 0},
        {"messages": turns("q", "a"), "images": ["i.jpg"]},
    ),
    "swift/VQAv2": (
        {
            "question_type": "t",
            "multiple_choice_answer": "a",
            "answers": [{"answer": "a", "answer_id": 1}],
            "question": "q",
            "image": "i.jpg",
        },
        {"messages": turns("q", "a"), "images": ["i.jpg"]},
    ),
    "swift/ScienceQA": (
        {**QUESTION, "image": None, "answer": 1, "hint": "", "lecture": "l", "solution": "s"},
        {"messages": CHOSEN},
    ),
    "swift/A-OKVQA": (
        {**QUESTION, "image": "i.jpg", "correct_choice_idx": 1, "direct_answers": "[]", "rationales": ["r"]},
        {"messages": CHOSEN, "images": ["i.jpg"]},
    ),
    "swift/OCR-VQA": (
        {"image": "i.jpg", "image_id": "1", "questions": ["q", "r"], "answers": ["a", "b"]},
        {"messages": turns("q", "a", "r", "b"), "images": ["i.jpg"]},
    ),
    "swift/lnqa": (
        {"image": "i.jpg", "qa": [{"question": "q", "answer": "a"}]},
        {"messages": turns("q", "a"), "images": ["i.jpg"]},
    ),
    "FreedomIntelligence/medical-o1-reasoning-SFT": (
        {"Question": "q", "Complex_CoT": "t", "Response": "a"},
        {"messages": [*turns("q"), {"role": "assistant", "content": "a", "reasoning_content": "t"}]},
    ),
    "liucong/Chinese-DeepSeek-R1-Distill-data-110k": (
        {"input": "q", "reasoning_content": "t", "content": "a", "repo_name": "r", "score": 9},
        {"messages": [*turns("q"), {"role": "assistant", "content": "a", "reasoning_content": "t"}]},
    ),
    "HuggingFaceTB/cosmopedia": (
        {"prompt": "q", "text_token_length": 1, "text": "a", "seed_data": "s", "format": "f", "audience": "p"},
        {"messages": turns("q", "a")},
    ),
    "AI-ModelScope/the-stack": ({"hexsha": "h", "content": "a", "lang": "C"}, {"messages": turns("", "a")[1:]}),
    "AI-ModelScope/starcoderdata": ({"id": 1, "content": "a"}, {"messages": turns("", "a")[1:]}),
    "swift/github-code": ({"code": "a", "repo_name": "r", "path": "p"}, {"messages": turns("", "a")[1:]}),
    "swift/RedPajama-Data-V2": ({"raw_content": "a", "doc_id": "d"}, {"messages": turns("", "a")[1:]}),
    "tiiuae/falcon-refinedweb": ({"content": "a", "url": "u"}, {"messages": turns("", "a")[1:]}),
    "AI-ModelScope/wikipedia-cn-20230720-filtered": (
        {"completion": "a", "source": "s"},
        {"messages": turns("", "a")[1:]},
    ),
    "swift/aya_collection": ({"inputs": "q", "targets": "a", "language": "eng"}, {"messages": turns("q", "a")}),
    "open-r1/verifiable-coding-problems-python": (
        {"source": "s", "task_type": "t", "prompt": "q", "gold_standard_solution": "a", "verification_info": "{}"},
        {"messages": turns("q", "a")},
    ),
}
"""Rows of the schema that each data set has, and what becomes of them, without other columns."""

SAME = {
    "AI-ModelScope/adgen": "lvjianjin/AdvertiseGen",
    "simpleai/HC3-Chinese": "simpleai/HC3",
    "OmniData/Zhihu-KOL-More-Than-100-Upvotes": "OmniData/Zhihu-KOL",
    "swift/cosmopedia-100k": "HuggingFaceTB/cosmopedia",
    "open-r1/verifiable-coding-problems-python-10k": "open-r1/verifiable-coding-problems-python",
    "open-r1/verifiable-coding-problems-python-10k_decontaminated": "open-r1/verifiable-coding-problems-python",
    "open-r1/verifiable-coding-problems-python_decontaminated": "open-r1/verifiable-coding-problems-python",
}

MAPPED = {entry.names[0]: entry for entry in ENTRIES if entry.columns or entry.query or entry.convert}


def test_the_table_is_large_and_whole():
    assert sum(bool(entry.ms_id and entry.hf_id) for entry in ENTRIES) >= 150
    names = [name for entry in ENTRIES for name in {entry.ms_id, entry.hf_id} - {""}]
    twice = {name for name in names if names.count(name) > 1}
    # One set of Hugging Face may stand on ModelScope twice, once for each of its tasks.
    assert twice <= {"jxu124/refcoco"}, twice
    for entry in ENTRIES:
        assert all(ID.fullmatch(name) for name in entry.names), entry
        assert entry.names
        assert entry.subsets
        assert entry.splits
        assert not entry.name and not entry.path


def test_every_mapping_has_its_row():
    assert MAPPED.keys() == ROWS.keys() | SAME.keys()
    assert {entry.convert for entry in ENTRIES} - {""} == CONVERTERS.keys()


@pytest.mark.parametrize("name", MAPPED)
def test_mappings_read_the_true_schema(name):
    record, expected = ROWS[SAME.get(name, name)]
    before = json.dumps(record, default=str)
    row = to_row(MAPPED[name].mapper({})(dict(record)))
    check_row(row)
    row.pop("extra", None)
    assert row == expected
    assert json.dumps(record, default=str) == before


@pytest.mark.parametrize(
    ("name", "record", "reason"),
    [
        ("swift/lnqa", {"image": "i.jpg"}, "column qa is missing; the row has image"),
        ("swift/ScienceQA", {**QUESTION, "answer": 2}, "answer 2 is not the number of a choice"),
        ("swift/OCR-VQA", {"questions": ["q"], "answers": []}, "1 questions have 0 answers"),
        ("swift/ChartQA", {"query": "q", "label": []}, "answers holds no answer"),
        ("LLM-Research/xlam-function-calling-60k", {"query": "q", "answers": "f("}, "answers is not JSON"),
    ],
)
def test_rows_of_another_schema_are_refused(name, record, reason):
    with pytest.raises(Exception, match=reason):
        MAPPED[name].mapper({})(record)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    asked: list = []

    def resolve_dataset(id, *, use_hf=None, **_):
        asked.append((id, use_hf))
        return SimpleNamespace(path=tmp_path / "repo", hub="hf", reason="test")

    monkeypatch.setattr("swift.hub.resolve_dataset", resolve_dataset)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("USE_HF", raising=False)
    return asked


def load(name, use_hf=None, **options):
    return [row for row, _ in load_rows([name], DataConfig(**options), seed=0, shuffle=False, use_hf=use_hf).rows]


@pytest.mark.parametrize(
    ("name", "use_hf", "asked"),
    [
        ("shibing624/AdvertiseGen", False, ("lvjianjin/AdvertiseGen", False)),
        ("HF::lvjianjin/AdvertiseGen", None, ("shibing624/AdvertiseGen", True)),
        ("MS::lvjianjin/AdvertiseGen", True, ("lvjianjin/AdvertiseGen", False)),
    ],
)
def test_an_id_of_either_hub_is_found_on_the_one_that_is_asked(hub, jsonl, name, use_hf, asked):
    jsonl([{"content": "q", "summary": "a"}], "repo/train.jsonl")
    jsonl([{"content": "v", "summary": "a"}], "repo/validation.jsonl")
    assert load(name, use_hf) == [{"messages": turns("q", "a")}]
    assert load(f"{name}@validation+train#2", use_hf) == [{"messages": turns(t, "a")} for t in "vq"]
    assert hub == [asked, asked]


@pytest.mark.parametrize(("choice", "asked"), [("1", (None, False)), ("0", (True, None))])
def test_a_set_of_one_hub_alone_is_found_there(hub, jsonl, monkeypatch, choice, asked):
    monkeypatch.setenv("USE_HF", choice)
    jsonl([{"text": "a"}], "repo/train.jsonl")
    load("roneneldan/TinyStories")
    load("iic/ms_agent")
    assert hub == list(zip(("roneneldan/TinyStories", "iic/ms_agent"), asked, strict=True))


def test_the_users_columns_come_before_the_tables(hub, jsonl):
    jsonl([{"content": "q", "summary": "a", "title": "t"}], "repo/train.jsonl")
    row = {"messages": turns("q", "t"), "extra": {"old": "a"}}
    assert load("lvjianjin/AdvertiseGen", columns={"summary": "old", "title": "response"}) == [row]


@pytest.fixture
def own(jsonl, tmp_path):
    jsonl([{"ask": "q", "say": "a"}, {"ask": "r", "say": 5}], "mine.jsonl")

    def write(*entries) -> str:
        path = tmp_path / f"table{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(list(entries)))
        return str(path)

    return write


def test_a_table_of_the_users_own(own, hub, jsonl):
    jsonl([{"ask": "h", "say": "a"}], "repo/train.jsonl")
    columns = {"ask": "query", "say": "response"}
    entry = {"name": "mine", "path": "mine.jsonl", "columns": columns, "tags": "chat"}
    other = {"dataset_path": "mine.jsonl", "columns": columns, "help": "by its path"}
    third = {
        "ms_dataset_id": "a/b",
        "hf_dataset_id": "c/d",
        "columns": columns,
        "subsets": ["default"],
        "split": "train",
    }
    tables = [own(entry, other), own(third)]
    for name in ("mine", "mine.jsonl"):
        assert load(f"{name}#1", custom_dataset_info=tables, strict=False) == [{"messages": turns("q", "a")}]
    with pytest.raises(SwiftError, match=r"mine.jsonl:2: content of message 2 \(assistant\) is a number"):
        load("mine", custom_dataset_info=tables)
    assert load("HF::a/b", custom_dataset_info=tables) == [{"messages": turns("h", "a")}]
    assert hub == [("c/d", True)]


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"name": "a", "path": "b", "colums": {}}, "there is no field colums"),
        ({"name": "a"}, "a data set needs ms_id, hf_id, or a name with a path"),
        ({"ms_id": 5}, "ms_id is a number, not text"),
        ({"ms_id": "a/b", "splits": [1]}, "splits is a list, not a list of texts"),
        ({"ms_id": "a/b", "columns": ["a"]}, "columns is a list, not an object of names"),
        ({"ms_id": "a/b", "convert": "magic"}, "there is no converter magic"),
        ("a", "a data set is an object, this is text"),
    ],
)
def test_tables_with_mistakes(own, entry, what):
    table = own({"name": "good", "path": "mine.jsonl"}, entry)
    with pytest.raises(SwiftError, match=what) as error:
        load("good", custom_dataset_info=[table])
    assert f"{table}: entry 2" in str(error.value)


def test_tables_that_cannot_be_read(tmp_path):
    with pytest.raises(SwiftError, match=r"--custom_dataset_info no\.json cannot be read"):
        load("a", custom_dataset_info=["no.json"])
    for text, what in (("{", "is not JSON"), ("{}", "holds an object, not a list")):
        (tmp_path / f"{what[:4]}.json").write_text(text)
        with pytest.raises(SwiftError, match=re.escape(what)):
            load("a", custom_dataset_info=[str(tmp_path / f"{what[:4]}.json")])


def test_names_of_a_table():
    entry = known_dataset("AI-ModelScope/alpaca-cleaned")
    assert entry is not None and entry.hf_id == "yahma/alpaca-cleaned"
    assert known_dataset("no/such") is None


def test_a_row_that_a_converter_refuses_is_kept_to_be_mended(tmp_path):
    row = {"question": "q", "choices": ["a"], "answer": 5}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "answer": 0}) + "\n")
    table = tmp_path / "mine.json"
    table.write_text(json.dumps([{"name": "mine", "path": "rows.jsonl", "convert": "choice"}]))
    config = DataConfig(custom_dataset_info=[str(table)], strict=False)
    (dropped,) = load_rows(["mine"], config, seed=0, shuffle=False).dropped
    assert (dropped.reason, dropped.row) == ("answer 5 is not the number of a choice", row)
