"""Appends of messages that a backend is told: none is stored before its group is noted in Redis.

So a message that was answered is told, even if this daemon is killed at that moment. A group is
noted once a minute while somebody speaks there; only the first message waits for it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import trio

from ...base.errors import KeyUnusable, StoreUnavailable
from ...base.settings import Config
from ...redis.batch import OnAppended, Place, Told
from ...redis.room import Room
from ..store.messages import Appends
from ..store.queues import Queues

NOTED_SECONDS = 60.0
"""How long a group that was noted need not be noted again."""
RETRY_SECONDS = 0.1
AT_ONCE = 200
"""Groups that are noted together."""

_LIST_PREFIX = len("gml:")


class _Held(NamedTuple):
    """An append that waits for its group to be noted."""

    since: float
    deadline: float
    place: Place
    prefix: bytes
    on_appended: OnAppended | Told
    within: float


class Noted:
    """The groups that this daemon has noted, and when; those of long ago are forgotten."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._forget_at = 0.0

    def is_noted(self, group: str) -> bool:
        """It was, in the last minute."""
        return self._at.get(group, -math.inf) > trio.current_time() - NOTED_SECONDS

    def add(self, group: str, began: float) -> None:
        """It is: ``began`` is when Redis was asked to."""
        self._at[group] = began

    def forget_old(self) -> list[str]:
        """Forget those of long ago, now and then; returns them."""
        now = trio.current_time()
        if now < self._forget_at:
            return []
        self._forget_at = now + NOTED_SECONDS
        old = [group for group, at in self._at.items() if at < now - NOTED_SECONDS]
        for group in old:
            del self._at[group]
        return old


class NotingAppends:
    """Appends that note groups first; to those who speak it is the appender.

    Args:
        appends: what it hands them on to.
        room: where what waits is counted.
        known: up to where this daemon knows that the messages of a group were told.
        look: called with a group when a message of it was stored.
    """

    def __init__(
        self,
        appends: Appends,
        room: Room,
        queues: Queues,
        config: Config,
        known: dict[str, int],
        look: Callable[[str], None],
    ) -> None:
        self._appends = appends
        self._room = room
        self._queues = queues
        self._config = config
        self._known = known
        self._look = look
        self._noted = Noted()
        self._held: dict[str, deque[_Held]] = {}
        self._has_some = trio.Event()

    def append(
        self, place: Place, prefix: bytes, on_appended: OnAppended | Told, within: float = math.inf
    ) -> None:
        """Queue one append; as ``Appender.append``."""
        group = place.list_key[_LIST_PREFIX:]
        if group not in self._held and self._noted.is_noted(group):
            self._appends.append(place, prefix, self._looking(group, on_appended), within)
            return
        try:
            self._room.keep(len(prefix))
        except StoreUnavailable as exc:
            on_appended(exc)
            return
        now = trio.current_time()
        deadline = now + min(within, self._config.redis.hold_seconds)
        held = _Held(now, deadline, place, prefix, on_appended, within)
        self._held.setdefault(group, deque()).append(held)
        self._has_some.set()

    async def run(self) -> None:
        """Note groups, and hand on what waits for that, until cancelled."""
        while True:
            await self._has_some.wait()
            self._has_some = trio.Event()
            while self._held:
                first = min(each.deadline for held in self._held.values() for each in held)
                is_noted = False
                with trio.move_on_at(first):
                    is_noted = await self._note(list(islice(self._held, AT_ONCE)))
                self._give_up_overdue()
                if not is_noted and self._held:
                    await trio.sleep(RETRY_SECONDS)
            for group in self._noted.forget_old():
                self._known.pop(group, None)

    async def _note(self, groups: list[str]) -> bool:
        """Note groups, and hand on what waits; False when Redis is away."""
        began = trio.current_time()
        try:
            await self._queues.register(groups)
        except StoreUnavailable:
            return False
        except KeyUnusable:  # the log has said why; only a killed daemon leaves something untold
            pass
        outcomes: list[bool] = []

        async def note(group: str) -> None:
            try:
                told = await self._queues.note(group, self._known.get(group))
                self._known[group] = max(told, self._known.get(group, 0))
            except StoreUnavailable:
                outcomes.append(False)
                return
            except KeyUnusable:  # the log has said why: these messages are stored, and not told
                pass
            outcomes.append(True)
            self._noted.add(group, began)
            self._hand_on(group)

        async with trio.open_nursery() as nursery:
            for group in groups:
                nursery.start_soon(note, group)
        return all(outcomes)

    def _hand_on(self, group: str) -> None:
        for held in self._held.pop(group, ()):
            self._room.let_go(len(held.prefix))
            within = held.within - (trio.current_time() - held.since)
            on_appended = self._looking(group, held.on_appended)
            self._appends.append(held.place, held.prefix, on_appended, max(0.0, within))

    def _give_up_overdue(self) -> None:
        now = trio.current_time()
        for group, held in list(self._held.items()):
            overdue = [each for each in held if each.deadline <= now]
            if not overdue:
                continue
            left = deque(each for each in held if each.deadline > now)
            if left:
                self._held[group] = left
            else:
                del self._held[group]
            for each in overdue:
                self._room.let_go(len(each.prefix))
                failure = StoreUnavailable(f"Redis was away for {each.deadline - each.since:g} s")
                each.on_appended(failure)

    def _looking(self, group: str, on_appended: OnAppended | Told) -> OnAppended | Told:
        """The same, and then the group is looked at."""
        if isinstance(on_appended, Told):
            told = on_appended

            def tell(failure: Exception | None, ts: int | None) -> None:
                if failure is None:
                    self._look(group)
                told.ts = ts
                told(failure)

            return Told(tell, told.nonce)

        def answer(failure: Exception | None) -> None:
            if failure is None:
                self._look(group)
            on_appended(failure)

        return answer
