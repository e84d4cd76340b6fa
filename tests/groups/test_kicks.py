"""Kicks that are given while a daemon cannot hear: carried out when its relay is back."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import trio
from clients import closing, metrics
from conftest import Daemon, StartDaemon, connect, receive, wait_for
from faults import Proxy, ready, unavailable
from redis import Redis
from trio_websocket import WebSocketConnection

from fastimd.http.forms import COMMAND_HEADER

KICKS = "fastimd:kicks"


@pytest.fixture
def proxy(redis: Redis) -> Iterator[Proxy]:
    """The daemon's way to Redis."""
    proxy = Proxy(int(redis.connection_pool.connection_kwargs["port"]))
    yield proxy
    proxy.close()


@pytest.fixture
def daemon(start_daemon: StartDaemon, proxy: Proxy) -> Daemon:
    """Behind the proxy."""
    return start_daemon(redis__url=proxy.url, redis__hold_seconds="60")


@asynccontextmanager
async def member(daemon: Daemon, group: str, user: str) -> AsyncIterator[WebSocketConnection]:
    """A chat socket that was greeted."""
    async with connect(daemon.chat_url(group, user)) as socket_:
        await receive(socket_)
        yield socket_


def order(daemon: Daemon, user: str, group: str = "") -> tuple[int, Any]:
    """What the daemon answers to ``fastimd kick``: the status and the JSON."""
    asking = Request(
        f"{daemon.admin}/operate/kick",
        json.dumps({"user": user, "group": group or None}).encode(),
        {COMMAND_HEADER: "1", "Content-Type": "application/json"},
    )
    try:
        with urlopen(asking, timeout=10) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


async def give(daemon: Daemon, user: str, group: str = "") -> int:
    """Kick; returns how many daemons heard of it."""
    status, answer = await trio.to_thread.run_sync(order, daemon, user, group)
    assert status == 200, answer
    count: int = answer["count"]
    return count


async def until(condition: Callable[[], object], daemon: Daemon) -> None:
    """``wait_for`` beside the clients of this test."""
    await trio.to_thread.run_sync(partial(wait_for, condition, daemon, 15))


async def break_relay(
    daemon: Daemon, proxy: Proxy, redis: Redis, *, commands: bool = False
) -> None:
    """End the relay's connection; a new one falls silent while it is opened, until ``resume``.

    Args:
        commands: the connection for commands too.
    """
    proxy.allow_new(0)
    for kind in ("pubsub", "normal") if commands else ("pubsub",):
        redis.client_kill_filter(_type=kind, skipme=True)
        purpose = "messages" if kind == "pubsub" else "commands"
        await until(partial(unavailable, daemon, purpose), daemon)


async def mend_relay(daemon: Daemon, proxy: Proxy) -> None:
    proxy.resume()
    await until(lambda: not ready(daemon), daemon)


async def check_open(*sockets: WebSocketConnection) -> None:
    """Each hears what it says, and nothing came before that."""
    for number, socket_ in enumerate(sockets):
        await socket_.send_message(f"still here {number}")
        while (await receive(socket_))["info"] != f"still here {number}":
            pass


@pytest.mark.parametrize("group", ["7", ""], ids=["of one group", "of all"])
async def test_a_kick_is_carried_out_when_the_relay_is_back(
    group: str, daemon: Daemon, proxy: Proxy, redis: Redis
) -> None:
    """Asked of the daemon that does not hear it itself. Who came after it stays, and others do."""
    async with AsyncExitStack() as sockets:
        other = await sockets.enter_async_context(member(daemon, "7", "4"))
        first = await sockets.enter_async_context(member(daemon, "7", "3"))
        elsewhere = await sockets.enter_async_context(member(daemon, "8", "3"))
        await break_relay(daemon, proxy, redis)
        assert await give(daemon, "3", group) == 0
        later = await sockets.enter_async_context(member(daemon, "7", "3"))
        await mend_relay(daemon, proxy)
        assert await closing(first) == (1008, "kicked")
        if not group:
            assert await closing(elsewhere) == (1008, "kicked")
        await check_open(other, later, *([elsewhere] if group else []))


async def test_a_kick_by_another_daemon_is_carried_out(
    daemon: Daemon, start_daemon: StartDaemon, proxy: Proxy, redis: Redis
) -> None:
    """Also while the daemon reaches Redis in no way at all; at once on the one that hears it."""
    there = start_daemon()
    async with member(daemon, "7", "3") as deaf, member(there, "7", "3") as near:
        await break_relay(daemon, proxy, redis, commands=True)
        await until(lambda: len(there.events("redis.connected")) == 4, there)
        assert await give(there, "3") == 1
        assert await closing(near) == (1008, "kicked")
        async with member(there, "7", "3") as again:
            await mend_relay(daemon, proxy)
            assert await closing(deaf) == (1008, "kicked")
            await check_open(again)


async def test_a_kick_that_was_heard_is_not_carried_out_again(
    daemon: Daemon, proxy: Proxy, redis: Redis
) -> None:
    """Who has come back stays through all reconnections."""
    async with member(daemon, "7", "3") as kicked:
        assert await give(daemon, "3") == 1
        assert await closing(kicked) == (1008, "kicked")
    async with member(daemon, "7", "3") as again:
        for _ in range(2):
            assert redis.zcard(KICKS) == 1
            await break_relay(daemon, proxy, redis)
            await mend_relay(daemon, proxy)
            await check_open(again)


async def test_a_kick_is_remembered_for_so_long(start_daemon: StartDaemon, redis: Redis) -> None:
    """``redis.hold_seconds``, and as long as the last one at most."""
    daemon = start_daemon(redis__hold_seconds="1.5")
    await give(daemon, "3")
    await give(daemon, "3")
    assert redis.zcard(KICKS) == 1
    assert 0 < redis.pttl(KICKS) <= 1500
    await trio.sleep(1)
    await give(daemon, "4")
    await trio.sleep(1)
    await give(daemon, "5")
    remembered = cast(list[bytes], redis.zrange(KICKS, 0, -1))
    assert [json.loads(entry)["user"] for entry in remembered] == ["4", "5"]
    await until(lambda: not redis.exists(KICKS), daemon)


async def test_what_is_no_kick_is_passed_over(daemon: Daemon, proxy: Proxy, redis: Redis) -> None:
    """Whoever else writes to the key; the kick beside it is carried out."""
    async with member(daemon, "7", "3") as kicked, member(daemon, "7", "4") as other:
        await break_relay(daemon, proxy, redis)
        now = time.time() * 1000
        redis.zadd(KICKS, {"none": now, '{"group":"","user":"4"}': now, '{"user":4}': now})
        redis.zadd(KICKS, {'{"group":"","user":"4","kick":true}': "inf"})
        assert await give(daemon, "3") == 0
        await mend_relay(daemon, proxy)
        assert await closing(kicked) == (1008, "kicked")
        await check_open(other)
    assert {line["key"] for line in daemon.events("store.corrupt_entry")} == {KICKS}


async def test_a_key_that_holds_no_kicks_harms_nothing_else(
    daemon: Daemon, proxy: Proxy, redis: Redis
) -> None:
    """The kick is heard, and who gave it is told that it is not remembered; the daemon goes on."""
    redis.set(KICKS, "x")
    async with member(daemon, "7", "3") as kicked, member(daemon, "7", "4") as other:
        status, answer = await trio.to_thread.run_sync(order, daemon, "3")
        assert (status, KICKS in answer["error"]) == (500, True)
        assert await closing(kicked) == (1008, "kicked")
        await break_relay(daemon, proxy, redis)
        await mend_relay(daemon, proxy)
        await until(lambda: metrics(daemon)["fastimd_unusable_keys_total"] == 2, daemon)
        await check_open(other)
        redis.delete(KICKS)
        assert await give(daemon, "4") == 1
        assert await closing(other) == (1008, "kicked")


async def test_a_key_that_is_lost_loses_the_kick_alone(
    daemon: Daemon, proxy: Proxy, redis: Redis
) -> None:
    """Nobody is closed, nothing is said of it."""
    async with member(daemon, "7", "3") as forgotten:
        await break_relay(daemon, proxy, redis)
        assert await give(daemon, "3") == 0
        redis.delete(KICKS)
        await mend_relay(daemon, proxy)
        await check_open(forgotten)
