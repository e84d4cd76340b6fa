"""List sockets: what they are told of their user's groups, and when."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import pytest
import trio
from clients import (
    SMALL_BUFFER,
    RawClient,
    closing,
    frame,
    log_in_async,
    message,
    metrics,
    post_async,
    talking,
    wrapped,
)
from conftest import Daemon, ShareDaemon, StartDaemon, connect, receive, wait_for
from redis import Redis
from trio_websocket import WebSocketConnection

REDIS_AND_VALKEY = True
EMPTY = {"newMessage": None, "total": 0}
FAST = "0.1"
"""An ``update_rate`` that does not hold up the tests."""


@pytest.fixture
def daemon(share_daemon: ShareDaemon) -> Daemon:
    """One that the tests share, and that tells of changes soon."""
    return share_daemon(group_list__update_rate=FAST)


@pytest.fixture
def other(share_daemon: ShareDaemon) -> Daemon:
    """Another one on the same Redis."""
    return share_daemon(2, group_list__update_rate=FAST)


def now_ms() -> int:
    return int(time.time() * 1000)


def summary(entry: str, total: int) -> dict[str, Any]:
    return {"newMessage": json.loads(entry), "total": total}


async def silent(connection: WebSocketConnection, seconds: float) -> bool:
    """Whether nothing comes for a while."""
    with trio.move_on_after(seconds):
        await connection.get_message()
        return False
    return True


async def test_a_user_with_groups_is_told_at_once(daemon: Daemon, redis: Redis) -> None:
    """An array of newMessage and total, the most recently active first, null when empty."""
    redis.sadd("ugs:1", "old", '"new"', "empty", "群")
    ts = now_ms()
    old, new, middle = message(ts - 500), message(ts, info='"你好"'), message(ts - 100)
    redis.rpush("gml:old", message(ts - 999), old)
    redis.rpush("gml:new", wrapped(new))
    redis.rpush("gml:群", message(1), message(2), middle)
    async with connect(daemon.list_url()) as ann:
        text = await frame(ann)
        assert text == (
            f'[{{"newMessage":{new},"total":1}},{{"newMessage":{middle},"total":3}},'
            f'{{"newMessage":{old},"total":2}},{{"newMessage":null,"total":0}}]'
        )


async def test_a_user_without_groups_is_told_nothing(daemon: Daemon) -> None:
    """There is no push until the user has a group."""
    async with connect(daemon.list_url()) as ann:
        assert await silent(ann, 0.5)
        headers = await log_in_async(daemon)
        await post_async(daemon, "/user/joinGroup", {"groupId": "3"}, headers)
        assert await receive(ann) == [EMPTY]


async def test_a_leave_is_pushed_on_every_daemon(
    daemon: Daemon, other: Daemon, redis: Redis
) -> None:
    """The list comes without the group at once, empty after the last; what is said there is not."""
    here, there = daemon, other
    redis.sadd("ugs:1", "3", "4")
    headers = await log_in_async(here)
    async with connect(here.list_url()) as ann, connect(there.list_url()) as also_ann:
        assert await receive(ann) == await receive(also_ann) == [EMPTY, EMPTY]
        for group, left in (("3", [EMPTY]), ("4", [])):
            await post_async(here, "/user/leaveGroup", {"groupId": group}, headers)
            assert await receive(ann) == await receive(also_ann) == left
        redis.publish("mq:3", message(now_ms(), group="3"))
        assert await silent(ann, 0.5)
        await post_async(there, "/user/joinGroup", {"groupId": "3"}, headers)
        assert await receive(ann) == await receive(also_ann) == [EMPTY]


async def test_leaving_closes_the_sockets_in_the_group(daemon: Daemon, other: Daemon) -> None:
    """On every daemon, and neither the user's other sockets nor those of others."""
    here, there = daemon, other
    headers = await log_in_async(here)
    async with (
        connect(here.chat_url(group="3")) as left,
        connect(there.chat_url(group="3")) as also_left,
        connect(here.chat_url(group="4")) as elsewhere,
        connect(here.chat_url(group="3", user="2")) as another,
    ):
        for each in (left, also_left, elsewhere, another):
            await receive(each)
        answer = await post_async(here, "/user/leaveGroup", {"groupId": "3"}, headers)
        assert answer.json["code"] == 200
        assert await closing(left) == await closing(also_left) == (1008, "left the group")
        await another.send_message("still here")
        assert (await receive(another))["info"] == "still here"
        await elsewhere.send_message("here too")
        assert (await receive(elsewhere))["info"] == "here too"


async def test_a_list_that_does_not_change_is_not_pushed(daemon: Daemon, redis: Redis) -> None:
    """Silence, also when something happens in groups of others."""
    redis.sadd("ugs:1", "1")
    async with connect(daemon.list_url()) as ann:
        assert await receive(ann) == [EMPTY]
        async with connect(daemon.chat_url(group="2", user="2")) as bob:
            await receive(bob)
            await bob.send_message("hi")
            await receive(bob)
            assert await silent(ann, 0.5)


async def test_messages_and_recalls_are_told_across_daemons(
    daemon: Daemon, other: Daemon, redis: Redis
) -> None:
    """What is said and recalled on one daemon is told on the other, newest group first."""
    listing, talking = daemon, other
    redis.sadd("ugs:1", "a", "b")
    headers = await log_in_async(talking, "2")
    async with (
        connect(listing.list_url()) as ann,
        connect(talking.chat_url(group="a", user="2")) as in_a,
        connect(talking.chat_url(group="b", user="2")) as in_b,
    ):
        assert await receive(ann) == [EMPTY, EMPTY]
        await receive(in_a)
        await receive(in_b)
        await in_a.send_message("first")
        first = {"newMessage": await receive(in_a), "total": 1}
        assert await receive(ann) == [first, EMPTY]
        await in_b.send_message("second")
        second = {"newMessage": await receive(in_b), "total": 1}
        assert await receive(ann) == [second, first]
        await in_a.send_message("third")
        third = {"newMessage": await receive(in_a), "total": 2}
        assert await receive(ann) == [third, second]
        for left, group, said in (([second, first], "a", third), ([first, EMPTY], "b", second)):
            fields = {"groupId": group, "ts": said["newMessage"]["ts"]}
            answer = await post_async(talking, "/group/delMessage", fields, headers)
            assert answer.json["code"] == 200
            assert await receive(ann) == left


async def test_the_recall_of_an_older_message_is_told(daemon: Daemon, redis: Redis) -> None:
    """The newest message stays, the total shrinks."""
    redis.sadd("ugs:1", "1")
    older, newer = message(now_ms() - 10, user="1"), message(now_ms(), user="2")
    redis.rpush("gml:1", older, newer)
    headers = await log_in_async(daemon)
    async with connect(daemon.list_url()) as ann:
        assert await receive(ann) == [summary(newer, 2)]
        fields = {"groupId": "1", "ts": json.loads(older)["ts"]}
        await post_async(daemon, "/group/delMessage", fields, headers)
        assert await receive(ann) == [summary(newer, 1)]


async def test_a_join_is_told_across_daemons(daemon: Daemon, other: Daemon, redis: Redis) -> None:
    """Joining over HTTP or by entering a chat on another daemon."""
    redis.sadd("ugs:1", "a")
    said = message(now_ms(), group="b")
    redis.rpush("gml:b", said)
    headers = await log_in_async(other)
    async with connect(daemon.list_url()) as ann:
        assert await receive(ann) == [EMPTY]
        await post_async(other, "/user/joinGroup", {"groupId": "b"}, headers)
        assert await receive(ann) == [summary(said, 1), EMPTY]
        async with connect(other.chat_url(group="c")) as in_c:
            await receive(in_c)
            assert await receive(ann) == [summary(said, 1), EMPTY, EMPTY]
            await in_c.send_message("hi")
            newest = {"newMessage": await receive(in_c), "total": 1}
            assert await receive(ann) == [newest, summary(said, 1), EMPTY]


async def test_expiry_is_told(share_daemon: ShareDaemon, redis: Redis) -> None:
    """When a group's list expires its user sees it empty, soon."""
    daemon = share_daemon(group_message__timeout="2", group_list__update_rate=FAST)
    async with connect(daemon.chat_url()) as talker, connect(daemon.list_url()) as ann:
        await receive(talker)
        assert await receive(ann) == [EMPTY]
        await talker.send_message("hi")
        said_at = trio.current_time()
        assert await receive(ann) == [{"newMessage": await receive(talker), "total": 1}]
        assert await receive(ann) == [EMPTY]
        assert 1.5 < trio.current_time() - said_at < 5
        assert redis.exists("gml:1") == 0


async def test_a_message_renews_the_expiry(share_daemon: ShareDaemon) -> None:
    """A group that is talked in does not expire."""
    daemon = share_daemon(group_message__timeout="2", group_list__update_rate=FAST)
    async with connect(daemon.chat_url()) as talker, connect(daemon.list_url()) as ann:
        await receive(talker)
        assert await receive(ann) == [EMPTY]
        for total in (1, 2, 3):
            await talker.send_message("hi")
            assert await receive(ann) == [{"newMessage": await receive(talker), "total": total}]
            await trio.sleep(1)
        assert await receive(ann) == [EMPTY]


async def test_messages_of_the_java_server_are_told(daemon: Daemon, redis: Redis) -> None:
    """A foreign RPUSH and PUBLISH, wrapped, is pushed plain."""
    redis.sadd("ugs:1", '"1"')
    async with connect(daemon.list_url()) as ann:
        assert await receive(ann) == [EMPTY]
        for total in (1, 2):
            said = message(now_ms(), user="java", info='"你好" 😀')
            redis.rpush("gml:1", wrapped(said))
            redis.publish("mq:1", wrapped(said))
            assert await receive(ann) == [summary(said, total)]


async def test_at_most_one_push_per_update_rate(start_daemon: StartDaemon) -> None:
    """However much is said; the last push has the last message."""
    daemon = start_daemon(group_list__update_rate="0.5")
    times: list[float] = []
    pushes: list[Any] = []

    async def listen(connection: WebSocketConnection) -> None:
        while True:
            pushes.append(json.loads(await connection.get_message()))
            times.append(trio.current_time())

    async with (
        connect(daemon.chat_url()) as talker,
        connect(daemon.list_url()) as ann,
        trio.open_nursery() as nursery,
    ):
        await receive(talker)
        assert await receive(ann) == [EMPTY]
        nursery.start_soon(listen, ann)
        total = 0
        said: Any = None
        end = trio.current_time() + 3
        while trio.current_time() < end:
            await talker.send_message("hi")
            said = await receive(talker)
            total += 1
            await trio.sleep(0.005)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert pushes[-1] == [{"newMessage": said, "total": total}]
    assert 4 <= len(pushes) <= 8, times
    # A message may be counted before it is heard: then the next push has it, and the same total.
    states = [(each[0]["total"], each[0]["newMessage"]["ts"]) for each in pushes]
    assert states == sorted(set(states))


async def test_all_devices_of_a_user_are_told(daemon: Daemon) -> None:
    """Each gets each push; one that leaves takes nothing from the others."""
    async with connect(daemon.chat_url()) as talker, connect(daemon.list_url()) as phone:
        await receive(talker)
        assert await receive(phone) == [EMPTY]
        async with connect(daemon.list_url()) as laptop:
            assert await receive(laptop) == [EMPTY]
            await talker.send_message("hi")
            expected = [{"newMessage": await receive(talker), "total": 1}]
            assert await receive(phone) == await receive(laptop) == expected
        await talker.send_message("hi")
        assert await receive(phone) == [{"newMessage": await receive(talker), "total": 2}]


async def test_a_device_that_comes_while_another_goes_is_told(daemon: Daemon, redis: Redis) -> None:
    """As when a page is loaded again: messages and joins reach the new socket."""
    redis.sadd("ugs:1", "1")
    headers = await log_in_async(daemon)
    async with connect(daemon.list_url()) as old:
        assert await receive(old) == [EMPTY]
        # The new socket waits for Redis when the old one goes.
        redis.client_pause(500)
        async with connect(daemon.list_url()) as new:
            await trio.sleep(0.1)
            await old.aclose()
            assert await receive(new) == [EMPTY]
            said = message(now_ms())
            redis.rpush("gml:1", said)
            redis.publish("mq:1", said)
            assert await receive(new) == [summary(said, 1)]
            await post_async(daemon, "/user/joinGroup", {"groupId": "2"}, headers)
            assert await receive(new) == [summary(said, 1), EMPTY]


async def test_what_a_list_socket_says_is_ignored(daemon: Daemon, redis: Redis) -> None:
    """Text frames change nothing and store nothing."""
    redis.sadd("ugs:1", "1")
    async with connect(daemon.list_url()) as ann:
        assert await receive(ann) == [EMPTY]
        for text in ("hello", "", "1"):
            await ann.send_message(text)
        assert await silent(ann, 0.3)
    assert redis.keys("gml:*") == []


async def test_a_list_socket_wants_the_right_token(start_daemon: StartDaemon, redis: Redis) -> None:
    """With login_auth: 440 and 1008; a good token gets in, and is renewed."""
    daemon = start_daemon(group__login_auth="true")
    headers = await log_in_async(daemon)
    redis.sadd("ugs:1", "1")
    for user, token in (("1", "wrong"), ("2", headers["token"])):
        async with connect(daemon.list_url(user=user, token=token)) as eve:
            assert await frame(eve) == "440"
            assert (await closing(eve))[0] == 1008
    redis.expire("login:1", 100)
    async with connect(daemon.list_url(token=headers["token"])) as ann:
        assert await receive(ann) == [EMPTY]
        assert redis.ttl("login:1") > 86_390
        redis.delete("login:1")
        await ann.send_message("anybody there?")
        assert await frame(ann) == "440"
        assert (await closing(ann))[0] == 1008


async def test_without_auto_join_the_list_is_as_it_is(
    start_daemon: StartDaemon, redis: Redis
) -> None:
    """The list socket is open to everybody and joins nothing."""
    daemon = start_daemon(group__auto_join="false", group_list__update_rate=FAST)
    async with connect(daemon.list_url()) as ann:
        assert await silent(ann, 0.3)
    assert redis.keys("ugs:*") == []


async def test_foreign_data_of_another_kind_is_left_out(daemon: Daemon, redis: Redis) -> None:
    """What is no list, no UTF-8 or no message in Redis is counted and logged, and nothing ends."""
    redis.sadd("ugs:9", "1", "2", b"\xff")
    redis.set("gml:1", "not a list")
    redis.rpush("gml:2", b'{"groupId":"2","userId":"1","info":"\xff","ts":5}')
    before = await trio.to_thread.run_sync(metrics, daemon)

    def grown(name: str) -> float:
        return metrics(daemon)[name] - before[name]

    async with connect(daemon.list_url("9")) as connection:
        await receive(connection)
        redis.publish("mq:1", '{"groupId":"1","userId":"1","info":"a","ts":6}')
        counted = partial(
            wait_for,
            lambda: (
                grown("fastimd_corrupt_entries_total") >= 2
                and grown("fastimd_unusable_keys_total") >= 1
            ),
            daemon,
        )
        await trio.to_thread.run_sync(counted)
        assert daemon.process.poll() is None
    assert daemon.events("store.corrupt_entry")[0]["key"] in ("ugs:9", "gml:1", "gml:2")


async def test_what_nobody_announces_is_told_by_the_sweep(daemon: Daemon, redis: Redis) -> None:
    """Groups that others put in or take out, messages that others write or delete."""
    redis.sadd("ugs:1", "1", "2")
    redis.rpush("gml:2", old := message(now_ms() - 9, group="2"))
    async with connect(daemon.list_url()) as ann:
        assert await receive(ann) == [summary(old, 1), EMPTY]
        redis.sadd("ugs:1", "3")
        redis.srem("ugs:1", "2")
        redis.rpush("gml:3", new := message(now_ms(), group="3"))
        redis.client_kill_filter(_type="pubsub")  # after that everything is asked
        listed = await receive(ann)
        while listed != [summary(new, 1), EMPTY]:  # what was found first may be told first
            listed = await receive(ann)


# What is wrong in Redis


async def test_a_set_of_groups_that_is_none(daemon: Daemon, redis: Redis) -> None:
    """Its user is asked to come later, never told a wrong list; it works when the key is right."""
    redis.sadd("ugs:2", "2")
    redis.set("ugs:odd", "x")
    async with connect(daemon.list_url("2")) as bob:
        assert await receive(bob) == [EMPTY]
        async with connect(daemon.list_url("odd")) as odd:
            assert await closing(odd) == (1013, "try again later")
        redis.delete("ugs:odd")
        redis.sadd("ugs:odd", "1")
        async with connect(daemon.list_url("odd")) as odd:
            assert await receive(odd) == [EMPTY]
        redis.publish("mq:2", said := message(now_ms(), group="2"))
        redis.rpush("gml:2", said)
        assert (await receive(bob))[0]["newMessage"] == json.loads(said)


async def test_a_set_of_groups_that_becomes_none(daemon: Daemon, redis: Redis) -> None:
    """Its user's list sockets end with 1013 at the next sweep; nobody else notices."""
    redis.sadd("ugs:changed", "1", "2")
    redis.sadd("ugs:2", "2")
    async with (
        connect(daemon.list_url("2")) as bob,
        connect(daemon.list_url("changed")) as phone,
        connect(daemon.list_url("changed")) as laptop,
    ):
        for each, count in ((bob, 1), (phone, 2), (laptop, 2)):
            assert await receive(each) == [EMPTY] * count
        redis.set("ugs:changed", "x")
        redis.client_kill_filter(_type="pubsub")  # after that everything is asked
        for each in (phone, laptop):
            assert await closing(each) == (1013, "try again later")
        for total in (1, 2, 3):
            redis.rpush("gml:2", said := message(now_ms(), group="2"))
            redis.publish("mq:2", said)
            assert await receive(bob) == [summary(said, total)]
        redis.delete("ugs:changed")
        redis.sadd("ugs:changed", "2")
        async with connect(daemon.list_url("changed")) as again:
            assert await receive(again) == [summary(said, 3)]
    assert {line["key"] for line in daemon.events("store.key_unusable")} == {"ugs:changed"}


async def test_a_group_that_becomes_no_list(daemon: Daemon, redis: Redis) -> None:
    """It is told as without messages, and the other groups go on; it is told when it is right."""
    redis.sadd("ugs:1", "odd", "2")
    redis.rpush("gml:odd", first := message(now_ms() - 5, group="odd"))
    async with connect(daemon.list_url()) as ann:
        assert await receive(ann) == [summary(first, 1), EMPTY]
        redis.set("gml:odd", "x")
        redis.publish("mq:odd", message(now_ms(), group="odd"))
        assert await receive(ann) == [EMPTY, EMPTY]
        redis.rpush("gml:2", said := message(now_ms(), group="2"))
        redis.publish("mq:2", said)
        assert await receive(ann) == [summary(said, 1), EMPTY]
        redis.delete("gml:odd")
        redis.rpush("gml:odd", last := message(now_ms() + 5, group="odd"))
        redis.publish("mq:odd", last)
        assert await receive(ann) == [summary(last, 1), summary(said, 1)]


async def test_members_of_the_set_that_are_no_ids(start_daemon: StartDaemon, redis: Redis) -> None:
    """They are left out and counted, and nothing is subscribed for them."""
    daemon = start_daemon()
    redis.sadd("ugs:1", "1", "", b"\xff", "x" * 10_000, "a\x00b", "\u202e", '"\\n"')
    async with connect(daemon.list_url()) as ann:
        assert await receive(ann) == [EMPTY]
        counted = await trio.to_thread.run_sync(metrics, daemon)
    assert counted["fastimd_corrupt_entries_total"] == 6
    assert counted["fastimd_subscriptions"] == 1


# What is new when a list is opened


async def test_the_first_list_has_what_was_heard(start_daemon: StartDaemon, redis: Redis) -> None:
    """Also what was said, recalled or joined since the last time that the group was asked about."""
    daemon = start_daemon(group_list__update_rate="20")
    redis.sadd("ugs:1", "1", "2")
    headers = await log_in_async(daemon, "2")
    async with (
        connect(daemon.list_url()) as phone,
        connect(daemon.chat_url(group="1", user="2")) as talker,
    ):
        assert await receive(phone) == [EMPTY, EMPTY]
        await receive(talker)
        for total in (1, 2):
            await talker.send_message("hi")
            said = await receive(talker)
            async with connect(daemon.list_url()) as laptop:
                assert await receive(laptop) == [{"newMessage": said, "total": total}, EMPTY]
        fields = {"groupId": "1", "ts": said["ts"]}
        await post_async(daemon, "/group/delMessage", fields, headers)
        await post_async(daemon, "/user/joinGroup", {"groupId": "3"}, await log_in_async(daemon))
        await trio.sleep(0.1)
        async with connect(daemon.list_url()) as laptop:
            listed = await receive(laptop)
        assert [each["total"] for each in listed] == [1, 0, 0]


# Very many groups

MANY = 20_000
PATIENCE = 20.0
"""However busy the machine is: what matters is how often others have their turn."""


async def test_a_user_in_very_many_groups_disturbs_nobody(
    start_daemon: StartDaemon, redis: Redis
) -> None:
    """They are asked about in pipelines, while others talk; a change is told, and all is let go."""
    daemon = start_daemon(group_list__update_rate=FAST)
    names = [f"group-{number}" for number in range(MANY)]
    redis.sadd("ugs:1", *names)
    redis.sadd("ugs:2", "2")
    base = now_ms() - MANY
    newest = {number: message(base + number * 7919 % MANY) for number in range(0, MANY, 4)}
    pipe = redis.pipeline(transaction=False)
    for number, said in newest.items():
        pipe.rpush(f"gml:{names[number]}", said)
    pipe.execute()
    in_order = sorted(map(json.loads, newest.values()), key=lambda each: -each["ts"])
    with talking(daemon, seconds=PATIENCE) as talker:
        async with connect(daemon.list_url("2")) as bob:
            assert await receive(bob) == [EMPTY]
            before = await trio.to_thread.run_sync(metrics, daemon)
            said_before = talker.said
            async with connect(daemon.list_url(), max_message_size=1 << 24) as ann:
                text = await frame(ann)
                # Were all groups asked about at once, it would have its turn seven times.
                assert talker.said - said_before > 20
                listed = json.loads(text)
                after = await trio.to_thread.run_sync(metrics, daemon)
                assert [each["newMessage"] for each in listed[: len(newest)]] == in_order
                assert listed[len(newest) :] == [EMPTY] * (MANY - len(newest))
                batches = "fastimd_poller_batches_total"
                assert after[batches] - before[batches] < MANY / 100
                redis.rpush(f"gml:{names[0]}", said := message(now_ms()))
                redis.publish(f"mq:{names[0]}", said)
                listed = await receive(ann)
                assert (len(listed), listed[0]) == (MANY, summary(said, 2))
                redis.rpush("gml:2", said := message(now_ms()))
                redis.publish("mq:2", said)
                assert await receive(bob) == [summary(said, 1)]
            # The talker's, and bob's.
            await trio.to_thread.run_sync(
                wait_for, lambda: metrics(daemon)["fastimd_subscriptions"] == 2, daemon, 30
            )


async def test_a_list_waits_for_the_one_before_it(start_daemon: StartDaemon, redis: Redis) -> None:
    """Who takes a long list slowly is not closed for the next one, and gets the newest then."""
    daemon = start_daemon(group_list__update_rate=FAST, socket__outbox_bytes="4096")
    redis.sadd("ugs:1", *(f"group-{number}" for number in range(MANY)))
    path = "/group/list/1/t"

    def read_slowly() -> tuple[Any, Any]:
        with RawClient(daemon.address, path, receive_buffer=SMALL_BUFFER) as slow:
            wait_for(lambda: metrics(daemon)["fastimd_outbox_bytes"], daemon, 20)
            for _ in range(3):
                redis.rpush("gml:group-7", said := message(now_ms()))
                redis.publish("mq:group-7", said)
                time.sleep(0.5)
            assert json.loads(slow.next_text()) == [EMPTY] * MANY
            return json.loads(slow.next_text())[0], summary(said, 3)

    listed, expected = await trio.to_thread.run_sync(read_slowly)
    assert listed == expected
