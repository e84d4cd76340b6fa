"""The relay and its repairs, on a Redis in memory that answers when the test lets it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import hiredis
import pytest
import trio
from redis.exceptions import AuthenticationError, NoPermissionError
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from fastimd.base import codec
from fastimd.base.errors import KeyUnusable, StartupError, StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.groups.announcements import Announcements
from fastimd.groups.lingering import DROPPED_A_TURN, LINGER_SECONDS
from fastimd.groups.pubsub import SUBSCRIBED_AT_ONCE, Questions
from fastimd.groups.relay import Relay
from fastimd.groups.repair import PAUSE_SECONDS, REPAIRS_AT_ONCE
from fastimd.groups.store.history import Gap, History, Position
from fastimd.groups.store.keyspace import STEP
from fastimd.groups.subscription import MAX_HELD, NOTICE, Subscription
from fastimd.redis.address import Address
from fastimd.redis.keeping import CALL_SECONDS
from fastimd.redis.replies import NotNow
from fastimd.redis.wire import Wire

LATEST = 10_000_000
"""What the history says is the latest ts that is not foreign."""


def message(ts: int, info: str = "hi") -> bytes:
    return codec.message_prefix("1", "3", info) + b"%d}" % ts


class Server:
    """A Redis with pub/sub and lists; ``connect`` is a new connection to it.

    While ``is_held`` it reads no commands. ``refused`` are the channels that must not be heard;
    ``refusal`` is what every PING is answered with, if not by a PONG. When
    it ``is_slow`` the first channel is confirmed some time before all else, and the next that comes
    is an event.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._stream: trio.abc.Stream | None = None
        self.connections = 0
        self.commands: list[list[bytes]] = []
        self.heard: set[bytes] = set()
        self.refused: dict[bytes, bytes] = {}
        self.refusal = b""
        self.is_slow = False
        self.away: Exception | None = None
        self._let_go = trio.Event()
        self._let_go.set()

    def __str__(self) -> str:
        return "memory"

    async def connect(self) -> Wire:
        await trio.lowlevel.checkpoint()
        if self.away is not None:
            raise self.away
        ours, theirs = memory_stream_pair()
        self.connections += 1
        self.heard.clear()
        self._stream = theirs
        self._nursery.start_soon(self._serve, theirs)
        return Wire(ours)

    def hold(self) -> None:
        self._let_go = trio.Event()

    def let_go(self) -> None:
        self._let_go.set()

    async def hang_up(self) -> None:
        """Break the connection, and see the relay on its next one, unless that cannot be."""
        assert self._stream is not None
        await self._stream.aclose()
        await wait_all_tasks_blocked()

    async def say(self, channel: str | bytes, *payloads: bytes) -> None:
        """Publish; those who have not subscribed do not hear it."""
        name = channel if isinstance(channel, bytes) else channel.encode()
        if name in self.heard:
            said = [_array(b"message", name, payload) for payload in payloads]
            await self._send(b"".join(said))

    async def _send(self, data: bytes) -> None:
        assert self._stream is not None
        await self._stream.send_all(data)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        reader = hiredis.Reader()
        try:
            while data := await stream.receive_some(65_536):
                await self._let_go.wait()
                reader.feed(bytes(data))
                answers = []
                while (command := reader.gets()) is not False:
                    self.commands.append(command)
                    answers.append(self._answer(*command))
                if self.is_slow and answers[0].startswith(CONFIRMED):
                    await stream.send_all(CONFIRMED)
                    await wait_all_tasks_blocked()
                    answers[0] = answers[0].removeprefix(CONFIRMED) + EARLY
                await stream.send_all(b"".join(answers))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    def _answer(self, name: bytes, *channels: bytes) -> bytes:
        if name == b"SUBSCRIBE":
            for channel in channels:
                if channel in self.refused:
                    return b"-" + self.refused[channel] + b"\r\n"
            self.heard.update(channels)
            return b"".join(_array(b"subscribe", channel, 1) for channel in channels)
        if name == b"UNSUBSCRIBE":
            self.heard.difference_update(channels)
            return _array(b"unsubscribe", channels[0], 0)
        assert name == b"PING"
        return b"-" + self.refusal + b"\r\n" if self.refusal else _array(b"pong", b"")

    def asked(self, name: bytes) -> list[list[bytes]]:
        """The arguments of the commands of one kind, without the channels of no group."""
        return [
            command[1:]
            for command in self.commands
            if command[0] == name and command[1] != b"fastimd:events"
        ]


def _array(*parts: bytes | int) -> bytes:
    packed = [
        b":%d\r\n" % p if isinstance(p, int) else b"$%d\r\n%s\r\n" % (len(p), p) for p in parts
    ]
    return b"*%d\r\n" % len(parts) + b"".join(packed)


INBOX = "fastimd:to:me"
CONFIRMED = _array(b"subscribe", b"fastimd:events", 1)
EARLY = _array(b"message", b"fastimd:events", b"early")


class Lists:
    """The history: what stands in the list of each group, in pages of ``page`` messages."""

    def __init__(self) -> None:
        self.entries: dict[str, list[tuple[int, bytes, bytes]]] = {}
        self.page = 200
        self.latest_ts = LATEST
        self.removals: list[bytes] = []
        self.failures: deque[Exception] = deque()
        self.asked: list[tuple[str, Position]] = []
        self.reading = 0
        self.most_reading = 0
        self.ages: list[int] = []
        self.let_go = trio.Event()
        self.let_go.set()

    def store(self, *moments: int, group: str = "1") -> None:
        self.entries.setdefault(group, []).extend((ts, message(ts), message(ts)) for ts in moments)

    def age(self, ts: int) -> float:
        self.ages.append(ts)
        return 0.0

    def latest(self) -> int:
        return self.latest_ts

    async def after(self, group: str, position: Position) -> Gap:
        self.asked.append((group, position))
        self.reading += 1
        self.most_reading = max(self.reading, self.most_reading)
        await self.let_go.wait()
        self.reading -= 1
        if self.failures:
            raise self.failures.popleft()
        known = [entry for _, _, entry in self.entries.get(group, [])]
        if position.entry in known:
            begin = known.index(position.entry) + 1
        else:
            begin = sum(ts <= position.ts for ts, _, _ in self.entries.get(group, []))
        rest = self.entries.get(group, [])[begin:]
        page = rest[: self.page]
        return Gap(
            page, page[-1][2] if page else b"", LATEST, len(rest) > len(page), list(self.removals)
        )


class Room:
    """A relay on a Redis in memory, with what it told."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.server = Server(nursery)
        self.lists = Lists()
        self.metrics = Metrics()
        self.relay = Relay(cast(Address, self.server), cast(History, self.lists), self.metrics)
        self.batches: list[list[int]] = []
        self.events: list[bytes] = []
        self.gaps = 0
        self.lost: list[str] = []
        self.batch_seconds = 0.0
        self.noticed: Subscription | None = None
        self._fresh: list[int] = []
        self.letters: list[bytes] = []
        self.announcements = Announcements(
            INBOX,
            on_event=self._note_event,
            on_letter=self.letters.append,
            on_gap=self._gap,
        )
        self.relay.hand_to(on_batch=self._on_batch, announcements=self.announcements)

    def _note_event(self, payload: bytes) -> bool:
        self.events.append(payload)
        if self.noticed is not None:
            self.noticed.notice(payload)
        return self.noticed is not None

    @property
    def heard(self) -> list[int]:
        """The ts of all messages that were handed on, 0 of a foreign one."""
        return [ts for batch in self.batches for ts in batch] + self._fresh

    def listen(self, group: str = "1") -> Subscription:
        return self.relay.listen(group, self.take, lambda: self.lost.append(group))

    def take(self, ts: int, _message: bytes) -> None:
        self._fresh.append(ts)

    async def member(self, group: str = "1", at: int = 1) -> Subscription:
        """Somebody who listens and has read the list up to a ts."""
        subscription = self.listen(group)
        await self.relay.wait_heard(subscription)
        subscription.begin_at(Position(at, message(at)))
        return subscription

    async def say(self, *moments: int, group: str = "1") -> None:
        """Messages are stored and published, as one write of Redis."""
        self.lists.store(*moments, group=group)
        await self.server.say(f"mq:{group}", *map(message, moments))
        await trio.sleep(0.01)

    async def _on_batch(self) -> None:
        fresh, self._fresh = self._fresh, []
        self.batches.append(fresh)
        await trio.sleep(self.batch_seconds)

    def _gap(self) -> None:
        self.gaps += 1


@pytest.fixture
async def room(nursery: trio.Nursery) -> Room:
    room = Room(nursery)
    nursery.start_soon(room.relay.run)
    await room.relay.wait_connected()
    return room


# Listening


async def test_what_is_published_is_handed_on(room: Room, autojump_clock: MockClock) -> None:
    """To who listens to that group, and not after they have stopped."""
    subscription = await room.member()
    await room.say(5)
    await room.say(6, group="2")
    assert room.heard == [5]
    assert room.relay.newest_of(b"mq:1") == 5
    assert room.relay.newest_of(b"mq:2") == 0
    assert room.metrics.redis_reconnects["messages"] == 0
    room.relay.unlisten(subscription, room.take)
    await room.say(7)
    assert room.heard == [5]


async def test_events_are_handed_on(room: Room, autojump_clock: MockClock) -> None:
    """What comes on the channel of events is no message."""
    await room.server.say("fastimd:events", b"an event")
    await trio.sleep(1)
    assert (room.events, room.batches) == ([b"an event"], [])
    await room.member()
    await room.say(5)
    await room.server.say("fastimd:events", b"another")
    await trio.sleep(1)
    assert (room.events, room.batches) == ([b"an event", b"another"], [[5]])


async def test_what_comes_on_no_channel_of_ours_is_passed_over(
    room: Room, autojump_clock: MockClock
) -> None:
    """A message that was under way when its channel was given up is no event."""
    room.server.heard.add(b"mq:9")
    await room.say(5, group="9")
    assert (room.events, room.batches) == ([], [])


async def test_the_groups_of_one_turn_are_subscribed_with_one_command(
    room: Room, autojump_clock: MockClock
) -> None:
    """Each once, however many listen to it; a command has no more than so many."""
    for group in range(SUBSCRIBED_AT_ONCE + 1):
        room.listen(str(group))
    room.relay.listen("1", lambda _ts, _message: None, lambda: None)
    await wait_all_tasks_blocked()
    assert [len(channels) for channels in room.server.asked(b"SUBSCRIBE")] == [
        SUBSCRIBED_AT_ONCE,
        1,
    ]
    assert room.relay.subscriptions == SUBSCRIBED_AT_ONCE + 1
    late = room.listen("late")
    await room.relay.wait_heard(late)
    assert room.server.asked(b"SUBSCRIBE")[2:] == [[b"mq:late"]]


async def test_nobody_counts_as_heard_before_redis_has_said_so(
    room: Room, autojump_clock: MockClock
) -> None:
    """Who waits is told after a while that it does not."""
    room.server.hold()
    subscription = room.listen()
    began = trio.current_time()
    with pytest.raises(StoreUnavailable):
        await room.relay.wait_heard(subscription)
    assert trio.current_time() - began == pytest.approx(CALL_SECONDS, abs=0.1)
    room.server.let_go()
    await room.relay.wait_heard(subscription)


async def test_a_group_without_listeners_is_kept_for_a_while(
    room: Room, autojump_clock: MockClock
) -> None:
    """Who comes back in that time costs Redis nothing; then the channel is given up, once."""
    subscription = await room.member()
    room.relay.unlisten(subscription, room.take)
    await trio.sleep(LINGER_SECONDS - 1)
    assert room.listen() is subscription
    await trio.sleep(2 * LINGER_SECONDS)
    assert room.relay.subscriptions == 1
    assert room.server.asked(b"UNSUBSCRIBE") == []
    room.relay.unlisten(subscription, room.take)
    await trio.sleep(LINGER_SECONDS - 0.5)
    assert room.relay.subscriptions == 1
    await trio.sleep(2)
    assert room.relay.subscriptions == 0
    assert room.server.asked(b"UNSUBSCRIBE") == [[b"mq:1"]]
    again = room.listen()
    assert again is not subscription
    await room.relay.wait_heard(again)
    await room.say(5)
    assert room.heard == [5]


async def test_a_group_that_one_of_two_has_left_is_kept(
    room: Room, autojump_clock: MockClock
) -> None:
    """For as long as the other listens."""
    subscription = await room.member()
    room.relay.listen("1", lambda _ts, _message: None, lambda: None)
    room.relay.unlisten(subscription, room.take)
    await trio.sleep(3 * LINGER_SECONDS)
    assert room.relay.subscriptions == 1


async def test_many_idle_groups_are_given_up_together(
    room: Room, autojump_clock: MockClock
) -> None:
    """In the same second, however many; those that are idle for less stay."""
    count = 2 * DROPPED_A_TURN + 1
    subscriptions = [room.listen(str(group)) for group in range(count)]
    await wait_all_tasks_blocked()
    for subscription in subscriptions[1:]:
        room.relay.unlisten(subscription, room.take)
    await trio.sleep(3)
    room.relay.unlisten(subscriptions[0], room.take)
    await trio.sleep(LINGER_SECONDS - 1.5)
    assert room.relay.subscriptions == 1
    assert len(room.server.asked(b"UNSUBSCRIBE")) == count - 1
    await trio.sleep(3)
    assert room.relay.subscriptions == 0


# Batches


async def test_a_message_that_comes_alone_is_handed_on_at_once(
    room: Room, autojump_clock: MockClock
) -> None:
    """Those that come right behind a batch are gathered for a moment."""
    await room.member()
    began = trio.current_time()
    await room.server.say("mq:1", message(5))
    await wait_all_tasks_blocked()
    assert room.batches == [[5]]
    assert trio.current_time() - began < 0.001
    await room.server.say("mq:1", message(6))
    await wait_all_tasks_blocked()
    await room.server.say("mq:1", message(7))
    await wait_all_tasks_blocked()
    assert room.batches == [[5]]
    await trio.sleep(0.01)
    assert room.batches == [[5], [6, 7]]


async def test_what_comes_in_half_the_time_that_handing_on_took_is_gathered(
    room: Room, autojump_clock: MockClock
) -> None:
    """The busier the daemon, the more messages share a write."""
    await room.member()
    await trio.sleep(10)
    room.batch_seconds = 1.0
    await room.server.say("mq:1", message(5))
    await trio.sleep(1.2)
    for ts in (6, 7):
        await room.server.say("mq:1", message(ts))
        await trio.sleep(0.1)
    assert room.batches == [[5]]
    await trio.sleep(0.11)
    assert room.batches == [[5], [6, 7]]


async def test_what_one_read_brought_counts_as_old_as_its_first(
    room: Room, autojump_clock: MockClock
) -> None:
    """Each message is counted, and no event is."""
    await room.member()
    await room.say(5, 6, 7)
    await room.server.say("fastimd:events", b"an event")
    await room.say(8)
    assert room.lists.ages == [5, 8]
    samples = {
        sample.name: sample.value
        for family in room.metrics.collect()
        for sample in family.samples
        if sample.name == "fastimd_relay_seconds_count"
    }
    assert samples == {"fastimd_relay_seconds_count": 4}


# What cannot be believed


async def test_what_is_no_message_is_counted_and_passed_over(
    room: Room, autojump_clock: MockClock
) -> None:
    """The next one is heard."""
    await room.member()
    await room.server.say("mq:1", b"garbage")
    await room.say(5)
    assert room.heard == [5]
    assert room.metrics.corrupt_entries == 1


async def test_a_foreign_ts_is_shown_and_is_no_measure(
    room: Room, autojump_clock: MockClock
) -> None:
    """Beyond the clock and beyond the step from the newest; the next of ours is heard."""
    subscription = await room.member()
    await room.say(LATEST + STEP)
    assert (room.heard, subscription.newest_ts) == ([0], 1)
    await room.say(LATEST)
    assert (room.heard, subscription.newest_ts) == ([0, LATEST], LATEST)
    await room.say(LATEST + STEP)
    await room.say(LATEST + 2 * STEP + 1)
    assert room.heard == [0, LATEST, LATEST + STEP, 0]
    assert room.metrics.foreign_ts == 2


async def test_the_clock_goes_on(room: Room, autojump_clock: MockClock) -> None:
    """What was ahead of it a while ago is not by now."""
    await room.member()
    await room.say(LATEST + 3 * STEP)
    room.lists.latest_ts = LATEST + 3 * STEP
    await room.say(LATEST + 3 * STEP)
    assert room.heard == [0, LATEST + 3 * STEP]


# The fence


async def test_a_fence_passes_when_all_before_it_was_handed_on(
    room: Room, autojump_clock: MockClock
) -> None:
    """Not before Redis has answered."""
    await room.member()
    room.server.hold()
    passed: list[int] = []

    async def hear_out() -> None:
        await room.relay.hear_out()
        passed.extend(room.heard)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear_out)
        await wait_all_tasks_blocked()
        await room.server.say("mq:1", message(5))
        await wait_all_tasks_blocked()
        assert passed == []
        room.server.let_go()
    assert passed == [5]


async def test_nobody_waits_longer_for_a_fence_than_for_a_call(
    room: Room, autojump_clock: MockClock
) -> None:
    """A Redis that is silent, or away, ends the waiting."""
    room.server.hold()
    began = trio.current_time()
    await room.relay.hear_out()
    assert trio.current_time() - began == pytest.approx(CALL_SECONDS, abs=0.1)
    room.server.away = OSError("away")
    room.server.let_go()
    await room.server.hang_up()
    began = trio.current_time()
    await room.relay.hear_out()
    assert trio.current_time() - began < 0.1


async def test_a_fence_falls_with_its_connection(room: Room, autojump_clock: MockClock) -> None:
    """Who waits is let go when it breaks."""
    room.server.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.relay.hear_out)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await room.server.hang_up()
    assert trio.current_time() - began < 0.1


async def test_who_is_in_no_hurry_is_told_within_two_seconds(
    room: Room, autojump_clock: MockClock
) -> None:
    """Once; who asks anew is told instead of who asked before."""
    subscription = await room.member()
    told: list[str] = []
    room.relay.when_passed(subscription, lambda: told.append("first"))
    room.relay.when_passed(subscription, lambda: told.append("second"))
    assert told == []
    await trio.sleep(2)
    assert told == ["second"]
    await trio.sleep(5)
    assert told == ["second"]


async def test_who_is_in_no_hurry_waits_for_the_repair(
    room: Room, autojump_clock: MockClock
) -> None:
    """What is missed is not handed on before; a group that is lost tells nobody."""
    subscription, other = await room.member(), await room.member("2")
    told: list[str] = []
    room.server.away = OSError("away")
    await room.server.hang_up()
    for each in (subscription, other):
        room.relay.when_passed(each, partial(told.append, each.group))
    await trio.sleep(10)
    assert told == []
    room.lists.let_go = trio.Event()
    room.server.away = None
    await trio.sleep(5)
    assert told == []
    room.server.refused[b"mq:2"] = b"NOPERM not yours"
    room.lists.failures.append(KeyUnusable("gml:1", "no list"))
    room.lists.let_go.set()
    await trio.sleep(5)
    assert len(told) == 1
    assert len(room.lost) == 1
    assert set(told) | set(room.lost) == {"1", "2"}


# Reconnecting and repairing


async def test_a_gap_is_filled_once_and_in_order(room: Room, autojump_clock: MockClock) -> None:
    """What was said while the connection was away comes from the list, page by page."""
    subscription = await room.member()
    await room.say(2, 3)
    room.lists.page = 2
    room.server.away = OSError("away")
    await room.server.hang_up()
    await trio.sleep(1)
    assert room.relay.last_error == "away"
    room.lists.store(4, 5, 6, 7, 8)
    room.server.away = None
    await trio.sleep(3)
    assert room.heard == [2, 3, 4, 5, 6, 7, 8]
    assert subscription.held is None
    assert [batch for batch in room.batches if batch] == [[2, 3], [4, 5], [6, 7], [8]]
    assert (room.metrics.gap_repairs, room.metrics.messages_repaired) == (1, 5)
    assert room.gaps == 2
    assert room.relay.last_error is None
    await room.say(9)
    assert room.heard[-1] == 9
    assert room.metrics.redis_reconnects["messages"] == 1


async def test_deletions_of_a_gap_come_before_it_and_those_that_are_heard_behind_all(
    room: Room, autojump_clock: MockClock
) -> None:
    """Each once, whether the list tells it too or not."""
    room.noticed = await room.member()
    await room.say(2)
    room.lists.page = 2
    room.lists.let_go = trio.Event()
    await room.server.hang_up()
    await trio.sleep(1)
    room.lists.store(3, 4, 5)
    room.lists.removals = [b"missed", b"heard"]
    await room.server.say("fastimd:events", b"heard")
    await trio.sleep(1)
    room.lists.let_go.set()
    await trio.sleep(3)
    assert [batch for batch in room.batches if batch] == [[2], [NOTICE, 3, 4], [5, NOTICE]]
    room.lists.removals = []
    await room.server.say("fastimd:events", b"later")
    await trio.sleep(1)
    assert room.batches[-1] == [NOTICE]


async def test_between_two_pages_of_a_repair_others_have_their_turn(
    room: Room, autojump_clock: MockClock
) -> None:
    """So long that the members' connections can take the first."""
    await room.member()
    room.lists.page = 1
    room.lists.store(2, 3)
    times: list[float] = []
    room.relay.hand_to(on_batch=cast(Any, _noting(times)), announcements=room.announcements)
    await room.server.hang_up()
    await trio.sleep(3)
    assert room.heard == [2, 3]
    assert times[1] - times[0] == pytest.approx(PAUSE_SECONDS, abs=0.004)


def _noting(times: list[float]) -> Callable[[], Any]:
    async def note() -> None:
        times.append(trio.current_time())
        await trio.lowlevel.checkpoint()

    return note


async def test_what_comes_during_a_repair_comes_behind_it(
    room: Room, autojump_clock: MockClock
) -> None:
    """Once, though the page has it too: the fence lets it in before the page is judged."""
    await room.member()
    await room.say(2)
    await room.server.hang_up()
    room.lists.let_go = trio.Event()
    room.lists.store(3)
    await trio.sleep(3)
    await room.say(4, 5)
    assert room.heard == [2]
    room.lists.let_go.set()
    await trio.sleep(1)
    assert room.heard == [2, 3, 4, 5]


async def test_a_page_is_not_judged_before_its_fence(room: Room, autojump_clock: MockClock) -> None:
    """What was published before it was read is waited for, and then not heard twice."""
    await room.member()
    await room.server.hang_up()
    room.lists.let_go = trio.Event()
    await trio.sleep(3)
    room.lists.store(2, 3)
    room.server.hold()
    room.lists.let_go.set()
    await trio.sleep(1)
    assert room.heard == []
    await room.server.say("mq:1", message(2), message(3))
    room.server.let_go()
    await trio.sleep(1)
    assert room.heard == [2, 3]


async def test_too_many_held_messages_are_read_from_the_list(
    room: Room, autojump_clock: MockClock
) -> None:
    """In order, once, and the repair ends: that too many came counts for one page alone."""
    subscription = await room.member()
    await room.server.hang_up()
    room.lists.let_go = trio.Event()
    await trio.sleep(3)
    await room.say(*range(2, MAX_HELD + 10))
    asked = len(room.lists.asked)
    room.lists.let_go.set()
    room.lists.page = MAX_HELD // 2
    await trio.sleep(5)
    assert room.heard == list(range(2, MAX_HELD + 10))
    assert subscription.held is None
    assert not subscription.overheld
    assert len(room.lists.asked) - asked <= 4
    assert room.metrics.gap_repairs == 1


async def test_a_repair_begins_with_nothing_held_of_before(
    room: Room, autojump_clock: MockClock
) -> None:
    """A connection that breaks amid a repair begins it anew."""
    subscription = await room.member()
    await room.server.hang_up()
    room.lists.let_go = trio.Event()
    await trio.sleep(3)
    await room.say(*range(2, MAX_HELD + 10))
    assert subscription.overheld
    await room.server.hang_up()
    await trio.sleep(3)
    assert not subscription.overheld
    assert subscription.held == []
    room.lists.let_go.set()
    await trio.sleep(3)
    assert room.heard == list(range(2, MAX_HELD + 10))


async def test_a_foreign_message_in_a_gap_is_shown_and_is_no_measure(
    room: Room, autojump_clock: MockClock
) -> None:
    """A message of ours that follows it is heard; a burst ahead of the clock is ours."""
    subscription = await room.member(at=LATEST)
    room.lists.store(LATEST + STEP, LATEST + STEP + 1, LATEST + 1, LATEST + 2)
    await room.server.hang_up()
    await trio.sleep(3)
    assert room.heard == [LATEST + STEP, 0, LATEST + 1, LATEST + 2]
    assert room.metrics.foreign_ts == 1
    assert subscription.newest_ts == LATEST + STEP


async def test_the_latest_ts_that_is_ours_is_one_in_a_gap_too(
    room: Room, autojump_clock: MockClock
) -> None:
    """However far it is from the newest that is known."""
    subscription = await room.member()
    room.lists.store(LATEST)
    await room.server.hang_up()
    await trio.sleep(3)
    assert (room.heard, subscription.newest_ts) == ([LATEST], LATEST)


async def test_a_repair_waits_for_redis(room: Room, autojump_clock: MockClock) -> None:
    """While the list cannot be read it is tried again, some times a second."""
    await room.member()
    room.lists.store(2)
    room.lists.failures.extend(StoreUnavailable("away") for _ in range(20))
    await room.server.hang_up()
    await trio.sleep(1.5)
    assert room.heard == []
    assert 5 < len(room.lists.asked) < 20
    await trio.sleep(2)
    assert room.heard == [2]
    assert room.metrics.gap_repairs == 1


async def test_a_group_whose_list_cannot_be_used_is_lost_alone(
    room: Room, autojump_clock: MockClock
) -> None:
    """Its listeners are told, its channel is given up, and who comes later tries anew."""
    first = await room.member()
    await room.member("2")
    room.lists.failures.append(KeyUnusable("gml:1", "no list"))
    await room.server.hang_up()
    await trio.sleep(3)
    [lost] = room.lost
    kept = "2" if lost == "1" else "1"
    assert room.relay.subscriptions == 1
    assert room.server.asked(b"UNSUBSCRIBE") == [[f"mq:{lost}".encode()]]
    assert room.metrics.gap_repairs == 1
    await room.say(2, group=kept)
    assert room.heard == [2]
    again = room.listen(lost)
    assert again is not first
    await room.relay.wait_heard(again)


async def test_a_few_groups_at_a_time_are_repaired(room: Room, autojump_clock: MockClock) -> None:
    """All of them in the end."""
    groups = [str(group) for group in range(REPAIRS_AT_ONCE + 5)]
    for group in groups:
        await room.member(group)
        room.lists.store(2, group=group)
    await room.server.hang_up()
    room.lists.let_go = trio.Event()
    await trio.sleep(3)
    assert room.lists.reading == REPAIRS_AT_ONCE
    room.lists.let_go.set()
    await trio.sleep(3)
    assert room.heard == [2] * len(groups)
    assert room.metrics.gap_repairs == len(groups)


async def test_all_groups_are_subscribed_again(room: Room, autojump_clock: MockClock) -> None:
    """Each once, but those that nobody listens to any more by then."""
    for group in range(SUBSCRIBED_AT_ONCE + 5):
        room.listen(str(group))
    await wait_all_tasks_blocked()
    room.server.commands.clear()
    await room.server.hang_up()
    await trio.sleep(3)
    channels = [channel for asked in room.server.asked(b"SUBSCRIBE") for channel in asked]
    assert len(channels) == len(set(channels)) == SUBSCRIBED_AT_ONCE + 5
    assert room.server.asked(b"UNSUBSCRIBE") == []


async def test_a_group_that_was_never_heard_has_no_gap(
    room: Room, autojump_clock: MockClock
) -> None:
    """It begins with the connection that confirms it, and nothing is read for it."""
    room.server.away = OSError("away")
    await room.server.hang_up()
    subscription = room.listen()
    room.server.away = None
    await trio.sleep(3)
    await room.relay.wait_heard(subscription)
    assert room.lists.asked == []
    await room.say(5)
    assert room.heard == [5]


async def test_a_late_confirmation_says_nothing_of_what_has_moved(
    room: Room, autojump_clock: MockClock
) -> None:
    """Where the group is heard by now has not confirmed it yet."""
    room.server.hold()
    subscription = room.listen()
    await wait_all_tasks_blocked()
    room.relay.release(subscription)
    room.server.let_go()
    await wait_all_tasks_blocked()
    assert room.server.asked(b"SUBSCRIBE") == [[b"mq:1"]]
    assert not subscription.confirmed.is_set()


async def test_an_older_confirmation_says_nothing_of_what_has_come_back(
    room: Room, autojump_clock: MockClock
) -> None:
    """It was elsewhere meanwhile, so what was asked last counts; each answer is waited for once."""
    room.server.hold()
    subscription = room.listen()
    await wait_all_tasks_blocked()
    for _ in "ab":
        room.relay.adopt(subscription, room.relay.release(subscription))
        await wait_all_tasks_blocked()
        room.server.let_go()
        room.server.hold()
        await wait_all_tasks_blocked()
        assert not subscription.confirmed.is_set()
    room.server.let_go()
    await room.relay.wait_heard(subscription)
    assert room.server.asked(b"SUBSCRIBE") == [[b"mq:1"]] * 3
    await room.say(5)
    assert room.heard == [5]


async def test_a_connection_that_broke_owes_no_confirmation(
    room: Room, autojump_clock: MockClock
) -> None:
    """On the next one a channel is heard as soon as that says so."""
    room.server.hold()
    subscription = room.listen()
    await wait_all_tasks_blocked()
    room.relay.adopt(subscription, room.relay.release(subscription))
    await room.server.hang_up()
    room.server.let_go()
    await trio.sleep(3)
    assert subscription.confirmed.is_set()


async def test_a_connection_can_be_given_up(room: Room, autojump_clock: MockClock) -> None:
    """The next one is opened, and nothing is missed."""
    await room.member()
    room.lists.store(2)
    room.relay.reconnect()
    await trio.sleep(3)
    assert room.server.connections == 2
    assert room.heard == [2]


async def test_a_silent_connection_is_given_up(room: Room, autojump_clock: MockClock) -> None:
    """Within ten seconds; one that answers is kept for ever."""
    await room.member()
    await trio.sleep(60)
    assert room.server.connections == 1
    room.server.hold()
    await trio.sleep(10)
    assert room.relay.last_error is not None or room.server.connections > 1


async def test_a_login_that_is_refused_at_first_ends_the_relay(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """It is no outage."""
    room = Room(nursery)
    room.server.away = AuthenticationError("WRONGPASS")
    with pytest.raises(ExceptionGroup) as caught:
        await room.relay.run()
    assert caught.group_contains(StartupError)


# Refusals


async def test_a_channel_that_must_not_be_heard_is_lost_alone(
    room: Room, autojump_clock: MockClock
) -> None:
    """It is found among those of its command, and the others are heard."""
    room.server.refused[b"mq:2"] = b"NOPERM not yours"
    subscriptions = [room.listen(group) for group in "123"]
    await trio.sleep(1)
    await room.relay.wait_heard(subscriptions[0])
    await room.relay.wait_heard(subscriptions[2])
    began = trio.current_time()
    with pytest.raises(KeyUnusable) as caught:
        await room.relay.wait_heard(subscriptions[1])
    assert caught.value.key == "mq:2"
    assert trio.current_time() - began < 0.1
    assert room.lost == ["2"]
    assert room.relay.subscriptions == 2
    assert room.server.asked(b"UNSUBSCRIBE") == []
    assert room.metrics.unusable_keys == 1
    assert room.server.connections == 1
    await room.say(5, group="3")
    assert room.heard == [5]


async def test_who_waits_for_a_channel_that_is_refused_is_told_at_once(
    room: Room, autojump_clock: MockClock
) -> None:
    """Not only when its patience is over."""
    room.server.refused[b"mq:1"] = b"NOPERM not yours"
    began = trio.current_time()
    with pytest.raises(KeyUnusable):
        await room.relay.wait_heard(room.listen())
    assert trio.current_time() - began < 0.1


async def test_a_refusal_that_is_not_about_the_channel_ends_the_connection(
    room: Room, autojump_clock: MockClock
) -> None:
    """The next one subscribes again."""
    room.server.refused[b"mq:1"] = b"ERR anything"
    subscription = room.listen()
    await wait_all_tasks_blocked()
    assert room.relay.last_error == "anything" or "anything" in str(room.relay.last_error)
    room.server.refused.clear()
    await trio.sleep(3)
    await room.relay.wait_heard(subscription)
    assert (room.lost, room.server.connections) == ([], 2)


async def test_a_redis_that_takes_no_command_now_lets_the_fence_pass(
    room: Room, autojump_clock: MockClock
) -> None:
    """Its refusal is in the place of the answer; the connection is kept."""
    room.server.refusal = b"OOM not now"
    began = trio.current_time()
    await room.relay.hear_out()
    assert trio.current_time() - began < 0.1
    await trio.sleep(10)
    assert room.server.connections == 1
    room.server.refusal = b"NOAUTH who are you"
    await trio.sleep(4)
    assert room.server.connections > 1


# What was asked and has no answer


class Written:
    """A wire that keeps what is left in it, and makes commands when the test has it written."""

    def __init__(self) -> None:
        self._left: list[Callable[[], tuple[Any, ...]]] = []

    def write(self, *command: Any) -> None:
        self._left.append(lambda: command)

    def write_later(self, make_command: Callable[[], tuple[Any, ...]]) -> None:
        self._left.append(make_command)

    def leave(self) -> list[tuple[Any, ...]]:
        left, self._left = self._left, []
        return [make() for make in left]


@pytest.fixture
def wire() -> Written:
    return Written()


@pytest.fixture
def questions(wire: Written) -> Questions:
    questions = Questions()
    questions.take_over(cast(Wire, wire))
    return questions


def test_without_a_connection_nothing_is_asked() -> None:
    """Who waits for a fence is told at once that there is none."""
    questions = Questions()
    told: list[bool] = []
    questions.subscribe(Subscription("1"))
    questions.unsubscribe(b"mq:1")
    questions.ping(told.append)
    assert told == [False]


def test_a_ping_of_one_turn_serves_all(questions: Questions, wire: Written) -> None:
    """One that has left serves nobody who comes later."""
    told: list[str] = []
    questions.ping(lambda _: told.append("a"))
    questions.ping(lambda _: told.append("b"))
    assert wire.leave() == [("PING",)]
    questions.ping(lambda _: told.append("c"))
    assert wire.leave() == [("PING",)]
    questions.take_pong()
    assert told == ["a", "b"]
    questions.take_pong()
    assert told == ["a", "b", "c"]


def test_channels_keep_their_order_around_others(questions: Questions, wire: Written) -> None:
    """What is subscribed behind an UNSUBSCRIBE is asked behind it, or it would be undone."""
    first, second = Subscription("1"), Subscription("1")
    questions.subscribe(first)
    questions.unsubscribe(b"mq:1")
    questions.subscribe(second)
    assert wire.leave() == [
        ("SUBSCRIBE", b"mq:1"),
        ("UNSUBSCRIBE", b"mq:1"),
        ("SUBSCRIBE", b"mq:1"),
    ]
    assert questions.take_confirmation() is first
    questions.take_pong()
    assert questions.take_confirmation() is second


def test_a_refusal_is_an_answer(questions: Questions, wire: Written) -> None:
    """To those that were asked for with one command; what each is asked next is confirmed."""
    subscriptions = [Subscription(group) for group in "ab"]
    for subscription in subscriptions:
        questions.subscribe(subscription)
    assert questions.take_refusal(NoPermissionError("NOPERM")) == subscriptions
    for subscription in subscriptions:
        questions.subscribe_alone(subscription)
    assert [questions.take_confirmation() for _ in "ab"] == subscriptions


def test_a_channel_alone_has_its_own_command(questions: Questions, wire: Written) -> None:
    """Neither with what was asked before it, nor with what comes after."""
    for group in "ab":
        questions.subscribe(Subscription(group))
    questions.subscribe_alone(Subscription("c"))
    questions.subscribe_alone(Subscription("d"))
    questions.subscribe(Subscription("e"))
    assert wire.leave() == [
        ("SUBSCRIBE", b"mq:a", b"mq:b"),
        ("SUBSCRIBE", b"mq:c"),
        ("SUBSCRIBE", b"mq:d"),
        ("SUBSCRIBE", b"mq:e"),
    ]


def test_a_batch_that_has_left_takes_no_more(questions: Questions, wire: Written) -> None:
    """The next turn's channels are the next command, and each is confirmed in its place."""
    subscriptions = [Subscription(group) for group in "abc"]
    questions.subscribe(subscriptions[0])
    questions.subscribe(subscriptions[1])
    assert len(wire.leave()) == 1
    questions.subscribe(subscriptions[2])
    assert wire.leave() == [("SUBSCRIBE", b"mq:c")]
    assert [questions.take_confirmation() for _ in "abc"] == subscriptions


def test_a_lost_connection_takes_its_questions_along(questions: Questions, wire: Written) -> None:
    """Who waited is told that no answer will come; the next connection is asked anew."""
    told: list[bool] = []
    questions.subscribe(Subscription("1"))
    questions.ping(told.append)
    questions.let_go()
    assert told == [False]
    later = Written()
    questions.take_over(cast(Wire, later))
    mine = Subscription("2")
    questions.subscribe(mine)
    questions.ping(told.append)
    assert later.leave() == [("SUBSCRIBE", b"mq:2"), ("PING",)]
    assert questions.take_confirmation() is mine
    questions.take_pong()
    assert told == [False, True]


def test_a_refusal_for_now_of_nothing_that_was_asked_changes_nothing(
    questions: Questions, wire: Written
) -> None:
    """And one that is for good ends the connection, whatever was asked."""
    assert questions.take_refusal(NotNow("OOM")) == []
    with pytest.raises(ConnectionError):
        questions.take_refusal(ConnectionError("ERR max number of clients reached"))
    questions.subscribe(Subscription("1"))
    with pytest.raises(NotNow):
        questions.take_refusal(NotNow("OOM"))


async def test_letters_come_to_the_inbox(room: Room, autojump_clock: MockClock) -> None:
    """On every connection; they are no messages, and concern no group."""
    for letter in (b"one", b"two"):
        await room.server.say(INBOX, letter)
        await wait_all_tasks_blocked()
        await room.server.hang_up()
        await trio.sleep(1)
    assert room.letters == [b"one", b"two"]
    assert room.batches == []


async def test_own_channels_may_be_confirmed_late(room: Room, autojump_clock: MockClock) -> None:
    """What comes on the first between the two answers is taken for neither."""
    await room.member()
    room.server.is_slow = True
    await room.server.hang_up()
    await trio.sleep(1)
    await room.server.say("fastimd:events", b"event")
    await room.server.say(INBOX, b"letter")
    await room.say(2)
    assert room.events == [b"early", b"event"]
    assert room.letters == [b"letter"]
    assert room.heard == [2]


async def test_a_forbidden_inbox_takes_nothing_else_away(
    room: Room, autojump_clock: MockClock
) -> None:
    """It is logged and counted, and events and messages are heard all the same."""
    room.server.refused[INBOX.encode()] = b"NOPERM no channel"
    await room.server.hang_up()
    await trio.sleep(1)
    assert room.metrics.unusable_keys == 1
    await room.server.say("fastimd:events", b"event")
    await room.server.say(INBOX, b"letter")
    await room.member()
    await room.server.say("mq:1", message(2))
    await wait_all_tasks_blocked()
    assert room.events == [b"event"]
    assert room.letters == []
    assert room.heard == [2]
