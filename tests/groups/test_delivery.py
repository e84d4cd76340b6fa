"""Delivery of events on a clock of the test's own: outages of hours, daemons that die, leases."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from fastimd.base.errors import HookFailed, KeyUnusable, StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.groups.outgoing import delivery as module
from fastimd.groups.outgoing.circuit import LONGEST_PAUSE, Circuit, pause
from fastimd.groups.outgoing.delivery import Delivery
from fastimd.groups.store.queues import Batch, Found, Turn, Waiting

HOUR = 3600.0


@dataclass
class Group:
    """What is kept of a group: the events, and who holds them until when."""

    events: list[tuple[float, Waiting]] = field(default_factory=list)
    holder: str = ""
    ends: float = 0.0


class FakeQueues:
    """What take.lua and give.lua do with events, in memory; it may be ``away``."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.is_away = False
        self.refused: set[str] = set()
        self.takes = 0
        self.answers_after = 0.0

    def put(self, group: str, text: str) -> None:
        waiting = Waiting(text.encode(), "on_join", f"msg_{group}_{text}", text.encode())
        self.groups.setdefault(group, Group()).events.append((trio.current_time(), waiting))

    async def take(
        self,
        group: str,
        holder: str,
        lease: float,
        known: int | None = None,
        told: Waiting | Batch | None = None,
    ) -> Turn:
        await trio.sleep(0.001)
        self.takes += 1
        if self.is_away:
            raise StoreUnavailable("away")
        if group in self.refused:
            raise KeyUnusable(group, "refused")
        now, here = trio.current_time(), self.groups.setdefault(group, Group())
        if here.holder not in ("", holder) and here.ends >= now:
            await trio.sleep(self.answers_after)
            return Turn(held_for=max(0.001, here.ends - now))
        if here.holder == holder and told is not None:
            here.events = [each for each in here.events if each[1] != told]
        if not here.events:
            here.holder = ""
            return Turn()
        here.holder, here.ends = holder, now + lease
        at, first = here.events[0]
        return Turn(waiting=len(here.events), age=now - at, event=first)

    async def give(self, group: str, holder: str) -> None:
        await trio.sleep(0.001)
        if self.groups[group].holder == holder:
            self.groups[group].holder = ""


class Backend:
    """What was taken, in order, with its id; ``is_away`` and ``refuses`` say what is not."""

    def __init__(self) -> None:
        self.attempts: list[float] = []
        self.at_once = 0
        self.most_at_once = 0
        self.taken: list[tuple[str, str]] = []
        self.is_away = False
        self.refuses: set[str] = set()
        self.takes = 0.01

    async def send(self, number: str, body: bytes) -> None:
        self.attempts.append(trio.current_time())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await trio.sleep(self.takes)
        finally:
            self.at_once -= 1
        group = number.split("_")[1]
        if self.is_away or group in self.refuses:
            raise HookFailed("it answered 503")
        self.taken.append((group, body.decode()))

    def of(self, group: str) -> list[str]:
        """What was taken of a group, each once."""
        return list(dict.fromkeys(text for each, text in self.taken if each == group))


class House:
    """Daemons on one store."""

    def __init__(self, nursery: trio.Nursery, **settings: Any) -> None:
        self.store, self.backend = FakeQueues(), Backend()
        self._nursery = nursery
        self._config = replace(Config(), hooks=replace(Config().hooks, **settings))

    def start(self) -> tuple[Delivery, trio.CancelScope, Metrics]:
        metrics = Metrics()
        daemon = Delivery(
            self.store,  # type: ignore[arg-type]
            self.backend.send,
            self._config,
            metrics,
        )
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await daemon.run()

        self._nursery.start_soon(run)
        return daemon, scope, metrics

    def do(self, daemon: Delivery, group: str, text: str) -> None:
        """Something happens."""
        self.store.put(group, text)
        daemon.look(group)


@pytest.fixture
def house(nursery: trio.Nursery) -> House:
    return House(nursery)


async def test_an_hour_without_a_backend_costs_nothing(
    house: House, autojump_clock: MockClock
) -> None:
    """All comes when it is back, in order; until then there is a handful of attempts a minute."""
    daemon, _, metrics = house.start()
    house.backend.is_away = True
    expected: dict[str, list[str]] = {}
    for minute in range(60):
        for number in range(20):
            group = f"g{(minute * 7 + number) % 50}"
            house.do(daemon, group, f"{minute}-{number}")
            expected.setdefault(group, []).append(f"{minute}-{number}")
        await trio.sleep(60)
        if minute == 0:
            house.backend.most_at_once = 0
    assert 120 <= len(house.backend.attempts) <= 60 * 10
    assert house.backend.most_at_once == 1
    assert daemon.circuit.is_away
    assert HOUR - 60 <= daemon.oldest_seconds <= HOUR + 60
    assert metrics.events["failed"]["on_join"] == len(house.backend.attempts)
    house.backend.is_away = False
    await trio.sleep(2 * LONGEST_PAUSE)
    assert {group: house.backend.of(group) for group in expected} == expected
    assert (daemon.waiting, daemon.oldest_seconds) == (0, 0)
    assert metrics.events["delivered"]["on_join"] == 1200
    assert len(house.backend.taken) == 1200


async def test_groups_are_told_at_once_up_to_half_of_the_connections(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """And each in its order."""
    house = House(nursery, webhook_connections=8)
    daemon, _, _ = house.start()
    house.backend.takes = 1.0
    for number in range(40):
        house.do(daemon, f"g{number % 10}", str(number))
    await trio.sleep(0.2)
    assert house.backend.at_once == 4
    await daemon.wait_idle()
    assert house.backend.most_at_once == 4
    assert house.backend.of("g3") == ["3", "13", "23", "33"]


async def test_what_is_always_refused_holds_up_its_group_only(
    house: House, autojump_clock: MockClock
) -> None:
    """Its pauses grow to half a minute; the others hardly wait."""
    daemon, _, _ = house.start()
    house.backend.refuses = {"bad"}
    house.do(daemon, "bad", "poison")
    latest = 0.0
    for number in range(600):
        house.do(daemon, "good", str(number))
        began = trio.current_time()
        while len(house.backend.of("good")) <= number:  # noqa: ASYNC110
            await trio.sleep(0.05)
        latest = max(latest, trio.current_time() - began)
        await trio.sleep(1)
    assert latest < 2
    refused = len(house.backend.attempts) - 600
    assert 15 <= refused <= 70


async def test_what_a_daemon_held_that_was_killed_is_told_by_another(
    house: House, autojump_clock: MockClock
) -> None:
    """As soon as its lease has ended."""
    first, scope, _ = house.start()
    second, _, _ = house.start()
    house.backend.takes = 1e9
    house.do(first, "g", "a")
    await trio.sleep(1)
    group = house.store.groups["g"]
    held = group.holder, group.ends
    scope.cancel()
    await trio.sleep(0.1)
    group.holder, group.ends = held  # a killed one gives nothing back
    house.backend.takes = 0.01
    began = trio.current_time()
    second.look_after(Found("g", b"1", 0))
    while not house.backend.of("g"):  # noqa: ASYNC110
        await trio.sleep(0.1)
    assert 10 < trio.current_time() - began < 25


async def test_a_daemon_that_ends_gives_back_what_it_holds(
    house: House, autojump_clock: MockClock
) -> None:
    first, scope, _ = house.start()
    house.backend.takes = 1e9
    house.do(first, "g", "a")
    await trio.sleep(1)
    assert house.store.groups["g"].holder
    scope.cancel()
    await trio.sleep(0.1)
    assert not house.store.groups["g"].holder


async def test_what_comes_while_another_tells_is_not_forgotten(
    house: House, autojump_clock: MockClock
) -> None:
    """Neither at the moment in which it lets go, nor just after."""
    daemons = [house.start()[0] for _ in range(2)]
    for number in range(400):
        house.do(daemons[number % 2], "g", str(number))
        await trio.sleep(random.random() * 0.1)
    await trio.sleep(1)
    assert house.backend.of("g") == [str(number) for number in range(400)]


async def test_a_group_that_another_holds_is_looked_at_when_something_comes(
    house: House, autojump_clock: MockClock
) -> None:
    """Not only when the lease would have ended."""
    first, second = (house.start()[0] for _ in range(2))
    house.backend.takes = 1.0
    house.do(first, "g", "a")
    await trio.sleep(0.5)
    house.do(second, "g", "b")  # the first will tell it
    await trio.sleep(3)
    assert house.backend.of("g") == ["a", "b"]
    house.do(second, "g", "c")
    await trio.sleep(2)
    assert house.backend.of("g") == ["a", "b", "c"]


async def test_the_word_that_another_holds_a_group_may_be_late(
    house: House, autojump_clock: MockClock
) -> None:
    """It has let go by then, and what has come meanwhile is told all the same."""
    first, second = (house.start()[0] for _ in range(2))
    house.backend.takes = 1.0
    house.store.answers_after = 3.0
    house.do(first, "g", "a")
    await trio.sleep(0.5)
    house.do(second, "g", "b")
    await trio.sleep(2.5)
    house.do(second, "g", "c")
    await trio.sleep(3)
    assert house.backend.of("g") == ["a", "b", "c"]


async def test_while_redis_is_away_nothing_is_lost(house: House, autojump_clock: MockClock) -> None:
    daemon, _, _ = house.start()
    house.store.is_away = True
    house.do(daemon, "g", "a")
    await trio.sleep(60)
    assert daemon.waiting == 1
    assert house.store.takes < 100
    house.store.is_away = False
    await trio.sleep(2)
    assert house.backend.of("g") == ["a"]


async def test_a_key_that_is_refused_is_left_alone(house: House, autojump_clock: MockClock) -> None:
    daemon, _, _ = house.start()
    house.store.refused = {"g"}
    house.do(daemon, "g", "a")
    await trio.sleep(60)
    assert (house.store.takes, daemon.waiting) == (1, 0)
    house.store.refused = set()
    daemon.look_after(Found("g", b"1", 0))
    await trio.sleep(1)
    assert house.backend.of("g") == ["a"]


async def test_a_long_queue_does_not_hold_up_the_others(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """With one connection they take turns."""
    house = House(nursery, webhook_connections=2)
    daemon, _, _ = house.start()
    for number in range(1000):
        house.store.put("long", str(number))
    daemon.look("long")
    await trio.sleep(0.5)
    house.do(daemon, "short", "a")
    await trio.sleep(module.IN_A_ROW * 0.02 + 1)
    assert house.backend.of("short") == ["a"]
    assert len(house.backend.of("long")) < 500
    await daemon.wait_idle()
    assert house.backend.taken.count(("long", "5")) == 1
    assert house.backend.of("long") == [str(number) for number in range(1000)]


async def test_a_swept_group_with_nothing_is_told_of(
    house: House, autojump_clock: MockClock
) -> None:
    """Once, and not one that has something."""
    daemon, _, _ = house.start()
    idle: list[str] = []

    async def note(found: Found) -> None:
        idle.append(found.group)

    daemon.on_idle = note
    daemon.look_after(Found("empty", b"1", 500))
    house.do(daemon, "full", "a")
    await trio.sleep(1)
    assert idle == ["empty"]
    assert daemon.waiting == 0


@pytest.mark.parametrize("seed", range(12))
async def test_stories(nursery: trio.Nursery, autojump_clock: MockClock, seed: int) -> None:
    """Daemons that start, stop and are killed, Redis and a backend that come and go."""
    dice = random.Random(seed)
    house = House(nursery)
    daemons = [house.start() for _ in range(3)]
    expected: dict[str, list[str]] = {}
    for step in range(300):
        await trio.sleep(dice.random() * 2)
        match dice.randrange(12):
            case 0:
                house.store.is_away = not house.store.is_away
            case 1 | 2:
                house.backend.is_away = dice.random() < 0.5
            case 3:
                house.backend.takes = dice.choice([0.01, 0.3, 8.0])
            case 4:
                victim = daemons.pop(dice.randrange(3))
                held = {name: (g.holder, g.ends) for name, g in house.store.groups.items()}
                victim[1].cancel()
                await trio.sleep(0.01)
                if dice.random() < 0.5:  # killed: it gives nothing back
                    for name, (holder, ends) in held.items():
                        group = house.store.groups[name]
                        if not group.holder and holder:
                            group.holder, group.ends = holder, ends
                daemons.append(house.start())
            case _:
                group_name = f"g{dice.randrange(4)}"
                house.do(dice.choice(daemons)[0], group_name, str(step))
                expected.setdefault(group_name, []).append(str(step))
    house.store.is_away = house.backend.is_away = False
    house.backend.takes = 0.01
    for _ in range(10):  # as sweeps do
        for name in expected:
            daemons[0][0].look_after(Found(name, b"1", 0))
        await trio.sleep(20)
    assert {name: house.backend.of(name) for name in expected} == expected


# --- the circuit


def test_the_circuit_opens_after_some_failures_and_lets_one_try() -> None:
    circuit = Circuit()
    assert circuit.fail(0)
    assert not circuit.is_away
    assert not circuit.fail(0)
    assert not circuit.fail(10)
    assert circuit.is_away
    assert circuit.since == 10
    assert not circuit.may_begin(10)
    assert circuit.may_begin(10.6)
    circuit.begin()
    assert not circuit.may_begin(10.6)
    circuit.end()
    assert circuit.may_begin(10.6)
    circuit.begin()
    circuit.fail(11)
    assert not circuit.may_begin(11.4)
    assert circuit.succeed() == 10
    assert not circuit.is_away
    assert circuit.may_begin(0)
    assert circuit.succeed() is None
    assert circuit.fail(0)


def test_pauses_grow_to_half_a_minute() -> None:
    longest = Counter({n: max(pause(n) for _ in range(200)) for n in (0, 3, 6, 1000)})
    assert 0.4 < longest[0] <= 0.5
    assert 3.2 < longest[3] <= 4
    assert 25 < longest[6] <= LONGEST_PAUSE
    assert 25 < longest[1000] <= LONGEST_PAUSE
    assert min(pause(1000) for _ in range(200)) >= LONGEST_PAUSE / 2
