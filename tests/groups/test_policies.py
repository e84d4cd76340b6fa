"""The policies in memory: as Redis has them, or known not to be, whatever the connection does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fastimd.base.errors import KeyUnusable, Restrained, StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.groups import hearing
from fastimd.groups.events import MODERATION, PolicyChange
from fastimd.groups.hearing import SURE_SECONDS, Hearing
from fastimd.groups.moderation import policies as policies_module
from fastimd.groups.moderation import policy as policy_module
from fastimd.groups.moderation import restraint
from fastimd.groups.moderation.judge import Judge
from fastimd.groups.moderation.policies import Policies
from fastimd.groups.moderation.policy import Policy
from fastimd.groups.moderation.waiting import Waiting
from fastimd.groups.store.keyspace import Keyspace
from fastimd.groups.store.policy import Policies as StoredPolicies
from fastimd.groups.store.policy import Sentence
from fastimd.groups.subscription import Subscription
from fastimd.redis.clients import RedisClient, SentScript
from fastimd.redis.room import Room

MUTED = '{"until":0,"reason":"","by":"boss"}'


class FakeStored:
    """A policy in a Redis that answers when the test lets it."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.failure: Exception | None = None
        self.reads = self.corrupt = 0
        self.held: list[trio.Event] | None = None
        self.now = 1_000

    def has_passed(self, ts: int) -> bool:
        return ts < self.now

    def send(self, _group: str) -> dict[str, str]:
        self.reads += 1
        return dict(self.fields)

    async def take(self, _group: str, sent: dict[str, str]) -> dict[str, str]:
        if self.held is not None:
            self.held.append(trio.Event())
            await self.held[-1].wait()
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        return sent

    def note_corrupt(self, _group: str, _failure: Exception) -> None:
        self.corrupt += 1

    async def read(self, group: str) -> dict[str, str]:
        return await self.take(group, self.send(group))

    async def take_turn(self, *_: object) -> int:
        return 0


class House:
    """The policies of a daemon, one group, and the connection over which it is heard."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.stored = FakeStored()
        self.policies = Policies(cast(StoredPolicies, self.stored))
        self.read_anew: list[str] = []
        self.policies.on_read = lambda policies: self.read_anew.extend(
            each.group for each in policies
        )
        self.subscription = Subscription("1")
        config = Config()
        self.room = Room(config)
        self.waiting = Waiting(self.policies, self.room, config)
        self.judge = Judge(
            cast(StoredPolicies, self.stored), self.policies, self.waiting, Metrics()
        )
        self.hearing = Hearing()
        self.connect()
        self.policy = self.policies.open("1", self.subscription)
        nursery.start_soon(self.policies.run)
        nursery.start_soon(self.waiting.run)

    def connect(self) -> None:
        self.hearing = Hearing()
        self.pong()
        self.subscription.confirm(self.hearing)

    def pong(self) -> None:
        """The connection has answered at once."""
        self.hearing.begin()(True)

    def disconnect(self) -> None:
        self.hearing.end()
        self.subscription.await_repair()

    def mute(self, user: str, *, is_heard: bool = True) -> PolicyChange:
        """Somebody mutes a user."""
        was = int(self.stored.fields.get("v", "0"))
        self.stored.fields |= {"v": str(was + 10), f"m:{user}": MUTED}
        change = PolicyChange(
            "1",
            MODERATION,
            "mute",
            user,
            was=was,
            version=was + 10,
            changes=[(f"m:{user}", MUTED)],
        )
        if is_heard:
            self.policies.receive(change)
        return change


@pytest.fixture
def house(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> House:
    """Time is that of Trio for all."""
    for module in (hearing, policy_module, policies_module):
        monkeypatch.setattr(module, "monotonic", trio.current_time)
    return House(nursery)


async def test_a_policy_is_read_once_and_followed(autojump_clock: MockClock, house: House) -> None:
    """Whatever is heard later is in it, without a question to Redis."""
    await house.policies.confirm(house.policy)
    assert house.policy.lets("3")
    house.mute("3")
    assert not house.policy.lets("3")
    assert house.policy.lets("4")
    assert house.stored.reads == 1


async def test_many_that_come_at_once_share_a_reading(
    autojump_clock: MockClock, house: House
) -> None:
    """And each goes on when it is read, also when who began it has gone."""
    house.stored.held = []
    with trio.CancelScope() as first:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.policies.confirm, house.policy)
            await wait_all_tasks_blocked()
            first.cancel()
    known: list[int] = []

    async def come(number: int) -> None:
        await house.policies.confirm(house.policy)
        known.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(come, number)
        await wait_all_tasks_blocked()
        assert house.stored.reads == 2
        house.stored.held[-1].set()
    assert sorted(known) == list(range(5))


@pytest.mark.parametrize("is_in_reading", [True, False])
async def test_what_is_heard_while_it_is_read_is_in_it(
    autojump_clock: MockClock, house: House, is_in_reading: bool
) -> None:
    """Whether Redis had it when it was read, or not yet."""
    house.stored.held = []
    if is_in_reading:
        heard = house.mute("3", is_heard=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.policies.confirm, house.policy)
        await wait_all_tasks_blocked()
        if is_in_reading:
            house.policies.receive(heard)
        else:
            house.mute("3")
        house.mute("4")
        house.stored.held[0].set()
    assert not house.policy.lets("3")
    assert not house.policy.lets("4")
    assert house.policy.lets("5")
    assert house.stored.reads == 1


async def test_a_change_that_was_missed_is_noticed_with_the_next(
    autojump_clock: MockClock, house: House
) -> None:
    """The policy is read again before anybody may speak."""
    await house.policies.confirm(house.policy)
    house.mute("3", is_heard=False)
    assert house.policy.lets("3")
    house.mute("4")
    assert not house.policy.lets("5")
    await house.policies.confirm(house.policy)
    assert house.policy.restrained == {"3", "4"}
    await wait_all_tasks_blocked()
    assert house.read_anew == ["1"]


async def test_nothing_is_believed_when_the_connection_breaks(
    autojump_clock: MockClock, house: House
) -> None:
    """Redis is asked then, about once a second; the next connection reads everything anew."""
    await house.policies.confirm(house.policy)
    house.disconnect()
    house.mute("3", is_heard=False)
    assert not house.policy.lets("4")
    await house.policies.confirm(house.policy)
    assert (house.policy.lets("3"), house.policy.lets("4")) == (False, True)
    assert house.stored.reads == 2
    house.mute("4", is_heard=False)
    await trio.sleep(SURE_SECONDS)
    assert not house.policy.is_certain
    house.connect()
    await wait_all_tasks_blocked()
    assert house.read_anew == ["1"]
    assert house.policy.is_certain
    assert house.policy.restrained == {"3", "4"}
    reads = house.stored.reads
    for _ in range(10):
        house.pong()
        await trio.sleep(SURE_SECONDS / 2)
        assert house.policy.is_certain
    assert house.stored.reads == reads


async def test_nothing_is_believed_while_a_channel_moves_to_another_server(
    autojump_clock: MockClock, house: House
) -> None:
    """Though the connection lives over which it was heard before."""
    await house.policies.confirm(house.policy)
    house.subscription.move()
    assert not house.policy.lets("3")
    house.mute("3", is_heard=False)
    await wait_all_tasks_blocked()
    assert house.policy.restrained == {"3"}
    house.mute("4", is_heard=False)
    house.connect()
    assert not house.policy.lets("5")
    await wait_all_tasks_blocked()
    assert (house.policy.lets("4"), house.policy.lets("5")) == (False, True)


async def test_a_connection_that_is_silent_is_not_believed_for_long(
    autojump_clock: MockClock, house: House
) -> None:
    """Though nothing says that it is broken; when it answers, all was heard that was said."""
    await house.policies.confirm(house.policy)
    await trio.sleep(SURE_SECONDS - 0.01)
    assert house.policy.lets("3")
    await trio.sleep(0.02)
    assert not house.policy.lets("3")
    house.pong()
    assert house.policy.lets("3")
    assert house.stored.reads == 1


async def test_an_answer_that_comes_late_is_good_for_who_has_waited(
    autojump_clock: MockClock, house: House
) -> None:
    """A daemon or a Redis that is slow lets people speak; who comes later asks anew."""
    house.disconnect()
    house.stored.held = []
    async with trio.open_nursery() as nursery:
        for user in ("3", "4"):
            nursery.start_soon(partial(house.judge.check_message, house.policy, user, within=5))
        await trio.sleep(2 * SURE_SECONDS)
        house.stored.held[0].set()
    assert house.stored.reads == 1
    assert not house.policy.is_certain
    house.stored.held = None
    house.mute("3", is_heard=False)
    with pytest.raises(Restrained):
        await house.judge.check_message(house.policy, "3", within=5)


async def test_what_was_read_over_an_older_connection_is_not_taken(
    autojump_clock: MockClock, house: House
) -> None:
    """An act between that and the new connection would be missing."""
    house.stored.held = []
    house.disconnect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.policies.confirm, house.policy)
        await wait_all_tasks_blocked()
        house.mute("3", is_heard=False)
        house.connect()
        await wait_all_tasks_blocked()
        for event in house.stored.held:
            event.set()
        await wait_all_tasks_blocked()
        house.stored.held[-1].set()
    assert not house.policy.lets("3")
    assert house.policy.is_certain


async def test_a_policy_that_cannot_be_read_lets_nobody_speak(
    autojump_clock: MockClock, house: House
) -> None:
    """Who asks is told why; later it is asked again."""
    house.stored.failure = KeyUnusable("fastimd:policy:1", "WRONGTYPE")
    with pytest.raises(KeyUnusable):
        await house.judge.check_message(house.policy, "3", within=5)
    house.stored.failure = StoreUnavailable("away")
    began = trio.current_time()
    with pytest.raises(StoreUnavailable):
        await house.judge.check_message(house.policy, "3", within=5)
    assert 4 < trio.current_time() - began < 6
    house.stored.failure = None
    await house.judge.check_message(house.policy, "3", within=5)


async def test_a_sentence_that_cannot_be_read_still_holds(
    autojump_clock: MockClock, house: House
) -> None:
    """It was meant to keep somebody out."""
    house.stored.fields = {"v": "1", "m:3": "{", "b:4": "[]"}
    for user, why in (("3", "muted"), ("4", "banned")):
        with pytest.raises(Restrained) as caught:
            await house.judge.check_message(house.policy, user, within=5)
        assert caught.value.why == why
    assert house.stored.corrupt == 2
    house.policies.receive(
        PolicyChange("1", MODERATION, "x", "5", was=1, version=2, changes=[("m:5", "[")])
    )
    assert house.stored.corrupt == 3
    assert not house.policy.lets("5")


async def test_a_field_that_is_no_text_is_left_out() -> None:
    """With a log line; the others hold."""
    reply = [b"v", b"1", b"m:\xff", b"{}", b"b:3", b"\xff", b"slow", b"5"]

    async def answer(*_: object) -> list[bytes]:
        return reply

    corrupt: list[str] = []
    keys = SimpleNamespace(reply=answer, corrupt=lambda key, _: corrupt.append(key))
    stored = StoredPolicies(cast(Keyspace, keys), cast(RedisClient, None))
    assert await stored.take("1", cast(SentScript, None)) == {"v": "1", "slow": "5"}
    assert corrupt == ["fastimd:policy:1"] * 2


async def test_a_sentence_is_over_by_the_clock_of_redis(
    autojump_clock: MockClock, house: House
) -> None:
    """Nobody has to say so."""
    house.stored.fields = {"v": "1", "m:3": '{"until":2000}', "b:3": '{"until":2000}'}
    with pytest.raises(Restrained, match="banned until 1970-01-01 00:00:02 UTC"):
        await house.judge.check_message(house.policy, "3", within=5)
    house.stored.now = 2001
    await house.judge.check_message(house.policy, "3", within=5)
    house.judge.check_entry(house.policy, "3")


async def test_what_is_asked_of_a_group_without_members_here_is_read(
    autojump_clock: MockClock, house: House
) -> None:
    """And of one that has some what is in memory, but by who has just joined."""
    await house.policies.confirm(house.policy)
    house.stored.fields = {"v": "1", "b:3": MUTED}
    await house.judge.check_group("1", "3")
    reads = house.stored.reads
    for check, group in ((house.judge.check_group, "2"), (house.judge.check_joined, "1")):
        with pytest.raises(Restrained):
            await check(group, "3")
        await check(group, "4")
    assert house.stored.reads == reads + 4


async def test_who_holds_the_role_is_kept_out_by_operators_alone(
    autojump_clock: MockClock, house: House
) -> None:
    """And may speak whatever other moderators say."""
    house.stored.fields = {"v": "1", "all": "1", "m:3": MUTED, "b:3": MUTED}
    await house.judge.check_message(house.policy, "3", within=5, is_exempt=True)
    with pytest.raises(Restrained):
        house.judge.check_entry(house.policy, "3")
    house.policy.bans["3"] = house.policy.bans["3"].__class__(0)
    with pytest.raises(Restrained):
        house.judge.check_entry(house.policy, "3", is_exempt=True)


async def test_the_banned_are_kept_out_as_soon_as_it_is_known(
    autojump_clock: MockClock, house: House
) -> None:
    """Of a policy that is not read yet nothing is said."""
    house.stored.fields = {"v": "1", "b:3": MUTED}
    house.judge.check_known(house.policy, "3")
    await house.policies.confirm(house.policy)
    with pytest.raises(Restrained):
        house.judge.check_known(house.policy, "3")
    house.judge.check_known(house.policy, "3", is_exempt=True)
    house.judge.check_known(house.policy, "4")


def collector(fates: list[Exception | None]) -> Callable[[Exception | None], None]:
    return fates.append


async def test_messages_wait_until_it_is_known_who_may_speak(
    autojump_clock: MockClock, house: House
) -> None:
    """In their order, and no longer than messages may wait for Redis."""
    fates: list[Exception | None] = []
    house.disconnect()
    house.stored.failure = StoreUnavailable("away")
    house.waiting.hold(house.policy, 10, collector(fates))
    await trio.sleep(5)
    house.waiting.hold(house.policy, 20, collector(fates))
    assert (fates, house.room.kept, house.room.held) == ([], 2, 30)
    await trio.sleep(6)
    [fate] = fates
    assert isinstance(fate, StoreUnavailable)
    house.stored.failure = None
    await trio.sleep(1)
    assert fates[1:] == [None]
    assert (house.room.kept, house.room.held, house.room.bytes) == (0, 0, 0)


async def test_no_more_may_wait_than_may_for_redis(autojump_clock: MockClock, house: House) -> None:
    """Who finds no room is told at once."""
    house.disconnect()
    house.stored.failure = StoreUnavailable("away")
    fates: list[Exception | None] = []
    most = Config().redis.hold_bytes
    house.waiting.hold(house.policy, most, collector(fates))
    with pytest.raises(StoreUnavailable, match="wait for Redis already"):
        house.waiting.hold(house.policy, 1, collector(fates))


async def test_messages_of_many_groups_cost_one_question_while_redis_is_away(
    autojump_clock: MockClock, house: House
) -> None:
    """And all are told at once when it is back."""
    fates: list[Exception | None] = []
    house.stored.failure = StoreUnavailable("away")
    for number in range(10):
        policy = house.policies.open(f"{number}", Subscription(f"{number}"))
        house.waiting.hold(policy, 1, collector(fates))
    await trio.sleep(1.02)
    assert house.stored.reads <= 11
    house.stored.failure = None
    await trio.sleep(0.11)
    assert fates == [None] * 10


async def test_a_message_that_waits_alone_is_given_up_in_its_time(
    autojump_clock: MockClock, house: House
) -> None:
    """The next one waits as long."""
    house.disconnect()
    house.stored.failure = StoreUnavailable("away")
    for _ in range(2):
        fates: list[Exception | None] = []
        house.waiting.hold(house.policy, 10, collector(fates))
        await trio.sleep(Config().redis.hold_seconds - 0.01)
        assert fates == []
        await trio.sleep(0.5)
        [fate] = fates
        assert isinstance(fate, StoreUnavailable)


@pytest.mark.parametrize(
    ("until", "text"),
    [
        (0, "banned: spam"),
        (1_000, "banned until 1970-01-01 00:00:01 UTC: spam"),
        (2**53 - 1, "banned until further notice: spam"),
    ],
)
def test_the_banned_are_told_until_when(until: int, text: str) -> None:
    """Also where somebody else has written a moment that no calendar has."""
    assert str(restraint.banned(Sentence(until, "spam"))) == text


async def test_who_gives_up_waiting_leaves_the_reading_to_others(
    autojump_clock: MockClock, house: House
) -> None:
    """The next one that asks has it sent for again."""
    sent = house.policies.send(house.policy)
    assert sent is not None
    assert house.policies.send(house.policy) is None  # it is being read
    house.policies.give_up(house.policy, sent)
    with trio.fail_after(1):
        await house.policies.confirm(house.policy)
    assert house.stored.reads == 2


def test_a_policy_that_was_closed_is_forgotten() -> None:
    """What is heard of the group later concerns nobody; one that was opened since stays."""
    policies = Policies(cast(StoredPolicies, FakeStored()))
    subscription = Subscription("1")
    first = policies.open("1", subscription)
    second = policies.open("1", subscription)
    policies.close(first)
    assert policies.find("1") is second
    policies.close(second)
    assert policies.find("1") is None
    assert subscription.on_heard is None
    policies.receive(PolicyChange("1", MODERATION, "mute", "3"))


def reference(fields: dict[str, str]) -> dict[str, Any]:
    policy = Policy("1")
    policy.take(fields)
    names = "bans", "mutes", "slow", "mute_all", "restrains_all", "restrained", "moderators"
    return {name: getattr(policy, name) for name in names}


def test_changes_lead_where_a_reading_does() -> None:
    """Field by field, in whatever order they were made."""
    fields: dict[str, str] = {}
    policy = Policy("1")
    steps = [
        ("slow", "1"),
        ("m:3", MUTED),
        ("b:3", MUTED),
        ("all", "1"),
        ("mod:4", "1"),
        ("m:3", ""),
        ("slow", ""),
        ("b:3", ""),
        ("all", ""),
        ("mod:4", ""),
    ]
    for number, (field, value) in enumerate(steps):
        fields[field] = value
        if not value:
            del fields[field]
        change = PolicyChange(
            "1", MODERATION, "x", "", was=number, version=number + 1, changes=[(field, value)]
        )
        assert policy.apply(change)
        assert {name: getattr(policy, name) for name in reference({})} == reference(fields)
        assert policy.moderators == ({"4"} if "mod:4" in fields else set())
        assert policy.restrains_all == ("slow" in fields or "all" in fields)
        assert policy.restrained == ({"3"} if {"m:3", "b:3"} & fields.keys() else set())
    assert not policy.restrained
