from __future__ import annotations

import pytest

from swift.data.checks import check_row
from swift.data.drops import BadRow
from swift.data.formats import to_row

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
        ({"text": "a", "id": 1}, "columns text, id are no known form"),
        ({}, r"columns \(none\) are no known form"),
    ],
)
def test_bad_rows_say_what_is_wrong(record, reason):
    with pytest.raises(BadRow, match=reason):
        row_of(record)


@pytest.mark.parametrize(("given", "kept"), [(3, {"extra": 3}), ("a note", {"extra": "a note"}), ({"a": 1}, {"a": 1})])
def test_a_column_named_extra_holds_anything(given: object, kept: dict[str, object]) -> None:
    assert to_row({"query": "a", "response": "b", "extra": given})["extra"] == kept
