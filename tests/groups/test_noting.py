"""Appends that wait for their group to be noted, and acts that wait for their event."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import trio
from msgspec.structs import replace
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from fastimd.base.errors import KeyUnusable, StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.groups.outgoing.noting import NOTED_SECONDS, NotingAppends
from fastimd.groups.store.keyspace import place
from fastimd.hooks import ModerationAct
from fastimd.hooks.outgoing import Event
from fastimd.hooks.runner import HookRunner
from fastimd.hooks.tellings import PUSH_SECONDS, Tellings
from fastimd.redis.batch import Nonce, OnAppended, Place, Told
from fastimd.redis.room import Room


class Appends:
    """An appender that stores at once, and says in which order and within what."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.within: list[float] = []
        self.failure: Exception | None = None

    def append(
        self, place: Place, prefix: bytes, on_appended: OnAppended | Told, within: float = math.inf
    ) -> None:
        self.stored.append(prefix.decode())
        self.within.append(within)
        if type(on_appended) is Told:
            on_appended.ts = 7
        on_appended(self.failure)


class Queues:
    """What is noted; it takes ``seconds``, or raises ``failure``."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, int | None]] = []
        self.registered: list[str] = []
        self.seconds = 0.1
        self.failure: Exception | None = None

    async def register(self, groups: list[str]) -> None:
        await trio.sleep(self.seconds)
        self.registered += groups
        if isinstance(self.failure, StoreUnavailable):
            raise self.failure

    async def note(self, group: str, known: int | None) -> int:
        await trio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        assert group in self.registered
        self.noted.append((group, known))
        return 5


class House:
    """The appends under test, and what becomes of each message."""

    def __init__(self, nursery: trio.Nursery, hold_bytes: int = 1000) -> None:
        config = replace(
            Config(), redis=replace(Config().redis, hold_seconds=10.0, hold_bytes=hold_bytes)
        )
        self.appends, self.queues, self.room = Appends(), Queues(), Room(config)
        self.looks: list[str] = []
        self.answers: list[tuple[str, str | None]] = []
        self.known: dict[str, int] = {}
        self.noting = NotingAppends(
            self.appends,
            self.room,
            cast(Any, self.queues),
            config,
            self.known,
            self.looks.append,
        )
        nursery.start_soon(self.noting.run)

    def say(self, text: str, group: str = "g", within: float = math.inf) -> None:
        def answer(failure: Exception | None) -> None:
            self.answers.append((text, None if failure is None else str(failure)))

        self.noting.append(place(group), text.encode(), answer, within)


@pytest.fixture
def house(nursery: trio.Nursery) -> House:
    return House(nursery)


async def test_the_first_message_waits_until_its_group_is_noted(
    house: House, autojump_clock: MockClock
) -> None:
    """Those behind it too, in order; for a minute the next ones do not."""
    house.say("a")
    await trio.sleep(0.05)
    house.say("b")
    house.say("other", "h")
    assert (house.appends.stored, house.room.kept) == ([], 3)
    await trio.sleep(1)
    assert sorted(house.appends.stored, key=["a", "b", "other"].index) == ["a", "b", "other"]
    assert house.appends.stored.index("a") < house.appends.stored.index("b")
    assert (house.room.kept, house.room.bytes, house.room.held) == (0, 0, 0)
    assert set(house.looks) == {"g", "h"}
    house.say("c")
    assert house.appends.stored[-1] == "c"
    await trio.sleep(NOTED_SECONDS)
    house.say("d")
    assert house.appends.stored[-1] == "c"
    await trio.sleep(1)
    assert house.appends.stored[-1] == "d"
    assert house.queues.noted == [("g", None), ("h", None), ("g", 5)]
    assert [answer for _, answer in house.answers] == [None] * 5


async def test_a_message_that_was_not_stored_is_not_looked_for(
    house: House, autojump_clock: MockClock
) -> None:
    house.appends.failure = StoreUnavailable("away")
    house.say("a")
    await trio.sleep(1)
    assert (house.looks, house.answers) == ([], [("a", "away")])


async def test_who_asks_for_the_ts_is_told_it(house: House, autojump_clock: MockClock) -> None:
    """With the nonce, which goes along."""
    told: list[Any] = []
    nonce = Nonce("key", b"n", 1024)
    for _ in range(2):
        asked = Told(lambda failure, ts: told.append((failure, ts)), nonce)
        house.noting.append(place("g"), b"a", asked)
        await trio.sleep(1)
    assert told == [(None, 7)] * 2
    assert house.looks == ["g"] * 2


async def test_while_redis_is_away_messages_wait_within_their_time(
    house: House, autojump_clock: MockClock
) -> None:
    """Those whose time is over are failed, and are not stored later."""
    house.queues.failure = StoreUnavailable("away")
    house.say("short", within=2)
    house.say("long")
    house.say("longer", "h")
    await trio.sleep(3)
    assert house.answers == [("short", "Redis was away for 2 s")]
    house.queues.failure = None
    await trio.sleep(1)
    assert sorted(house.appends.stored) == ["long", "longer"]
    house.queues.failure = StoreUnavailable("away")
    house.say("late", "i", within=20)
    await trio.sleep(9)
    assert len(house.answers) == 3
    await trio.sleep(2)
    assert house.answers[-1] == ("late", "Redis was away for 10 s")
    assert house.room.kept == 0


async def test_the_time_that_a_message_has_waited_counts(
    house: House, autojump_clock: MockClock
) -> None:
    house.say("a", within=4)
    await trio.sleep(1)
    assert house.appends.within[0] == pytest.approx(3.8)


async def test_too_much_does_not_wait(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    house = House(nursery, hold_bytes=10)
    house.say("123456")
    house.say("7890123")
    assert house.answers == [("7890123", "10 bytes wait for Redis already")]
    await trio.sleep(1)
    assert house.appends.stored == ["123456"]


async def test_a_key_that_is_refused_stops_no_message(
    house: House, autojump_clock: MockClock
) -> None:
    """It is stored, and not asked for again in the same minute."""
    house.queues.failure = KeyUnusable("fastimd:told:g", "refused")
    house.say("a")
    await trio.sleep(1)
    house.say("b")
    assert house.appends.stored == ["a", "b"]
    assert len(house.queues.registered) == 1


# --- acts


class Outlet:
    """Takes events, after some seconds, or raises."""

    def __init__(self) -> None:
        self.pushed: list[str] = []
        self.ids: list[str] = []
        self.is_away = False

    async def push(self, event: Event) -> None:
        await trio.sleep(0.1)
        self.ids.append(event.id)
        if self.is_away:
            raise StoreUnavailable("away")
        self.pushed.append(event.body.decode().partition('"act":"')[2].partition('"')[0])


async def test_an_act_is_answered_when_its_event_is_in_redis(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Or when Redis does not take it: then it waits, with its id, and those behind it too."""
    outlet = Outlet()
    config = replace(Config(), hooks=replace(Config().hooks, webhook_events=("on_moderation",)))
    hooks = HookRunner({}, config, Metrics(), webhook=cast(Any, object()))
    hooks.outlet = outlet
    tellings = Tellings(hooks, Metrics())
    nursery.start_soon(tellings.run)
    await tellings.tell("on_moderation", ModerationAct("g", "ban", ""))
    assert outlet.pushed == ["ban"]
    outlet.is_away = True
    with capture_logs() as logged:
        began = trio.current_time()
        await tellings.tell("on_moderation", ModerationAct("g", "mute", ""))
        await tellings.tell("on_moderation", ModerationAct("g", "unmute", ""))
        assert trio.current_time() - began < PUSH_SECONDS
    assert [line["event"] for line in logged] == ["hook.telling_delayed"] * 2
    assert tellings.waiting == 2
    outlet.is_away = False
    await tellings.wait_all_told()
    assert outlet.pushed == ["ban", "mute", "unmute"]
    assert len(set(outlet.ids)) == 3


async def test_an_act_whose_caller_has_gone_is_told_all_the_same(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    outlet = Outlet()
    config = replace(Config(), hooks=replace(Config().hooks, webhook_events=("on_moderation",)))
    hooks = HookRunner({}, config, Metrics(), webhook=cast(Any, object()))
    hooks.outlet = outlet
    tellings = Tellings(hooks, Metrics())
    nursery.start_soon(tellings.run)
    with trio.move_on_after(0.01):
        await tellings.tell("on_moderation", ModerationAct("g", "ban", ""))
    await tellings.wait_all_told()
    await wait_all_tasks_blocked()
    assert outlet.pushed == ["ban"]
