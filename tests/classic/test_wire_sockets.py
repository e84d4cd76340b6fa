"""Chat sockets as a Fast-IM client sees them, and what they leave in Redis and in the log."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import trio
from clients import closing, frame, handshake, log_in_async, message, post_async, wrapped
from conftest import Daemon, StartDaemon, connect, receive, wait_for
from redis import Redis
from trio_websocket import WebSocketConnection

EMPTY = {"list": [], "total": 0}


def stored(redis: Redis, group: str = "1") -> list[str]:
    """The entries of a group's list."""
    entries: Any = redis.lrange(f"gml:{group}", 0, -1)
    return [each.decode() for each in entries]


# --- what is said


async def test_what_is_said_is_stored_as_it_is_seen(daemon: Daemon, redis: Redis) -> None:
    """The frame is the list entry, byte for byte; the list expires in a week."""
    async with connect(daemon.chat_url(group="1", user="3")) as ann:
        assert await frame(ann) == '{"list":[],"total":0}'
        await ann.send_message("hello")
        seen = await frame(ann)
        ts = json.loads(seen)["ts"]
        assert seen == f'{{"groupId":"1","userId":"3","info":"hello","ts":{ts}}}'
        assert stored(redis) == [seen]
        assert 604_790 <= redis.ttl("gml:1") <= 604_800
        seconds, _ = redis.time()
        assert abs(ts / 1000 - seconds) < 5


INFOS = (
    '{"groupId":"2","userId":"9","info":"forged","ts":1}',
    '"quoted" \\ back\\slash',
    "line\nbreak\ttab\x00nul\x7f\x1b[31m",
    "😀 你好 é \u202e\u2028",
    "",
    " ",
    "440",
    "null",
    '","ts":1}',
    "字" * 20_000,  # 60 KB
    "\x01" * 10_000,  # each becomes six bytes of JSON
)


async def test_what_is_said_is_never_parsed(daemon: Daemon, redis: Redis) -> None:
    """Whatever text a member sends comes back as ``info``, unchanged."""
    async with (
        connect(daemon.chat_url(user="ann")) as ann,
        connect(daemon.chat_url(user="bob")) as bob,
    ):
        assert await receive(ann) == await receive(bob) == EMPTY
        seen = []
        for info in INFOS:
            await ann.send_message(info)
            seen.append(await frame(ann))
            said = json.loads(seen[-1])
            assert list(said) == ["groupId", "userId", "info", "ts"]
            assert (said["groupId"], said["userId"]) == ("1", "ann")
            assert said["info"] == info
            assert await frame(bob) == seen[-1]
        assert stored(redis) == seen
        async with connect(daemon.chat_url(user="eve")) as eve:
            greeting = await receive(eve)
            assert [each["info"] for each in greeting["list"]] == list(INFOS)


async def test_a_list_keeps_its_last_messages(start_daemon: StartDaemon, redis: Redis) -> None:
    """max_length trims the list, timeout renews its life, list_num bounds the greeting."""
    daemon = start_daemon(
        group_message__max_length="5", group_message__list_num="3", group_message__timeout="60"
    )
    async with connect(daemon.chat_url()) as ann:
        assert await receive(ann) == EMPTY
        said = []
        for number in range(8):
            await ann.send_message(str(number))
            said.append(await frame(ann))
        assert stored(redis) == said[3:]
        assert 50 <= redis.ttl("gml:1") <= 60
        async with connect(daemon.chat_url(user="2")) as bob:
            last = [json.loads(each) for each in said[-3:]]
            assert await receive(bob) == {"list": last, "total": 5}


async def test_a_greeting_reads_entries_of_the_java_server(daemon: Daemon, redis: Redis) -> None:
    """Wrapped entries come plain, in the order of the list, and are counted."""
    entries = [message(ts, info=f'"{ts}" 你好') for ts in range(100, 160)]
    redis.rpush("gml:1", *(wrapped(each) for each in entries[:-1]), entries[-1])
    async with connect(daemon.chat_url()) as ann:
        assert await frame(ann) == f'{{"list":[{",".join(entries[-50:])}],"total":60}}'
        await ann.send_message("hi")
        assert (await receive(ann))["ts"] > 159


async def test_ts_grows_past_a_list_from_the_future(daemon: Daemon, redis: Redis) -> None:
    """A message gets a greater ts than the last one, even if that one's clock was ahead."""
    ahead = (int(redis.time()[0]) + 30) * 1000
    redis.rpush("gml:1", wrapped(message(ahead)))
    async with connect(daemon.chat_url()) as ann:
        await receive(ann)
        for number in (1, 2):
            await ann.send_message("x")
            assert (await receive(ann))["ts"] == ahead + number


async def test_a_message_of_the_java_server_is_heard(daemon: Daemon, redis: Redis) -> None:
    """A wrapped entry that is stored and published elsewhere reaches the members, plain."""
    async with connect(daemon.chat_url()) as ann:
        assert await receive(ann) == EMPTY
        said = message(int(redis.time()[0]) * 1000, user="java", info="你好")
        redis.rpush("gml:1", wrapped(said))
        redis.publish("mq:1", wrapped(said))
        assert await frame(ann) == said


async def test_what_is_said_is_published_plain(daemon: Daemon, redis: Redis) -> None:
    """Other servers hear each message on ``mq:``, as it is stored."""
    with redis.pubsub(ignore_subscribe_messages=True) as heard:  # type: ignore[no-untyped-call]
        heard.subscribe("mq:1")
        async with connect(daemon.chat_url()) as ann:
            await receive(ann)
            await ann.send_message("hello")
            seen = await frame(ann)
        told = wait_for(lambda: heard.get_message())
        assert (told["channel"], told["data"]) == (b"mq:1", seen.encode())


async def test_keys_of_our_own_may_be_lost(daemon: Daemon, redis: Redis) -> None:
    """Without the ``fastimd:`` keys everything goes on, ts still growing."""
    async with connect(daemon.chat_url()) as ann:
        await receive(ann)
        last = 0
        for _ in range(3):
            await ann.send_message("x")
            ts = (await receive(ann))["ts"]
            assert ts > last
            last = ts
            for key in redis.keys("fastimd:*"):
                redis.delete(key)
        assert {key for key in redis.scan_iter() if not key.startswith(b"fastimd:")} == {
            b"gml:1",
            b"ugs:1",
        }


# --- order


async def test_everybody_sees_the_order_of_the_list(
    start_daemon: StartDaemon, redis: Redis
) -> None:
    """Eight talkers on two daemons: ts grows strictly, all see what the list has."""
    talkers, messages = 8, 25
    daemons = [start_daemon(), start_daemon()]
    seen: dict[int, list[str]] = {}
    everybody_in = trio.Event()
    inside = 0

    async def talk(number: int) -> None:
        nonlocal inside
        async with connect(daemons[number % 2].chat_url(user=str(number))) as member:
            assert await receive(member) == EMPTY
            inside += 1
            if inside == talkers:
                everybody_in.set()
            await everybody_in.wait()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, number, member)
                for each in range(messages):
                    await member.send_message(f"{number}:{each}")

    async def listen(number: int, member: WebSocketConnection) -> None:
        seen[number] = [await frame(member) for _ in range(talkers * messages)]

    async with trio.open_nursery() as nursery:
        for number in range(talkers):
            nursery.start_soon(talk, number)
    entries = stored(redis)
    assert all(each == entries for each in seen.values())
    tss = [json.loads(each)["ts"] for each in entries]
    assert all(earlier < later for earlier, later in pairwise(tss))
    for number in range(talkers):
        own = [json.loads(each)["info"] for each in entries]
        assert [info for info in own if info.startswith(f"{number}:")] == [
            f"{number}:{each}" for each in range(messages)
        ]


async def test_comers_miss_nothing_and_get_nothing_twice(
    start_daemon: StartDaemon, redis: Redis
) -> None:
    """In a busy group a comer's greeting and live messages are one run of the list."""
    comers = 30
    daemons = [start_daemon(group_message__list_num="10"), start_daemon()]
    runs: list[tuple[int, list[str]]] = []
    enough = trio.Event()

    async def talk(daemon: Daemon, user: str) -> None:
        async with connect(daemon.chat_url(user=user)) as member:
            await receive(member)
            number = 0
            while not enough.is_set():
                await member.send_message(f"{user}:{number}")
                number += 1
                while json.loads(await frame(member))["info"] != f"{user}:{number - 1}":
                    pass

    async def come(number: int, *, task_status: trio.TaskStatus[None]) -> None:
        async with connect(daemons[0].chat_url(user=f"comer{number}")) as member:
            greeting = await receive(member)
            seen = [json.dumps(m, separators=(",", ":")) for m in greeting["list"]]
            task_status.started()
            while not seen or json.loads(seen[-1])["info"] != "the end":
                seen.append(await frame(member))
            runs.append((greeting["total"] - len(greeting["list"]), seen))

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as talking:
            talking.start_soon(talk, daemons[0], "ann")
            talking.start_soon(talk, daemons[1], "bob")
            for number in range(comers):
                await nursery.start(come, number)
                await trio.sleep(0.003 * (number % 5))
            enough.set()
        async with connect(daemons[1].chat_url(user="ann")) as last:
            await receive(last)
            await last.send_message("the end")
            await receive(last)
    entries = stored(redis)
    assert len(runs) == comers
    for start, seen in runs:
        assert seen == entries[start:]


async def test_two_devices_of_one_user(daemon: Daemon) -> None:
    """Both get everything, and the one stays when the other goes."""
    async with connect(daemon.chat_url()) as phone:
        await receive(phone)
        async with connect(daemon.chat_url()) as laptop:
            await receive(laptop)
            await phone.send_message("from the phone")
            assert await receive(phone) == await receive(laptop)
            await laptop.send_message("from the laptop")
            assert (seen := await receive(phone))["info"] == "from the laptop"
            assert await receive(laptop) == seen
        await phone.send_message("alone")
        assert (await receive(phone))["info"] == "alone"


async def test_one_user_in_two_groups(daemon: Daemon, redis: Redis) -> None:
    """Each socket hears its own group only."""
    async with (
        connect(daemon.chat_url(group="a")) as in_a,
        connect(daemon.chat_url(group="b")) as in_b,
    ):
        assert await receive(in_a) == await receive(in_b) == EMPTY
        await in_a.send_message("to a")
        assert (await receive(in_a))["groupId"] == "a"
        await in_b.send_message("to b")
        assert (await receive(in_b))["info"] == "to b"
        await in_a.send_message("to a again")
        assert (await receive(in_a))["info"] == "to a again"
        assert redis.smembers("ugs:1") == {b"a", b"b"}


# --- ids


async def test_ids_are_taken_as_they_are(daemon: Daemon, redis: Redis) -> None:
    """Ids travel percent-encoded in the path and stand plain in messages and keys."""
    for group, user in (
        ("群聊", "小明"),
        ("a b", "c  d"),
        ("x:y", "gml:1"),
        ("a/b", "c?d#e"),
        ("%41", "100%"),
        ("{1}", "*"),
        ("字" * 128, "0" * 128),
    ):
        url = daemon.chat_url(quote(group, safe=""), quote(user, safe=""))
        async with connect(url) as ann:
            await receive(ann)
            await ann.send_message("hi")
            seen = await receive(ann)
            assert (seen["groupId"], seen["userId"]) == (group, user)
        assert redis.smembers(f"ugs:{user}") == {group.encode()}
        assert len(stored(redis, group)) == 1


async def test_other_paths_are_no_sockets(daemon: Daemon, redis: Redis) -> None:
    """The handshake is refused, as JSON, and nothing is stored."""
    for path, status in (
        ("/group/chat/%00/1/t", 400),
        ("/group/chat/a%0Ab/1/t", 400),
        ("/group/chat/1/%1b%5b31m/t", 400),
        ("/group/chat/1/%ff/t", 400),
        ("/group/chat/1/%20a/t", 400),
        (f"/group/chat/1/{'9' * 129}/t", 400),
        (f"/group/list/{'9' * 129}/t", 400),
        ("/group/chat//1/t", 400),
        ("/group/chat/1/1/", 404),
        ("/group/chat/1/1", 404),
        ("/group/list/1", 404),
        ("/group/chat/1/1/t/more", 404),
        ("/nowhere", 404),
        ("/user/login", 404),
    ):
        answer = await handshake(daemon, path)
        assert answer.status == status, path
        assert (answer.json["code"], answer.json["data"]) == (status, None)
    assert [key for key in redis.scan_iter() if not key.startswith(b"fastimd:")] == []


# --- closes


async def test_a_binary_frame_closes_the_socket(daemon: Daemon, redis: Redis) -> None:
    """1003, and nothing was said."""
    for url in (daemon.chat_url(), daemon.list_url()):
        async with connect(url) as ann:
            assert await receive(ann)
            await ann.send_message(b"\x00\x01")
            assert (await closing(ann))[0] == 1003
    assert stored(redis) == []


async def test_a_message_that_is_too_big_closes_the_socket(
    start_daemon: StartDaemon, redis: Redis
) -> None:
    """1009 for more than max_bytes; exactly max_bytes is taken."""
    daemon = start_daemon(group_message__max_bytes="1000")
    async with connect(daemon.chat_url()) as ann:
        await receive(ann)
        await ann.send_message("x" * 1000)
        assert (await receive(ann))["info"] == "x" * 1000
        await ann.send_message("x" * 1001)
        assert (await closing(ann))[0] == 1009
    assert len(stored(redis)) == 1


async def test_a_wrong_token_is_told_and_closed(start_daemon: StartDaemon, redis: Redis) -> None:
    """With login_auth: the text 440, without quotes, then 1008, and the user has not joined."""
    daemon = start_daemon(group__login_auth="true")
    headers = await log_in_async(daemon, "1")
    for user, token in (("1", "wrong"), ("2", headers["token"]), ("1", quote("密码"))):
        async with connect(daemon.chat_url(user=user, token=token)) as ann:
            assert await frame(ann) == "440"
            assert (await closing(ann))[0] == 1008
    assert redis.keys("ugs:*") == []
    async with connect(daemon.chat_url(token=headers["token"])) as ann:
        assert await receive(ann) == EMPTY


async def test_without_login_auth_any_token_will_do(daemon: Daemon) -> None:
    """The token stands in the path but is not looked at."""
    for token in ("t", quote("随意 填写")):
        async with connect(daemon.chat_url(token=token)) as ann:
            assert await receive(ann) == EMPTY


async def test_a_token_that_is_lost_ends_the_socket(
    start_daemon: StartDaemon, redis: Redis
) -> None:
    """The next message is not stored: 440, then 1008."""
    daemon = start_daemon(group__login_auth="true")
    headers = await log_in_async(daemon)
    async with connect(daemon.chat_url(token=headers["token"])) as ann:
        await receive(ann)
        await ann.send_message("heard")
        assert (await receive(ann))["info"] == "heard"
        redis.delete("login:1")
        await ann.send_message("not heard")
        assert await frame(ann) == "440"
        assert (await closing(ann))[0] == 1008
    assert [json.loads(each)["info"] for each in stored(redis)] == ["heard"]


async def test_a_good_token_lives_on_with_each_message(
    start_daemon: StartDaemon, redis: Redis
) -> None:
    """Connecting and each message renew its life; the Java server's form is good too."""
    daemon = start_daemon(group__login_auth="true")
    redis.set("login:1", '"84e9d36e4c7c44e0a79bb71f1b4ce9c4"', ex=100)
    async with connect(daemon.chat_url(token="84e9d36e4c7c44e0a79bb71f1b4ce9c4")) as ann:
        await receive(ann)
        assert redis.ttl("login:1") > 86_390
        redis.expire("login:1", 100)
        await ann.send_message("hi")
        await receive(ann)
        assert redis.ttl("login:1") > 86_390


async def test_who_is_in_too_many_groups_enters_no_other(
    start_daemon: StartDaemon, redis: Redis
) -> None:
    """At max_joined: 1008 `too many groups`, and nothing is joined; members enter as ever."""
    daemon = start_daemon(group__max_joined="2")
    redis.sadd("ugs:1", "1", '"2"')
    for group, is_in in (("1", True), ("3", False), ("2", True)):
        async with connect(daemon.chat_url(group=group)) as socket:
            if is_in:
                assert await receive(socket) == EMPTY
            else:
                assert await closing(socket) == (1008, "too many groups")
    assert redis.scard("ugs:1") == 2
    redis.set("ugs:odd", "x")
    async with connect(daemon.chat_url(user="odd")) as socket:
        assert await closing(socket) == (1013, "try again later")


async def test_without_auto_join_only_members_enter(
    start_daemon: StartDaemon, redis: Redis
) -> None:
    """Others are closed with 1008 `not a member`, also when they are in no group at all."""
    daemon = start_daemon(group__auto_join="false")
    redis.sadd("ugs:stranger", "2", "11")
    for user in ("nobody", "stranger"):
        async with connect(daemon.chat_url(user=user)) as socket:
            assert await closing(socket) == (1008, "not a member")
    assert redis.exists("ugs:nobody") == 0
    redis.sadd("ugs:plain", "1", "2")
    redis.sadd("ugs:java", '"1"')
    for user in ("plain", "java"):
        async with connect(daemon.chat_url(user=user)) as socket:
            assert await receive(socket) == EMPTY
    headers = await log_in_async(daemon, "nobody")
    await post_async(daemon, "/user/joinGroup", {"groupId": "1"}, headers)
    async with connect(daemon.chat_url(user="nobody")) as socket:
        assert await receive(socket) == EMPTY


async def test_with_auto_join_who_comes_is_a_member(daemon: Daemon, redis: Redis) -> None:
    """The group is put into the user's set, once, whichever form lies there."""
    redis.sadd("ugs:java", '"1"')
    for user in ("ann", "java"):
        async with connect(daemon.chat_url(user=user)) as socket:
            await receive(socket)
    assert redis.smembers("ugs:ann") == {b"1"}
    assert redis.smembers("ugs:java") == {b'"1"'}


# --- origins


async def test_a_page_of_another_origin_gets_no_socket(start_daemon: StartDaemon) -> None:
    """403 for an origin that is not allowed; programs without an origin may come."""
    daemon = start_daemon(server__allowed_origins='["https://chat.example"]')

    path = "/group/chat/1/1/t"
    for bad in ("https://evil.example", "http://chat.example", "https://chat.example.org", "null"):
        answer = await handshake(daemon, path, Origin=bad)
        assert (answer.status, answer.json["code"]) == (403, 403)
    for good in ("https://chat.example", "HTTPS://Chat.example"):
        assert (await handshake(daemon, path, Origin=good)).status == 101
    async with connect(daemon.chat_url()) as ann:
        assert await receive(ann) == EMPTY


async def test_any_origin_gets_a_socket_by_default(daemon: Daemon) -> None:
    """allowed_origins is ["*"] unless it is set."""
    answer = await handshake(daemon, "/group/chat/1/1/t", Origin="https://anywhere.example")
    assert answer.status == 101
    assert answer.headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert answer.headers["Sec-WebSocket-Extensions"] is None


# --- the log


def closed_line(daemon: Daemon, user: str) -> dict[str, Any]:
    """The log line of the end of a user's socket."""
    lines = wait_for(
        lambda: [each for each in daemon.events("socket.closed") if each["user"] == user], daemon
    )
    assert len(lines) == 1
    line: dict[str, Any] = lines[0]
    return line


async def test_each_socket_has_two_log_lines(daemon: Daemon) -> None:
    """One when it opens, one when it closes, with the cause and the counts."""
    async with connect(daemon.chat_url(user="ann")) as ann:
        await receive(ann)
        async with connect(daemon.chat_url(user="bob")) as bob:
            await receive(bob)
            for number in range(3):
                await ann.send_message(str(number))
                await receive(ann)
                await receive(bob)
            await bob.send_message("bye")
            await receive(bob)
            await receive(ann)
            await bob.aclose(1000, "gone home")
        await ann.send_message(b"binary")
        assert (await closing(ann))[0] == 1003
    bob_line, ann_line = closed_line(daemon, "bob"), closed_line(daemon, "ann")
    assert (bob_line["code"], bob_line["reason"]) == (1000, "gone home")
    assert (bob_line["messages_in"], bob_line["messages_out"]) == (1, 5)
    assert ann_line["code"] == 1003
    assert (ann_line["messages_in"], ann_line["messages_out"]) == (3, 5)
    for line in (ann_line, bob_line):
        assert 0 <= line["seconds"] < 20
        assert (line["kind"], line["group"]) == ("chat", "1")
        opened = [each for each in daemon.events("socket.opened") if each["conn"] == line["conn"]]
        assert [(each["user"], each["group"]) for each in opened] == [(line["user"], "1")]


async def test_a_client_that_vanishes_is_logged(daemon: Daemon) -> None:
    """Without a close frame the code is 1006."""
    assert (await handshake(daemon, "/group/chat/1/ann/t")).status == 101
    assert closed_line(daemon, "ann")["code"] == 1006


async def test_no_token_is_ever_logged(start_daemon: StartDaemon, redis: Redis) -> None:
    """Neither of sockets nor of requests, good or bad, even at the level debug."""
    daemon = start_daemon(group__login_auth="true", log__level="debug")
    good, bad = "0123456789abcdef-good-token", "0123456789abcdef-bad-token"
    redis.set("login:1", good)
    async with connect(daemon.chat_url(token=good)) as ann, connect(daemon.list_url(token=good)):
        await receive(ann)
        await ann.send_message("hi")
        await receive(ann)
        for url in (daemon.chat_url(token=bad), daemon.list_url(token=bad)):
            async with connect(url) as eve:
                assert await frame(eve) == "440"
                assert (await closing(eve))[0] == 1008
        for path in (f"/group/chat/1/1/{bad}/more", f"/group/chat/%00/1/{bad}", f"/x?token={bad}"):
            assert (await handshake(daemon, path)).status in (400, 404)
        for token in (good, bad):
            headers = {"userId": "1", "token": token}
            for fields in ({"groupId": "2"}, {"token": token}):
                await post_async(daemon, "/user/joinGroup", fields, headers)
            await post_async(daemon, f"/group/chat/1/1/{token}", {}, headers)
            await post_async(daemon, f"/user/joinGroup?token={token}", {}, headers)
        redis.delete("login:1")
        await ann.send_message("hi")
        assert await frame(ann) == "440"
        assert (await closing(ann))[0] == 1008
    wait_for(lambda: len(daemon.events("socket.closed")) == 4, daemon)
    assert "0123456789abcdef" not in daemon.log_path.read_text()
    token = (await log_in_async(daemon))["token"]
    assert token not in daemon.log_path.read_text()
