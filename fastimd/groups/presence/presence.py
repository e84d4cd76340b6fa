"""Who is in which group, over all daemons: notes it in Redis, and tells who comes and goes.

Theory of operation: a change waits for a moment, so that many are noted with one script; that
script also renews the lease of this daemon in the group, which a turn of a few seconds does
otherwise. Where nobody wants to be told, a turn uses a script that looks at no other daemon, which
costs Redis little. Whatever changes there gets the next version of the group, and is
published to the daemons that want to be told. So each knows whether it has missed something; then
it reads all, and tells what is different. See ``roster.py``, ``present.lua`` and ``renew.lua``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import structlog
import trio

from ...base.codec import read_json
from ...base.errors import KeyUnusable, StoreUnavailable
from ...base.settings import Config
from ...redis.clients import SentScript
from ..store.presence import Change, Letter, Place, Presences, Roll, places_of
from .roster import Coming, Listener, Member, Roster
from .typing import Typists

GATHER_SECONDS = 0.05
"""How long a change waits for others."""
GATHER_A_GROUP = 0.002
"""And this much for each group of the last round, from its end on: of thousands who come at once
most are noted together, so that to note them takes a small share of the time."""
GATHER_MOST = 1.0
RENEW_SECONDS = 7.0
"""How often each lease is renewed: one that was lost once is in time the next time."""
TURNS = 28
"""In how many turns: each has as many groups."""
LOOK_SECONDS = 30.0
"""How long who types is told to others without a look at how many there are."""
RETRY_SECONDS = 0.5
AT_ONCE = 256
"""Groups whose changes are under way to Redis."""
MOST_LISTED = 1000
"""How many connections are listed; of more it is only told how many there are."""

log = structlog.get_logger("fastimd.presence")


class Counts(NamedTuple):
    """How many are in a group."""

    clients: int
    users: int


class Presence:
    """Who is in which group.

    Args:
        config: ``presence.enabled``, without which nobody is noted; ``presence.announce_up_to``.
    """

    def __init__(self, keys: Presences, config: Config) -> None:
        self._keys = keys
        self._config = config
        self._rosters: dict[str, Roster] = {}
        self._turns: list[dict[Roster, None]] = [{} for _ in range(TURNS)]
        self._away: deque[tuple[float, Roster, str]] = deque()
        self._marked: dict[Roster, None] = {}
        self._is_marked = trio.Event()
        self._is_urgent = trio.Event()
        self._under_way = 0
        self._answered = trio.lowlevel.ParkingLot()
        self._typists = Typists()
        self.connections = 0
        """How many connections are noted as members, once for each of their groups."""

    @property
    def is_enabled(self) -> bool:
        """Who is here is noted at all."""
        return self._config.presence.enabled

    def come(self, group: str, member: Member) -> None:
        """A socket has come into a group."""
        if self.is_enabled:
            roster = self._rosters.get(group) or self._open(group)
            roster.come(member)
            self.connections += 1
            self._mark(roster)

    def go(self, group: str, member: Member) -> None:
        """It has left."""
        if self.is_enabled:
            roster = self._rosters[group]
            now = trio.current_time()
            roster.unlisten(member)
            if roster.go(member, now):
                self._away.append((roster.away_until(member.user), roster, member.user))
            self.connections -= 1
            self._mark(roster)

    def renew(self, group: str, user: str) -> None:
        """What the token of one who is in a group says of it has changed."""
        if self.is_enabled:
            self._rosters[group].note(user)
            self._mark(self._rosters[group])

    def listen(self, group: str, member: Member, listener: Listener) -> None:
        """Tell a socket that has come who else comes and goes, while they are not too many."""
        if self.is_enabled:
            self._rosters[group].listen(member, listener)
            self._mark(self._rosters[group])

    async def count(self, group: str) -> Counts:
        """How many are in a group.

        Raises:
            StoreUnavailable, KeyUnusable: it cannot be told now.
        """
        roll = await self._read(group, -1)
        return Counts(roll.clients, roll.users)

    async def members_of(self, group: str) -> list[tuple[str, Place]] | None:
        """Who is in a group: users, once for each connection; None when they are too many.

        Raises:
            StoreUnavailable, KeyUnusable: it cannot be told now.
        """
        roll = await self._read(group, MOST_LISTED)
        if roll.all is None:
            return None
        return [(user, place) for user, value in roll.all for place in self._places(group, value)]

    async def type(self, group: str, member: Member) -> bool:
        """Tell the others in a group that a user is typing; False when they are too many.

        Who types on is told of no more often than every few seconds.

        Raises:
            StoreUnavailable, KeyUnusable: other daemons may not have been told.
        """
        roster = self._rosters[group]
        if trio.current_time() - roster.looked_at > LOOK_SECONDS:
            await self._read(group, -1)
        if max(roster.users, len(roster.here)) > self._config.presence.announce_up_to:
            return False
        if self._typists.note(group, member.user):
            self._typists.tell(roster.sockets(), group, member.user)
            await self._keys.tell(group, Letter(group, typing=member.user))
        return True

    def receive(self, payload: bytes) -> None:
        """Take what another daemon tells this one."""
        try:
            letter = read_json(payload, Letter)
            roster = self._rosters.get(letter.group)
            if roster is None:
                return
            if letter.typing:
                if self._typists.note(letter.group, letter.typing):
                    self._typists.tell(roster.sockets(), letter.group, letter.typing)
                return
            self._tell(roster, roster.take_letter(letter))
        except ValueError as exc:
            log.warning("presence.unknown_letter", error=str(exc))
            return
        if roster.is_stale:
            self._mark(roster)

    def note_gap(self) -> None:
        """Letters may have been missed."""
        for roster in self._rosters.values():
            if roster.listeners:
                roster.is_stale = True
                self._mark(roster)

    async def run(self) -> None:
        """Note what changes, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._renew_all)
            rested = -math.inf
            while True:
                await self._is_marked.wait()
                with trio.move_on_at(max(trio.current_time() + GATHER_SECONDS, rested)):
                    await self._is_urgent.wait()
                self._is_marked = trio.Event()
                self._is_urgent = trio.Event()
                groups = len(self._marked)
                await self._note_all(self._marked, are_changed=True)
                rested = trio.current_time() + min(groups * GATHER_A_GROUP, GATHER_MOST)

    async def wait_all_noted(self) -> None:
        """Wait until Redis knows of everybody who has come or gone: at the end nothing gathers."""
        while self._marked or self._under_way:
            self._is_urgent.set()
            await self._answered.park()

    def _open(self, group: str) -> Roster:
        roster = self._rosters[group] = Roster(group)
        self._turns[hash(group) % TURNS][roster] = None
        return roster

    def _mark(self, roster: Roster) -> None:
        self._marked[roster] = None
        self._is_marked.set()

    async def _renew_all(self) -> None:
        turn, due = 0, trio.current_time()
        while True:
            due += RENEW_SECONDS / TURNS
            await trio.sleep_until(due)
            now = trio.current_time()
            while self._away and self._away[0][0] <= now:
                _, roster, user = self._away.popleft()
                if roster.expire(user, now):
                    self._mark(roster)
            turn = (turn + 1) % TURNS
            await self._note_all(self._turns[turn], are_changed=False)

    async def _note_all(self, rosters: Iterable[Roster], *, are_changed: bool) -> None:
        left = list(rosters)
        while left:
            part, left = left[:AT_ONCE], left[AT_ONCE:]
            sent = [
                self._send(roster, self._listed(roster))
                if are_changed or not roster.is_idle
                else self._renew(roster)
                for roster in part
                if not roster.is_busy
            ]
            is_away = False
            async with trio.open_nursery() as nursery:
                for each in sent:
                    if is_away:  # to wait for each in turn would take too long
                        nursery.start_soon(self._receive, each)
                    else:
                        is_away = isinstance(await self._receive(each), StoreUnavailable)
            if is_away:
                await trio.sleep(RETRY_SECONDS)

    def _listed(self, roster: Roster) -> int:
        return MOST_LISTED if roster.wants_all(trio.current_time()) else -1

    def _send(self, roster: Roster, listed: int) -> _Sent:
        change = roster.take_change()
        self._under_way += 1
        self._marked.pop(roster, None)
        announced = self._config.presence.announce_up_to
        call = self._keys.send(roster.name, change, announced, listed)
        return _Sent(roster, call, change, announced, listed)

    def _renew(self, roster: Roster) -> _Sent:
        self._under_way += 1
        return _Sent(roster, self._keys.renew(roster.name, *roster.take_renewal()))

    async def _receive(self, sent: _Sent) -> _Outcome:
        """Wait for an answer, and take it."""
        roster = sent.roster
        outcome: _Outcome
        try:
            outcome = await self._answer(sent)
        except (StoreUnavailable, KeyUnusable) as exc:
            outcome = exc
        except BaseException:
            roster.failed()
            raise
        finally:
            self._under_way -= 1
            self._answered.unpark_all()
        if isinstance(outcome, Roll):
            assert sent.change is not None
            now = trio.current_time()
            self._tell(roster, roster.noted(sent.change, outcome, sent.announced, now))
        elif outcome is True:
            roster.renewed()
        else:
            roster.failed()
        self._marked.pop(roster, None)
        if roster.is_over:
            self._drop(roster)
        elif roster.needs_noting and not isinstance(outcome, KeyUnusable):
            self._mark(roster)  # else its turn is soon enough
        return outcome

    async def _answer(self, sent: _Sent) -> _Outcome:
        name = sent.roster.name
        if sent.change is None:
            return await self._keys.is_renewed(sent.call, name)
        return await self._keys.reply(sent.call, name, sent.change, sent.announced, sent.listed)

    async def _read(self, group: str, listed: int) -> Roll:
        """Note what is to be noted of a group, and read how it is."""
        roster = self._rosters.get(group) or Roster(group)
        while True:
            while roster.is_busy:
                await self._answered.park()
            outcome = await self._receive(self._send(roster, max(listed, self._listed(roster))))
            if isinstance(outcome, Exception):
                raise outcome
            if isinstance(outcome, Roll) and not roster.unnoted:
                return outcome

    def _drop(self, roster: Roster) -> None:
        if self._rosters.get(roster.name) is roster:
            del self._rosters[roster.name]
            del self._turns[hash(roster.name) % TURNS][roster]

    def _tell(self, roster: Roster, comings: list[Coming]) -> None:
        if comings:
            for listener in list((roster.listeners or {}).values()):
                listener(roster.name, comings)

    def _places(self, group: str, value: bytes) -> list[Place]:
        try:
            return places_of(value)
        except ValueError as exc:
            log.warning("presence.corrupt", group=group, error=str(exc))
            return []


class _Sent(NamedTuple):
    """A change under way, or without one the renewal of a lease."""

    roster: Roster
    call: SentScript
    change: Change | None = None
    announced: int = 0
    listed: int = 0


_Outcome: TypeAlias = Roll | bool | StoreUnavailable | KeyUnusable | None
"""What was noted, or whether the lease was renewed; None when Redis has lost what there was."""
