"""The sockets of a daemon, of every wire: to be counted, found by user or group, and closed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .session import Session


class Sessions(set["Session"]):
    """The sockets that are open.

    Args:
        kinds: of sockets; those that there are none of are counted too.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__()
        self._kinds = kinds
        self._emptied = trio.Event()

    @property
    def queued(self) -> int:
        """Bytes that wait in all their outboxes."""
        return sum(session.outbox.queued for session in self)

    def remove(self, session: Session) -> None:
        """Take out a socket that has ended."""
        super().remove(session)
        if not self:
            self._emptied.set()
            self._emptied = trio.Event()

    def by_kind(self) -> dict[str, int]:
        """How many there are of each kind."""
        kinds = Counter(session.kind for session in self)
        return {kind: kinds[kind] for kind in self._kinds}

    def of_group(self, group: str) -> list[Session]:
        """The sockets that are in a group."""
        return [session for session in self if group in session.groups]

    def kick(self, user: str, group: str, age: float = 0.0) -> None:
        """Close the sockets of a user: those in a group, or all when that is "".

        Args:
            age: seconds since the kick; who came later may stay.
        """
        given_at = trio.current_time() - age
        for session in self._of_user(user, group):
            if session.opened_at <= given_at:
                session.kick(group, given_at)

    def leave(self, user: str, group: str) -> None:
        """Close the sockets that a user has in a group: the user has left it."""
        for session in self._of_user(user, group):
            session.drop(group, "left the group")

    def _of_user(self, user: str, group: str) -> list[Session]:
        return [
            session
            for session in self
            if session.user == user and (not group or session.is_at(group))
        ]

    async def wait_empty(self) -> None:
        """Wait until the last socket has ended."""
        if self:
            await self._emptied.wait()
