"""SwanLab's run, and who is told when it ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from swift.config import SftConfig
from swift.config.output import CHATS, OutputConfig
from swift.errors import SwiftError

CALLBACKS = {
    "email": "EmailCallback",
    "dingtalk": "DingTalkCallback",
    "lark": "LarkCallback",
    "wxwork": "WXWorkCallback",
    "slack": "SlackCallback",
    "discord": "DiscordCallback",
}
"""SwanLab's own classes, by the names of `--swanlab_notification_method`."""


def check_notification(output: OutputConfig) -> None:
    """Stop where a way to tell somebody lacks an address.

    Raises:
        SwiftError: it names the option.
    """
    method = output.swanlab_notification_method
    needed = {
        "email": ("swanlab_sender_email", "swanlab_receiver_email", "swanlab_secret", "swanlab_smtp_server"),
        **{chat: ("swanlab_webhook_url",) for chat in CHATS},
    }
    if method and (missing := [name for name in needed[method] if getattr(output, name) is None]):
        raise SwiftError(
            f"--swanlab_notification_method {method} lacks an address", fix=f"add --{' and --'.join(missing)}"
        )


def start_swanlab(config: SftConfig, run_folder: Path) -> None:
    """Open SwanLab's run, which transformers' callback then takes.

    Its own opening does not work with SwanLab 0.10: it expects None where no run is active, and the variable
    SWANLAB_PROJECT, by which it would be told the project, now holds JSON.
    """
    import swanlab

    output = config.output
    if output.swanlab_token:
        swanlab.login(output.swanlab_token)
    # What stands in the environment counts where no option says otherwise.
    mode = output.swanlab_mode if config.given("swanlab_mode") or "SWANLAB_MODE" not in os.environ else None
    swanlab.init(
        project=output.swanlab_project,
        workspace=output.swanlab_workspace,
        experiment_name=output.swanlab_exp_name or config.train.more.get("run_name") or str(run_folder),
        mode=mode,
        callbacks=notifications(output),
    )


def notifications(output: OutputConfig) -> list[Any]:
    """SwanLab's callback that tells somebody; none where nobody wants to be told."""
    method = output.swanlab_notification_method
    if method is None:
        return []
    from swanlab.plugin import notification

    values: dict[str, Any] = {"language": output.swanlab_email_language}
    if method == "email":
        values |= {
            "sender_email": output.swanlab_sender_email,
            "receiver_email": output.swanlab_receiver_email,
            "password": output.swanlab_secret,
            "smtp_server": output.swanlab_smtp_server,
        }
        if output.swanlab_smtp_port is not None:
            values["port"] = output.swanlab_smtp_port
    else:
        values["webhook_url"] = output.swanlab_webhook_url
        if output.swanlab_secret is not None and method in ("dingtalk", "lark"):
            values["secret"] = output.swanlab_secret
    return [getattr(notification, CALLBACKS[method])(**values)]
