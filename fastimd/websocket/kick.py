"""A kick: whose sockets are closed, and how."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from .subprotocol import Reason


class Kick(NamedTuple):
    """Which sockets are closed: a user's, in ``group``, or all when that is "".

    With ``client`` it is the one with this id, and none of ``keep`` is closed. ``close`` is the
    code and the reason on sockets that close, if not the usual ones.
    """

    user: str
    group: str = ""
    client: str = ""
    keep: Collection[str] = ()
    close: Reason | None = None

    def concerns(self, client: str) -> bool:
        """Whether the socket of the user with this id is meant."""
        return client not in self.keep and self.client in ("", client)
