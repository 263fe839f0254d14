"""The JSONL file that answers go to: checked before the work, continued after a break, never half a line."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from swift.errors import SwiftError


class ResultFile:
    """Answers to one run's rows; every line holds the `key` of what was asked, by which a run goes on after a break.

    Args:
        path: the file; its folder is made.
        keys: one for each row, of everything that its answer depends on.

    Raises:
        SwiftError: the file cannot be written, or holds answers to something else.
    """

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.path, self.keys = path, list(keys)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("a+b")
        except OSError as error:
            raise SwiftError(
                f"--result_path {path} cannot be written: {error.strerror}", fix="name a file that you may write"
            ) from None
        try:
            self.todo = self._open_rows()
        except SwiftError:
            self.close()
            raise

    def _open_rows(self) -> list[int]:
        """Places of the rows that have no answer yet; a line that a kill cut short is taken away."""
        answered: Counter[str] = Counter()
        wanted = Counter(self.keys)
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            key = _key(line)
            answered[key] += 1
            if answered[key] > wanted[key]:
                raise SwiftError(
                    "the result file holds answers of another run: other rows, model, template or parameters",
                    where=f"{self.path}:{number}",
                    fix="give another --result_path, or move this file away",
                )
            whole += len(line)
        self._file.truncate(whole)
        todo = []
        for place, key in enumerate(self.keys):
            if answered[key]:
                answered[key] -= 1
            else:
                todo.append(place)
        return todo

    def write(self, lines: Iterable[dict[str, Any]]) -> None:
        """Append lines and bring them to the disk.

        Raises:
            SwiftError: the disk is full or gone.
        """
        text = "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
        try:
            # A column of the data may hold half a surrogate pair, which UTF-8 cannot hold and JSON's escape can.
            self._file.write(text.encode("utf-8", errors="backslashreplace"))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SwiftError(
                f"answers cannot be written: {error.strerror}",
                where=str(self.path),
                fix="the same command goes on from there once there is room",
            ) from None

    def close(self) -> None:
        """Close the file; an empty one that nothing was written to goes."""
        self._file.close()
        if self.path.is_file() and not self.path.stat().st_size:
            self.path.unlink()


def _key(line: bytes) -> str:
    try:
        value = json.loads(line)
    except ValueError:
        return ""
    return str(value.get("key", "")) if isinstance(value, dict) else ""
