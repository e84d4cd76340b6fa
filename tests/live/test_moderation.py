"""What moderators decide holds on both wires, on every daemon, and through every fault."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from clients import closing, in_both_languages, log_in_async, post_async, stored
from conftest import Daemon, ShareDaemon, connect, receive
from members import Member, member, stranger
from redis import Redis
from trio_websocket import WebSocketConnection

from fastimd.groups.moderation.methods import METHODS

SECRET = "a secret of at least thirty-two bytes"
PERMISSION_DENIED, BAD_REQUEST, TOO_MANY, NOT_FOUND = 103, 107, 111, 404
PUT_OUT, BANNED = 2103, 3507


def role_token(user: str, *globs: str) -> str:
    claims = {"sub": user, "role": "moderator", "groups": list(globs)}
    return jwt.encode(claims, SECRET, algorithm="HS256")


@asynccontextmanager
async def moderator(daemon: Daemon, *groups: str, user: str = "boss") -> AsyncIterator[Member]:
    """One whose token has the role for all groups that begin with "room"."""
    async with stranger(daemon) as client:
        assert "client" in await client.ask("connect", token=role_token(user, "room*"))
        for group in groups:
            assert await client.code("subscribe", channel=group) == 0
        yield client


@pytest.fixture
def daemons(share_daemon: ShareDaemon) -> list[Daemon]:
    """Two on one Redis."""
    return [share_daemon(number, token__hmac_secret=SECRET) for number in (1, 2)]


async def says(client: Member, text: str, group: str = "room") -> str:
    """What becomes of a message: "" or code and text of its error."""
    answer = await client.ask("publish", channel=group, data=text)
    return f"{answer['error']['code']} {answer['error']['message']}" if "error" in answer else ""


async def told(client: Member) -> Any:
    """The next act that a client is told."""
    while True:
        push = (await client.push("pub"))["pub"]
        if push.get("tags") == {"event": "moderation"}:
            assert "offset" not in push
            return push["data"]


async def greeted(chat: WebSocketConnection) -> WebSocketConnection:
    assert "list" in (await receive(chat))
    return chat


async def test_the_muted_say_nothing_on_any_daemon_wire_or_device(daemons: list[Daemon]) -> None:
    """They are told why; what they say is not stored; after the mute is lifted all is stored."""
    one, other = daemons
    async with (
        moderator(one, "room") as boss,
        member(one, "3", "room") as here,
        member(other, "3", "room", wire="protobuf") as there,
        connect(other.chat_url("room", "3")) as chat,
    ):
        await greeted(chat)
        assert await boss.call("mute", channel="room", user="3", seconds=600, reason="spam") == {}
        for device in (here, there):
            act = await told(device)
            assert (act["act"], act["user"], act["reason"], act["by"]) == (
                *("mute", "3", "spam", "boss"),
            )
            assert abs(act["until"] / 1000 - time.time() - 600) < 5
            refusal = await says(device, "hi")
            assert (refusal[:18], refusal[-9:]) == ("103 muted until 20", "UTC: spam")
        await chat.send_message("quiet?")
        refused = await receive(chat)
        assert (refused["code"], refused["data"]) == (403, "quiet?")
        assert in_both_languages(refused["msg"])
        assert "muted until 20" in refused["msg"]
        async with member(other, "3", "room") as again, connect(one.chat_url("room", "3")) as next:
            assert (await says(again, "hi")).startswith("103 muted")
            await greeted(next)
            await next.send_message("hi")
            assert (await receive(next))["code"] == 403
        assert await boss.call("unmute", channel="room", user="3") == {}
        assert (await told(there))["act"] == "unmute"
        assert (await told(here))["act"] == "unmute"
        assert await says(there, "thanks") == ""
        assert (await receive(chat))["info"] == "thanks"


async def test_the_banned_are_out_everywhere_and_stay_out(
    daemons: list[Daemon], redis: Redis
) -> None:
    """On both wires, and are members no longer; of another group they hear as before.

    A connection that is in no other group ends.
    """
    one, other = daemons
    async with (
        moderator(one, "room") as boss,
        member(other, "3", "room", "elsewhere") as live,
        member(other, "3", "room", wire="protobuf") as device,
        connect(other.chat_url("room", "3")) as chat,
        connect(other.chat_url("elsewhere", "3")) as elsewhere,
    ):
        await greeted(chat)
        await greeted(elsewhere)
        await boss.call("ban", channel="room", user="3", seconds=0, reason="enough")
        assert (await told(live))["act"] == "ban"
        ended = (await live.push("unsubscribe"))["unsubscribe"]
        assert (ended["code"], ended["reason"]) == (PUT_OUT, "banned: enough")
        assert (await told(device))["reason"] == "enough"
        assert await device.closed() == (BANNED, "banned: enough")
        assert await closing(chat) == (1008, "banned: enough")
        assert redis.smembers("ugs:3") == {b"elsewhere"}
        for daemon in daemons:
            async with member(daemon, "3") as again, connect(daemon.chat_url("room", "3")) as next:
                answer = await again.ask("subscribe", channel="room")
                assert answer["error"]["code"] == PERMISSION_DENIED
                assert answer["error"]["message"] == "banned: enough"
                assert await closing(next) == (1008, "banned: enough")
        assert redis.smembers("ugs:3") == {b"elsewhere"}
        assert await says(live, "still here", "elsewhere") == ""
        assert (await receive(elsewhere))["info"] == "still here"
        await boss.call("unban", channel="room", user="3")
        assert await live.code("subscribe", channel="room") == 0


async def test_the_banned_do_nothing_over_http(daemons: list[Daemon], redis: Redis) -> None:
    """They do not join again, nor read or recall; others do."""
    one, other = daemons
    async with (
        moderator(one, "room") as boss,
        member(other, "4", "room") as friend,
        connect(other.chat_url("elsewhere", "5")) as chat,
    ):
        await greeted(chat)
        await boss.call("ban", channel="room", user="3", seconds=0, reason="spam")
        said = await friend.call("send", channel="room", data="hi")
        routes = {
            "/user/joinGroup": {},
            "/group/listMessage": {"startPage": 0, "endPage": -1},
            "/group/listOldMessage": {"userId": "4", "ts": said["ts"], "count": 5},
            "/group/delMessage": {"ts": said["ts"]},
        }
        for daemon in daemons:  # one has members of the group, the other has none but the moderator
            headers = await log_in_async(daemon, "3")
            for path, fields in routes.items():
                given = {"groupId": "room", **fields}
                answer = await post_async(daemon, path, given, headers)
                assert answer.json["code"] == 403, (path, answer)
                assert answer.json["msg"] == "您已被禁止进入该群组 (banned: spam)"
        assert not redis.exists("ugs:3")
        headers = await log_in_async(other, "5")
        for path in list(routes)[:3]:
            answer = await post_async(other, path, {"groupId": "room", **routes[path]}, headers)
            assert answer.json["code"] == 200, (path, answer)


async def test_the_muted_are_not_seen_to_type(daemons: list[Daemon]) -> None:
    """Nor do they take their turn by it, where there is slow mode."""
    async with (
        moderator(daemons[0], "room") as boss,
        member(daemons[1], "3", "room") as live,
    ):
        await boss.call("slow_mode", channel="room", seconds=60)
        assert (await told(live))["act"] == "slow_mode"
        assert await live.rpc_code("typing", channel="room") == 0
        assert await says(live, "first") == ""
        await boss.call("mute", channel="room", user="3", seconds=0)
        assert (await told(live))["act"] == "mute"
        assert await live.rpc_code("typing", channel="room") == PERMISSION_DENIED


async def test_moderators_keep_the_pace_of_all(share_daemon: ShareDaemon) -> None:
    """Each method costs Redis something, also for who may not use it."""
    daemon = share_daemon(
        3,
        token__hmac_secret=SECRET,
        socket__max_messages_per_second="1",
        socket__message_burst="3",
    )
    async with member(daemon, "3", "room") as live:
        codes = [await live.rpc_code("reports", channel="room") for _ in range(5)]
        assert set(codes) == {PERMISSION_DENIED, TOO_MANY}
        assert codes[:3] == [PERMISSION_DENIED] * 3


async def test_slow_mode_counts_all_devices_of_a_user(daemons: list[Daemon]) -> None:
    """On whatever daemon; moderators are exempt, and the same nonce is the same message."""
    one, other = daemons
    async with (
        moderator(one, "room") as boss,
        member(one, "3", "room") as here,
        member(other, "3", "room") as there,
        member(other, "4", "room") as friend,
        connect(other.chat_url("room", "3")) as chat,
    ):
        await greeted(chat)
        await boss.call("slow_mode", channel="room", seconds=60)
        for client in (boss, here, there, friend):
            assert await told(client) == {"act": "slow_mode", "seconds": 60, "by": "boss"}
        sent = await here.call("send", channel="room", data="first", nonce="n1")
        assert await here.call("send", channel="room", data="first", nonce="n1") == sent
        assert (await says(there, "second")).startswith("111 slow mode: wait ")
        answer = await there.ask("publish", channel="room", data="third")
        assert answer["error"]["temporary"] is True
        assert (await receive(chat))["info"] == "first"
        await chat.send_message("fourth")
        assert (await receive(chat))["code"] == 403
        assert await says(friend, "mine") == ""
        assert [await says(boss, "a"), await says(boss, "b")] == ["", ""]
        await boss.call("slow_mode", channel="room", seconds=0)
        assert await told(there) == {"act": "slow_mode", "seconds": 0, "by": "boss"}
        assert await says(there, "at once") == ""


async def test_when_all_are_muted_only_moderators_write(daemons: list[Daemon]) -> None:
    """Those of the list, too, on both wires."""
    one, other = daemons
    async with (
        moderator(one, "room") as boss,
        member(other, "3", "room") as live,
        connect(other.chat_url("room", "4")) as chat,
    ):
        await greeted(chat)
        assert await boss.call("moderators", channel="room", add=["4"]) == {"users": ["4"]}
        await boss.call("mute_all", channel="room", on=True)
        assert await told(live) == {"act": "mute_all", "by": "boss"}
        assert await says(live, "hi") == "103 only moderators may write now"
        await chat.send_message("quiet, please")
        assert (await receive(chat))["info"] == "quiet, please"
        await boss.call("mute_all", channel="room", on=False)
        assert await told(live) == {"act": "unmute_all", "by": "boss"}
        assert await says(live, "hi") == ""


async def test_a_message_is_deleted_for_all(daemons: list[Daemon], redis: Redis) -> None:
    """Anybody's; those who are there are told, and those who come back."""
    one, other = daemons
    async with moderator(one, "room") as boss, member(other, "4", "room") as friend:
        async with member(other, "3") as author:
            subscribed = await author.ask("subscribe", channel="room")
            ts = (await author.call("send", channel="room", data="bad"))["ts"]
            position = await author.call("send", channel="room", data="good")
        assert await boss.call("delete_message", channel="room", ts=ts) == {}
        gone = {"data": {"ts": ts, "user": "3"}, "tags": {"event": "recall"}}
        while (push := (await friend.push("pub"))["pub"]) != gone:
            assert "tags" not in push
        async with member(one, "3") as author:
            back = await author.ask(
                "subscribe",
                channel="room",
                recover=True,
                epoch=subscribed["epoch"],
                offset=position["ts"],
            )
            assert back["recovered"]
            assert (await author.push("pub"))["pub"] == gone
        assert stored(redis, "room") == ["good"]
        answer = await boss.ask("rpc", method="delete_message", data={"channel": "room", "ts": ts})
        assert answer["error"]["code"] == NOT_FOUND


async def test_all_messages_of_a_user_are_deleted(daemons: list[Daemon], redis: Redis) -> None:
    """And no others; who comes back is told, and recovers if its last message is there or named."""
    one, other = daemons
    async with moderator(one, "room") as boss, member(other, "4", "room") as friend:
        async with member(other, "3") as spammer:
            epoch = (await spammer.ask("subscribe", channel="room"))["epoch"]
            for number in range(5):
                mine = await spammer.call("send", channel="room", data=f"spam {number}")
                await friend.call("send", channel="room", data=f"talk {number}")
        assert await boss.call("delete_messages_of", channel="room", user="3") == {"deleted": 5}
        assert stored(redis, "room") == [f"talk {number}" for number in range(5)]
        while "tags" not in (push := (await friend.push("pub"))["pub"]):
            pass
        since = push["data"].pop("since")
        assert since < mine["ts"]
        assert push == {"tags": {"event": "purge"}, "data": {"user": "3", "ts": mine["ts"]}}
        push["data"]["since"] = since
        async with member(other, "5") as away:
            back = await away.ask(
                "subscribe", channel="room", recover=True, epoch=epoch, offset=mine["ts"]
            )
            assert back["recovered"]
            assert [each["data"] for each in back["publications"]] == ["talk 4"]
            assert (await away.push("pub"))["pub"] == push
        assert await boss.call("delete_messages_of", channel="room", user="3") == {"deleted": 0}


async def test_members_report_and_moderators_read(daemons: list[Daemon]) -> None:
    """One report of a user and message; it is gone with the message."""
    one, other = daemons
    async with (
        moderator(one, "room") as boss,
        member(other, "3", "room") as author,
        member(other, "4", "room") as friend,
    ):
        ts = (await author.call("send", channel="room", data="bad"))["ts"]
        body = {"channel": "room", "ts": ts, "reason": "rude"}
        assert await friend.call("report", **body) == {}
        assert await friend.call("report", **body) == {}
        [report] = (await boss.call("reports", channel="room"))["reports"]
        assert abs(report.pop("at") / 1000 - time.time()) < 5
        assert report == {"ts": ts, "user": "3", "by": "4", "reason": "rude"}
        answer = await friend.ask("rpc", method="report", data={**body, "ts": ts - 1})
        assert answer["error"]["code"] == NOT_FOUND
        await boss.call("delete_message", channel="room", ts=ts)
        assert await boss.call("reports", channel="room") == {"reports": []}


async def test_only_moderators_moderate(daemons: list[Daemon]) -> None:
    """Of this group; and not themselves, nor each other. The list is for those with the role."""
    one, other = daemons
    async with (
        moderator(one) as boss,
        member(other, "3", "room") as listed,
        member(other, "4", "room") as friend,
    ):
        await boss.call("moderators", channel="room", add=["3", "5"])
        assert await told(listed) == {"act": "moderator_added", "user": "3", "by": "boss"}
        elsewhere = {"channel": "elsewhere", "user": "4", "seconds": 60}
        tried = [
            (friend, "mute", {"channel": "room", "user": "3", "seconds": 60}),
            (friend, "reports", {"channel": "room"}),
            (friend, "moderators", {"channel": "room"}),
            (friend, "delete_message", {"channel": "room", "ts": 1}),
            (friend, "delete_messages_of", {"channel": "room", "user": "3"}),
            (boss, "mute", elsewhere),
            (listed, "mute", elsewhere),
            (listed, "ban", {"channel": "room", "user": "5", "seconds": 0}),
            (boss, "mute", {"channel": "room", "user": "5", "seconds": 0}),
            (listed, "moderators", {"channel": "room", "remove": ["5"]}),
            (friend, "report", {"channel": "elsewhere", "ts": 1, "reason": "x"}),
        ]
        for client, method, body in tried:
            answer = await client.ask("rpc", method=method, data=body)
            assert answer["error"]["code"] == PERMISSION_DENIED, (method, body, answer)
        for client, user in ((listed, "3"), (boss, "boss")):
            for method in ("ban", "mute"):
                body = {"channel": "room", "user": user, "seconds": 60}
                answer = await client.ask("rpc", method=method, data=body)
                assert answer["error"]["code"] == BAD_REQUEST
                assert answer["error"]["message"].endswith(f"user: you cannot {method} yourself")
        assert await listed.call("mute", channel="room", user="4", seconds=60) == {}
        assert await listed.call("moderators", channel="room") == {"users": ["3", "5"]}
        assert await boss.call("moderators", channel="room", remove=["3"]) == {"users": ["5"]}
        assert await says(friend, "hi") != ""
        refused = await listed.ask("rpc", method="unmute", data={"channel": "room", "user": "4"})
        assert refused["error"]["code"] == PERMISSION_DENIED


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("ban", {"channel": "room", "user": "3"}, "seconds"),
    ("ban", {"user": "3", "seconds": 1}, "channel"),
    ("ban", {"channel": "room", "seconds": 1}, "user"),
    ("ban", {"channel": "room", "user": "", "seconds": 1}, "user"),
    ("ban", {"channel": "", "user": "3", "seconds": 1}, "channel"),
    ("ban", {"channel": "room", "user": "a\nb", "seconds": 1}, "user"),
    ("ban", {"channel": "room", "user": 3, "seconds": 1}, "user"),
    ("mute", {"channel": "room", "user": "3", "seconds": -1}, "seconds"),
    ("mute", {"channel": "room", "user": "3", "seconds": 10**12}, "seconds"),
    ("mute", {"channel": "room", "user": "3", "seconds": "soon"}, "seconds"),
    ("mute", {"channel": "room", "user": "3", "seconds": 1.5}, "seconds"),
    ("mute", {"channel": "room", "user": "3", "seconds": 1, "reason": "x" * 257}, "reason"),
    ("unban", {"channel": "room"}, "user"),
    ("slow_mode", {"channel": "room"}, "seconds"),
    ("slow_mode", {"channel": "room", "seconds": -5}, "seconds"),
    ("mute_all", {"channel": "room"}, "on"),
    ("mute_all", {"channel": "room", "on": "yes"}, "on"),
    ("moderators", {"channel": "room", "add": "3"}, "add"),
    ("moderators", {"channel": "room", "add": [""]}, "add"),
    ("moderators", {"channel": "room", "add": ["3"], "remove": ["3"]}, "add"),
    ("delete_message", {"channel": "room"}, "ts"),
    ("delete_message", {"channel": "room", "ts": 0}, "ts"),
    ("delete_message", {"channel": "room", "ts": 2**60}, "ts"),
    ("delete_messages_of", {"channel": "room"}, "user"),
    ("report", {"channel": "room", "ts": 5}, "reason"),
    ("report", {"channel": "room", "ts": 5, "reason": ""}, "reason"),
    ("reports", {}, "channel"),
    ("report", {"channel": "room", "ts": "5", "reason": "x"}, "ts"),
    ("report", {"channel": "room", "reason": "x"}, "ts"),
    ("report", {"channel": "room", "ts": 5, "reason": "x" * 257}, "reason"),
    ("report", {"channel": "room", "ts": 5, "reason": ["x"]}, "reason"),
    ("mute", {"channel": "room", "user": "3", "seconds": True}, "seconds"),
    ("mute", {"channel": "room", "user": "3", "seconds": None}, "seconds"),
    ("mute", {"channel": "room", "user": "3", "seconds": 10**30}, "seconds"),
    ("ban", {"channel": "x" * 10_000, "user": "3", "seconds": 1}, "channel"),
    ("ban", {"channel": "room", "user": "x" * 10_000, "seconds": 1}, "user"),
    ("ban", {"channel": ["room"], "user": "3", "seconds": 1}, "channel"),
    ("ban", {"channel": "room", "user": {}, "seconds": 1}, "user"),
    ("ban", {"channel": "room", "user": "3", "seconds": 1, "reason": None}, "reason"),
    ("moderators", {"channel": "room", "add": ["3", 4]}, "add"),
    ("moderators", {"channel": "room", "add": [str(n) for n in range(101)]}, "add"),
    ("moderators", {"channel": "room", "remove": {"3": True}}, "remove"),
    ("delete_message", {"channel": "room", "ts": -1}, "ts"),
    ("delete_message", {"channel": "room", "ts": 1.5}, "ts"),
    ("delete_messages_of", {"channel": "room", "user": ""}, "user"),
]

NO_BODIES: list[object] = [[], "room", 5, None, [{"channel": "room"}]]


async def test_a_bad_body_gets_an_error_that_names_the_field(daemons: list[Daemon]) -> None:
    """Whatever is wrong with it, and nothing is done."""
    async with moderator(daemons[0], "room") as boss:
        for method, body, field in BAD:
            answer = await boss.ask("rpc", method=method, data=body)
            assert answer["error"]["code"] == BAD_REQUEST, (method, body, answer)
            assert field in answer["error"]["message"], (method, body, answer)
        for no_body in NO_BODIES:
            for method in (*METHODS, "report"):
                assert await boss.code("rpc", method=method, data=no_body) == BAD_REQUEST
        assert await boss.call("moderators", channel="room") == {"users": []}
