"""The bundled data set that teaches a model its name and its author."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from swift.config.data import DataConfig
from swift.data.readers import Record, Records, read_file
from swift.errors import SwiftError
from swift.rows import Source

NAMES = ("self-cognition", "swift/self-cognition", "AI-ModelScope/self-cognition", "modelscope/self-cognition")

TABLE = Path(__file__).parent / "table" / "self_cognition.jsonl"

EMPTY_THOUGHT = "<think>\n\n</think>\n\n"

SUBSETS = {"default": ("", ""), "qwen3": (" /no_think", EMPTY_THOUGHT), "empty_think": ("", EMPTY_THOUGHT)}
"""What a subset appends to the query and puts before the response."""

CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")


def read_self_cognition(config: DataConfig, subset: str = "default") -> Records:
    """The rows, with the model's name and author filled in.

    Raises:
        SwiftError: the name or the author is not given, or there is no such subset.
    """
    if not config.model_name or not config.model_author:
        raise SwiftError(
            "--dataset self-cognition needs both --model_name and --model_author",
            fix="for example --model_name Ada --model_author 'Lovelace Labs'",
        )
    if subset not in SUBSETS:
        raise SwiftError(
            f"--dataset self-cognition:{subset}: there is no such subset", fix=f"choose one of: {', '.join(SUBSETS)}"
        )
    english, chinese = _by_language(config.model_name, "model_name")
    author_english, author_chinese = _by_language(config.model_author, "model_author")
    slots = {"en": (english, author_english), "zh": (chinese, author_chinese)}
    return _filled(slots, SUBSETS[subset])


def _filled(slots: dict[str, tuple[str, str]], around: tuple[str, str]) -> Iterator[Record]:
    for record in read_file(TABLE):
        assert isinstance(record, tuple)
        row, source = record
        name, author = slots[row["tag"]]
        query, response = (
            row[key].replace("{{NAME}}", name).replace("{{AUTHOR}}", author) for key in ("query", "response")
        )
        after, before = around
        yield {"query": query + after, "response": before + response}, Source(NAMES[0], source.line)


def _by_language(names: Sequence[str], option: str) -> tuple[str, str]:
    """The English and the Chinese name.

    Where the script of just one of two tells it, that one is Chinese wherever it stands: ms-swift's own scripts put
    the Chinese name first.
    """
    if len(names) == 1:
        return names[0], names[0]
    if len(names) != 2:
        raise SwiftError(
            f"--{option} has {len(names)} names",
            fix="give one, or an English and a Chinese one; quote a name that holds spaces",
        )
    first, second = names
    if CHINESE.search(first) and not CHINESE.search(second):
        return second, first
    return first, second
