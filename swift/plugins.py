"""Loads the files that a user brings with `--external_plugins`.

Each room has one decorator for what a user may add to it:

- `swift.models.model_loader(name)`: a class that loads models of an architecture
- `swift.templates.chat_template(name)`: a chat template
- `swift.templates.loss_scale(name)`: weights for the parts of an answer
- `swift.data.dataset(name)`: a function that gives rows
- `swift.tuners.tuner(name)`, `swift.tuners.optimizer(name)`
- `swift.objectives.objective(name)`: a loss
- `swift.train.callback(name)`, `swift.train.metric(name)`
- `swift.engines.engine(name)`
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from swift.errors import SwiftError, raised_at


def load_plugins(paths: Iterable[str]) -> None:
    """Import each file once; its decorators do the rest.

    Raises:
        SwiftError: a file is missing, or fails when it is imported.
    """
    for path in paths:
        file = Path(path).resolve()
        name = f"swift_plugin_{file.stem}"
        if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(file):
            continue
        if not file.is_file():
            raise SwiftError(
                f"--external_plugins {path}: no such file", fix=f"check the path; it is looked for in {Path.cwd()}"
            )
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise SwiftError(f"--external_plugins {path} is not a Python file", fix="its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.path.insert(0, str(file.parent))
        try:
            spec.loader.exec_module(module)
        except SwiftError:
            raise
        except Exception as error:
            del sys.modules[name]
            raise SwiftError(
                f"--external_plugins {path} fails: {type(error).__name__}: {error}",
                where=raised_at(error),
                fix="mend the file; python runs it from top to bottom",
            ) from error
        finally:
            sys.path.remove(str(file.parent))
