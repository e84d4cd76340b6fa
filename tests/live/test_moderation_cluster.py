"""What moderators decide in a cluster of Redis: on the masters of groups, and their successors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trio
from clients import closing
from clusters import Cluster, cluster
from conftest import Daemon, Launch, connect, receive
from members import member
from test_moderation import PUT_OUT, SECRET, moderator, says, told

from fastimd.redis.cluster.slots import slot_of

pytestmark = pytest.mark.timeout(120)

GROUPS = ["room", "room a{b}c", "room {", "room {}x", "room ü 世界"]
SLOTS_MOVED = 6000
"""More than one of three masters has."""


@pytest.fixture
def spread(tmp_path: Path) -> Iterator[Cluster]:
    """Three masters with a replica each."""
    with cluster(tmp_path / "cluster") as made:
        yield made


@pytest.fixture
def daemons(spread: Cluster, launch: Launch) -> list[Daemon]:
    """Two on it."""
    return [launch(spread.url, token__hmac_secret=SECRET) for _ in range(2)]


def count(spread: Cluster, group: str) -> int:
    """How many messages a group has."""
    return int(spread.client_of(group).llen(f"gml:{group}"))


async def test_each_act_holds_whatever_the_group_is_called(
    spread: Cluster, daemons: list[Daemon]
) -> None:
    """On the other daemon; and all that is kept of it lies in the slot of the group."""
    one, other = daemons
    for group in GROUPS:
        async with (
            moderator(one) as boss,
            member(other, "3", group, "elsewhere") as live,
            member(other, "4", group) as friend,
            connect(other.chat_url(quote(group), "3")) as chat,
        ):
            await receive(chat)
            assert await says(live, "first", group) == ""
            assert await boss.call("mute", channel=group, user="3", seconds=600) == {}
            assert (await told(live))["act"] == "mute"
            assert (await says(live, "not this", group)).startswith("103 muted")
            body = {
                "channel": group,
                "ts": (await friend.call("send", channel=group, data="x"))["ts"],
            }
            assert await live.call("report", **body, reason="rude") == {}
            assert len((await boss.call("reports", channel=group))["reports"]) == 1
            kept = {
                key
                for node in spread.nodes[:3]
                for key in node.ask("KEYS", "*fastimd:*")
                if any(kind in key for kind in (b":policy:", b":endings:", b":reports:"))
            }
            mine = {key for key in kept if key.decode().endswith(f":{group}")}
            assert len(mine) == 3
            assert {slot_of(key) for key in mine} == {slot_of(f"gml:{group}")}
            assert await boss.call("delete_messages_of", channel=group, user="3") == {"deleted": 1}
            while (await friend.push("pub"))["pub"].get("tags") != {"event": "purge"}:
                pass
            assert count(spread, group) == 1
            assert await boss.call("delete_message", **body) == {}
            assert count(spread, group) == 0
            assert await boss.call("ban", channel=group, user="3", seconds=0) == {}
            ended = (await live.push("unsubscribe"))["unsubscribe"]
            assert ended["code"] in (PUT_OUT, 2000)  # the news of its leave come another way
            assert [(await receive(chat))["info"] for _ in range(2)] == ["first", "x"]
            assert (await closing(chat))[0] == 1008
            assert await live.code("subscribe", channel=group) == 103
            assert await says(live, "still here", "elsewhere") == ""


async def test_an_act_outlives_its_master_and_a_move(
    spread: Cluster, daemons: list[Daemon]
) -> None:
    """Who takes its place knows it; what is decided after a move is heard from the new master."""
    one, other = daemons
    async with member(other, "3", "room", "elsewhere") as muted, moderator(one) as boss:
        assert await boss.call("mute", channel="room", user="3", seconds=0) == {}
        master = spread.master_of("room")
        assert int(master.ask("WAIT", 1, 5000)) == 1
        master.kill()
        spread.wait_failed_over(master)
        spread.wait_well()
        answer = ""
        with trio.fail_after(30):
            while answer != "103 muted":  # before, nothing is known: that is told within seconds
                answer = await says(muted, "not this")
                assert answer
        master.start()
        spread.wait_well()
        assert await boss.call("unmute", channel="room", user="3") == {}
        await trio.sleep(1)
        assert await says(muted, "but this") == ""
        source = spread.master_of("room")
        target = next(node for node in spread.nodes[:3] if node not in (source, master))
        spread.reshard(source, target, SLOTS_MOVED)
        spread.wait_well()
        assert await boss.call("mute", channel="room", user="3", seconds=0) == {}
        await trio.sleep(1)
        assert await says(muted, "nor this") == "103 muted"
