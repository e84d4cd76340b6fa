"""Faults of Redis and of the way to it, while six members on two daemons talk.

What a fault must not touch: sockets stay open; what is stored reaches every member exactly once and
in order; nothing is stored twice; what came back to its sender is stored; a sender whose message is
not stored is told so; and talking goes on when Redis is back. ``Talk.settle`` checks that.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
import trio
from clients import Answer, log_in, post
from conftest import Daemon, name_of_server, redis_servers, run_daemon, wait_for
from faults import (
    FURTHER_SECONDS,
    Member,
    Message,
    MortalRedis,
    Proxy,
    Talk,
    ask_admin,
    check_once,
    check_order,
    list_messages,
    ready,
    unavailable,
)
from redis import Redis, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from fastimd.base.errors import StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.redis.address import Address
from fastimd.redis.appender import Appender
from fastimd.redis.client import Client
from fastimd.redis.clock import RedisClock

PURPOSES = ("commands", "messages")
REFUSED_SECONDS = 3.0
"""How long Redis refuses something in these tests."""
SILENT_SECONDS = 10.0
"""By the contract a connection that has gone silent is found out in this time."""
ANSWER_SECONDS = 2.0
"""By the contract every HTTP request is answered in this time, Redis or not."""
LOADED_SECONDS = 1.0
"""What a loaded machine may add to an answer; nothing of the daemon's own."""

StartDaemons = Callable[..., list[Daemon]]


on_every_server = pytest.mark.parametrize(
    "mortal_redis", redis_servers(), indirect=True, ids=name_of_server
)


@pytest.fixture
def mortal_redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MortalRedis]:
    """A Redis of the test's own."""
    executable = getattr(request, "param", redis_servers()[0])
    server = MortalRedis(executable, tmp_path / "redis")
    yield server
    server.close()


@pytest.fixture
def proxy(mortal_redis: MortalRedis) -> Iterator[Proxy]:
    """A proxy before that Redis."""
    proxy = Proxy(mortal_redis.port)
    yield proxy
    proxy.close()


@pytest.fixture
def start_daemons(tmp_path: Path) -> Iterator[StartDaemons]:
    """Start daemons, two by default; at the end each must stop cleanly, without a traceback."""
    daemons: list[Daemon] = []

    def start(redis_url: str, count: int = 2, **settings: Any) -> list[Daemon]:
        with ThreadPoolExecutor() as pool:
            begun = [
                pool.submit(partial(run_daemon, tmp_path, redis_url, **settings))
                for _ in range(count)
            ]
        daemons.extend(each.result() for each in begun)
        return daemons[-count:]

    yield start
    try:
        for daemon in daemons:
            assert daemon.stop() == 0, daemon.log_path.read_text()[-4000:]
            assert not [line for line in daemon.lines if "exception" in line]
    finally:
        for daemon in daemons:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()


def wait_away(*daemons: Daemon, times: int = 1) -> None:
    """Wait until daemons have said that both their connections are not there."""
    for daemon, purpose in itertools.product(daemons, PURPOSES):
        wait_for(partial(was_away, daemon, purpose, times), daemon, 15)


def was_away(daemon: Daemon, purpose: str, times: int) -> bool:
    return len(unavailable(daemon, purpose)) >= times


def wait_ready(*daemons: Daemon, since: float) -> None:
    """Wait until daemons say that they can serve, in the time that the contract gives them."""
    for daemon in daemons:
        wait_for(partial(is_ready, daemon), daemon, since + FURTHER_SECONDS - time.monotonic())


def is_ready(daemon: Daemon) -> bool:
    return not ready(daemon)


# Redis ends, or stands still


@on_every_server
@pytest.mark.timeout(60)
def test_a_killed_redis_costs_no_message(
    mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """SIGKILL and a restart, thrice."""
    daemons = start_daemons(mortal_redis.url)
    with Talk(daemons) as talk:
        for outage in range(1, 4):
            talk.go_on(50)
            mortal_redis.kill()
            wait_away(*daemons, times=outage)
            mortal_redis.start()
            talk.wait_further()
        talk.settle(mortal_redis.client)
    assert not any(daemon.events("socket.append_failed") for daemon in daemons)


@pytest.mark.parametrize("login_auth", ["false", "true"], ids=["any token", "checked tokens"])
@pytest.mark.timeout(60)
def test_an_outage_of_seconds_closes_nobody(
    login_auth: str, mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """Longer than a request may wait, shorter than ``hold_seconds``."""
    daemons = start_daemons(mortal_redis.url, group__login_auth=login_auth)
    with Talk(daemons, logged_in=True) as talk:
        talk.go_on(50)
        mortal_redis.kill()
        time.sleep(3)
        mortal_redis.start()
        talk.wait_further()
        talk.settle(mortal_redis.client)
    assert not any(daemon.events("socket.append_failed") for daemon in daemons)


@on_every_server
@pytest.mark.timeout(60)
def test_a_redis_that_loads_for_seconds_is_waited_for(
    mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """It answers LOADING for a while after a restart: a big dataset."""
    with mortal_redis.client.pipeline(transaction=False) as pipeline:
        for number in range(10_000):  # after each thousand it answers while it loads
            pipeline.rpush(f"gml:filler-{number % 10}", f"{number:05}" * 10)
        pipeline.execute()
    daemons = start_daemons(mortal_redis.url)
    with Talk(daemons) as talk:
        talk.go_on(50)
        mortal_redis.kill()
        begun = time.monotonic()
        mortal_redis.start("--key-load-delay", "300", wait=False)
        refusals = set()
        while (refusal := mortal_redis.refusal()) is not None:
            refusals.add(refusal.split(":")[0])
            assert time.monotonic() - begun < 20
        back = time.monotonic()
        assert "BusyLoadingError" in refusals
        assert back - begun > 3, "not long enough for the log, which tells it once a second"
        talk.wait_further(back)
        wait_ready(*daemons, since=back)
        talk.settle(mortal_redis.client)
    for daemon in daemons:
        assert any("LOADING" in line["error"] for line in daemon.events("redis.unavailable"))


@pytest.mark.timeout(60)
def test_a_redis_that_stands_still_for_ten_seconds_costs_no_message(
    mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """SIGSTOP: nothing is closed or refused, only silent."""
    daemons = start_daemons(mortal_redis.url)
    with Talk(daemons) as talk:
        talk.go_on(50)
        mortal_redis.pause()
        time.sleep(10)
        mortal_redis.resume()
        talk.wait_further()
        talk.settle(mortal_redis.client)


@pytest.mark.parametrize("kinds", [("pubsub",), ("normal",), ("pubsub", "normal")], ids="+".join)
@pytest.mark.timeout(60)
def test_killed_connections_cost_no_message(
    kinds: tuple[str, ...], mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """Redis ends the daemons' connections: one by one, then as fast as it can for two seconds."""
    daemons = start_daemons(mortal_redis.url)
    headers = log_in(daemons[0])
    with Talk(daemons) as talk, ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            talk.go_on(20)
            for kind in kinds:
                mortal_redis.ask("CLIENT", "KILL", "TYPE", kind)
            talk.wait_further()
        storm_ends = time.monotonic() + 2
        answers = [pool.submit(ask_until, storm_ends, daemons[0], headers) for _ in range(8)]
        killed = 0
        while time.monotonic() < storm_ends:
            for kind in kinds:
                killed += mortal_redis.ask("CLIENT", "KILL", "TYPE", kind)
        assert killed >= len(daemons) * len(kinds)
        talk.wait_further()
        assert {status for each in answers for status in each.result()} <= {200, 503}
        talk.settle(mortal_redis.client)


def ask_until(moment: float, daemon: Daemon, headers: dict[str, str]) -> set[int]:
    """What requests were answered with until a moment of ``time.monotonic``."""
    answers = {post(daemon, "/user/listGroup", {}, headers).status}
    while time.monotonic() < moment:
        answers.add(post(daemon, "/user/listGroup", {}, headers).status)
    return answers


@pytest.mark.timeout(60)
async def test_a_call_is_answered_or_told_that_redis_is_away(mortal_redis: MortalRedis) -> None:
    """Many tasks call all the time while connections are killed: nothing else becomes of a call."""
    clock = RedisClock()
    appender = Appender(Config(), Metrics(), clock)
    client = Client(Address(mortal_redis.url), appender, clock, Metrics())
    outcomes: Counter[str] = Counter()

    async def call() -> None:
        while True:
            try:
                assert await client.call("PING") == b"PONG"
                outcomes["answered"] += 1
            except StoreUnavailable:
                outcomes["told"] += 1

    def kill_after(answers: int) -> None:
        wait_for(lambda: outcomes["answered"] >= answers)
        mortal_redis.ask("CLIENT", "KILL", "TYPE", "normal")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await client.wait_connected()
        for _ in range(100):
            nursery.start_soon(call)
        for _ in range(10):
            await trio.to_thread.run_sync(kill_after, outcomes["answered"] + 1000)
        nursery.cancel_scope.cancel()
    assert outcomes["told"]


@pytest.mark.timeout(60)
async def test_many_calls_at_once_are_answered_or_told(mortal_redis: MortalRedis) -> None:
    """Each command has its reply or refusal, in its place, or all are told that Redis is away."""
    clock = RedisClock()
    appender = Appender(Config(), Metrics(), clock)
    client = Client(Address(mortal_redis.url), appender, clock, Metrics())
    mortal_redis.client.set("text", "x")
    outcomes: Counter[str] = Counter()

    async def call(number: int) -> None:
        while True:
            echoes = [("ECHO", f"{number}-{count}") for count in range(50)]
            try:
                replies = await client.call_many([*echoes, ("LLEN", "text"), ("PING",)])
            except StoreUnavailable:
                outcomes["told"] += 1
                continue
            assert replies[:50] == [text.encode() for _, text in echoes]
            assert isinstance(replies[50], exceptions.ResponseError)
            assert replies[51] == b"PONG"
            outcomes["answered"] += 1

    def kill_after(answers: int) -> None:
        wait_for(lambda: outcomes["answered"] >= answers)
        mortal_redis.ask("CLIENT", "KILL", "TYPE", "normal")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await client.wait_connected()
        assert await client.call_many([]) == []
        for number in range(20):
            nursery.start_soon(call, number)
        for _ in range(5):
            await trio.to_thread.run_sync(kill_after, outcomes["answered"] + 50)
        nursery.cancel_scope.cancel()
    assert outcomes["told"]


@pytest.mark.timeout(60)
def test_a_listener_dropped_for_its_slowness_hears_what_it_missed(
    mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """A daemon stands still until Redis drops it by its output buffer limit, and goes on."""
    [first] = start_daemons(mortal_redis.url, 1)
    others = mortal_redis.listeners()
    [second] = start_daemons(mortal_redis.url, 1)
    [dropped] = mortal_redis.listeners() - others
    mortal_redis.client.config_set("client-output-buffer-limit", "pubsub 65536 65536 0")
    with Talk([first, second]) as talk:
        talk.go_on(20)
        second.process.send_signal(signal.SIGSTOP)
        for number in itertools.count():
            if dropped not in mortal_redis.listeners():
                break
            talk.say(talk.members[0], f"{number} is long: ".ljust(50000, "."))
            assert number < 2000, "it is not dropped"
        second.process.send_signal(signal.SIGCONT)
        talk.wait_further()
        talk.settle(mortal_redis.client)
    assert sum(line["messages"] for line in second.events("relay.repaired")) > 0


# Redis refuses


def out_of_memory(redis: MortalRedis) -> Iterator[None]:
    redis.client.config_set("maxmemory", 1)
    yield
    redis.client.config_set("maxmemory", 0)


def disk_trouble(redis: MortalRedis) -> Iterator[None]:
    """A snapshot cannot be written: where its file belongs there is a directory."""
    in_the_way = redis.folder / "dump.rdb"
    in_the_way.mkdir()
    redis.client.config_set("save", "3600 1")
    redis.client.bgsave()
    wait_for(lambda: redis.client.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    in_the_way.rmdir()
    redis.client.bgsave()
    wait_for(lambda: redis.client.info("persistence")["rdb_last_bgsave_status"] == "ok")
    redis.client.config_set("save", "")


def endless_script(redis: MortalRedis) -> Iterator[None]:
    redis.client.config_set("lua-time-limit", 50)

    def run() -> None:
        with redis.connect() as client, pytest.raises(exceptions.ResponseError, match="killed"):
            client.eval("while true do end", 0)

    with ThreadPoolExecutor() as pool:
        ended = pool.submit(run)
        wait_for(lambda: "BUSY" in (redis.refusal() or ""))
        try:
            yield
        finally:
            redis.client.script_kill()
        ended.result()


def no_replicas(redis: MortalRedis) -> Iterator[None]:
    redis.client.config_set("min-replicas-to-write", 1)
    yield
    redis.client.config_set("min-replicas-to-write", 0)


class Refusal(NamedTuple):
    """What Redis refuses between the two halves of ``lasts``, with which word."""

    word: str
    lasts: Callable[[MortalRedis], Iterator[None]]
    history: int


REFUSALS = [
    Refusal("OOM", out_of_memory, history=200),
    Refusal("MISCONF", disk_trouble, history=200),
    Refusal("BUSY", endless_script, history=503),
    Refusal("NOREPLICAS", no_replicas, history=200),
]


def names(daemon: Daemon, word: str) -> bool:
    """Whether a daemon says that it is not ready because of that word of Redis."""
    return any(word in reason for reason in ready(daemon))


@on_every_server
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.word)
@pytest.mark.timeout(60)
def test_messages_wait_while_redis_refuses_them(
    refusal: Refusal, mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """Three seconds without writes: nobody is closed, ready says why, history can be read."""
    daemons = start_daemons(mortal_redis.url)
    headers = log_in(daemons[0])
    history = {"groupId": "1", "startPage": 0, "endPage": 9}
    with Talk(daemons) as talk:
        talk.go_on(50)
        with contextmanager(refusal.lasts)(mortal_redis):
            ends = time.monotonic() + REFUSED_SECONDS
            assert mortal_redis.refuses_scripts()
            for daemon in daemons:
                wait_for(partial(names, daemon, refusal.word), daemon, REFUSED_SECONDS)
            answer = post(daemons[0], "/group/listMessage", history, headers)
            assert answer.status == refusal.history, answer.body
            assert answer.status == 503 or len(answer.json["data"]) == 10
            time.sleep(max(0, ends - time.monotonic()))
        back = time.monotonic()
        talk.wait_further(back)
        wait_ready(*daemons, since=back)
        talk.settle(mortal_redis.client)
    assert not any(daemon.events("socket.append_failed") for daemon in daemons)


@pytest.mark.timeout(60)
def test_a_refused_subscription_harms_no_group(
    mortal_redis: MortalRedis, proxy: Proxy, start_daemons: StartDaemons
) -> None:
    """SUBSCRIBE comes while Redis is busy: afterwards that group is heard, and every other one."""
    daemons = start_daemons(proxy.url)
    proxy.hold_questions()
    with Talk(daemons, group="2", names="early-", loop=False, patience=0) as comers:
        comers.wait_closed(*comers.members, seconds=10)
    with contextmanager(endless_script)(mortal_redis):
        before = proxy.answered_listeners()
        assert len(before) == len(daemons)
        proxy.resume()
        wait_for(lambda: all(map(int.__lt__, before, proxy.answered_listeners())))
    wait_ready(*daemons, since=time.monotonic())
    for group in ("2", "3"):
        with Talk(daemons, group=group) as talk:
            talk.go_on(10)
            talk.settle(mortal_redis.client)


@on_every_server
@pytest.mark.parametrize("amid_talk", [False, True], ids=["in a pause", "amid talk"])
@pytest.mark.timeout(60)
def test_a_fail_over_is_followed(
    amid_talk: bool,
    mortal_redis: MortalRedis,
    proxy: Proxy,
    tmp_path: Path,
    start_daemons: StartDaemons,
) -> None:
    """A replica takes over; the old master is its replica, and refuses writes with READONLY.

    In a pause everything was replicated, and every promise holds. Amid talk the replica may lack
    what the master had already answered, for replication is asynchronous: such a text was heard,
    and is not stored. The other promises hold.
    """
    replica = MortalRedis(mortal_redis.executable, tmp_path / "replica")
    with contextlib.closing(replica):
        replica.client.replicaof("127.0.0.1", str(mortal_redis.port))
        wait_for(lambda: replica.client.info("replication")["master_link_status"] == "up")
        daemons = start_daemons(proxy.url)
        with Talk(daemons) as talk:
            talk.go_on(50)
            if not amid_talk:
                talk.pause()
                talk.wait_seen()
                mortal_redis.client.set("last", "word")  # WAIT counts from this connection's write
                assert mortal_redis.client.wait(1, 10000) == 1
            replica.client.replicaof("NO", "ONE")
            proxy.target = replica.port
            mortal_redis.client.replicaof("127.0.0.1", str(replica.port))
            back = time.monotonic()
            talk.resume()
            talk.wait_further(back)
            talk.go_on(20)
            if not amid_talk:
                talk.settle(replica.client)
                return
            talk.finish()
            talk.check_open()
            stored = list_messages(replica.client)
            check_once([message.info for message in stored], "in the list")
            for member in talk.members:
                check_heard(member, stored)


def check_heard(member: Member, stored: list[Message]) -> None:
    """A member heard all that is stored, once and in order, and perhaps more."""
    check_once([message.info for message in member.heard], f"at {member.user}")
    check_order(member.heard, f"at {member.user}")
    missing = set(stored) - set(member.heard)
    assert not missing, f"{member.user} did not hear {missing}"


# Redis forgets


def forget_scripts(redis: MortalRedis) -> None:
    redis.client.script_flush()


def forget_own_keys(redis: MortalRedis) -> None:
    keys = list(redis.client.scan_iter("fastimd:*"))
    assert keys
    redis.client.delete(*keys)


@pytest.mark.parametrize("forget", [forget_scripts, forget_own_keys])
@pytest.mark.timeout(60)
def test_what_redis_forgets_costs_no_message(
    forget: Callable[[MortalRedis], None], mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """The scripts, or the keys that are the daemons' own, are gone again and again."""
    with Talk(start_daemons(mortal_redis.url)) as talk:
        for _ in range(10):
            talk.go_on(10)
            forget(mortal_redis)
            talk.wait_further()
        talk.settle(mortal_redis.client)


@pytest.mark.timeout(60)
def test_after_flushall_talk_goes_on(
    mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """What was stored is gone; sockets stay open, and all hear the same, once, in one order.

    A ``ts`` is above those before it only as far as Redis knows them: at that moment it may repeat.
    """
    with Talk(start_daemons(mortal_redis.url)) as talk:
        for _ in range(3):
            talk.go_on(20)
            mortal_redis.client.flushall()
            talk.wait_further()
        talk.finish()
        talk.check_open()
        stored = list_messages(mortal_redis.client)
        assert stored
        check_order(stored, "in the list")
        for member in talk.members:
            assert member.heard == talk.members[0].heard
            assert member.heard[-len(stored) :] == stored
            own = [message.info for message in member.heard if message.user == member.user]
            assert own == list(member.said)


# Silence


def seconds_to(line: dict[str, Any], since: float) -> float:
    """Seconds from ``since``, of ``time.time``, to a line of a log."""
    return datetime.fromisoformat(line["ts"]).timestamp() - since


@pytest.mark.parametrize("answers_only", [False, True], ids=["both ways", "answers only"])
@pytest.mark.timeout(60)
def test_silent_connections_are_given_up_for_new_ones(
    answers_only: bool, mortal_redis: MortalRedis, proxy: Proxy, start_daemons: StartDaemons
) -> None:
    """Nothing comes over them any more: noticed within ten seconds, and nothing is lost.

    When they come to life again, what was on its way over them does no harm.
    """
    daemons = start_daemons(proxy.url)
    with Talk(daemons) as talk:
        talk.go_on(50)
        silent_since = time.time()
        proxy.silence(answers_only=answers_only)
        wait_away(*daemons)
        noticed_at = time.monotonic()
        for daemon, purpose in itertools.product(daemons, PURPOSES):
            assert seconds_to(unavailable(daemon, purpose)[0], silent_since) <= SILENT_SECONDS
        talk.wait_further(noticed_at)
        proxy.resume()
        talk.wait_further()
        talk.go_on(20)
        talk.settle(mortal_redis.client)


@pytest.mark.timeout(60)
def test_connections_that_fall_silent_while_they_are_opened_are_given_up(
    mortal_redis: MortalRedis, proxy: Proxy, start_daemons: StartDaemons
) -> None:
    """Redis answers the first command of each new connection, and then nothing more."""
    daemons = start_daemons(proxy.url)
    with Talk(daemons) as talk:
        talk.go_on(50)
        links = proxy.links
        proxy.allow_new(len("+OK\r\n"))
        for kind in ("normal", "pubsub"):
            mortal_redis.ask("CLIENT", "KILL", "TYPE", kind)
        wait_for(lambda: proxy.links >= links + len(daemons) * len(PURPOSES))
        silent_since = time.monotonic()
        proxy.allow_new(math.inf)
        talk.wait_further(silent_since, seconds=SILENT_SECONDS)
        talk.settle(mortal_redis.client)


@pytest.mark.timeout(60)
def test_a_silent_network_is_waited_for(
    mortal_redis: MortalRedis, proxy: Proxy, start_daemons: StartDaemons
) -> None:
    """New connections are silent, too, for 15 s, which is within ``hold_seconds``."""
    daemons = start_daemons(proxy.url, redis__hold_seconds="30")
    headers = log_in(daemons[0])
    with Talk(daemons) as talk:
        talk.go_on(50)
        silent_since = time.monotonic()
        proxy.allow_new(0)
        proxy.silence()
        wait_away(*daemons)
        for daemon in daemons:
            assert any(reason.startswith("redis: ") for reason in ready(daemon))
        check_unavailable_routes(daemons[0], headers)
        time.sleep(max(0, silent_since + 15 - time.monotonic()))
        proxy.resume()
        back = time.monotonic()
        talk.wait_further(back)
        wait_ready(*daemons, since=back)
        talk.settle(mortal_redis.client)


# Bounds of what waits


def holds(daemon: Daemon, messages: int) -> bool:
    """Whether so many messages of a daemon's clients wait for Redis."""
    metrics = ask_admin(daemon, "/metrics").body.decode()
    found = re.search(r"^fastimd_held_messages (\S+)$", metrics, re.MULTILINE)
    assert found is not None, metrics
    return float(found[1]) == messages


@pytest.mark.timeout(60)
def test_what_is_said_while_redis_is_away_is_delivered_later(
    mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """Within the bounds every message waits, and comes once, in order."""
    daemons = start_daemons(mortal_redis.url)
    with Talk(daemons, loop=False) as talk:
        mortal_redis.kill()
        wait_away(*daemons)
        for member in talk.members:
            talk.say(member, *(f"{member.user} says {number} meanwhile" for number in range(20)))
        for daemon in daemons:
            wait_for(partial(holds, daemon, 60), daemon)
        mortal_redis.start()
        talk.settle(mortal_redis.client)
    for daemon in daemons:
        wait_for(partial(holds, daemon, 0), daemon)


@pytest.mark.timeout(60)
def test_who_waited_too_long_is_told(
    mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """A message older than ``hold_seconds`` closes its sender; who was silent stays and hears."""
    daemons = start_daemons(mortal_redis.url, redis__hold_seconds="2")
    with Talk(daemons, loop=False) as talk:
        for member in talk.members:
            talk.say(member, f"{member.user} is here")
        talk.wait_seen()
        mortal_redis.kill()
        wait_away(*daemons)
        speakers = [talk.members[0], talk.members[3]]
        for speaker in speakers:
            talk.say(speaker, f"{speaker.user} is too late")
        talk.wait_closed(*speakers, seconds=10)
        for speaker in speakers:
            age = speaker.closed_at - speaker.said[f"{speaker.user} is too late"]
            assert 2 <= age < 4
        mortal_redis.start()
        back = time.monotonic()
        talk.say(talk.members[1], "back again")
        talk.wait_further(back)
        talk.settle(mortal_redis.client, closed=speakers)
    assert not [each for each in list_messages(mortal_redis.client) if "too late" in each.info]


@pytest.mark.timeout(60)
def test_who_finds_no_room_is_told_at_once(
    mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """A message past ``hold_bytes`` closes its sender; those before it are delivered later."""
    daemons = start_daemons(mortal_redis.url, redis__hold_bytes="20000")
    with Talk(daemons, loop=False) as talk:
        mortal_redis.kill()
        wait_away(*daemons)
        first, second, loud = talk.members[:3]
        for member in (first, second):
            talk.say(member, *(f"{member.user} {number}: ".ljust(1000) for number in range(5)))
        wait_for(partial(holds, daemons[0], 10), daemons[0])
        talk.say(loud, "too much: ".ljust(12000, "!"))
        talk.wait_closed(loud, seconds=5)
        talk.say(first, "there is room for a little")
        mortal_redis.start()
        back = time.monotonic()
        talk.say(second, "back again")
        talk.wait_further(back)
        talk.settle(mortal_redis.client, closed=[loud])


# HTTP and health while Redis is away

NAMED = {"groupId": "1", "userId": "1", "ts": 1}
ROUTES: list[tuple[str, dict[str, object]]] = [
    ("/user/login", {"userId": "2", "password": "123456"}),
    ("/user/joinGroup", {"groupId": "2"}),
    ("/user/listGroup", {}),
    ("/group/listMessage", {"groupId": "1", "startPage": 0, "endPage": 9}),
    ("/group/listMessage", {**NAMED, "count": 5}),
    ("/group/listOldMessage", {**NAMED, "count": 5}),
    ("/group/delMessage", {"groupId": "1", "ts": 1}),
]


def timed_post(
    daemon: Daemon, path: str, fields: dict[str, object], headers: dict[str, str]
) -> tuple[Answer, float]:
    """The answer to a request, and the seconds it took."""
    begun = time.monotonic()
    answer = post(daemon, path, fields, headers)
    return answer, time.monotonic() - begun


def check_unavailable_routes(daemon: Daemon, headers: dict[str, str]) -> None:
    """All routes, asked at once, say in time that Redis is away; the process lives.

    A machine that stands still holds up what needs no Redis as well: that is taken off.
    """
    slowest = 0.0
    with ThreadPoolExecutor(len(ROUTES)) as pool:
        answers = [
            pool.submit(timed_post, daemon, path, fields, headers) for path, fields in ROUTES
        ]
        while not all(asked.done() for asked in answers):
            begun = time.monotonic()
            assert ask_admin(daemon, "/health/live").status == 200
            slowest = max(slowest, time.monotonic() - begun)
    for (path, _), asked in zip(ROUTES, answers, strict=True):
        answer, seconds = asked.result()
        assert (answer.status, answer.json["code"], answer.json["data"]) == (503, 503, None), path
        assert answer.json["msg"]
        assert seconds - slowest < ANSWER_SECONDS + LOADED_SECONDS, path


@pytest.mark.parametrize("way", ["killed", "standing still"])
@pytest.mark.timeout(60)
def test_http_says_that_redis_is_away_and_all_is_well_after(
    way: str, mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """Every route answers 503 in time, from the first moment; after the return all serves again."""
    [daemon] = start_daemons(mortal_redis.url, 1)
    headers = log_in(daemon)
    if way == "killed":
        mortal_redis.kill()
        check_unavailable_routes(daemon, headers)
        wait_away(daemon)
        check_unavailable_routes(daemon, headers)
        [redis, relay] = ready(daemon)
        assert redis.startswith("redis: ")
        assert relay.startswith("relay: ")
        mortal_redis.start()
    else:
        mortal_redis.pause()
        check_unavailable_routes(daemon, headers)
        mortal_redis.resume()
    back = time.monotonic()
    wait_ready(daemon, since=back)
    with Talk([daemon], each=1) as talk:
        talk.wait_further(back)
        talk.settle(mortal_redis.client)
    for path, fields in ROUTES:
        assert post(daemon, path, fields, headers).status == 200


@pytest.mark.timeout(60)
def test_an_outage_does_not_flood_the_log(
    mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """50 messages fail, 50 sockets are refused and 50 requests: each event once a second."""
    [daemon] = start_daemons(mortal_redis.url, 1, redis__hold_seconds="1")
    headers = log_in(daemon)
    with Talk([daemon], each=50, loop=False) as talk, ThreadPoolExecutor(50) as pool:
        mortal_redis.kill()
        wait_away(daemon)
        requests = [pool.submit(post, daemon, "/user/listGroup", {}, headers) for _ in range(50)]
        for member in talk.members:
            talk.say(member, f"{member.user} says something")
        with Talk([daemon], each=50, loop=False, names="comer-", patience=0) as comers:
            comers.wait_closed(*comers.members, seconds=10)
            comers.check_open(closed=comers.members)
        talk.wait_closed(*talk.members, seconds=10)
        talk.check_open(closed=talk.members)
        assert {each.result().status for each in requests} == {503}
        mortal_redis.start()
        wait_ready(daemon, since=time.monotonic())
    loud = [line for line in daemon.lines if line["level"] in ("warning", "error", "critical")]
    by_kind: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in loud:
        event = " ".join((line["event"], *([line["of"]] if "of" in line else [])))
        by_kind.setdefault((event, line.get("purpose") or ""), []).append(line)
    assert by_kind.keys() >= {
        ("socket.append_failed", ""),
        ("socket.store_unavailable", ""),
        ("http.store_unavailable", ""),
        *(("redis.unavailable", purpose) for purpose in PURPOSES),
    }
    for kind, lines in by_kind.items():
        moments = [seconds_to(line, 0) for line in lines]
        for before, after in itertools.pairwise(moments):
            assert after - before > 0.8, f"{kind} {len(lines)} times, {after - before:.3f} s apart"


# The embedded server


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A data directory in memory, if the machine has such.

    Redis syncs once a second, and what it answers while that takes long is not even written: a
    process that is killed then does lose it.
    """
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder) / "data"


@pytest.mark.timeout(60)
def test_a_killed_embedded_redis_costs_no_message(data: Path, start_daemons: StartDaemons) -> None:
    """SIGKILL of the daemon's child, twice in a row: it is started again."""
    [daemon] = start_daemons("embedded", 1, redis__data_dir=str(data))
    with (
        Redis(unix_socket_path=str(data / "redis.sock"), retry=Retry(NoBackoff(), 0)) as client,
        Talk([daemon]) as talk,
    ):

        def server() -> int:
            """The process that answers."""
            return int(client.info("server")["process_id"])

        def answers_again(ended: int) -> bool:
            try:
                return server() != ended
            except exceptions.RedisError:
                return False

        for _ in range(2):
            talk.go_on(30)
            for _ in range(2):
                ended = server()
                os.kill(ended, signal.SIGKILL)
                wait_for(partial(answers_again, ended), daemon)
            talk.wait_further()
        talk.settle(client)
