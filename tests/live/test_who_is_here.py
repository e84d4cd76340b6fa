"""Who is here, on two real daemons and both wires: lists, counts, joins and leaves, typing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, NamedTuple
from urllib.parse import quote

import jwt
import pytest
import trio
from clients import metrics
from conftest import (
    Daemon,
    StartDaemon,
    connect,
    receive,
    redis_servers,
    run_daemon,
    run_redis,
)
from members import OUT_SECONDS, member, stranger
from raw import Wire
from redis import Redis

SECRET = "a secret of at least thirty-two bytes"
BOTH: list[Wire] = ["json", "protobuf"]


class House(NamedTuple):
    """Two daemons on one Redis."""

    here: Daemon
    there: Daemon
    redis: Redis

    def at(self, number: int) -> Daemon:
        """One of them."""
        return self.there if number % 2 else self.here


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("here")
    with run_redis(redis_servers()[0], folder) as url, Redis.from_url(url) as redis:
        settings = {"presence__announce_up_to": "5"}
        daemons = [run_daemon(folder, url, wait_serving=True, **settings) for _ in range(2)]
        try:
            yield House(daemons[0], daemons[1], redis)
        finally:
            for daemon in daemons:
                assert daemon.stop() == 0
                assert not daemon.events("task.crashed")


@pytest.mark.parametrize("wire", BOTH)
async def test_members_of_all_daemons_are_seen(house: House, wire: Wire) -> None:
    """Lists and counts are of both daemons and both wires, and are right at once for oneself."""
    group = f"all {wire}"
    async with AsyncExitStack() as stack:
        ann = await stack.enter_async_context(member(house.here, "ann", group, wire=wire))
        assert await ann.counts(group) == (1, 1)
        ben = await stack.enter_async_context(member(house.there, "ben", group, wire=wire))
        assert await ben.users(group) == ["ann", "ben"]
        await ann.wait_counts(group, (2, 2))
        carl = await stack.enter_async_context(connect(house.there.chat_url(quote(group), "carl")))
        await receive(carl)
        await ann.wait_counts(group, (3, 3))
        # The same user on both daemons, and twice on one, is one user.
        await stack.enter_async_context(member(house.here, "ben", group, wire=wire))
        await stack.enter_async_context(member(house.here, "ben", group, wire=wire))
        await ann.wait_counts(group, (5, 3))
        assert await ann.users(group) == ["ann", "ben", "ben", "ben", "carl"]
        await carl.aclose()
        await ann.wait_counts(group, (4, 2))
        assert await ben.code("unsubscribe", channel=group) == 0
        await ann.wait_counts(group, (3, 2))


async def test_joins_and_leaves_are_told_across_daemons(house: House) -> None:
    """Of each user once, whatever wire, daemon or number of connections it has."""
    group = "comings"
    async with AsyncExitStack() as stack:
        watchers = []
        for daemon, name in ((house.here, "w1"), (house.there, "w2")):
            watcher = await stack.enter_async_context(member(daemon, name))
            assert await watcher.code("subscribe", channel=group, join_leave=True) == 0
            watchers.append(watcher)
        w1, w2 = watchers
        assert [await w1.come_or_gone() for _ in range(2)] == [("join", "w1"), ("join", "w2")]
        assert await w2.come_or_gone() == ("join", "w2")
        async with connect(house.there.chat_url(group, "carl")) as carl:
            await receive(carl)
            for each in watchers:
                assert await each.come_or_gone() == ("join", "carl")
            async with member(house.here, "carl", group):
                pass  # a second device that comes and goes is not told
        for each in watchers:
            assert await each.come_or_gone() == ("leave", "carl")
        async with member(house.here, "dave", group):
            for each in watchers:
                assert await each.come_or_gone() == ("join", "dave")
        # Back within the time on the other daemon: nobody is told a thing.
        async with member(house.there, "dave", group):
            await trio.sleep(4.5)
            async with member(house.here, "eve", group):
                for each in watchers:
                    assert await each.come_or_gone() == ("join", "eve")
        told = [{await each.come_or_gone() for _ in range(2)} for each in watchers]
        assert told == [{("leave", "dave"), ("leave", "eve")}] * 2


async def test_in_large_groups_nobody_is_told(house: House) -> None:
    """Above announce_up_to users no one who comes, goes or types; counts are exact all the same."""
    group = "large"
    async with AsyncExitStack() as stack:
        watcher = await stack.enter_async_context(member(house.here, "watcher"))
        assert await watcher.code("subscribe", channel=group, join_leave=True) == 0
        assert await watcher.come_or_gone() == ("join", "watcher")
        for number in range(5):
            await stack.enter_async_context(member(house.at(number), f"m{number}", group))
        await watcher.wait_counts(group, (6, 6))
        watcher.pushes.clear()
        async with member(house.there, "late", group) as late:
            await watcher.wait_counts(group, (7, 7))
            assert await late.rpc_code("typing", channel=group) == 106
        await watcher.wait_counts(group, (6, 6))
        await trio.sleep(5)
        assert await watcher.code("publish", channel=group, data="x") == 0
        assert not [push for push in watcher.pushes if {"join", "leave"} & push.keys()]


@pytest.mark.parametrize("wire", BOTH)
async def test_typing_is_told_to_the_others(house: House, wire: Wire) -> None:
    """On both daemons, not to oneself, not again within three seconds, and it is not stored."""
    group = f"typing {wire}"
    async with AsyncExitStack() as stack:
        ann, ben, cleo, again = [
            await stack.enter_async_context(member(daemon, name, group, wire=wire))
            for daemon, name in (
                (house.here, "ann"),
                (house.here, "ben"),
                (house.there, "cleo"),
                (house.there, "ann"),
            )
        ]
        carl = await stack.enter_async_context(connect(house.here.chat_url(quote(group), "carl")))
        await receive(carl)
        await ann.wait_counts(group, (5, 4))
        assert await ann.call("typing", channel=group) == {}
        assert await again.call("typing", channel=group) == {}
        assert await ann.call("typing", channel=group) == {}
        for each in (ben, cleo):
            publication = (await each.push("pub"))["pub"]
            assert publication["tags"] == {"event": "typing"}
            assert publication["data"] == {"user": "ann"}
            assert "offset" not in publication
        assert await ann.call("send", channel=group, data="hello") != {}
        for each in (ann, ben, cleo, again):
            assert await each.hears() == "hello"
        assert (await receive(carl))["info"] == "hello"
        (stored,) = (await ann.ask("history", channel=group, limit=10))["publications"]
        assert stored["data"] == "hello"
        assert await ann.rpc_code("typing", channel="elsewhere") == 103


async def test_the_members_of_a_killed_daemon_are_out_in_time(start_daemon: StartDaemon) -> None:
    """SIGKILL; the others are told, and the daemon that comes after it shows no ghosts."""
    first, second = start_daemon(), start_daemon()
    async with member(first, "watcher") as watcher:
        assert await watcher.code("subscribe", channel="g", join_leave=True) == 0
        assert await watcher.come_or_gone() == ("join", "watcher")
        async with AsyncExitStack() as stack:
            for name in ("ann", "ben"):
                await stack.enter_async_context(member(second, name, "g"))
                assert await watcher.come_or_gone() == ("join", name)
            await watcher.wait_counts("g", (3, 3))
            second.process.kill()
            second.expected_status = -signal.SIGKILL
            began = trio.current_time()
            third = await trio.to_thread.run_sync(start_daemon)
            async with member(third, "ben", "g") as ben:
                await ben.wait_counts("g", (2, 2))
                assert await watcher.users("g") == ["ben", "watcher"]
                assert trio.current_time() - began < OUT_SECONDS
                with trio.fail_after(OUT_SECONDS):
                    assert await watcher.come_or_gone_in_time() == ("leave", "ann")


async def test_members_are_known_after_redis_lost_them(house: House) -> None:
    """FLUSHALL: lists and counts are whole again within one turn, and nobody is told as gone."""
    group = "lost"
    async with AsyncExitStack() as stack:
        watcher = await stack.enter_async_context(member(house.here, "watcher"))
        assert await watcher.code("subscribe", channel=group, join_leave=True) == 0
        assert await watcher.come_or_gone() == ("join", "watcher")
        await stack.enter_async_context(member(house.there, "ann", group))
        assert await watcher.come_or_gone() == ("join", "ann")
        house.redis.flushall()
        await watcher.wait_counts(group, (2, 2))
        await stack.enter_async_context(member(house.there, "ben", group))
        assert await watcher.come_or_gone_in_time() == ("join", "ben")


async def test_without_presence_it_is_not_available(start_daemon: StartDaemon) -> None:
    """And costs no key."""
    daemon = start_daemon(presence__enabled="false")
    async with member(daemon, "ann", "g") as ann:
        for command in ("presence", "presence_stats"):
            assert await ann.code(command, channel="g") == 108
        assert await ann.rpc_code("typing", channel="g") == 108
        assert metrics(daemon)["fastimd_members"] == 0


async def test_what_a_token_says_is_shown(start_daemon: StartDaemon) -> None:
    """Its claim ``info``, on other daemons too, and anew when another token says another thing."""
    daemons = [start_daemon(token__hmac_secret=SECRET) for _ in range(2)]

    def token(info: Any) -> str:
        return jwt.encode({"sub": "ann", "info": info}, SECRET)

    async with stranger(daemons[0]) as ann, member(daemons[1], "ben", "g") as ben:
        await ann.ask("connect", token=token({"name": "Ann"}))
        assert await ann.code("subscribe", channel="g") == 0
        await ben.wait_counts("g", (2, 2))
        shown = (await ben.ask("presence", channel="g"))["presence"].values()
        assert {one["user"]: one.get("conn_info") for one in shown} == {
            "ann": {"name": "Ann"},
            "ben": None,
        }
        await ann.ask("refresh", token=token({"name": "Anna"}))
        assert await ann.counts("g") == (2, 2)
        shown = (await ben.ask("presence", channel="g"))["presence"].values()
        assert {"name": "Anna"} in [one.get("conn_info") for one in shown]


DEEP = b"[" * 100_000
GARBAGE = [b"\xff", DEEP, b'{"group":"\xff"}', b'{"group":' + DEEP, b"null", b""]


async def test_what_others_write_ends_no_daemon(house: House) -> None:
    """Whatever stands at the daemons' own keys, or comes on their channels, presence goes on."""
    group = "strange"
    async with AsyncExitStack() as stack:
        ann = await stack.enter_async_context(member(house.here, "ann", group))
        ben = await stack.enter_async_context(member(house.there, "ben", group))
        await ann.wait_counts(group, (2, 2))
        keys: list[bytes] = list(house.redis.scan_iter(f"fastimd:members:*:{group}"))
        assert len(keys) == 2
        inboxes: list[Any] = house.redis.pubsub_channels("fastimd:to:*")
        assert len(inboxes) == 2
        for each in GARBAGE:
            house.redis.hset(f"fastimd:here:{group}", each, "99999999999999 1 1 1")
            house.redis.hset(f"fastimd:policy:{group}", b"b:" + each[:100], each)
            house.redis.hset(f"fastimd:policy:{group}", f"m:nobody{len(each)}", each)
            house.redis.zadd("fastimd:reports:" + group, {each: 1.0})
            for channel in (b"fastimd:events", *inboxes):
                house.redis.publish(channel, each)
        assert await ann.users(group) == await ben.users(group) == ["ann", "ben"]
        house.redis.hset(keys[0], b"\xff", DEEP)
        await ann.wait_counts(group, (2, 2))  # the daemon that it belongs to notes all anew
        assert await ben.users(group) == ["ann", "ben"]
        assert await ann.code("publish", channel=group, data="still here") == 0
