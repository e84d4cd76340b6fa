"""Events that a backend is told: signed, in the order of each group, until it has taken them."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from clients import RawClient, metrics
from clusters import cluster
from conftest import Daemon, Launch, StartDaemon, connect, receive, redis_servers, wait_for
from faults import MortalRedis, free_port
from redis import Redis
from test_moderation_hooks import do, report_own
from test_webhooks import SECRET, Answer, Asked, Receiver, run_receiver, the_document

from fastimd.groups.outgoing.circuit import OPENS_AFTER
from fastimd.http.forms import COMMAND_HEADER

ALL = "on_join,on_leave,on_moderation,on_report,message"
FOUND_SECONDS = 45
"""In which what a killed daemon has left is told: about half a minute, and some more here."""
SHORT_SECONDS = "2"
"""``hooks.presence_timeout`` where a daemon is killed: so much, and fifteen seconds, later another
may tell what that was telling."""
UNDER_WAY_SECONDS = "3"
"""The same where a request is to be under way still."""

pytestmark = pytest.mark.timeout(150)


def settings(url: str, events: str = ALL, **others: str) -> dict[str, str]:
    """Those of a daemon that tells a backend."""
    return {
        "hooks__webhook_url": url,
        "hooks__webhook_secret": SECRET,
        "hooks__webhook_events": events,
        **others,
    }


def say(daemon: Daemon, text: str, group: str = "1", user: str = "ann") -> None:
    """Say something; when this returns it was answered that it is stored."""
    answer = httpx.post(
        f"{daemon.admin}/operate/say",
        json={"group": group, "user": user, "text": text},
        headers={COMMAND_HEADER: "1"},
    )
    assert answer.status_code == 200, answer.text


def told(receiver: Receiver, group: str = "1") -> list[str]:
    """What the receiver was told of a group, each thing once, in the order in which it came first.

    A repeat must have the id and the body of the first time; that of messages may have other ids.
    """
    bodies: dict[str, bytes] = {}
    first: dict[str, None] = {}
    for asked in list(receiver.asked):
        event = asked.event
        if event["type"] == "on_message" or event["groupId"] != group:
            continue
        assert bodies.setdefault(asked.headers["webhook-id"], asked.body) == asked.body
        if event["type"] == "message":
            first |= dict.fromkeys(each["info"] for each in event["messages"])
        elif event["type"] in ("on_join", "on_leave"):
            first[f"{event['type']} {event['connectionId']}"] = None
        else:
            first[f"{event['type']} {event.get('act', event['reason'])}"] = None
    return list(first)


def wait_told(receiver: Receiver, expected: list[str], daemon: Daemon, group: str = "1") -> None:
    """Wait until the receiver was told as much, and see that it was just that, in this order."""
    wait_for(lambda: len(told(receiver, group)) >= len(expected), daemon, FOUND_SECONDS)
    assert told(receiver, group) == expected


def kill(daemon: Daemon) -> None:
    """SIGKILL."""
    daemon.process.kill()
    daemon.process.wait()
    daemon.expected_status = -signal.SIGKILL


def failures(daemon: Daemon) -> float:
    """How often the backend has not taken what a daemon told it."""
    return sum(
        value
        for name, value in metrics(daemon).items()
        if name.startswith("fastimd_events_failed_total")
    )


def lost(_asked: Asked) -> Answer:
    """The connection closes without an answer."""
    raise ConnectionAbortedError


# --- what is told


async def test_messages_are_told_after_they_were_stored(start_daemon: StartDaemon) -> None:
    """Of both wires, with their tags, in one signed request for those of a moment."""
    with run_receiver() as (receiver, url):
        receiver.answer = lambda asked: (
            Answer(body=b'{"allow":true,"tags":{"kind":"gift"}}')
            if asked.event["type"] == "on_message" and asked.event["info"] == "gift"
            else Answer(body=b'{"allow":true}')
        )
        daemon = start_daemon(**settings(url, "on_message,message"))
        async with connect(daemon.chat_url("7", "ann")) as member:
            await receive(member)
            await member.send_message("héllo")
            first = await receive(member)
            await member.send_message("gift")
            second = await receive(member)
        ts = await trio.to_thread.run_sync(report_own, daemon, "ben", "rude")
        wait_for(lambda: len(told(receiver, "7")) == 3, daemon)
    messages = [each for asked in receiver.of("message") for each in asked.event["messages"]]
    assert messages == [
        {"userId": "ann", "info": "héllo", "ts": first["ts"]},
        {"userId": "ann", "info": "gift", "ts": second["ts"], "tags": {"kind": "gift"}},
        {"userId": "ben", "info": "hi", "ts": ts},
    ]


def test_messages_of_a_moment_are_told_together(start_daemon: StartDaemon) -> None:
    """In at most a few requests, in the order in which everybody sees them."""
    with run_receiver() as (receiver, url):
        daemon = start_daemon(**settings(url, "message"))
        texts = [f"m{number}" for number in range(250)]
        with RawClient(daemon.address, "/group/chat/1/ann/t") as client:
            client.next_text()
            for text in texts:
                client.say(text)
            wait_told(receiver, texts, daemon)
        assert 3 <= len(receiver.of("message")) <= 60
        assert metrics(daemon)['fastimd_events_delivered_total{event="message"}'] == 250
        assert metrics(daemon)["fastimd_events_waiting"] == 0


def test_without_messages_nothing_is_noted(start_daemon: StartDaemon, redis: Redis) -> None:
    """Not a key more than without a backend."""
    with run_receiver() as (receiver, url):
        daemon = start_daemon(**settings(url, "on_join"))
        say(daemon, "hi")
        assert not redis.keys("fastimd:told*")
        assert not redis.keys("fastimd:out*")
        assert receiver.asked == []


async def test_everything_of_a_group_is_told_in_one_order(start_daemon: StartDaemon) -> None:
    """Joins, messages, acts, reports and leaves."""
    with run_receiver() as (receiver, url):
        daemon = start_daemon(**settings(url))
        async with connect(daemon.chat_url("1", "ann")) as member:
            await receive(member)
            await trio.to_thread.run_sync(partial(wait_for, lambda: told(receiver), daemon))
            for number in range(3):
                await member.send_message(f"m{number}")
                await receive(member)
                await trio.to_thread.run_sync(
                    partial(do, daemon, "slow_mode", channel="1", seconds=0)
                )
        wait_for(lambda: receiver.of("on_leave"), daemon)
        (join, *between, leave) = told(receiver)
    assert join.partition(" ")[2] == leave.partition(" ")[2]
    assert [each.partition(" ")[0] for each in (join, leave)] == ["on_join", "on_leave"]
    acts = [each.event["act"] for each in receiver.of("on_moderation")]
    assert acts == ["slow_mode"] * 3
    assert [each for each in between if each.startswith("m")] == ["m0", "m1", "m2"]
    assert between[1] == "on_moderation slow_mode"


def test_two_daemons_keep_the_order_of_each_group(start_daemon: StartDaemon, redis: Redis) -> None:
    """However fast is spoken on both, of many groups at once."""
    with run_receiver() as (receiver, url):
        receiver.answer = lambda _asked: Answer(500 if random.random() < 0.1 else 200)
        daemons = [start_daemon(**settings(url, "message")) for _ in range(2)]
        groups = [str(number) for number in range(6)]

        def talk(number: int) -> None:
            for step in range(30):
                say(daemons[number % 2], f"{number}-{step}", groups[(number + step) % 6])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(talk, range(4)))
        wait_for(
            lambda: sum(len(told(receiver, group)) for group in groups) >= 120,
            daemons[0],
            FOUND_SECONDS,
        )
        for group in groups:
            stored = [json.loads(each)["info"] for each in redis.lrange(f"gml:{group}", 0, -1)]
            assert told(receiver, group) == stored


# --- a backend that is away


@pytest.mark.parametrize(
    "answer",
    [
        lambda _asked: Answer(500),
        lambda _asked: Answer(410),
        lambda _asked: Answer(302, b"", (("Location", "/elsewhere"),)),
        lambda _asked: Answer(200, b" " * 70_000),
        lost,
    ],
    ids=["500", "410", "302", "long", "closes"],
)
def test_what_was_not_taken_is_told_again(
    start_daemon: StartDaemon, answer: Callable[[Asked], Answer]
) -> None:
    """Whatever is wrong; the log says so once, and when it is good again."""
    with run_receiver() as (receiver, url):
        receiver.answer = answer
        daemon = start_daemon(**settings(url))
        for number in range(3):
            say(daemon, f"m{number}")
        do(daemon, "mute_all", channel="1", on=True)
        # After so many failures it counts as away; each more makes the next pause longer.
        wait_for(lambda: failures(daemon) >= OPENS_AFTER, daemon)
        waiting = metrics(daemon)
        assert waiting["fastimd_events_waiting"] == 4
        assert waiting["fastimd_events_oldest_seconds"] > 0.5
        receiver.answer = lambda _asked: Answer(204, b"")
        wait_told(receiver, ["m0", "m1", "m2", "on_moderation mute_all"], daemon)
        wait_for(lambda: metrics(daemon)["fastimd_events_waiting"] == 0, daemon)
    (failed,) = daemon.events("event.failed")
    assert (failed["group"], failed["purpose"]) == ("1", "message")
    assert failed["error"]
    (recovered,) = daemon.events("event.recovered")
    assert recovered["waiting"] >= 1
    assert recovered["seconds"] > 0


def test_a_slow_backend_is_asked_again(start_daemon: StartDaemon) -> None:
    """After ``hooks.presence_timeout``."""
    go = threading.Event()

    def wait(_asked: Asked) -> Answer:
        go.wait(20)
        return Answer()

    with run_receiver() as (receiver, url):
        receiver.answer = wait
        daemon = start_daemon(**settings(url, hooks__presence_timeout="0.5"))
        say(daemon, "hi")
        wait_for(lambda: len(receiver.asked) >= 2, daemon)
        go.set()
        wait_told(receiver, ["hi"], daemon)
        assert len({each.headers["webhook-id"] for each in receiver.asked}) == 1
    assert daemon.events("event.failed")[0]["error"] == "no answer within 0.5 s"


def test_a_backend_that_does_not_speak_http_is_told_when_it_does(
    start_daemon: StartDaemon,
) -> None:
    """What comes back is not repeated in the log."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server:

        def babble() -> None:
            for _ in range(3):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"top-secret garbage\r\n\r\n" * 100)

        thread = threading.Thread(target=babble)
        thread.start()
        daemon = start_daemon(**settings(f"http://127.0.0.1:{port}/", "message"))
        say(daemon, "hi")
        thread.join()
    with run_receiver(port=port) as (receiver, _):
        wait_told(receiver, ["hi"], daemon)
    assert "top-secret" not in daemon.log
    assert daemon.events("event.failed")[0]["error"].startswith("the connection broke: ")


def test_workers_tell_each_thing_once(start_daemon: StartDaemon) -> None:
    """Each is a daemon of its own: they take turns."""
    with run_receiver() as (receiver, url):
        daemon = start_daemon(**settings(url), server__workers="2")
        for number in range(20):
            say(daemon, f"m{number}")
        wait_told(receiver, [f"m{number}" for number in range(20)], daemon)
        ids = [asked.headers["webhook-id"] for asked in receiver.asked]
        assert len(ids) == len(set(ids))


async def test_all_of_an_outage_is_told_once_it_is_over(start_daemon: StartDaemon) -> None:
    """Nobody listens at the backend's port; meanwhile people come, talk and go on two daemons."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/hooks"
    daemons = [start_daemon(**settings(url)) for _ in range(2)]
    for number in range(40):
        say(daemons[number % 2], f"m{number}")
    for daemon in daemons:
        async with connect(daemon.chat_url("1", "ann")) as member:
            await receive(member)
        do(daemon, "mute", channel="1", user="ben", seconds=60, reason="")
    await trio.sleep(4)
    assert 6 <= sum(map(failures, daemons)) <= 30
    with run_receiver(port=port) as (receiver, _):
        acts = partial(receiver.of, "on_moderation")
        wait_for(lambda: len(told(receiver)) == 45 and len(acts()) >= 2, daemons[0], FOUND_SECONDS)
        everything = told(receiver)
    assert [each for each in everything if each.startswith("m")] == [f"m{n}" for n in range(40)]
    kinds = Counter(each.partition(" ")[0] for each in everything)
    assert (kinds["on_join"], kinds["on_leave"]) == (2, 2)
    assert len({asked.headers["webhook-id"] for asked in acts()}) == 2


def test_an_event_that_is_never_taken_holds_up_its_group_alone(
    start_daemon: StartDaemon,
) -> None:
    """Those of others go on, with hardly a pause."""
    with run_receiver() as (receiver, url):
        receiver.answer = lambda asked: Answer(500 if asked.event["groupId"] == "bad" else 200)
        daemon = start_daemon(**settings(url, "message"))
        say(daemon, "poison", "bad")
        for number in range(100):
            say(daemon, f"m{number}", str(number % 10))
            time.sleep(0.02)
        began = time.monotonic()
        wait_for(lambda: sum(len(told(receiver, str(n))) for n in range(10)) == 100, daemon)
        assert time.monotonic() - began < 5
        assert len([each for each in receiver.asked if each.event["groupId"] == "bad"]) < 12
        receiver.answer = lambda _asked: Answer()
        wait_told(receiver, ["poison"], daemon, "bad")


def test_many_groups_do_not_hammer_a_backend_that_is_away(start_daemon: StartDaemon) -> None:
    """It gets one request at a time until it answers; then all is told at once."""
    with run_receiver() as (receiver, url):
        receiver.answer = lambda _asked: Answer(503)
        daemon = start_daemon(**settings(url, "message"))
        for number in range(150):
            say(daemon, "hi", f"g{number}")
        time.sleep(2)  # in which each of the groups would try once at least
        assert len(receiver.asked) < 40
        receiver.answer = lambda _asked: Answer()
        wait_for(
            lambda: all(told(receiver, f"g{number}") for number in range(150)),
            daemon,
            FOUND_SECONDS,
        )
        assert len(daemon.events("event.failed")) == 1


def test_too_many_are_dropped_and_counted(start_daemon: StartDaemon) -> None:
    """The oldest of the group; the log says of which."""
    with run_receiver() as (receiver, url):
        receiver.answer = lost
        daemon = start_daemon(**settings(url, hooks__webhook_queue="5"))
        for number in range(8):
            do(daemon, "slow_mode", channel="1", seconds=number)
        assert metrics(daemon)['fastimd_events_dropped_total{event="on_moderation"}'] == 3
        receiver.asked.clear()
        receiver.answer = lambda _asked: Answer()
        wait_for(lambda: len(receiver.asked) >= 5, daemon, FOUND_SECONDS)
    seconds = [each.event["seconds"] for each in receiver.asked]
    assert list(dict.fromkeys(seconds))[-5:] == [3, 4, 5, 6, 7]
    dropped = daemon.events("event.dropped")
    assert (dropped[0]["purpose"], dropped[0]["group"], dropped[0]["count"]) == (
        "on_moderation",
        "1",
        1,
    )


def test_what_was_recalled_before_it_was_told_is_not(
    start_daemon: StartDaemon, redis: Redis
) -> None:
    """Nor what was purged."""
    port = free_port()
    daemon = start_daemon(**settings(f"http://127.0.0.1:{port}/", "message"))
    say(daemon, "gone")
    do(daemon, "purge", group="1")
    say(daemon, "there")
    with run_receiver(port=port) as (receiver, _):
        wait_told(receiver, ["there"], daemon)


# --- what is killed


@pytest.mark.parametrize("is_under_way", [True, False])
def test_what_a_killed_daemon_has_left_is_told_by_another(
    start_daemon: StartDaemon, is_under_way: bool
) -> None:
    """All that was answered, also in the moment before; with a request under way or none."""
    go = threading.Event()

    def wait(_asked: Asked) -> Answer:
        go.wait(60)
        return Answer()

    with run_receiver() as (receiver, url):
        receiver.answer = wait if is_under_way else lost
        first, second = (
            start_daemon(**settings(url, hooks__presence_timeout=UNDER_WAY_SECONDS))
            for _ in range(2)
        )
        for number in range(5):
            say(first, f"m{number}")
        wait_for(lambda: receiver.asked, first)
        do(first, "mute_all", channel="1", on=True)
        say(first, "last")
        say(first, "of another", "2")
        kill(first)
        receiver.answer = lambda _asked: Answer()
        go.set()
        expected = [*(f"m{n}" for n in range(5)), "on_moderation mute_all", "last"]
        wait_told(receiver, expected, second)
        wait_told(receiver, ["of another"], second, "2")


def test_an_answered_message_is_told_though_the_daemon_is_killed_at_once(
    start_daemon: StartDaemon,
) -> None:
    """The first message of each group; the daemon that starts next tells it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/hooks"
    first = start_daemon(**settings(url, hooks__presence_timeout=SHORT_SECONDS))
    for number in range(20):
        say(first, "hi", f"g{number}")
    do(first, "mute_all", channel="act", on=True)
    kill(first)
    second = start_daemon(**settings(url))
    with run_receiver(port=port) as (receiver, _):
        for number in range(20):
            wait_told(receiver, ["hi"], second, f"g{number}")
        wait_told(receiver, ["on_moderation mute_all"], second, "act")


async def test_joins_and_leaves_of_a_killed_daemon_are_all_told(start_daemon: StartDaemon) -> None:
    """While the backend is away: each join has its leave, after it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/hooks"
    first, second = (start_daemon(**settings(url, "on_join,on_leave")) for _ in range(2))
    clients = [RawClient(first.address, f"/group/chat/1/u{n}/t") for n in range(5)]
    for client in clients:
        client.next_text()
    await trio.sleep(1)
    kill(first)
    with run_receiver(port=port) as (receiver, _):
        wait_for(lambda: len(told(receiver)) >= 10, second, FOUND_SECONDS)
        everything = told(receiver)
    assert len(everything) == 10
    joined = [each.partition(" ")[2] for each in everything if each.startswith("on_join")]
    for number in joined:
        assert everything.index(f"on_join {number}") < everything.index(f"on_leave {number}")
    for client in clients:
        client.stream.close()


@contextmanager
def mortal_redis(tmp_path: Path) -> Iterator[MortalRedis]:
    mortal = MortalRedis(redis_servers()[0], tmp_path / "redis")
    try:
        yield mortal
    finally:
        mortal.close()


def test_a_killed_redis_costs_no_event(tmp_path: Path, launch: Launch) -> None:
    """It is killed again and again while messages and acts are done, and the backend is flaky."""
    with mortal_redis(tmp_path) as mortal, run_receiver() as (receiver, url):
        receiver.answer = lambda _asked: Answer(500 if random.random() < 0.3 else 200)
        daemons = [launch(mortal.url, **settings(url)) for _ in range(2)]
        done: list[str] = []
        for step in range(30):
            if step % 10 == 5:
                mortal.kill()
                mortal.start()
                for daemon in daemons:
                    wait_for(lambda daemon=daemon: is_ready(daemon), daemon)  # type: ignore[misc]
            daemon = daemons[step % 2]
            say(daemon, f"m{step}")
            done.append(f"m{step}")
        do(daemons[0], "mute_all", channel="1", on=True)
        done.append("on_moderation mute_all")
        wait_told(receiver, done, daemons[0])


def is_ready(daemon: Daemon) -> bool:
    return httpx.get(f"{daemon.admin}/health/ready").status_code == 200


def test_what_is_done_while_redis_is_away_is_told_when_it_is_back(
    tmp_path: Path, launch: Launch
) -> None:
    """Joins and leaves wait in the daemon, in their order."""
    with mortal_redis(tmp_path) as mortal, run_receiver() as (receiver, url):
        daemon = launch(mortal.url, **settings(url, "on_join,on_leave", redis__hold_seconds="30"))
        client = RawClient(daemon.address, "/group/chat/1/ann/t")
        client.next_text()
        wait_for(lambda: receiver.of("on_join"), daemon)
        mortal.kill()
        client.stream.close()
        time.sleep(2)
        assert not receiver.of("on_leave")
        mortal.start()
        wait_for(lambda: receiver.of("on_leave"), daemon, FOUND_SECONDS)
        assert [each.partition(" ")[0] for each in told(receiver)] == ["on_join", "on_leave"]


def test_messages_after_redis_lost_all_are_told(start_daemon: StartDaemon, redis: Redis) -> None:
    """FLUSHALL, while a group is noted: the next message is told, though Redis knows nothing."""
    with run_receiver() as (receiver, url):
        daemon = start_daemon(**settings(url))
        say(daemon, "before")
        wait_told(receiver, ["before"], daemon)
        redis.flushall()
        say(daemon, "after")
        do(daemon, "mute_all", channel="1", on=True)
        wait_told(receiver, ["before", "after", "on_moderation mute_all"], daemon)


def test_a_daemon_that_stops_tells_what_it_can(start_daemon: StartDaemon, redis: Redis) -> None:
    """And holds nothing any more."""
    with run_receiver() as (receiver, url):
        daemon = start_daemon(**settings(url))
        for number in range(5):
            say(daemon, f"m{number}")
        assert daemon.stop() == 0
        assert told(receiver) == [f"m{number}" for number in range(5)]
        receiver.answer = lost
        daemon = start_daemon(**settings(url))
        say(daemon, "left")
        wait_for(lambda: len(receiver.asked) > 5, daemon)
        assert daemon.stop() == 0
        assert redis.hget("fastimd:told:1", "holder") is None
        receiver.answer = lambda _asked: Answer()
        began = time.monotonic()
        daemon = start_daemon(**settings(url))
        wait_told(receiver, [*(f"m{number}" for number in range(5)), "left"], daemon)
        assert time.monotonic() - began < 30


# --- the document


def test_the_receiver_of_the_document_keeps_every_message_once(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """It runs as docs/HOOKS.md prints it; it is away first, and refuses what is not signed."""
    source = the_document("python", "def is_good") + the_document("python", "class Receiver")
    (tmp_path / "receiver.py").write_text(source)
    port, copies = free_port(), tmp_path / "copies"
    url = f"http://127.0.0.1:{port}/"
    daemon = start_daemon(**settings(url, "message,on_moderation"))
    for number in range(5):
        say(daemon, f"m{number}")
    do(daemon, "mute_all", channel="1", on=True)
    given = {"COPIES": str(copies), "SECRET": SECRET, "PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "receiver.py")],
        env={**os.environ, **given},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(
            lambda: (
                metrics(daemon).get('fastimd_events_delivered_total{event="on_moderation"}') == 1
            ),
            daemon,
            FOUND_SECONDS,
        )
        assert httpx.post(url, content=b"{}").status_code == 401
        with closing(sqlite3.connect(copies)) as kept:
            found = kept.execute("select grp, user, info from said order by ts").fetchall()
        assert found == [("1", "ann", f"m{number}") for number in range(5)]
    finally:
        process.kill()
        process.wait()


# --- a cluster


def test_on_a_cluster(tmp_path: Path, launch: Launch) -> None:
    """Groups, their queues and the parts in which they are noted lie on different masters."""
    with cluster(tmp_path / "redis", replicas=0) as spread, run_receiver() as (receiver, url):
        receiver.answer = lambda _asked: Answer(500 if random.random() < 0.2 else 200)
        given = settings(url, hooks__presence_timeout=SHORT_SECONDS)
        first, second = (launch(spread.url, **given) for _ in range(2))
        groups = [f"g{number}" for number in range(12)]
        for group in groups:
            for daemon in (first, second):
                say(daemon, str(daemon.process.pid), group)
            do(first, "mute_all", channel=group, on=True)
        kill(first)
        for group in groups:
            expected = [str(first.process.pid), str(second.process.pid), "on_moderation mute_all"]
            wait_told(receiver, expected, second, group)

        def left() -> list[Any]:
            return [key for node in spread.nodes for key in node.client.keys("*fastimd:out:*")]

        wait_for(lambda: not left(), second)
        assert second.stop() == 0
