"""The limits of the live wire, on real daemons: whoever meets one is told by the code for it.

Many scenes share a daemon, each in groups of its own.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, NamedTuple
from urllib.parse import quote
from urllib.request import Request, urlopen

import jwt
import pytest
import trio
from clients import (
    SMALL_BUFFER,
    RawClient,
    log_in_async,
    message,
    metrics,
    post_async,
    stored,
)
from conftest import (
    Daemon,
    StartDaemon,
    connect,
    receive,
    redis_servers,
    run_daemon,
    run_redis,
    wait_for,
)
from members import Member, member, stranger
from raw import Wire
from redis import Redis

SECRET = "a secret of at least thirty-two bytes"
LIVE = "/connection/websocket"
BOTH: list[Wire] = ["json", "protobuf"]

HANDLER = """
from fastimd.hooks import Message, Refused


def authorize(user_id, token, action, group_id):
    if token == "unknown":
        return False
    if action == "connect" and user_id == "banned":
        raise Refused("banned until Monday")
    if action == "chat" and group_id == "closed":
        raise Refused("closed for tonight")
    return True


def on_message(message):
    if message.info == "spam":
        raise Refused("no advertising")
    return Message(message.group_id, message.user_id, message.info.replace("damn", "***"))


def on_join(group_id, user_id, connection_id):
    print("come", group_id, user_id, connection_id, flush=True, file=open("visits", "a"))


def on_leave(group_id, user_id, connection_id):
    print("gone", group_id, user_id, connection_id, flush=True, file=open("visits", "a"))
"""


class House(NamedTuple):
    """Four daemons on one Redis: as they are, with many limits, with hooks, and with logins."""

    free: Daemon
    strict: Daemon
    hooked: Daemon
    guarded: Daemon
    redis: Redis


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    (folder / "limits_handler.py").write_text(HANDLER)
    with (
        pytest.MonkeyPatch.context() as patch,
        run_redis(redis_servers()[0], folder) as url,
        Redis.from_url(url) as redis,
    ):
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        daemons = [
            run_daemon(folder, url, wait_serving=True, **settings)
            for settings in (
                {"token__hmac_secret": SECRET, "group_message__max_bytes": "100"},
                {
                    "socket__max_messages_per_second": "0.5",
                    "socket__message_burst": "2",
                    "socket__ping_interval": "1",
                    "socket__ping_timeout": "2",
                    "socket__outbox_bytes": "16384",
                    "server__max_connections_per_ip": "8",
                    "group__max_joined": "2",
                },
                {"hooks__handler": "limits_handler"},
                {
                    "group__login_auth": "true",
                    "group__auto_join": "false",
                    "token__hmac_secret": SECRET,
                },
            )
        ]
        try:
            free, strict, hooked, guarded = daemons
            yield House(free, strict, hooked, guarded, redis)
            for daemon in daemons:
                assert daemon.stop() == 0, daemon.log_path.read_text()[-4000:]
                assert not daemon.events("connection.crashed")
        finally:
            for daemon in daemons:
                if daemon.process.poll() is None:
                    daemon.process.kill()
                    daemon.process.wait()


def token(**claims: Any) -> str:
    return jwt.encode(claims, SECRET, "HS256")


# --- connections


async def test_a_client_that_says_nothing_is_closed(house: House) -> None:
    """After ten seconds: 3502. One that has connected stays."""
    async with (
        member(house.free, "ann", "quiet") as ann,
        stranger(house.free) as silent,
        stranger(house.free, "protobuf") as another,
    ):
        began = trio.current_time()
        for client in (silent, another):
            assert await client.closed() == (3502, "stale")
        assert trio.current_time() - began > 9
        assert await ann.code("publish", channel="quiet", data="here") == 0


@pytest.mark.parametrize("wire", BOTH)
async def test_a_frame_has_a_length(house: House, wire: Wire) -> None:
    """That of a text and 64 KB for what is around it; one more byte is 1009."""
    async with member(house.free, "ann", wire=wire) as ann:
        await ann.live.send("x" * 400_000 if wire == "json" else b"x" * 400_000)
        assert (await ann.closed())[0] == 1009


async def test_connections_of_an_address_are_counted_on_both_wires(house: House) -> None:
    """Beyond the limit the handshake is refused, whatever the wire."""
    chat = "/group/chat/counted/1/t"
    paths = [LIVE, chat] * 4
    clients = [RawClient(house.strict.address, path) for path in paths]
    try:
        for path in (LIVE, chat):
            with pytest.raises(AssertionError):
                RawClient(house.strict.address, path)
    finally:
        for client in clients:
            client.stream.close()
    wait_for(lambda: metrics(house.strict)["fastimd_connections"] <= 1, house.strict)
    async with member(house.strict, "counted", "counted"):
        pass


@pytest.mark.parametrize("wire", BOTH)
async def test_a_client_that_answers_no_ping_is_closed(house: House, wire: Wire) -> None:
    """3012, while one that answers stays."""
    async with (
        member(house.strict, f"awake {wire}", "pings") as ann,
        stranger(house.strict, wire, answers_pings=False) as deaf,
    ):
        await deaf.ask("connect", data={"userId": "deaf"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stay, ann)
            assert await deaf.closed() == (3012, "no pong")
            nursery.cancel_scope.cancel()
        assert ann.live.close is None
        assert await ann.code("publish", channel="pings", data="here") == 0


async def _stay(client: Member) -> None:
    while True:
        assert await client.live.hear(1) is not None or client.live.close is None


async def test_a_client_that_does_not_read_is_closed(house: House) -> None:
    """3008, as soon as too much waits for it."""
    closes = metrics(house.strict)["fastimd_slow_closes_total"]
    with RawClient(house.strict.address, LIVE, receive_buffer=SMALL_BUFFER) as slow:
        slow.say('{"id":1,"connect":{"data":{"userId":"slow"}}}')
        slow.say('{"id":2,"subscribe":{"channel":"much"}}')
        wait_for(lambda: house.redis.pubsub_numsub("mq:much")[0][1], house.strict)
        async with member(house.free, "ann", "another") as ann:
            for number in range(200):
                text = message(time.time_ns() // 1_000_000, group="much", info="x" * 4000)
                house.redis.publish("mq:much", text)
                if metrics(house.strict)["fastimd_slow_closes_total"] > closes:
                    break
                assert number < 199
            assert await ann.code("publish", channel="another", data="here") == 0
        frames = []
        while (frame := slow.next_frame()) is not None and frame.opcode != 8:
            frames.append(frame)
        assert frame is not None
        assert frame.closing == (3008, "slow")


async def test_a_drain_sends_clients_away_one_by_one(start_daemon: StartDaemon) -> None:
    """3001, spread over the time that is set, so that they do not come back all at once."""
    daemon = start_daemon(server__drain_seconds="1.5")
    moments: list[float] = []

    async def wait_end(client: Member) -> None:
        assert await client.closed() == (3001, "shutdown")
        moments.append(trio.current_time())

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(member(daemon, f"u{number}", "g", wire=wire))
            for number in range(6)
            for wire in BOTH
        ]
        daemon.process.terminate()
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(wait_end, client)
    assert max(moments) - min(moments) > 0.5


# --- groups


async def test_a_connection_has_so_many_groups(house: House) -> None:
    """128 by default; the next one is refused, and room is made by leaving one."""
    async with member(house.free, "many") as client:
        for number in range(128):
            assert await client.code("subscribe", channel=f"many {number}") == 0
        assert await client.code("subscribe", channel="one more") == 106
        assert await client.code("subscribe", channel="many 0") == 105
        assert await client.code("unsubscribe", channel="many 0") == 0
        assert await client.code("subscribe", channel="one more") == 0


async def test_a_user_has_so_many_groups(house: House) -> None:
    """``group.max_joined``: beyond it error 106, for this user alone."""
    async with member(house.strict, "joiner", "joined 1", "joined 2") as client:
        assert await client.code("subscribe", channel="joined 3") == 106
        assert await client.code("subscribe", channel="joined 2") == 105
        async with member(house.strict, "another", "joined 3"):
            assert house.redis.scard("ugs:joiner") == 2


@pytest.mark.parametrize("wire", BOTH)
async def test_a_group_names_its_users(house: House, wire: Wire) -> None:
    """``…#ann,ben`` is for those two: others may neither hear nor speak."""
    group = f"dialog {wire}#ann,ben"
    async with member(house.free, "ann", group, wire=wire) as ann:
        async with member(house.free, "eve", wire=wire) as eve:
            for name in ("subscribe", "presence", "history"):
                assert await eve.code(name, channel=group) == 103
            assert await eve.code("publish", channel=group, data="x") == 103
        async with member(house.free, "ben", group, wire=wire) as ben:
            assert await ben.code("publish", channel=group, data="hello") == 0
            assert await ann.hears() == "hello"


async def test_a_key_that_cannot_be_used_is_an_error_of_its_group_alone(house: House) -> None:
    """Temporary, so that clients try again; the other groups of the connection go on."""
    house.redis.set("gml:spoilt", "a string")
    async with member(house.free, "ann", "sound") as ann:
        answer = await ann.ask("subscribe", channel="spoilt")
        assert answer["error"]["code"] == 100
        assert answer["error"]["temporary"]
        assert await ann.code("publish", channel="sound", data="still here") == 0
        assert await ann.hears() == "still here"
        house.redis.delete("gml:spoilt")
        assert await ann.code("subscribe", channel="spoilt") == 0
        house.redis.delete("gml:spoilt")
        house.redis.set("gml:spoilt", "a string")
        assert await ann.code("publish", channel="spoilt", data="lost") == 100
        assert await ann.code("publish", channel="sound", data="and here") == 0
        assert await ann.hears() == "and here"
        house.redis.delete("gml:spoilt")


@pytest.mark.parametrize("wire", BOTH)
async def test_what_only_looks_like_a_message_disturbs_nobody(house: House, wire: Wire) -> None:
    """Another writer's text that begins and ends like a message is counted and left out."""
    group = f"strange {wire}"
    bad = '{"groupId":"x","userId":"u","info":7,"ts":7}'
    async with member(house.free, "ann", group, wire=wire) as ann:
        before = metrics(house.free)["fastimd_corrupt_entries_total"]
        house.redis.publish(f"mq:{group}", bad)
        house.redis.rpush(f"gml:{group}", bad)
        assert (await ann.call("groups"))["groups"]
        assert await ann.code("publish", channel=group, data="after it") == 0
        assert await ann.hears() == "after it"
        page = await ann.ask("history", channel=group, limit=10)
        assert [each["data"] for each in page["publications"]] == ["after it"]
        assert metrics(house.free)["fastimd_corrupt_entries_total"] >= before + 2
        since = {"recover": True, "epoch": page["epoch"], "offset": 1}
        async with member(house.free, "ben", wire=wire) as ben:
            assert "error" not in await ben.ask("subscribe", channel=group, **since)


# --- messages


@pytest.mark.parametrize("wire", BOTH)
async def test_a_text_has_a_length(house: House, wire: Wire) -> None:
    """``group_message.max_bytes`` of UTF-8, of what is stored: else error 106, and nothing is."""
    group = f"long {wire}"
    async with member(house.free, "ann", group, wire=wire) as ann:
        for data in ("x" * 101, "你" * 34, ["x" * 97], {"x": "x" * 92 + "\n"}):
            assert await ann.code("publish", channel=group, data=data) == 106
            answer = await ann.ask("rpc", method="send", data={"channel": group, "data": data})
            assert answer["error"]["code"] == 106
        for data in ("x" * 100, "你" * 33, ["x" * 96]):
            assert await ann.code("publish", channel=group, data=data) == 0
            assert await ann.hears() == data
    assert len(stored(house.redis, group)) == 3


@pytest.mark.parametrize("wire", BOTH)
async def test_who_speaks_too_fast_is_told(house: House, wire: Wire) -> None:
    """Error 111, which is temporary; what was said is not stored, and the connection stays."""
    group = f"fast {wire}"
    async with member(house.strict, f"hasty {wire}", group, wire=wire) as ann:
        for number in range(2):
            assert await ann.code("publish", channel=group, data=f"{number}") == 0
        for name, request in (
            ("publish", {"channel": group, "data": "too fast"}),
            ("rpc", {"method": "send", "data": {"channel": group, "data": "too fast"}}),
        ):
            answer = await ann.ask(name, **request)
            assert (answer["error"]["code"], answer["error"]["temporary"]) == (111, True)
        assert await ann.code("presence_stats", channel=group) == 0
    assert stored(house.redis, group) == ["0", "1"]


ODD_DATA: list[Any] = [7, None, True, [[]] * 500]
ODD_TIMES: list[Any] = [1.5, "1", None, True]
ODD_CALLS: list[tuple[str, Any]] = [
    *(("recall", {"channel": "CHANNEL", "ts": ts}) for ts in (0, -1, 2**53, 2**63, 2**64, 10**40)),
    *(("recall", {"channel": "CHANNEL", "ts": ts}) for ts in ODD_TIMES),
    *(("read", {"channel": "CHANNEL", "ts": ts}) for ts in (-1, 2**53, 2**63, 10**40, *ODD_TIMES)),
    *(
        ("read", {"channel": channel, "ts": 1})
        for channel in ("", "x" * 129, "a\nb", " x", 7, None)
    ),
    *(("read", {"channel": "CHANNEL"}), ("read", {"ts": 1})),
    *(("groups", {"limit": limit}) for limit in (0, -1, 1001, 2**64, "1")),
    *(("send", {"channel": "CHANNEL", "data": data}) for data in ODD_DATA),
    *(("send", {"channel": "CHANNEL", "data": "x", "nonce": n}) for n in ("x" * 65, "🙂" * 17, 7)),
    *(
        (method, {"channel": "elsewhere", "ts": 1, "data": "x"})
        for method in ("recall", "send", "read")
    ),
    *(("", {}), ("__init__", {}), ("SEND", {}), ("x" * 10_000, {})),
    *(("send", {}), ("send", []), ("send", "x"), ("send", 7), ("send", None)),
]


@pytest.mark.parametrize("wire", BOTH)
async def test_odd_calls_are_refused(house: House, wire: Wire) -> None:
    """Each by an error that will be the same again, and the connection goes on."""
    group = f"odd {wire}"
    async with member(house.free, "odd", group, wire=wire) as client:
        for method, given in ODD_CALLS:
            data = given
            if isinstance(given, dict) and given.get("channel") == "CHANNEL":
                data = {**given, "channel": group}
            answer = await client.ask("rpc", method=method, data=data)
            assert "error" in answer, (method, data)
            assert answer["error"]["code"] in (103, 104, 106, 107, 404), (method, data)
        assert await client.code("publish", channel=group, data="here") == 0
    assert stored(house.redis, group) == ["here"]


@pytest.mark.parametrize("wire", BOTH)
async def test_odd_positions_are_none(house: House, wire: Wire) -> None:
    """Of another life, or of the future: nothing is read there, and nothing is recovered."""
    group = f"positions {wire}"
    async with member(house.free, "odd", group, wire=wire) as client:
        assert await client.code("publish", channel=group, data="here") == 0
        epoch = (await client.ask("history", channel=group, limit=1))["epoch"]
        for offset in (2**53, 2**63 - 1, 2**63, 2**64 - 1):
            since = {"offset": offset, "epoch": epoch}
            page = await client.ask("history", channel=group, limit=-1, since=since)
            assert not page.get("publications"), offset
            await client.ask("unsubscribe", channel=group)
            entered = await client.ask("subscribe", channel=group, recover=True, **since)
            assert entered.get("was_recovering")
            assert not entered.get("recovered"), offset
        for odd in ("", "x" * 10_000, "\0", "*", "🙂"):
            code = await client.code("history", channel=group, since={"epoch": odd, "offset": 1})
            assert code == (0 if not odd else 112)
        for odd in ("x" * 129, " x", "a\nb", "\0"):
            for name in ("subscribe", "history", "presence", "unsubscribe"):
                assert await client.code(name, channel=odd) in (0, 103, 107)


# --- kicks


@pytest.mark.parametrize("wire", BOTH)
async def test_kicks_end_a_connection_or_a_subscription(house: House, wire: Wire) -> None:
    """From one group 2000, and the rest goes on, and the user may come again; from all 3503."""
    group, other = f"kicks {wire}", f"others {wire}"
    user = f"mallory {wire}"
    async with member(house.free, user, group, other, wire=wire) as mallory:
        assert await _operate(house.free, "kick", user=user, group=group) == {"count": 4}
        push = await mallory.push("unsubscribe")
        assert (push["channel"], push["unsubscribe"]["code"]) == (group, 2000)
        assert await mallory.code("publish", channel=group, data="x") == 103
        assert await mallory.code("publish", channel=other, data="here") == 0
        assert await mallory.code("subscribe", channel=group) == 0
        assert await mallory.code("publish", channel=group, data="again") == 0
        assert await _operate(house.free, "kick", user=user) == {"count": 4}
        assert await mallory.closed() == (3503, "force disconnect")


@pytest.mark.parametrize("wire", BOTH)
async def test_who_leaves_a_group_by_http_is_unsubscribed(house: House, wire: Wire) -> None:
    """2000, on that connection and every other of the user; others stay."""
    group = f"left {wire}"
    async with (
        member(house.free, "leaver", group, wire=wire) as leaver,
        member(house.free, "stayer", group, wire=wire) as stayer,
    ):
        headers = await log_in_async(house.free, "leaver")
        answer = await post_async(house.free, "/user/leaveGroup", {"groupId": group}, headers)
        assert answer.json["code"] == 200, answer.body
        push = await leaver.push("unsubscribe")
        assert (push["channel"], push["unsubscribe"]["code"]) == (group, 2000)
        assert await stayer.code("publish", channel=group, data="alone") == 0
        assert await stayer.hears() == "alone"
        assert await leaver.code("publish", channel=group, data="x") == 103


# --- hooks


@pytest.mark.parametrize("wire", BOTH)
async def test_hooks_judge_who_comes_in(house: House, wire: Wire) -> None:
    """A connection by 3500, a subscription by 103, each with the hook's reason."""
    for user, shown, reason in (
        ("banned", "t", "banned until Monday"),
        ("ann", "unknown", "invalid token"),
    ):
        async with stranger(house.hooked, wire) as client:
            await client.live.say({"id": 1, "connect": {"data": {"userId": user}, "token": shown}})
            assert await client.closed() == (3500, reason)
    async with member(house.hooked, "ann", wire=wire) as ann:
        answer = await ann.ask("subscribe", channel="closed")
        assert answer["error"] == {"code": 103, "message": "closed for tonight"}
        assert await ann.code("subscribe", channel="open") == 0


@pytest.mark.parametrize("wire", BOTH)
async def test_hooks_judge_what_is_said(house: House, wire: Wire) -> None:
    """103 with the reason, or another text, which is what everybody hears."""
    group = f"judged {wire}"
    async with member(house.hooked, "ann", group, wire=wire) as ann:
        answer = await ann.ask("publish", channel=group, data="spam")
        assert answer["error"] == {"code": 103, "message": "no advertising"}
        assert await ann.code("publish", channel=group, data="damn, you are late") == 0
        assert await ann.hears() == "***, you are late"
        assert await ann.code("publish", channel=group, data={"text": "damn"}) == 0
        assert await ann.hears() == {"text": "***"}
    assert stored(house.redis, group) == ["***, you are late", '{"text":"***"}']


async def test_hooks_are_told_of_each_subscription_once(house: House) -> None:
    """Of a connection in two groups two visits, each with its end, by whatever way it comes."""
    visits = house.hooked.log_path.parent / "visits"

    def lines() -> list[list[str]]:
        said = visits.read_text().splitlines() if visits.exists() else []
        return [each.split() for each in said if " guest" in each]

    async with member(house.hooked, "guest", "hall", "yard") as guest:
        await guest.ask("unsubscribe", channel="hall")
        await guest.ask("subscribe", channel="hall")
    wait_for(lambda: len(lines()) == 6, house.hooked)
    ids = {line[3] for line in lines()}
    assert len(ids) == 3
    for visit in ids:
        told = [(kind, group) for kind, group, _, id_ in lines() if id_ == visit]
        assert [kind for kind, _ in told] == ["come", "gone"]
        assert len({group for _, group in told}) == 1


# --- logins


@pytest.mark.parametrize("wire", BOTH)
async def test_a_login_is_checked_with_each_message(house: House, wire: Wire) -> None:
    """A login lets in where there is no membership to ask for; when it is lost, 3500."""
    user, group = f"ann {wire}", f"checked {wire}"
    headers = await log_in_async(house.guarded, user)
    await post_async(house.guarded, "/user/joinGroup", {"groupId": group}, headers)
    shown = {"token": headers["token"]}
    async with member(house.guarded, user, group, wire=wire, **shown) as ann:
        assert await ann.code("publish", channel=group, data="hello") == 0
        house.redis.delete(f"login:{user}")
        await ann.live.say({"id": 9, "publish": {"channel": group, "data": "lost"}})
        assert await ann.closed() == (3500, "invalid token")
    assert stored(house.redis, group) == ["hello"]
    for bad in ({"token": "wrong"}, {}):
        async with stranger(house.guarded, wire) as client:
            await client.live.say({"id": 1, "connect": {"data": {"userId": user}, **bad}})
            assert await client.closed() == (3500, "invalid token")


@pytest.mark.parametrize("wire", BOTH)
async def test_only_members_and_guests_with_a_token_come_in(house: House, wire: Wire) -> None:
    """Where nobody becomes a member by coming: else 103, ``not a member``."""
    group, user = f"club {wire}", f"tom {wire}"
    headers = await log_in_async(house.guarded, user)
    async with member(house.guarded, user, wire=wire, token=token(sub=user)) as tom:
        answer = await tom.ask("subscribe", channel=group)
        assert answer["error"] == {"code": 103, "message": "not a member"}
        for claims in ({"sub": "eve", "channel": group}, {"sub": user, "channel": "other"}):
            code = await tom.code("subscribe", channel=group, token=token(**claims))
            assert code == 103
        invited = token(sub=user, channel=group)
        assert await tom.code("subscribe", channel=group, token=invited) == 0
        await tom.ask("unsubscribe", channel=group)
        assert await tom.code("subscribe", channel=group) == 103
        await post_async(house.guarded, "/user/joinGroup", {"groupId": group}, headers)
        assert await tom.code("subscribe", channel=group) == 0
    named = token(sub=user, channels=[f"{group} 2"])
    async with stranger(house.guarded, wire) as tom:
        connected = await tom.ask("connect", token=named)
        assert list(connected["subs"]) == [f"{group} 2"]


@pytest.mark.parametrize("wire", BOTH)
async def test_a_token_that_is_good_for_ages_is_told_as_long_as_may_be(
    house: House, wire: Wire
) -> None:
    """An end in milliseconds, by mistake: more seconds than Protobuf can tell, and no crash."""
    far = int(time.time() * 1000)
    async with stranger(house.free, wire) as client:
        connected = await client.ask("connect", token=token(sub="ann", exp=far))
        assert (connected["expires"], connected["ttl"]) == (True, 2**32 - 1)
        entry = token(sub="ann", channel="ages", exp=far)
        subscribed = await client.ask("subscribe", channel="ages", token=entry)
        assert (subscribed["expires"], subscribed["ttl"]) == (True, 2**32 - 1)


# --- who is here


@pytest.mark.parametrize("wire", BOTH)
async def test_both_wires_are_seen(house: House, wire: Wire) -> None:
    """Who comes and goes on either, and who is here, for members and for operators."""
    group = f"seen {wire}"
    async with member(house.free, "ann", wire=wire) as ann:
        assert await ann.code("subscribe", channel=group, join_leave=True) == 0
        assert (await ann.push("join"))["join"]["info"]["user"] == "ann"
        async with connect(house.free.chat_url(quote(group), "carl")) as carl:
            await receive(carl)
            joined = (await ann.push("join"))["join"]["info"]
            assert joined["user"] == "carl"
            async with member(house.free, "ben", group, wire=wire, name="sdk", version="1"):
                assert (await ann.push("join"))["join"]["info"]["user"] == "ben"
                present = (await ann.ask("presence", channel=group))["presence"]
                assert sorted(one["user"] for one in present.values()) == ["ann", "ben", "carl"]
                assert present[joined["client"]] == joined
                stats = await ann.ask("presence_stats", channel=group)
                assert stats == {"num_clients": 3, "num_users": 3}
                shown = await _operate(house.free, f"group?group={quote(group)}&last=1")
                assert shown["members"] == {"ann": 1, "ben": 1, "carl": 1}
                kinds = (await _operate(house.free, "status"))["sockets"]
                assert kinds["chat"] >= 1
                assert kinds["live"] >= 2
            assert (await ann.push("leave"))["leave"]["info"]["user"] == "ben"
        assert (await ann.push("leave"))["leave"]["info"] == joined
        assert await ann.code("publish", channel=group, data="x") == 0
    name = f"live-{wire}"
    opened = [line for line in house.free.events("socket.opened") if line.get("sdk") == "sdk 1"]
    assert {"wire": name, "kind": "live", "user": "ben"}.items() <= opened[-1].items()
    wait_for(
        lambda: any(
            {"wire": name, "kind": "live", "user": "ben", "sdk": "sdk 1"}.items() <= line.items()
            for line in house.free.events("socket.closed")
        )
    )
    counted = metrics(house.free)
    for command, outcome in (("subscribe", "ok"), ("presence", "ok"), ("publish", "ok")):
        labels = f'command="{command}",outcome="{outcome}",wire="{name}"'
        assert counted[f"fastimd_live_commands_total{{{labels}}}"] >= 1


async def _operate(daemon: Daemon, path: str, **order: str) -> Any:
    """What the commands of the daemon ask it."""
    asking = Request(
        f"{daemon.admin}/operate/{path}",
        json.dumps(order).encode() if order else None,
        {"Fastimd-Command": "1", "Content-Type": "application/json"},
    )

    def ask() -> Any:
        with urlopen(asking, timeout=10) as answer:
            return json.load(answer)

    return await trio.to_thread.run_sync(ask)
