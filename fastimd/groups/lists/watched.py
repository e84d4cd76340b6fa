"""What the poller knows: groups that are watched, and users with their list sockets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from operator import attrgetter

from ...websocket.frames import TEXT, frame_head
from ...websocket.outbox import Outbox
from ..store.summaries import NO_MESSAGES, GroupState
from ..subscription import MISSED, NOTICE, Subscription
from .parts import GROUPS_A_TURN, let_others, newest_first, parts

BYTES_A_SECOND = 1_000_000
"""What the lists of a socket come to at most: a long one comes less often."""

UNKNOWN = GroupState(*NO_MESSAGES)
"""Of a group that Redis was not asked about; it is this very object."""

_last_ts = attrgetter("state.position.ts")


class Happenings:
    """What has happened to groups since the poller looked.

    ``count`` gives the next number of all that happens. ``moved`` are the groups to which something
    happened, ``deaf`` those whose channel cannot be heard now.
    """

    def __init__(self) -> None:
        self.count = itertools.count(1).__next__
        self.moved: set[Watched] = set()
        self.deaf: set[Watched] = set()

    def take_moved(self) -> set[Watched]:
        """The groups that moved, for the last time."""
        moved, self.moved = self.moved, set()
        return moved


class Watched:
    """A group that users with a list socket here are in."""

    __slots__ = (
        "_happenings",
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

    def __init__(self, name: str, happenings: Happenings) -> None:
        self.name = name
        self.users: set[User] = set()
        self.state = UNKNOWN
        # The number of the question that this is the answer to, of the last answer that was
        # another than before, and of what happened last.
        self.asked_at = 0
        self.changed_at = 0
        self.moved_at = happenings.count()
        # The newest message that went by since the group was asked about.
        self.heard: tuple[int, bytes] | None = None
        # When it will be asked whether the list has expired; messages make it live longer.
        self.expiry_due = math.inf
        self._happenings = happenings

    @property
    def is_stale(self) -> bool:
        """Something has happened since Redis was asked, and somebody wants to know."""
        return self.moved_at > self.asked_at and bool(self.users)

    @property
    def is_heard(self) -> bool:
        """Redis has confirmed that its messages are heard, or refused it for good."""
        return self.subscription.confirmed.is_set()

    @property
    def knows_newest(self) -> bool:
        """The newest message was heard, and the list is known to expire."""
        heard = self.heard
        return (
            heard is not None and heard[0] > self.state.position.ts and self.expiry_due < math.inf
        )

    def receive(self, ts: int, message: bytes) -> None:
        if ts in (NOTICE, MISSED):
            return  # the poller hears of those, and of gaps, by itself
        self._move((ts, message))

    def stir(self) -> None:
        """Something else has happened: ask all about it at the next turn."""
        self._move(None)

    def _move(self, heard: tuple[int, bytes] | None) -> None:
        self.heard = heard
        self.moved_at = self._happenings.count()
        self._happenings.moved.add(self)

    def lose(self) -> None:
        """Nothing more will be heard, until the next turn or, where that is refused, sweep."""
        self._happenings.deaf.add(self)


class Device:
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


class User:
    """A user with a list socket here; ``changed_at`` is the number of the last change."""

    __slots__ = ("changed_at", "devices", "groups", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.devices: set[Device] = set()
        self.groups: dict[str, Watched] = {}
        self.changed_at = 0

    @property
    def knows_any(self) -> bool:
        """Something is known of one of the groups."""
        return any(group.state is not UNKNOWN for group in self.groups.values())

    async def frame(self) -> bytes:
        """The user's group list, most recently active first, without groups not yet known."""
        groups: list[Watched] = []
        for part in parts(list(self.groups.values()), GROUPS_A_TURN):
            groups += [group for group in part if group.state is not UNKNOWN]
            await let_others(part)
        pieces = [b"["]
        for part in parts(await newest_first(groups, _last_ts), GROUPS_A_TURN):
            separator = b"," if len(pieces) > 1 else b""
            pieces.append(separator + b",".join([group.state.summary for group in part]))
            await let_others(part)
        pieces.append(b"]")
        # Joined once: copies of many megabytes would take a turn that is too long.
        return b"".join([frame_head(TEXT, sum(map(len, pieces))), *pieces])
