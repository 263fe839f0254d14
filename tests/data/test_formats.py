from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from swift.data.checks import check_row
from swift.data.drops import BadRow
from swift.data.formats import to_row
from swift.errors import SwiftError
from swift.templates import load_template
from tests.tiny import make_tokenizer

USER, REPLY = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def row_of(record, columns=None):
    row = to_row(record, columns)
    check_row(row)
    return row


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, REPLY]},
        {"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'},
        {"messages": "[{'role': 'user', 'content': 'q'}, {'role': 'assistant', 'content': 'a'}]"},
        {"messages": [{"role": "User", "content": "q", "name": None}, {"role": "bot", "content": "a"}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"conversation": [{"human": "q", "assistant": "a"}]},
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "input": "", "output": "a", "system": "", "history": []},
        {"instruction": "", "input": "q", "output": "a"},
        {"query": "q", "response": "a"},
        {"query": "q", "response": "a", "system": None, "history": None},
        {"prompt": "q", "completion": "a"},
        {"prompt": [USER], "completion": [REPLY]},
        {"prompt": [USER], "completion": "a"},
        {"prompt": "q", "completion": [REPLY]},
        {"prompt": [USER, REPLY]},
        {"question": "q", "answer": "a"},
        {"input": "q", "output": "a"},
    ],
)
def test_known_forms(record):
    assert row_of(record) == {"messages": [USER, REPLY]}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [SYSTEM, USER, REPLY]},
        {"messages": [SYSTEM, USER, REPLY], "system": "s"},
        {"messages": [USER, REPLY], "system": "s"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
        {"query": "q", "response": "a", "system": "s"},
        {"instruction": "q", "output": "a", "system_prompt": "s"},
    ],
)
def test_system(record):
    assert row_of(record) == {"messages": [SYSTEM, USER, REPLY]}


@pytest.mark.parametrize("history", [[["q", "a"]], '[["q", "a"]]'])
def test_history_comes_first(history):
    assert row_of({"query": "q", "response": "a", "history": history})["messages"] == [USER, REPLY, USER, REPLY]


@pytest.mark.parametrize("names", [("input", "output"), ("context", "response")])
def test_alpaca_joins_instruction_and_input(names):
    row = row_of({"instruction": "Add.", names[0]: "1 + 1", names[1]: "2", "id": 5})
    assert row == {
        "messages": [{"role": "user", "content": "Add.\n1 + 1"}, {"role": "assistant", "content": "2"}],
        "extra": {"id": 5},
    }


def test_messages_win_over_other_columns():
    row = row_of({"prompt": "x", "messages": [USER, REPLY], "answer": "y"})
    assert row == {"messages": [USER, REPLY], "extra": {"prompt": "x", "answer": "y"}}


def test_columns_come_first_and_may_swap():
    columns = {"text": "query", "query": "response", "response": "old"}
    assert row_of({"text": "q", "query": "a", "response": "z"}, columns) == {
        "messages": [USER, REPLY],
        "extra": {"old": "z"},
    }
    with pytest.raises(BadRow, match="two columns go by the name 'query'"):
        to_row({"text": "q", "query": "x", "response": "a"}, {"text": "query"})


def test_other_columns_are_kept():
    row = row_of(
        {
            "messages": [USER, {**REPLY, "loss": False}],
            "solution": "42",
            "extra": {"level": 3},
            "channel": "math",
            "label": 1,
            "images": "a.png",
            "tools": '[{"type": "function"}]',
            "rejected_response": "no",
        }
    )
    assert row == {
        "messages": [USER, {**REPLY, "loss": False}],
        "channel": "math",
        "label": 1,
        "images": ["a.png"],
        "tools": [{"type": "function"}],
        "rejected_messages": [USER, {"role": "assistant", "content": "no"}],
        "extra": {"solution": "42", "level": 3},
    }


def test_sharegpt_function_calls_become_tool_calls():
    turns = [
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "Let me see."},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": "7"},
        {"from": "function_call", "value": '[{"name": "f", "arguments": "{\\"x\\": 1}"}]'},
        {"from": "observation", "value": "8"},
        {"from": "gpt", "value": "a"},
    ]
    assert row_of({"conversations": turns})["messages"] == [
        USER,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
        {"role": "tool", "content": "7"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "8"},
        REPLY,
    ]


def test_openai_tool_calls_get_arguments_as_an_object():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert row_of({"messages": [USER, turn]})["messages"][1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", **CALL}],
    }


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": []}, "there is no message"),
        ({"messages": "q"}, "column messages is text that is not JSON: 'q'"),
        ({"messages": {"role": "user"}}, "messages is an object, not a list of turns"),
        ({"messages": ["q"]}, "message 1 is text, not an object with role and content"),
        ({"messages": [{"content": "q"}]}, "message 1 has no role"),
        ({"messages": [USER, {"role": "robot", "content": "a"}]}, "message 2 has unknown role 'robot'"),
        ({"messages": [USER, {"role": ["a"], "content": "a"}]}, r"message 2 has unknown role \['a'\]"),
        ({"messages": [USER]}, "no message is an assistant's turn"),
        ({"messages": [USER, {"role": "assistant", "content": 5}]}, r"message 2 \(assistant\) is a number, not text"),
        ({"messages": [USER, {"role": "assistant"}]}, r"content of message 2 \(assistant\) is null, not text"),
        ({"messages": [{"role": "user", "content": ["q"]}, REPLY]}, "a list with parts that have no type"),
        ({"messages": [USER, USER, REPLY]}, "message 2 is a second user turn in a row"),
        ({"messages": [USER, SYSTEM, REPLY]}, "message 2 is a system turn; it can only be the first"),
        ({"messages": [USER, {"role": "tool", "content": "7"}, REPLY]}, "message 2 is a tool's result without"),
        ({"messages": [USER, {**REPLY, "loss": "no"}]}, r"loss of message 2 \(assistant\) is text, not true or false"),
        ({"messages": [USER, {**REPLY, "weight": "x"}]}, "weight of message 2"),
        ({"messages": [SYSTEM, USER, REPLY], "system": "other"}, "the system column and the system turn differ"),
        ({"messages": [USER, {"role": "assistant", "content": "\ud83d"}]}, "half a surrogate pair at 1"),
        ({"messages": [USER, {"role": "tool_call", "content": "f(1)"}]}, "tool call of message 2 is not JSON: 'f"),
        ({"messages": [USER, {"role": "tool_call", "content": "{}"}]}, "tool call of message 2 has no function name"),
        ({"query": 5, "response": "a"}, r"content of message 1 \(user\) is a number, not text"),
        ({"query": "q", "response": "a", "history": ["x"]}, "history is not a list of"),
        ({"query": "q", "response": "a", "tools": {"a": 1}}, "tools is not a list of objects"),
        ({"body": "a", "id": 1}, "columns body, id are no known form: messages; conversations; instruction"),
        ({"query": "q", "chosen": "a", "id": 1}, "columns query, chosen, id are no known form"),
        ({"chosen": [USER, REPLY], "rejected": [USER]}, "no rejected message is an assistant's turn"),
        ({"chosen": [USER, REPLY], "rejected": 5}, "messages is a number, not a list of turns"),
        ({"prompt": "q", "completions": ["a"], "labels": [True, False]}, "one label for each of 1 completions"),
        ({"prompt": "q", "completions": "a", "labels": [True]}, "column completions is text that is not JSON"),
        ({"query": "q", "positive": [5]}, "a passage is a number, not text or a list of turns"),
        ({"query": "q", "positive": []}, "there is no positive passage"),
        ({"query": "q", "response": "a", "images": [5]}, "images 1 is a number, not a path, a URL, or an object"),
        ({"query": "q", "response": "a", "images": [{"width": 5}]}, "images 1 is an object, not a path"),
        ({"query": "q", "response": "a", "label": {"a": 1}}, "label is an object, not a number"),
        ({"query": "q", "response": "a", "margin": "far"}, "margin is 'far', not a number"),
        ({"query": "q", "response": "a", "objects": "5"}, "objects is a number, not an object"),
        ({"query": "q", "response": "a", "channel": 5}, "channel is a number, not text"),
        ({}, r"columns \(none\) are no known form"),
    ],
)
def test_bad_rows_say_what_is_wrong(record, reason):
    with pytest.raises(BadRow, match=reason):
        row_of(record)


@pytest.mark.parametrize(("given", "kept"), [(3, {"extra": 3}), ("a note", {"extra": "a note"}), ({"a": 1}, {"a": 1})])
def test_a_column_named_extra_holds_anything(given: object, kept: dict[str, object]) -> None:
    assert to_row({"query": "a", "response": "b", "extra": given})["extra"] == kept


def test_the_names_of_columns_alone():
    assert to_row({"messages": [USER, REPLY], "question": "x"}, auto=False)["extra"] == {"question": "x"}
    assert to_row({"query": "q", "response": "a"}, auto=False) == {"messages": [USER, REPLY]}
    with pytest.raises(BadRow, match=r"columns question, answer are no known form.*--disable_auto_column_mapping"):
        to_row({"question": "q", "answer": "a"}, auto=False)


@pytest.mark.parametrize(
    ("record", "meant"),
    [
        ({"Query": "q", "Response": "a"}, {"Query": "query", "Response": "response"}),
        ({"mesages": [], "id": 1}, {"mesages": "messages"}),
    ],
)
def test_a_slip_in_a_columns_name_is_told(record, meant):
    with pytest.raises(BadRow) as error:
        to_row(record)
    assert str(error.value).endswith(f"; did you mean --columns '{json.dumps(meant)}'?")


def test_plain_text_is_one_turn_to_learn():
    assert row_of({"text": "a", "url": "u"}) == {"messages": [REPLY], "extra": {"url": "u"}}


OTHER = {"role": "assistant", "content": "b"}
PAIR = {"messages": [USER, REPLY], "rejected_messages": [USER, OTHER]}
SHAREGPT = {"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b"}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"question": "q", "chosen": "a", "rejected": "b"},
        {"question": "q", "response_j": "a", "response_k": "b"},
        {"prompt": [USER], "chosen": [REPLY], "rejected": [OTHER]},
        {"prompt": [USER], "chosen": [USER, REPLY], "rejected": [USER, OTHER]},
        {"prompt": "q", "chosen": [USER, REPLY], "rejected": [USER, OTHER]},
        {"prompt": "q", "chosen": [REPLY], "rejected": "b"},
        {"messages": [USER, REPLY], "chosen": [USER, REPLY], "rejected": [USER, OTHER]},
        {"messages": [USER], "chosen": "a", "rejected": "b"},
        {"chosen": [USER, REPLY], "rejected": [USER, OTHER]},
        {"chosen": f"[{USER}, {REPLY}]", "rejected": f"[{USER}, {OTHER}]"},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        {"conversations": [{"from": "human", "value": "q"}], "chosen": SHAREGPT[0], "rejected": SHAREGPT[1]},
        {"query": "q", "response": "a", "rejected_response": "b"},
        {"messages": [USER, REPLY], "rejected_response": "b"},
        {"messages": [USER, REPLY], "rejected_response": OTHER},
        {"messages": [USER, REPLY], "rejected_messages": [USER, OTHER]},
        {"messages": [USER, REPLY], "rejected_messages": [OTHER]},
    ],
)
def test_preference_pairs(record):
    assert row_of(record) == PAIR


@pytest.mark.parametrize("margin", [0.5, "0.5"])
def test_pairs_with_system_history_and_margin(margin):
    record = {"instruction": "Add.", "input": "1", "system": "s", "history": [["q", "a"]], "margin": margin}
    row = row_of({**record, "chosen": "x", "rejected": "y", "score_chosen": 8.0})
    before = [SYSTEM, USER, REPLY, {"role": "user", "content": "Add.\n1"}]
    assert row == {
        "messages": [*before, {"role": "assistant", "content": "x"}],
        "rejected_messages": [*before, {"role": "assistant", "content": "y"}],
        "margin": 0.5,
        "extra": {"score_chosen": 8.0},
    }


def test_a_pair_without_a_prompt():
    assert row_of({"chosen": "a", "rejected": "b"}) == {"messages": [REPLY], "rejected_messages": [OTHER]}


@pytest.mark.parametrize(
    ("given", "label"),
    [
        (True, True),
        ("false", False),
        (3, 3),
        ("3", 3),
        ("0.5", 0.5),
        ([0, 2], [0, 2]),
        ("[0, 2]", [0, 2]),
        ("joy", "joy"),
    ],
)
@pytest.mark.parametrize("name", ["label", "kto_tag", "labels"])
def test_labels(name, given, label):
    answered = row_of({"prompt": "q", "completion": "a", name: given})
    assert answered == {"messages": [USER, REPLY], "label": label}
    assert type(answered["label"]) is type(label)
    assert row_of({"query": "q", name: given}) == {"messages": [USER], "label": label}
    assert row_of({"text": "q", name: given}) == {"messages": [USER], "label": label}


FOUND, NOT = [{"role": "user", "content": "p"}], [{"role": "user", "content": "n"}]


@pytest.mark.parametrize(
    "record",
    [
        {"query": "q", "positive": "p", "negative": "n"},
        {"anchor": "q", "positive": "p", "negative": "n"},
        {"anchor": "q", "positive": "p", "negative_1": "n"},
        {"query": "q", "pos": ["p"], "neg": ["n"]},
        {"query": "q", "positives": '["p"]', "negatives": "['n']"},
        {"messages": [USER], "positive_messages": [FOUND], "negative_messages": [NOT]},
        {"messages": [USER], "positive_messages": FOUND, "negative_messages": NOT},
        {"messages": [USER], "positives": FOUND[0], "negatives": [NOT]},
        {"query": "q", "response": "p", "rejected_response": ["n"]},
    ],
)
def test_passages_to_be_found_or_not(record):
    assert row_of(record) == {"messages": [USER], "positives": [FOUND], "negatives": [NOT]}


def test_passages_by_number_and_pairs_of_sentences():
    row = row_of({"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "n"})
    assert row == {"messages": [USER], "positives": [FOUND], "negatives": [NOT, NOT]}
    assert row_of({"query": "q", "positive": "p"}) == {"messages": [USER], "positives": [FOUND]}
    for name in ("score", "label"):
        row = row_of({"sentence1": "q", "sentence2": "p", name: 0.8})
        assert row == {"messages": [USER], "positives": [FOUND], "label": 0.8}


@pytest.mark.parametrize("prompt", ["q", [USER]])
def test_steps_with_labels(prompt):
    row = row_of({"prompt": prompt, "completions": ["One.", "Two."], "labels": [True, False]})
    assert row == {
        "messages": [USER, {"role": "assistant", "content": "One.\nTwo."}],
        "steps": ["One.", "Two."],
        "step_labels": [True, False],
    }


def test_a_solution_answers_where_nothing_else_does_and_stays_for_rewards():
    assert row_of({"problem": "q", "solution": "a"}) == {"messages": [USER, REPLY], "extra": {"solution": "a"}}
    assert row_of({"problem": "q", "answer": "a", "solution": "s"})["messages"] == [USER, REPLY]
    assert to_row({"problem": "q", "solution": "a"}, answers=False) == {"messages": [USER], "extra": {"solution": "a"}}


@pytest.mark.parametrize(
    ("given", "media"),
    [
        ("a.png", ["a.png"]),
        (["a.png", None, "https://x/b.png"], ["a.png", "https://x/b.png"]),
        ('["a.png"]', ["a.png"]),
        ({"bytes": b"1", "path": None}, [{"bytes": b"1"}]),
        ([{"bytes": b"1", "path": "a.png"}], [{"bytes": b"1", "path": "a.png"}]),
        ([{"bytes": None, "path": "a.png"}], ["a.png"]),
        ([{"type": "image_url", "image_url": {"url": "https://x/b.png"}}], ["https://x/b.png"]),
        ([{"url": "a.png"}, {"image": "b.png"}], ["a.png", "b.png"]),
        (b"1", [{"bytes": b"1"}]),
        ([], []),
        ("", []),
    ],
)
@pytest.mark.parametrize("name", ["image", "images"])
def test_media(name, given, media):
    assert row_of({"messages": [USER, REPLY], name: given})["images"] == media


def test_films_sounds_and_boxes():
    sound = {"array": [0.0], "sampling_rate": 16000, "path": None}
    boxes = {"ref": ["cat"], "bbox": [[1, 2, 3, 4]]}
    row = row_of(
        {"query": "q", "response": "a", "video": [["1.png", "2.png"]], "audio": sound, "objects": json.dumps(boxes)}
    )
    assert row == {
        "messages": [USER, REPLY],
        "videos": [["1.png", "2.png"]],
        "audios": [{"array": [0.0], "sampling_rate": 16000}],
        "objects": boxes,
    }


@pytest.mark.parametrize("tools", [[{"name": "f", "parameters": {}}], '[{"name": "f", "parameters": {}}]'])
def test_bare_tools_get_the_shape_of_openai(tools):
    row = row_of({"conversations": [{"from": "human", "value": "q"}, SHAREGPT[0]], "tools": tools, "system": "s"})
    assert row["tools"] == [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert row["messages"] == [SYSTEM, USER, REPLY]


def test_a_row_of_the_user_is_not_changed():
    turns = [USER, dict(REPLY), {"role": "tool_call", "content": '{"name": "f"}'}]
    record = {"messages": list(turns), "extra": {"a": 1}}
    before = json.dumps(record)
    row_of(record)
    assert json.dumps(record) == before


def documented_rows():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    return re.findall(r"^\| ([^|]+) \| `(\{.*\})` \|$", page, re.MULTILINE)


@pytest.mark.parametrize(("form", "text"), documented_rows())
def test_documented_rows_are_read_as_they_say(form, text):
    row = row_of(json.loads(text))
    kept = {
        "preference pair": {"rejected_messages", "margin"},
        "pair of conversations": {"rejected_messages"},
        "pair beside a conversation": {"rejected_messages"},
        "liked or not (KTO)": {"label"},
        "class, classes or score": {"label"},
        "passages to be found or not": {"positives", "negatives"},
        "two sentences and their likeness": {"positives", "label"},
        "steps with labels": {"steps", "step_labels"},
        "a question for rewards": {"extra"},
        "pictures, films, sounds": {"images"},
        "ShareGPT with tools": {"tools"},
    }
    assert row.keys() == {"messages"} | kept.get(form, set())


def test_every_form_is_documented():
    assert len(documented_rows()) == 19


@pytest.mark.parametrize(
    "messages",
    [
        [],
        ["q"],
        [{"content": "q"}],
        [{"role": "narrator", "content": "q"}],
        [{"role": "user", "content": 5}],
        [USER, {**REPLY, "reasoning_content": 5}],
        [USER],
        [USER, {"role": "assistant", "tool_calls": [{}]}],
    ],
)
def test_rows_and_templates_tell_a_mistake_in_the_same_words(messages):
    with pytest.raises(BadRow) as row:
        row_of({"messages": messages})
    with pytest.raises(SwiftError) as template:
        load_template(make_tokenizer()).encode({"messages": messages})
    assert template.value.what.startswith(str(row.value))
