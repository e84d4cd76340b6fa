"""The group-list poller: tells each list socket when one of its user's groups changed.

Theory of operation: one task. It listens (through the relay) to the groups that connected users
are in and marks a group dirty when a message goes by, when a recall is announced, or when its list
is due to expire. Once per ``update_rate`` it asks Redis about the dirty groups only, and pushes to
the users of those that did change. Of a group where only messages went by it has heard the newest,
and asks for nothing but the length. A slow sweep asks about everything, for writers that announce
nothing. So the cost grows with the groups that move, not with users times groups.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
import structlog
import trio

from . import codec
from .config import Config
from .errors import StoreUnavailable
from .metrics import Metrics
from .outbox import Outbox
from .relay import Relay, Subscription
from .store import Event, GroupState, Position, Store

SWEEP_SECONDS = 30.0
QUESTIONS_AT_ONCE = 64
UNKNOWN = GroupState(codec.group_summary(None, 0), Position(), None)

_Subject = TypeVar("_Subject")

log = structlog.get_logger("fastimd.poller")


class _Watched:
    """A group that users with a list socket here are in."""

    __slots__ = ("_poller", "expiry_due", "heard", "name", "state", "subscription", "users")

    def __init__(self, name: str, poller: Poller) -> None:
        self.name = name
        self.users: set[_User] = set()
        self.state = UNKNOWN
        # The newest message that went by since the group was asked about.
        self.heard: tuple[int, bytes] | None = None
        # When it will be asked whether the list has expired; messages make it live longer.
        self.expiry_due = math.inf
        self._poller = poller
        self.subscription: Subscription

    def receive(self, ts: int, message: bytes) -> None:
        self.heard = ts, message
        self._poller.moved.add(self)

    def lose(self) -> None:
        """Nothing more will be heard, until the next sweep listens anew."""
        self._poller.deaf.add(self)


class _User:
    """A user with a list socket here."""

    __slots__ = ("groups", "name", "outboxes", "watchers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.watchers = 0
        # When each outbox got its last push.
        self.outboxes: dict[Outbox, float] = {}
        self.groups: set[_Watched] = set()

    def frame(self) -> bytes:
        """The user's group list, most recently active first."""
        states = sorted((group.state for group in self.groups), key=_by_activity)
        return codec.text_frame(codec.group_list(state.summary for state in states))


class Poller:
    """The list sockets of this daemon.

    Args:
        config: ``group_list.update_rate``, seconds between two pushes to a socket, at least.

    ``on_kick`` is called with a kick that a daemon announced.
    """

    def __init__(self, relay: Relay, store: Store, metrics: Metrics, config: Config) -> None:
        self._relay = relay
        self._store = store
        self._metrics = metrics
        self._config = config
        self.on_kick: Callable[[Event], None] = lambda _: None
        self._users: dict[str, _User] = {}
        self._groups: dict[str, _Watched] = {}
        self._joined: set[_User] = set()
        self._owed: dict[Outbox, _User] = {}
        self._expiring: list[tuple[float, str]] = []
        self._sweep_now = False
        # Groups to ask all about, and those to ask how many messages they have.
        self._dirty: set[_Watched] = set()
        self.moved: set[_Watched] = set()
        # Groups whose channel cannot be heard now.
        self.deaf: set[_Watched] = set()

    @asynccontextmanager
    async def watcher(self, name: str, outbox: Outbox) -> AsyncIterator[None]:
        """Push the user's group list now, if there is one, and at each change while in the block.

        Raises:
            StoreUnavailable: the groups cannot be read now.
        """
        user = self._users.get(name)
        if user is None:
            user = self._users[name] = _User(name)
        user.watchers += 1
        try:
            await self._refresh_user(user, await self._store.groups_of(user.name))
            await self._ask([group for group in user.groups if group.state is UNKNOWN])
            if user.groups:
                self._push(outbox, user.frame())
            user.outboxes[outbox] = trio.current_time()
            yield
        finally:
            user.outboxes.pop(outbox, None)
            user.watchers -= 1
            if not user.watchers:
                self._forget(user)

    def receive_event(self, payload: bytes) -> None:
        """Take a recall, a purge, a join or a kick that a daemon announced."""
        try:
            event = msgspec.json.decode(payload, type=Event)
        except msgspec.MsgspecError as exc:
            log.warning("poller.unknown_event", error=str(exc))
            return
        if event.kick:
            self.on_kick(event)
        elif event.ts is None and event.user in self._users:
            self._joined.add(self._users[event.user])
        elif event.group in self._groups:
            self._dirty.add(self._groups[event.group])

    def sweep(self) -> None:
        """Ask about everything at the next turn: something may have been missed."""
        self._sweep_now = True

    async def run(self) -> None:
        """Poll until cancelled."""
        swept_at = trio.current_time()
        while True:
            await trio.sleep(self._config.group_list.update_rate)
            now = trio.current_time()
            if self._sweep_now or now - swept_at >= SWEEP_SECONDS:
                self._sweep_now = False
                swept_at = now
                self._listen_anew()
                self._dirty.update(self._groups.values())
                self._joined.update(self._users.values())
            try:
                await self._poll(now)
            except StoreUnavailable:
                self._sweep_now = True  # the connection says why

    async def _poll(self, now: float) -> None:
        self._collect_expired(now)
        changed = await self._refresh_users()
        moved, self.moved = self.moved, set()
        dirty, self._dirty = self._dirty, set()
        changed_groups = await self._count([group for group in moved - dirty if group.users])
        changed_groups += await self._ask([group for group in dirty if group.users])
        for group in changed_groups:
            changed |= group.users
        self._owed.update((outbox, user) for user in changed for outbox in user.outboxes)
        self._push_owed(now)

    def _push_owed(self, now: float) -> None:
        """Push to those whose last push is ``update_rate`` ago; the others' turn will come."""
        frames: dict[_User, bytes] = {}
        for outbox, user in list(self._owed.items()):
            pushed_at = user.outboxes.get(outbox)
            if pushed_at is not None and now - pushed_at < self._config.group_list.update_rate:
                continue
            del self._owed[outbox]
            if pushed_at is not None:
                if user not in frames:
                    frames[user] = user.frame()
                self._push(outbox, frames[user])
                user.outboxes[outbox] = now
                self._metrics.group_list_pushes += 1

    def _push(self, outbox: Outbox, frame: bytes) -> None:
        outbox.push(frame)
        outbox.messages += 1
        self._metrics.bytes_sent += len(frame)

    async def _ask(self, groups: list[_Watched]) -> list[_Watched]:
        """Ask Redis all about groups; return those that changed."""
        before = [(group, group.state) for group in groups]
        for page in self._pages(groups):
            for group in page:
                group.heard = None
            names = [group.name for group in page]
            for group, state in zip(page, await self._store.group_states(names), strict=True):
                group.state = state
                group.subscription.begin_at(state.position)
                self._expect_expiry(group)
        return [group for group, state in before if group.state.summary != state.summary]

    async def _count(self, groups: list[_Watched]) -> list[_Watched]:
        """Ask Redis how many messages the groups have in which some went by; return the groups.

        Of a group whose newest message or expiry is not known for sure everything is asked.
        """
        unsure = [group for group in groups if not _knows_newest(group)]
        sure = [group for group in groups if _knows_newest(group)]
        for page in self._pages(sure):
            heard = [group.heard for group in page]
            totals = await self._store.totals([group.name for group in page])
            for group, newest, total in zip(page, heard, totals, strict=True):
                if not total or newest is None:
                    unsure.append(group)  # it has expired, or has been asked about meanwhile
                    continue
                ts, message = newest
                position = Position(ts)
                group.state = GroupState(codec.group_summary(message, total), position, None)
        return sure + await self._ask(unsure)

    def _pages(self, subjects: list[_Subject]) -> Iterator[list[_Subject]]:
        for start in range(0, len(subjects), QUESTIONS_AT_ONCE):
            self._metrics.poller_batches += 1
            yield subjects[start : start + QUESTIONS_AT_ONCE]

    def _expect_expiry(self, group: _Watched) -> None:
        if group.state.expires_in is not None:
            due = trio.current_time() + group.state.expires_in
            if due < group.expiry_due:
                group.expiry_due = due
                heapq.heappush(self._expiring, (due, group.name))
        if len(self._expiring) > 2 * len(self._groups) + QUESTIONS_AT_ONCE:
            self._forget_stale_expiries()

    def _forget_stale_expiries(self) -> None:
        """Groups that nobody watches any more would stay for as long as their lists live."""
        known = ((group.expiry_due, group.name) for group in self._groups.values())
        self._expiring = [(due, name) for due, name in known if due < math.inf]
        heapq.heapify(self._expiring)

    def _collect_expired(self, now: float) -> None:
        while self._expiring and self._expiring[0][0] <= now:
            due, name = heapq.heappop(self._expiring)
            group = self._groups.get(name)
            if group is not None and group.expiry_due == due:
                group.expiry_due = math.inf
                self._dirty.add(group)

    async def _refresh_users(self) -> set[_User]:
        """Read which groups those are in who may have joined one; return those who have."""
        joined, self._joined = self._joined, set()
        users = [user for user in joined if user.outboxes]
        changed: set[_User] = set()
        for page in self._pages(users):
            groups = await self._store.groups_of_each([user.name for user in page])
            for user, names in zip(page, groups, strict=True):
                if await self._refresh_user(user, names):
                    changed.add(user)
        return changed

    async def _refresh_user(self, user: _User, groups: list[str]) -> bool:
        """Note which groups a user is in; True when that changed."""
        names = set(groups)
        known = {group.name for group in user.groups}
        for name in names - known:
            if user.watchers:
                await self._watch(name, user)
        for group in [group for group in user.groups if group.name not in names]:
            self._unwatch(group, user)
        return names != known

    async def _watch(self, name: str, user: _User) -> None:
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Watched(name, self)
            group.subscription = self._relay.listen(name, group.receive, group.lose)
        group.users.add(user)
        user.groups.add(group)
        await self._relay.wait_heard(group.subscription)
        if group.state is UNKNOWN:
            self._dirty.add(group)

    def _listen_anew(self) -> None:
        deaf, self.deaf = self.deaf, set()
        for group in deaf:
            if group.users:
                group.subscription = self._relay.listen(group.name, group.receive, group.lose)

    def _unwatch(self, group: _Watched, user: _User) -> None:
        group.users.discard(user)
        user.groups.discard(group)
        if not group.users:
            self._relay.unlisten(group.subscription, group.receive)
            self._groups.pop(group.name, None)

    def _forget(self, user: _User) -> None:
        for group in list(user.groups):
            self._unwatch(group, user)
        del self._users[user.name]


def _knows_newest(group: _Watched) -> bool:
    """The newest message was heard, and the list is known to expire."""
    heard = group.heard
    return heard is not None and heard[0] > group.state.position.ts and group.expiry_due < math.inf


def _by_activity(state: GroupState) -> int:
    return -state.position.ts
