"""docs/MIGRATING.md, as it stands: from a database of the Java server to fastimd, and back."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from clients import log_in, message, post, wrapped
from conftest import Daemon, StartDaemon, connect, environment_of, receive, wait_for
from redis import Redis
from test_examples_clients import free_port

from fastimd.base.settings import settings

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs" / "MIGRATING.md").read_text()
ADDRESS = "redis://127.0.0.1:6379/3"
"""Where the database of the document is."""
TOKEN = "84e9d36e4c7c44e0a79bb71f1b4ce9c4"
WEEK = 604800
OLD = [message(ts, user="3", info=f'老消息 "{ts}" \\ \n') for ts in range(1000, 1450)]

pytestmark = pytest.mark.skipif(not shutil.which("redis-cli"), reason="the document uses redis-cli")


def blocks(title: str) -> list[str]:
    """The commands of a section."""
    section = DOCUMENT.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S)


def lay_down(redis: Redis) -> None:
    """A database as the Java server leaves it: each value a JSON string."""
    redis.rpush("gml:1", *map(wrapped, OLD))
    redis.expire("gml:1", WEEK)
    redis.rpush("gml:群", wrapped(message(7, group="群")))
    redis.sadd("ugs:1", wrapped("1"), wrapped("群"))
    redis.set("login:1", wrapped(TOKEN), ex=86400)


class Operator:
    """Somebody who types the commands of the document."""

    def __init__(self, folder: Path, redis_url: str, **environment: str) -> None:
        self._folder = folder
        self._redis_url = redis_url
        commands = folder / "bin"
        commands.mkdir(exist_ok=True)
        for name, command in (("fastimd", "-m fastimd"), ("python", "")):
            script = commands / name
            script.write_text(f'#!/bin/sh\nexec {sys.executable} {command} "$@"\n')
            script.chmod(0o755)
        self._environment = {
            **environment_of({}),
            "REDIS": redis_url,
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            **environment,
        }

    def start(self, commands: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-ec", commands.replace(ADDRESS, self._redis_url)],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def types(self, commands: str) -> str:
        """Run commands to their end; returns what is seen."""
        shell = self.start(commands)
        seen, _ = shell.communicate(timeout=60)
        assert shell.returncode == 0, seen
        return seen


def test_the_settings_of_the_document_exist() -> None:
    """Each key of fastimd.toml in the table is one."""
    known = {f"{setting.section}.{setting.key}" for setting in settings()}
    rows = re.findall(r"^\| [^|]*\| `(\w+\.\w+)[^`]*` \|", DOCUMENT, re.M)
    assert len(rows) > 7
    assert set(rows) <= known


@pytest.mark.timeout(120)
def test_a_rehearsal_on_a_copy(tmp_path: Path, redis_url: str, redis: Redis) -> None:
    """The numbers are shown, and a daemon serves the copy while the original stays as it is."""
    lay_down(redis)
    operator = Operator(tmp_path, redis_url)
    look, rehearse, end = blocks("Before")
    assert ADDRESS in look
    seen = operator.types(look)
    assert {"gml 2", "ugs 1", "login 1"} <= set(seen.split("\n"))
    assert re.search("^(redis|server)_mode:standalone$", seen, re.M)
    redis_port, port = free_port(), free_port()
    assert "6390" in rehearse
    assert "9100" in rehearse
    rehearse = rehearse.replace("6390", str(redis_port)).replace("9100", str(port))
    shell = operator.start(rehearse)
    try:
        rehearsal = Daemon(shell, tmp_path, f"127.0.0.1:{port}")  # type: ignore[arg-type]
        assert shell.stdout is not None
        for line in shell.stdout:
            if "daemon.serving" in line:
                break
        headers = log_in(rehearsal, "2")
        assert ask_history(rehearsal, headers) == OLD
        assert post(rehearsal, "/user/joinGroup", {"groupId": "1"}, headers).json["code"] == 200
        os.killpg(shell.pid, signal.SIGINT)
        assert shell.wait(20) == 0
    finally:
        shell.communicate()
        operator.types(end.replace("6390", str(redis_port)))
    assert sorted(redis.keys()) == sorted(
        key.encode() for key in ("gml:1", "gml:群", "ugs:1", "login:1")
    )
    assert redis.lrange("gml:1", 0, -1) == [wrapped(text).encode() for text in OLD]


def ask_history(daemon: Daemon, headers: dict[str, str]) -> Any:
    form = {"groupId": "1", "startPage": 0, "endPage": -1}
    return post(daemon, "/group/listMessage", form, headers).json["data"]


async def say(daemon: Daemon, user: str, text: str) -> list[Any]:
    """Say something in group 1; returns the greeting's messages and what came back."""
    async with connect(daemon.chat_url("1", user)) as member:
        greeting = await receive(member)
        await member.send_message(text)
        return [*greeting["list"], await receive(member)]


def java_reads(redis: Redis) -> dict[str, Any]:
    """What the Java server would read; its serializer takes JSON strings only."""

    def read(value: Any) -> str:
        text = json.loads(value)
        assert isinstance(text, str), value
        return text

    found: dict[str, Any] = {}
    for pattern in ("gml:*", "ugs:*", "login:*"):
        for key in redis.scan_iter(pattern):
            kind = redis.type(key)
            if kind == b"list":
                found[key.decode()] = [read(each) for each in redis.lrange(key, 0, -1)]
            elif kind == b"set":
                found[key.decode()] = {read(each) for each in redis.smembers(key)}
            else:
                found[key.decode()] = read(redis.get(key))
    return found


@pytest.mark.timeout(120)
def test_there_and_back(
    tmp_path: Path, redis_url: str, redis: Redis, start_daemon: StartDaemon
) -> None:
    """The commands of the document show that all is there; afterwards the Java server reads it."""
    lay_down(redis)
    daemon = start_daemon(group_message__max_length="0")
    operator = Operator(
        tmp_path,
        redis_url,
        FASTIMD_REDIS__URL=redis_url,
        FASTIMD_ADMIN__BIND=daemon.admin.removeprefix("http://"),
    )
    [check] = blocks("The switch")
    assert "valid" in operator.types(check)
    status, look = blocks("What to check")
    seen = operator.types(status)
    assert re.search(r"^ready +yes$", seen, re.M)
    assert {"gml 2", "ugs 1", "login 1"} <= set(seen.split("\n"))
    assert "http://127.0.0.1:9000" in look
    group, groups, history = operator.types(
        look.replace("http://127.0.0.1:9000", daemon.http).replace("\ncurl", "\necho ===; curl")
    ).split("===\n")
    assert str(len(OLD)) in group
    assert sorted(json.loads(groups)["data"]) == ["1", "群"]
    assert json.loads(history)["data"] == OLD[-5:]

    new = trio.run(say, daemon, "2", '新消息 "x" / é')[-1]
    post(daemon, "/user/joinGroup", {"groupId": "3"}, {"userId": "1", "token": TOKEN})
    headers = log_in(daemon, "2")
    assert not daemon.events("store.corrupt_entry")
    daemon.stop()
    lives = {key: redis.pttl(key) for key in ("gml:1", "login:1", "login:2")}

    shutil.copy(ROOT / "examples" / "migrate" / "to_java.py", tmp_path)
    stop, convert = blocks("Going back")
    assert "fastimd.socket" in stop
    assert "2 lists" in operator.types(convert)
    read = java_reads(redis)
    texts = read.pop("gml:1")
    assert texts[:-1] == OLD
    assert json.loads(texts[-1]) == new
    assert read == {
        "gml:群": [message(7, group="群")],
        "ugs:1": {"1", "群", "3"},
        "ugs:2": {"1"},
        "login:1": TOKEN,
        "login:2": headers["token"],
    }
    for key, life in lives.items():
        assert life - 60_000 < redis.pttl(key) <= life, key
    converted = java_reads(redis)
    operator.types(convert)
    assert java_reads(redis) == converted

    again = start_daemon()
    wait_for(lambda: again.events("daemon.serving"), again)
    assert [each["info"] for each in trio.run(say, again, "2", "back")][-2:] == [
        new["info"],
        "back",
    ]
    assert post(again, "/user/listGroup", {}, headers).json["data"] == ["1"]


def test_the_way_back_passes_over_what_is_none_of_it(
    tmp_path: Path, redis_url: str, redis: Redis
) -> None:
    """A key of another type, or a value that is no text, is named and stays; the rest is done."""
    redis.hset("login:abc", "of", "another")
    redis.rpush("gml:0", b"\xff")
    lay_down(redis)
    redis.sadd("ugs:2", "1")
    shutil.copy(ROOT / "examples" / "migrate" / "to_java.py", tmp_path)
    seen = Operator(tmp_path, redis_url).types("python to_java.py $REDIS")
    assert {"3 lists of messages", "2 sets of groups", "1 tokens"} <= set(seen.splitlines())
    assert all(f"b'{key}': left as it is" in seen for key in ("login:abc", "gml:0"))
    assert redis.hgetall("login:abc") == {b"of": b"another"}
    assert redis.lrange("gml:0", 0, -1) == [b"\xff"]
    assert redis.smembers("ugs:2") == {b'"1"'}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [("", "python to_java.py redis://"), ("nowhere", "scheme"), ("redis://127.0.0.1:1/3", ":1")],
)
def test_the_way_back_says_what_it_needs(arguments: str, told: str) -> None:
    """Without an address, with a wrong one, and where there is no Redis: a line, no traceback."""
    script = ROOT / "examples" / "migrate" / "to_java.py"
    done = subprocess.run(
        [sys.executable, str(script), *arguments.split()],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
