"""The group-list poller: tells each list socket when one of its user's groups changed.

Theory of operation: it listens (through the relay) to the groups that connected users are in and
notes a group when a message goes by, when a recall is announced, or when its list is due to expire.
Once per ``update_rate`` it asks Redis about these groups only (``asking``), and pushes to the users
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
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

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
from ..whispers import may_enter
from .asking import GROUPS_AT_ONCE, Asking
from .expiry import Expiries
from .parts import GROUPS_A_TURN, let_others, parts
from .watched import UNKNOWN, Device, Happenings, User, Watched

SWEEP_SECONDS = 30.0
SWEEP_PAUSE = 0.005
"""Seconds between two questions of a sweep, which nobody waits for."""
USERS_AT_ONCE = 16
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
        self._expiries = Expiries(self._groups, Watched.stir)
        self._asking = Asking(store.summaries, metrics, self._happenings, self._expiries)
        self._sweep_wanted = trio.Event()
        self._unread: set[User] = set()

    @asynccontextmanager
    async def watcher(
        self, name: str, outbox: Outbox, end: Callable[[], None]
    ) -> AsyncIterator[None]:
        """Push the user's group list now, if there is one, and at each change while in the block.

        Args:
            end: called, perhaps more than once, when the list can no longer be read.

        Raises:
            StoreUnavailable, KeyUnusable: nothing is known of the groups, or not which they are.
        """
        user = self._users.get(name)
        if user is None:
            user = self._users[name] = User(name)
        device = Device(outbox, end)
        user.devices.add(device)
        try:
            await self._note_groups(user, {}, await self._store.members.groups_of(name))
            failure = await self._asking.ask_now(list(user.groups.values()))
            if failure is not None and not user.knows_any:
                raise failure
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
            self._groups[event.group].stir()

    def sweep(self) -> None:
        """Ask about everything soon: something may have been missed."""
        self._sweep_wanted.set()

    async def run(self) -> None:
        """Poll until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_sweeping)
            nursery.start_soon(self._keep_reading)
            nursery.start_soon(self._let_go)
            while True:
                await trio.sleep(self._config.group_list.update_rate)
                await self._poll(nursery, trio.current_time())

    # What is asked

    async def _poll(self, nursery: trio.Nursery, now: float) -> None:
        await self._expiries.collect(now)
        self._listen_anew(
            [group for group in self._happenings.deaf if group.subscription.refusal is None]
        )
        await self._asking.ask_moved(nursery)
        await self._note_changes()
        await self._push_owed(now)

    async def _keep_sweeping(self) -> None:
        while True:
            with trio.move_on_after(SWEEP_SECONDS):
                await self._sweep_wanted.wait()
            self._sweep_wanted = trio.Event()
            await self._ask_about_everything()
            await trio.sleep(self._config.group_list.update_rate)

    async def _ask_about_everything(self) -> None:
        self._listen_anew(list(self._happenings.deaf))
        await self._read_groups(list(self._users.values()))
        for page in parts(list(self._groups.values()), GROUPS_AT_ONCE):
            await self._asking.ask_again([group for group in page if group.users])
            await trio.sleep(SWEEP_PAUSE)

    async def _keep_reading(self) -> None:
        """Read at each turn the groups of those users whose master was away."""
        while True:
            await trio.sleep(self._config.group_list.update_rate)
            unread, self._unread = self._unread, set()
            await self._read_groups([user for user in unread if user.devices])

    async def _read_groups(self, users: list[User]) -> None:
        """Read which groups users are in; of those whose master is away, at the next turn."""
        for page in parts(users, USERS_AT_ONCE):
            there = [user for user in page if self._store.members.connection_of(user.name)]
            self._unread.update(set(page).difference(there))
            if there:
                await self._read_groups_of_each(there)
            await trio.sleep(SWEEP_PAUSE if there else 0)

    async def _read_groups_of_each(self, users: list[User]) -> None:
        self._metrics.poller_batches += 1
        known = [user.groups.copy() for user in users]
        answers = await self._store.members.groups_of_each([user.name for user in users])
        for user, before, groups in zip(users, known, answers, strict=True):
            if isinstance(groups, StoreUnavailable):
                self._unread.add(user)
            elif isinstance(groups, KeyUnusable):
                for device in list(user.devices):
                    device.end()
            else:
                for group in await self._note_groups(user, before, groups):
                    group.stir()

    # What is pushed

    async def _note_changes(self) -> None:
        for part in parts(list(self._asking.take_changed()), GROUPS_A_TURN):
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
            self._watch(name, user).stir()

    def _note_leave(self, name: str, user_name: str) -> None:
        user = self._users.get(user_name)
        group = user.groups.get(name) if user is not None else None
        if user is not None and group is not None:
            self._unwatch(group, user)
            self._owe(user)

    async def _note_groups(
        self, user: User, before: dict[str, Watched], groups: list[str]
    ) -> list[Watched]:
        """Note which groups a user is in.

        Args:
            before: those the user was known to be in when Redis was asked.

        Returns:
            Those that are new.
        """
        joined: list[Watched] = []
        for number, part in enumerate(parts(groups, GROUPS_AT_ONCE), 1):
            if not user.devices:  # gone meanwhile
                return joined
            joined += [self._watch(name, user) for name in part if name not in user.groups]
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
        return joined

    def _watch(self, name: str, user: User) -> Watched:
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Watched(name, self._happenings)
            group.subscription = self._relay.listen(name, group.receive, group.lose)
        group.users.add(user)
        user.groups[name] = group
        if group.state is not UNKNOWN:
            self._owe(user)
        return group

    def _owe(self, user: User) -> None:
        user.changed_at = self._count()
        self._owed.add(user)

    def _listen_anew(self, groups: list[Watched]) -> None:
        for group in groups:
            self._happenings.deaf.discard(group)
            if group.users:
                group.subscription = self._relay.listen(group.name, group.receive, group.lose)
                group.stir()

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
