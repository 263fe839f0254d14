"""`swift template` on a tiny tokenizer: no weights are there to be loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swift.cli.main import main
from swift.rows import IGNORE
from swift.templates.conversations import CONVERSATIONS
from tests.tiny import make_tokenizer

LLAMA = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and a configuration, and no weights."""
    folder = tmp_path_factory.mktemp("models") / "tokenizer"
    make_tokenizer().save_pretrained(folder)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 256}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "  你好 😀"}]}\n'
        '{"question": "2+2?", "response": "4 <|im_end|>"}\n'
        '{"messages": [{"role": "user", "content": "only asked"}]}\n'
        "no row\n"
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": '
        '[{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]}]}\n'
        '{"messages": [{"role": "user", "content": "' + "long " * 300 + '"}, {"role": "assistant", "content": "b"}]}\n'
    )
    return file


def objects(capsys: pytest.CaptureFixture[str], *words: Any) -> list[dict[str, Any]]:
    assert main(["template", "--format", "json", *map(str, words)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_json_of_good_and_bad_rows(model: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = objects(capsys, "--model", model, "--row", rows, "--columns", '{"question": "query"}')
    tokenizer = make_tokenizer()
    assert [each["row"] for each in shown] == [0, 1, 2, 3, 4, 5]
    assert [each["source"].rpartition(":")[2] for each in shown] == ["1", "2", "3", "4", "5", "6"]
    first, second, *failed = shown
    assert first["trained_text"] == ["  你好 😀<|im_end|>"]
    assert first["text"] == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n  你好 😀<|im_end|>\n"
    assert second["trained_text"] == ["4 <|im_end|><|im_end|>"]
    for each in (first, second):
        trained = [token for token in each["labels"] if token != IGNORE]
        assert tokenizer.decode(trained) == "".join(each["trained_text"])
        assert tokenizer.decode(each["input_ids"]) == each["text"]
    assert second["input_ids"].count(tokenizer.eos_token_id) == 2
    for each, said in zip(
        failed, ("assistant's turn", "not JSON", "drops the tool calls", "--max_length 256"), strict=True
    ):
        assert said in each["error"] and each.keys() == {"row", "source", "error"}


def test_built_in_conversations(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = objects(capsys, "--model", model, "--max_length", 4000)
    assert list(dict.fromkeys(each["source"] for each in shown)) == list(CONVERSATIONS)
    assert {each["source"] for each in shown if "error" in each} == {"tools", "parallel calls"}


def test_a_template_whose_control_tokens_the_tokenizer_lacks(
    model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "llama.jinja").write_text(LLAMA)
    words = ["--model", model, "--row", f"{rows}#1", "--chat_template", tmp_path / "llama.jinja", "--system", "Brief."]
    (only,) = objects(capsys, *words)
    assert only["text"].startswith("<|start_header_id|>system<|end_header_id|>\n\nBrief.<|eot_id|>")
    assert only["trained_text"] == ["  你好 😀<|eot_id|>"]


def test_new_tokens_reach_the_rows(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "marked.jsonl"
    file.write_text('{"query": "a <zz>", "response": "b"}\n')
    words = ["--model", model, "--row", file, "--new_special_tokens"]
    (only,) = objects(capsys, *words, "<zz>")
    assert len(make_tokenizer()) in only["input_ids"]


def test_rows_are_named_as_for_training(
    model: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "mine.json"
    table.write_text(json.dumps([{"name": "mine", "path": str(rows), "columns": {"question": "query"}}]))
    words = ["--model", model, "--custom_dataset_info", table, "--row"]
    assert ["error" in each for each in objects(capsys, *words, "mine#2")] == [False, False]
    (only,) = objects(capsys, *words, "mine#1", "--truncation_strategy", "raise", "--max_length", 4)
    assert only["error"].endswith("tokens are more than --max_length 4")
    missing = objects(capsys, "--model", model, "--row", rows, "--disable_auto_column_mapping", "true")[1]
    assert "are no known form" in missing["error"]


def test_text_and_page(model: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["template", "--model", str(model), "--row", str(rows)]) == 0
    shown = capsys.readouterr().out
    assert "«  你好 😀<|im_end|>»" in shown and "rows.jsonl:4: error: not JSON" in shown
    assert main(["template", "--model", str(model), "--row", str(rows), "--format", "html"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("<!DOCTYPE html>") and page.rstrip().endswith("</html>")
    assert "<span class=trained" in page and "&lt;|im_end|&gt;" in page and "not JSON" in page
    assert not any(word in page for word in ("src=", "href=", "<script", "@import"))


def test_a_file_that_is_not_there(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["template", "--model", str(model), "--row", "absent.jsonl"]) == 2
    assert "--row absent.jsonl: no such file" in capsys.readouterr().err
