"""docs/TROUBLESHOOTING.md: each message that it shows is one that the program says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import jwt
import pytest
from clients import TEXT, RawClient, dial, opening
from conftest import Daemon, environment_of, run_daemon, wait_for

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs" / "TROUBLESHOOTING.md").read_text()
SHOWN = re.findall(r"^```text\n(.*?)\n```", DOCUMENT, re.M | re.S)
OF_A_BROWSER = "Mixed Content: "
NOBODY = "redis://127.0.0.1:1/0"
VARIES = {
    r"^\d{4}-\S+ ": "",
    r"127\.0\.0\.\d+:\d+": "ADDRESS",
    r"0\.0\.0\.0:\d+": "EVERY",
    r"data_dir \S+": "data_dir DIR",
    r"pid \d+": "pid N",
    r"\b(conn|seconds)=[\d.]+": r"\1=N",
    r"request_id=\w+": "request_id=N",
}
"""What is another in every run."""


class Stage:
    """Where trouble is made: a folder, a Redis, and daemons that log for people."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self._redis_url = redis_url
        self._daemons: list[Daemon] = []

    def starts(self, **settings: str) -> Daemon:
        """One that may serve or not."""
        url = settings.pop("redis__url", self._redis_url)
        form = {"log__format": "console"} | settings
        daemon = run_daemon(self.folder, url, wait_serving=False, config=None, launcher=(), **form)
        self._daemons.append(daemon)
        return daemon

    def daemon(self, **settings: str) -> Daemon:
        """One that serves, until the end."""
        daemon = self.starts(**settings)
        page = re.search(r"page=http://[\d.]+:(\d+)", logged(daemon, "daemon.serving"))
        assert page is not None
        daemon.address = f"127.0.0.1:{page[1]}"
        return daemon

    def ends(self, **settings: str) -> str:
        """What one says that ends with status 78."""
        daemon = self.starts(**settings)
        daemon.expected_status = 78
        assert daemon.process.wait(30) == 78
        return daemon.log_path.read_text()

    def close(self) -> None:
        try:
            for daemon in self._daemons:
                assert daemon.stop() == daemon.expected_status, daemon.log_path.read_text()
        finally:
            for daemon in self._daemons:
                if daemon.process.poll() is None:
                    daemon.process.kill()
                    daemon.process.wait()


@pytest.fixture
def stage(tmp_path: Path, redis_url: str) -> Iterator[Stage]:
    stage = Stage(Path(os.path.realpath(tmp_path)), redis_url)
    yield stage
    stage.close()


def logged(daemon: Daemon, event: str, field: str = "") -> str:
    """The lines of an event, with a field if one is named."""

    def lines() -> list[str]:
        log = daemon.log_path.read_text().splitlines()
        return [line for line in log if f" {event} " in line and field in line]

    return "\n".join(wait_for(lines, daemon))


def answered(url: str) -> str:
    """The body of a refusal."""
    with pytest.raises(HTTPError) as caught:
        urlopen(url, timeout=10)
    with caught.value as refusal:
        return refusal.read().decode()


def a_port_that_is_taken(stage: Stage) -> str:
    return stage.ends(server__bind=stage.daemon().address)


def data_in_use(stage: Stage) -> str:
    used = {"redis__url": "embedded", "redis__data_dir": str(stage.folder / "data")}
    stage.daemon(**used)
    return stage.ends(**used)


def a_wrong_setting(stage: Stage) -> str:
    return stage.ends(server__bnd="1")


def no_redis_server(stage: Stage) -> str:
    hide = "import fastimd.redis.embedded.executable as e; e.find_spec = lambda name: None"
    start = "import sys; from fastimd.cli import main; sys.argv = ['fastimd']; sys.exit(main())"
    free = {"server__bind": "127.0.0.1:0", "admin__bind": "127.0.0.1:0"}
    done = subprocess.run(
        [sys.executable, "-c", f"{hide}; {start}"],
        env=environment_of(free | {"redis__data_dir": str(stage.folder)})
        | {"PATH": str(stage.folder)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 78
    return done.stderr


def a_redis_that_is_away(stage: Stage) -> str:
    return logged(stage.starts(redis__url=NOBODY), "redis.unavailable", "purpose=commands")


def a_sentinel_that_is_away(stage: Stage) -> str:
    nobody = "redis-sentinel://127.0.0.1:1/chat"
    return logged(stage.starts(redis__url=nobody), "sentinels.unavailable")


def an_old_python(stage: Stage) -> str:
    """The Makefile asks whichever Python it is given; this one says that it is old."""
    old = stage.folder / "python3"
    pretend = "import sys; sys.version_info = (3, 9); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    old.chmod(0o755)
    made = subprocess.run(
        ["make", "run", f"PYTHON={old}", f"VENV={stage.folder / 'venv'}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    assert made.returncode != 0
    return made.stderr


def another_machine(stage: Stage) -> str:
    """Its stand-in is another address of this one, where the daemon does not listen either."""
    port = stage.daemon().address.rpartition(":")[2]
    with pytest.raises(ConnectionRefusedError) as caught:
        dial(f"127.0.0.3:{port}")
    return str(caught.value.strerror)


def a_public_address(stage: Stage) -> str:
    return logged(stage.daemon(server__bind="0.0.0.0:0"), "login.open")


def a_foreign_origin(stage: Stage) -> str:
    daemon = stage.daemon(server__allowed_origins="https://chat.example.org")
    with dial(daemon.address) as stream:
        stream.sendall(opening("/group/chat/1/1/t")[:-2] + b"Origin: http://other.example\r\n\r\n")
        answer = b""
        while more := stream.recv(65536):
            answer += more
    return answer.decode() + "\n" + logged(daemon, "connection.refused")


def a_proxy_that_passes_no_upgrade(stage: Stage) -> str:
    daemon = stage.daemon()
    answer = answered(f"{daemon.http}/group/chat/1/1/t")
    return f"{answer}\n{logged(daemon, 'http.request')}"


def one_address_for_all(stage: Stage) -> str:
    daemon = stage.daemon(server__max_connections_per_ip="1")
    with RawClient(daemon.address, "/group/chat/1/1/t"):
        return answered(f"{daemon.http}/test/websocket")


def connects(daemon: Daemon, token: str) -> None:
    """A client of the live wire with a token, to its end."""
    command = {"id": 1, "connect": {"token": token}}
    with RawClient(daemon.address, "/connection/websocket") as client:
        client.send(TEXT, json.dumps(command).encode())
        client.infos_to_the_end()


def an_sdk_without_a_login(stage: Stage) -> str:
    daemon = stage.daemon(group__login_auth="true")
    connects(daemon, "")
    return logged(daemon, "socket.closed")


def a_token_of_another_key(stage: Stage) -> str:
    daemon = stage.daemon(token__hmac_secret="the key of the daemon, of 32 bytes")
    connects(daemon, jwt.encode({"sub": "mara"}, "another key, which has 32 bytes too", "HS256"))
    return logged(daemon, "token.refused")


def a_client_that_answers_no_ping(stage: Stage) -> str:
    daemon = stage.daemon(socket__ping_interval="0.2", socket__ping_timeout="0.5")
    with RawClient(daemon.address, "/group/chat/1/1/t"):
        return logged(daemon, "socket.closed")


CAUSES: dict[str, Callable[[Stage], str]] = {
    "cannot listen on": a_port_that_is_taken,
    "is in use by another fastimd": data_in_use,
    "unknown key": a_wrong_setting,
    "no redis-server or valkey-server found": no_redis_server,
    "redis.unavailable": a_redis_that_is_away,
    "sentinels.unavailable": a_sentinel_that_is_away,
    "fastimd needs Python": an_old_python,
    "Connection refused": another_machine,
    "login.open": a_public_address,
    "(this origin is not allowed)": a_foreign_origin,
    "connection.refused": a_foreign_origin,
    "(Not Found)": a_proxy_that_passes_no_upgrade,
    "http.request": a_proxy_that_passes_no_upgrade,
    "(too many connections": one_address_for_all,
    "ping timeout": a_client_that_answers_no_ping,
    "code=3500": an_sdk_without_a_login,
    "token.refused": a_token_of_another_key,
}
"""What the message has that nothing else in the document has, and how it comes about."""


def alike(line: str) -> str:
    """The line without what varies."""
    for pattern, word in VARIES.items():
        line = re.sub(pattern, word, line)
    return line


@pytest.mark.parametrize("message", [each for each in SHOWN if OF_A_BROWSER not in each])
def test_a_message_is_what_you_see(stage: Stage, message: str) -> None:
    """Whoever looks for the line before them finds it in the document."""
    (cause,) = [cause for sign, cause in CAUSES.items() if sign in message]
    said = cause(stage)
    assert alike(message) in [alike(line) for line in said.splitlines()], said


def test_every_cause_is_shown() -> None:
    """The document still has each message that is provoked here."""
    assert all(any(sign in message for message in SHOWN) for sign in CAUSES)
