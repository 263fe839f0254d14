"""Where a run writes, and what it reads first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.config.fields import named, option

CHATS = ("dingtalk", "lark", "wxwork", "slack", "discord")
BY_EMAIL = ("swanlab_notification_method", "email")


@dataclass
class OutputConfig:
    """Options of a training run's folder and reports."""

    output_dir: str | None = option(None, "Folder of runs; unset means output/NAME-OF-MODEL.", check=named)
    add_version: bool = option(True, "Put each run into a folder of its own: vN-date.")
    overwrite_output_dir: bool = option(
        False,
        "Let checkpoints of an earlier run in the same folder be replaced where steps are the same.",
        needs=("add_version", False),
    )
    create_checkpoint_symlink: bool = option(False, "Links last and best to checkpoints in the run's folder.")
    dry_run: bool = option(False, "Show the plan, the first rows and the planned memory, then stop.")
    format: Literal["text", "json"] = option(
        "text", "How --dry_run prints: for people, or one JSON object a line.", needs=("dry_run",)
    )
    logging_dir: str | None = option(
        None,
        "Folder of TensorBoard files; unset means runs in the run's folder.",
        check=named,
        needs=("report_to", "tensorboard", "all"),
    )
    swanlab_token: str | None = option(None, "SwanLab: API key.", secret=True, needs=("report_to", "swanlab"))
    swanlab_project: str = option("ms-swift", "SwanLab: project.", needs=("report_to", "swanlab"))
    swanlab_workspace: str | None = option(None, "SwanLab: workspace.", needs=("report_to", "swanlab"))
    swanlab_exp_name: str | None = option(
        None, "SwanLab: name of the run; unset means --output_dir.", needs=("report_to", "swanlab")
    )
    swanlab_mode: Literal["cloud", "local"] = option(
        "cloud", "SwanLab: where it records.", needs=("report_to", "swanlab")
    )
    swanlab_notification_method: Literal["email", "dingtalk", "lark", "wxwork", "slack", "discord"] | None = option(
        None, "SwanLab: who is told when the run ends or fails.", needs=("report_to", "swanlab")
    )
    swanlab_webhook_url: str | None = option(
        None, "SwanLab: where a chat takes the message.", secret=True, needs=("swanlab_notification_method", *CHATS)
    )
    swanlab_secret: str | None = option(
        None,
        "SwanLab: the chat's signing secret, or the password of the sender's mailbox.",
        secret=True,
        needs=("swanlab_notification_method", "email", "dingtalk", "lark"),
    )
    swanlab_sender_email: str | None = option(None, "SwanLab: the sender's address.", needs=BY_EMAIL)
    swanlab_receiver_email: str | None = option(None, "SwanLab: the receiver's address.", needs=BY_EMAIL)
    swanlab_smtp_server: str | None = option(None, "SwanLab: the sender's server, smtp.HOST.", needs=BY_EMAIL)
    swanlab_smtp_port: int | None = option(None, "SwanLab: its port; unset means 587.", needs=BY_EMAIL)
    swanlab_email_language: Literal["zh", "en"] = option(
        "zh", "SwanLab: language of the message.", needs=("swanlab_notification_method",)
    )


@dataclass
class PluginConfig:
    """Options that load a user's code."""

    external_plugins: list[str] = option(
        help="Python files whose decorators register a user's own parts.",
        factory=list,
        aliases=("custom_register_path",),
        check=named,
    )
    ignore_args_error: bool = option(False, "Warn about unknown options instead of stopping, for notebooks.")
