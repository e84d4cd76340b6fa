"""The commands of README.md, as they stand but for the ports and the home of the test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from clients import post
from conftest import Daemon, connect, environment_of, receive, wait_for
from redis import Redis
from test_examples_clients import free_port

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


def blocks(title: str, language: str = "sh") -> list[str]:
    """The commands of a section, or its code in another language."""
    section = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.M | re.S)


class Newcomer:
    """Somebody with an empty home, who types the commands of the document in a checkout."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {port: str(free_port()) for port in ("9000", "9001", "9010", "9011")}
        program = folder / ".venv" / "bin" / "fastimd"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m fastimd "$@"\n')
        program.chmod(0o755)
        kept = {
            name: value for name, value in environment_of({}).items() if name != "XDG_STATE_HOME"
        }
        self._environment = {**kept, "HOME": str(folder), "FASTIMD_LOG__FORMAT": "json"}

    def _typed(self, commands: str) -> list[str]:
        for port, free in self._ports.items():
            commands = re.sub(rf"(?<=127\.0\.0\.1:){port}\b", free, commands)
        return ["bash", "-c", commands]

    def writes(self, name: str, text: str) -> None:
        """A file in the checkout."""
        path = self._folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text)

    @contextmanager
    def runs(self, commands: str, port: str) -> Iterator[Daemon]:
        """A daemon that the commands start."""
        log_path = self._folder / f"log-{port}"
        with log_path.open("wb") as log_file:
            process = subprocess.Popen(
                self._typed(commands),
                cwd=self._folder,
                env=self._environment,
                stderr=log_file,
                start_new_session=True,
            )
        daemon = Daemon(process, log_path, f"127.0.0.1:{self._ports[port]}")
        try:
            serving = wait_for(lambda: daemon.events("daemon.serving"), daemon, 30)[0]
            assert serving["page"] == f"{daemon.http}/test/websocket"
            yield daemon
        finally:
            os.killpg(process.pid, 15)
            assert process.wait(30) in (0, -15), log_path.read_text()

    def types(self, commands: str) -> str:
        """What commands print; they must succeed."""
        return subprocess.run(
            self._typed(f"set -e\n{commands}"),
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            timeout=30,
            check=True,
            text=True,
        ).stdout


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    return Newcomer(Path(os.path.realpath(tmp_path)))


# What a command without ports binds, where others than a test's own are free.
DEFAULTS = "FASTIMD_SERVER__BIND=127.0.0.1:9000 FASTIMD_ADMIN__BIND=127.0.0.1:9001 "
# What ``make run`` starts once it has installed it.
RUN = f"{DEFAULTS}.venv/bin/fastimd serve"


async def test_two_people_talk_across_two_daemons(newcomer: Newcomer) -> None:
    """The second daemon, started as the document says, uses the first one's Redis."""
    assert "\t$(BIN)/fastimd serve\n" in (ROOT / "Makefile").read_text()
    assert blocks("Start")[1] == "make run\n"
    second = blocks("Two daemons, one chat")[0]
    with ExitStack() as stack:
        here = stack.enter_context(newcomer.runs(RUN, "9000"))
        there = stack.enter_context(newcomer.runs(second, "9010"))
        async with (
            connect(here.chat_url("1", "mara")) as mara,
            connect(there.chat_url("1", "lin")) as lin,
        ):
            await receive(mara)
            await receive(lin)
            await mara.send_message("hello")
            assert (await receive(lin))["info"] == "hello"
            await lin.send_message("hi")
            assert [(await receive(mara))["info"] for _ in range(2)] == ["hello", "hi"]


async def test_daemons_use_a_redis_that_none_of_them_starts(
    newcomer: Newcomer, redis_url: str, redis: Redis
) -> None:
    """The other command of that section, after the first daemon has ended."""
    with newcomer.runs(RUN, "9000"):
        pass
    command = blocks("Two daemons, one chat")[1]
    assert "redis://127.0.0.1:6379/0" in command
    with newcomer.runs(
        DEFAULTS + command.replace("redis://127.0.0.1:6379/0", redis_url), "9000"
    ) as daemon:
        async with connect(daemon.chat_url("1", "mara")) as mara:
            await receive(mara)
            await mara.send_message("hello")
            await receive(mara)
    assert redis.llen("gml:1") == 1


def test_who_may_log_in(newcomer: Newcomer) -> None:
    """The hook that the document shows, in its place in the checkout, decides about logins."""
    (program,) = blocks("Who may log in", "python")
    (command,) = blocks("Who may log in")
    assert "For example `hooks/game.py` in the checkout" in README
    newcomer.writes("hooks/game.py", program)
    with newcomer.runs(RUN, "9000"):
        pass
    with newcomer.runs(DEFAULTS + command, "9000") as daemon:
        codes = [
            post(daemon, "/user/login", {"userId": "1", "password": password}).json["code"]
            for password in ("correct horse", "123456")
        ]
    assert codes[0] == 200 != codes[1]


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_no_setting_outlasts_its_command(name: str) -> None:
    """Later steps are typed at the same terminal, and mean the daemon that they name."""
    assert not re.search(r"^ *export +FASTIMD_", (ROOT / name).read_text(), re.M)


def test_the_api_by_example(newcomer: Newcomer) -> None:
    """One shell after another types it all, and each answer is a good one."""
    with newcomer.runs(RUN, "9000"):
        login, groups, history = blocks("The API by example")
        # Where `make run` has the daemon's admin address is a free port in this test.
        login = f"export FASTIMD_ADMIN__BIND=127.0.0.1:9001\n{login}"
        commands = re.sub(r"^curl .*", r"\g<0>; echo", login + groups + history, flags=re.M)
        answers = [json.loads(line) for line in newcomer.types(commands).splitlines()]
    assert [answer["code"] for answer in answers] == [200] * 6
    joined, listed, last, before, old, recalled = answers
    assert joined["data"] is None
    assert listed["data"] == ["1"]
    assert json.loads(last["data"][0])["info"] == "hello"
    assert before == old
    assert recalled["msg"] == "撤回消息成功"
