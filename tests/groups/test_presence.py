"""Who is here, by the clock: daemons that note and tell, on groups that the test has in memory."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest
import structlog
import trio
from presence_model import Model
from trio.testing import MockClock

from fastimd.base.errors import KeyUnusable, StoreUnavailable
from fastimd.base.settings import Config
from fastimd.base.settings.presence import Presence as Settings
from fastimd.groups.presence.presence import GATHER_A_GROUP, GATHER_SECONDS, MOST_LISTED, Presence
from fastimd.groups.presence.roster import AWAY_SECONDS, CHANGES_AT_ONCE, Coming
from fastimd.groups.store.presence import LEASE_SECONDS, Change, Letter, Presences, Roll

OUT_SECONDS = 30
QUIET_SECONDS = 45
"""After which all daemons have heard of everything."""


@dataclass(eq=False)
class Socket:
    """A member, and what it is told."""

    user: str
    client: str
    conn_info: bytes = b""
    typing: list[str] = field(default_factory=list)

    def tell_typing(self, _group: str, user: str) -> None:
        self.typing.append(user)


class Redis:
    """The groups, and the daemons that letters go to."""

    def __init__(self) -> None:
        self.model = Model(self._publish)
        self.inboxes: dict[str, Presence] = {}
        self.deaf: set[str] = set()
        self.calls = self.looks = 0
        self.most_values = 0

    def now(self) -> float:
        return trio.current_time() * 1000 + 1_000_000

    def _publish(
        self, to: str, group: str, version: int, come: list[tuple[str, bytes]], gone: list[str]
    ) -> None:
        flat = [each for user, value in come for each in (user, value.decode())]
        self.deliver(to, Letter(group, f"{version}", flat, gone))

    def deliver(self, to: str, letter: Letter) -> None:
        inbox = self.inboxes.get(to)
        if inbox is not None and to not in self.deaf:
            inbox.receive(msgspec.json.encode(letter))


class Keys:
    """In place of ``Presences``: a call takes a moment, and may fail before it holds or after."""

    def __init__(self, redis: Redis, daemon: str) -> None:
        self.redis = redis
        self.daemon = daemon
        self.seconds = 0.001
        self.looks = 0
        self.failing: random.Random | None = None
        self.refusal: Exception | None = None

    def send(self, group: str, change: Change, announced: int, listed: int) -> Any:
        return None

    def renew(self, _group: str, had: int, noted: int) -> Any:
        return had, noted

    async def reply(
        self, _call: Any, group: str, change: Change, announced: int, listed: int
    ) -> Roll | None:
        async with self._answering():
            self.looks += 1
            self.redis.looks += 1
            self.redis.most_values = max(self.redis.most_values, len(change.values))
            times = self.redis.now(), LEASE_SECONDS * 1000
            return self.redis.model.present(group, self.daemon, change, announced, listed, *times)

    async def is_renewed(self, call: Any, group: str) -> bool:
        async with self._answering():
            times = self.redis.now(), LEASE_SECONDS * 1000
            had, noted = call
            return self.redis.model.renew(group, self.daemon, had, noted, *times)

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        await trio.sleep(self.seconds)
        if self.refusal is not None:
            raise self.refusal
        chance = self.failing.random() if self.failing is not None else 1
        if chance < 0.15:
            raise StoreUnavailable("away")
        self.redis.calls += 1
        yield
        await trio.sleep(self.seconds)
        if chance < 0.3:
            raise StoreUnavailable("no answer")

    async def tell(self, group: str, letter: Letter) -> None:
        for each in self.redis.model.groups[group].daemons:
            if each != self.daemon:
                self.redis.deliver(each, letter)


class Daemon:
    """A presence with its sockets; ``told`` are the events that each listener has heard."""

    def __init__(self, redis: Redis, name: str, config: Config) -> None:
        self.keys = Keys(redis, name)
        self.presence = Presence(cast(Presences, self.keys), config)
        self.redis = redis
        redis.inboxes[name] = self.presence
        self.sockets: dict[Socket, str] = {}
        self.told: dict[Socket, list[tuple[str, bool]]] = {}
        self.scope = trio.CancelScope()

    async def run(self) -> None:
        with self.scope:
            await self.presence.run()

    def kill(self) -> None:
        self.scope.cancel()
        del self.redis.inboxes[self.keys.daemon]
        self.sockets.clear()

    def come(self, group: str, user: str, client: str = "", *, listens: bool = False) -> Socket:
        socket = Socket(user, client or f"{user} at {self.keys.daemon}")
        self.presence.come(group, socket)
        self.sockets[socket] = group
        if listens:
            told = self.told[socket] = []

            def listen(_group: str, comings: list[Coming]) -> None:
                told.extend((who, has_come) for who, _, has_come in comings)

            self.presence.listen(group, socket, listen)
        return socket

    def go(self, socket: Socket) -> None:
        self.presence.go(self.sockets.pop(socket), socket)

    def users(self, group: str) -> list[str]:
        return [socket.user for socket, its in self.sockets.items() if its == group]


@asynccontextmanager
async def daemons(count: int, **settings: Any) -> AsyncIterator[list[Daemon]]:
    redis, config = Redis(), Config(presence=Settings(**settings))
    made = [Daemon(redis, f"d{number}", config) for number in range(count)]
    async with trio.open_nursery() as nursery:
        for each in made:
            nursery.start_soon(each.run)
        yield made
        nursery.cancel_scope.cancel()


async def listed(daemon: Daemon, group: str = "g") -> list[str]:
    found = await daemon.presence.members_of(group)
    assert found is not None
    return sorted(user for user, _ in found)


# --- one thing after the other


async def test_members_and_counts_are_of_all_daemons(autojump_clock: MockClock) -> None:
    async with daemons(2) as (first, second):
        ann = first.come("g", "ann")
        assert await listed(first) == ["ann"]  # at once, for oneself
        second.come("g", "ben")
        second.come("g", "ann")
        await trio.sleep(0.2)
        assert await listed(first) == ["ann", "ann", "ben"]
        assert await first.presence.count("g") == (3, 2)
        first.go(ann)
        assert await first.presence.count("g") == (2, 2)
        assert await first.presence.count("nobody's") == (0, 0)
        assert first.presence.connections == 0
        assert second.presence.connections == 2


async def test_who_comes_back_soon_is_not_told_as_gone(autojump_clock: MockClock) -> None:
    async with daemons(2) as (first, second):
        watcher = first.come("g", "w", listens=True)
        await trio.sleep(0.5)
        ann = second.come("g", "ann")
        await trio.sleep(1)
        second.go(ann)
        await trio.sleep(3)
        ann = first.come("g", "ann")
        await trio.sleep(10)
        assert first.told[watcher] == [("w", True), ("ann", True)]
        assert await first.presence.count("g") == (2, 2)
        first.go(ann)
        await trio.sleep(AWAY_SECONDS - 0.1)
        assert first.told[watcher] == [("w", True), ("ann", True)]
        assert await first.presence.count("g") == (1, 1)
        await trio.sleep(1)
        assert first.told[watcher][2:] == [("ann", False)]


async def test_who_was_away_when_one_came_is_told_as_coming(autojump_clock: MockClock) -> None:
    """Nobody has told it that somebody was here."""
    async with daemons(2) as (first, second):
        second.go(second.come("g", "ann"))
        await trio.sleep(0.5)
        watcher = first.come("g", "w", listens=True)
        await trio.sleep(0.5)
        assert await listed(first) == ["w"]
        second.come("g", "ann")
        await trio.sleep(0.5)
        assert first.told[watcher] == [("w", True), ("ann", True)]


async def test_the_members_of_a_killed_daemon_are_out(autojump_clock: MockClock) -> None:
    async with daemons(3) as (first, second, third):
        watcher = first.come("g", "w", listens=True)
        await trio.sleep(0.5)
        second.come("g", "ann")
        second.come("g", "ben")
        third.come("g", "ben")
        await trio.sleep(5)
        second.kill()
        await trio.sleep(LEASE_SECONDS + 0.1)
        assert await first.presence.count("g") == (2, 2)
        await trio.sleep(OUT_SECONDS - LEASE_SECONDS)
        assert sorted(first.told[watcher][:3]) == [("ann", True), ("ben", True), ("w", True)]
        assert first.told[watcher][3:] == [("ann", False)]


@pytest.mark.parametrize("seconds", [1, 8, 15, 22])
async def test_who_listens_hears_in_time_of_a_killed_daemon(
    autojump_clock: MockClock, seconds: float
) -> None:
    """Whenever it is killed: each renewal looks at the other daemons then."""
    async with daemons(2) as (first, second):
        watcher = first.come("g", "w", listens=True)
        await trio.sleep(0.5)
        second.come("g", "ann")
        await trio.sleep(seconds)
        second.kill()
        await trio.sleep(OUT_SECONDS)
        assert first.told[watcher][1:] == [("ann", True), ("ann", False)]


async def test_letters_in_their_order_cost_no_reading(autojump_clock: MockClock) -> None:
    """Who is told of each change knows all."""
    async with daemons(2) as (first, second):
        watcher = first.come("g", "w", listens=True)
        await trio.sleep(0.6)  # no turn of a renewal comes then
        before = first.keys.looks
        for number in range(6):
            second.come("g", f"u{number}")
            await trio.sleep(1)
        assert first.keys.looks - before <= 1  # its lease
        assert len(first.told[watcher]) == 7


async def test_a_letter_that_comes_before_an_answer_is_taken_with_it(
    autojump_clock: MockClock,
) -> None:
    """And not as late as when the group is read the next time."""
    async with daemons(2) as (first, second):
        watcher = first.come("g", "w", listens=True)
        await trio.sleep(0.6)  # no turn of a renewal comes then
        first.keys.seconds = 1
        first.come("g", "ann")
        await trio.sleep(1.3)
        second.come("g", "ben")
        await trio.sleep(0.2)
        assert first.told[watcher] == [("w", True)]
        await trio.sleep(0.7)
        assert first.told[watcher] == [("w", True), ("ann", True), ("ben", True)]


async def test_nobody_is_told_in_large_groups(autojump_clock: MockClock) -> None:
    async with daemons(2, announce_up_to=3) as (first, second):
        watcher = first.come("g", "w", listens=True)
        await trio.sleep(0.5)
        crowd = [second.come("g", f"u{number}") for number in range(5)]
        await trio.sleep(0.5)
        assert first.told[watcher] == [("w", True)]
        typed = second.come("g", "typist")
        await second.presence.count("g")
        assert await second.presence.type("g", typed) is False
        for each in crowd:
            second.go(each)
        await trio.sleep(20)
        second.come("g", "late")
        await trio.sleep(1)
        assert first.told[watcher][-1] == ("late", True)
        assert ("u0", False) not in first.told[watcher]


async def test_typing_knows_how_large_a_group_has_become(autojump_clock: MockClock) -> None:
    """Where nobody is told of others, a daemon looks when it is asked to tell somebody."""
    async with daemons(2, announce_up_to=3) as (first, second):
        ann, ben = first.come("g", "ann"), first.come("g", "ben")
        await trio.sleep(1)
        assert await first.presence.type("g", ann) is True
        for number in range(5):
            second.come("g", f"u{number}")
        await trio.sleep(31)
        assert await first.presence.type("g", ann) is False
        assert ben.typing == ["ann"]


@pytest.mark.parametrize("size", [CHANGES_AT_ONCE - 1, CHANGES_AT_ONCE, CHANGES_AT_ONCE + 200])
async def test_all_who_go_at_once_are_told_as_gone(autojump_clock: MockClock, size: int) -> None:
    """Also when they are more than are noted at once, and a daemon's last ones."""
    async with daemons(2, announce_up_to=1000) as (first, second):
        watcher = first.come("g", "w", listens=True)
        await trio.sleep(0.5)
        crowd = [second.come("g", f"u{number}") for number in range(size)]
        await trio.sleep(1)
        for each in crowd:
            second.go(each)
        await trio.sleep(AWAY_SECONDS + 1)
        gone = [user for user, has_come in first.told[watcher] if not has_come]
        assert sorted(gone) == sorted(each.user for each in crowd)
        assert await first.presence.count("g") == (1, 1)


async def test_data_that_is_lost_is_noted_again(autojump_clock: MockClock) -> None:
    """And nobody is told of it."""
    async with daemons(2) as (first, second):
        watcher = first.come("g", "w", listens=True)
        await trio.sleep(0.5)
        second.come("g", "ann")
        await trio.sleep(3)
        first.redis.model.lose()
        await trio.sleep(QUIET_SECONDS)
        assert first.told[watcher] == [("w", True), ("ann", True)]
        assert await first.presence.count("g") == (2, 2)


async def test_what_a_replica_has_not_heard_of_is_noted_again(autojump_clock: MockClock) -> None:
    """Also when it has as many users as there should be."""
    async with daemons(2) as (first, second):
        ann = second.come("g", "ann")
        await trio.sleep(1)
        saved = first.redis.model.saved()
        second.go(ann)
        second.come("g", "ben")
        await trio.sleep(AWAY_SECONDS + 1)
        first.redis.model.restore(saved)
        await trio.sleep(10)
        assert await listed(first) == ["ben"]


async def test_a_gap_is_caught_up_with(autojump_clock: MockClock) -> None:
    async with daemons(2) as (first, second):
        watcher = first.come("g", "w", listens=True)
        await trio.sleep(0.5)
        ann = second.come("g", "ann")
        await trio.sleep(1)
        first.redis.deaf.add("d0")
        second.come("g", "ben")
        second.go(ann)
        await trio.sleep(5)
        first.redis.deaf.clear()
        first.presence.note_gap()
        await trio.sleep(0.5)
        assert sorted(first.told[watcher][2:]) == [("ann", False), ("ben", True)]


async def test_a_letter_that_is_missing_is_noticed_with_the_next(
    autojump_clock: MockClock,
) -> None:
    """And what it said is told then, not when the group is read the next time."""
    async with daemons(2) as (first, second):
        watcher = first.come("g", "w", listens=True)
        await trio.sleep(0.5)
        first.redis.deaf.add("d0")
        second.come("g", "ann")
        await trio.sleep(0.1)
        first.redis.deaf.clear()
        second.come("g", "ben")
        await trio.sleep(0.2)
        assert sorted(first.told[watcher][1:]) == [("ann", True), ("ben", True)]


async def test_what_a_token_says_anew_is_noted(autojump_clock: MockClock) -> None:
    async with daemons(2) as (first, second):
        ann = first.come("g", "ann")
        await trio.sleep(0.5)
        ann.conn_info = b'{"name":"Ann"}'
        first.presence.renew("g", "ann")
        await trio.sleep(0.5)
        found = await second.presence.members_of("g")
        assert found is not None
        assert [bytes(place.info) for _, place in found] == [ann.conn_info]


class Always(random.Random):
    """No chance."""

    def random(self) -> float:
        return 0.2


async def test_who_has_gone_before_the_answer_is_lost_is_out(autojump_clock: MockClock) -> None:
    """Redis has noted who came, the daemon does not know it, and nobody is there by now."""
    async with daemons(2) as (first, second):
        first.keys.seconds, first.keys.failing = AWAY_SECONDS, Always()
        ann = first.come("g", "ann")
        await trio.sleep(0.1)
        first.go(ann)
        await trio.sleep(2 * AWAY_SECONDS - 0.1)
        assert first.redis.model.groups["g"].members["d0"].keys() == {"ann"}
        first.keys.seconds, first.keys.failing = 0, None
        await trio.sleep(2)
        assert await second.presence.count("g") == (0, 0)


async def test_typing_is_told_at_most_every_three_seconds(autojump_clock: MockClock) -> None:
    async with daemons(2) as (first, second):
        ann, ben = first.come("g", "ann"), first.come("g", "ben")
        again, cleo = second.come("g", "ann"), second.come("g", "cleo")
        await trio.sleep(10)
        for each, daemon in ((ann, first), (again, second), (ann, first)):
            assert await daemon.presence.type("g", each) is True
        assert [each.typing for each in (ann, ben, again, cleo)] == [[], ["ann"], [], ["ann"]]
        await trio.sleep(2.99)
        assert await first.presence.type("g", ann)
        assert [each.typing for each in (ben, cleo)] == [["ann"]] * 2
        await trio.sleep(0.02)
        assert await second.presence.type("g", again)
        assert [each.typing for each in (ben, cleo)] == [["ann"] * 2] * 2


async def test_an_idle_room_costs_nothing_by_member(autojump_clock: MockClock) -> None:
    """Few calls, whatever its size; and a call has not too many users."""
    calls = []
    for size in (10, 3_000):
        async with daemons(2) as made:
            for number in range(size):
                made[number % 2].come("g", f"u{number}")
            await trio.sleep(10)
            assert await made[0].presence.count("g") == (size, size)
            members = await made[0].presence.members_of("g")
            assert (members is None) == (size > MOST_LISTED)
            redis = made[0].redis
            assert redis.most_values <= CHANGES_AT_ONCE
            before, looks = redis.calls, redis.looks
            await trio.sleep(112)
            calls.append((redis.calls - before, redis.looks - looks))
    assert calls == [(32, 0), (32, 0)]


async def test_what_redis_refuses_is_tried_again_in_its_turn(autojump_clock: MockClock) -> None:
    async with daemons(1) as (first,):
        first.keys.refusal = KeyUnusable("fastimd:here:g", "WRONGTYPE")
        first.come("g", "ann")
        await trio.sleep(1)
        with pytest.raises(KeyUnusable):
            await first.presence.count("g")
        first.keys.refusal = None
        await trio.sleep(8)
        assert first.redis.model.groups["g"].members["d0"].keys() == {"ann"}
        before = first.redis.calls
        await trio.sleep(28)
        assert 3 <= first.redis.calls - before <= 5  # its lease, every seven seconds


async def test_without_presence_nothing_is_noted(autojump_clock: MockClock) -> None:
    async with daemons(1, enabled=False) as (first,):
        ann = first.come("g", "ann", listens=True)
        first.presence.renew("g", "ann")
        await trio.sleep(10)
        first.go(ann)
        assert first.redis.calls == 0
        assert not first.presence.is_enabled


async def test_all_is_noted_before_the_end(autojump_clock: MockClock) -> None:
    async with daemons(1) as (first,):
        sockets = [first.come(f"g{number}", "ann") for number in range(300)]
        await first.presence.wait_all_noted()
        assert len(first.redis.model.groups) == 300
        for each in sockets:
            first.go(each)
        await first.presence.wait_all_noted()
        groups = first.redis.model.groups.values()
        assert [entry.clients for group in groups for entry in group.daemons.values()] == [0] * 300
        await trio.sleep(10)
        assert first.presence._rosters == {}
        assert all(not turn for turn in first.presence._turns)


async def test_a_crowd_is_noted_together(autojump_clock: MockClock) -> None:
    """Behind a round of many groups the next one waits, and has what came meanwhile."""
    async with daemons(1) as (first,):
        first.keys.seconds = 0
        for number in range(300):
            first.come(f"g{number}", "ann")
        await trio.sleep(2 * GATHER_SECONDS)
        looks = first.keys.looks
        for number in range(5):
            first.come("g", f"user-{number}")
            await trio.sleep(1.5 * GATHER_SECONDS)
        await trio.sleep(300 * GATHER_A_GROUP)
        assert first.keys.looks <= looks + 2  # its turn may come meanwhile
        assert len(first.redis.model.groups["g"].members["d0"]) == 5


async def test_the_last_of_a_crowd_is_noted_at_once(autojump_clock: MockClock) -> None:
    """A daemon that stops does not wait until more come."""
    async with daemons(1) as (first,):
        first.keys.seconds = 0
        sockets = [first.come(f"g{number}", "ann") for number in range(300)]
        await first.presence.wait_all_noted()
        for each in sockets:
            first.go(each)
        with trio.fail_after(GATHER_SECONDS / 2):
            await first.presence.wait_all_noted()
        groups = first.redis.model.groups.values()
        assert [entry.clients for group in groups for entry in group.daemons.values()] == [0] * 300


async def test_renewals_leave_nothing_to_wait_for(autojump_clock: MockClock) -> None:
    async with daemons(1) as (first,):
        first.come("g", "ann")
        await trio.sleep(60)
        with trio.fail_after(1):
            await first.presence.wait_all_noted()
        first.come("g", "ben")
        await first.presence.wait_all_noted()
        assert first.redis.model.groups["g"].members["d0"].keys() == {"ann", "ben"}


async def test_a_letter_that_is_none_is_logged(autojump_clock: MockClock) -> None:
    async with daemons(1) as (first,):
        first.come("g", "w", listens=True)
        await trio.sleep(1)
        letters = (b"", b"[]", b'{"group":"g","version":"x"}', b'{"group":"none"}')
        with structlog.testing.capture_logs() as logs:
            for letter in letters:
                first.presence.receive(letter)
        assert [line["event"] for line in logs] == ["presence.unknown_letter"] * 3


# --- stories


async def tell_story(seed: int, *, has_faults: bool) -> None:
    dice = random.Random(seed)
    announced = dice.choice([3, 6, 200])
    async with daemons(dice.randint(1, 3), announce_up_to=announced) as made:
        for each in made:
            each.keys.seconds = dice.choice([0, 0.001, 0.1])
            each.keys.failing = random.Random(seed) if has_faults else None
        living = list(made)
        watchers = [each.come("g", f"w{number}", listens=True) for number, each in enumerate(made)]
        saved = made[0].redis.model.saved()
        for _ in range(dice.randint(5, 40)):
            daemon = dice.choice(living)
            event = dice.random()
            others = [socket for socket in daemon.sockets if socket not in watchers]
            if event < 0.5 or not others:
                daemon.come("g", f"u{dice.randint(0, 6)}", f"c{dice.random()}")
            elif event < 0.9:
                daemon.go(dice.choice(others))
            elif has_faults and event < 0.91:
                daemon.redis.model.lose()
            elif has_faults and event < 0.93:  # a fail-over, which loses the last changes
                daemon.redis.model.restore(saved)
                for each in living:
                    each.presence.note_gap()
            elif has_faults and event < 0.96:
                daemon.redis.deaf.add(daemon.keys.daemon)
                await trio.sleep(dice.random() * 3)
                daemon.redis.deaf.clear()
                daemon.presence.note_gap()
            elif has_faults and event < 0.97 and len(living) > 1:
                living.remove(daemon)
                daemon.kill()
            saved = daemon.redis.model.saved()
            await trio.sleep(dice.choice([0, 0.01, 0.3, 3, 4]))
        for each in made:
            each.keys.failing = None
        await trio.sleep(QUIET_SECONDS)
        users = [user for daemon in living for user in daemon.users("g")]
        for daemon in living:
            assert await daemon.presence.count("g") == (len(users), len(set(users)))
            assert await listed(daemon) == sorted(users)
        if len(set(users)) <= announced:
            check_told(living, watchers, set(users), was_always_small=announced == 200)


def check_told(
    living: list[Daemon], watchers: list[Socket], users: set[str], *, was_always_small: bool
) -> None:
    """What listeners were told, after what they have read at first, leads to who is here."""
    for daemon in living:
        for watcher, told in daemon.told.items():
            last: dict[str, bool] = {}
            for user, has_come in told:
                assert last.get(user) != has_come or not was_always_small, (user, told)
                last[user] = has_come
            if was_always_small:
                assert {user for user, has_come in last.items() if has_come} <= users, told
                assert not {user for user, has_come in last.items() if not has_come} & users, told
            assert watcher in watchers


@pytest.mark.parametrize("seed", range(40))
async def test_stories_without_faults(autojump_clock: MockClock, seed: int) -> None:
    await tell_story(seed, has_faults=False)


@pytest.mark.parametrize("seed", range(80))
async def test_stories_with_faults(autojump_clock: MockClock, seed: int) -> None:
    await tell_story(seed, has_faults=True)
