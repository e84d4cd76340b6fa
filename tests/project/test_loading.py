"""What each command loads: the server is most of the program, and for ``serve`` alone."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import environment_of

from fastimd.bench.arguments import WIRES
from fastimd.bench.command import DIALECTS

SERVER = {"flask", "google.protobuf", "hypercorn", "prometheus_client", "quart", "quart_trio"}
LARGE = {"httpx", "msgspec", "prompt_toolkit", "redis", "shtab", "structlog", "trio", *SERVER}
"""The libraries of which the loading takes a while."""

NOBODY = "127.0.0.1:1"
CHAT = ("chat", f"ws://{NOBODY}/", "7", "--user", "mara")
LOADED: dict[tuple[str, ...], set[str]] = {
    ("--version",): set(),
    ("--help",): set(),
    ("status", "--help"): set(),
    ("chat", "--help"): set(),
    ("bench", "burst", "--help"): set(),
    ("no-such-command",): set(),
    ("completion", "bash"): {"shtab"},
    ("status",): {"msgspec"},
    ("group", "7"): {"msgspec"},
    ("say", "7", "x", "--as", "3"): {"msgspec"},
    ("kick", "3"): {"msgspec"},
    ("purge", "7", "--yes"): {"msgspec"},
    ("api-key", "game"): {"msgspec"},
    ("api-key", "--help"): set(),
    CHAT: {"httpx", "msgspec", "trio"},
    ("bench", "burst", f"ws://{NOBODY}", "--admin", ""): {"msgspec", "redis"},
    ("check",): {"msgspec", "structlog", "trio"},
}


def loaded_by(*arguments: str, **settings: str) -> set[str]:
    """Which large libraries the command has loaded at its end."""
    given = {"admin__bind": NOBODY, "chat_password": "x", **settings}
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fastimd", *arguments],
        env=environment_of(given),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    loaded = set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", ended.stderr, re.MULTILINE))
    assert "fastimd.cli" in loaded, ended
    return loaded & LARGE


@pytest.mark.parametrize("arguments", LOADED, ids=" ".join)
def test_a_command_loads_only_what_it_needs(arguments: tuple[str, ...]) -> None:
    """Whoever asks for the status need not wait until a server is loaded."""
    assert loaded_by(*arguments) == LOADED[arguments]


def test_a_daemon_loads_no_client_that_nobody_asked_for() -> None:
    """With one process, without webhooks and key sets it asks nobody over HTTP."""
    loaded = loaded_by("serve", hooks__handler="no_such_module")
    assert loaded == {"msgspec", "redis", "structlog", "trio", *SERVER}


def test_the_arguments_name_every_wire() -> None:
    """They do not load the dialects to know their names."""
    assert tuple(DIALECTS) == WIRES
