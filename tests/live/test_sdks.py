"""The live wire by the judgement of its published SDKs: the same scenes with each of them.

``sdks.py`` tells what they are. A scene has two clients of one SDK and, as a third member, a client
of the seed's wire. FASTIMD_TEST_SDKS=required makes a missing toolchain a failure.
"""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jwt
import pytest
import trio
from clients import kick, log_in_async, stored
from conftest import Daemon, connect, receive, redis_servers, run_daemon, run_redis
from faults import MortalRedis, free_port
from redis import Redis
from sdks import BUILD_SECONDS, KINDS, Client, Driver, Refused, command_of, running
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

SECRET = "a secret of at least thirty-two bytes"

PING_TIMEOUT = 4.0
SETTINGS: dict[str, Any] = {
    "token__hmac_secret": SECRET,
    "socket__ping_interval": "1",
    "socket__ping_timeout": str(PING_TIMEOUT),
}

GROUPS = itertools.count(1)

CONNECTION_CLOSED = 1
"""What all SDKs call the loss of a connection for which no reason was given."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A page starts slowly, and has the code that Node has: it plays the scenes ``in_pages``."""
    if "sdk" in metafunc.fixturenames:
        is_in_pages = any(mark.name == "in_pages" for mark in metafunc.definition.iter_markers())
        kinds = [kind for kind in KINDS if is_in_pages or not kind.startswith("chromium")]
        metafunc.parametrize("sdk", kinds, indirect=True)


class House(NamedTuple):
    """Where scenes are played that leave it as it is, each in a group of its own."""

    daemon: Daemon
    second: Daemon
    strict: Daemon
    redis_url: str
    redis: Redis


@pytest.fixture
def sdk(request: pytest.FixtureRequest) -> list[str]:
    """How the driver of one SDK and one encoding is started."""
    return command_of(request.param)


@pytest.fixture
async def driver(sdk: list[str]) -> AsyncIterator[Driver]:
    """A running driver."""
    async with running(sdk) as started:
        yield started


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Three daemons and their Redis; one of them asks for logins."""
    folder = tmp_path_factory.mktemp("house")
    with run_redis(redis_servers()[0], folder) as url, Redis.from_url(url) as redis:
        first, second = (run_daemon(folder, url, **SETTINGS) for _ in range(2))
        strict = run_daemon(folder, url, **SETTINGS, group__login_auth="true")
        yield House(first, second, strict, url, redis)
        for daemon in (first, second, strict):
            assert daemon.stop() == 0, daemon.log_path.read_text()[-4000:]
            assert not daemon.events("connection.crashed")


@pytest.fixture
def group() -> str:
    """A group that no other scene has."""
    return f"群 {next(GROUPS)}"


def url_of(daemon: Daemon) -> str:
    """Where the SDKs connect."""
    return f"ws://{daemon.address}/connection/websocket"


async def enter(driver: Driver, daemon: Daemon, group: str, *names: str) -> list[Client]:
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
    async with connect(daemon.chat_url(quote(group), user)) as connection:
        await receive(connection)
        yield connection


def as_published(info: str) -> Any:
    """What was published, of what is kept of it: a string as it is, else its JSON."""
    return json.loads(info) if info.startswith(("{", "[")) else info


@in_pages
async def test_what_is_said_is_heard_by_all_and_acknowledged(
    driver: Driver, house: House, group: str
) -> None:
    """Strings, objects and arrays arrive as they were; the seed's clients hear texts."""
    ann, ben = await enter(driver, house.daemon, group, "ann", "ben")
    async with seed_member(house.daemon, group) as carl:
        for data in SAID:
            await ann.publish(group, data)
        await carl.send_message("from the seed 🌱")
        expected = [*SAID, "from the seed 🌱"]
        for client in (ann, ben):
            heard = await client.hears(group, expected)
            assert [each["user"] for each in heard] == ["ann"] * len(SAID) + ["carl"]
        seen = [await receive(carl) for _ in expected]
    assert [as_published(each["info"]) for each in seen] == expected
    assert [each["offset"] for each in heard] == [each["ts"] for each in seen]
    assert stored(house.redis, group) == [each["info"] for each in seen]


async def test_data_of_other_kinds_is_refused(driver: Driver, house: House, group: str) -> None:
    """A number, a truth value or null is no message: error 107, and the connection goes on."""
    (ann,) = await enter(driver, house.daemon, group, "ann")
    for data in (17, True, None):
        with pytest.raises(Refused) as refused:
            await ann.publish(group, data)
        assert refused.value.code == 107
    await ann.publish(group, "still here")
    await ann.hears(group, ["still here"])


async def test_a_long_message_arrives_whole(driver: Driver, house: House, group: str) -> None:
    """As long as may be, in whichever way an SDK writes its signs; a longer one is refused."""
    (ann,) = await enter(driver, house.daemon, group, "ann")
    longest = "🙂" * (65_536 // 4)
    await ann.publish(group, longest)
    with pytest.raises(Refused) as refused:
        await ann.publish(group, longest + "!")
    assert refused.value.code == 106
    await ann.publish(group, [longest[:-1]])
    await ann.hears(group, [longest, [longest[:-1]]])


@in_pages
async def test_two_groups_are_on_one_socket(driver: Driver, house: House, group: str) -> None:
    """Each publication tells its group, and who left one hears the other on."""
    ann, ben = await enter(driver, house.daemon, group, "ann", "ben")
    other = f"{group} too"
    for client in (ann, ben):
        await client.subscribe(other)
    for number in range(3):
        await ann.publish(group, f"one {number}")
        await ben.publish(other, f"two {number}")
    ones, twos = ([f"{word} {number}" for number in range(3)] for word in ("one", "two"))
    for client in (ann, ben):
        await client.hears(group, ones)
        await client.hears(other, twos)
    await ben.do("unsubscribe", channel=group)
    assert (await ben.next("unsubscribed", channel=group))["code"] == 0
    await ben.publish(other, "has left")  # once this is answered, so is what was before it
    await ann.publish(group, "not for ben")
    await ann.publish(other, "for both")
    await ben.hears(other, [*twos, "has left", "for both"])
    await ann.hears(group, [*ones, "not for ben"])
    assert ben.heard(group) == ones
    assert len(ben.told("connected")) == 1


async def test_only_members_publish(driver: Driver, house: House, group: str) -> None:
    """Where one is not subscribed, publishing is refused for good: error 103."""
    (ann,) = await enter(driver, house.daemon, group, "ann")
    with pytest.raises(Refused) as refused:
        await ann.publish("another", "hello")
    assert refused.value.code == 103
    assert stored(house.redis, "another") == []


async def test_history_is_read_in_pages(driver: Driver, house: House, group: str) -> None:
    """Forward from a position, or back from the end; with nothing asked only the position."""
    ann, ben = await enter(driver, house.daemon, group, "ann", "ben")
    texts = [f"text {number}" for number in range(7)]
    for text in texts:
        await ann.publish(group, text)
    heard = await ben.hears(group, texts)
    position = await ben.ask("history", channel=group)
    assert position["publications"] == []
    assert position["offset"] == heard[-1]["offset"]
    assert position["epoch"]
    read: list[Any] = []
    since = {"offset": 0, "epoch": position["epoch"]}
    while page := (await ben.ask("history", channel=group, limit=3, since=since))["publications"]:
        read += page
        since["offset"] = page[-1]["offset"]
    assert [each["data"] for each in read] == texts
    assert [each["offset"] for each in read] == [each["offset"] for each in heard]
    assert {each["user"] for each in read} == {"ann"}
    back = await ben.ask("history", channel=group, limit=2, reverse=True)
    assert [each["data"] for each in back["publications"]] == texts[:-3:-1]


async def test_who_is_here_is_known(driver: Driver, house: House, group: str) -> None:
    """Presence, its count, and that members come and go."""
    ann = driver.client("ann")
    await ann.connect(url_of(house.daemon), user="ann")
    await ann.subscribe(group, join_leave=True)
    (ben,) = await enter(driver, house.daemon, group, "ben")
    joined = await ann.next("join", channel=group, user="ben")
    assert joined["client"] == ben.told("connected")[0]["client"]
    present = (await ann.ask("presence", channel=group))["clients"]
    assert sorted(each["user"] for each in present) == ["ann", "ben"]
    assert await ann.ask("presence_stats", channel=group) == {"clients": 2, "users": 2}
    await ben.do("disconnect")
    assert (await ben.next("disconnected"))["code"] == 0
    left = await ann.next("leave", channel=group, user="ben")
    assert left["client"] == joined["client"]


async def test_methods_are_called(driver: Driver, house: House, group: str) -> None:
    """``send`` tells the ts of what was said, ``recall`` takes it back; others are not found."""
    ann, ben = await enter(driver, house.daemon, group, "ann", "ben")
    for data in ("by a method", {"as": ["an", "object"]}):
        sent = await ann.ask("rpc", method="send", data={"channel": group, "data": data})
        heard = await ben.next("publication", channel=group)
        assert (heard["data"], heard["user"]) == (data, "ann")
        assert sent["data"]["ts"] == heard["offset"]
    for _ in range(2):
        said = {"channel": group, "data": "once", "nonce": "a nonce"}
        sent = await ann.ask("rpc", method="send", data=said)
    await ann.publish(group, "a mark")
    heard = await ben.next("publication", data="once")
    assert sent["data"]["ts"] == heard["offset"]
    assert (await ben.next("publication"))["data"] == "a mark"
    await ann.ask("rpc", method="recall", data={"channel": group, "ts": heard["offset"]})
    recalled = await ben.next("publication", channel=group)
    assert recalled["tags"] == {"event": "recall"}
    assert recalled["offset"] == 0
    for unread in (3, 0):
        listed = (await ann.ask("rpc", method="groups", data={}))["data"]["groups"]
        assert [each["unread"] for each in listed if each["channel"] == group] == [unread]
        await ann.ask("rpc", method="read", data={"channel": group, "ts": 2**53 - 1})
    with pytest.raises(Refused) as refused:
        await ann.ask("rpc", method="nothing", data={})
    assert refused.value.code == 104


async def test_a_login_is_asked_for(driver: Driver, house: House, group: str) -> None:
    """With ``login_auth`` the token of a login lets in, and none ends the attempts: 3500."""
    token = (await log_in_async(house.strict, "ann"))["token"]
    ann, ben = driver.client("ann"), driver.client("ben")
    await ann.connect(url_of(house.strict), token=token, data={"userId": "ann"})
    await ann.subscribe(group)
    await ann.publish(group, "hello")
    assert (await ann.hears(group, ["hello"]))[0]["user"] == "ann"
    await ben.do("connect", url=url_of(house.strict), token="wrong", data={"userId": "ben"})
    assert (await ben.next("disconnected"))["code"] == 3500


async def test_a_signed_token_is_renewed(driver: Driver, house: House, group: str) -> None:
    """A JWT tells who one is; before it expires the SDK shows another, on the same connection."""
    await enter(driver, house.daemon, group, "carl")  # now the driver is warm
    ann = driver.client("ann")
    token = {
        name: jwt.encode({**claims, "exp": time.time() + seconds}, SECRET, "HS256")
        for name, claims, seconds in (
            ("soon", {"sub": "小明"}, 2),
            ("late", {"sub": "小明"}, 60),
            ("soon in the group", {"sub": "小明", "channel": group}, 2),
            ("late in the group", {"sub": "小明", "channel": group}, 60),
        )
    }
    await ann.connect(url_of(house.daemon), token=token["soon"], refresh=token["late"])
    await ann.subscribe(group, token=token["soon in the group"], refresh=token["late in the group"])
    for channel in (None, group):
        await ann.next("renewal", channel=channel)
    await ann.publish(group, "hello")
    assert (await ann.hears(group, ["hello"]))[0]["user"] == "小明"
    ben = driver.client("ben")
    await ben.do("connect", url=url_of(house.daemon), token=token["late"][:-3] + "abc")
    assert (await ben.next("disconnected"))["code"] == 3500
    assert len(ann.told("renewal")) == 2
    for event in ("error", "subscription_error", "unsubscribed", "disconnected"):
        assert ann.told(event) == []


async def test_a_kick_is_final(driver: Driver, house: House, group: str) -> None:
    """From a group: unsubscribed with 2000. Altogether: 3503, and the SDK does not come back."""
    ann, mallory = await enter(driver, house.daemon, group, "ann", "mallory")
    other = f"{group} too"
    await mallory.subscribe(other)
    await kick(house.daemon, "mallory", group)
    assert (await mallory.next("unsubscribed", channel=group))["code"] == 2000
    await ann.publish(group, "alone")
    await mallory.publish(other, "still there")
    await mallory.hears(other, ["still there"])
    await kick(house.daemon, "mallory")
    assert (await mallory.next("disconnected"))["code"] == 3503
    await ann.publish(group, "and alone")
    await ann.hears(group, ["alone", "and alone"])
    assert mallory.heard(group) == []


async def test_pings_keep_a_silent_client(driver: Driver, house: House, group: str) -> None:
    """The SDKs answer, so that neither side believes the other to be gone."""
    ann, ben = await enter(driver, house.daemon, group, "ann", "ben")
    await trio.sleep(PING_TIMEOUT + 1)
    await ann.publish(group, "still here")
    for client in (ann, ben):
        await client.hears(group, ["still here"])
        assert len(client.told("connecting")) == 1
        assert client.told("disconnected") == []


async def test_a_second_daemon_is_the_same_place(driver: Driver, house: House, group: str) -> None:
    """What is said at one daemon is heard at the other, in one order."""
    (ann,) = await enter(driver, house.daemon, group, "ann")
    (ben,) = await enter(driver, house.second, group, "ben")
    for number in range(5):
        await ann.publish(group, f"a {number}")
        await ben.publish(group, f"b {number}")
    expected = [f"{name} {number}" for number in range(5) for name in "ab"]
    for client in (ann, ben):
        await client.hears(group, expected)


async def say_elsewhere(house: House, group: str, texts: list[str]) -> None:
    """A client of the seed's wire says something at the second daemon, and has heard it."""
    async with seed_member(house.second, group) as carl:
        for text in texts:
            await carl.send_message(text)
        for text in texts:
            assert (await receive(carl))["info"] == text


@in_pages
async def test_nothing_is_missing_after_restarts(
    driver: Driver, house: House, tmp_path: Path, group: str
) -> None:
    """The SDKs come back by themselves, recover what was said meanwhile, and hear nothing twice.

    A drain tells them to: 3001.
    """
    bind, expected = f"127.0.0.1:{free_port()}", list[str]()
    start = partial(
        run_daemon, tmp_path, house.redis_url, server__bind=bind, server__drain_seconds="3"
    )
    daemon = await trio.to_thread.run_sync(start)
    try:
        ann, ben = await enter(driver, daemon, group, "ann", "ben")
        for client in (ann, ben):
            await client.next("connecting")
        for number, code in ((signal.SIGTERM, 3001), (signal.SIGKILL, CONNECTION_CLOSED)):
            expected += [f"before {number}", f"and before {number}"]
            await ann.publish(group, expected[-2])
            await say_elsewhere(house, group, expected[-1:])
            for client in (ann, ben):
                await client.hears(group, expected)
            await trio.to_thread.run_sync(daemon.stop, number)
            for client in (ann, ben):
                assert (await client.next("connecting"))["code"] == code
            meanwhile = [f"meanwhile {each} 你好 {number}" for each in range(20)]
            await say_elsewhere(house, group, meanwhile)
            daemon = await trio.to_thread.run_sync(start)
            expected += [*meanwhile, f"at last {number}"]
            waiting = await ann.begin("publish", channel=group, data=expected[-1])
            for client in (ann, ben):
                again = await client.next("subscribed", channel=group)
                assert again["wasRecovering"]
                assert again["recovered"]
            assert await ann.answer(waiting) == {}
            for client in (ann, ben):
                heard = await client.hears(group, expected)
        offsets = [each["offset"] for each in heard]
        assert offsets == sorted(set(offsets))
        assert ben.told("disconnected") == ann.told("disconnected") == []
    finally:
        await trio.to_thread.run_sync(daemon.stop)


@pytest.fixture
def mortal_redis(tmp_path: Path) -> Iterator[MortalRedis]:
    """A Redis that may be killed."""
    mortal = MortalRedis(redis_servers()[0], tmp_path / "mortal")
    yield mortal
    mortal.close()


async def test_nothing_is_missing_after_redis_was_killed(
    driver: Driver, mortal_redis: MortalRedis, tmp_path: Path, group: str
) -> None:
    """What was acknowledged is stored once; all hear what is stored, once and in order."""
    daemon = run_daemon(tmp_path, mortal_redis.url)
    try:
        ann, ben = await enter(driver, daemon, group, "ann", "ben")
        numbers = []
        for number in range(60):
            numbers.append(await ann.begin("publish", channel=group, data=str(number)))
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
        await ben.publish(group, "last")
        with mortal_redis.connect() as client:
            kept = stored(client, group)
        assert len(kept) == len(set(kept))
        assert set(acknowledged) <= set(kept)
        for client in (ann, ben):
            await client.hears(group, kept)
    finally:
        assert await trio.to_thread.run_sync(daemon.stop) == 0
