"""docs/API.md: its examples are calls, and its tables have what the code has."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from calling import SECRETS, SETTINGS, admin_of, backend
from clients import RawClient
from conftest import Daemon, ShareDaemon, wait_for

from fastimd.api import CALL_SECONDS, errors
from fastimd.api.bodies import MOST_CHANNELS, MOST_COMMANDS
from fastimd.api.calls import PARALLEL
from fastimd.api.keys import WRONG_A_MINUTE
from fastimd.api.methods import METHODS
from fastimd.api.server import BODY_SECONDS, MAX_BODY_BYTES, UNAUTHORIZED
from fastimd.base.codec import MAX_ID_LENGTH
from fastimd.base.settings import load
from fastimd.groups.presence.presence import MOST_LISTED
from fastimd.groups.store.keyspace import NONCE_SECONDS
from fastimd.groups.store.messages import SERVER_NONCES
from fastimd.groups.surveys import ANSWER_SECONDS
from fastimd.hooks import MOST_TAGS, TAGS_BYTES
from fastimd.live.reading import MOST_MESSAGES

DOCUMENT = (Path(__file__).parents[2] / "docs" / "API.md").read_text()
EXAMPLES = re.findall(r"^```sh\n(curl .*?)^```\n\n```json\n(.*?)^```$", DOCUMENT, re.M | re.S)
SAID = "1795956600000"
"""The offset of the page's messages."""


@pytest.fixture
def daemon(share_daemon: ShareDaemon) -> Daemon:
    return share_daemon(**SETTINGS)


def run(command: str, daemon: Daemon, offset: str = SAID) -> Any:
    """What a command of the page prints."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    ended = subprocess.run(
        ["sh", "-c", command.replace("127.0.0.1:9001", admin_of(daemon)).replace(SAID, offset)],
        env=os.environ | {"KEY": SECRETS["game"]},
        capture_output=True,
        timeout=30,
        check=True,
    )
    return json.loads(ended.stdout)


def alike(value: Any, name: str = "") -> Any:
    """A value without what is another each time."""
    match value:
        case dict() if name == "presence":
            return ["CONNECTION", *map(alike, value.values())]
        case dict():
            return {key: alike(inner, key) for key, inner in value.items()}
        case list() if name == "methods":
            return name
        case list() if name == "daemons":
            return [sorted(each) for each in value]
        case list():
            return [alike(each) for each in value]
        case _ if name in ("offset", "time", "epoch", "client"):
            return name
        case _ if name in ("uid", "name", "version", "uptime", "cpu", "rss", "num_messages"):
            return type(value).__name__
    return value


def test_each_example_is_answered_so(daemon: Daemon) -> None:
    """In the order of the page, with mara in the group ``match-1``."""
    game = backend(daemon)
    game.call("join", channel="match-1", user="mara")
    with RawClient(daemon.address, "/group/chat/match-1/mara/t") as mara:
        mara.next_text()
        wait_for(lambda: game.call("presence_stats", channel="match-1")["num_clients"] == 1)
        offset = SAID
        for command, answer in EXAMPLES:
            found = run(command, daemon, offset)
            assert alike(found) == alike(json.loads(answer)), command
            if "api/history " in command:
                offset = str(found["result"]["offset"])


def test_the_page_has_an_example_of_each_method() -> None:
    """Of each one at least."""
    called = {name for command, _ in EXAMPLES for name in re.findall(r"/api/(\w+)", command)}
    assert called == METHODS.keys() | {"batch"}


def test_the_program_works(daemon: Daemon, tmp_path: Path) -> None:
    """With the package that the page names."""
    [program] = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.M | re.S)
    path = tmp_path / "backend.py"
    path.write_text(program.replace("127.0.0.1:9001", admin_of(daemon)))
    ended = subprocess.run(
        [sys.executable, str(path)],
        env=os.environ | {"KEY": SECRETS["game"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    [said] = backend(daemon).call("history", channel="match-1", limit=9)["publications"]
    assert ended.stdout == f"{said['offset']}\n"


def test_the_table_of_a_key_is_one(tmp_path: Path) -> None:
    """What stands there goes into the settings as it is."""
    [table] = re.findall(r"^```toml\n(.*?)^```$", DOCUMENT, re.M | re.S)
    path = tmp_path / "fastimd.toml"
    path.write_text(table)
    [key] = load(path, {}).api.keys
    assert (key.name, key.groups) == ("game", ("match-*", "lobby"))


def test_the_page_has_every_code() -> None:
    """And no other."""
    codes = [value for value in vars(errors).values() if isinstance(value, int)]
    section = DOCUMENT.partition("\n## Errors\n")[2].partition("\n## ")[0]
    listed = [int(code) for code in re.findall(r"^\| (\d+) \|", section, re.M)]
    assert sorted(listed) == sorted({*codes, UNAUTHORIZED})


def test_the_page_has_the_limits_of_the_code() -> None:
    """A number that changes there changes here."""
    spanning = ", ".join(f"`{name}`" for name, method in METHODS.items() if method.spans)
    said = [
        f"| body | {MAX_BODY_BYTES >> 20} MiB, within {BODY_SECONDS:g} seconds |",
        f"| a call, a batch too | {CALL_SECONDS:g} seconds",
        f"| `channels` of a broadcast | {MOST_CHANNELS:,} |",
        f"| `commands` of a batch | {MOST_COMMANDS:,}; with `parallel`, {PARALLEL} of them",
        f"| a page of `history` | {MOST_MESSAGES:,} messages |",
        f"| `presence` | {MOST_LISTED:,} members",
        f"| `tags` | {MOST_TAGS}, with {TAGS_BYTES:,} bytes in all |",
        f"| ids of groups and users | 1 to {MAX_ID_LENGTH} printable characters |",
        f"after {WRONG_A_MINUTE} in a minute",
        f"Within {('', '', '', '', '', 'five')[NONCE_SECONDS // 60]} minutes the same key",
        f"the last {SERVER_NONCES:,} keys",
        f"within {ANSWER_SECONDS:g} seconds is left out",
        f"more than one group ({spanning})",
    ]
    text = " ".join(DOCUMENT.split())
    assert [each for each in said if each not in text] == []
