"""The examples of hooks do what they say, each with a real daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
from clients import closing, frame, post, post_async
from conftest import Daemon, StartDaemon, connect, receive, run_fastimd, wait_for

from fastimd.hooks.webhook import signed_headers

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "hooks"
KEY = bytes(range(32))
SECRET = "whsec_" + b64encode(KEY).decode()
JWT_SECRET = "a secret of the game's server, long enough"


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the examples' own instructions say."""
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES), prepend=os.pathsep)


# --- the word filter


async def test_the_word_filter_stars_and_refuses(start_daemon: StartDaemon) -> None:
    """Words are starred whole and in any case; advertisements reach nobody, on any daemon."""
    here = start_daemon(hooks__handler="wordfilter")
    there = start_daemon(hooks__handler="wordfilter")
    async with (
        connect(here.chat_url(user="ann")) as ann,
        connect(there.chat_url(user="bob")) as bob,
    ):
        await receive(ann)
        await receive(bob)
        await ann.send_message("Buy GOLD here")
        assert await receive(ann) == {
            "code": 403,
            "msg": "no advertising",
            "data": "Buy GOLD here",
        }
        await ann.send_message("Darn, what the heck; darning is fine")
        for member in (ann, bob):
            assert (await receive(member))["info"] == "****, what the ****; darning is fine"


# --- sessions of one's own


def token(secret: str = JWT_SECRET, lives: int = 60, **claims: Any) -> str:
    return jwt.encode({"sub": "1", "exp": int(time.time()) + lives, **claims}, secret, "HS256")


@pytest.fixture
def sessions(start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """A daemon with JWT sessions."""
    monkeypatch.setenv("JWT_SECRET", JWT_SECRET)
    return start_daemon(hooks__handler="jwt_sessions:Sessions")


def unsigned() -> str:
    return jwt.encode({"sub": "1", "exp": int(time.time()) + 60}, "", "none")


@pytest.mark.parametrize(
    "make",
    [
        lambda: "no-token",
        lambda: token("another secret, which is long enough too"),
        lambda: token(lives=-60),
        lambda: token(sub="2"),
        lambda: jwt.encode({"sub": "1"}, JWT_SECRET, "HS256"),
        unsigned,
    ],
    ids=["rubbish", "another's", "ended", "of another user", "without an end", "unsigned"],
)
async def test_a_bad_session_is_told_to_log_in(sessions: Daemon, make: Callable[[], str]) -> None:
    """Socket and HTTP say 440."""
    bad = make()
    async with connect(sessions.chat_url(token=bad)) as refused:
        assert await frame(refused) == "440"
        assert await closing(refused) == (1008, "login required")
    headers = {"userId": "1", "token": bad}
    assert (await post_async(sessions, "/user/listGroup", {}, headers)).json["code"] == 440


async def test_a_good_session_has_its_groups(sessions: Daemon) -> None:
    """A token without groups is for all; one with groups for those alone."""
    async with (
        connect(sessions.chat_url("7", token=token())) as anywhere,
        connect(sessions.chat_url("7", token=token(groups=["7"]))) as here,
        connect(sessions.chat_url("8", token=token(groups=["7"]))) as elsewhere,
    ):
        await receive(anywhere)
        await receive(here)
        await here.send_message("hello")
        assert (await receive(anywhere))["info"] == "hello"
        assert await closing(elsewhere) == (1008, "not your group")
    headers = {"userId": "1", "token": token(groups=["7"])}
    for group, code in (("7", 200), ("8", 403)):
        fields = {"groupId": group, "startPage": 0, "endPage": -1}
        answer = await post_async(sessions, "/group/listMessage", fields, headers)
        assert answer.json["code"] == code


async def test_the_example_prints_a_token_that_is_good(sessions: Daemon) -> None:
    """As its head says, for trying."""
    printed = await trio.run_process(
        [sys.executable, str(EXAMPLES / "jwt_sessions.py"), "1", "7"], capture_stdout=True
    )
    async with connect(sessions.chat_url("7", token=printed.stdout.decode().strip())) as member:
        assert await receive(member) == {"list": [], "total": 0}


def test_sessions_without_a_secret_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short one is as none, and ``check`` says so."""
    monkeypatch.setenv("JWT_SECRET", "short")
    checked = run_fastimd("check", hooks__handler="jwt_sessions:Sessions")
    assert checked.returncode == 78
    assert "ValueError: JWT_SECRET must have 32 characters or more" in checked.stderr


@pytest.mark.parametrize("example", ["jwt_sessions.py", "webhook_receiver.py"])
def test_an_example_without_its_secret_says_what_it_wants(
    example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a terminal other than the one that has it; a traceback helps nobody."""
    monkeypatch.delenv("JWT_SECRET", raising=False)
    monkeypatch.delenv("FASTIMD_HOOKS__WEBHOOK_SECRET", raising=False)
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / example), "1"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith("usage: ")
    assert "SECRET=" in run.stderr


# --- the webhook receiver


class Receiver:
    """The example as a running process; ``said`` is what it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output
        (line,) = wait_for(lambda: self.said)
        self.port = int(line.rpartition(" ")[2])

    @property
    def said(self) -> list[str]:
        whole, _, _being_written = self._output.read_text().rpartition("\n")
        return whole.splitlines()

    def post(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("POST", "/", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@contextmanager
def run_receiver(output: Path) -> Iterator[Receiver]:
    output.touch()
    with output.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "webhook_receiver.py"), "0"],
            env={**os.environ, "FASTIMD_HOOKS__WEBHOOK_SECRET": SECRET},
            stdout=stdout,
        )
    try:
        yield Receiver(process, output)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """The example, running."""
    with run_receiver(tmp_path / "said") as running:
        yield running


async def test_the_receiver_decides_for_two_daemons(
    start_daemon: StartDaemon, receiver: Receiver
) -> None:
    """Logins, messages and presence, by the settings that its head names."""
    settings = {
        "hooks__webhook_url": f"http://127.0.0.1:{receiver.port}/",
        "hooks__webhook_secret": SECRET,
        "hooks__webhook_events": "login,on_message,on_join,on_leave",
    }
    here, there = start_daemon(**settings), start_daemon(**settings)

    def log_in(password: str) -> Any:
        return post(here, "/user/login", {"userId": "1", "password": password}).json

    wrong = await trio.to_thread.run_sync(log_in, "wrong")
    assert wrong == {"code": 100, "msg": "wrong user or password", "data": None}
    right = await trio.to_thread.run_sync(log_in, "correct horse")
    assert (right["code"], right["data"]) == (200, {"name": "User 1"})
    async with (
        connect(here.chat_url("7", "1")) as one,
        connect(there.chat_url("7", "2")) as two,
    ):
        await receive(one)
        await receive(two)
        await one.send_message("look: https://game.example")
        assert (await receive(one))["msg"] == "no links, please"
        await one.send_message("  hello  ")
        assert (await receive(two))["info"] == "hello"
    wait_for(lambda: len(receiver.said) == 5)
    told = [line.split() for line in receiver.said[1:]]
    assert sorted(each[:3] for each in told) == [
        ["on_join", "7", "1"],
        ["on_join", "7", "2"],
        ["on_leave", "7", "1"],
        ["on_leave", "7", "2"],
    ]
    assert len({each[3] for each in told}) == 2


JOIN = json.dumps({"type": "on_join", "groupId": "7", "userId": "1", "connectionId": "c"}).encode()


def test_the_receiver_takes_only_what_is_signed(receiver: Receiver) -> None:
    """Not what has no signature, another key's, or another body than was signed."""
    now = int(time.time())
    good = signed_headers(KEY, "msg_1", now, JOIN)
    for body, headers in (
        (JOIN, {}),
        (JOIN, signed_headers(bytes(32), "msg_1", now, JOIN)),
        (JOIN.replace(b"7", b"8"), good),
        (JOIN, {**good, "webhook-id": "msg_2"}),
        (JOIN, {**good, "webhook-timestamp": str(now + 1)}),
        (JOIN, {**good, "webhook-timestamp": "now"}),
        (JOIN, {**good, "webhook-timestamp": "9" * 5000}),
        (JOIN, {**good, "webhook-signature": "\xe9"}),
        (JOIN, {**good, "webhook-signature": good["webhook-signature"].swapcase()}),
    ):
        assert receiver.post(body, headers)[0] == 401
    assert len(receiver.said) == 1
    several = {**good, "webhook-signature": f"v1,old {good['webhook-signature']}"}
    assert receiver.post(JOIN, several) == (200, b"{}")


@pytest.mark.parametrize(("length", "status"), [("-1", 411), ("x", 411), ("99999999999", 413)])
def test_the_receiver_reads_no_more_than_it_wants(
    receiver: Receiver, length: str, status: int
) -> None:
    """A length that is none, or too much, is answered at once, and nothing is waited for."""
    assert receiver.post(b"", {"Content-Length": length})[0] == status


@pytest.mark.parametrize("seconds", [-400, 400])
def test_the_receiver_refuses_what_is_stale(receiver: Receiver, seconds: int) -> None:
    """However well it is signed: it may have been recorded."""
    headers = signed_headers(KEY, "msg_1", int(time.time()) + seconds, JOIN)
    assert receiver.post(JOIN, headers)[0] == 401


def test_the_receiver_ignores_doubles(receiver: Receiver) -> None:
    """What comes again with the same id is answered in the same way, and done once."""
    for _ in range(3):
        headers = signed_headers(KEY, "msg_1", int(time.time()), JOIN)
        assert receiver.post(JOIN, headers) == (200, b"{}")
    assert receiver.said[1:] == ["on_join 7 1 c"]
