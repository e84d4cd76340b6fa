"""Hooks in Python: what they decide, what clients see of it, and what their failure means."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import trio
from clients import (
    AGAIN,
    TEXT,
    client_frame,
    closing,
    frame,
    kick,
    metrics,
    post,
    post_async,
    stored,
)
from conftest import (
    Daemon,
    StartDaemon,
    connect,
    receive,
    run_daemon,
    run_fastimd,
    wait_for,
)
from redis import Redis
from trio.testing import MockClock, wait_all_tasks_blocked

from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config, Hooks
from fastimd.hooks import Message, visits
from fastimd.hooks.cause import describe, trace
from fastimd.hooks.runner import HookRunner
from fastimd.hooks.visits import Visits

HEAD = """
import functools, json, os, threading, time
from dataclasses import replace
from pathlib import Path
import trio
from fastimd.hooks import Message, Refused


def note(*what):
    with open(os.environ["NOTES"], "a") as notes:
        print(json.dumps(what), file=notes)


"""
LOGIN_REQUIRED = {"code": 440, "msg": "请登录后访问", "data": None}


class Written:
    """A handler of a test's own, and the notes that it takes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._notes = folder / "notes"
        self._notes.touch()

    def __call__(self, source: str, name: str = "handler") -> str:
        (self._folder / f"{name}.py").write_text(HEAD + dedent(source))
        return name

    @property
    def notes(self) -> list[Any]:
        whole, _, _being_written = self._notes.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Write handlers that daemons can import."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return Written(tmp_path)


def failures(daemon: Daemon) -> list[tuple[str, str]]:
    """Which hooks have failed, and why, as the log tells it."""
    return [(line["purpose"], line["error"]) for line in daemon.events("hook.failed")]


def calls(daemon: Daemon, hook: str, outcome: str) -> float:
    """How many calls of a hook ended so."""
    labels = f'{{hook="{hook}",outcome="{outcome}"}}'
    return metrics(daemon).get(f"fastimd_hook_calls_total{labels}", 0)


def log_in(daemon: Daemon, password: str) -> Any:
    answer = post(daemon, "/user/login", {"userId": "1", "password": password})
    return answer.status, answer.json


# --- login


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_login_lets_in_and_refuses(
    start_daemon: StartDaemon, write: Written, redis: Redis, kind: str
) -> None:
    """What it returns is shown, None and ``Refused`` refuse, the latter with its reason."""
    daemon = start_daemon(
        hooks__handler=write(f"""
            {kind} login(user_id, password):
                if password == "banned":
                    raise Refused("banned until Monday")
                return {{"level": 7}} if password == "right" else None
        """)
    )
    assert log_in(daemon, "wrong") == (200, {"code": 100, "msg": "登录失败", "data": None})
    assert log_in(daemon, "banned")[1] == {"code": 100, "msg": "banned until Monday", "data": None}
    assert redis.get("login:1") is None
    status, answer = log_in(daemon, "right")
    assert (status, answer["code"], answer["data"]) == (200, 200, {"level": 7})
    assert redis.get("login:1") == answer["msg"].encode()
    assert calls(daemon, "login", "ok") == 1
    assert calls(daemon, "login", "refused") == 2


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise KeyError('column')", "KeyError: 'column'"),
        ("raise SystemExit(1)", "SystemExit: 1"),
        ("await trio.sleep(60)", "no answer within 0.2 s"),
        (
            "with trio.CancelScope(shield=True):\n        await trio.sleep(0.5)\n    return 'late'",
            "no answer within 0.2 s",
        ),
        ("return {1, 2, object()}", "returned a set that JSON cannot say"),
        ("return '\\ud800'", "returned a str that JSON cannot say"),
    ],
)
def test_a_login_that_fails_lets_nobody_in(
    start_daemon: StartDaemon, write: Written, redis: Redis, body: str, error: str
) -> None:
    """503, the old token stays, one line with the cause, one failure counted."""
    redis.set("login:1", "old")
    source = f"async def login(user_id, password):\n    {body}\n"
    daemon = start_daemon(hooks__handler=write(source), hooks__login_timeout="0.2")
    assert log_in(daemon, "x") == (503, AGAIN)
    assert redis.get("login:1") == b"old"
    assert failures(daemon) == [("login", error)]
    assert calls(daemon, "login", "failed") == 1


def test_a_plain_hook_that_hangs_is_left_behind(start_daemon: StartDaemon, write: Written) -> None:
    """Its thread may go on for ever: the client is answered, and the daemon stops in good order."""
    daemon = start_daemon(
        hooks__handler=write("def login(user_id, password):\n    threading.Event().wait()\n"),
        hooks__login_timeout="0.2",
    )
    assert log_in(daemon, "x")[0] == 503
    assert daemon.stop() == 0


def test_a_coroutine_behind_a_plain_decorator_is_awaited(
    start_daemon: StartDaemon, write: Written
) -> None:
    """What looks like a plain function may return something to await."""
    daemon = start_daemon(
        hooks__handler=write("""
            def plain(function):
                return lambda *arguments: function(*arguments)

            @plain
            async def login(user_id, password):
                await trio.sleep(0)
                return "awaited"
        """)
    )
    assert log_in(daemon, "x")[1]["data"] == "awaited"


def test_an_instance_and_a_class_are_handlers_too(
    start_daemon: StartDaemon, write: Written
) -> None:
    """An attribute of a module; a class is made without arguments, once."""
    name = write("""
        class Accounts:
            def __init__(self, data="made"):
                note("made")
                self.data = data

            async def login(self, user_id, password):
                return self.data

        accounts = Accounts("given")
    """)
    for attribute, data in (("Accounts", "made"), ("accounts", "given")):
        daemon = start_daemon(hooks__handler=f"{name}:{attribute}")
        assert log_in(daemon, "x")[1]["data"] == data
        assert log_in(daemon, "x")[1]["data"] == data
    assert len(write.notes) == 3  # the module makes one each time it is imported


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, "a login hook"),
        ({"group__login_auth": "true"}, "a login hook"),
        ({"hooks__handler": "handler", "group__login_auth": "true"}, ""),
        ({"hooks__handler": "handler"}, "group.login_auth"),
        ({"hooks__handler": "sessions"}, ""),
        ({"hooks__handler": "filter"}, "a login hook"),
    ],
)
def test_who_decides_about_logins_is_not_warned(
    start_daemon: StartDaemon, write: Written, settings: dict[str, str], warned: str
) -> None:
    """``login.open`` is for a public daemon that nobody has told who may come in."""
    write("async def login(user_id, password):\n    return 1\n")
    write("async def authorize(user, token, action, group):\n    return True\n", "sessions")
    write("async def on_message(message):\n    return message\n", "filter")
    daemon = start_daemon(server__bind="0.0.0.0:0", **settings)
    hints = [line["hint"] for line in daemon.events("login.open")]
    assert [warned in hint for hint in hints] == [True] * bool(warned)


# --- authorize

AUTHORIZE = """
    async def authorize(user_id, token, action, group_id):
        note(user_id, token, action, group_id)
        if token == "long":
            raise Refused("不" * 100)
        if token == "banned":
            raise Refused("banned")
        if token == "nowhere":
            raise Refused
        return token == "good"
"""


async def test_authorize_is_asked_instead_of_redis(
    start_daemon: StartDaemon, write: Written, redis: Redis
) -> None:
    """Sockets are asked though ``login_auth`` is off; the token in Redis means nothing."""
    redis.set("login:1", "0" * 32)
    daemon = start_daemon(hooks__handler=write(AUTHORIZE))
    for url in (daemon.chat_url(token="0" * 32), daemon.list_url(token="0" * 32)):
        async with connect(url) as refused:
            assert await frame(refused) == "440"
            assert await closing(refused) == (1008, "login required")
    async with connect(daemon.chat_url(token="good")) as member:
        await receive(member)
        await member.send_message("hello")
        assert (await receive(member))["info"] == "hello"
    async with connect(daemon.list_url(token="good")) as watcher:
        assert (await receive(watcher))[0]["total"] == 1
    assert [note[2:] for note in write.notes] == [
        ["chat", "1"],
        ["list", ""],
        ["chat", "1"],
        ["list", ""],
    ]


@pytest.mark.parametrize(
    ("token", "reason"),
    [("banned", "banned"), ("nowhere", "not allowed"), ("long", "不" * 41)],
)
async def test_who_may_not_come_in_is_told_why(
    start_daemon: StartDaemon, write: Written, redis: Redis, token: str, reason: str
) -> None:
    """1008 with as much of the reason as a close frame takes, in whole characters; no 440."""
    daemon = start_daemon(hooks__handler=write(AUTHORIZE))
    for url in (daemon.chat_url(token=token), daemon.list_url(token=token)):
        async with connect(url) as refused:
            assert await closing(refused) == (1008, reason)
    assert redis.keys("ugs:*") == []  # nobody has joined
    assert calls(daemon, "authorize", "refused") == 2


async def test_every_action_is_asked_by_its_name(start_daemon: StartDaemon, write: Written) -> None:
    """Opening, each message with ``login_auth`` on, and each route, with its group."""
    daemon = start_daemon(hooks__handler=write(AUTHORIZE), group__login_auth="true")
    async with connect(daemon.chat_url("7", token="good")) as member:
        await receive(member)
        for text in ("a", "b"):
            await member.send_message(text)
            await receive(member)
    async with connect(daemon.list_url(token="good")) as watcher:
        await receive(watcher)
        await watcher.send_message("x")
        wait_for(lambda: len(write.notes) == 5, daemon)
    headers = {"userId": "1", "token": "good"}
    named = {"groupId": "7", "userId": "1", "ts": 1, "count": 1}
    for path, fields in (
        ("/user/joinGroup", {"groupId": "8"}),
        ("/user/leaveGroup", {"groupId": "8"}),
        ("/user/listGroup", {"groupId": "9"}),  # which it does not ask for
        ("/group/listMessage", {"groupId": "7", "startPage": 0, "endPage": -1}),
        ("/group/listOldMessage", named),
        ("/group/delMessage", {"groupId": "7", "ts": 1}),
    ):
        assert (await post_async(daemon, path, fields, headers)).status == 200
    assert [note[2:] for note in write.notes] == [
        ["chat", "7"],
        ["say", "7"],
        ["say", "7"],
        ["list", ""],
        ["list", ""],
        ["join", "8"],
        ["leave", "8"],
        ["groups", ""],
        ["history", "7"],
        ["history", "7"],
        ["recall", "7"],
    ]


def test_a_request_that_is_not_allowed_is_told_why(
    start_daemon: StartDaemon, write: Written
) -> None:
    """440 is a bad token, 403 a good one that does not suffice; an id that is none is not asked."""
    daemon = start_daemon(hooks__handler=write(AUTHORIZE))

    def ask(token: str, group: str = "1") -> Any:
        headers = {"userId": "1", "token": token}
        return post(daemon, "/user/joinGroup", {"groupId": group}, headers).json

    assert ask("bad") == LOGIN_REQUIRED
    assert ask("banned") == {"code": 403, "msg": "banned", "data": None}
    assert ask("nowhere") == {"code": 403, "msg": "没有权限 (not allowed)", "data": None}
    asked = len(write.notes)
    assert ask("good", " ")["code"] == 400
    for path in ("/user/joinGroup", "/group/listMessage", "/group/delMessage"):
        missing = post(daemon, path, {}, {"userId": "1", "token": "good"})
        assert (missing.status, "groupId" in missing.json["msg"]) == (400, True)
    assert len(write.notes) == asked
    assert ask("good")["code"] == 200


def test_a_request_waits_for_its_hook(start_daemon: StartDaemon, write: Written) -> None:
    """As long as that may take, which is longer than Redis has for an answer."""
    daemon = start_daemon(
        hooks__handler=write("""
            async def authorize(user_id, token, action, group_id):
                await trio.sleep(2)
                return True
        """),
        hooks__authorize_timeout="20",
    )
    headers = {"userId": "1", "token": "t"}
    assert post(daemon, "/user/listGroup", {}, headers).json["code"] == 200


async def test_a_session_that_ends_closes_its_socket(
    start_daemon: StartDaemon, write: Written
) -> None:
    """With ``login_auth`` on, a message that is not allowed any more ends the socket."""
    daemon = start_daemon(
        hooks__handler=write("""
            async def authorize(user_id, token, action, group_id):
                if token == "muted" and action == "say":
                    raise Refused("muted")
                return action != "say"
        """),
        group__login_auth="true",
    )
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        await member.send_message("x")
        assert await frame(member) == "440"
        assert await closing(member) == (1008, "login required")
    async with connect(daemon.chat_url(token="muted")) as member:
        await receive(member)
        await member.send_message("x")
        assert await closing(member) == (1008, "muted")


BROKEN_AUTHORIZE = [
    ("raise OSError('no route')", "OSError: no route"),
    ("await trio.sleep(60)", "no answer within 0.2 s"),
    ("return 1", "returned a int, not True or False"),
    ("pass", "returned a NoneType, not True or False"),
]


@pytest.mark.parametrize(("body", "error"), BROKEN_AUTHORIZE)
async def test_an_authorize_that_fails_asks_to_come_again(
    start_daemon: StartDaemon, write: Written, body: str, error: str
) -> None:
    """Sockets are closed with 1013, HTTP answers 503: nobody is let in, nobody told to log in."""
    source = f"async def authorize(user_id, token, action, group_id):\n    {body}\n"
    daemon = start_daemon(hooks__handler=write(source), hooks__authorize_timeout="0.2")
    for url in (daemon.chat_url(), daemon.list_url()):
        async with connect(url) as refused:
            assert await closing(refused) == (1013, "try again later")
    answer = await post_async(daemon, "/user/listGroup", {}, {"userId": "1", "token": "t"})
    assert (answer.status, answer.json) == (503, AGAIN)
    assert failures(daemon)[0] == ("authorize", error)
    assert calls(daemon, "authorize", "failed") == 3


@pytest.mark.parametrize(("body", "error"), BROKEN_AUTHORIZE[:2])
async def test_an_authorize_that_fails_may_let_everybody_in(
    start_daemon: StartDaemon, write: Written, body: str, error: str
) -> None:
    """With the policy ``allow``, which somebody has chosen; the failure is told all the same."""
    source = f"async def authorize(user_id, token, action, group_id):\n    {body}\n"
    daemon = start_daemon(
        hooks__handler=write(source),
        hooks__authorize_timeout="0.2",
        hooks__authorize_on_failure="allow",
    )
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        await member.send_message("x")
        assert (await receive(member))["info"] == "x"
    answer = await post_async(daemon, "/user/listGroup", {}, {"userId": "1", "token": "t"})
    assert answer.json["data"] == ["1"]
    assert failures(daemon)[0] == ("authorize", error)


# --- on_message

FILTER = """
    async def on_message(message):
        note(message.group_id, message.user_id, message.info)
        if message.info == "spam":
            raise Refused("no spam")
        if message.info == "":
            return None
        return replace(message, info=message.info.replace("darn", "****"))
"""


async def test_a_message_is_allowed_changed_or_refused(
    start_daemon: StartDaemon, write: Written, redis: Redis
) -> None:
    """Members on every daemon see what the hook lets through, the sender alone what it refuses."""
    name = write(FILTER)
    here, there = start_daemon(hooks__handler=name), start_daemon(hooks__handler=name)
    async with (
        connect(here.chat_url(user="ann")) as ann,
        connect(there.chat_url(user="bob")) as bob,
    ):
        await receive(ann)
        await receive(bob)
        for text in ("hello", "spam", "", "darn it", "bye"):
            await ann.send_message(text)
        seen = [await receive(ann) for _ in range(5)]
        heard = [await receive(bob) for _ in range(3)]
    refusals = [each for each in seen if "code" in each]
    assert refusals == [
        {"code": 403, "msg": "no spam", "data": "spam"},
        {"code": 403, "msg": "消息被拒绝 (message refused)", "data": ""},
    ]
    assert [each for each in seen if "code" not in each] == heard
    assert [each["info"] for each in heard] == stored(redis) == ["hello", "**** it", "bye"]
    assert {each["userId"] for each in heard} == {"ann"}
    assert write.notes[0] == ["1", "ann", "hello"]
    assert calls(here, "on_message", "ok") == 3
    assert calls(here, "on_message", "refused") == 2


BROKEN_FILTERS = [
    ("raise ValueError('broken')", "ValueError: broken"),
    ("await trio.sleep(60)", "no answer within 0.2 s"),
    ("return 'text'", "returned a str, not a Message of text or None"),
    ("return replace(message, info=b'x')", "returned a Message, not a Message of text or None"),
    ("return replace(message, user_id='2')", "changed the group or the user of a message"),
    ("return replace(message, group_id='2')", "changed the group or the user of a message"),
    ("return replace(message, info='\\ud800')", "returned a text that UTF-8 cannot say"),
    (
        "return replace(message, info='字' * 34)",
        "returned a text of 102 bytes, more than group_message.max_bytes",
    ),
]


@pytest.mark.parametrize("policy", ["refuse", "allow"])
@pytest.mark.parametrize(("body", "error"), BROKEN_FILTERS)
async def test_a_filter_that_fails_refuses_or_allows(
    start_daemon: StartDaemon, write: Written, redis: Redis, body: str, error: str, policy: str
) -> None:
    """The sender is told to try again, or the message goes through as it is; the socket stays."""
    source = f"""
        async def on_message(message):
            if message.info != "good":
                {body}
            return message
    """
    daemon = start_daemon(
        hooks__handler=write(source),
        hooks__message_timeout="0.2",
        hooks__message_on_failure=policy,
        group_message__max_bytes="100",
    )
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        await member.send_message("said")
        answer = await receive(member)
        await member.send_message("good")
        assert (await receive(member))["info"] == "good"
    if policy == "refuse":
        assert answer == {**AGAIN, "data": "said"}
        assert stored(redis) == ["good"]
    else:
        assert answer["info"] == "said"
        assert stored(redis) == ["said", "good"]
    assert failures(daemon) == [("on_message", error)]
    assert calls(daemon, "on_message", "failed") == 1


async def test_messages_keep_their_order(start_daemon: StartDaemon, write: Written) -> None:
    """Though the hook takes now longer, now shorter: a socket's messages are asked one by one."""
    daemon = start_daemon(
        hooks__handler=write("""
            async def on_message(message):
                await trio.sleep(0.01 if int(message.info) % 2 else 0)
                return message
        """)
    )
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        for number in range(100):
            await member.send_message(str(number))
        assert [(await receive(member))["info"] for _ in range(100)] == [
            str(number) for number in range(100)
        ]


@pytest.mark.parametrize(("kind", "wait"), [("def", "time"), ("async def", "await trio")])
async def test_a_slow_hook_holds_up_its_own_socket_alone(
    start_daemon: StartDaemon, write: Written, kind: str, wait: str
) -> None:
    """While one member's message is thought about, others talk on."""
    daemon = start_daemon(
        hooks__handler=write(f"""
            {kind} on_message(message):
                note(message.info)
                if message.info == "slow":
                    while not Path(os.environ["NOTES"]).with_name("go").exists():
                        {wait}.sleep(0.01)
                return message
        """),
        hooks__message_timeout="60",
    )
    async with connect(daemon.chat_url(user="a")) as slow, connect(daemon.chat_url(user="b")) as b:
        await receive(slow)
        await receive(b)
        await slow.send_message("slow")
        wait_for(lambda: write.notes, daemon)
        for number in range(20):
            await b.send_message(str(number))
            assert (await receive(b))["info"] == (await receive(slow))["info"] == str(number)
        Path(os.environ["NOTES"]).with_name("go").touch()
        assert (await receive(slow))["info"] == "slow"


async def test_the_threads_of_a_hook_are_bounded_and_its_own(
    start_daemon: StartDaemon, write: Written
) -> None:
    """Forty calls of one hook run at once, and the others wait; another hook does not."""
    daemon = start_daemon(
        hooks__handler=write("""
            lock = threading.Lock()
            now = most = 0

            def on_message(message):
                global now, most
                with lock:
                    now += 1
                    most = max(most, now)
                    note(now)
                while not Path(os.environ["NOTES"]).with_name("go").exists():
                    time.sleep(0.02)
                with lock:
                    now -= 1
                return replace(message, info=str(most))

            def login(user_id, password):
                return "meanwhile"
        """),
        **PATIENT,
    )
    async with AsyncExitStack() as sockets:
        urls = [daemon.chat_url(f"{number}") for number in range(45)]
        members = [await sockets.enter_async_context(connect(url)) for url in urls]
        for member in members:
            await receive(member)
            await member.send_message("x")
        wait_for(lambda: len(write.notes) >= 40, daemon)
        answer = await post_async(daemon, "/user/login", {"userId": "1", "password": "x"})
        assert answer.json["data"] == "meanwhile"
        Path(os.environ["NOTES"]).with_name("go").touch()
        assert max([int((await receive(member))["info"]) for member in members]) == 40


async def test_who_waits_for_a_hook_is_not_taken_for_silent(
    start_daemon: StartDaemon, write: Written
) -> None:
    """The socket is not read meanwhile, and that is not the client's silence."""
    daemon = start_daemon(
        hooks__handler=write("""
            async def on_message(message):
                await trio.sleep(0.5)
                return message
        """),
        socket__ping_interval="1",
        socket__ping_timeout="2",
    )
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        for number in range(8):
            await member.send_message(str(number))
        for number in range(8):
            assert (await receive(member))["info"] == str(number)


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_crashing_hook_crashes_nothing_else(
    start_daemon: StartDaemon, write: Written, kind: str
) -> None:
    """Whatever it raises is its failure: the fixture finds no ``connection.crashed``."""
    daemon = start_daemon(
        hooks__handler=write(f"""
            import asyncio
            CRASHES = {{
                "exit": SystemExit(1),
                "asyncio": asyncio.CancelledError(),
                "interrupt": KeyboardInterrupt(),
                "group": BaseExceptionGroup("two", [ValueError(), KeyboardInterrupt()]),
            }}

            {kind} on_message(message):
                raise CRASHES[message.info]

            {kind} on_join(group_id, user_id, connection_id):
                raise asyncio.CancelledError

            def on_leave(group_id, user_id, connection_id):
                raise Refused("what would that mean")
        """)
    )
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        for crash in ("exit", "asyncio", "interrupt", "group", "unknown"):
            await member.send_message(crash)
            assert await receive(member) == {**AGAIN, "data": crash}
    wait_for(lambda: calls(daemon, "on_leave", "refused"), daemon)
    assert calls(daemon, "on_message", "failed") == 5
    assert calls(daemon, "on_join", "failed") == 1


async def test_what_is_raised_in_a_nursery_is_understood(
    start_daemon: StartDaemon, write: Written
) -> None:
    """A nursery makes a group of it: of refusals a refusal, whatever the policy; else a failure."""
    daemon = start_daemon(
        hooks__handler=write("""
            async def on_message(message):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep, 60)
                    async with trio.open_nursery():
                        if message.info == "bad":
                            raise Refused("in a nursery")
                        raise RuntimeError("in a nursery") from OSError("no route")
        """),
        hooks__message_on_failure="allow",
    )
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        await member.send_message("bad")
        assert await receive(member) == {"code": 403, "msg": "in a nursery", "data": "bad"}
        await member.send_message("good")
        assert (await receive(member))["info"] == "good"
    (line,) = daemon.events("hook.failed")
    assert "OSError: no route" in line["exception"]
    assert "RuntimeError: in a nursery" in line["exception"]


PATIENT = {"hooks__message_timeout": "60", "hooks__authorize_timeout": "60"}
KICKS = """
    async def authorize(user_id, token, action, group_id):
        note(action)
        await wait_go(token)
        return True

    async def on_message(message):
        note(message.info)
        await wait_go(message.info)
        return message

    async def on_join(group_id, user_id, connection_id):
        note("joined")

    async def wait_go(what):
        if what.startswith("wait"):
            while not Path(os.environ["NOTES"]).with_name("go").exists():
                await trio.sleep(0.01)
"""


async def test_who_was_told_to_go_says_nothing_more(
    start_daemon: StartDaemon, write: Written, redis: Redis
) -> None:
    """What waits for a hook when the socket is closed is not stored: a member who was kicked must
    not say it, and after a drain the client says it again elsewhere."""
    daemon = start_daemon(hooks__handler=write(KICKS), **PATIENT)
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        at_once = [client_frame(TEXT, text) for text in (b"said", b"wait", b"more")]
        await member._stream.send_all(b"".join(at_once))
        assert (await receive(member))["info"] == "said"
        wait_for(lambda: ["wait"] in write.notes, daemon)
        await kick(daemon)
        assert await closing(member) == (1008, "kicked")
        Path(os.environ["NOTES"]).with_name("go").touch()
    wait_for(lambda: daemon.events("socket.closed"), daemon)
    assert stored(redis) == ["said"]
    assert ["more"] not in write.notes


@pytest.mark.parametrize("kind", ["chat", "list"])
async def test_who_was_told_to_go_does_not_come_in(
    start_daemon: StartDaemon, write: Written, redis: Redis, kind: str
) -> None:
    """Though the hook, for which the handshake does not wait, says yes in the end."""
    daemon = start_daemon(hooks__handler=write(KICKS), **PATIENT)
    url = daemon.chat_url if kind == "chat" else daemon.list_url
    async with connect(url(token="wait")) as member:
        wait_for(lambda: write.notes, daemon)
        await kick(daemon)
        assert await closing(member) == (1008, "kicked")
        Path(os.environ["NOTES"]).with_name("go").touch()
    wait_for(lambda: daemon.events("socket.closed"), daemon)
    assert daemon.stop() == 0
    assert write.notes == [[kind]]
    assert redis.keys("ugs:*") == []


@contextmanager
def writes_paused(redis: Redis) -> Iterator[None]:
    """Redis takes nothing that writes, and answers everything else."""
    redis.client_pause(20_000, all=False)
    try:
        yield
    finally:
        redis.client_unpause()


async def test_what_hooks_let_through_at_once_waits_for_room(
    start_daemon: StartDaemon, write: Written, redis: Redis
) -> None:
    """Redis has what ``redis.hold_bytes`` allows, though all the answers come in one moment."""
    daemon = start_daemon(hooks__handler=write(KICKS), redis__hold_bytes="1000", **PATIENT)
    async with AsyncExitStack() as sockets:
        urls = [daemon.chat_url(user=f"u{number}") for number in range(10)]
        members = [await sockets.enter_async_context(connect(url)) for url in urls]
        for member in members:
            await receive(member)
        with writes_paused(redis):
            for member in members:
                await member.send_message("wait" * 100)
            wait_for(lambda: write.notes.count(["wait" * 100]) == 10, daemon)
            Path(os.environ["NOTES"]).with_name("go").touch()
            wait_for(lambda: calls(daemon, "on_message", "ok") == 10, daemon)
            assert metrics(daemon)["fastimd_held_messages"] == 3  # the third is over the bound
        for member in members:
            assert [(await receive(member))["info"] for _ in range(10)] == ["wait" * 100] * 10


# --- presence

PRESENCE = """
    async def on_join(group_id, user_id, connection_id):
        await trio.sleep(float(os.environ.get("JOIN_SECONDS", 0)))
        note("join", group_id, user_id, connection_id)

    def on_leave(group_id, user_id, connection_id):
        note("leave", group_id, user_id, connection_id)
"""


async def test_presence_is_told_for_each_connection(
    start_daemon: StartDaemon, write: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Join, then leave, of each chat socket, also when the join takes longer than the visit."""
    monkeypatch.setenv("JOIN_SECONDS", "0.3")
    name = write(PRESENCE)
    daemons = start_daemon(hooks__handler=name), start_daemon(hooks__handler=name)
    for daemon in daemons:
        async with (
            connect(daemon.chat_url("7", "ann")) as one,
            connect(daemon.chat_url("7", "ann")) as other,
            connect(daemon.list_url("ann")),
        ):
            await receive(one)
            await receive(other)
    wait_for(lambda: len(write.notes) == 8, daemons[0])
    told: dict[str, list[list[str]]] = {}
    for what, group, user, connection in write.notes:
        told.setdefault(connection, []).append([what, group, user])
    assert len(told) == 4
    assert all(events == [["join", "7", "ann"], ["leave", "7", "ann"]] for events in told.values())


async def test_who_may_not_come_in_has_not_joined(
    start_daemon: StartDaemon, write: Written
) -> None:
    """Presence is told of members alone."""
    daemon = start_daemon(hooks__handler=write(PRESENCE), group__auto_join="false")
    async with connect(daemon.chat_url()) as refused:
        assert await closing(refused) == (1008, "not a member")
    assert daemon.stop() == 0
    assert write.notes == []


async def test_a_hook_of_presence_that_hangs_holds_up_nobody(
    start_daemon: StartDaemon, write: Written
) -> None:
    """The member is greeted and talks; the failure is told, and the leave is told after it."""
    daemon = start_daemon(
        hooks__handler=write("""
            async def on_join(group_id, user_id, connection_id):
                note("join")
                await trio.sleep_forever()

            async def on_leave(group_id, user_id, connection_id):
                note("leave")
        """),
        hooks__presence_timeout="1",
    )
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        await member.send_message("x")
        assert (await receive(member))["info"] == "x"
    wait_for(lambda: write.notes == [["join"], ["leave"]], daemon)
    assert failures(daemon) == [("on_join", "no answer within 1 s")]


@pytest.mark.parametrize("seconds", ["0", "5"])
async def test_a_drain_tells_who_has_left(
    start_daemon: StartDaemon, write: Written, seconds: str
) -> None:
    """Whoever is there when the daemon goes is told as gone before it ends."""
    daemon = start_daemon(hooks__handler=write(PRESENCE), server__drain_seconds=seconds)
    async with trio.open_nursery() as nursery:

        async def stay(number: int, *, task_status: trio.TaskStatus[None]) -> None:
            async with connect(daemon.chat_url("7", f"u{number}")) as member:
                await receive(member)
                task_status.started()
                await closing(member)

        for number in range(5):
            await nursery.start(stay, number)
        status = await trio.to_thread.run_sync(daemon.stop)
    assert status == 0
    assert sorted(note[2] for note in write.notes if note[0] == "leave") == sorted(
        f"u{number}" for number in range(5)
    )
    assert not daemon.events("daemon.presence_untold")


async def test_a_drain_gives_slow_hooks_its_time(start_daemon: StartDaemon, write: Written) -> None:
    """Who has gone is told, though that takes longer than everything else in the drain."""
    daemon = start_daemon(
        hooks__handler=write("""
            async def on_leave(group_id, user_id, connection_id):
                await trio.sleep(2.5)
                note("leave")
        """),
        server__drain_seconds="15",
    )
    async with connect(daemon.chat_url()) as member:
        await receive(member)
    assert await trio.to_thread.run_sync(daemon.stop) == 0
    assert write.notes == [["leave"]]


async def test_a_drain_does_not_wait_for_a_hook_that_hangs(
    start_daemon: StartDaemon, write: Written
) -> None:
    """What is not told within the drain is counted in a last line."""
    daemon = start_daemon(
        hooks__handler=write("""
            async def on_leave(group_id, user_id, connection_id):
                note("leave")
                await trio.sleep_forever()
        """),
        hooks__presence_timeout="60",
        server__drain_seconds="1",
    )
    async with connect(daemon.chat_url()) as member:
        await receive(member)
    wait_for(lambda: write.notes, daemon)
    began = time.monotonic()
    assert await trio.to_thread.run_sync(daemon.stop) == 0
    assert time.monotonic() - began < 10
    (line,) = daemon.events("daemon.presence_untold")
    assert line["connections"] == 1


async def test_a_hook_that_fails_as_it_is_stopped_fails_alone(
    start_daemon: StartDaemon, write: Written
) -> None:
    """The end of the drain stops it; what it raises then is its failure, and not the daemon's."""
    daemon = start_daemon(
        hooks__handler=write("""
            async def fail():
                try:
                    await trio.sleep_forever()
                finally:
                    raise ValueError("as it is stopped")

            async def on_leave(group_id, user_id, connection_id):
                note("leave")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fail)
                    nursery.start_soon(trio.sleep_forever)
        """),
        hooks__presence_timeout="60",
        server__drain_seconds="0",
    )
    async with connect(daemon.chat_url()) as member:
        await receive(member)
    wait_for(lambda: write.notes, daemon)
    assert await trio.to_thread.run_sync(daemon.stop) == 0
    (line,) = daemon.events("hook.failed")
    assert "ValueError: as it is stopped" in line["exception"]


async def test_who_waits_for_a_hook_stays_cancelled() -> None:
    """Though the hook fails as it is stopped, and its failure would let the message through."""

    async def on_message(_message: Message) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError

    config = Config(hooks=Hooks(message_on_failure="allow"))
    hooks = HookRunner({"on_message": on_message}, config, Metrics())
    with trio.CancelScope() as scope:
        scope.cancel()
        await hooks.judge_message(Message("1", "1", "x"))
        pytest.fail("it went on")
    assert scope.cancelled_caught


class Backend:
    """Presence hooks whose answers the test gives."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.asking = 0
        self.most_asking = 0
        self.answer = trio.Event()

    async def _tell(self, name: str, user: str) -> None:
        self.asking += 1
        self.most_asking = max(self.most_asking, self.asking)
        await self.answer.wait()
        self.asking -= 1
        self.told.append((name, user))

    async def on_join(self, _group: str, user: str, _connection: str) -> None:
        await self._tell("join", user)

    async def on_leave(self, _group: str, user: str, _connection: str) -> None:
        await self._tell("leave", user)


def presence_of(backend: Backend, metrics: Metrics) -> Visits:
    hooks = {"on_join": backend.on_join, "on_leave": backend.on_leave}
    return Visits(HookRunner(hooks, Config(), metrics), Config(), metrics)


async def test_too_many_joins_are_dropped_with_their_leaves(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What waits is bounded; the leave of a join that was told is told, that of no other."""
    monkeypatch.setattr(visits, "MAX_WAITING", 10)
    backend, counts = Backend(), Metrics()
    tells = presence_of(backend, counts)
    nursery.start_soon(tells.run)
    await wait_all_tasks_blocked()
    told = []
    for number in range(visits.AT_ONCE):
        told.append(tells.join("7", f"{number}"))
        await wait_all_tasks_blocked()
    told += [tells.join("7", f"{visits.AT_ONCE + number}") for number in range(13)]
    assert counts.presence_dropped == 6
    assert tells.waiting == visits.AT_ONCE + 10
    for visit in told:
        tells.leave(visit)
    assert tells.waiting == visits.AT_ONCE + 10
    backend.answer.set()
    await tells.wait_all_told()
    users = [f"{number}" for number in range(visits.AT_ONCE + 10)]
    assert sorted(user for name, user in backend.told if name == "join") == sorted(users)
    assert sorted(user for name, user in backend.told if name == "leave") == sorted(users)
    assert all(
        backend.told.index(("join", user)) < backend.told.index(("leave", user)) for user in users
    )
    assert backend.most_asking == visits.AT_ONCE


# --- what is wrong is found before anybody connects


@pytest.mark.parametrize(
    ("source", "mistakes"),
    [
        (
            "def on_mesage(message): ...",
            ["'handler': on_mesage is no hook, did you mean on_message?"],
        ),
        (
            "def authorise(a, b, c, d): ...\ndef on_message(m): ...",
            ["'handler': authorise is no hook, did you mean authorize?"],
        ),
        (
            "def on_message(group, text): ...\ndef login(user): ...",
            [
                "'handler': login is called with (user_id, password), and takes (user)",
                "'handler': on_message is called with (message), and takes (group, text)",
            ],
        ),
        ("login = 'text'", ["'handler': login is not callable"]),
        (
            "def helper(): ...",
            [
                "'handler' has no hook; known are login, authorize, on_message, on_join, on_leave,"
                " on_moderation, on_report",
            ],
        ),
        (
            "async def on_message(message):\n    yield message",
            ["'handler': on_message yields; a hook returns its answer"],
        ),
        ("import no_such_thing", ["cannot load 'handler': No module named 'no_such_thing' (AT)"]),
        (
            "int('x')",
            ["cannot load 'handler': ValueError: invalid literal for int() with base 10: 'x' (AT)"],
        ),
        ("raise SystemExit(0)", ["cannot load 'handler': SystemExit: 0 (AT)"]),
        ("os.x", ["cannot load 'handler': AttributeError: module 'os' has no attribute 'x' (AT)"]),
    ],
)
def test_a_handler_that_is_wrong_is_told(
    write: Written, tmp_path: Path, source: str, mistakes: list[str]
) -> None:
    """``fastimd check`` finds every mistake, names it, and where it can the line; status 78."""
    checked = run_fastimd("check", hooks__handler=write(source))
    assert checked.returncode == 78
    assert checked.stdout == ""
    place = f"{tmp_path / 'handler.py'}, line {len(HEAD.splitlines()) + 1}"
    assert checked.stderr.splitlines() == [
        f"fastimd: hooks.handler: {each.replace('AT', place)}" for each in mistakes
    ]


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        (
            "game.hooks",
            "cannot load 'game.hooks': No module named 'game'; is its directory in PYTHONPATH?",
        ),
        (
            "handler:nothing",
            "cannot load 'handler:nothing': module 'handler' has no attribute 'nothing'",
        ),
        (
            "handler:Sessions",
            "cannot make a 'handler:Sessions': ValueError: JWT_SECRET is missing (LINE 17)",
        ),
        ("handler:sessions", "cannot load 'handler:sessions': OSError: no disk (LINE 21)"),
    ],
)
def test_an_object_that_is_not_there_is_told(
    write: Written, tmp_path: Path, name: str, mistake: str
) -> None:
    """By its name and why; one that cannot be made or looked at counts as well."""
    write("""
        class Sessions:
            def __init__(self):
                raise ValueError("JWT_SECRET is missing")
        class Lazy:
            @property
            def on_message(self):
                raise OSError("no disk")
        sessions = Lazy()
    """)
    checked = run_fastimd("check", hooks__handler=name)
    mistake = mistake.replace("LINE", f"{tmp_path / 'handler.py'}, line")
    assert (checked.returncode, checked.stderr) == (78, f"fastimd: hooks.handler: {mistake}\n")


def test_a_daemon_with_a_wrong_handler_does_not_start(
    write: Written, tmp_path: Path, redis_url: str
) -> None:
    """The daemon says what ``check`` says."""
    name = write("def on_mesage(message): ...")
    daemon = run_daemon(tmp_path, redis_url, wait_serving=False, hooks__handler=name)
    assert daemon.process.wait(timeout=20) == 78
    assert "did you mean on_message?" in daemon.log_path.read_text()


def test_one_hook_is_named_once(write: Written) -> None:
    """Two settings that name a login, or a hook in Python and over HTTP, are a mistake of both."""
    write("def login(a, b): ...\ndef on_message(m): ...")
    checked = run_fastimd("check", hooks__handler="handler", login__hook="handler:login")
    assert checked.returncode == 78
    assert "login.hook: 'handler:login' is named, and hooks.handler ('handler')" in checked.stderr
    checked = run_fastimd(
        "check",
        hooks__handler="handler",
        hooks__webhook_url="http://127.0.0.1:1/",
        hooks__webhook_secret="whsec_" + "A" * 32,
        hooks__webhook_events="on_message,on_join",
    )
    assert checked.returncode == 78
    assert checked.stderr == (
        "fastimd: hooks.handler: 'handler' has on_message, and hooks.webhook_events names it too;"
        " take it out of one\n"
    )


def test_the_handler_of_the_document_does_what_it_says(
    start_daemon: StartDaemon, write: Written
) -> None:
    """The example of docs/HOOKS.md, with the command below it."""
    text = (Path(__file__).parent.parent.parent / "docs" / "HOOKS.md").read_text()
    (example,) = re.findall(r"^```python\n(from dataclasses.*?)^```", text, re.M | re.S)
    daemon = start_daemon(hooks__handler=write(example, "game"))
    assert log_in(daemon, "wrong")[1]["code"] == 100
    assert log_in(daemon, "correct horse")[1]["data"] == {"name": "User 1"}

    async def talk() -> None:
        async with connect(daemon.chat_url(user="1")) as one:
            await receive(one)
            await one.send_message("darn")
            assert (await receive(one))["info"] == "****"

        async with connect(daemon.chat_url("2", user="2")) as muted:
            await receive(muted)
            await muted.send_message("x")
            assert (await receive(muted))["msg"] == "you are muted"

    trio.run(talk)


def test_the_authorize_of_the_modelling_page_lets_in_who_belongs(
    start_daemon: StartDaemon, write: Written
) -> None:
    """Its guild's and its whispers' members, and the world; others are told why not."""
    text = (Path(__file__).parent.parent.parent / "docs" / "MODELLING.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    daemon = start_daemon(hooks__handler=write(example, "guilds"))

    def join(group: str, user: str = "ann", token: str = "token-of-ann") -> Any:
        headers = {"userId": user, "token": token}
        return post(daemon, "/user/joinGroup", {"groupId": group}, headers).json

    for group in ("guild:17", "dm#ann,bob", "world:en"):
        assert join(group)["code"] == 200, group
    assert join("guild:18") == {"code": 403, "msg": "not your guild", "data": None}
    private = {"code": 403, "msg": "该群组仅限指定的用户 (private group)", "data": None}
    assert join("dm#bob,cat") == private
    assert join("world:en", user="bob") == LOGIN_REQUIRED


def test_a_good_handler_is_checked_too(write: Written) -> None:
    """Beside other things in its module, with defaults, and of whatever kind."""
    name = write("""
        class Helper: ...
        def log_in(user): ...
        async def login(user, password, realm="game"): ...
        on_message = functools.partial(lambda realm, message: message, "game")
        ONLINE = {}
        on_call = 7
    """)
    checked = run_fastimd("check", hooks__handler=name, group__login_auth="true")
    assert (checked.returncode, checked.stderr) == (0, "")


# --- the log

SECRETS = ("pass-wörd", "tok en", "what 'I' said")
TELLTALE = """
    def login(user_id, password):
        raise ValueError(f"no {password} here")

    async def authorize(user_id, token, action, group_id):
        try:
            {}[token]
        except KeyError as exc:
            raise RuntimeError("not found") from exc

    async def on_message(message):
        raise ValueError(message)
"""


async def test_no_secret_gets_into_the_log(start_daemon: StartDaemon, write: Written) -> None:
    """Whatever exceptions say, at whatever level: no password, no token, no text of a message."""
    daemon = start_daemon(
        hooks__handler=write(TELLTALE), hooks__authorize_on_failure="allow", log__level="debug"
    )
    password, token, text = SECRETS
    fields = {"userId": "1", "password": password}
    assert (await post_async(daemon, "/user/login", fields)).status == 503
    async with connect(daemon.chat_url(token="tok%20en")) as member:
        await receive(member)
        await member.send_message(text)
        assert (await receive(member))["code"] == 503
    assert [purpose for purpose, _ in failures(daemon)] == ["login", "authorize", "on_message"]
    said = daemon.log_path.read_text()
    for secret in SECRETS:
        for spelling in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], token):
            assert spelling not in said
    assert "RuntimeError: not found" in said
    assert "in on_message" in said


def test_what_an_exception_says_is_shown_where_it_may_be() -> None:
    """A cause is told with its text unless that repeats, or is part of, what is private."""
    assert describe(ValueError("no disk"), ["secret"]) == "ValueError: no disk"
    assert describe(ValueError(), ["secret"]) == "ValueError"
    assert describe(KeyError(""), [""]) == "KeyError: ''"
    for telltale in ("a secret!", "secret", "cret"):
        assert "cret" not in describe(ValueError(telltale), ["secret"])
    assert "foul" not in describe(KeyError("foul"), ["a foul word"])
    assert describe(ValueError("no route"), ["t"]) == "ValueError: no route"
    assert describe(KeyError("hi"), ["hi"]).startswith("KeyError: (what it says is left out")
    assert "é" not in describe(ValueError(json.dumps({"token": "é\n"})), ["é\n"])


def test_a_trace_tells_every_exception_once() -> None:
    """Causes first, groups with their members, and no end where one is its own cause."""

    def fail() -> None:
        try:
            raise OSError("first")
        except OSError as exc:
            raise ExceptionGroup("second", [ValueError("member")]) from exc

    with pytest.raises(ExceptionGroup) as caught:
        fail()
    told = trace(caught.value, [])
    assert [line for line in told.splitlines() if not line.startswith("  ")] == [
        "OSError: first",
        "ValueError: member",
        "ExceptionGroup: second (1 sub-exception)",
    ]
    assert "in fail" in told
    own = ValueError("own")
    own.__cause__ = own
    assert trace(own, []) == "ValueError: own"


def test_hooks_need_a_restart(start_daemon: StartDaemon, write: Written, tmp_path: Path) -> None:
    """SIGHUP names the settings of hooks that it does not take over, never their values."""
    path = tmp_path / "given.toml"
    path.write_text("[hooks]\n")
    daemon = start_daemon(path)
    path.write_text(
        '[hooks]\nwebhook_url = "http://127.0.0.1:1/"\nwebhook_events = ["login"]\n'
        f'webhook_secret = "whsec_{"A" * 32}"\nlogin_timeout = 1\n'
    )
    daemon.process.send_signal(1)
    (line,) = wait_for(lambda: daemon.events("config.reloaded"), daemon)
    assert line["for_restart"] == [
        *("hooks.webhook_url", "hooks.webhook_secret"),
        *("hooks.webhook_events", "hooks.login_timeout"),
    ]
    assert "AAAA" not in daemon.log_path.read_text()
    assert log_in(daemon, "x")[1]["data"] == "user_info"
