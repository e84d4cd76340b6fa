"""Who is typing: told at most every few seconds, and never stored."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from .roster import Member

PAUSE_SECONDS = 3.0
"""How long who types on is not told of again."""


class Typists:
    """Those who were told of a moment ago, in the order in which that was."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], float] = {}

    def note(self, group: str, user: str) -> bool:
        """Note that a user is typing; whether that is to be told now."""
        now = trio.current_time()
        while self._told:
            first, told_at = next(iter(self._told.items()))
            if now - told_at < PAUSE_SECONDS:
                break
            del self._told[first]
        if (group, user) in self._told:
            return False
        self._told[group, user] = now
        return True

    def tell(self, sockets: Iterable[Member], group: str, user: str) -> None:
        """Tell all sockets but those of the user."""
        for socket in sockets:
            if socket.user != user:
                socket.tell_typing(group, user)
