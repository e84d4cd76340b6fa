"""The group-list poller: tells each list socket when one of its user's groups changed.

Theory of operation: it listens (through the relay) to the groups that connected users are in and
marks a group dirty when a message goes by, when a recall is announced, or when its list is due to
expire. Once per ``update_rate`` it asks Redis about the dirty groups only, and pushes to the users
of those that did change. Of a group where only messages went by it has heard the newest, and asks
for nothing but the length. A slow sweep asks about everything, for writers that announce nothing.
So the cost grows with the groups that move, not with users times groups.

Whatever happens to a group, each question about it and each list that is made has a number, all
from one count. So an answer is not taken when that to a later question was there before, and a
socket is owed a list while something has changed after its last one.

A user may be in a hundred thousand groups: whatever takes all groups of a user goes by parts, with
a turn for other tasks between.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import math
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from operator import attrgetter
from typing import TypeVar

import structlog
import trio

from ..base import codec
from ..base.errors import BadParameter, KeyUnusable, StoreUnavailable
from ..base.metrics import Metrics
from ..base.settings import Config
from ..websocket.frames import text_head
from ..websocket.outbox import Outbox
from .events import Event
from .relay import Relay
from .store import Store
from .store.history import Position
from .store.summaries import NO_MESSAGES, GroupState
from .subscription import Subscription

SWEEP_SECONDS = 30.0
SWEEP_PAUSE = 0.005
"""Seconds between two questions of a sweep, which nobody waits for."""
USERS_AT_ONCE = 16
GROUPS_AT_ONCE = 256
"""How many Redis is asked about together."""
GROUPS_A_TURN = 4096
"""Groups that are sorted, or written into a list, before other tasks get their turn."""
COLLECTED_AFTER = 16
"""After so many parts of a user's groups the garbage collector looks at what is new. It would by
itself, but then at so much that everybody was held up."""
BYTES_A_SECOND = 1_000_000
"""What the lists of a socket come to at most: a long one comes less often."""

UNKNOWN = GroupState(*NO_MESSAGES)
"""Of a group that Redis was not asked about; it is this very object."""

_Subject = TypeVar("_Subject")

log = structlog.get_logger("fastimd.poller")


class _Watched:
    """A group that users with a list socket here are in."""

    __slots__ = (
        "_poller",
        "asked_at",
        "changed_at",
        "expiry_due",
        "heard",
        "moved_at",
        "name",
        "state",
        "subscription",
        "users",
    )

    subscription: Subscription

    def __init__(self, name: str, poller: Poller) -> None:
        self.name = name
        self.users: set[_User] = set()
        self.state = UNKNOWN
        # The number of the question that this is the answer to, of the last answer that was
        # another than before, and of what happened last.
        self.asked_at = 0
        self.changed_at = 0
        self.moved_at = poller.count()
        # The newest message that went by since the group was asked about.
        self.heard: tuple[int, bytes] | None = None
        # When it will be asked whether the list has expired; messages make it live longer.
        self.expiry_due = math.inf
        self._poller = poller

    @property
    def is_stale(self) -> bool:
        """Something has happened since Redis was asked, and somebody wants to know."""
        return self.moved_at > self.asked_at and bool(self.users)

    def receive(self, ts: int, message: bytes) -> None:
        self.heard = ts, message
        self.moved_at = self._poller.count()
        self._poller.moved.add(self)

    def lose(self) -> None:
        """Nothing more will be heard, until the next turn or, where that is refused, sweep."""
        self._poller.deaf.add(self)


class _Device:
    """A list socket of a user.

    Args:
        end: closes it, as its list cannot be read.
    """

    __slots__ = ("end", "outbox", "pushed_at", "shown_at", "size")

    def __init__(self, outbox: Outbox, end: Callable[[], None]) -> None:
        self.outbox = outbox
        self.end = end
        # When it got its last list, how long that was, and the number of that.
        self.pushed_at = math.inf  # not before its first one
        self.size = 0
        self.shown_at = 0

    def is_due(self, now: float, update_rate: float) -> bool:
        """It may get the next list, and has taken the last one."""
        pause = max(update_rate, self.size / BYTES_A_SECOND)
        return now - self.pushed_at >= pause and not self.outbox.queued


class _User:
    """A user with a list socket here; ``changed_at`` is the number of the last change."""

    __slots__ = ("changed_at", "devices", "groups", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.devices: set[_Device] = set()
        self.groups: dict[str, _Watched] = {}
        self.changed_at = 0

    async def frame(self) -> bytes:
        """The user's group list, most recently active first, without groups not yet known."""
        groups: list[_Watched] = []
        for part in _parts(list(self.groups.values()), GROUPS_A_TURN):
            groups += [group for group in part if group.state is not UNKNOWN]
            await _let_others(part)
        pieces = [b"["]
        for part in _parts(await _by_activity(groups), GROUPS_A_TURN):
            separator = b"," if len(pieces) > 1 else b""
            pieces.append(separator + b",".join([group.state.summary for group in part]))
            await _let_others(part)
        pieces.append(b"]")
        # Joined once: copies of many megabytes would take a turn that is too long.
        return b"".join([text_head(sum(map(len, pieces))), *pieces])


class Poller:
    """The list sockets of this daemon.

    Args:
        config: ``group_list.update_rate``, seconds between two pushes to a socket, at least.
    """

    def __init__(self, relay: Relay, store: Store, metrics: Metrics, config: Config) -> None:
        self._relay = relay
        self._store = store
        self._metrics = metrics
        self._config = config
        self.count = itertools.count(1).__next__
        self._users: dict[str, _User] = {}
        self._groups: dict[str, _Watched] = {}
        self._owed: set[_User] = set()
        self._leaving: deque[_User] = deque()
        self._somebody_left = trio.Event()
        self._expiring: list[tuple[float, str]] = []
        self._sweep_wanted = trio.Event()
        # Groups to ask all about, those to ask how many messages they have, and those with an
        # answer that is another than before.
        self._dirty: set[_Watched] = set()
        self.moved: set[_Watched] = set()
        self._changed: set[_Watched] = set()
        # Groups whose channel cannot be heard now.
        self.deaf: set[_Watched] = set()

    @asynccontextmanager
    async def watcher(
        self, name: str, outbox: Outbox, end: Callable[[], None]
    ) -> AsyncIterator[None]:
        """Push the user's group list now, if there is one, and at each change while in the block.

        Args:
            end: called, perhaps more than once, when the list can no longer be read.

        Raises:
            StoreUnavailable, KeyUnusable: the groups cannot be read now.
        """
        user = self._users.get(name)
        if user is None:
            user = self._users[name] = _User(name)
        device = _Device(outbox, end)
        user.devices.add(device)
        try:
            await self._note_groups(user, {}, await self._store.members.groups_of(name))
            for part in _parts(list(user.groups.values()), GROUPS_A_TURN):
                await self._ask([group for group in part if group.is_stale])
                await _let_others(part)
            if user.groups:
                await self._push(user, [device], trio.current_time())
            device.pushed_at = trio.current_time()
            yield
        finally:
            user.devices.discard(device)
            if not user.devices:
                self._forget(user)

    def note_event(self, event: Event) -> None:
        """Take a recall, a purge or a join that a daemon announced."""
        if event.ts is None and event.user in self._users:
            self._note_join(event.group, self._users[event.user])
        elif event.group in self._groups:
            self._stir(self._groups[event.group])

    def sweep(self) -> None:
        """Ask about everything soon: something may have been missed."""
        self._sweep_wanted.set()

    async def run(self) -> None:
        """Poll until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_sweeping)
            nursery.start_soon(self._let_go)
            while True:
                await trio.sleep(self._config.group_list.update_rate)
                try:
                    await self._poll(trio.current_time())
                except StoreUnavailable:
                    self.sweep()  # the connection says why

    # What is asked

    async def _poll(self, now: float) -> None:
        await self._collect_expired(now)
        self._listen_anew([group for group in self.deaf if group.subscription.refusal is None])
        moved, self.moved = self.moved, set()
        dirty, self._dirty = self._dirty, set()
        await self._count([group for group in moved - dirty if group.is_stale])
        await self._ask([group for group in dirty if group.is_stale])
        await self._note_changes()
        await self._push_owed(now)

    async def _keep_sweeping(self) -> None:
        while True:
            with trio.move_on_after(SWEEP_SECONDS):
                await self._sweep_wanted.wait()
            self._sweep_wanted = trio.Event()
            try:
                await self._ask_about_everything()
            except StoreUnavailable:
                self.sweep()
            await trio.sleep(self._config.group_list.update_rate)

    async def _ask_about_everything(self) -> None:
        self._listen_anew(list(self.deaf))
        for users in self._pages(list(self._users.values()), USERS_AT_ONCE):
            known = [user.groups.copy() for user in users]
            answers = await self._store.members.groups_of_each([user.name for user in users])
            for user, before, groups in zip(users, known, answers, strict=True):
                if isinstance(groups, KeyUnusable):
                    for device in list(user.devices):
                        device.end()
                else:
                    await self._note_groups(user, before, groups)
            await trio.sleep(SWEEP_PAUSE)
        for page in self._pages(list(self._groups.values()), GROUPS_AT_ONCE):
            await self._ask_page([group for group in page if group.users])
            await trio.sleep(SWEEP_PAUSE)

    async def _ask(self, groups: list[_Watched]) -> None:
        """Ask Redis all about groups."""
        for page in self._pages(groups, GROUPS_AT_ONCE):
            await self._ask_page(page)

    async def _ask_page(self, page: list[_Watched]) -> None:
        # Redis confirms in order: after the last one there is nothing to wait for.
        for group in reversed(page):
            with suppress(KeyUnusable):  # it is not heard, and shown as the sweep sees it
                await self._relay.wait_heard(group.subscription)
        asked_at = self.count()
        for group in page:
            group.heard = None
        states = await self._store.summaries.states([group.name for group in page])
        for group, state in zip(page, states, strict=True):
            self._take(group, state, asked_at)

    async def _count(self, groups: list[_Watched]) -> None:
        """Ask Redis how many messages the groups have in which some went by.

        Of a group whose newest message or expiry is not known for sure everything is asked.
        """
        unsure = [group for group in groups if not _knows_newest(group)]
        sure = [group for group in groups if _knows_newest(group)]
        for page in self._pages(sure, GROUPS_AT_ONCE):
            asked_at = self.count()
            heard = [group.heard for group in page]
            totals = await self._store.summaries.totals([group.name for group in page])
            for group, newest, total in zip(page, heard, totals, strict=True):
                if not total or newest is None:
                    unsure.append(group)  # it has expired, or has been asked about meanwhile
                    continue
                ts, message = newest
                state = GroupState(codec.group_summary(message, total), Position(ts), None)
                self._take(group, state, asked_at)
        await self._ask(unsure)

    def _take(self, group: _Watched, state: GroupState, asked_at: int) -> None:
        """Take an answer of Redis, unless that to a later question is there already."""
        if asked_at < group.asked_at:
            return
        group.subscription.begin_at(state.position)
        if group.state is UNKNOWN or group.state.summary != state.summary:
            group.changed_at = self.count()
            self._changed.add(group)
        group.asked_at = asked_at
        group.state = state
        self._expect_expiry(group)

    def _pages(self, subjects: Sequence[_Subject], size: int) -> Iterator[list[_Subject]]:
        for page in _parts(subjects, size):
            self._metrics.poller_batches += 1
            yield page

    def _stir(self, group: _Watched) -> None:
        """Something has happened to a group: ask all about it at the next turn."""
        group.moved_at = self.count()
        self._dirty.add(group)

    # What is pushed

    async def _note_changes(self) -> None:
        changed, self._changed = self._changed, set()
        for part in _parts(list(changed), GROUPS_A_TURN):
            for group in part:
                for user in group.users:
                    user.changed_at = max(user.changed_at, group.changed_at)
                self._owed |= group.users
            await _let_others(part)

    async def _push_owed(self, now: float) -> None:
        """Push to those whose turn it is; the others' will come."""
        update_rate = self._config.group_list.update_rate
        # Who is in few groups does not wait for who is in many.
        for user in sorted(self._owed, key=lambda user: len(user.groups)):
            owed = [each for each in user.devices if each.shown_at < user.changed_at]
            due = [device for device in owed if device.is_due(now, update_rate)]
            if due:
                await self._push(user, due, now)
                self._metrics.group_list_pushes += len(due)
            if len(due) == len(owed):
                self._owed.discard(user)

    async def _push(self, user: _User, devices: list[_Device], now: float) -> None:
        shown_at = self.count()
        frame = await user.frame()
        for device in devices:
            device.outbox.push(frame)
            device.outbox.messages += 1
            device.pushed_at, device.shown_at, device.size = now, shown_at, len(frame)
            self._metrics.bytes_sent += len(frame)

    # When lists expire

    def _expect_expiry(self, group: _Watched) -> None:
        if group.state.expires_in is not None:
            due = trio.current_time() + group.state.expires_in
            if due < group.expiry_due:
                group.expiry_due = due
                heapq.heappush(self._expiring, (due, group.name))
        if len(self._expiring) > 2 * len(self._groups) + GROUPS_AT_ONCE:
            self._forget_stale_expiries()

    def _forget_stale_expiries(self) -> None:
        """Groups that nobody watches any more would stay for as long as their lists live."""
        known = ((group.expiry_due, group.name) for group in self._groups.values())
        self._expiring = [(due, name) for due, name in known if due < math.inf]
        heapq.heapify(self._expiring)

    async def _collect_expired(self, now: float) -> None:
        collected = 0
        while self._expiring and self._expiring[0][0] <= now:
            due, name = heapq.heappop(self._expiring)
            group = self._groups.get(name)
            if group is not None and group.expiry_due == due:
                group.expiry_due = math.inf
                self._stir(group)
            collected += 1
            if collected % GROUPS_A_TURN == 0:
                await trio.lowlevel.checkpoint()

    # Who is in which group

    def _note_join(self, name: str, user: _User) -> None:
        try:
            codec.check_id("groupId", name)
        except BadParameter as exc:
            log.warning("poller.unknown_event", error=str(exc))
            return
        self._watch(name, user)
        self._stir(self._groups[name])

    async def _note_groups(
        self, user: _User, before: dict[str, _Watched], groups: list[str]
    ) -> None:
        """Note which groups a user is in.

        Args:
            before: those the user was known to be in when Redis was asked.
        """
        for number, part in enumerate(_parts(groups, GROUPS_AT_ONCE), 1):
            if not user.devices:  # gone meanwhile
                return
            for name in part:
                if name not in user.groups:
                    self._watch(name, user)
            if len(groups) > GROUPS_AT_ONCE:
                await trio.lowlevel.checkpoint()
            if number % COLLECTED_AFTER == 0:
                gc.collect(1)
        left = [before[name] for name in before.keys() - groups]
        for part_left in _parts(left, GROUPS_AT_ONCE):
            for group in part_left:
                self._unwatch(group, user)
            if len(left) > GROUPS_AT_ONCE:
                await trio.lowlevel.checkpoint()
        if left:
            self._owe(user)

    def _watch(self, name: str, user: _User) -> None:
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Watched(name, self)
            group.subscription = self._relay.listen(name, group.receive, group.lose)
        group.users.add(user)
        user.groups[name] = group
        if group.state is not UNKNOWN:
            self._owe(user)

    def _owe(self, user: _User) -> None:
        user.changed_at = self.count()
        self._owed.add(user)

    def _listen_anew(self, groups: list[_Watched]) -> None:
        for group in groups:
            self.deaf.discard(group)
            if group.users:
                group.subscription = self._relay.listen(group.name, group.receive, group.lose)
                self._stir(group)

    def _unwatch(self, group: _Watched, user: _User) -> None:
        group.users.discard(user)
        user.groups.pop(group.name, None)
        if not group.users and self._groups.get(group.name) is group:
            self._relay.unlisten(group.subscription, group.receive)
            del self._groups[group.name]

    def _forget(self, user: _User) -> None:
        del self._users[user.name]
        self._owed.discard(user)
        self._leaving.append(user)
        self._somebody_left.set()

    async def _let_go(self) -> None:
        """Take those who have left out of their groups."""
        while True:
            await self._somebody_left.wait()
            self._somebody_left = trio.Event()
            left = GROUPS_AT_ONCE
            while self._leaving:
                user = self._leaving.popleft()
                while user.groups:
                    _, group = user.groups.popitem()
                    self._unwatch(group, user)
                    left -= 1
                    if not left:
                        left = GROUPS_AT_ONCE
                        await trio.lowlevel.checkpoint()


async def _by_activity(groups: list[_Watched]) -> list[_Watched]:
    """Groups, most recently active first.

    Many are first parted by their activity, at bounds that a sample gives, and then sorted part by
    part.
    """
    if len(groups) <= GROUPS_A_TURN:
        return sorted(groups, key=_LAST_TS, reverse=True)
    sample = sorted(map(_LAST_TS, groups[::16]))
    bounds = sample[GROUPS_A_TURN // 16 :: GROUPS_A_TURN // 16]
    parts: list[list[_Watched]] = [[] for _ in range(len(bounds) + 1)]
    for some in _parts(groups, GROUPS_A_TURN):
        for group in some:
            parts[bisect_left(bounds, group.state.position.ts)].append(group)
        await trio.lowlevel.checkpoint()
    in_order: list[_Watched] = []
    for part in reversed(parts):
        part.sort(key=_LAST_TS, reverse=True)
        in_order += part
        await trio.lowlevel.checkpoint()
    return in_order


async def _let_others(part: list[_Watched]) -> None:
    """Let other tasks have their turn after a whole part of many; after a few nobody waits."""
    if len(part) == GROUPS_A_TURN:
        await trio.lowlevel.checkpoint()


def _parts(subjects: Sequence[_Subject], size: int) -> Iterator[list[_Subject]]:
    for start in range(0, len(subjects), size):
        yield list(subjects[start : start + size])


def _knows_newest(group: _Watched) -> bool:
    """The newest message was heard, and the list is known to expire."""
    heard = group.heard
    return heard is not None and heard[0] > group.state.position.ts and group.expiry_due < math.inf


_LAST_TS = attrgetter("state.position.ts")
