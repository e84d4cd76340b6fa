"""What only daemons know, asked of all of them: ``channels`` and ``info``."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.lowlevel
from calling import SETTINGS, Backend, backend
from clients import RawClient
from clusters import Cluster
from conftest import Daemon, Launch, ShareDaemon, StartDaemon, redis_servers, wait_for
from redis import Redis
from structlog.testing import capture_logs

from fastimd import __version__
from fastimd.groups.surveys import ANSWER_BEGINS, ANSWER_SECONDS, MOST_WAITING, Surveys

GROUPS = ("match-1", "match-2", "guild")


@contextmanager
def members(daemon: Daemon, *names: tuple[str, str]) -> Iterator[None]:
    """Somebody in some groups, at a daemon: each is a group and a user."""
    with ExitStack() as stack:
        for group, user in names:
            client = stack.enter_context(RawClient(daemon.address, f"/group/chat/{group}/{user}/t"))
            client.next_text()
        yield


def channels(caller: Backend, pattern: str = "") -> dict[str, int]:
    """How many are in which groups."""
    found = caller.call("channels", pattern=pattern)
    assert "missing" not in found
    return {name: info["num_clients"] for name, info in found["channels"].items()}


def check_whole(first: Daemon, second: Daemon) -> None:
    """Two daemons know of each other's groups and sockets, whichever is asked."""
    here = (("match-1", "ann"), ("match-1", "bob"), ("guild", "ann"))
    there = (("match-1", "eve"), ("match-2", "eve"))
    with members(first, *here), members(second, *there):
        for caller in (backend(first), backend(second)):
            assert channels(caller) == {"match-1": 3, "match-2": 1, "guild": 1}
            assert channels(caller, "match-*") == {"match-1": 3, "match-2": 1}
            assert channels(caller, "match-[!1]") == {"match-2": 1}
            assert channels(caller, "nothing*") == {}
            nodes = caller.call("info")["nodes"]
            assert [node["num_clients"] for node in sorted(nodes, key=_clients)] == [2, 3]
            assert [node["num_users"] for node in sorted(nodes, key=_clients)] == [1, 2]
            assert len({node["uid"] for node in nodes}) == 2
            for node in nodes:
                assert node["version"] == __version__
                assert node["num_subs"] == node["num_clients"]
                assert node["process"]["rss"] > 10_000_000
                assert 0 <= node["uptime"] < 600
    wait_for(lambda: channels(backend(first)) == {}, first)


def _clients(node: dict[str, Any]) -> int:
    return int(node["num_clients"])


def test_all_daemons_are_asked(start_daemon: StartDaemon) -> None:
    """Each says what it knows, and one adds it up."""
    check_whole(start_daemon(**SETTINGS), start_daemon(**SETTINGS))


@pytest.mark.timeout(120)
def test_all_daemons_are_asked_on_a_cluster(launch: Launch, tmp_path: Path) -> None:
    """Questions and answers pass between its nodes."""
    redis = Cluster(redis_servers()[0], tmp_path, replicas=0)
    redis.start()
    try:
        first, second = (launch(redis.url, **SETTINGS) for _ in "12")
        check_whole(first, second)
        for daemon in (first, second):
            assert daemon.stop() == 0
    finally:
        for node in redis.nodes:
            node.close()


@pytest.mark.parametrize("workers", [2])
def test_all_workers_are_asked(start_daemon: StartDaemon, workers: int) -> None:
    """Each is a daemon."""
    daemon = start_daemon(server__workers=f"{workers}", **SETTINGS)
    with members(daemon, *((f"match-{n}", f"user-{n}") for n in range(6))):
        assert channels(backend(daemon, admin=True)) == {f"match-{n}": 1 for n in range(6)}
        nodes = backend(daemon).call("info")["nodes"]
        assert sum(map(_clients, nodes)) == 6
        assert len(nodes) == workers


def test_a_daemon_that_hangs_is_missing(start_daemon: StartDaemon) -> None:
    """The answer comes in time, and says so; the log does too. Later it is back."""
    first, second = start_daemon(**SETTINGS), start_daemon(**SETTINGS)
    game = backend(first)
    with members(first, ("match-1", "ann")), members(second, ("match-2", "eve")):
        os.kill(second.process.pid, signal.SIGSTOP)
        try:
            for name in ("channels", "info"):
                began = time.monotonic()
                found = game.call(name)
                assert ANSWER_SECONDS - 0.5 < time.monotonic() - began < ANSWER_SECONDS + 3
                assert found["missing"] == 1
                assert len(found.get("nodes", found.get("channels"))) == 1
        finally:
            os.kill(second.process.pid, signal.SIGCONT)
        assert {line["missing"] for line in first.events("survey.incomplete")} == {1}
        wait_for(lambda: "missing" not in game.call("info"), first)
        assert channels(game) == {"match-1": 1, "match-2": 1}
        assert not second.events("presence.unknown_letter")


def test_a_killed_daemon_is_not_waited_for(start_daemon: StartDaemon) -> None:
    """Redis knows that it hears no more."""
    first, second = start_daemon(**SETTINGS), start_daemon(**SETTINGS)
    second.process.kill()
    second.expected_status = -signal.SIGKILL
    second.process.wait()
    game = backend(first)
    wait_for(lambda: len(game.call("info")["nodes"]) == 1, first)
    assert "missing" not in game.call("info")


def test_many_may_ask_at_once(start_daemon: StartDaemon) -> None:
    """Each gets its own answer."""
    first, second = start_daemon(**SETTINGS), start_daemon(**SETTINGS)
    with members(first, ("match-1", "ann")), members(second, ("match-2", "eve")):
        commands = [{"channels": {"pattern": f"match-{n % 3}"}} for n in range(40)]
        replies = backend(first).call("batch", commands=commands, parallel=True)
        for number, reply in enumerate(replies):
            expected = {f"match-{number % 3}"} if number % 3 else set()
            assert reply["channels"]["channels"].keys() == expected


def test_strange_letters_harm_nothing(share_daemon: ShareDaemon, redis: Redis) -> None:
    """What is published among answers and questions, and is none."""
    daemon = share_daemon(**SETTINGS)
    game = backend(daemon)
    inboxes = cast(list[str], redis.pubsub_channels("fastimd:to:*"))
    assert inboxes
    question = {"group": "", "user": "", "kind": "survey", "survey": "x", "inbox": "nobody"}
    for inbox in inboxes:
        for letter in (b'{"survey":', b'{"survey":5}', b'{"survey":"x","daemon":"y","data":1}'):
            assert letter.startswith(ANSWER_BEGINS)
            redis.publish(inbox, letter)
    for event in (
        {**question},
        {**question, "what": "channels", "about": 5},
        {**question, "what": "no such thing", "about": ""},
        {**question, "what": "channels", "about": "[" * 1000},
        {**question, "what": "info", "about": "x"},
    ):
        redis.publish("fastimd:events", json.dumps(event))
    wait_for(lambda: daemon.events("survey.unknown_answer"), daemon)
    assert len(game.call("info")["nodes"]) == 1
    assert daemon.process.poll() is None


# Pure parts


class _Nobody:
    """Announces to none, or to so many daemons that never answer."""

    def __init__(self, listeners: int = 0) -> None:
        self.listeners = listeners
        self.told: list[tuple[str, bytes]] = []

    async def announce(self, _event: bytes) -> int:
        return self.listeners

    async def tell(self, inbox: str, letter: bytes) -> None:
        self.told.append((inbox, letter))


async def test_answers_may_come_before_it_is_known_how_many(autojump_clock: Any) -> None:
    """And late ones, or doubled ones, count for nothing."""
    nobody = _Nobody()
    surveys = Surveys(nobody, "me", "inbox")  # type: ignore[arg-type]
    names: list[str] = []

    async def announce(event: bytes) -> int:
        name = json.loads(event)["survey"]
        names.append(name)
        for daemon in "aab":
            answer = {"survey": name, "daemon": daemon, "data": {}}
            surveys.receive_answer(json.dumps(answer).encode())
        return 2

    nobody.announce = announce  # type: ignore[assignment,method-assign]
    with trio.fail_after(1):
        found = await surveys.ask("info")
    assert sorted(found.answers) == ["a", "b"]
    assert found.missing == 0
    surveys.receive_answer(json.dumps({"survey": names[0], "daemon": "c", "data": 1}).encode())
    assert surveys._asked == {}


async def test_questions_that_nobody_can_answer_in_time_are_dropped() -> None:
    """A few wait; the log tells of the rest, and the answers go to who asked."""
    nobody = _Nobody()
    surveys = Surveys(nobody, "me", "inbox")  # type: ignore[arg-type]
    surveys.answerers = {"info": lambda about: {"about": about}}
    question = {"group": "", "user": "", "kind": "survey", "survey": "x", "inbox": "theirs"}
    with capture_logs() as lines:
        for number in range(MOST_WAITING + 3):
            asked = {**question, "what": "info", "about": f"{number}"}
            surveys.receive_question(json.dumps(asked).encode())
    assert [line["event"] for line in lines] == ["survey.not_answered"] * 3
    async with trio.open_nursery() as nursery:
        nursery.start_soon(surveys.run)
        while len(nobody.told) < MOST_WAITING:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert {inbox for inbox, _ in nobody.told} == {"theirs"}
    assert json.loads(nobody.told[5][1]) == {
        "survey": "x",
        "daemon": "me",
        "data": {"about": "5"},
    }
