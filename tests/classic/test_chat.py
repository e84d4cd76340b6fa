"""Chat sockets, through an independent client, on whole daemons."""

from __future__ import annotations

import trio
from clients import metrics
from conftest import Daemon, StartDaemon, connect, receive
from redis import Redis

from fastimd.classic.chat import MAX_IN_FLIGHT

REDIS_AND_VALKEY = True


async def test_two_daemons_are_one_chat(start_daemon: StartDaemon) -> None:
    """Members on two daemons get the same messages, the sender too."""
    first, second = start_daemon(), start_daemon()
    async with (
        connect(first.chat_url(user="ann")) as ann,
        connect(second.chat_url(user="bob")) as bob,
    ):
        assert await receive(ann) == {"list": [], "total": 0}
        assert await receive(bob) == {"list": [], "total": 0}
        await ann.send_message("你好 <b>")
        message = await receive(ann)
        assert list(message) == ["groupId", "userId", "info", "ts"]
        assert (message["groupId"], message["userId"], message["info"]) == ("1", "ann", "你好 <b>")
        assert await receive(bob) == message
        await bob.send_message("hi")
        answer = await receive(bob)
        assert answer["ts"] > message["ts"]
        assert await receive(ann) == answer


async def test_a_comer_is_greeted_with_the_last_messages(daemon: Daemon) -> None:
    """The greeting has the messages said before, oldest first, and the total."""
    async with connect(daemon.chat_url()) as ann:
        await receive(ann)
        said = []
        for number in range(3):
            await ann.send_message(str(number))
            said.append(await receive(ann))
        async with connect(daemon.chat_url(user="2")) as bob:
            assert await receive(bob) == {"list": said, "total": 3}


async def test_a_socket_is_not_read_on_while_much_of_it_waits_for_redis(
    daemon: Daemon, redis: Redis
) -> None:
    """So many of its messages are under way at most; the rest follows, in order."""
    said = [str(number) for number in range(4 * MAX_IN_FLIGHT)]
    async with connect(daemon.chat_url()) as ann:
        await receive(ann)
        redis.execute_command("CLIENT", "PAUSE", 1000, "WRITE")  # type: ignore[no-untyped-call]
        for text in said:
            await ann.send_message(text)
        await trio.sleep(0.4)
        assert metrics(daemon)["fastimd_held_messages"] == MAX_IN_FLIGHT
        assert [(await receive(ann))["info"] for _ in said] == said
