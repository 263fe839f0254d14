"""A server that answers in place of a model in this process."""

from __future__ import annotations

from dataclasses import dataclass

from swift.config.fields import named, option

REMOTE = ("infer_backend", "remote")


@dataclass
class RemoteConfig:
    """Options of --infer_backend remote."""

    base_url: str | None = option(
        None,
        "URL of a server of the OpenAI protocol, such as http://127.0.0.1:8000/v1; it has the model, so none is named "
        "here.",
        check=named,
        needs=REMOTE,
    )
    api_key: str | None = option(None, "The server's key.", secret=True, needs=REMOTE)
    served_model: str | None = option(
        None,
        "The name that the server knows the model by, or one of its adapters; unset means the first that it lists.",
        check=named,
        needs=REMOTE,
    )
