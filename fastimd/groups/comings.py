"""Who comes into a group on this daemon and leaves it, for those who want to be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ..websocket.session import Session

ANNOUNCE_UP_TO = 200
"""How many may want to be told in a group; with more of them, nobody is."""

Listener: TypeAlias = Callable[[str, Session, bool], None]
"""Gets the group, who it is, and whether it has come; must not wait."""


class Comings:
    """Those who want to be told, by group."""

    def __init__(self) -> None:
        self._listeners: dict[str, dict[Session, Listener]] = {}

    def listen(self, group: str, session: Session, listener: Listener) -> None:
        """Tell a socket of a group who comes and goes, until ``unlisten``."""
        self._listeners.setdefault(group, {})[session] = listener

    def unlisten(self, group: str, session: Session) -> None:
        """Tell it nothing more; nothing happens when it is told nothing."""
        listeners = self._listeners.get(group)
        if listeners is not None:
            listeners.pop(session, None)
            if not listeners:
                del self._listeners[group]

    def come(self, group: str, session: Session) -> None:
        """A socket has come into a group."""
        self._tell(group, session, has_come=True)

    def go(self, group: str, session: Session) -> None:
        """It has left."""
        self._tell(group, session, has_come=False)

    def _tell(self, group: str, session: Session, *, has_come: bool) -> None:
        listeners = self._listeners.get(group)
        if listeners is not None and len(listeners) <= ANNOUNCE_UP_TO:
            for listener in list(listeners.values()):
                listener(group, session, has_come)
