"""The members of one group: those on this daemon, and who is here at all, as far as one is told.

Nothing here waits, or asks the time: what is to be noted in Redis, and what comes back, goes
through ``presence.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

import msgspec

from ..store.presence import AWAY, Change, How, Letter, Place, Roll, places_of, value_of

AWAY_SECONDS = 3.5
"""How long a user without a connection is not told as gone: some come back at once."""
LOST_SECONDS = 10.0
"""How long nobody is told as gone after Redis has lost the members: all note theirs anew."""
CHANGES_AT_ONCE = 500
"""Users in one script: Redis does nothing else meanwhile."""


class Member(Protocol):
    """A socket, as others see it."""

    @property
    def client(self) -> str:
        """Its id."""
        ...

    @property
    def user(self) -> str:
        """Whose it is."""
        ...

    @property
    def conn_info(self) -> bytes:
        """What its token says of it, as JSON, or nothing."""
        ...

    def tell_typing(self, group: str, user: str) -> None:
        """Somebody else is typing in a group."""
        ...


Coming: TypeAlias = tuple[str, Place, bool]
"""A user, one of its connections, and whether the user has come, or else gone."""
Listener: TypeAlias = Callable[[str, list[Coming]], None]
"""Gets the group and who has come or gone; must not wait."""


class Roster:
    """A group's members.

    ``here`` are users with their sockets on this daemon; ``away`` those who had some a moment ago,
    with when they are gone. ``unnoted`` are users of whom Redis does not know how they are now,
    ``had`` is how many of this daemon it has, since version ``noted_at``. Unless that ``is_sure``
    all is noted anew, and until that ``is_rebuilt`` Redis has a part. ``told`` are all users of the
    group with their values, as the listeners were told, while that is known; ``version`` is what it
    was like then. ``late`` are letters that came while a change was under way. ``users`` is how
    many were in the group when it was ``looked_at``.
    """

    __slots__ = (
        "away",
        "born",
        "clients",
        "had",
        "here",
        "is_busy",
        "is_rebuilt",
        "is_stale",
        "is_sure",
        "late",
        "listeners",
        "looked_at",
        "name",
        "noted_at",
        "quiet_until",
        "told",
        "unnoted",
        "users",
        "version",
        "wanted",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.here: dict[str, tuple[Member, ...]] = {}
        self.clients = 0
        self.away: dict[str, float] | None = None
        self.unnoted: dict[str, None] | None = None
        self.had = self.noted_at = 0
        self.is_sure = self.is_rebuilt = True
        self.is_busy = False
        self.listeners: dict[Member, Listener] | None = None
        self.wanted = False
        self.told: dict[str, bytes] | None = None
        self.born = ""
        self.version = 0
        self.users = 0
        self.looked_at = 0.0
        self.is_stale = False
        self.quiet_until = 0.0
        self.late: list[Letter] | None = None

    @property
    def is_over(self) -> bool:
        """Nobody is here, and Redis knows that."""
        return not (self.here or self.away or self.unnoted or self.had or self.is_busy)

    @property
    def needs_noting(self) -> bool:
        """Redis must be told or asked something, sooner than to renew the lease."""
        is_known = self.is_sure and self.wanted == bool(self.listeners)
        return bool(self.unnoted or self.is_stale or not is_known)

    @property
    def is_idle(self) -> bool:
        """Its lease is all that it needs in Redis, and nobody wants to be told of others."""
        is_noted = self.had and self.is_sure and self.is_rebuilt
        return bool(is_noted) and not (self.unnoted or self.listeners or self.wanted)

    def sockets(self) -> list[Member]:
        """Those of this daemon."""
        return [member for members in self.here.values() for member in members]

    def come(self, member: Member) -> None:
        """A socket has come."""
        self.here[member.user] = (*self.here.get(member.user, ()), member)
        self.clients += 1
        if self.away:
            self.away.pop(member.user, None)
        self.note(member.user)

    def go(self, member: Member, now: float) -> bool:
        """A socket has left; returns whether it was the user's last."""
        left = tuple(each for each in self.here[member.user] if each is not member)
        self.clients -= 1
        self.note(member.user)
        if left:
            self.here[member.user] = left
            return False
        del self.here[member.user]
        self.away = self.away or {}
        self.away[member.user] = now + AWAY_SECONDS
        return True

    def away_until(self, user: str) -> float:
        """When a user who is away is gone."""
        assert self.away is not None
        return self.away[user]

    def expire(self, user: str, now: float) -> bool:
        """Take a user as gone who has been away for long enough; returns whether one was."""
        if self.away is None or self.away.get(user, now + 1) > now:
            return False
        del self.away[user]
        self.note(user)
        return True

    def note(self, user: str) -> None:
        """Redis must know how a user is now."""
        if self.unnoted is None:
            self.unnoted = {}
        self.unnoted[user] = None

    def listen(self, member: Member, listener: Listener) -> None:
        """Tell a socket who comes and goes."""
        if self.listeners is None:
            self.listeners = {}
        self.listeners[member] = listener

    def unlisten(self, member: Member) -> None:
        """Tell it nothing more."""
        if self.listeners is not None:
            self.listeners.pop(member, None)
            if not self.listeners:
                self.listeners = self.told = None

    def take_change(self) -> Change:
        """What is to be noted next; then ``noted`` or ``failed`` is due."""
        how: How = "told"
        if not self.is_sure:
            how, self.is_sure, self.is_rebuilt = "anew", True, False
            self.unnoted = dict.fromkeys((*self.here, *(self.away or ())))
        elif not self.is_rebuilt:
            how = "later"
        unnoted, self.unnoted = list(self.unnoted or ()), None
        now, later = unnoted[:CHANGES_AT_ONCE], unnoted[CHANGES_AT_ONCE:]
        if later:
            self.unnoted = dict.fromkeys(later)
        self.is_busy = True
        return Change(
            bool(self.listeners),
            how,
            self.clients,
            len(self.here),
            # Those of whom Redis is told later may be all that it has of this daemon meanwhile.
            len(self.here) + len(self.away or ()) + len(later),
            self.had,
            self.noted_at,
            [(user, self._value(user)) for user in now],
        )

    def take_renewal(self) -> tuple[int, int]:
        """What Redis must have to renew the lease; then ``renewed`` or ``failed`` is due."""
        self.is_busy = True
        return self.had, self.noted_at

    def renewed(self) -> None:
        """The lease was renewed. Who listens since it was sent still has to read all."""
        self.is_busy = False
        self.late = None

    def failed(self) -> None:
        """Whether it was noted is not known, or Redis has lost the rest: all is noted anew."""
        self.is_sure = self.is_busy = False
        self.late = None

    def noted(self, change: Change, roll: Roll, announced: int, now: float) -> list[Coming]:
        """Redis has it; returns what the listeners are to be told."""
        self.is_busy = False
        self.had, self.users, self.wanted = roll.fields, roll.users, change.wants
        self.noted_at, self.looked_at = roll.version, now
        if not self.unnoted:
            self.is_rebuilt = True
        comings = self._follow(roll, announced, now) if self.listeners and change.wants else []
        self.born, self.version = roll.born, roll.version
        late, self.late = self.late, None
        for letter in late or ():
            comings += self.take_letter(letter)
        return comings

    def wants_all(self, now: float) -> bool:
        """The listeners can only be told right when all members are read."""
        if not self.listeners:
            return False
        return self.told is None or self.is_stale or 0 < self.quiet_until <= now

    def take_letter(self, letter: Letter) -> list[Coming]:
        """Take what another daemon has noted; returns what the listeners are to be told."""
        if self.is_busy:
            self.late = self.late or []
            self.late.append(letter)
            return []
        version = int(letter.version)
        if self.told is None or version <= self.version:
            return []
        if version > self.version + 1:  # one is missing
            self.is_stale = True
            return []
        self.version = version
        pairs = iter(letter.come)
        come = [(user, value.encode()) for user, value in zip(pairs, pairs, strict=True)]
        return self._apply(come, letter.gone)

    def _follow(self, roll: Roll, announced: int, now: float) -> list[Coming]:
        if roll.users > announced:
            self.told = None
            return []
        if self.told is not None and roll.born != self.born:
            self.quiet_until = now + LOST_SECONDS
        if roll.all is not None:
            self.is_stale = False
            found: dict[str, bytes] = {}
            for user, value in roll.all:
                if value != AWAY or user not in found:
                    found[user] = value
            return self._catch_up(roll, found, now)
        if self.told is None:
            return []
        if roll.before != self.version or roll.has_died:
            self.is_stale = True
            return []
        return self._apply(roll.come, roll.gone)

    def _catch_up(self, roll: Roll, found: dict[str, bytes], now: float) -> list[Coming]:
        if self.told is None:
            self.told = {}
            comings = self._apply(roll.come, ())
            self.told = found
            return comings
        gone: list[str] = []
        if now >= self.quiet_until:
            self.quiet_until = 0.0
            gone = [user for user in self.told if user not in found]
        return self._apply(found.items(), gone)

    def _apply(self, come: Iterable[tuple[str, bytes]], gone: Iterable[str]) -> list[Coming]:
        told = self.told
        assert told is not None
        comings: list[Coming] = []
        for user, value in come:
            if value == AWAY:
                told.setdefault(user, AWAY)
                continue
            if told.get(user, AWAY) == AWAY:
                comings.append((user, _first_of(value), True))
            told[user] = value
        for user in gone:
            value = told.pop(user, AWAY)
            if value != AWAY:
                comings.append((user, _first_of(value), False))
        return comings

    def _value(self, user: str) -> bytes:
        members = self.here.get(user)
        if members is None and user not in (self.away or ()):
            return b""
        return value_of(map(place_of, members or ()))


def _first_of(value: bytes) -> Place:
    try:
        return next(iter(places_of(value)), _NOWHERE)
    except ValueError:  # somebody else has written there
        return _NOWHERE


_NOWHERE = Place("")


def place_of(member: Member) -> Place:
    """A socket as it is kept."""
    return Place(member.client, msgspec.Raw(member.conn_info or b"null"))
