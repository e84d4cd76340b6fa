"""Leaves of killed daemons, by the clock: hooks of daemons whose ledgers the test has in memory."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest
import structlog
import trio
from ledger_model import LedgerModel
from trio.testing import MockClock

from fastimd.base.errors import KeyUnusable, StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.groups.store.ledgers import Ledgers, Noted
from fastimd.groups.visits.burials import Burials
from fastimd.groups.visits.ledger import AT_ONCE
from fastimd.hooks.runner import HookRunner
from fastimd.hooks.visits import Visit, Visits

TOLD_SECONDS = 30
"""In which the leaves of a killed daemon are told, as promised."""
READ_AT_ONCE = 7


class Backend:
    """What the hooks of all daemons were told, in order: the event, the user, the id.

    ``doubtful`` are the ids of leaves of which Redis may not hear that they were told.
    """

    def __init__(self) -> None:
        self.doubtful: set[str] = set()
        self.told: list[tuple[str, str, str]] = []
        self.seconds = 0.0

    async def on_join(self, _group: str, user: str, number: str) -> None:
        self.told.append(("join", user, number))
        await trio.sleep(self.seconds)

    async def on_leave(self, _group: str, user: str, number: str) -> None:
        self.told.append(("leave", user, number))
        await trio.sleep(self.seconds)

    def of(self, event: str) -> list[str]:
        return [number for kind, _, number in self.told if kind == event]

    def users(self, event: str) -> list[str]:
        return sorted(user for kind, user, _ in self.told if kind == event)

    def here(self) -> list[str]:
        """The users of the connections that have joined and not left."""
        left = set(self.of("leave"))
        return sorted(
            user for kind, user, number in self.told if kind == "join" and number not in left
        )


class Store:
    """In place of ``Ledgers``: a call takes a moment, and may fail before it holds or after."""

    def __init__(self, model: LedgerModel) -> None:
        self.model = model
        self.keep_seconds = 0.0
        self.is_cut_off = False
        self.refusal: Exception | None = None
        self.failing: random.Random | None = None
        self.calls = 0

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[float]:
        self.calls += 1
        await trio.sleep(0.001)
        chance = self.failing.random() if self.failing else 1
        if self.is_cut_off or chance < 0.1:
            raise StoreUnavailable("away")
        if self.refusal is not None:
            raise self.refusal
        yield trio.current_time() * 1000 + 1_000_000
        if chance < 0.2:
            raise StoreUnavailable("no answer")

    async def keep(
        self,
        daemon: str,
        holder: str,
        begun: Sequence[Noted] = (),
        over: Iterable[str] = (),
        *,
        takes: bool = False,
    ) -> int | None:
        await trio.sleep(self.keep_seconds)
        async with self._call() as now:
            return self.model.keep(daemon, holder, begun, over, now, takes=takes)

    async def read(self, daemon: str, cursor: int = 0) -> tuple[int, list[Noted]]:
        """By their ids: ``cursor`` is what the last one that was read began with."""
        async with self._call():
            kept = self.model.ledgers.get(daemon)
            left = sorted(
                (int(number[:8], 16), noted)
                for number, noted in (kept.visits.items() if kept else ())
                if int(number[:8], 16) > cursor
            )
            found = left[:READ_AT_ONCE]
            is_all = len(found) == len(left)
            return 0 if is_all else found[-1][0], [noted for _, noted in found]

    async def list(self, living: Iterable[str]) -> dict[str, int]:
        async with self._call() as now:
            return self.model.list(living, now)

    async def unlist(self, daemon: str) -> None:
        async with self._call():
            self.model.daemons.pop(daemon, None)

    async def close(self, daemon: str) -> None:
        async with self._call():
            self.model.ledgers.pop(daemon, None)
            self.model.daemons.pop(daemon, None)


class Daemon:
    """The hooks of one daemon, and the visits of those who are there."""

    def __init__(self, model: LedgerModel, backend: Backend, nursery: trio.Nursery) -> None:
        self.store = Store(model)
        self.metrics = Metrics()
        self.backend = backend
        hooks = {"on_join": backend.on_join, "on_leave": self.on_leave}
        self.visits = Visits(HookRunner(hooks, Config(), self.metrics), Config(), self.metrics)
        self.ending = trio.Event()
        self.burials = Burials(cast(Ledgers, self.store), self.visits, self.metrics, self.ending)
        self.here: list[Visit] = []
        self.scope = trio.CancelScope()
        nursery.start_soon(self._run)

    async def on_leave(self, group: str, user: str, number: str) -> None:
        if self.store.is_cut_off or self.scope.cancel_called:
            self.backend.doubtful.add(number)
        await self.backend.on_leave(group, user, number)

    async def _run(self) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.visits.run)
                nursery.start_soon(self.burials.run)

    def come(self, user: str) -> Visit:
        visit = self.visits.join("g", user)
        assert visit is not None
        self.here.append(visit)
        return visit

    def go(self, visit: Visit) -> None:
        self.here.remove(visit)
        self.visits.leave(visit)

    def kill(self) -> None:
        self.scope.cancel()
        self.here.clear()

    async def stop(self) -> None:
        self.ending.set()
        for visit in list(self.here):
            self.go(visit)
        await self.visits.wait_all_told()
        await trio.sleep(1)
        await self.burials.close()
        await trio.sleep(0.5)
        self.scope.cancel()


class Chat:
    """Daemons on one Redis, with one backend."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.model = LedgerModel()
        self.backend = Backend()

    def start(self) -> Daemon:
        return Daemon(self.model, self.backend, self.nursery)


@pytest.fixture
async def chat(nursery: trio.Nursery) -> Chat:
    return Chat(nursery)


# --- one thing after the other


async def test_another_daemon_tells_the_leaves_of_a_killed_one(
    chat: Chat, autojump_clock: MockClock
) -> None:
    """Each once, with the id of its join, in time; more than are read at once."""
    first, second = chat.start(), chat.start()
    users = [f"u{number}" for number in range(3 * READ_AT_ONCE)]
    for user in users:
        second.come(user)
    first.come("stays")
    second.go(second.here[0])
    await trio.sleep(5)
    assert chat.backend.users("leave") == ["u0"]
    with structlog.testing.capture_logs() as logs:
        second.kill()
        await trio.sleep(TOLD_SECONDS)
    assert chat.backend.users("leave") == sorted(users)
    assert sorted(chat.backend.of("join")) == sorted(
        [*chat.backend.of("leave"), first.here[0].connection_id]
    )
    (line,) = [each for each in logs if each["event"] == "presence.buried"]
    assert line["connections"] == len(users) - 1
    assert first.metrics.presence_buried == len(users) - 1
    await first.stop()
    assert chat.backend.here() == []
    assert chat.model.daemons == {}


async def test_the_daemon_that_comes_after_tells_them(
    chat: Chat, autojump_clock: MockClock
) -> None:
    """When all were killed, however long nobody was there."""
    only = chat.start()
    only.come("ann")
    await trio.sleep(1)
    only.kill()
    await trio.sleep(3600)
    assert chat.backend.users("leave") == []
    chat.start()
    await trio.sleep(TOLD_SECONDS)
    assert chat.backend.users("leave") == ["ann"]


async def test_a_daemon_that_ends_leaves_nothing(chat: Chat, autojump_clock: MockClock) -> None:
    first, second = chat.start(), chat.start()
    first.store.keep_seconds = 0.1
    first.come("ann")
    await trio.sleep(1)
    await first.stop()
    assert chat.backend.here() == []
    await trio.sleep(1)
    assert len(chat.model.ledgers) == len(chat.model.daemons) == 1
    with structlog.testing.capture_logs() as logs:
        await trio.sleep(60)
    assert logs == []
    assert second.metrics.presence_buried == 0


async def test_one_tells_and_not_all(chat: Chat, autojump_clock: MockClock) -> None:
    """Many daemons see that one is dead."""
    living = [chat.start() for _ in range(5)]
    dead = chat.start()
    for number in range(20):
        dead.come(f"u{number}")
    await trio.sleep(1)
    dead.kill()
    await trio.sleep(TOLD_SECONDS)
    assert max(Counter(chat.backend.of("leave")).values()) == 1
    assert len(chat.backend.of("leave")) == 20
    assert sorted(each.metrics.presence_buried for each in living) == [0, 0, 0, 0, 20]


async def test_the_next_goes_on_where_a_burier_was_killed(
    chat: Chat, autojump_clock: MockClock
) -> None:
    """Leaves that it had told and not forgotten are told twice, and no others."""
    chat.backend.seconds = 4
    first, second, third = (chat.start() for _ in range(3))
    for number in range(3 * READ_AT_ONCE):
        third.come(f"u{number}")
    await trio.sleep(20)
    third.kill()
    while not chat.backend.of("leave"):  # noqa: ASYNC110
        await trio.sleep(0.1)
    burier = first if first.visits.waiting else second
    await trio.sleep(5)
    told = set(chat.backend.of("leave"))
    kept = chat.model.ledgers[
        next(each for each in chat.model.daemons if len(chat.model.ledgers[each].visits))
    ]
    doubtful = told & kept.visits.keys()
    burier.kill()
    await trio.sleep(2 * TOLD_SECONDS)
    counts = Counter(chat.backend.of("leave"))
    assert set(counts) == set(chat.backend.of("join"))
    assert {number for number, count in counts.items() if count > 1} == doubtful
    assert 0 < len(doubtful) < len(counts)


async def test_who_was_cut_off_begins_anew(chat: Chat, autojump_clock: MockClock) -> None:
    """Its connections were told as gone; those that are there come again, under other ids."""
    first, second = chat.start(), chat.start()
    ann, ben = second.come("ann"), second.come("ben")
    await trio.sleep(2)
    before = ann.connection_id
    second.store.is_cut_off = True
    await trio.sleep(5)
    second.come("carl")
    await trio.sleep(TOLD_SECONDS)
    second.go(ben)
    assert chat.backend.users("leave") == ["ann", "ben"]
    assert first.metrics.presence_buried == 2
    await trio.sleep(60)
    assert chat.backend.users("join") == ["ann", "ben"]
    second.store.is_cut_off = False
    with structlog.testing.capture_logs() as logs:
        await trio.sleep(5)
    (line,) = [each for each in logs if each["event"] == "presence.was_buried"]
    assert line["connections"] == 2
    assert chat.backend.here() == ["ann", "carl"]
    assert chat.backend.users("leave") == ["ann", "ben"]
    assert ann.connection_id != before
    await second.stop()
    assert chat.backend.here() == []
    assert max(Counter(chat.backend.of("leave")).values()) == 1


async def test_a_short_cut_is_not_noticed(chat: Chat, autojump_clock: MockClock) -> None:
    """What comes and goes meanwhile is told when Redis is back, join before leave."""
    first, second = chat.start(), chat.start()
    ann = second.come("ann")
    await trio.sleep(2)
    second.store.is_cut_off = True
    second.go(ann)
    ben = second.come("ben")
    await trio.sleep(8)
    second.go(ben)
    assert chat.backend.told[1:] == [("leave", "ann", ann.connection_id)]
    second.store.is_cut_off = False
    await trio.sleep(2)
    assert [told[:2] for told in chat.backend.told] == [
        ("join", "ann"),
        ("leave", "ann"),
        ("join", "ben"),
        ("leave", "ben"),
    ]
    await trio.sleep(60)
    assert len(chat.backend.told) == 4
    assert first.metrics.presence_buried == 0


async def test_nobody_is_buried_because_redis_was_away(
    chat: Chat, autojump_clock: MockClock
) -> None:
    """However long: when it is back, all have time to be listed again."""
    made = [chat.start() for _ in range(3)]
    for number, daemon in enumerate(made):
        daemon.come(f"u{number}")
    await trio.sleep(2)
    for daemon in made:
        daemon.store.is_cut_off = True
    await trio.sleep(600)
    for daemon in made:
        daemon.store.is_cut_off = False
        await trio.sleep(3)
    await trio.sleep(60)
    assert chat.backend.of("leave") == []
    assert len(chat.backend.of("join")) == 3


async def test_what_redis_lost_is_noted_again(chat: Chat, autojump_clock: MockClock) -> None:
    """FLUSHALL, and the daemon is killed a moment later."""
    first, second = chat.start(), chat.start()
    for number in range(2 * AT_ONCE + 1):
        second.come(f"u{number}")
    await trio.sleep(2)
    chat.model.lose()
    await trio.sleep(10)
    second.kill()
    await trio.sleep(TOLD_SECONDS)
    assert Counter(chat.backend.of("leave")) == Counter(chat.backend.of("join"))
    assert first.metrics.presence_buried == 2 * AT_ONCE + 1


async def test_what_redis_has_again_is_forgotten_again(
    chat: Chat, autojump_clock: MockClock
) -> None:
    """As after a fail-over to a replica that had not heard of the last leaves."""
    first, second = chat.start(), chat.start()
    ann = second.come("ann")
    second.come("ben")
    await trio.sleep(2)
    (kept,) = [each for each in chat.model.ledgers.values() if each.visits]
    older = dict(kept.visits)
    second.go(ann)
    await trio.sleep(2)
    kept.visits = older
    await trio.sleep(10)
    second.kill()
    await trio.sleep(TOLD_SECONDS)
    assert chat.backend.users("leave") == ["ann", "ben"]
    assert first.metrics.presence_buried == 1


async def test_what_redis_refuses_holds_up_no_hook(chat: Chat, autojump_clock: MockClock) -> None:
    """Joins and leaves are told all the same; and noted, when it can be."""
    first, second = chat.start(), chat.start()
    second.store.refusal = KeyUnusable("fastimd:visits:x", "WRONGTYPE")
    ann = second.come("ann")
    await trio.sleep(5)
    second.go(ann)
    second.come("ben")
    await trio.sleep(5)
    assert [told[:2] for told in chat.backend.told] == [
        ("join", "ann"),
        ("leave", "ann"),
        ("join", "ben"),
    ]
    second.store.refusal = None
    await trio.sleep(5)
    second.kill()
    await trio.sleep(TOLD_SECONDS)
    assert chat.backend.users("leave") == ["ann", "ben"]
    assert first.metrics.presence_buried == 1


async def test_who_ends_buries_no_more(chat: Chat, autojump_clock: MockClock) -> None:
    """The drain is not held up by the leaves of others; they are left to others."""
    first, second = chat.start(), chat.start()
    for number in range(5 * READ_AT_ONCE):
        second.come(f"u{number}")
    await trio.sleep(2)
    second.kill()
    chat.backend.seconds = 1
    while not chat.backend.of("leave"):  # noqa: ASYNC110
        await trio.sleep(0.1)
    await first.stop()
    assert 0 < len(chat.backend.of("leave")) <= READ_AT_ONCE
    chat.start()
    await trio.sleep(2 * TOLD_SECONDS)
    assert Counter(chat.backend.of("leave")) == Counter(chat.backend.of("join"))


async def test_it_costs_a_few_calls(chat: Chat, autojump_clock: MockClock) -> None:
    """Whoever is there; and joins are noted together."""
    first = chat.start()
    await trio.sleep(1)
    before = first.store.calls
    for number in range(AT_ONCE):
        first.come(f"u{number}")
    await trio.sleep(1)
    assert first.store.calls - before <= 4
    before = first.store.calls
    await trio.sleep(100)
    assert first.store.calls - before <= 2 * 100 / 4 + 2


# --- stories


async def tell_story(chat: Chat, seed: int) -> None:
    """Random comings, goings, kills, cuts, lost answers; at the end all daemons but one are killed.

    A leave may be told twice only when whoever told it first was killed, or cut off, before Redis
    knew; and a leave without a join only when that happened before the join was told.
    """
    dice = random.Random(seed)
    chat.backend.seconds = dice.choice([0, 0.05, 1])
    living = [chat.start() for _ in range(dice.randint(2, 4))]
    for each in living:
        each.store.failing = random.Random(seed) if dice.random() < 0.5 else None
    doubtful = chat.backend.doubtful

    def doubt() -> None:
        kept = [each.visits.keys() for each in chat.model.ledgers.values()]
        noted = {number for each in kept for number in each}
        doubtful.update(set(chat.backend.of("leave")) & noted, noted - set(chat.backend.of("join")))

    for _ in range(dice.randint(20, 120)):
        daemon, event = dice.choice(living), dice.random()
        if event < 0.55 or not daemon.here:
            daemon.come(f"u{dice.randint(0, 9)}")
        elif event < 0.9:
            daemon.go(dice.choice(daemon.here))
        elif event < 0.94:
            doubt()
            daemon.kill()
            living.remove(daemon)
            living.append(chat.start())
        elif event < 0.97:
            doubt()
            daemon.store.is_cut_off = not daemon.store.is_cut_off
        else:
            await trio.sleep(dice.random() * 40)
        await trio.sleep(dice.choice([0, 0.01, 1]))
    for each in living:
        doubt()
        each.store.is_cut_off = False
        each.store.failing = None
    await trio.sleep(2 * TOLD_SECONDS)
    here = sorted(visit.user for each in living for visit in each.here)
    assert chat.backend.here() == here
    for each in living[1:]:
        doubt()
        each.kill()
    await trio.sleep(2 * TOLD_SECONDS)
    await living[0].stop()
    joins, leaves = Counter(chat.backend.of("join")), Counter(chat.backend.of("leave"))
    assert set(joins.values()) == {1}
    assert not joins.keys() - leaves.keys()
    assert {number for number, count in leaves.items() if count > 1} <= doubtful
    assert leaves.keys() - joins.keys() <= doubtful
    told = [(kind, number) for kind, _, number in chat.backend.told]
    both = joins.keys() - doubtful
    assert all(told.index(("join", each)) < told.index(("leave", each)) for each in both)


@pytest.mark.parametrize("seed", range(40))
async def test_each_join_has_its_leave_whatever_happens(
    chat: Chat, seed: int, autojump_clock: MockClock
) -> None:
    await tell_story(chat, seed)
