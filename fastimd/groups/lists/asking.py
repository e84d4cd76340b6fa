"""What Redis is asked about groups: each master by itself.

A master may be away, or silent, while others answer. So nobody waits for its answers but who opens
a list socket, and that not for long. A group that cannot be asked about stays stale: the lists show
what was known, and the next turn asks again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import trio

from ...base import codec
from ...base.errors import StoreUnavailable
from ...base.metrics import Metrics
from ...redis.connection import Connection
from ...redis.keeping import CALL_SECONDS
from ..store.history import Position
from ..store.summaries import GroupState, Summaries
from .expiry import Expiries
from .parts import GROUPS_A_TURN, let_others, parts
from .watched import UNKNOWN, Happenings, Watched

GROUPS_AT_ONCE = 256
"""How many Redis is asked about together."""
TURN_SECONDS = 0.1
"""How long a turn waits for answers; what comes later is shown at the next one."""


class Asking:
    """Asks about groups, and takes the answers."""

    def __init__(
        self, summaries: Summaries, metrics: Metrics, happenings: Happenings, expiries: Expiries
    ) -> None:
        self._summaries = summaries
        self._metrics = metrics
        self._happenings = happenings
        self._expiries = expiries
        self._changed: set[Watched] = set()
        # Of each connection over which a turn asks: set when it has its answers.
        self._under_way: dict[Connection, trio.Event] = {}

    def take_changed(self) -> set[Watched]:
        """The groups with an answer that is another than before, for the last time."""
        changed, self._changed = self._changed, set()
        return changed

    async def ask_now(self, groups: Sequence[Watched]) -> StoreUnavailable | None:
        """Ask about those groups where something has happened; somebody waits for the answers.

        So masters are waited for, all together as long as for one call.

        Returns:
            Why nothing is known of some, if that is so.
        """
        stale: list[Watched] = []
        for part in parts(groups, GROUPS_A_TURN):
            stale += [group for group in part if group.is_stale]
            await let_others(part)
        failures: list[StoreUnavailable | None] = []
        with trio.move_on_after(CALL_SECONDS) as waiting:
            # Redis confirms in order: after the last one there is nothing to wait for.
            for group in reversed(stale):
                if not group.is_heard:
                    await group.subscription.confirmed.wait()
        if waiting.cancelled_caught:
            failures.append(StoreUnavailable("Redis is away (no confirmation)"))

        async def ask(some: list[Watched]) -> None:
            failures.append(await self._ask(some, self._ask_page))

        async with trio.open_nursery() as nursery:
            for some in (await self._by_connection(stale)).values():
                nursery.start_soon(ask, some)
        return next((failure for failure in failures if failure is not None), None)

    async def ask_moved(self, nursery: trio.Nursery) -> None:
        """Ask about all groups where something has happened.

        No master is asked that is away, or that has not answered the last turn's questions yet; the
        nursery waits for such answers.
        """
        by_connection = await self._by_connection(self._happenings.take_moved())
        answered = []
        for connection, groups in by_connection.items():
            if connection is None or connection in self._under_way:
                self._happenings.moved.update(groups)
            else:
                answered.append(trio.Event())
                self._under_way[connection] = answered[-1]
                nursery.start_soon(self._ask_moved_at, connection, groups)
        with trio.move_on_after(TURN_SECONDS):
            for event in answered:
                await event.wait()

    async def ask_again(self, page: list[Watched]) -> None:
        """Ask about groups, whatever is known of them, at the next turn at the latest."""
        there = []
        for group in page:
            if group.is_heard and self._summaries.connection_of(group.name) is not None:
                there.append(group)
            else:
                group.stir()
        await self._ask(there, self._ask_page)

    async def _by_connection(
        self, groups: Iterable[Watched]
    ) -> dict[Connection | None, list[Watched]]:
        """Those that are stale, by the connection to their master, which may not be there.

        One that is not heard yet waits for the next turn: what is said after the answer is missed.
        """
        found: defaultdict[Connection | None, list[Watched]] = defaultdict(list)
        connection_of = self._summaries.connection_of
        for part in parts(list(groups), GROUPS_A_TURN):
            for group in part:
                if not group.is_stale:
                    continue
                if group.is_heard:
                    found[connection_of(group.name)].append(group)
                else:
                    self._happenings.moved.add(group)
            await let_others(part)
        return found

    async def _ask_moved_at(self, connection: Connection, groups: list[Watched]) -> None:
        """Ask about groups of one master; of those where messages went by only how many there are.

        Of a group whose newest message or expiry is not known for sure everything is asked.
        """
        sure: list[Watched] = []
        unsure: list[Watched] = []
        for group in groups:
            (sure if group.knows_newest else unsure).append(group)
        try:
            await self._ask(sure, partial(self._count_messages, unsure))
            await self._ask(unsure, self._ask_page)
        finally:
            self._under_way.pop(connection).set()

    async def _ask(
        self,
        groups: list[Watched],
        ask_page: Callable[[list[Watched]], Awaitable[StoreUnavailable | None]],
    ) -> StoreUnavailable | None:
        """Ask about groups page by page; when one has no answer at all the others wait with it.

        Returns:
            Why it had none.
        """
        failure = None
        for page in parts(groups, GROUPS_AT_ONCE):
            if failure is None:
                self._metrics.poller_batches += 1
                failure = await ask_page(page)
            else:
                for group in page:
                    group.stir()
        return failure

    async def _ask_page(self, page: list[Watched]) -> StoreUnavailable | None:
        asked_at = self._happenings.count()
        for group in page:
            group.heard = None
        states = await self._summaries.states([group.name for group in page])
        for group, state in zip(page, states, strict=True):
            if isinstance(state, StoreUnavailable):
                group.stir()
            else:
                self._take(group, state, asked_at)
        return _failure(states)

    async def _count_messages(
        self, unsure: list[Watched], page: list[Watched]
    ) -> StoreUnavailable | None:
        asked_at = self._happenings.count()
        heard = [group.heard for group in page]
        totals = await self._summaries.totals([group.name for group in page])
        for group, newest, total in zip(page, heard, totals, strict=True):
            if isinstance(total, StoreUnavailable):
                group.stir()
            elif not total or newest is None:
                unsure.append(group)  # it has expired, or has been asked about meanwhile
            else:
                ts, message = newest
                state = GroupState(codec.group_summary(message, total), Position(ts), None)
                self._take(group, state, asked_at)
        return _failure(totals)

    def _take(self, group: Watched, state: GroupState, asked_at: int) -> None:
        """Take an answer of Redis, unless that to a later question is there already."""
        if asked_at < group.asked_at:
            return
        group.subscription.begin_at(state.position)
        if group.state is UNKNOWN or group.state.summary != state.summary:
            group.changed_at = self._happenings.count()
            self._changed.add(group)
        group.asked_at = asked_at
        group.state = state
        self._expiries.expect(group)


def _failure(answers: Sequence[object]) -> StoreUnavailable | None:
    """Why there is no answer among them."""
    failures = [each for each in answers if isinstance(each, StoreUnavailable)]
    return failures[0] if len(failures) == len(answers) else None
