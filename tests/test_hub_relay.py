"""Nothing twice, nothing missing: arrivals at the hub, and the repair of a subscription."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from fastimd import codec
from fastimd.config import Config
from fastimd.errors import StoreUnavailable
from fastimd.hub import MEMBERS_A_TURN, Hub
from fastimd.metrics import Metrics
from fastimd.outbox import Outbox
from fastimd.relay import Relay, Subscription
from fastimd.store import Greeting, Store

# The hub, with everything around it played


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

    def listen(self, group: str, listener: Callable[[int, bytes], None]) -> Subscription:
        subscription = self.subscriptions.setdefault(group, Subscription(group))
        subscription.listeners.append(listener)
        if self.confirming:
            subscription.confirmed.set()
        return subscription

    def unlisten(self, subscription: Subscription, listener: Callable[[int, bytes], None]) -> None:
        subscription.listeners.remove(listener)

    async def wait_heard(self, subscription: Subscription) -> None:
        await subscription.confirmed.wait()


class FakeStore:
    """A list of ts; a reader of the greeting is held, with what it read, until it is let go."""

    def __init__(self) -> None:
        self.listed: list[int] = []
        self.held: deque[trio.Event] = deque()
        self.holding = False
        self.failure: StoreUnavailable | None = None

    def age(self, ts: int) -> float:
        return ts / 1000

    async def greeting(self, _group: str) -> Greeting:
        listed = list(self.listed)
        if self.holding:
            self.held.append(trio.Event())
            await self.held[-1].wait()
        if self.failure is not None:
            raise self.failure
        payload = codec.greeting((message(ts) for ts in listed), len(listed))
        return Greeting(payload, listed[-1] if listed else 0)


def message(ts: int, info: str = "hi") -> bytes:
    return codec.message_prefix("1", "3", info) + b"%d}" % ts


class Room:
    """A hub and one group on it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.relay = FakeRelay()
        self.store = FakeStore()
        self.metrics = Metrics()
        self.hub = Hub(cast(Relay, self.relay), cast(Store, self.store), self.metrics, Config())
        self._leave: dict[Ear, trio.Event] = {}

    async def arrive(self) -> Ear:
        """Let somebody arrive, as far as the store and the relay let them."""
        ear = Ear()
        self._leave[ear] = trio.Event()
        self.nursery.start_soon(self._stay, ear)
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
        self.relay.subscriptions["1"].receive(ts, message(ts))

    async def _stay(self, ear: Ear) -> None:
        left = self._leave[ear]
        async with self.hub.member("1", cast(Outbox, ear)):
            await left.wait()


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
            async with room.hub.member("1", cast(Outbox, Ear())):
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
            async with room.hub.member("1", cast(Outbox, Ear())):
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
    assert room.relay.subscriptions["1"].listeners == []


async def test_who_leaves_while_the_greeting_is_read_leaves_nothing_behind(room: Room) -> None:
    """An arrival that gives up is forgotten, and its kept frames with it."""
    stays = await room.arrive()
    room.store.holding = True
    async with trio.open_nursery() as nursery:

        async def enter() -> None:
            async with room.hub.member("1", cast(Outbox, Ear())):
                pytest.fail("greeted")

        nursery.start_soon(enter)
        await wait_all_tasks_blocked()
        room.say(1)
        nursery.cancel_scope.cancel()
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
        async with room.hub.member("1", cast(Outbox, Ear())):
            pytest.fail("greeted")
    assert room.hub.groups == 0
    assert room.relay.subscriptions["1"].listeners == []


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
    assert turns > 1
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
    """A subscription and the ts it handed on."""

    def __init__(self, last_ts: int = 0) -> None:
        self.subscription = Subscription("1")
        self.subscription.last_ts = last_ts
        self.heard: list[int] = []
        self.subscription.listeners.append(lambda ts, _message: self.heard.append(ts))

    def receive(self, *moments: int) -> None:
        for ts in moments:
            self.subscription.receive(ts, b"")

    def repair(self, *moments: int) -> None:
        for ts in moments:
            self.subscription.hand_on(ts, b"")


async def test_live_messages_are_handed_on_at_once() -> None:
    """Without a gap nothing is held, and the newest ts is known."""
    listened = Listened()
    listened.receive(1, 2, 3)
    assert listened.heard == [1, 2, 3]
    assert listened.subscription.last_ts == 3


async def test_live_messages_wait_behind_a_gap() -> None:
    """While the gap is read, what comes live is held, and follows it without doubles."""
    listened = Listened(last_ts=2)
    listened.subscription.held = []
    listened.receive(5, 6)
    assert listened.heard == []
    listened.repair(3, 4, 5)
    listened.receive(7)
    listened.subscription.finish_repair()
    assert listened.heard == [3, 4, 5, 6, 7]
    listened.receive(8)
    assert listened.heard == [3, 4, 5, 6, 7, 8]
    assert listened.subscription.last_ts == 8


async def test_what_the_repair_read_and_comes_live_later_is_not_doubled() -> None:
    """The list may be ahead of the channel when the repair ends."""
    listened = Listened(last_ts=2)
    listened.subscription.held = []
    listened.repair(3, 4, 5)
    listened.subscription.finish_repair()
    listened.receive(4, 5, 6)
    assert listened.heard == [3, 4, 5, 6]


async def test_an_empty_gap_lets_everything_through() -> None:
    """Nothing was missed: what was held goes on as it is."""
    listened = Listened(last_ts=2)
    listened.subscription.held = []
    listened.receive(3, 4)
    listened.subscription.finish_repair()
    assert listened.heard == [3, 4]
    listened.subscription.held = []
    listened.subscription.finish_repair()
    assert listened.heard == [3, 4]
