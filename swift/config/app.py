"""The chat page: where it is served, whom it asks, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.config.fields import between, named, option


@dataclass
class PageConfig:
    """Options of the page."""

    base_url: str | None = option(
        None,
        "URL of a server of the OpenAI protocol that answers, such as http://127.0.0.1:8000/v1; unset means that "
        "--model is served for the page.",
        check=named,
    )
    server_name: str = option(
        "127.0.0.1", "Address that the page is served at; 0.0.0.0 means every network of this machine.", check=named
    )
    server_port: int = option(7860, "Port that the page is served at; 0 takes a free one.", check=between(0, 65535))
    share: bool = option(False, "Have Gradio's servers lead a public address to the page.")
    lang: Literal["en", "zh"] = option("en", "Language of the page.")
    studio_title: str | None = option(None, "Title of the page; unset means the name of the model.", check=named)
    is_multimodal: bool | None = option(
        None,
        "Let files be sent along: pictures, films and sounds; unset follows what the server says of its model.",
    )
