"""Where a run writes, and what it reads first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.config.fields import option


@dataclass
class OutputConfig:
    """Options of a training run's folder and reports."""

    output_dir: str | None = option(None, "Folder of runs; unset means output/NAME-OF-MODEL.")
    add_version: bool = option(True, "Put each run into a folder of its own: vN-date.")
    create_checkpoint_symlink: bool = option(False, "Links last and best to checkpoints in the run's folder.")
    dry_run: bool = option(False, "Show the plan, the first rows and the planned memory, then stop.")
    format: Literal["text", "json"] = option("text", "How --dry_run prints: for people, or one JSON object a line.")
    logging_dir: str | None = option(None, "Folder of TensorBoard files; unset means runs in the run's folder.")
    swanlab_token: str | None = option(None, "SwanLab: API key.", secret=True)
    swanlab_project: str = option("ms-swift", "SwanLab: project.")
    swanlab_workspace: str | None = option(None, "SwanLab: workspace.")
    swanlab_exp_name: str | None = option(None, "SwanLab: name of the run; unset means --output_dir.")
    swanlab_mode: Literal["cloud", "local"] = option("cloud", "SwanLab: where it records.")


@dataclass
class PluginConfig:
    """Options that load a user's code."""

    external_plugins: list[str] = option(
        help="Python files whose decorators register a user's own parts.",
        factory=list,
        aliases=("custom_register_path",),
    )
    ignore_args_error: bool = option(False, "Warn about unknown options instead of stopping, for notebooks.")
