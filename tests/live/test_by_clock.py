"""What takes long on the live wire, on a clock of the tests' own: expiry, floods, many members.

The connection is a real one, with one end of a pair of sockets; of the groups there is only what
a connection asks of them.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import jwt
import msgspec
import pytest
import trio
from clients import take_frames
from trio.testing import MockClock

from fastimd.base.errors import Restrained, StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config, Token
from fastimd.base.settings.socket import Socket
from fastimd.door.receiver import Readiness
from fastimd.groups.audience import Greeting
from fastimd.groups.domain import Domain
from fastimd.groups.store.history import Position
from fastimd.groups.store.stand import Stand
from fastimd.hooks import Message
from fastimd.hooks.runner import HookRunner
from fastimd.live import connecting, json_wire, speaking, subscribing
from fastimd.live.codes import Disconnect, Refusal
from fastimd.live.commands import serve
from fastimd.live.connection import Connection
from fastimd.live.protocol import (
    Channel,
    Connect,
    Publish,
    Refresh,
    SubRefresh,
    Subscribe,
)
from fastimd.live.service import Service
from fastimd.live.tokens import Tokens
from fastimd.live.wire import Wire
from fastimd.websocket.keepalive import Keepalive
from fastimd.websocket.kick import Kick
from fastimd.websocket.replies import Replies
from fastimd.websocket.session import Sessions, Surroundings
from fastimd.websocket.timers import TURN_SECONDS, Timers

SECRET = "a secret of at least thirty-two bytes"
LATE = 2 * TURN_SECONDS


class Groups:
    """In place of the hub and of what Redis has: every group is open and empty.

    ``seconds`` is how long a greeting takes, ``inside`` how many have been let in and not out. Who
    comes is let in as long as there is no ``ban``. The last message had ``within`` seconds.
    """

    has_room = True

    def __init__(self) -> None:
        self.said: list[str] = []
        self.presence = SimpleNamespace(
            come=lambda *_: None, go=lambda *_: None, listen=lambda *_: None
        )
        self.judge = SimpleNamespace(
            check_known=self._let, check_entry=self._let, check_message=lambda *_, **__: None
        )
        self.policy = SimpleNamespace(lets=lambda _: True)
        self.ban: Restrained | None = None
        self.within = 0.0
        self.seconds = 0.0
        self.inside = 0

    def enter(self, *_: Any) -> Any:
        self.inside += 1
        return SimpleNamespace(
            read_greeting=self._greet, begin=list, leave=self._leave, policy=self.policy
        )

    def _let(self, *_: Any, **__: Any) -> None:
        if self.ban is not None:
            raise self.ban

    def _leave(self) -> None:
        self.inside -= 1

    async def _greet(self, _since: Any) -> Greeting:
        await trio.sleep(self.seconds)
        stand = Stand("e", Position(5), False, [], [], frozenset())
        return Greeting(b"", Position(5), frozenset(), stand)

    def send_join(self, *_: Any) -> None:
        pass

    async def joined(self, _: Any) -> str:
        return "member"

    async def wait_room(self) -> None:
        pass

    def append(
        self,
        _group: str,
        _user: str,
        info: str,
        answer: Callable[..., None],
        *,
        within: float,
        **_: Any,
    ) -> None:
        self.said.append(info)
        self.within = within
        answer(None)


def domain_of(config: Config, metrics: Metrics, groups: Groups) -> Domain:
    async def allow(*_: Any) -> None:
        pass

    return cast(
        Domain,
        SimpleNamespace(
            config=config,
            metrics=metrics,
            hub=groups,
            store=SimpleNamespace(members=groups, messages=groups, stands=groups),
            access=SimpleNamespace(asks_hook=False, check_opening=allow),
            hooks=SimpleNamespace(has=lambda _: False),
            visits=SimpleNamespace(join=lambda *_: None, leave=lambda _: None),
            presence=groups.presence,
            judge=groups.judge,
        ),
    )


class House:
    """A service, and connections to it."""

    def __init__(self, nursery: trio.Nursery, readiness: Readiness, **settings: Any) -> None:
        self.config = Config(token=Token(hmac_secret=SECRET), **settings)
        self.metrics = Metrics()
        self.groups = Groups()
        self.timers, self._replies = Timers(), Replies()
        self.sessions = Sessions(["live"])
        self.keepalive = Keepalive(self.config)
        around = Surroundings(
            config=self.config,
            metrics=self.metrics,
            keepalive=self.keepalive,
            readiness=readiness,
            sessions=self.sessions,
        )
        domain = domain_of(self.config, self.metrics, self.groups)
        tokens = Tokens(self.config, self.metrics)
        wire = cast(Wire, json_wire)
        self.service = Service(around, domain, tokens, self.timers, self._replies, wire)
        self.nursery = nursery
        nursery.start_soon(self.timers.run)
        nursery.start_soon(self._replies.run)


class Client:
    """A connection, and the other end of its socket."""

    def __init__(self, house: House) -> None:
        ours, self.theirs = socket.socketpair()
        for each in (ours, self.theirs):
            each.setblocking(False)
        self.connection = Connection(ours, trio.CancelScope(), house.nursery, house.service, b"")
        self.connection.opened_at = trio.current_time()
        house.sessions.add(self.connection)
        self._ours = ours
        self.house = house

    def told(self) -> list[Any]:
        """What it has been told since it was asked last, and the close."""
        self.connection.outbox.flush_replies()
        try:
            data = bytearray(self.theirs.recv(1 << 20))
        except BlockingIOError:
            return []
        replies: list[Any] = []
        for frame in take_frames(data):
            if frame.opcode == 8:
                replies.append(frame.closing)
            else:
                replies += map(json.loads, frame.payload.splitlines())
        return replies

    def close(self) -> None:
        self.connection.leave_all()
        self.connection._receiver.close()
        self._ours.close()
        self.theirs.close()


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[Client]:
    """A connection of a house with these settings."""
    with Readiness() as readiness:
        async with trio.open_nursery() as nursery:
            house = House(nursery, readiness, **settings)
            client = Client(house)
            try:
                yield client
            finally:
                client.close()
                nursery.cancel_scope.cancel()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """A connection; the clock has to be an argument of the test itself."""
    async with opened() as client:
        yield client


def token(seconds: float | None = None, **claims: Any) -> str:
    if seconds is not None:
        claims["exp"] = time.time() + seconds
    return jwt.encode({"sub": "ann", **claims}, SECRET, "HS256")


async def ends_after(client: Client) -> float:
    """The seconds until the connection is closed, by the clock of the test."""
    began = trio.current_time()
    with trio.fail_after(10_000):
        while client.connection.is_open:  # noqa: ASYNC110 - the clock jumps
            await trio.sleep(0.1)
    return trio.current_time() - began


# --- connections


async def test_no_connect_command_comes(autojump_clock: MockClock, client: Client) -> None:
    """The connection is closed after ten seconds, by the loop that serves it."""
    client.house.nursery.start_soon(serve, client.connection, b"")
    seconds = await ends_after(client)
    assert 10 <= seconds <= 10 + LATE + 0.1
    assert client.told() == [(3502, "stale")]


async def test_nothing_is_asked_before_the_connect_command(autojump_clock: MockClock) -> None:
    """A client could not answer a ping: pings come later, and until then the deadline counts."""
    async with opened(socket=Socket(ping_interval=2.0, ping_timeout=4.0)) as client:
        house = client.house
        house.nursery.start_soon(house.keepalive.run)
        house.nursery.start_soon(serve, client.connection, b"")
        house.keepalive.watch(client.connection)
        await trio.sleep(9)
        assert client.told() == []
        await connecting.connect(client.connection, 1, Connect(token=token()))
        client.told()
        await trio.sleep(2.9)
        assert client.told() == [{}]
        await trio.sleep(5)
        assert client.told()[-1] == (3012, "no pong")


async def test_a_connection_expires(autojump_clock: MockClock, client: Client) -> None:
    """25 seconds after its token, in which the client might have shown another."""
    await connecting.connect(client.connection, 1, Connect(token=token(60)))
    (connected,) = client.told()
    assert connected["connect"]["expires"]
    assert connected["connect"]["ttl"] == 60
    seconds = await ends_after(client)
    assert 84 <= seconds <= 86
    assert client.told() == [(3005, "connection expired")]


async def test_a_refresh_extends_a_connection(autojump_clock: MockClock, client: Client) -> None:
    """As often as it comes; a token that never expires ends the matter."""
    connection = client.connection
    await connecting.connect(connection, 1, Connect(token=token(60)))
    for number in range(2, 5):
        await trio.sleep(80)
        await connecting.refresh(connection, number, Refresh(token(60, info={"n": number})))
        assert client.told()[-1] == {"id": number, "refresh": {"expires": True, "ttl": 60}}
        assert connection.conn_info == b'{"n":%d}' % number
    await connecting.refresh(connection, 5, Refresh(token()))
    assert client.told()[-1] == {"id": 5, "refresh": {}}
    await trio.sleep(10_000)
    assert connection.is_open


@pytest.mark.parametrize(
    ("shown", "code"),
    [("nonsense", 3500), (token(-5), 3005), (token(100_000, sub="eve"), 3500), ("", 3501)],
)
async def test_a_refresh_that_is_not_good_ends_a_connection(
    autojump_clock: MockClock, client: Client, shown: str, code: int
) -> None:
    """With what says whether the client should come again."""
    await connecting.connect(client.connection, 1, Connect(token=token(60)))
    with pytest.raises(Disconnect) as ended:
        await connecting.refresh(client.connection, 2, Refresh(shown))
    assert ended.value.reason[0] == code


async def test_a_token_without_an_end_ends_nothing(
    autojump_clock: MockClock, client: Client
) -> None:
    """Nor is anything told of it."""
    await connecting.connect(client.connection, 1, Connect(token=token()))
    (connected,) = client.told()
    assert not connected["connect"].keys() & {"expires", "ttl"}
    await trio.sleep(80_000)
    assert client.connection.is_open


# --- subscriptions


async def test_a_subscription_expires(autojump_clock: MockClock, client: Client) -> None:
    """25 seconds after its token, and the connection goes on."""
    connection = client.connection
    await connecting.connect(connection, 1, Connect(token=token()))
    await subscribing.subscribe(connection, 2, Subscribe("g", token(30, channel="g")))
    await subscribing.subscribe(connection, 3, Subscribe("other"))
    subscribed = client.told()[1]["subscribe"]
    assert (subscribed["expires"], subscribed["ttl"]) == (True, 30)
    await trio.sleep(53)
    assert "g" in connection.subscriptions
    await trio.sleep(3)
    assert list(connection.subscriptions) == ["other"]
    unsubscribed = {"code": 2501, "reason": "subscription expired"}
    assert client.told() == [{"push": {"channel": "g", "unsubscribe": unsubscribed}}]
    await trio.sleep(1000)
    assert connection.is_open


async def test_a_refresh_extends_a_subscription(autojump_clock: MockClock, client: Client) -> None:
    """And one that is left, or was ended, is not ended once more."""
    connection = client.connection
    await connecting.connect(connection, 1, Connect(token=token()))
    await subscribing.subscribe(connection, 2, Subscribe("g", token(30, channel="g")))
    for number in range(3, 6):
        await trio.sleep(50)
        refresh = SubRefresh("g", token(30, channel="g"))
        await subscribing.sub_refresh(connection, number, refresh)
        assert client.told()[-1] == {"id": number, "sub_refresh": {"expires": True, "ttl": 30}}
    await subscribing.unsubscribe(connection, 6, Channel("g"))
    await subscribing.subscribe(connection, 7, Subscribe("g"))
    client.told()
    await trio.sleep(1000)
    assert "g" in connection.subscriptions
    assert client.told() == []


@pytest.mark.parametrize(
    ("claims", "code"),
    [({"seconds": -5}, 109), ({"sub": "eve"}, 3500), ({"channel": "other"}, 3500)],
)
async def test_a_refresh_that_is_not_good_is_refused(
    autojump_clock: MockClock, client: Client, claims: dict[str, Any], code: int
) -> None:
    """An expired one by an error, for the client may show another; a bad one by a close."""
    connection = client.connection
    await connecting.connect(connection, 1, Connect(token=token()))
    await subscribing.subscribe(connection, 2, Subscribe("g", token(30, channel="g")))
    shown = token(**{"channel": "g", **claims})
    with pytest.raises((Refusal, Disconnect)) as refused:
        await subscribing.sub_refresh(connection, 3, SubRefresh("g", shown))
    ended = refused.value
    if isinstance(ended, Refusal):
        assert ended.error.code == code
    elif isinstance(ended, Disconnect):
        assert ended.reason[0] == code


async def test_a_subscription_is_kicked_by_kicks_that_are_later(
    autojump_clock: MockClock, client: Client
) -> None:
    """One that was given before it began, and is heard late, finds nothing to do."""
    connection = client.connection
    await connecting.connect(connection, 1, Connect(token=token()))
    await trio.sleep(10)
    await subscribing.subscribe(connection, 2, Subscribe("g"))
    await subscribing.subscribe(connection, 3, Subscribe("other"))
    client.told()
    await trio.sleep(5)
    sessions = connection.service.around.sessions
    sessions.kick(Kick("ann", "g"), age=7)
    sessions.kick(Kick("ann", "g"), age=100)
    sessions.kick(Kick("eve", "g"))
    assert client.told() == []
    sessions.kick(Kick("ann", "g"), age=2)
    assert list(connection.subscriptions) == ["other"]
    assert client.told() == [{"push": {"channel": "g", "unsubscribe": OUT}}]
    sessions.kick(Kick("ann"), age=100)
    assert connection.is_open
    sessions.kick(Kick("ann"), age=1)
    assert client.told() == [(3503, "force disconnect")]


OUT = {"code": 2000, "reason": "server unsubscribe"}
COME_AGAIN = {"code": 2500, "reason": "insufficient state"}
WHILE_ENTERING: list[tuple[Callable[[Client], object], Any]] = [
    (lambda client: client.house.sessions.kick(Kick("ann", "g")), OUT),
    (lambda client: client.house.sessions.kick(Kick("ann", "g"), age=3), None),  # before it came
    (lambda client: client.house.sessions.kick(Kick("ann", "other")), None),
    (lambda client: client.house.sessions.kick(Kick("eve", "g")), None),
    (lambda client: client.house.sessions.leave("ann", "g"), OUT),
    (lambda client: client.connection.lose("g"), COME_AGAIN),
]


@pytest.mark.parametrize(("happen", "ended"), WHILE_ENTERING)
@pytest.mark.parametrize("by", ["command", "token"])
async def test_what_happens_while_a_group_is_entered(
    autojump_clock: MockClock,
    client: Client,
    by: str,
    happen: Callable[[Client], object],
    ended: Any,
) -> None:
    """It counts as if it came right after: the client is let in, and put out."""
    connection, groups = client.connection, client.house.groups
    groups.seconds = 2.0
    async with trio.open_nursery() as nursery:
        if by == "command":
            await connecting.connect(connection, 1, Connect(token=token()))
            nursery.start_soon(subscribing.subscribe, connection, 2, Subscribe("g"))
        else:
            shown = Connect(token=token(channels=["g"]))
            nursery.start_soon(connecting.connect, connection, 1, shown)
        await trio.sleep(1)
        happen(client)
        assert connection.is_open
    pushes = [each for each in client.told() if "push" in each]
    assert pushes == ([{"push": {"channel": "g", "unsubscribe": ended}}] if ended else [])
    assert list(connection.subscriptions) == ([] if ended else ["g"])
    assert not connection.entering
    assert groups.inside == len(connection.subscriptions)


async def test_a_connect_that_fails_leaves_no_way_open(
    autojump_clock: MockClock, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The groups before the one that cannot be entered are left again."""
    groups = client.house.groups
    enter = groups.enter

    def enter_some(group: str, *more: Any) -> Any:
        if group == "third":
            raise StoreUnavailable("away")
        return enter(group, *more)

    monkeypatch.setattr(groups, "enter", enter_some)
    shown = Connect(token=token(channels=["first", "second", "third"]))
    with pytest.raises(StoreUnavailable):
        await connecting.connect(client.connection, 1, shown)
    assert (client.connection.user, client.connection.entering, groups.inside) == ("", {}, 0)


async def test_who_is_banned_after_it_was_let_in_is_put_out_as_it_begins(
    autojump_clock: MockClock, client: Client
) -> None:
    """The token names two groups, and the greeting of the other one takes long."""
    connection, groups = client.connection, client.house.groups
    groups.seconds = 2.0
    async with trio.open_nursery() as nursery:
        shown = Connect(token=token(channels=["g", "other"]))
        nursery.start_soon(connecting.connect, connection, 1, shown)
        await trio.sleep(3)
        groups.ban = Restrained("banned", "banned: spam")
    connected, put_out = client.told()
    assert list(connected["connect"]["subs"]) == ["g"]
    ended = {"code": 2103, "reason": "banned: spam"}
    assert put_out == {"push": {"channel": "g", "unsubscribe": ended}}
    assert not connection.subscriptions
    assert not connection.entering
    assert groups.inside == 0


async def test_a_message_that_waits_to_be_judged_has_less_time_for_redis(
    autojump_clock: MockClock, client: Client
) -> None:
    """Its client waits no longer than for any other."""
    connection, groups = client.connection, client.house.groups

    async def look(*_: Any, **__: Any) -> None:
        await trio.sleep(1.5)

    await connecting.connect(connection, 1, Connect(token=token(channels=["g"])))
    await speaking.publish(connection, 2, Publish("g", msgspec.Raw(b'"hi"')))
    assert groups.within == speaking.ANSWER_SECONDS
    groups.judge.check_message = look
    groups.policy.lets = lambda _: False
    await speaking.publish(connection, 3, Publish("g", msgspec.Raw(b'"hi"')))
    assert groups.within == speaking.ANSWER_SECONDS - 1.5


async def test_who_is_kicked_while_a_message_is_judged_does_not_say_it(
    autojump_clock: MockClock, client: Client
) -> None:
    """Whatever the hook says of it; what is said in another group is."""
    connection, house = client.connection, client.house

    async def judge(message: Message) -> Message:
        await trio.sleep(2)
        return message

    house.service.domain.hooks = cast(
        HookRunner, SimpleNamespace(has=lambda name: name == "on_message", judge_message=judge)
    )
    await connecting.connect(connection, 1, Connect(token=token()))
    refused: list[str] = []

    async def say(group: str) -> None:
        try:
            await speaking.publish(
                connection, 9, Publish(group, msgspec.Raw(b'"%s"' % group.encode()))
            )
        except Refusal as refusal:
            refused.append(f"{group} {refusal.error.code}")

    async with trio.open_nursery() as nursery:
        for group in ("g", "other"):
            await subscribing.subscribe(connection, 2, Subscribe(group))
            nursery.start_soon(say, group)
        await trio.sleep(1)
        house.sessions.kick(Kick("ann", "g"))
    assert refused == ["g 103"]
    assert len(house.groups.said) == 1
    assert "other" in house.groups.said[0]


# --- how fast, and how many


async def test_who_never_heeds_a_refusal_is_closed(autojump_clock: MockClock) -> None:
    """Error 111 each time, for ten seconds; then 3013, and it is counted."""
    limits = Socket(max_messages_per_second=5, message_burst=10)
    async with opened(socket=limits) as client:
        await check_flood(client)


async def check_flood(client: Client) -> None:
    """Talk on whatever the answer is, until the connection is closed."""
    connection, house = client.connection, client.house
    await connecting.connect(connection, 1, Connect(token=token()))
    await subscribing.subscribe(connection, 2, Subscribe("g"))
    client.told()
    began = trio.current_time()
    codes = set()
    while connection.is_open:
        try:
            await speaking.publish(connection, 3, Publish("g", json_data("x")))
        except Refusal as refusal:
            codes.add(refusal.error.code)
        await trio.sleep(0.01)
        assert trio.current_time() - began < 20
    assert trio.current_time() - began >= 10
    assert codes == {111}
    assert len(house.groups.said) == pytest.approx(10 + 5 * (trio.current_time() - began), abs=2)
    assert client.told()[-1] == (3013, "too many requests")
    assert house.metrics.flood_closes == 1


def json_data(value: Any) -> Any:
    return msgspec.Raw(json.dumps(value).encode())
