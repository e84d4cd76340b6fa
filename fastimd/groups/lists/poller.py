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
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress

import structlog
import trio

from ...base import codec
from ...base.errors import BadParameter, KeyUnusable, StoreUnavailable
from ...base.metrics import Metrics
from ...base.settings import Config
from ...websocket.outbox import Outbox
from ..events import Event
from ..relays import GroupRelay
from ..store import Store
from ..store.history import Position
from ..store.summaries import GroupState
from ..whispers import may_enter
from .expiry import Expiries
from .parts import GROUPS_A_TURN, Subject, let_others, parts
from .watched import UNKNOWN, Device, Happenings, User, Watched

SWEEP_SECONDS = 30.0
SWEEP_PAUSE = 0.005
"""Seconds between two questions of a sweep, which nobody waits for."""
USERS_AT_ONCE = 16
GROUPS_AT_ONCE = 256
"""How many Redis is asked about together."""
COLLECTED_AFTER = 16
"""After so many parts of a user's groups the garbage collector looks at what is new. It would by
itself, but then at so much that everybody was held up."""

log = structlog.get_logger("fastimd.poller")


class Poller:
    """The list sockets of this daemon.

    Args:
        config: ``group_list.update_rate``, seconds between two pushes to a socket, at least.
    """

    def __init__(self, relay: GroupRelay, store: Store, metrics: Metrics, config: Config) -> None:
        self._relay = relay
        self._store = store
        self._metrics = metrics
        self._config = config
        self._happenings = Happenings()
        self._count = self._happenings.count
        self._users: dict[str, User] = {}
        self._groups: dict[str, Watched] = {}
        self._owed: set[User] = set()
        self._leaving: deque[User] = deque()
        self._somebody_left = trio.Event()
        self._expiries = Expiries(self._groups, self._stir)
        self._sweep_wanted = trio.Event()
        # Groups to ask all about, and those with an answer that is another than before.
        self._dirty: set[Watched] = set()
        self._changed: set[Watched] = set()

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
            user = self._users[name] = User(name)
        device = Device(outbox, end)
        user.devices.add(device)
        try:
            await self._note_groups(user, {}, await self._store.members.groups_of(name))
            for part in parts(list(user.groups.values()), GROUPS_A_TURN):
                await self._ask([group for group in part if group.is_stale])
                await let_others(part)
            if user.groups:
                await self._push(user, [device], trio.current_time())
            device.pushed_at = trio.current_time()
            yield
        finally:
            user.devices.discard(device)
            if not user.devices:
                self._forget(user)

    def note_event(self, event: Event) -> None:
        """Take a recall, a purge, a join or a leave that a daemon announced."""
        if event.leave:
            self._note_leave(event.group, event.user)
        elif event.ts is None and event.user in self._users:
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
        await self._expiries.collect(now)
        self._listen_anew(
            [group for group in self._happenings.deaf if group.subscription.refusal is None]
        )
        moved = self._happenings.take_moved()
        dirty, self._dirty = self._dirty, set()
        await self._count_messages([group for group in moved - dirty if group.is_stale])
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
        self._listen_anew(list(self._happenings.deaf))
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

    async def _ask(self, groups: list[Watched]) -> None:
        """Ask Redis all about groups."""
        for page in self._pages(groups, GROUPS_AT_ONCE):
            await self._ask_page(page)

    async def _ask_page(self, page: list[Watched]) -> None:
        # Redis confirms in order: after the last one there is nothing to wait for.
        for group in reversed(page):
            with suppress(KeyUnusable):  # it is not heard, and shown as the sweep sees it
                await self._relay.wait_heard(group.subscription)
        asked_at = self._count()
        for group in page:
            group.heard = None
        states = await self._store.summaries.states([group.name for group in page])
        for group, state in zip(page, states, strict=True):
            self._take(group, state, asked_at)

    async def _count_messages(self, groups: list[Watched]) -> None:
        """Ask Redis how many messages the groups have in which some went by.

        Of a group whose newest message or expiry is not known for sure everything is asked.
        """
        unsure = [group for group in groups if not group.knows_newest]
        sure = [group for group in groups if group.knows_newest]
        for page in self._pages(sure, GROUPS_AT_ONCE):
            asked_at = self._count()
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

    def _take(self, group: Watched, state: GroupState, asked_at: int) -> None:
        """Take an answer of Redis, unless that to a later question is there already."""
        if asked_at < group.asked_at:
            return
        group.subscription.begin_at(state.position)
        if group.state is UNKNOWN or group.state.summary != state.summary:
            group.changed_at = self._count()
            self._changed.add(group)
        group.asked_at = asked_at
        group.state = state
        self._expiries.expect(group)

    def _pages(self, subjects: Sequence[Subject], size: int) -> Iterator[list[Subject]]:
        for page in parts(subjects, size):
            self._metrics.poller_batches += 1
            yield page

    def _stir(self, group: Watched) -> None:
        """Something has happened to a group: ask all about it at the next turn."""
        group.moved_at = self._count()
        self._dirty.add(group)

    # What is pushed

    async def _note_changes(self) -> None:
        changed, self._changed = self._changed, set()
        for part in parts(list(changed), GROUPS_A_TURN):
            for group in part:
                for user in group.users:
                    user.changed_at = max(user.changed_at, group.changed_at)
                self._owed |= group.users
            await let_others(part)

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

    async def _push(self, user: User, devices: list[Device], now: float) -> None:
        shown_at = self._count()
        frame = await user.frame()
        for device in devices:
            device.outbox.push(frame)
            device.outbox.messages += 1
            device.pushed_at, device.shown_at, device.size = now, shown_at, len(frame)
            self._metrics.bytes_sent += len(frame)

    # Who is in which group

    def _note_join(self, name: str, user: User) -> None:
        try:
            codec.check_id("groupId", name)
        except BadParameter as exc:
            log.warning("poller.unknown_event", error=str(exc))
            return
        if may_enter(name, user.name):
            self._watch(name, user)
            self._stir(self._groups[name])

    def _note_leave(self, name: str, user_name: str) -> None:
        user = self._users.get(user_name)
        group = user.groups.get(name) if user is not None else None
        if user is not None and group is not None:
            self._unwatch(group, user)
            self._owe(user)

    async def _note_groups(self, user: User, before: dict[str, Watched], groups: list[str]) -> None:
        """Note which groups a user is in.

        Args:
            before: those the user was known to be in when Redis was asked.
        """
        for number, part in enumerate(parts(groups, GROUPS_AT_ONCE), 1):
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
        for part_left in parts(left, GROUPS_AT_ONCE):
            for group in part_left:
                self._unwatch(group, user)
            if len(left) > GROUPS_AT_ONCE:
                await trio.lowlevel.checkpoint()
        if left:
            self._owe(user)

    def _watch(self, name: str, user: User) -> None:
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Watched(name, self._happenings)
            group.subscription = self._relay.listen(name, group.receive, group.lose)
        group.users.add(user)
        user.groups[name] = group
        if group.state is not UNKNOWN:
            self._owe(user)

    def _owe(self, user: User) -> None:
        user.changed_at = self._count()
        self._owed.add(user)

    def _listen_anew(self, groups: list[Watched]) -> None:
        for group in groups:
            self._happenings.deaf.discard(group)
            if group.users:
                group.subscription = self._relay.listen(group.name, group.receive, group.lose)
                self._stir(group)

    def _unwatch(self, group: Watched, user: User) -> None:
        group.users.discard(user)
        user.groups.pop(group.name, None)
        if not group.users and self._groups.get(group.name) is group:
            self._relay.unlisten(group.subscription, group.receive)
            del self._groups[group.name]

    def _forget(self, user: User) -> None:
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
