"""Who is told by SwanLab when a run ends."""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from swift.config import SftConfig
from swift.config.build import read_arguments
from swift.errors import SwiftError
from swift.train.arguments import check_packages
from swift.train.swanlab import CALLBACKS, notifications

BASE = ["--model", "demo", "--dataset", "self-cognition", "--swanlab_notification_method"]
EMAIL = "--swanlab_sender_email a@b --swanlab_receiver_email c@d --swanlab_secret x --swanlab_smtp_server smtp.b"


def output_of(words: str) -> Any:
    return read_arguments(SftConfig, [*BASE, *words.split()]).output


@pytest.fixture
def classes(monkeypatch: pytest.MonkeyPatch) -> None:
    def maker(name: str) -> Any:
        return lambda **values: (name, values)

    plugin = SimpleNamespace(notification=SimpleNamespace(**{name: maker(name) for name in CALLBACKS.values()}))
    monkeypatch.setitem(sys.modules, "swanlab", SimpleNamespace(plugin=plugin))
    monkeypatch.setitem(sys.modules, "swanlab.plugin", plugin)


@pytest.mark.parametrize("chat", ["dingtalk", "lark", "wxwork", "slack", "discord"])
def test_a_chat_is_told(classes: None, chat: str) -> None:
    ((name, values),) = notifications(output_of(f"{chat} --swanlab_webhook_url http://x"))
    assert (name, values) == (CALLBACKS[chat], {"language": "zh", "webhook_url": "http://x"})


def test_a_mailbox_is_told(classes: None) -> None:
    ((_, values),) = notifications(output_of(f"email {EMAIL} --swanlab_smtp_port 465 --swanlab_email_language en"))
    assert values == {
        "language": "en",
        "sender_email": "a@b",
        "receiver_email": "c@d",
        "password": "x",
        "smtp_server": "smtp.b",
        "port": 465,
    }


def test_the_installed_classes_take_these_values() -> None:
    notification = pytest.importorskip("swanlab.plugin.notification", reason="the extra swanlab is not installed")
    for name in CALLBACKS.values():
        taken = inspect.signature(getattr(notification, name)).parameters
        assert taken.keys() >= ({"sender_email", "port"} if name == "EmailCallback" else {"webhook_url", "language"})
    assert type(notifications(output_of("lark --swanlab_webhook_url http://x --swanlab_secret s"))[0])


@pytest.mark.parametrize(("words", "missing"), [("slack", "webhook_url"), ("email", "sender_email")])
def test_an_address_is_needed(words: str, missing: str) -> None:
    with pytest.raises(SwiftError, match=f"(?s)method {words} lacks an address.*--swanlab_{missing}"):
        check_packages(read_arguments(SftConfig, [*BASE, words]))
