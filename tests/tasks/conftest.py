"""The runs of `tests/train`, for tasks."""

from tests.train.conftest import base, rows, train

__all__ = ["base", "rows", "train"]
