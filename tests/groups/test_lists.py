"""Group lists over two masters in memory, one of which is away, or silent, for a while."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any, cast

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from fastimd.base import codec
from fastimd.base.errors import StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.groups.events import Event
from fastimd.groups.lists.asking import TURN_SECONDS
from fastimd.groups.lists.poller import SWEEP_SECONDS, Poller
from fastimd.groups.relays import GroupRelay
from fastimd.groups.store import Store
from fastimd.groups.subscription import OnLost, OnMessage, Subscription
from fastimd.redis.clients import RedisClient
from fastimd.redis.clock import RedisClock
from fastimd.redis.keeping import CALL_SECONDS
from fastimd.websocket.outbox import Outbox

RATE = 1.0
"""The ``update_rate``."""
SOON = 2 * RATE + 4 * TURN_SECONDS
"""A list may just have been pushed, and a turn just have begun."""
LIFE_MILLISECONDS = 600_000

A, B = "a", "b"
"""The masters; what they have ends with their name."""


class Cluster:
    """Lists and sets on two masters; ``mode`` is how each is: ``up``, ``away`` or ``silent``."""

    def __init__(self) -> None:
        self.mode = {A: "up", B: "up"}
        self.lists: dict[str, list[bytes]] = {}
        self.sets: dict[str, set[bytes]] = {}
        self.asked: list[str] = []
        self.clock = RedisClock()
        self.appender = self
        self._ways = {A: object(), B: object()}
        self._changed = trio.Event()
        self._last_ts = 0

    def heard(self, _channel: bytes) -> int:
        return 0

    def put(self, master: str, mode: str) -> None:
        """Let a master be otherwise. Its connection is another when it was away."""
        if mode == "up" and self.mode[master] == "away":
            self._ways[master] = object()
        self.mode[master] = mode
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def say(self, group: str) -> tuple[int, bytes]:
        self._last_ts += 1
        entry = codec.message_prefix(group, "1", "hi") + b"%d}" % self._last_ts
        self.lists.setdefault(f"gml:{group}", []).append(entry)
        return self._last_ts, entry

    def connection_of(self, key: str) -> object | None:
        return None if self.mode[key[-1]] == "away" else self._ways[key[-1]]

    async def call_many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """As that of a cluster: who is not there is waited for, and has its own replies."""
        replies: list[Any] = [None] * len(commands)
        self.asked += [" ".join(command[:2]) for command in commands]

        async def ask(number: int) -> None:
            replies[number] = await self._ask(*commands[number])

        async with trio.open_nursery() as nursery:
            for number in range(len(commands)):
                nursery.start_soon(ask, number)
        return replies

    async def call(self, *command: Any) -> Any:
        reply = await self._ask(*command)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _ask(self, command: str, key: str, *_arguments: object) -> Any:
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(CALL_SECONDS):
            while self.mode[key[-1]] != "up":
                await self._changed.wait()
            found = self.lists.get(key, [])
            match command:
                case "LINDEX":
                    return found[-1] if found else None
                case "LLEN":
                    return len(found)
                case "PTTL":
                    return LIFE_MILLISECONDS if found else -2
                case "SMEMBERS":
                    return list(self.sets.get(key, ()))
        return StoreUnavailable("Redis is away")


class Relay:
    """Hears the groups of a master while that is up."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.subscriptions: dict[str, Subscription] = {}

    def listen(self, group: str, listener: OnMessage, on_lost: OnLost) -> Subscription:
        subscription = self.subscriptions.setdefault(group, Subscription(group))
        subscription.listeners[listener] = on_lost
        self.confirm()
        return subscription

    def unlisten(self, subscription: Subscription, listener: OnMessage) -> None:
        del subscription.listeners[listener]

    def confirm(self) -> None:
        for group, subscription in self.subscriptions.items():
            if self._cluster.mode[group[-1]] == "up":
                subscription.confirmed.set()


class Screen:
    """What a list socket was shown, and when; in the place of its outbox."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shown: list[tuple[float, dict[str, int]]] = []
        self.frames: list[bytes] = []
        self.queued = self.messages = 0

    def push(self, frame: bytes) -> None:
        head = 2 if frame[1] < 126 else 4 if frame[1] == 126 else 10
        totals: dict[str, int] = {}
        for number, each in enumerate(json.loads(frame[head:])):
            newest = each["newMessage"]
            totals[newest["groupId"] if newest else f"empty-{number}"] = each["total"]
        self.shown.append((trio.current_time(), totals))
        self.frames.append(frame)

    @property
    def last(self) -> dict[str, int]:
        return self.shown[-1][1]


class Room:
    """The poller, and the list sockets on it."""

    def __init__(self, nursery: trio.Nursery, stack: AsyncExitStack) -> None:
        self.cluster = Cluster()
        self.relay = Relay(self.cluster)
        self.config = Config()
        client = cast(RedisClient, self.cluster)
        self.poller = Poller(
            cast(GroupRelay, self.relay),
            Store(client, self.config, Metrics()),
            Metrics(),
            self.config,
        )
        self._stack = stack
        nursery.start_soon(self.poller.run)

    def put(self, master: str, mode: str) -> None:
        self.cluster.put(master, mode)
        self.relay.confirm()

    def is_up(self, name: str) -> bool:
        """Whether the master of a group, a user or itself is there."""
        return self.cluster.mode[name[-1]] == "up"

    def join(self, user: str, *groups: str) -> None:
        members = {group.encode() for group in groups}
        self.cluster.sets.setdefault(f"ugs:{user}", set()).update(members)

    def say(self, group: str) -> None:
        """Say something, which is heard by whoever listens."""
        ts, entry = self.cluster.say(group)
        if (subscription := self.relay.subscriptions.get(group)) is not None:
            subscription.receive(ts, entry, entry)

    async def watch(self, user: str) -> Screen:
        """Open a list socket."""
        screen = Screen(user)
        outbox = cast(Outbox, screen)
        await self._stack.enter_async_context(self.poller.watcher(user, outbox, lambda: None))
        return screen

    def truth(self, user: str) -> dict[str, int]:
        """What is to be shown of groups where something was said."""
        names = [member.decode() for member in self.cluster.sets[f"ugs:{user}"]]
        return {name: len(self.cluster.lists[f"gml:{name}"]) for name in names}


Play = Callable[[Room], Any]


def play(scene: Play) -> None:
    """Run a scene on a clock that does not wait."""

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            async with AsyncExitStack() as stack:
                await scene(Room(nursery, stack))
            nursery.cancel_scope.cancel()

    trio.run(run, clock=MockClock(autojump_threshold=0))


GONE = pytest.mark.parametrize("mode", ["away", "silent"])


@GONE
@pytest.mark.parametrize("is_swept", [False, True])
def test_a_master_that_is_gone_holds_up_its_own_groups_alone(mode: str, is_swept: bool) -> None:
    """What is said elsewhere is shown in time, also to who is in both; the rest follows, once."""

    async def scene(room: Room) -> None:
        room.join("both.a", "1.a", "1.b")
        room.join("one.a", "1.a")
        for group in ("1.a", "1.b"):
            room.say(group)
        screens = [await room.watch("both.a"), await room.watch("one.a")]
        assert screens[0].last == {"1.a": 1, "1.b": 1}
        room.say("1.b")  # and before it can be asked about
        room.put(B, mode)
        if is_swept:
            room.poller.sweep()
        for total in range(2, 10):
            room.say("1.a")
            said_at = trio.current_time()
            await trio.sleep(SOON)
            for screen in screens:
                shown_at = next(when for when, totals in screen.shown if totals["1.a"] == total)
                assert shown_at - said_at <= SOON
        assert {screen.shown[-1][1].get("1.b") for screen in screens} == {1, None}
        room.put(B, "up")
        before = len(screens[0].shown)
        await trio.sleep(SOON)
        assert screens[0].last == {"1.a": 9, "1.b": 2}
        await trio.sleep(2 * SWEEP_SECONDS)
        assert len(screens[0].shown) == before + 1

    play(scene)


@GONE
def test_a_list_that_opens_has_what_can_be_known(mode: str) -> None:
    """It is waited for, but once for all groups; the rest follows when the master is back, once."""

    async def scene(room: Room) -> None:
        names = [f"{number}.{master}" for number in range(600) for master in (A, B)]
        for name in names:
            room.say(name)
        room.join("both.a", *names)
        room.put(B, mode)
        began = trio.current_time()
        screen = await room.watch("both.a")
        assert trio.current_time() - began <= 2 * CALL_SECONDS + TURN_SECONDS
        assert screen.last == dict.fromkeys(names[::2], 1)
        await trio.sleep(3 * SWEEP_SECONDS)
        assert len(screen.shown) == 1
        room.put(B, "up")
        await trio.sleep(SOON)
        assert screen.last == dict.fromkeys(names, 1)
        assert len(screen.shown) == 2

    play(scene)


@GONE
@pytest.mark.parametrize("user", ["both.a", "both.b"])
def test_a_list_of_which_nothing_can_be_known_does_not_open(mode: str, user: str) -> None:
    """Its groups, or which they are, cannot be read: the client is to come again."""

    async def scene(room: Room) -> None:
        room.join(user, "1.b", "2.b", "3.a" if user == "both.b" else "3.b")
        room.put(B, mode)
        began = trio.current_time()
        with pytest.raises(StoreUnavailable):
            await room.watch(user)
        assert trio.current_time() - began <= 2 * CALL_SECONDS
        room.put(B, "up")
        await trio.sleep(SOON)
        assert len((await room.watch(user)).last) == 3

    play(scene)


@GONE
@pytest.mark.parametrize("count", [1, 600])
def test_a_second_device_is_shown_what_was_known(mode: str, count: int) -> None:
    """Also of groups that may have changed; they are told when their master is back."""

    async def scene(room: Room) -> None:
        names = [f"{number}.b" for number in range(count)]
        room.join("one.a", *names)
        for name in names:
            room.say(name)
        phone = await room.watch("one.a")
        for name in names:
            room.say(name)
        room.put(B, mode)
        laptop = await room.watch("one.a")
        assert laptop.last == dict.fromkeys(names, 1)
        await trio.sleep(SWEEP_SECONDS / 2)
        assert len(phone.shown) == len(laptop.shown) == 1
        room.put(B, "up")
        await trio.sleep(SOON)
        assert phone.last == laptop.last == dict.fromkeys(names, 2)
        assert len(phone.shown) == len(laptop.shown) == 2

    play(scene)


@pytest.mark.parametrize("mode", ["up", "away", "silent"])
def test_a_sweep_finds_what_nobody_announces(mode: str) -> None:
    """Where a master is gone, as soon as it is back, and without another sweep."""

    async def scene(room: Room) -> None:
        room.join("both.a", "1.a", "1.b")
        for name in ("1.a", "1.b"):
            room.say(name)
        screen = await room.watch("both.a")
        for name in ("1.a", "1.b"):
            room.cluster.say(name)
        await trio.sleep(SOON)
        assert screen.last == {"1.a": 1, "1.b": 1}
        room.put(B, mode)
        room.poller.sweep()
        await trio.sleep(SWEEP_SECONDS / 2)
        assert screen.last == {"1.a": 2, "1.b": 2 if mode == "up" else 1}
        room.put(B, "up")
        await trio.sleep(SOON)
        assert screen.last == {"1.a": 2, "1.b": 2}
        assert len(screen.shown) == (2 if mode == "up" else 3)

    play(scene)


def test_a_sweep_does_not_wait_for_who_is_away() -> None:
    """However many groups it has: what comes after them is asked about at once."""

    async def scene(room: Room) -> None:
        room.join("many.a", *(f"{number}.b" for number in range(1000)))
        room.join("one.a", "1.a")
        for user in ("many.a", "one.a"):
            screen = await room.watch(user)
        room.put(B, "away")
        room.cluster.say("1.a")
        room.poller.sweep()
        await trio.sleep(SOON)
        assert screen.last == {"1.a": 1}

    play(scene)


def test_where_messages_went_by_their_number_alone_is_asked() -> None:
    """Of all in one command each; but all about a list that is not there any more."""

    async def scene(room: Room) -> None:
        names = [f"{number}.a" for number in range(600)]
        room.join("one.a", *names)
        for name in names:
            room.say(name)
        screen = await room.watch("one.a")
        room.cluster.asked.clear()
        for name in names:
            room.say(name)
        await trio.sleep(SOON)
        assert sorted(room.cluster.asked) == sorted(f"LLEN gml:{name}" for name in names)
        assert screen.last == dict.fromkeys(names, 2)
        room.say(names[0])
        del room.cluster.lists[f"gml:{names[0]}"]
        await trio.sleep(SOON)
        assert screen.last == dict.fromkeys(names[1:], 2) | {"empty-599": 0}

    play(scene)


@GONE
def test_users_whose_set_could_not_be_read_are_read_when_it_can_be(mode: str) -> None:
    """They alone, as soon as their master is back; until then others are not asked about for it."""

    async def scene(room: Room) -> None:
        room.join("one.a", "1.a")
        room.join("two.b", "1.a")
        room.say("1.a")
        screens = [await room.watch("one.a"), await room.watch("two.b")]
        room.put(B, mode)
        room.join("two.b", "2.a")  # which nobody announces
        room.say("2.a")
        room.poller.sweep()
        await trio.sleep(SWEEP_SECONDS / 2)
        room.cluster.asked.clear()
        await trio.sleep(SWEEP_SECONDS / 3)
        assert not [key for key in room.cluster.asked if key.endswith(".a")]
        room.put(B, "up")
        await trio.sleep(SOON)
        assert screens[1].last == {"1.a": 1, "2.a": 1}
        assert [len(screen.shown) for screen in screens] == [1, 2]

    play(scene)


def test_a_group_that_is_not_heard_yet_is_asked_about_when_it_is() -> None:
    """Redis answers, but has not confirmed: what is missed between would be missing for good."""

    async def scene(room: Room) -> None:
        room.join("one.a", "1.a")
        room.say("1.a")
        screen = await room.watch("one.a")
        room.relay.subscriptions["2.a"] = unheard = Subscription("2.a")
        room.cluster.say("2.a")
        confirm, room.relay.confirm = room.relay.confirm, lambda: None  # type: ignore[method-assign]
        room.poller.note_event(Event("2.a", "one.a"))
        for total in range(2, 5):
            room.say("1.a")
            await trio.sleep(SOON)
            assert screen.last == {"1.a": total}
        room.cluster.say("2.a")
        unheard.confirmed.set()
        room.relay.confirm = confirm  # type: ignore[method-assign]
        await trio.sleep(SOON)
        assert screen.last == {"1.a": 4, "2.a": 2}

    play(scene)


USERS = {"both.a": ("1.a", "2.a", "1.b"), "left.a": ("1.a", "3.a"), "right.b": ("1.b", "2.b")}
GROUPS = sorted({group for groups in USERS.values() for group in groups})

DEED = st.one_of(
    st.tuples(st.just("say"), st.sampled_from(GROUPS)),
    st.tuples(st.just("delete"), st.sampled_from(GROUPS)),
    st.tuples(st.sampled_from(["up", "away", "silent"]), st.sampled_from([A, B])),
    st.tuples(st.just("sleep"), st.sampled_from([0.01, 0.3, 1.0, 4.0])),
    st.tuples(st.just("watch"), st.sampled_from(sorted(USERS))),
    st.tuples(st.just("sweep"), st.just("")),
)


class Story:
    """What was done, and what must follow."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.screens: list[Screen] = []
        # When something was said where, and how many messages there were then; and what else was
        # done to groups and masters.
        self.said: list[tuple[float, str, int]] = []
        self.disturbed: list[tuple[float, str]] = []

    async def do(self, deed: str, what: Any) -> None:
        """Nothing is said or deleted where the master is gone."""
        room = self.room
        if deed == "sleep":
            await trio.sleep(what)
        elif deed == "sweep":
            room.poller.sweep()
        elif deed == "watch":
            await self._watch(what)
        elif deed == "say" and room.is_up(what):
            room.say(what)
            total = len(room.cluster.lists[f"gml:{what}"])
            self.said.append((trio.current_time(), what, total))
        elif deed == "delete" and room.is_up(what) and len(room.cluster.lists[f"gml:{what}"]) > 1:
            del room.cluster.lists[f"gml:{what}"][-1]
            room.poller.note_event(Event(what, "1", 1))
            self.disturbed.append((trio.current_time(), what))
        elif deed in ("up", "away", "silent"):
            room.put(what, deed)
            self.disturbed.append((trio.current_time(), what))

    async def _watch(self, user: str) -> None:
        is_whole = all(map(self.room.is_up, (user, *USERS[user])))
        try:
            self.screens.append(await self.room.watch(user))
        except StoreUnavailable:
            assert not is_whole

    def check(self) -> None:
        """Each list is right in the end, and none was wrong, late or the same as before.

        After a deletion it may be the same: what was deleted may not have been shown.
        """
        is_growing = not any(what in GROUPS for _, what in self.disturbed)
        for screen in self.screens:
            assert screen.last == self.room.truth(screen.name)
            assert not [name for _, totals in screen.shown for name in totals if "empty" in name]
            if is_growing:
                assert all(now != before for before, now in pairwise(screen.frames))
            for said_at, group, total in self.said:
                if group in USERS[screen.name] and screen.shown[0][0] < said_at:
                    in_time = [shown for shown in screen.shown if 0 <= shown[0] - said_at <= SOON]
                    assert self._is_disturbed(group, said_at) or any(
                        totals.get(group, 0) >= total for _, totals in in_time
                    )

    def _is_disturbed(self, group: str, said_at: float) -> bool:
        return any(
            what in (group, group[-1]) and -SOON <= when - said_at <= SOON
            for when, what in self.disturbed
        )


@settings(max_examples=120, deadline=None)
@given(st.lists(DEED, min_size=8, max_size=40))
def test_whatever_masters_do_each_list_is_right_in_the_end(deeds: list[tuple[str, Any]]) -> None:
    """Nothing was ever shown as empty, no list twice; and what others say is shown in time."""

    async def scene(room: Room) -> None:
        story = Story(room)
        for user, groups in USERS.items():
            room.join(user, *groups)
        for group in GROUPS:
            room.say(group)
        for user in USERS:
            await story.do("watch", user)
        for deed, what in deeds:
            await story.do(deed, what)
        for master in (A, B):
            room.put(master, "up")
        await trio.sleep(SOON + CALL_SECONDS)
        story.check()

    play(scene)
