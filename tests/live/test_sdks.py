"""The live wire by the judgement of its published SDKs: the same scenes with each of them.

``sdks.py`` tells what they are. A scene has two clients of one SDK and, as a third member, a client
of the seed's wire. FASTIMD_TEST_SDKS=required makes a missing toolchain a failure.
"""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from clients import kick, log_in_async, stored
from conftest import Daemon, StartDaemon, connect, receive, redis_servers, run_daemon
from faults import MortalRedis, free_port
from redis import Redis
from sdks import BUILD_SECONDS, KINDS, Client, Driver, Refused, running
from trio_websocket import WebSocketConnection

pytestmark = pytest.mark.timeout(60 + BUILD_SECONDS)
in_pages = pytest.mark.in_pages

SAID: list[Any] = [
    "plain",
    "你好,世界 🙂👩‍👩‍👧",
    '"quoted" \\ \n\t and </script>',
    {"text": "你好", "nested": {"list": [1, 2.5, None, True]}, "empty": {}},
    [1, "two", {"three": 3}, []],
    "",
]
"""Every kind of data that may be published."""

CONNECTION_CLOSED = 1
"""What all SDKs call the loss of a connection for which no reason was given."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A page starts slowly, and has the code that Node has: it plays the scenes ``in_pages``."""
    if "driver" in metafunc.fixturenames:
        is_in_pages = any(mark.name == "in_pages" for mark in metafunc.definition.iter_markers())
        kinds = [kind for kind in KINDS if is_in_pages or not kind.startswith("chromium")]
        metafunc.parametrize("driver", kinds, indirect=True)


@pytest.fixture
async def driver(request: pytest.FixtureRequest) -> AsyncIterator[Driver]:
    """A running driver of one SDK and one encoding."""
    async with running(request.param) as started:
        yield started


def url_of(daemon: Daemon) -> str:
    """Where the SDKs connect."""
    return f"ws://{daemon.address}/connection/websocket"


async def enter(driver: Driver, daemon: Daemon, *names: str, group: str = "1") -> list[Client]:
    """Clients that are connected by these names, and in a group."""
    clients = [driver.client(name) for name in names]
    for client in clients:
        connected = await client.connect(url_of(daemon), user=client.name)
        assert connected["client"]
        subscribed = await client.subscribe(group)
        assert subscribed["recoverable"]
        assert not subscribed["wasRecovering"]
    return clients


@asynccontextmanager
async def seed_member(
    daemon: Daemon, group: str = "1", user: str = "carl"
) -> AsyncIterator[WebSocketConnection]:
    """A client of the seed's wire that has been greeted."""
    async with connect(daemon.chat_url(group, user)) as connection:
        await receive(connection)
        yield connection


def as_published(info: str) -> Any:
    """What was published, of what is kept of it: a string as it is, else its JSON."""
    return json.loads(info) if info.startswith(("{", "[")) else info


@in_pages
async def test_what_is_said_is_heard_by_all_and_acknowledged(
    driver: Driver, daemon: Daemon, redis: Redis
) -> None:
    """Strings, objects and arrays arrive as they were; the seed's clients hear texts."""
    ann, ben = await enter(driver, daemon, "ann", "ben")
    async with seed_member(daemon) as carl:
        for data in SAID:
            await ann.publish("1", data)
        await carl.send_message("from the seed 🌱")
        expected = [*SAID, "from the seed 🌱"]
        for client in (ann, ben):
            heard = await client.hears("1", expected)
            assert [each["user"] for each in heard] == ["ann"] * len(SAID) + ["carl"]
        seen = [await receive(carl) for _ in expected]
    assert [as_published(each["info"]) for each in seen] == expected
    assert [each["offset"] for each in heard] == [each["ts"] for each in seen]
    assert stored(redis) == [each["info"] for each in seen]


async def test_data_of_other_kinds_is_refused(driver: Driver, daemon: Daemon) -> None:
    """A number, a truth value or null is no message: error 107, and the connection goes on."""
    (ann,) = await enter(driver, daemon, "ann")
    for data in (17, True, None):
        with pytest.raises(Refused) as refused:
            await ann.publish("1", data)
        assert refused.value.code == 107
    await ann.publish("1", "still here")
    await ann.hears("1", ["still here"])


@in_pages
async def test_two_groups_are_on_one_socket(driver: Driver, daemon: Daemon) -> None:
    """Each publication tells its group, and who left one hears the other on."""
    ann, ben = await enter(driver, daemon, "ann", "ben")
    for client in (ann, ben):
        await client.subscribe("房间 2")
    for number in range(3):
        await ann.publish("1", f"one {number}")
        await ben.publish("房间 2", f"two {number}")
    ones, twos = ([f"{word} {number}" for number in range(3)] for word in ("one", "two"))
    for client in (ann, ben):
        await client.hears("1", ones)
        await client.hears("房间 2", twos)
    assert len({each["client"] for each in ben.told("connected")}) == 1
    await ben.do("unsubscribe", channel="1")
    assert (await ben.next("unsubscribed", channel="1"))["code"] == 0
    await ann.publish("1", "not for ben")
    await ann.publish("房间 2", "for both")
    await ben.hears("房间 2", [*twos, "for both"])
    await ann.hears("1", [*ones, "not for ben"])
    assert ben.heard("1") == ones


async def test_only_members_publish(driver: Driver, daemon: Daemon, redis: Redis) -> None:
    """Where one is not subscribed, publishing is refused for good: error 103."""
    (ann,) = await enter(driver, daemon, "ann")
    with pytest.raises(Refused) as refused:
        await ann.publish("another", "hello")
    assert refused.value.code == 103
    assert stored(redis, "another") == []


async def test_history_is_read_in_pages(driver: Driver, daemon: Daemon) -> None:
    """Forward from a position, or back from the end; with nothing asked only the position."""
    ann, ben = await enter(driver, daemon, "ann", "ben")
    texts = [f"text {number}" for number in range(7)]
    for text in texts:
        await ann.publish("1", text)
    heard = await ben.hears("1", texts)
    position = await ben.ask("history", channel="1")
    assert position["publications"] == []
    assert position["offset"] == heard[-1]["offset"]
    assert position["epoch"]
    read: list[Any] = []
    since = {"offset": 0, "epoch": position["epoch"]}
    while page := (await ben.ask("history", channel="1", limit=3, since=since))["publications"]:
        read += page
        since["offset"] = page[-1]["offset"]
    assert [each["data"] for each in read] == texts
    assert [each["offset"] for each in read] == [each["offset"] for each in heard]
    assert {each["user"] for each in read} == {"ann"}
    back = await ben.ask("history", channel="1", limit=2, reverse=True)
    assert [each["data"] for each in back["publications"]] == texts[:-3:-1]


async def test_who_is_here_is_known(driver: Driver, daemon: Daemon) -> None:
    """Presence, its count, and that members come and go."""
    ann = driver.client("ann")
    await ann.connect(url_of(daemon), user="ann")
    await ann.subscribe("1", join_leave=True)
    (ben,) = await enter(driver, daemon, "ben")
    joined = await ann.next("join", channel="1", user="ben")
    assert joined["client"] == ben.told("connected")[0]["client"]
    present = (await ann.ask("presence", channel="1"))["clients"]
    assert sorted(each["user"] for each in present) == ["ann", "ben"]
    assert await ann.ask("presence_stats", channel="1") == {"clients": 2, "users": 2}
    await ben.do("disconnect")
    assert (await ben.next("disconnected"))["code"] == 0
    left = await ann.next("leave", channel="1", user="ben")
    assert left["client"] == joined["client"]


async def test_methods_are_called(driver: Driver, daemon: Daemon) -> None:
    """``send`` tells the ts of what was said, ``recall`` takes it back; others are not found."""
    ann, ben = await enter(driver, daemon, "ann", "ben")
    for data in ("by a method", {"as": ["an", "object"]}):
        sent = await ann.ask("rpc", method="send", data={"channel": "1", "data": data})
        heard = await ben.next("publication", channel="1")
        assert (heard["data"], heard["user"]) == (data, "ann")
        assert sent["data"]["ts"] == heard["offset"]
    await ann.ask("rpc", method="recall", data={"channel": "1", "ts": heard["offset"]})
    recalled = await ben.next("publication", channel="1")
    assert recalled["tags"] == {"event": "recall"}
    assert recalled["offset"] == 0
    with pytest.raises(Refused) as refused:
        await ann.ask("rpc", method="nothing", data={})
    assert refused.value.code == 104


async def test_a_login_is_asked_for(driver: Driver, start_daemon: StartDaemon) -> None:
    """With ``login_auth`` the token of a login lets in, and none ends the attempts: 3500."""
    daemon = start_daemon(group__login_auth="true")
    token = (await log_in_async(daemon, "ann"))["token"]
    ann, ben = driver.client("ann"), driver.client("ben")
    await ann.connect(url_of(daemon), token=token, data={"userId": "ann"})
    await ann.subscribe("1")
    await ann.publish("1", "hello")
    assert (await ann.hears("1", ["hello"]))[0]["user"] == "ann"
    await ben.do("connect", url=url_of(daemon), token="wrong", data={"userId": "ben"})
    assert (await ben.next("disconnected"))["code"] == 3500


async def test_a_kick_ends_the_connection_for_good(driver: Driver, daemon: Daemon) -> None:
    """3503: the SDK does not come back by itself, and the others stay."""
    ann, ben = await enter(driver, daemon, "ann", "ben")
    await kick(daemon, "ben")
    assert (await ben.next("disconnected"))["code"] == 3503
    await ann.publish("1", "alone")
    await ann.hears("1", ["alone"])
    assert ben.heard("1") == []


async def test_pings_keep_a_silent_client(driver: Driver, start_daemon: StartDaemon) -> None:
    """The SDKs answer, so that neither side believes the other to be gone."""
    daemon = start_daemon(socket__ping_interval="1", socket__ping_timeout="1.5")
    ann, ben = await enter(driver, daemon, "ann", "ben")
    await trio.sleep(3)
    await ann.publish("1", "still here")
    for client in (ann, ben):
        await client.hears("1", ["still here"])
        assert len(client.told("connecting")) == 1
        assert client.told("disconnected") == []


async def test_a_second_daemon_is_the_same_place(
    driver: Driver, daemon: Daemon, start_daemon: StartDaemon
) -> None:
    """What is said at one daemon is heard at the other, in one order."""
    second = start_daemon()
    (ann,) = await enter(driver, daemon, "ann")
    (ben,) = await enter(driver, second, "ben")
    for number in range(5):
        await ann.publish("1", f"a {number}")
        await ben.publish("1", f"b {number}")
    expected = [f"{name} {number}" for number in range(5) for name in "ab"]
    for client in (ann, ben):
        await client.hears("1", expected)


@in_pages
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_nothing_is_missing_after_a_restart(
    driver: Driver, start_daemon: StartDaemon, number: signal.Signals
) -> None:
    """The SDKs come back by themselves, recover what was said meanwhile, and hear nothing twice.

    A drain tells them so: 3001.
    """
    settings = {"server__bind": f"127.0.0.1:{free_port()}", "server__drain_seconds": "0.5"}
    daemon, second = start_daemon(**settings), start_daemon()
    ann, ben = await enter(driver, daemon, "ann", "ben")
    async with seed_member(second) as carl:
        await ann.publish("1", "before")
        await carl.send_message("and before")
        expected = ["before", "and before"]
        for client in (ann, ben):
            await client.hears("1", expected)
            await client.next("connecting")
        daemon.expected_status = 0 if number == signal.SIGTERM else -number
        await trio.to_thread.run_sync(daemon.stop, number)
        for client in (ann, ben):
            lost = await client.next("connecting")
            assert lost["code"] == (3001 if number == signal.SIGTERM else CONNECTION_CLOSED)
        for each in range(20):
            expected.append(f"meanwhile {each} 你好")
            await carl.send_message(expected[-1])
        waiting = await ann.begin("publish", channel="1", data="said while away")
        await trio.to_thread.run_sync(lambda: start_daemon(**settings))
        for client in (ann, ben):
            again = await client.next("subscribed", channel="1")
            assert again["wasRecovering"]
            assert again["recovered"]
        assert await ann.answer(waiting) == {}
        await ben.publish("1", "after")
        expected += ["said while away", "after"]
        for client in (ann, ben):
            heard = await client.hears("1", expected)
            offsets = [each["offset"] for each in heard]
            assert offsets == sorted(set(offsets))
            assert client.told("disconnected") == []


@pytest.fixture
def mortal_redis(tmp_path: Path) -> Iterator[MortalRedis]:
    """A Redis that may be killed."""
    mortal = MortalRedis(redis_servers()[0], tmp_path / "mortal")
    yield mortal
    mortal.close()


async def test_nothing_is_missing_after_redis_was_killed(
    driver: Driver, mortal_redis: MortalRedis, tmp_path: Path
) -> None:
    """What was acknowledged is stored once; all hear what is stored, once and in order."""
    daemon = run_daemon(tmp_path, mortal_redis.url)
    try:
        ann, ben = await enter(driver, daemon, "ann", "ben")
        numbers = []
        for number in range(60):
            numbers.append(await ann.begin("publish", channel="1", data=str(number)))
            if number == 20:
                mortal_redis.kill()
            if number == 40:
                await trio.to_thread.run_sync(mortal_redis.start)
            await trio.sleep(0.01)
        acknowledged, refusals = [], []
        for number, asked in enumerate(numbers):
            try:
                await ann.answer(asked)
                acknowledged.append(str(number))
            except Refused as refused:
                refusals.append(refused)
        assert all(refused.temporary for refused in refusals), refusals
        await ben.publish("1", "last")
        with mortal_redis.connect() as client:
            kept = stored(client)
        assert len(kept) == len(set(kept))
        assert set(acknowledged) <= set(kept)
        for client in (ann, ben):
            await client.hears("1", kept)
    finally:
        assert await trio.to_thread.run_sync(daemon.stop) == 0
