"""A room's budget: what passes, what is left out, and that everybody is told how much that was."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any, NamedTuple, cast

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from test_hub_relay import Ear, FakeRelay, FakeStore, FreePolicies
from trio.testing import MockClock, wait_all_tasks_blocked

from fastimd.base import codec
from fastimd.base import log as logs
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.base.settings.room import Room as RoomSettings
from fastimd.classic.dialect import Classic
from fastimd.groups import audience, hub
from fastimd.groups.budget import (
    FIRST_ROUND,
    LEAST_ROUND,
    ROUND_SECONDS,
    Budget,
    Rounds,
)
from fastimd.groups.gap import GAP, NO_GAP, Gap, thin
from fastimd.groups.hub import Hub
from fastimd.groups.moderation.policies import Policies
from fastimd.groups.relay import Relay
from fastimd.groups.shedding import LOOK_SECONDS, QUIET_SECONDS, UNTOLD_SECONDS
from fastimd.groups.store.history import History, Position, Tail
from fastimd.groups.store.stand import Stand
from fastimd.groups.subscription import NOTICE
from fastimd.websocket.outbox import Outbox

HIGH = {"priority": "high"}


def message(ts: int, *, high: bool = False, info: str = "hi") -> bytes:
    return codec.message_prefix("1", "3", info, HIGH if high else None) + b"%d}" % ts


# Which messages are urgent


@pytest.mark.parametrize(
    ("stored", "is_high"),
    [
        (message(1, high=True), True),
        (message(1), False),
        (codec.message_prefix("1", "3", "hi", {"priority": "low", "a": "high"}) + b"1}", False),
        (codec.message_prefix("1", "3", "hi", {"a": "b", **HIGH}) + b"1}", True),
        (b'{"groupId":"1","userId":"3","info":"hi","tags": {"priority": "high"},"ts":1}', True),
        # What a member writes is no tag, however it is written.
        (message(1, info='"tags":{"priority":"high"}'), False),
        (message(1, info='"tags":{"priority":"high"},"ts":1}'), False),
        (message(1, info="priority"), False),
        (codec.message_prefix("priority", "priority", "priority") + b"1}", False),
        (b'{"groupId":"1","userId":"3","info":"","to":{"priority":"high"},"ts":1}', False),
        (b'{"groupId":"1","userId":"3","info":"","tags":{"priority":["high"]},"ts":1}', False),
        (b'{"groupId":"1","priority":"high","ts":1}', False),
    ],
)
def test_a_message_is_urgent_by_its_tag(stored: bytes, is_high: bool) -> None:
    """And by nothing that a member can put into a text."""
    assert codec.has_high_priority(stored) is is_high


# Gaps


def test_a_gap_stands_before_the_first_message_behind_it() -> None:
    """Who has heard that message has been told of all before it; the last ones are kept back."""
    batch = [(ts, b"%d" % ts) for ts in range(1, 7)]
    passes = [False, True, False, False, True, False]
    shown, gap = thin(batch, passes, Gap(2, 0, 0))
    assert shown == [
        (GAP, b'{"missed":3,"from":1,"to":1}'),
        (2, b"2"),
        (GAP, b'{"missed":2,"from":3,"to":4}'),
        (5, b"5"),
    ]
    assert gap == (1, 6, 6)
    assert thin([], None, gap) == ([], gap)
    assert thin([], None, gap, tells_all=True) == ([(GAP, gap.told)], NO_GAP)
    assert thin(batch, None, NO_GAP)[0] is batch


def test_a_gap_of_foreign_messages_names_no_ts() -> None:
    """They have none that is a measure of anything."""
    gap = NO_GAP.and_one(0).and_one(0)
    assert gap.told == b'{"missed":2}'
    assert gap.and_one(7).and_one(0).and_one(9).told == b'{"missed":5,"from":7,"to":9}'


# The bucket


class Step(NamedTuple):
    """So many seconds later a batch comes: of each message whether it is urgent."""

    after: float
    batch: list[bool]


STEPS = st.lists(
    st.builds(
        Step,
        st.floats(0, 3, allow_subnormal=False),
        st.lists(st.sampled_from([False, False, False, True]), max_size=12),
    ),
    max_size=25,
)


@given(steps=STEPS, rate=st.integers(1, 60), cost=st.integers(1, 80))
def test_no_window_has_more_than_the_budget_and_a_burst(
    steps: list[Step], rate: int, cost: int
) -> None:
    """Whatever comes, and whenever; the urgent pass, and count as what they are."""
    budget = Budget()
    burst = max(rate, cost)
    now = 100.0
    passed: list[tuple[float, int, int]] = []  # when, deliveries, and those of urgent messages
    for step in steps:
        now += step.after
        batch = [(ts, message(ts, high=high)) for ts, high in enumerate(step.batch, 1)]
        budget.fill(rate, cost, now)
        passes = budget.choose(batch) or [True] * len(batch)
        assert all(passed for passed, high in zip(passes, step.batch, strict=True) if high)
        low = [passed for passed, high in zip(passes, step.batch, strict=True) if not high]
        assert low == sorted(low), "the newest pass"
        passed.append((now, sum(passes) * cost, sum(step.batch) * cost))
    for index, (began, _, _) in enumerate(passed):
        low_deliveries = 0
        for ended, deliveries, urgent in passed[index:]:
            low_deliveries += deliveries - urgent
            assert low_deliveries <= burst + (ended - began) * rate + 1e-6


def test_what_passes_is_spread_evenly() -> None:
    """In every eighth of a second as many as the budget has for it, after the first second's."""
    budget = Budget()
    passed = []
    for eighth in range(50):
        budget.fill(16 * 1000, 1000, eighth / 8)
        passes = budget.choose([(ts, message(ts)) for ts in range(1, 201)])
        assert passes is not None
        passed.append(passes.count(True))
    assert passed[0] == 16
    assert set(passed[1:]) == {2}


def test_more_members_than_deliveries_a_second_hear_a_message_now_and_then() -> None:
    """Ten thousand members and a budget of 5,000: one message every two seconds."""
    budget = Budget()
    heard = []
    for eighth in range(65):
        budget.fill(5000, 10_000, eighth / 8)
        heard.append(budget.choose([(1, message(1))]) is None)
    assert [index for index, is_heard in enumerate(heard) if is_heard] == [0, 16, 32, 48, 64]


def test_urgent_messages_leave_less_for_others_for_a_second_at_most() -> None:
    """They count in the budget, however many there are."""
    budget = Budget()
    budget.fill(10, 1, 0)
    assert budget.choose([(1, message(1, high=True))] * 1000) is None
    budget.fill(10, 1, 0.95)
    assert budget.choose([(1, message(1))]) == [False]
    budget.fill(10, 1, 1.25)
    assert budget.choose([(1, message(1))] * 5) == [False] * 3 + [True] * 2


def test_notices_pass_and_cost_nothing() -> None:
    """What was deleted is told whatever the room costs."""
    budget = Budget()
    budget.fill(1, 1, 0)
    assert budget.choose([(NOTICE, b"a"), (1, b"1"), (NOTICE, b"b"), (2, b"2")]) == [
        True,
        False,
        True,
        True,
    ]


def test_without_a_rate_everything_passes() -> None:
    """As after a reload that takes the budget away."""
    budget = Budget()
    budget.fill(1, 1, 0)
    assert budget.choose([(ts, b"") for ts in range(9)]) is not None
    budget.fill(0, 1, 0)
    assert budget.choose([(ts, b"") for ts in range(9)]) is None
    assert budget.is_full


# Rounds


def test_rounds_take_no_longer_than_they_may() -> None:
    """A machine that does a million deliveries a second, and four for each member's write."""
    rounds = Rounds()
    members = 10_000

    def serve(messages: int) -> float:
        seconds = members * (4e-6 + messages * 1e-6)
        rounds.note(members * messages, seconds)
        return seconds

    assert rounds.share(FIRST_ROUND) == 1
    took = []
    for _ in range(30):
        wanted = members * 1000
        took.append(serve(math.ceil(1000 * rounds.share(wanted))))
    assert max(took) < 2 * ROUND_SECONDS
    assert ROUND_SECONDS / 3 < sum(took[10:]) / 20 < ROUND_SECONDS * 1.2


def test_a_round_that_something_else_held_up_takes_nothing_from_small_ones() -> None:
    """And in a few rounds all is as before."""
    rounds = Rounds()
    rounds.note(20, 5.0)
    assert rounds.share(LEAST_ROUND) == 1
    assert rounds.share(FIRST_ROUND) < 1
    for _ in range(5):
        rounds.note(20, 0.001)
    assert rounds.share(FIRST_ROUND) == 1
    before = rounds.limit
    rounds.note(20, 0.001)
    assert rounds.limit == before, "what is not used tells nothing of more"


def test_of_a_group_one_message_passes_in_each_round() -> None:
    """However many groups share it."""
    budget = Budget()
    budget.fill(1000, 1, 0)
    budget.share = 0.001
    assert budget.choose([(1, b""), (2, b"")]) == [False, True]


# The hub


class Store(FakeStore):
    """A list with foreign messages in it; all that is read is of the moment of the question."""

    async def tail(self, _group: str) -> Tail:
        listed, foreign = list(self.listed), list(self.foreign)
        if self.holding:
            self.held.append(trio.Event())
            await self.held[-1].wait()
        position = Position(listed[-1] if listed else 0)
        return Tail([*map(message, listed), *foreign], 0, position, frozenset(foreign))


class Plain:
    """A dialect that resumes, and tells all as JSON; its greeting is nothing."""

    resumes = True

    def __init__(self, store: Store) -> None:
        self._store = store

    async def greet(self, group: str, since: audience.Since | None) -> audience.Greeting:
        _, _, position, foreign = await self._store.tail(group)
        stand = Stand("e", position, bool(since), [], [], foreign)
        return audience.Greeting(b"", position, foreign, stand)

    def encode(self, _group: str, batch: audience.Batch) -> list[bytes]:
        return [msgspec.json.encode([ts, text.decode()]) + b"\n" for ts, text in batch]


class Said(NamedTuple):
    """A message of the group; ``ts`` is 0 for a foreign one."""

    ts: int
    text: str


class Room:
    """A hub with a budget, one group on it, and everything that was said there.

    What was said comes over the relay later, when the test has it ``hear``.
    """

    def __init__(self, nursery: trio.Nursery, rate: int) -> None:
        self.nursery = nursery
        self.relay = FakeRelay()
        self.store = Store()
        self.metrics = Metrics()
        self.config = Config(room=RoomSettings(max_deliveries_per_second=rate))
        self.plain = Plain(self.store)
        self.classic = Classic(cast(History, self.store))
        self.hub = Hub(
            cast(Relay, self.relay),
            cast(History, self.store),
            self.metrics,
            self.config,
            cast(Policies, FreePolicies()),
        )
        self.said: list[Said] = []
        self.heard = 0
        self.members: list[Member] = []

    def say(self, *, high: bool = False, foreign: bool = False) -> None:
        number = len(self.said) + 1
        if foreign:
            text = message(number, high=high, info=f"foreign {number}")
            self.store.foreign.append(text)
            self.said.append(Said(0, text.decode()))
        else:
            self.store.listed.append(number)
            self.said.append(Said(number, message(number, high=high).decode()))

    def hear(self) -> None:
        for ts, text in self.said[self.heard :]:
            if (subscription := self.relay.subscriptions.get("1")) is not None:
                subscription.receive(ts, text.encode(), text.encode())
        self.heard = len(self.said)

    async def serve(self, *sayings: dict[str, bool]) -> None:
        """Say something, and have it delivered."""
        for saying in sayings:
            self.say(**saying)
        self.hear()
        await self.hub.flush()

    def come(self, *, resumes: bool = True) -> Member:
        member = Member(self, self.plain if resumes else self.classic)
        self.members.append(member)
        self.nursery.start_soon(member.stay)
        return member

    async def come_and_settle(self, *, resumes: bool = True) -> Member:
        member = self.come(resumes=resumes)
        await wait_all_tasks_blocked()
        self.relay.pass_all()
        self.relay.pass_all()
        return member


class Member:
    """Somebody in the group. ``first`` is the number of what was said first after its greeting."""

    def __init__(self, room: Room, dialect: Plain | Classic) -> None:
        self._room = room
        self.dialect = dialect
        self.ear = Ear()
        self.leaving = trio.Event()
        self.has_left = False
        self.first = 0

    async def stay(self) -> None:
        room = self._room
        membership = room.hub.enter(
            "1", cast(Outbox, self.ear), cast(audience.Dialect, self.dialect), lambda _: None
        )
        try:
            greeting = await membership.read_greeting()
            known = [*greeting.foreign]
            self.first = max(greeting.position.ts, *(json.loads(each)["ts"] for each in known), 0)
            membership.begin()
            await self.leaving.wait()
        finally:
            membership.leave()
            self.has_left = True

    @property
    def told(self) -> list[Any]:
        """Each message as its number, each gap as its dict; without notices."""
        told: list[Any] = []
        for line in b"".join(self.ear.pushes).splitlines():
            ts, text = json.loads(line)
            if ts == NOTICE:
                continue
            told.append(json.loads(text) if ts == GAP else json.loads(text)["ts"])
        return told

    def check(self, *, to_the_end: bool) -> int:
        """What it heard and what it was told to have missed is all that was said, in order.

        Returns:
            How much it missed.
        """
        at, missed = self.first, 0
        for each in self.told:
            if isinstance(each, int):
                at += 1
                assert each == at, self.told
            else:
                between = [ts for ts, _ in self._room.said[at : at + each["missed"]] if ts]
                assert each["missed"] > 0
                assert (each.get("from"), each.get("to")) == (
                    (between[0], between[-1]) if between else (None, None)
                )
                at += each["missed"]
                missed += each["missed"]
        assert at == len(self._room.said) if to_the_end else at <= len(self._room.said)
        return missed


@pytest.fixture
def room(nursery: trio.Nursery) -> Room:
    """With ten deliveries a second."""
    room = Room(nursery, 10)
    nursery.start_soon(room.hub.tell_gaps)
    return room


LOW: dict[str, bool] = {}
URGENT = {"high": True}


async def test_what_is_beyond_the_budget_is_left_out_and_told(
    room: Room, autojump_clock: MockClock
) -> None:
    """Two members, so five messages a second; what is urgent passes beside them."""
    one, other = await room.come_and_settle(), await room.come_and_settle()
    await room.serve(*[LOW] * 10, URGENT, *[LOW] * 10)
    expected = [{"missed": 10, "from": 1, "to": 10}, 11]
    expected += [{"missed": 6, "from": 12, "to": 17}, 18, 19, 20, 21]
    assert one.told == other.told == expected
    assert one.ear.pushes == other.ear.pushes
    assert len(one.ear.pushes) == 1, "with what it is told"
    assert (room.metrics.deliveries, room.metrics.messages_shed) == (10, 16)
    assert room.metrics.deliveries_shed == 32
    for member in (one, other):
        member.leaving.set()
    await wait_all_tasks_blocked()
    assert one.ear.messages == 5, "the greeting is nothing, and a gap is no message"


async def test_within_the_budget_nothing_is_left_out(room: Room, autojump_clock: MockClock) -> None:
    """A message every half second to each of five is ten deliveries a second."""
    members = [await room.come_and_settle() for _ in range(5)]
    for _ in range(20):
        await room.serve(LOW)
        await trio.sleep(0.5)
    assert all(member.told == list(range(1, 21)) for member in members)
    assert room.metrics.messages_shed == 0


async def test_a_gap_that_no_message_follows_is_told_in_a_moment(
    room: Room, autojump_clock: MockClock
) -> None:
    """Once; nobody waits for the next message to learn that there were some."""
    member = await room.come_and_settle()
    await room.serve(*[LOW] * 11)
    await room.serve(*[LOW] * 3)
    assert member.told == [{"missed": 1, "from": 1, "to": 1}, *range(2, 12)]
    await trio.sleep(UNTOLD_SECONDS + 2 * LOOK_SECONDS)
    assert member.told[11:] == [{"missed": 3, "from": 12, "to": 14}]
    await trio.sleep(2)
    assert len(member.told) == 12
    await room.serve(*[LOW] * 12)
    assert len(member.told) == 12 + 1 + 10
    await room.serve(LOW)
    assert len(member.told) == 12 + 1 + 10, "it waits for a message that it can be told with"


async def test_who_comes_amid_it_is_told_of_its_own_gap(
    room: Room, autojump_clock: MockClock
) -> None:
    """Not of what was left out before it came, and of all that was since."""
    first = await room.come_and_settle()
    await room.serve(*[LOW] * 10)
    await room.serve(*[LOW] * 4)
    room.say()
    later = room.come()
    await wait_all_tasks_blocked()  # and 15, which is still on its way, is in its greeting
    room.hear()
    await room.serve(LOW, LOW)
    await room.serve(URGENT)
    assert first.told[10:] == [{"missed": 7, "from": 11, "to": 17}, 18]
    assert later.told == [{"missed": 2, "from": 16, "to": 17}, 18]
    await room.serve(LOW, URGENT)
    assert first.told[12:] == later.told[2:] == [{"missed": 1, "from": 19, "to": 19}, 20]
    assert first.ear.pushes[-1] is later.ear.pushes[-1], "they are served together again"


async def test_who_is_greeted_meanwhile_gets_what_passed_and_the_gap(
    room: Room, autojump_clock: MockClock
) -> None:
    """What came while the greeting was read, though the budget left it out before it was."""
    await room.come_and_settle()
    room.store.holding = True
    member = room.come()
    await wait_all_tasks_blocked()
    await room.serve(*[LOW] * 8)
    room.say()
    room.hear()  # and is not flushed yet: whether it passes is decided with the next batch
    room.store.held[0].set()
    await wait_all_tasks_blocked()
    assert member.told == [{"missed": 3, "from": 1, "to": 3}, 4, 5, 6, 7, 8]
    await room.serve(LOW, URGENT)
    assert member.told[6:] == [{"missed": 2, "from": 9, "to": 10}, 11]
    await trio.sleep(2 * QUIET_SECONDS)
    assert not room.hub._shedding.budgets, "nothing is kept for greetings that were given"


async def test_a_greeting_may_take_long(room: Room, autojump_clock: MockClock) -> None:
    """What was left out before it is told behind it, though the room has been quiet since."""
    await room.come_and_settle()
    room.store.holding = True
    member = room.come()
    await wait_all_tasks_blocked()
    await room.serve(*[LOW] * 6)
    await trio.sleep(3 * QUIET_SECONDS)
    room.store.held[0].set()
    await wait_all_tasks_blocked()
    assert member.told == [{"missed": 1, "from": 1, "to": 1}, 2, 3, 4, 5, 6]


async def test_who_misses_what_the_others_do_not_is_told_alone(
    room: Room, autojump_clock: MockClock
) -> None:
    """Of a message that is in no list, before one that its greeting has, once that is settled."""
    first = await room.come_and_settle()
    await room.serve(*[LOW] * 10)
    room.store.holding = True
    room.say(high=True)
    later = room.come()
    await wait_all_tasks_blocked()
    published = message(99, info="in no list")
    room.relay.subscriptions["1"].receive(0, published, published)
    room.store.held[0].set()
    await wait_all_tasks_blocked()
    room.hear()
    await room.hub.flush()
    assert first.told[10:] == [{"missed": 1}, 11]
    assert later.told == [], "11 was in its greeting"
    await trio.sleep(3 * QUIET_SECONDS)
    assert later.told == []
    room.relay.pass_all()
    await trio.sleep(2 * LOOK_SECONDS)
    assert later.told == [{"missed": 1}]
    assert len(first.told) == 12
    await trio.sleep(2 * QUIET_SECONDS)
    assert not room.hub._shedding.budgets, "all is told, and nothing is kept of it"


async def test_members_on_the_seed_s_wire_get_what_passes_and_no_word(
    room: Room, autojump_clock: MockClock
) -> None:
    """They have no words for it."""
    classic = await room.come_and_settle(resumes=False)
    live = await room.come_and_settle()
    await room.serve(*[LOW] * 8, URGENT)
    await trio.sleep(5)
    assert classic.ear.heard == [[], 5, 6, 7, 8, 9]
    assert live.told == [{"missed": 4, "from": 1, "to": 4}, 5, 6, 7, 8, 9]
    assert len(classic.ear.pushes) == 2


async def test_a_reload_sets_another_budget_at_once(room: Room, autojump_clock: MockClock) -> None:
    """Or none, and then all passes; what was left out before is told."""
    member = await room.come_and_settle()
    await room.serve(*[LOW] * 10)
    await room.serve(LOW)
    room.config.room = RoomSettings()
    await room.serve(*[LOW] * 50)
    assert member.told[10:] == [{"missed": 1, "from": 11, "to": 11}, *range(12, 62)]
    await trio.sleep(QUIET_SECONDS + 1)
    room.config.room = RoomSettings(max_deliveries_per_second=1)
    await room.serve(LOW, LOW)
    assert member.told[61:] == [{"missed": 1, "from": 62, "to": 62}, 63]


async def test_the_log_has_a_line_when_it_begins_and_one_when_it_ends(
    room: Room, autojump_clock: MockClock
) -> None:
    """With what it came to; however many messages there were."""
    await room.come_and_settle()
    with capture_logs() as lines:
        for _ in range(30):
            await room.serve(*[LOW] * 5)
            await trio.sleep(0.1)
        assert [line["event"] for line in lines] == ["room.shedding"]
        await trio.sleep(QUIET_SECONDS + 2 * LOOK_SECONDS)
    begun, ended = lines
    assert (begun["group"], begun["members"], begun["max_deliveries_per_second"]) == ("1", 1, 10)
    assert ended["event"] == "room.shed"
    assert ended["messages"] == ended["deliveries"] == room.metrics.messages_shed
    assert 100 < ended["messages"] < 150
    assert 1 < ended["seconds"] < 3.1


async def test_a_group_that_everybody_leaves_ends_its_line(
    room: Room, autojump_clock: MockClock
) -> None:
    """And nothing of its budget is left."""
    member = await room.come_and_settle()
    with capture_logs() as lines:
        await room.serve(*[LOW] * 12)
        await room.serve(*[LOW] * 12)
        member.leaving.set()
        await trio.sleep(2)
    assert [line["event"] for line in lines] == ["room.shedding", "room.shed"]
    assert not room.hub._shedding.budgets


async def test_a_small_group_gets_no_budget(nursery: trio.Nursery) -> None:
    """A thousand batches like this one would be within it."""
    room = Room(nursery, 2000)
    await room.come_and_settle()
    await room.serve(LOW, LOW)
    assert not room.hub._shedding.budgets
    await room.serve(LOW, LOW, LOW)
    assert len(room.hub._shedding.budgets) == 1


async def test_debug_lines_are_of_what_was_delivered(
    room: Room, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that is left out has no line."""
    await room.come_and_settle()
    monkeypatch.setattr(logs, "is_debug", True)
    with capture_logs() as lines:
        await room.serve(*[LOW] * 12)
    delivered = [line for line in lines if line["event"] == "message.delivered"]
    assert [(line["message_ts"], line["members"]) for line in delivered] == [
        (ts, 1) for ts in range(3, 13)
    ]


# All of it at random


ONCE = [
    "say",
    "say high",
    "say foreign",
    "hear",
    "flush",
    "come",
    "come by classic",
    "hold greetings",
    "let greetings go",
    "pass fences",
    "notice",
]
MANY = {
    "say": (2, 12),
    "say and hear": (1, 6),
    "serve": (1, 12),
    "flush partly": (1, 3),
    "wait": (1, 8),
    "wait long": (50, 70),
    "leave": (0, 5),
    "reload": (0, 15),
}
"""What may be done at random, and how much of it."""


def script(seed: int) -> list[tuple[str, int]]:
    """Five to forty actions: lists that Hypothesis draws seldom get anywhere."""
    random = Random(seed)
    actions = []
    for _ in range(random.randint(5, 40)):
        kind = random.choice([random.choice(ONCE), random.choice(list(MANY))])
        actions.append((kind, random.randint(*MANY.get(kind, (1, 1)))))
    return actions


async def act(room: Room, kind: str, number: int) -> None:
    if kind in ("say", "say and hear", "serve"):
        for _ in range(number):
            room.say()
        if kind != "say":
            room.hear()
        if kind == "serve":
            await room.hub.flush()
    elif kind.startswith("say"):
        room.say(high=kind == "say high", foreign=kind == "say foreign")
    elif kind == "hear":
        room.hear()
    elif kind == "flush":
        await room.hub.flush()
    elif kind == "flush partly":
        room.nursery.start_soon(room.hub.flush)
        for _ in range(number):
            await trio.lowlevel.checkpoint()
    elif kind.startswith("come"):
        room.come(resumes=kind == "come")
        for _ in range(number):
            await trio.lowlevel.checkpoint()
    elif kind.startswith("wait"):
        await trio.sleep(number / 10)
    elif kind == "leave" and number < len(room.members):
        room.members[number].leaving.set()
        await trio.lowlevel.checkpoint()
    elif kind == "notice":
        room.hub.notice("1", b"gone")
    elif kind == "hold greetings":
        room.store.holding = True
    elif kind == "let greetings go":
        let_go(room)
        await trio.lowlevel.checkpoint()
    elif kind == "pass fences":
        room.hear()  # all that was published before has been handed on
        room.relay.pass_all()
    elif kind == "reload":
        room.config.room = RoomSettings(max_deliveries_per_second=number)


def let_go(room: Room) -> None:
    room.store.holding = False
    while room.store.held:
        room.store.held.popleft().set()


async def live_through(actions: list[tuple[str, int]], rate: int) -> None:
    async with trio.open_nursery() as nursery:
        room = Room(nursery, rate)
        nursery.start_soon(room.hub.tell_gaps)
        room.come()
        await wait_all_tasks_blocked()
        for kind, number in actions:
            await act(room, kind, number)
            for member in room.members:
                if member.dialect is room.plain and member.ear.pushes:
                    member.check(to_the_end=False)
        let_go(room)
        await wait_all_tasks_blocked()
        room.hear()
        await room.hub.flush()
        for _ in range(3):
            room.relay.pass_all()
            await trio.sleep(UNTOLD_SECONDS + 2 * LOOK_SECONDS)
        for member in room.members:
            if member.dialect is room.plain:
                member.check(to_the_end=not member.has_left)
            else:
                heard = [ts for ts in member.ear.heard if isinstance(ts, int)]
                assert heard == sorted(set(heard)), "nothing twice, and in order"
        nursery.cancel_scope.cancel()


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 2**32), rate=st.integers(1, 12))
def test_what_was_heard_and_what_was_missed_is_all_that_was_said(seed: int, rate: int) -> None:
    """For everybody on the live wire: whoever comes or goes, whenever, and whatever is reloaded."""
    patch = pytest.MonkeyPatch()
    patch.setattr(hub, "MEMBERS_A_TURN", 1)  # so that others come amid each flush
    try:
        trio.run(live_through, script(seed), rate, clock=MockClock(autojump_threshold=0))
    finally:
        patch.undo()
