"""EvalScope as it is installed: where, which data sets it knows, and a run of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from swift.config.evaluate import EvaluateConfig
from swift.environments.place import BROKEN, WHOLE, look
from swift.errors import SwiftError

HARNESS = Path(__file__).with_name("harness")
OTHER = {"OpenCompass": "opencompass", "VLMEvalKit": "vlmeval"}
"""Packages behind the other backends."""
LOCAL = ",".join(filter(None, ("127.0.0.1,localhost,::1", os.environ.get("NO_PROXY"))))
WHERE = "import importlib.util as u, json; s = u.find_spec({!r}); print(json.dumps(s.origin if s else None))"


class EvalScope:
    """EvalScope in this environment or another one.

    Args:
        python: the interpreter of its environment; None means this one, or the one that `swift env` made.

    Raises:
        SwiftError: it is not there.
    """

    def __init__(self, python: str | None = None) -> None:
        self.python = python or _found()
        origin = self._origin("evalscope")
        if origin is None:
            raise SwiftError(
                f"{self.python} has no EvalScope",
                where="--evalscope_python" if python else None,
                fix="swift env install evalscope makes an environment with it",
            )
        self.folder = Path(origin).parent

    def _origin(self, package: str) -> str | None:
        try:
            told = subprocess.run(
                [self.python, "-c", WHERE.format(package)], capture_output=True, text=True, check=True, timeout=120
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise SwiftError(
                f"--evalscope_python {self.python} does not run: {error}", fix="name a Python interpreter"
            ) from None
        found = json.loads(told.stdout)
        return found if found is None else str(found)

    def datasets(self) -> dict[str, dict[str, Any]]:
        """What it says of each data set it knows, by name."""
        names = json.loads((self.folder / "benchmarks" / "_index.json").read_text(encoding="utf-8"))
        return {name: self._meta(name) for name in sorted(names)}

    def _meta(self, name: str) -> dict[str, Any]:
        file = self.folder / "benchmarks" / "_meta" / f"{name}.json"
        told = json.loads(file.read_text(encoding="utf-8"))["meta"] if file.is_file() else {}
        return {key: told.get(key) for key in ("pretty_name", "dataset_id", "tags", "subset_list")}

    def check(self, config: EvaluateConfig, backend: str = "Native") -> None:
        """Stop at what cannot be evaluated, before a model is loaded for it.

        Args:
            backend: who knows the data sets.

        Raises:
            SwiftError: no data set is named, one is unknown, a local folder is not there, or a backend is missing.
        """
        if not config.eval_dataset:
            raise SwiftError("--eval_dataset is missing", fix="name one; swift eval --list true shows them")
        if backend != "Native":
            if self._origin(OTHER[backend]) is None:
                raise SwiftError(
                    f"--eval_backend {backend} is not in EvalScope's environment",
                    fix=f"{self.python} -m pip install 'evalscope[{OTHER[backend]}]'",
                )
            return
        known = self.datasets()
        for name in config.eval_dataset:
            if name not in known:
                near = get_close_matches(name, known, n=3, cutoff=0.5)
                raise SwiftError(
                    f"--eval_dataset {name}: EvalScope knows no such data set",
                    fix=f"did you mean {' or '.join(near)}?" if near else "swift eval --list true shows them",
                )
        given = config.eval_dataset_args or {}
        if unused := sorted(given.keys() - set(config.eval_dataset)):
            raise SwiftError(
                f"--eval_dataset_args is for {', '.join(unused)}, which --eval_dataset does not name",
                fix="name the same data sets in both",
            )
        for name, options in given.items():
            path = options.get("local_path") if isinstance(options, dict) else None
            if path and not Path(str(path)).expanduser().exists():
                raise SwiftError(
                    f"--eval_dataset_args {name}: there is no {path}", fix="correct local_path; it names a folder"
                )

    def run(self, task: dict[str, Any], log: Path) -> list[dict[str, Any]]:
        """Evaluate; what EvalScope prints goes to a file.

        Raises:
            SwiftError: it failed; with its last lines.
        """
        with tempfile.TemporaryDirectory() as folder:
            given, told = Path(folder) / "task.json", Path(folder) / "result.json"
            given.write_text(json.dumps(task), encoding="utf-8")
            with log.open("ab") as file:
                status = subprocess.run(
                    [self.python, str(HARNESS), str(given), str(told)],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    # A proxy of the environment does not lead to this machine itself.
                    env=os.environ | {"PYTHONPATH": "", "NO_PROXY": LOCAL, "no_proxy": LOCAL},
                ).returncode
            if status != 0 or not told.is_file():
                last = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
                raise SwiftError(
                    f"EvalScope failed: {last[-1].strip()[:300] if last else f'status {status}'}",
                    where=str(log),
                    fix="its log has the whole story; data sets that are not local are downloaded first",
                )
            found: list[dict[str, Any]] = json.loads(told.read_text(encoding="utf-8"))
            return found


def task_of(
    config: EvaluateConfig,
    url: str,
    model: str,
    folder: Path,
    *,
    api_key: str | None = None,
    at_once: int = 16,
    backend: str = "Native",
) -> dict[str, Any]:
    """The arguments of EvalScope's TaskConfig.

    Args:
        url: the server's.
        model: its name there.
        folder: of EvalScope's files.
        at_once: questions.
    """
    return {
        "model": model,
        "model_id": model,
        "api_url": url,
        "api_key": api_key or "EMPTY",
        "eval_type": "openai_api",
        "eval_backend": backend,
        "datasets": config.eval_dataset,
        "dataset_args": config.eval_dataset_args or {},
        "limit": config.eval_limit,
        "eval_batch_size": at_once,
        "generation_config": {"temperature": 0} | (config.eval_generation_config or {}),
        "work_dir": str(folder),
        "no_timestamp": True,
        **(config.extra_eval_args or {}),
    }


def _found() -> str:
    """The interpreter of an environment with EvalScope.

    Raises:
        SwiftError: there is none.
    """
    if find_spec("evalscope") is not None:
        return sys.executable
    made = look("evalscope")
    if made.state == WHOLE:
        return str(made.python)
    raise SwiftError(
        "swift eval needs EvalScope, whose pins exclude others of ours: it lives in an environment of its own"
        + (f", and the one at {made.path} is broken: {made.wrong}" if made.state == BROKEN else ""),
        fix="swift env install evalscope makes one; --evalscope_python PATH names another",
    )
