"""Read marks and unread messages on the live wire, on real daemons, in both encodings."""

from __future__ import annotations

from typing import Any

import pytest
from clients import log_in_async, message, post_async, wrapped
from conftest import ShareDaemon
from members import Member, member
from raw import Wire
from redis import Redis

BOTH: list[Wire] = ["json", "protobuf"]
MINUTE = 60_000

pytestmark = pytest.mark.parametrize("wire", BOTH)


async def say(client: Member, group: str, *texts: str) -> list[int]:
    """Say something in a group; returns the ts of each."""
    return [(await client.call("send", channel=group, data=text))["ts"] for text in texts]


async def inbox(client: Member) -> dict[str, tuple[int, int, int]]:
    """Of each group how many messages it has, how many are unread, and the mark."""
    listed = (await client.call("groups"))["groups"]
    return {
        each["channel"]: (each["total"], each["unread"], each.get("read", 0)) for each in listed
    }


def now(redis: Redis) -> int:
    seconds, microseconds = redis.time()
    return int(seconds * 1000 + microseconds // 1000)


async def test_what_is_behind_the_mark_is_unread(share_daemon: ShareDaemon, wire: Wire) -> None:
    """On every daemon and for each user alone; without a mark all is; a mark only moves forward."""
    here, there = share_daemon(1), share_daemon(2)
    async with member(here, "ann", "g", wire=wire) as ann, member(there, "bob", "g") as bob:
        first, second, third = await say(ann, "g", "one", "two", "three")
        assert await inbox(bob) == await inbox(ann) == {"g": (3, 3, 0)}
        for ts, unread, mark in (
            (first - 1, 3, first - 1),
            (first, 2, first),
            (second, 1, second),
            (first, 1, second),
            (third, 0, third),
            (0, 0, third),
        ):
            assert await ann.call("read", channel="g", ts=ts) == {}
            assert await inbox(ann) == {"g": (3, unread, mark)}
        assert await inbox(bob) == {"g": (3, 3, 0)}
        await say(bob, "g", "four")
        assert (await inbox(ann))["g"][:2] == (4, 1)
    async with member(there, "ann", wire=wire) as again:
        assert (await inbox(again))["g"] == (4, 1, third)


async def test_nobody_has_read_what_is_yet_to_come(
    share_daemon: ShareDaemon, redis: Redis, wire: Wire
) -> None:
    """A mark from the future is one at the end; in a group without messages there is none."""
    async with member(share_daemon(), "ann", "g", "empty", wire=wire) as ann:
        [said] = await say(ann, "g", "one")
        for group in ("g", "empty"):
            assert await ann.call("read", channel=group, ts=2**53 - 1) == {}
        assert await inbox(ann) == {"g": (1, 0, said), "empty": (0, 0, 0)}
        assert redis.zrange("fastimd:read:ann", 0, -1, withscores=True) == [(b"g", said)]
        await say(ann, "g", "two")
        await say(ann, "empty", "three")
        assert await inbox(ann) == {"g": (2, 1, said), "empty": (1, 1, 0)}


async def test_what_is_gone_is_not_unread(
    share_daemon: ShareDaemon, redis: Redis, wire: Wire
) -> None:
    """Recalled before the mark, at it and behind it; trimmed; lost; and said after that."""
    async with member(share_daemon(), "ann", "g", wire=wire) as ann:
        said = await say(ann, "g", *"abcdef")
        await ann.call("read", channel="g", ts=said[2])
        for index, unread in ((1, 3), (2, 3), (4, 2), (5, 1)):
            assert await ann.call("recall", channel="g", ts=said[index]) == {}
            assert (await inbox(ann))["g"][1] == unread
        redis.ltrim("gml:g", -1, -1)
        assert (await inbox(ann))["g"] == (1, 1, said[2])
        redis.delete("gml:g")
        assert (await inbox(ann))["g"] == (0, 0, said[2])
        await say(ann, "g", "anew")
        assert (await inbox(ann))["g"] == (1, 1, said[2])


async def test_foreign_messages_are_read_with_the_one_before(
    share_daemon: ShareDaemon, redis: Redis, wire: Wire
) -> None:
    """Nothing that others wrote into the list stays unread for good, or hides what is new."""
    async with member(share_daemon(), "ann", "g", wire=wire) as ann:
        [first] = await say(ann, "g", "one")
        far = now(redis) + 100 * MINUTE
        redis.rpush("gml:g", message(far, group="g"), "no message", wrapped(message(far + 1)))
        assert (await inbox(ann))["g"] == (4, 4, 0)
        await ann.call("read", channel="g", ts=far + 1)
        assert (await inbox(ann))["g"] == (4, 0, first)
        await say(ann, "g", "two", "three")
        assert (await inbox(ann))["g"] == (6, 2, first)
        redis.rpush("gml:g", message(far, group="g"))
        assert (await inbox(ann))["g"] == (7, 3, first)
        redis.delete("gml:g")
        redis.rpush("gml:g", message(far, group="g"), "no message")
        assert (await inbox(ann))["g"] == (2, 0, first)


async def test_who_may_set_a_mark(share_daemon: ShareDaemon, redis: Redis, wire: Wire) -> None:
    """Who hears the group, or is a member, whichever server says so; a guest and others may not."""
    daemon = share_daemon(group__auto_join="false")
    groups = ["g", '"quoted"', "dm#ann,bob", "dm#bob,cleo"]
    for group in groups:
        redis.rpush(f"gml:{group}", message(5, group=group))
    redis.sadd("ugs:ann", wrapped("g"), wrapped('"quoted"'), "dm#ann,bob", "dm#bob,cleo")
    async with member(daemon, "ann", wire=wire) as ann:
        for group in groups[:3]:
            assert await ann.call("read", channel=group, ts=5) == {}
        assert await inbox(ann) == dict.fromkeys(groups[:3], (1, 0, 5))
        refused = await ann.ask("rpc", method="read", data={"channel": "dm#bob,cleo", "ts": 5})
        assert refused["error"] == {"code": 103, "message": "private group"}
        refused = await ann.ask("rpc", method="read", data={"channel": "other", "ts": 5})
        assert refused["error"] == {"code": 103, "message": "not a member"}
    async with member(share_daemon(), "", "g", wire=wire) as guest:
        refused = await guest.ask("rpc", method="read", data={"channel": "g", "ts": 5})
        assert refused["error"] == {"code": 103, "message": "guests have no read marks"}
    assert redis.keys("fastimd:read:*") == [b"fastimd:read:ann"]


async def test_a_mark_goes_with_the_membership(share_daemon: ShareDaemon, wire: Wire) -> None:
    """Who leaves and comes back has read nothing there."""
    daemon = share_daemon()
    async with member(daemon, "ann", "g", "h", wire=wire) as ann:
        for group in "gh":
            [said] = await say(ann, group, "one")
            await ann.call("read", channel=group, ts=said)
        headers = await log_in_async(daemon, "ann")
        await post_async(daemon, "/user/leaveGroup", {"groupId": "g"}, headers)
        await post_async(daemon, "/user/joinGroup", {"groupId": "g"}, headers)
        assert {group: each[1] for group, each in (await inbox(ann)).items()} == {"g": 1, "h": 0}


async def test_a_login_that_has_ended_reads_nothing(
    share_daemon: ShareDaemon, redis: Redis, wire: Wire
) -> None:
    """With ``login_auth`` each call shows the token."""
    daemon = share_daemon(group__login_auth="true")
    token = (await log_in_async(daemon, "ann"))["token"]
    async with member(daemon, "ann", "g", wire=wire, token=token) as ann:
        [said] = await say(ann, "g", "one")
        redis.delete("login:ann")
        await ann.live.say(
            {"id": 99, "rpc": {"method": "read", "data": {"channel": "g", "ts": said}}}
        )
        assert await ann.closed() == (3500, "invalid token")
    assert not redis.exists("fastimd:read:ann")


async def test_a_key_that_cannot_be_used_is_one_groups_affair(
    share_daemon: ShareDaemon, redis: Redis, wire: Wire
) -> None:
    """The mark there is refused, the others are as they are; marks of another type begin anew."""
    async with member(share_daemon(), "ann", "good", "bad", wire=wire) as ann:
        await say(ann, "good", "one")
        [said] = await say(ann, "bad", "one")
        redis.delete("gml:bad")
        redis.set("gml:bad", "a string")
        assert await ann.code("rpc", method="read", data={"channel": "bad", "ts": said}) == 100
        assert await inbox(ann) == {"good": (1, 1, 0), "bad": (0, 0, 0)}
        redis.set("fastimd:read:ann", "a string")
        assert (await inbox(ann))["good"] == (1, 1, 0)
        assert await ann.call("read", channel="good", ts=2**50) == {}
        assert (await inbox(ann))["good"][1] == 0
        redis.delete("gml:bad")


async def test_a_thousand_groups_cost_a_bounded_number_of_commands(
    share_daemon: ShareDaemon, redis: Redis, wire: Wire
) -> None:
    """No list is read, and where nothing is unread nothing is counted."""
    long = [message(number, group="x") for number in range(1, 301)]
    with redis.pipeline(transaction=False) as pipe:
        for number in range(1000):
            pipe.sadd("ugs:ann", f"g-{number}")
            pipe.rpush(f"gml:g-{number}", *long)
            pipe.zadd("fastimd:read:ann", {f"g-{number}": number % 301 or 300})
        pipe.execute()
    async with member(share_daemon(presence__enabled="false"), "ann", wire=wire) as ann:
        redis.config_resetstat()
        listed = await inbox(ann)
        calls: dict[str, Any] = redis.info("commandstats")
        assert listed == {
            f"g-{number}": (300, 300 - (number % 301 or 300), number % 301 or 300)
            for number in range(1000)
        }
        read = sum(mark < 300 for *_, mark in listed.values())
        # One for each count and one for the marks; the daemon has scripts of its own now and then.
        assert 0 <= calls["cmdstat_evalsha"]["calls"] - read - 1 <= 3
        assert "cmdstat_lrange" not in calls
        probes = calls["cmdstat_lindex"]["calls"] - 1000
        assert probes <= read * 12
