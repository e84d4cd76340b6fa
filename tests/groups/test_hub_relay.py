"""Nothing twice, nothing missing: arrivals at the hub, and the repair of a subscription."""

from __future__ import annotations

import gc
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from fastimd.base import codec
from fastimd.base import log as logs
from fastimd.base.errors import StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config, Socket
from fastimd.classic.dialect import Classic
from fastimd.groups import audience
from fastimd.groups.audience import Audience, Dialect, Since
from fastimd.groups.group import Group
from fastimd.groups.hub import MEMBERS_A_TURN, Hub
from fastimd.groups.moderation.policies import Policies
from fastimd.groups.moderation.policy import Policy
from fastimd.groups.relay import Relay
from fastimd.groups.store.history import History, Position, Tail
from fastimd.groups.store.stand import Stand
from fastimd.groups.subscription import MAX_HELD, MAX_TOLD, NOTICE, Subscription
from fastimd.websocket.outbox import Outbox

# The hub, with everything around it played


def no_loss(*_: str) -> None:
    """Nobody is told that nothing more will come."""
    raise AssertionError


class Ear:
    """An outbox that remembers what was pushed, and in how many pushes."""

    def __init__(self) -> None:
        self.pushes: list[bytes] = []
        self.messages = 0

    def push(self, data: bytes) -> None:
        self.pushes.append(data)

    @property
    def heard(self) -> list[Any]:
        """The greeting as the list of its ts, then the ts of each message."""
        texts = [json.loads(text) for text in frames(b"".join(self.pushes))]
        return [
            [each["ts"] for each in text["list"]] if "list" in text else text["ts"]
            for text in texts
        ]


def frames(data: bytes) -> Iterator[bytes]:
    """The payloads of unmasked text frames."""
    while data:
        assert data[0] == 0x81
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        yield data[start : start + size]
        data = data[start + size :]


class FakeRelay:
    """Confirms a subscription when the test says so, at once by default."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self.confirming = True
        self.waiting: list[Callable[[], None]] = []

    def listen(
        self, group: str, listener: Callable[[int, bytes], None], on_lost: Callable[[], None]
    ) -> Subscription:
        subscription = self.subscriptions.setdefault(group, Subscription(group))
        subscription.listeners[listener] = on_lost
        if self.confirming:
            subscription.confirmed.set()
        return subscription

    def unlisten(self, subscription: Subscription, listener: Callable[[int, bytes], None]) -> None:
        del subscription.listeners[listener]

    async def wait_heard(self, subscription: Subscription) -> None:
        await subscription.confirmed.wait()

    def when_passed(self, _subscription: Subscription, on_passed: Callable[[], None]) -> None:
        self.waiting.append(on_passed)

    def pass_all(self) -> None:
        """All that was published before has been handed on."""
        waiting, self.waiting = self.waiting, []
        for on_passed in waiting:
            on_passed()


class FakeStore:
    """A list of ts; a reader of the greeting is held, with what it read, until it is let go."""

    def __init__(self) -> None:
        self.listed: list[int] = []
        self.foreign: list[bytes] = []
        self.held: deque[trio.Event] = deque()
        self.holding = False
        self.failure: StoreUnavailable | None = None

    def age(self, ts: int) -> float:
        return ts / 1000

    async def tail(self, _group: str) -> Tail:
        listed = list(self.listed)
        if self.holding:
            self.held.append(trio.Event())
            await self.held[-1].wait()
        if self.failure is not None:
            raise self.failure
        entries = [*map(message, listed), *self.foreign]
        position = Position(listed[-1] if listed else 0)
        return Tail(entries, len(entries), position, frozenset(self.foreign))


class FreePolicies:
    """Policies of groups that nobody moderates, known at once."""

    def open(self, group: str, _subscription: Subscription) -> Policy:
        return Policy(group)

    def send(self, _policy: Policy) -> None:
        return None

    def give_up(self, _policy: Policy, _sent: None) -> None:
        """Nothing was sent."""

    async def take(self, _policy: Policy, _sent: None) -> None:
        """It is known."""

    def close(self, _policy: Policy) -> None:
        """Nothing is kept."""


def message(ts: int, info: str = "hi") -> bytes:
    return codec.message_prefix("1", "3", info) + b"%d}" % ts


class Room:
    """A hub and one group on it."""

    def __init__(self, nursery: trio.Nursery, config: Config | None = None) -> None:
        self.nursery = nursery
        self.relay = FakeRelay()
        self.store = FakeStore()
        self.metrics = Metrics()
        self.dialect: Dialect = Classic(cast(History, self.store))
        self.hub = Hub(
            cast(Relay, self.relay),
            cast(History, self.store),
            self.metrics,
            config or Config(),
            cast(Policies, FreePolicies()),
        )
        self._leave: dict[Ear, trio.Event] = {}

    async def arrive(self, dialect: Dialect | None = None, since: Since | None = None) -> Ear:
        """Let somebody arrive, as far as the store and the relay let them."""
        ear = Ear()
        self._leave[ear] = trio.Event()
        self.nursery.start_soon(self._stay, ear, dialect, since)
        await wait_all_tasks_blocked()
        return ear

    async def arrive_together(self, count: int) -> list[Ear]:
        ears = [Ear() for _ in range(count)]
        for ear in ears:
            self._leave[ear] = trio.Event()
            self.nursery.start_soon(self._stay, ear)
        await wait_all_tasks_blocked()
        return ears

    async def leave(self, ear: Ear) -> None:
        self._leave.pop(ear).set()
        await wait_all_tasks_blocked()

    def say(self, *moments: int) -> None:
        """Messages come from Redis and are not flushed yet."""
        for ts in moments:
            self.store.listed.append(ts)
            self.hear(ts)

    def hear(self, ts: int) -> None:
        self.relay.subscriptions["1"].receive(ts, message(ts), message(ts))

    def hear_foreign(self, info: str) -> None:
        self.relay.subscriptions["1"].receive(0, message(9, info), message(9, info))

    async def _stay(
        self, ear: Ear, dialect: Dialect | None = None, since: Since | None = None
    ) -> None:
        left = self._leave[ear]
        async with member(self.hub, "1", ear, dialect or self.dialect, since=since):
            await left.wait()


@asynccontextmanager
async def member(
    hub: Hub,
    group: str,
    ear: Ear,
    dialect: Dialect,
    on_lost: Callable[..., object] = no_loss,
    since: Since | None = None,
) -> AsyncIterator[None]:
    """Somebody is in a group."""
    membership = hub.enter(group, cast(Outbox, ear), dialect, on_lost)
    try:
        await membership.read_greeting(since)
        membership.begin()
        yield
    finally:
        membership.leave()


@pytest.fixture
def room(nursery: trio.Nursery) -> Room:
    return Room(nursery)


async def test_members_hear_the_same_bytes_once_a_batch(room: Room) -> None:
    """What came in one batch is one push, the very same bytes for every member."""
    first, second = await room.arrive(), await room.arrive()
    room.say(1)
    await room.hub.flush()
    room.say(2, 3)
    await room.hub.flush()
    assert first.heard == second.heard == [[], 1, 2, 3]
    assert len(first.pushes) == 3
    assert first.pushes[2] is second.pushes[2]
    assert room.metrics.deliveries >= 4


class Terse:
    """A dialect of which a batch is one frame, a digit a message; it counts its encodings."""

    resumes = False

    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self.encodings = 0

    async def greet(self, group: str, _since: Since | None) -> audience.Greeting:
        _, _, position, foreign = await self._store.tail(group)
        return audience.Greeting(b"<%d>" % position.ts, position, foreign)

    def encode(self, group: str, batch: audience.Batch) -> list[bytes]:
        self.encodings += 1
        return [group.encode() + b":" + b"".join(b"%d" % ts for ts, _ in batch) + b";"]


async def test_each_hears_its_own_dialect_and_a_batch_is_encoded_once(room: Room) -> None:
    """Members of one group get the same messages, each in the way of its client."""
    terse = Terse(room.store)
    room.store.listed.append(1)
    first, second = await room.arrive(terse), await room.arrive(terse)
    classic = await room.arrive()
    room.relay.pass_all()
    room.relay.pass_all()  # the fence of those who came after the first
    room.say(2, 3)
    await room.hub.flush()
    assert b"".join(first.pushes) == b"".join(second.pushes) == b"<1>1:23;"
    assert first.pushes[-1] is second.pushes[-1]
    assert terse.encodings == 1
    assert classic.heard == [[1], 2, 3]
    await room.leave(first)
    await room.leave(second)
    assert (first.messages, second.messages) == (3, 3)
    room.say(4)
    await room.hub.flush()
    assert terse.encodings == 1, "encoded for nobody"
    assert classic.heard == [[1], 2, 3, 4]


async def test_arrivals_of_two_dialects_miss_nothing(room: Room) -> None:
    """What comes while both greetings are read reaches both, once; a fence settles both."""
    terse = Terse(room.store)
    room.store.holding = True
    one, other = await room.arrive(terse), await room.arrive()
    room.say(1)
    await room.hub.flush()
    for reading in room.store.held:
        reading.set()
    await wait_all_tasks_blocked()
    assert (one.pushes, other.heard) == ([b"<0>1:1;"], [[], 1])
    room.relay.pass_all()
    room.say(2)
    await room.hub.flush()
    assert (b"".join(one.pushes), other.heard) == (b"<0>1:1;1:2;", [[], 1, 2])


class Telling:
    """A dialect that has words for notices; its greeting has those that the store remembers.

    While it is told to hold, readings wait in ``held``. ``asked`` are the positions that it was
    asked for.
    """

    resumes = True

    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self.removals: list[bytes] = []
        self.asked: list[Since | None] = []

    async def greet(self, group: str, since: Since | None) -> audience.Greeting:
        self.asked.append(since)
        removals = list(self.removals) if since else []
        _, _, position, foreign = await self._store.tail(group)
        stand = Stand("e", position, bool(since), [], removals, foreign)
        data = b"<%d" % position.ts + b"".join(removals) + b">"
        return audience.Greeting(data, position, foreign, stand)

    def encode(self, _group: str, batch: audience.Batch) -> list[bytes]:
        return [text if ts == NOTICE else b"%d" % ts for ts, text in batch]


def told(ear: Ear) -> str:
    return b"".join(ear.pushes).decode()


async def test_a_notice_comes_behind_what_came_before_and_once(room: Room) -> None:
    """For a member and for an arrival, in the batch or alone; the seed's dialect says nothing."""
    telling = Telling(room.store)
    member, classic = await room.arrive(telling), await room.arrive()
    room.relay.pass_all()
    room.relay.pass_all()
    arrival = await room.arrive(telling)
    room.say(1)
    assert room.hub.notice("1", b"a")
    room.say(2)
    await room.hub.flush()
    room.hub.notice("1", b"b")
    await room.hub.flush()
    room.say(3)
    await room.hub.flush()
    assert told(member) == told(arrival) == "<0>1a2b3"
    assert classic.heard == [[], 1, 2, 3]
    assert len(classic.pushes) == 3
    assert not room.hub.notice("2", b"c"), "nobody is there"
    for ear in (member, arrival, classic):
        await room.leave(ear)
        assert ear.messages == 4, "the greeting and three messages"
    assert room.metrics.deliveries == 9


async def test_a_notice_makes_no_arrival_a_member(room: Room) -> None:
    """Nothing is known by it of what is still to come."""
    telling = Telling(room.store)
    room.store.listed.append(5)
    ear = await room.arrive(telling)
    room.hub.notice("1", b"a")
    await room.hub.flush()
    room.hear(5)
    await room.hub.flush()
    room.say(6)
    await room.hub.flush()
    assert told(ear) == "<5>a6"


async def test_notices_while_a_greeting_is_read_come_once(room: Room) -> None:
    """Those that the greeting has are not told again; others are, behind it."""
    telling = Telling(room.store)
    room.store.holding = True
    telling.removals = [b"a"]
    ear = await room.arrive(telling, Since("e", 0))
    fresh = await room.arrive(telling)
    room.hub.notice("1", b"a")
    await room.hub.flush()
    room.say(1)
    room.hub.notice("1", b"b")
    room.store.listed.clear()
    for reading in room.store.held:
        reading.set()
    await wait_all_tasks_blocked()
    assert (told(ear), told(fresh)) == ("<0a>1b", "<0>a1b")
    await room.hub.flush()
    room.hub.notice("1", b"c")
    await room.hub.flush()
    assert (told(ear), told(fresh)) == ("<0a>1bc", "<0>a1bc")
    for other in (ear, fresh):
        await room.leave(other)
        assert other.messages == 2


async def test_a_notice_that_waits_for_the_flush_is_not_told_again(room: Room) -> None:
    """Who comes then has it in the greeting, and hears it neither before nor after a fence."""
    for passes in (False, True):
        telling = Telling(room.store)
        other = await room.arrive(telling)
        room.hub.notice("1", b"a")
        telling.removals = [b"a"]
        ear = await room.arrive(telling, Since("e", 0))
        if passes:
            room.relay.pass_all()
        await room.hub.flush()
        assert (told(other), told(ear)) == ("<0>a", "<0a>")
        await room.leave(other)
        await room.leave(ear)


async def test_deliveries_are_measured_though_a_notice_comes_first(room: Room) -> None:
    """By the first message that has a ts; a notice alone is no delivery."""
    await room.arrive(Telling(room.store))
    room.hub.notice("1", b"a")
    room.hear_foreign("x")
    room.say(3)
    await room.hub.flush()
    room.hub.notice("1", b"b")
    await room.hub.flush()
    seconds = {
        sample.name.removeprefix("fastimd_delivery_seconds_"): sample.value
        for family in room.metrics.collect()
        for sample in family.samples
        if sample.name in ("fastimd_delivery_seconds_sum", "fastimd_delivery_seconds_count")
    }
    assert seconds == {"count": 2, "sum": pytest.approx(2 * room.store.age(3))}
    assert room.metrics.deliveries == 2


async def test_a_debug_line_is_of_a_message(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of a notice."""
    monkeypatch.setattr(logs, "is_debug", True)
    await room.arrive(Telling(room.store))
    room.hub.notice("1", b"a")
    room.say(3)
    with capture_logs() as lines:
        await room.hub.flush()
    delivered = [line for line in lines if line["event"] == "message.delivered"]
    assert [(line["message_ts"], line["members"]) for line in delivered] == [(3, 1)]


async def test_who_knows_as_much_shares_a_reading(room: Room) -> None:
    """Each position is read once for all who have it; whoever knows nothing is one of them."""
    telling = Telling(room.store)
    room.store.holding = True
    positions = [None, Since("e", 5), Since("e", 6), Since("f", 5)]
    ears = [await room.arrive(telling, since) for since in positions * 3]
    assert telling.asked == positions
    room.say(7)
    await room.hub.flush()
    for reading in room.store.held:
        reading.set()
    await wait_all_tasks_blocked()
    assert [told(ear) for ear in ears] == ["<0>7"] * 12
    later = await room.arrive(telling, positions[1])
    assert telling.asked == [*positions, positions[1]]
    room.store.held[-1].set()
    await wait_all_tasks_blocked()
    assert told(later) == "<7>"


async def test_a_reading_that_is_given_up_is_taken_over(room: Room) -> None:
    """By one of those that share it; those with another position are not concerned."""
    telling = Telling(room.store)
    room.store.holding = True
    since = Since("e", 5)
    async with trio.open_nursery() as nursery:

        async def enter() -> None:
            async with member(room.hub, "1", Ear(), telling, since=since):
                pytest.fail("greeted")

        nursery.start_soon(enter)
        await wait_all_tasks_blocked()
        ears = [await room.arrive(telling, each) for each in (since, since, None)]
        nursery.cancel_scope.cancel()
    await wait_all_tasks_blocked()
    assert telling.asked == [since, None, since]
    for reading in room.store.held:
        reading.set()
    await wait_all_tasks_blocked()
    assert [told(ear) for ear in ears] == ["<0>"] * 3


async def test_a_flush_without_messages_pushes_nothing(room: Room) -> None:
    """Nothing is flushed twice."""
    ear = await room.arrive()
    room.say(1)
    await room.hub.flush()
    await room.hub.flush()
    assert ear.heard == [[], 1]


async def test_an_arrival_amid_unflushed_frames_gets_nothing_twice(room: Room) -> None:
    """Frames that wait for the flush and stand in the greeting too come once."""
    old = await room.arrive()
    room.say(1, 2)
    new = await room.arrive()
    assert new.heard == [[1, 2]]
    room.say(3)
    await room.hub.flush()
    assert new.heard == [[1, 2], 3]
    assert old.heard == [[], 1, 2, 3]


async def test_duplicates_of_the_greeting_are_filtered_until_a_newer_frame(room: Room) -> None:
    """Frames the greeting has seen are passed over, one by one; from the first newer on, none."""
    old = await room.arrive()
    room.store.listed += [1, 2, 3]
    new = await room.arrive()
    assert new.heard == [[1, 2, 3]]
    for ts in (1, 2, 3):
        room.hear(ts)
        await room.hub.flush()
        assert new.heard == [[1, 2, 3]]
    room.say(4)
    await room.hub.flush()
    room.say(5)
    await room.hub.flush()
    assert new.heard == [[1, 2, 3], 4, 5]
    assert old.heard == [[], 1, 2, 3, 4, 5]
    assert new.pushes[-1] is old.pushes[-1], "the arrival has not become a member"


async def test_one_batch_may_hold_old_and_new_frames(room: Room) -> None:
    """Of a batch across the greeting's end an arrival gets the newer part."""
    old = await room.arrive()
    room.store.listed += [1, 2]
    new = await room.arrive()
    for ts in (1, 2):
        room.hear(ts)
    room.say(3, 4)
    await room.hub.flush()
    assert new.heard == [[1, 2], 3, 4]
    assert old.heard == [[], 1, 2, 3, 4]


async def test_a_repair_begins_where_the_first_greeting_ended(room: Room) -> None:
    """What stands there has been read, and nothing of it is missing."""
    room.store.listed += [4, 5]
    await room.arrive()
    subscription = room.relay.subscriptions["1"]
    assert (subscription.last_ts, subscription.newest_ts) == (5, 5)


async def test_frames_during_the_greetings_reading_are_kept(room: Room) -> None:
    """What is flushed after the list was read and before the greeting goes out is not missing."""
    old = await room.arrive()
    room.say(1)
    await room.hub.flush()
    room.store.holding = True
    new = await room.arrive()
    room.say(2)
    await room.hub.flush()
    room.say(3)
    await room.hub.flush()
    room.say(4)
    assert new.heard == []
    room.store.held.popleft().set()
    await wait_all_tasks_blocked()
    assert new.heard == [[1], 2, 3, 4]
    await room.hub.flush()
    room.say(5)
    await room.hub.flush()
    assert new.heard == [[1], 2, 3, 4, 5]
    assert old.heard == [[], 1, 2, 3, 4, 5]


async def test_the_first_member_misses_nothing_before_its_greeting(room: Room) -> None:
    """The group's very first arrival: frames between subscription and greeting."""
    room.store.holding = True
    ear = await room.arrive()
    room.say(1)
    await room.hub.flush()
    room.store.held.popleft().set()
    await wait_all_tasks_blocked()
    room.say(2)
    await room.hub.flush()
    assert ear.heard == [[], 1, 2]


async def test_who_has_been_settled_hears_whatever_comes(room: Room) -> None:
    """Once all is through that was published before the greeting, no ts keeps anything away."""
    room.store.listed += [5]
    ear = await room.arrive()
    room.hear(4)
    await room.hub.flush()
    room.hear(3)
    room.relay.pass_all()
    room.hear(2)
    await room.hub.flush()
    room.hear(1)
    await room.hub.flush()
    assert ear.heard == [[5], 2, 1]


async def test_the_quiet_are_settled_without_a_message(room: Room) -> None:
    """Who left meanwhile, or became a member, is not settled again."""
    gone, member, quiet = [await room.arrive() for _ in range(3)]
    await room.leave(gone)
    room.relay.pass_all()
    room.relay.pass_all()
    room.say(1)
    await room.hub.flush()
    assert member.heard == quiet.heard == [[], 1]
    assert gone.heard == [[]]


async def test_a_fence_passes_while_a_greeting_is_read(room: Room) -> None:
    """It settles those who were greeted; the other one is greeted as if it had not."""
    room.store.listed += [5]
    first = await room.arrive()
    room.store.holding = True
    second = await room.arrive()
    room.relay.pass_all()
    room.hear(4)
    await room.hub.flush()
    room.store.held.popleft().set()
    await wait_all_tasks_blocked()
    room.say(6)
    await room.hub.flush()
    assert (first.heard, second.heard) == ([[5], 4, 6], [[5], 6])


async def test_who_comes_after_a_fence_waits_for_the_next(room: Room) -> None:
    """A fence settles those who were there when it was asked for, and nobody else."""
    room.store.listed += [5]
    first = await room.arrive()
    second = await room.arrive()
    assert len(room.relay.waiting) == 1
    room.relay.pass_all()
    room.hear(4)
    await room.hub.flush()
    assert (first.heard, second.heard) == ([[5], 4], [[5]])
    room.relay.pass_all()
    assert room.relay.waiting == []
    room.hear(3)
    await room.hub.flush()
    assert (first.heard, second.heard) == ([[5], 4, 3], [[5], 3])


async def test_a_foreign_message_of_the_greeting_is_not_doubled(room: Room) -> None:
    """It is known by its text, for its ts says nothing; others are heard, and settle nobody."""
    room.store.listed += [3]
    room.store.foreign = [message(9, "a")]
    ear = await room.arrive()
    for text in ("a", "b"):
        room.hear_foreign(text)
    room.hear(2)
    await room.hub.flush()
    room.hear_foreign("a")
    room.hear(4)
    await room.hub.flush()
    room.hear_foreign("a")
    await room.hub.flush()
    assert ear.heard == [[3, 9], 9, 4, 9]


async def test_foreign_messages_amid_a_greeting_come_once(room: Room) -> None:
    """Those that come while it is read follow it, and are not given again with the flush."""
    room.store.holding = True
    ear = await room.arrive()
    room.hear_foreign("a")
    room.say(1)
    room.store.held[0].set()
    await wait_all_tasks_blocked()
    await room.hub.flush()
    assert ear.heard == [[], 9, 1]


async def test_who_hears_nothing_more_is_told(room: Room) -> None:
    """Everybody of the group, and nobody else; who comes then begins anew."""
    told: list[str] = []

    async def enter(name: str) -> None:
        async with member(room.hub, name, Ear(), room.dialect, told.append):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for name in ("1", "1", "2"):
            nursery.start_soon(enter, name)
        await wait_all_tasks_blocked()
        lost = room.relay.subscriptions.pop("1")
        for on_lost in list(lost.listeners.values()):
            on_lost()
        assert told == ["1", "1"]
        assert room.hub.groups == 1
        late = await room.arrive()
        nursery.cancel_scope.cancel()
    assert room.hub.groups == 1
    assert lost.listeners == {}
    room.say(1)
    await room.hub.flush()
    assert late.heard == [[], 1]


async def test_arrivals_at_once_share_a_greeting(room: Room) -> None:
    """Who comes while one is read gets the same, and hears what was said since it was read."""
    room.store.holding = True
    first = await room.arrive()
    room.say(1)
    await room.hub.flush()
    second = await room.arrive()
    room.say(2)
    await room.hub.flush()
    [reading] = room.store.held
    room.store.holding = False
    reading.set()
    await wait_all_tasks_blocked()
    room.say(3)
    await room.hub.flush()
    third = await room.arrive()
    assert first.heard == [[], 1, 2, 3]
    assert second.heard == [[], 1, 2, 3]
    assert third.heard == [[1, 2, 3]]


async def test_a_greeting_outlives_its_reader(room: Room) -> None:
    """When the one who reads it gives up, the next one reads."""
    room.store.holding = True
    async with trio.open_nursery() as nursery:

        async def enter() -> None:
            async with member(room.hub, "1", Ear(), room.dialect):
                pytest.fail("greeted")

        nursery.start_soon(enter)
        await wait_all_tasks_blocked()
        second = await room.arrive()
        room.say(1)
        await room.hub.flush()
        room.store.holding = False
        nursery.cancel_scope.cancel()
    await wait_all_tasks_blocked()
    assert second.heard == [[1]]


async def test_who_shares_a_greeting_shares_its_failure(room: Room) -> None:
    """Each is told why there is none."""
    room.store.holding = True
    room.store.failure = StoreUnavailable("away")
    told: list[str] = []

    async def enter() -> None:
        try:
            async with member(room.hub, "1", Ear(), room.dialect):
                pytest.fail("greeted")
        except StoreUnavailable as exc:
            told.append(str(exc))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(enter)
        await wait_all_tasks_blocked()
        [reading] = room.store.held
        reading.set()
    assert told == ["away"] * 3
    assert room.hub.groups == 0


async def test_nobody_is_greeted_before_the_group_is_heard(room: Room) -> None:
    """The greeting is read only when Redis has confirmed the subscription."""
    room.relay.confirming = False
    ear = await room.arrive()
    assert ear.heard == []
    room.store.listed += [1, 2]
    room.relay.subscriptions["1"].confirmed.set()
    await wait_all_tasks_blocked()
    assert ear.heard == [[1, 2]]


async def test_who_left_hears_nothing_more(room: Room) -> None:
    """A member and an arrival can leave; the last one closes the group."""
    member, arrival = await room.arrive(), await room.arrive()
    room.say(1)
    await room.hub.flush()
    assert room.hub.groups == 1
    await room.leave(member)
    room.say(2)
    await room.hub.flush()
    assert member.heard == [[], 1]
    assert arrival.heard == [[], 1, 2]
    late = await room.arrive()
    await room.leave(late)
    await room.leave(arrival)
    assert room.hub.groups == 0
    assert room.relay.subscriptions["1"].listeners == {}


async def test_a_group_that_is_left_is_no_garbage(room: Room) -> None:
    """Nothing leads in a circle: it is gone without the collector."""
    gc.collect()
    gc.disable()
    try:
        ear = await room.arrive()
        room.relay.pass_all()
        room.say(1)
        await room.hub.flush()
        await room.leave(ear)
        left = [each for each in gc.get_objects() if type(each) in (Group, Audience)]
        assert left == []
    finally:
        gc.enable()


async def test_who_leaves_while_the_greeting_is_read_leaves_nothing_behind(room: Room) -> None:
    """An arrival that gives up is forgotten, and its kept frames with it."""
    stays = await room.arrive()
    room.store.holding = True
    async with trio.open_nursery() as nursery:

        async def enter() -> None:
            async with member(room.hub, "1", Ear(), room.dialect):
                pytest.fail("greeted")

        nursery.start_soon(enter)
        await wait_all_tasks_blocked()
        room.say(1)
        nursery.cancel_scope.cancel()
    assert room.hub._groups["1"].recent == []
    await room.hub.flush()
    room.say(2)
    await room.hub.flush()
    assert stays.heard == [[], 1, 2]
    await room.leave(stays)
    assert room.hub.groups == 0


async def test_a_failed_greeting_leaves_nothing_behind(room: Room) -> None:
    """When the store is away the arrival hears of it and the group is closed."""
    room.store.failure = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        async with member(room.hub, "1", Ear(), room.dialect):
            pytest.fail("greeted")
    assert room.hub.groups == 0
    assert room.relay.subscriptions["1"].listeners == {}


async def test_messages_are_counted_for_everybody(room: Room) -> None:
    """An outbox counts its greeting and each message, however they came; known once it left."""
    first = await room.arrive()
    room.say(1, 2)
    await room.hub.flush()
    room.store.holding = True
    second = await room.arrive()
    room.say(3)
    await room.hub.flush()
    room.store.held.popleft().set()
    await wait_all_tasks_blocked()
    for ts in (4, 5):
        room.say(ts)
        await room.hub.flush()
    room.say(6, 7)
    await room.hub.flush()
    await room.leave(first)
    await room.leave(second)
    assert first.heard == [[], 1, 2, 3, 4, 5, 6, 7]
    assert second.heard == [[1, 2], 3, 4, 5, 6, 7]
    assert first.messages == len(first.heard)
    assert second.messages == len(second.heard)


async def test_every_byte_and_every_delivery_is_counted(room: Room) -> None:
    """Greetings, what is chosen for arrivals, and what all members get."""
    member = await room.arrive()
    room.say(1)
    await room.hub.flush()
    room.store.listed.append(2)
    arrival = await room.arrive()
    room.hear(2)
    room.say(3, 4)
    await room.hub.flush()
    room.say(5)
    await room.hub.flush()
    assert (member.heard, arrival.heard) == ([[], 1, 2, 3, 4, 5], [[1, 2], 3, 4, 5])
    pushed = sum(len(data) for ear in (member, arrival) for data in ear.pushes)
    assert room.metrics.bytes_sent == pushed
    assert room.metrics.deliveries == 5 + 3
    seconds = {
        sample.name.removeprefix("fastimd_delivery_seconds_"): sample.value
        for family in room.metrics.collect()
        for sample in family.samples
        if sample.name in ("fastimd_delivery_seconds_sum", "fastimd_delivery_seconds_count")
    }
    ages = 1 * room.store.age(1) + 5 * room.store.age(2) + 2 * room.store.age(5)
    assert seconds == {"count": 8, "sum": pytest.approx(ages)}


@pytest.mark.parametrize("most", [1, 48, 49, 97, 98, 99, 10_000])
async def test_no_push_is_longer_than_an_outbox_may_hold(nursery: trio.Nursery, most: int) -> None:
    """But for a single frame; a piece has as many frames as it can, for members and arrivals."""
    room = Room(nursery, Config(socket=Socket(outbox_bytes=most)))
    member = await room.arrive()
    room.relay.pass_all()
    room.say(1)
    arrival = await room.arrive()
    await room.hub.flush()
    room.say(2)
    room.say(3, 4, 5)
    before = len(member.pushes), len(arrival.pushes)
    await room.hub.flush()
    assert (member.heard, arrival.heard) == ([[], 1, 2, 3, 4, 5], [[1], 2, 3, 4, 5])
    size = len(member.pushes[1])
    together = min(4, max(1, most // size))
    expected = [together * size] * (4 // together) + [4 % together * size] * (4 % together > 0)
    assert [len(push) for push in member.pushes[before[0] :]] == expected
    assert [len(push) for push in arrival.pushes[before[1] :]] == expected


async def test_debug_lines_say_how_many_hear_a_message(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members, and those arrivals that lack it."""
    monkeypatch.setattr(logs, "is_debug", True)
    await room.arrive()
    room.relay.pass_all()
    room.say(1, 2)
    await room.arrive()
    room.say(3)
    with capture_logs() as lines:
        await room.hub.flush()
    assert [
        (line["message_ts"], line["members"])
        for line in lines
        if line["event"] == "message.delivered"
    ] == [(1, 1), (2, 1), (3, 2)]


async def test_a_big_group_lets_others_run(room: Room) -> None:
    """A flush to many members yields, and whoever leaves or comes meanwhile does no harm."""
    ears = [await room.arrive() for _ in range(3)]
    many = await room.arrive_together(3 * MEMBERS_A_TURN)
    room.say(1)
    await room.hub.flush()
    room.say(2)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await trio.lowlevel.checkpoint()
        await room.hub.flush()
        nursery.cancel_scope.cancel()
    assert turns > 2, "once for each part of the group that is served in a turn"
    assert all(ear.heard == [[], 1, 2] for ear in [*ears, *many])


async def test_a_group_of_one_turns_members_is_served_in_one(room: Room) -> None:
    """Nobody runs while some of a small group have heard what others have not."""
    ears = await room.arrive_together(MEMBERS_A_TURN * 2 // 3)
    room.say(1)
    await room.hub.flush()
    seen: set[int] = set()

    async def look() -> None:
        while True:
            pushes = {len(ear.pushes) for ear in ears}
            assert len(pushes) == 1, "some have heard what others have not"
            seen.update(pushes)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        for ts in range(2, 10):
            room.say(ts)
            await room.hub.flush()
        nursery.cancel_scope.cancel()
    assert len(seen) > 3, "nobody else ever ran"


async def test_a_batch_reaches_everybody_though_its_bringer_is_cancelled(room: Room) -> None:
    """The connection that brought a batch may break while a big group is served."""
    ears = await room.arrive_together(4 * MEMBERS_A_TURN)
    room.say(1)
    await room.hub.flush()
    room.say(2)
    async with trio.open_nursery() as bringer:
        bringer.start_soon(room.hub.flush)
        while not any(2 in ear.heard for ear in ears):
            await trio.lowlevel.checkpoint()
        assert not all(2 in ear.heard for ear in ears)
        bringer.cancel_scope.cancel()
    assert all(ear.heard == [[], 1, 2] for ear in ears)


# The repair of one subscription


class Listened:
    """A subscription and the ts it handed on, 0 for what is foreign; a notice is its text."""

    def __init__(self, last_ts: int = 0) -> None:
        self.subscription = Subscription("1")
        if last_ts:
            self.subscription.begin_at(Position(last_ts))
        self.heard: list[int | str] = []
        self.subscription.listeners[self._hear] = no_loss

    def _hear(self, ts: int, text: bytes) -> None:
        self.heard.append(text.decode() if ts == NOTICE else ts)

    def notice(self, *names: str) -> None:
        for name in names:
            self.subscription.notice(name.encode())

    @property
    def position(self) -> Position:
        return Position(self.subscription.last_ts, self.subscription.last_entry)

    def receive(self, *moments: int) -> None:
        for ts in moments:
            self.subscription.receive(ts, message(ts), message(ts))

    def receive_foreign(self, *infos: str) -> None:
        for info in infos:
            self.subscription.receive(0, message(9, info), message(9, info))

    def repair(self, *moments: int | str, more: bool = False, removals: str = "") -> None:
        """A page is read: moments, and texts of what is foreign; all published before was heard."""
        page = [
            (0, message(9, each), message(9, each))
            if isinstance(each, str)
            else (each, message(each), message(each))
            for each in moments
        ]
        events = [name.encode() for name in removals]
        end = page[-1][2] if page else b""
        self.subscription.fill(page, end, more=more, removals=events)


def listened_with_a_gap(last_ts: int = 2) -> Listened:
    listened = Listened(last_ts)
    listened.subscription.held = []
    return listened


async def test_the_first_reader_says_where_a_repair_begins() -> None:
    """Even of an empty list: what a later one has read may still be on its way to the first."""
    listened = Listened()
    listened.subscription.begin_at(Position(0, b""))
    listened.subscription.begin_at(Position(5, message(5)))
    assert listened.position == Position(0, b"")
    assert listened.subscription.newest_ts == 5


async def test_the_first_life_that_is_read_is_that_of_the_list() -> None:
    """Whoever reads it: one of Fast-IM's wire, who comes first, reads none."""
    for known in (Position(0, b""), Position(4, message(4))):
        listened = Listened()
        listened.subscription.begin_at(known)
        listened.receive(5)
        for life in ("", "a", "b"):
            listened.subscription.begin_at(Position(5, message(5), life))
        assert listened.subscription.life == "a"


async def test_what_was_handed_on_says_where_a_repair_begins() -> None:
    """Who reads the list after the first message does not move it, foreign or not."""
    for is_foreign in (False, True):
        listened = Listened()
        if is_foreign:
            listened.receive_foreign("a")
        else:
            listened.receive(1)
        known = listened.position
        listened.subscription.begin_at(Position(5, message(5)))
        assert listened.position == known


async def test_live_messages_are_handed_on_at_once() -> None:
    """Without a gap nothing is held, and the newest message is known."""
    listened = Listened()
    listened.receive(1, 2, 3)
    assert listened.heard == [1, 2, 3]
    assert listened.position == Position(3, message(3))


async def test_live_messages_wait_behind_a_gap() -> None:
    """While the gap is read, what comes live is held, and follows it without doubles."""
    listened = listened_with_a_gap()
    listened.receive(5, 6, 7)
    assert listened.heard == []
    listened.repair(3, 4, 5)
    assert listened.heard == [3, 4, 5, 6, 7]
    listened.receive(8)
    assert listened.heard == [3, 4, 5, 6, 7, 8]
    assert listened.position == Position(8, message(8))


async def test_an_empty_gap_lets_everything_through() -> None:
    """Nothing was missed: what was held goes on as it is."""
    listened = listened_with_a_gap()
    listened.receive(3, 4)
    listened.repair()
    assert listened.heard == [3, 4]
    listened.subscription.held = []
    listened.repair()
    assert listened.heard == [3, 4]


async def test_what_is_held_waits_for_the_last_page() -> None:
    """Only what must have come before a page's end goes with it."""
    listened = listened_with_a_gap()
    listened.receive(5, 8, 9)
    listened.repair(3, 6, more=True)
    assert listened.heard == [3, 5, 6]
    listened.repair(7, 8)
    assert listened.heard == [3, 5, 6, 7, 8, 9]


async def test_what_was_published_and_is_in_no_list_keeps_its_place() -> None:
    """The list was lost between two messages: those of before come first, and none is missed."""
    listened = listened_with_a_gap()
    listened.receive(3, 4, 5, 6)
    listened.repair(5, 6)
    assert listened.heard == [3, 4, 5, 6]


async def test_a_ts_behind_the_position_makes_nobody_deaf() -> None:
    """Where a clock stepped back unknown to the sender, the message is heard all the same."""
    listened = Listened(last_ts=9)
    listened.receive(4, 5)
    assert listened.heard == [4, 5]
    assert listened.subscription.last_ts == 9
    listened.subscription.held = []
    listened.receive(6)
    listened.repair()
    assert listened.heard == [4, 5, 6]


async def test_a_foreign_message_is_shown_once_and_is_no_measure() -> None:
    """Neither live nor from the list is its ts taken for the position; its entry is."""
    listened = Listened()
    listened.receive(3)
    listened.receive_foreign("a")
    assert listened.position == Position(3, message(9, "a"))
    listened.subscription.held = []
    listened.receive_foreign("c")
    listened.receive(5)
    listened.repair("b", 4, "c")
    assert listened.heard == [3, 0, 0, 4, 0, 5]
    assert listened.position == Position(5, message(5))
    assert listened.subscription.newest_ts == 5


async def test_a_foreign_message_that_is_held_waits_for_the_page() -> None:
    """Its ts says nothing of its place; what came behind it comes behind it."""
    listened = listened_with_a_gap()
    listened.receive_foreign("a")
    listened.receive(5)
    listened.repair(3, 4)
    assert listened.heard == [3, 4, 0, 5]


async def test_what_was_said_twice_is_shown_twice() -> None:
    """Each message of a page takes one of its like from what is held."""
    listened = listened_with_a_gap()
    listened.receive_foreign("a", "a", "a", "b")
    listened.repair("a", "a")
    assert listened.heard == [0, 0, 0, 0]
    assert listened.position.entry == message(9, "b")


async def test_an_entry_out_of_order_is_not_handed_on_again() -> None:
    """What has a ts up to the position was handed on, wherever it stands in the list."""
    listened = listened_with_a_gap(last_ts=4)
    listened.repair(1, 2, 4, 5)
    assert listened.heard == [5]


async def test_a_held_message_is_known_in_a_page_by_what_it_says() -> None:
    """It may have been published in another form than it was stored."""
    listened = listened_with_a_gap()
    listened.subscription.receive(5, message(5), codec.wrap(message(5).decode()))
    listened.repair(4, 5)
    assert listened.heard == [4, 5]


async def test_a_page_without_a_message_is_passed() -> None:
    """The position is its last entry, so that the next page is another one."""
    listened = listened_with_a_gap()
    listened.subscription.fill([], b"no message", more=True)
    assert listened.position == Position(2, b"no message")
    assert listened.subscription.held == []


async def test_what_was_held_sets_the_position_after_the_page() -> None:
    """The next repair begins after the newest that was handed on."""
    listened = listened_with_a_gap()
    listened.receive(4)
    listened.receive_foreign("a")
    listened.repair(3)
    assert listened.position == Position(4, message(9, "a"))


async def test_too_many_held_messages_are_left_to_the_list() -> None:
    """They are dropped, and the repair is told."""
    listened = listened_with_a_gap()
    listened.receive(*range(3, 3 + MAX_HELD + 1))
    assert listened.subscription.overheld
    assert listened.subscription.held is not None
    assert len(listened.subscription.held) == 1


async def test_a_notice_is_handed_on_in_its_place() -> None:
    """Without a gap at once, and it is no position."""
    listened = Listened()
    listened.receive(1)
    listened.notice("a")
    listened.receive(2)
    assert listened.heard == [1, "a", 2]
    assert listened.position == Position(2, message(2))


async def test_notices_wait_for_what_is_held() -> None:
    """They may be of messages that are held; then they come in their order, once."""
    listened = listened_with_a_gap()
    listened.receive(5)
    listened.notice("a", "b")
    assert listened.heard == []
    listened.repair(3, more=True, removals="a")
    assert listened.heard == [3]
    listened.repair(4, removals="ab")
    assert listened.heard == [3, 4, 5, "a", "b"]
    listened.notice("c")
    listened.subscription.held = []
    listened.repair(removals="bc")
    assert listened.heard == [3, 4, 5, "a", "b", "c"]


async def test_what_was_deleted_in_a_gap_is_told_before_its_messages() -> None:
    """Whoever is cut off after the next message comes back with its ts; what is heard is last."""
    listened = listened_with_a_gap()
    listened.repair(3, 4, more=True, removals="ab")
    assert listened.heard == ["a", "b", 3, 4]
    listened.notice("c")
    listened.repair(5, more=True)
    listened.repair()
    assert listened.heard == ["a", "b", 3, 4, 5, "c"]


async def test_what_was_told_before_the_gap_is_not_told_again() -> None:
    """The list tells what was deleted since the last message, in part before the gap."""
    listened = Listened()
    listened.receive(3)
    listened.notice("a", "b")
    listened.subscription.held = []
    listened.repair(4, removals="abc")
    assert listened.heard == [3, "a", "b", "c", 4]
    listened.notice("d")
    listened.receive(5)
    assert listened.subscription.told == set(), "the list tells only what is newer than a message"


async def test_a_few_notices_are_known_again() -> None:
    """As many as the list tells at once."""
    listened = Listened()
    for number in range(MAX_TOLD + 1):
        listened.notice(str(number))
        assert 0 < len(listened.subscription.told) <= MAX_TOLD
    assert len(listened.heard) == MAX_TOLD + 1
