"""A group's channel as this daemon hears it, with what waits while a gap is being repaired.

Which of the held messages a repair has read as well is known for certain, whatever their ``ts``:
after each page the relay puts up a *fence*, a PING on its own connection. Redis answers in order.
So when the answer comes, everything that was published before the page was read has come too, and
what stands in the page is taken from what is held.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

import structlog
import trio

from ..base import codec
from ..base import log as logs
from ..base.errors import KeyUnusable
from .hearing import DEAF, Hearing
from .store.history import Position
from .store.keyspace import channel_of

MAX_HELD = 1000
"""Live messages of a group that wait for its repair; more are left to be read from the list."""

MAX_TOLD = 1000
"""Notices since a group's newest message that are known again; the list tells no more at once."""

NOTICE = -1
"""Stands for the ``ts`` of a notice: of what became of messages, between them in their order."""

MISSED = -2
"""Stands for the ``ts`` of messages that were missed, and that no list has any more."""

OnMessage: TypeAlias = Callable[[int, bytes], None]
"""Gets ``ts``, which is 0 for a foreign message, and the message as plain JSON, or ``NOTICE`` and
the notice, or ``MISSED``; must not wait."""
OnLost: TypeAlias = Callable[[], None]
"""Told that nothing more will come: Redis refuses what concerns the group. Must not wait."""

Live: TypeAlias = tuple[int, bytes, bytes]
"""A message's ``ts`` as above, the message as plain JSON, and its entry."""

log = structlog.get_logger("fastimd.relay")


class Subscription:
    """A group's channel, as this daemon hears it.

    ``last_ts`` is the newest ts that was handed on, ``last_entry`` the entry of the newest message
    that was, foreign or not; ``newest_ts`` is the newest ts that was handed on or read. ``life`` is
    the id of the list's life when somebody first read it, or when a gap was last repaired. While
    ``held`` is a list the gap after the last message is being repaired, and live messages wait
    there. ``overheld`` says that too many came: they were dropped, and the repair must go on to
    them.
    ``refusal`` says why Redis does not let the channel be heard. ``notices`` are those that came
    while messages were held, ``told`` those that were handed on since the newest message: the list
    may tell them again. ``slot`` is that of the channel in a cluster. ``hearing`` is that of the
    connection over which the channel is heard, ``on_heard`` is called when it is another one, or
    none while the channel moves to another server.
    """

    __slots__ = (
        "channel",
        "confirmed",
        "group",
        "has_begun",
        "hearing",
        "held",
        "idle_since",
        "last_entry",
        "last_ts",
        "life",
        "listeners",
        "newest_ts",
        "notices",
        "on_heard",
        "overheld",
        "refusal",
        "slot",
        "told",
    )

    def __init__(self, group: str, channel: bytes | None = None) -> None:
        self.group = group
        self.channel = channel or channel_of(group).encode()
        self.listeners: dict[OnMessage, OnLost] = {}
        self.confirmed = trio.Event()
        self.has_begun = False
        self.last_ts = 0
        self.last_entry = b""
        self.life = ""
        self.newest_ts = 0
        self.held: list[Live] | None = None
        self.overheld = False
        self.notices: list[bytes] = []
        self.told: set[bytes] = set()
        self.idle_since = 0.0
        self.refusal: KeyUnusable | None = None
        self.slot = -1
        self.hearing: Hearing = DEAF
        self.on_heard: Callable[[], object] | None = None

    def confirm(self, hearing: Hearing) -> None:
        """Everything that is said from now on will be heard."""
        self.hearing = hearing
        self.confirmed.set()
        if self.on_heard is not None:
            self.on_heard()

    def await_repair(self) -> None:
        """It is not heard now. Hold back what comes, if something may have been missed."""
        self.hearing = DEAF
        if self.confirmed.is_set():
            self.held = []
            self.overheld = False

    def move(self) -> None:
        """Another server tells the channel from now on: it is not heard before that confirms it."""
        self.await_repair()
        if self.on_heard is not None:
            self.on_heard()

    def begin_at(self, position: Position) -> None:
        """Somebody has read the list up to there: a repair need not go further back.

        Only the first time, and before the first message was handed on: later, one that was read
        may still be on its way to the others. The first life that anybody has read counts.
        """
        if not (self.has_begun or self.last_entry):
            self.has_begun = True
            self.last_ts, self.last_entry, self.life = position
        # Who came before may have had no use for it: it is asked for on the live wire alone.
        self.life = self.life or position.life
        self.newest_ts = max(self.newest_ts, position.ts)

    def receive(self, ts: int, message: bytes, entry: bytes) -> None:
        """Take a live message; ``ts`` is 0 when it is foreign, ``entry`` is what was published."""
        if self.held is None:
            self.hand_on(ts, message, entry)
            return
        if len(self.held) >= MAX_HELD:
            self.held.clear()
            self.overheld = True
        self.held.append((ts, message, entry))

    def hand_on(self, ts: int, message: bytes, entry: bytes) -> None:
        """Give a message to everybody who listens."""
        if ts > self.last_ts:
            self.last_ts = ts
            self.last_entry = entry
            if self.told:
                self.told.clear()
            if ts > self.newest_ts:
                self.newest_ts = ts
        elif not ts:
            self.last_entry = entry
        if logs.is_debug:
            log.debug("message.relayed", group=self.group, user=_user_of(message), message_ts=ts)
        for listener in self.listeners:
            listener(ts, message)

    def notice(self, event: bytes) -> None:
        """Take a notice of what became of messages: it follows those that came before."""
        if self.held is None:
            self._hand_on_notice(event)
        else:
            self.notices.append(event)

    def _hand_on_notice(self, event: bytes) -> None:
        if len(self.told) >= MAX_TOLD:
            self.told.clear()
        self.told.add(event)
        for listener in self.listeners:
            listener(NOTICE, event)

    def tell_missed(self) -> None:
        """Tell everybody who listens that messages are missing before what comes next."""
        for listener in list(self.listeners):  # some may leave
            listener(MISSED, b"")

    def fill(
        self, messages: list[Live], end: bytes, *, more: bool, removals: Sequence[bytes] = ()
    ) -> None:
        """Hand on a page of the gap, and of what is held what came before its end.

        Everything that was published before the page was read must be held already.

        Args:
            end: the last entry of the page, though it may be no message.
            more: there are further pages.
            removals: what was deleted since the position, as events. Those that were heard follow
                what is held: that may have what they delete.
        """
        missed = [
            event for event in removals if event not in self.told and event not in self.notices
        ]
        read = Counter(message for _, message, _ in messages)
        held = deque[Live]()
        for live in self.held or ():
            if read[live[1]]:
                read[live[1]] -= 1
            else:
                held.append(live)
        # First: who is cut off after the next message comes back with its ts.
        for event in missed:
            self._hand_on_notice(event)
        known = self.last_ts
        for ts, message, entry in messages:
            # What was published and stands in no list any more.
            while held and 0 < held[0][0] < ts:
                self.hand_on(*held.popleft())
            if not 0 < ts <= known:  # an entry out of order, which was handed on before
                self.hand_on(ts, message, entry)
        if end:
            self.last_entry = end
        self.held = list(held)
        if not more:
            self.held = None
            for live in held:
                self.hand_on(*live)
            notices, self.notices = self.notices, []
            for event in notices:
                self._hand_on_notice(event)


def _user_of(message: bytes) -> str | None:
    try:
        return codec.decode_message(message).userId
    except codec.CorruptEntry:  # who reads the ts alone does not see that
        return None
