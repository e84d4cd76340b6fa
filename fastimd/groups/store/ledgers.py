"""The ledgers of visits: what the hooks were told by each daemon, for the one that buries it.

A ledger belongs to one daemon and lies at one key. Whoever holds it, for a lease at a time, tells
the ends of its visits; nobody else does. The list of daemons only says whose ledgers there are.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from ...base.codec import read_json
from ...redis import scripts
from .keyspace import Keyspace

LEASE_SECONDS = 14.0
"""How long a ledger that its holder does not renew is nobody else's."""
KEPT_SECONDS = 86_400.0
"""How long it is kept after that: the daemons of a chat may all be away for as long."""
SCANNED = 500
"""About how many visits are read at once."""

_DAEMONS_KEY = "fastimd:daemons"
_KEPT_MS = int(KEPT_SECONDS * 1000)
_LEASE_MS = int(LEASE_SECONDS * 1000)


class Noted(NamedTuple):
    """A visit as it is kept."""

    connection_id: str
    group: str
    user: str


class Ledgers:
    """The ledgers of all daemons."""

    def __init__(self, keys: Keyspace) -> None:
        self._keys = keys

    async def keep(
        self,
        daemon: str,
        holder: str,
        begun: Sequence[Noted] = (),
        over: Iterable[str] = (),
        *,
        takes: bool = False,
    ) -> int | None:
        """Hold a ledger for one more lease, and note in it which visits have begun and ended.

        Args:
            over: the connection ids of those that have ended.
            takes: also take it, when the lease of its holder has ended.

        Returns:
            How many visits are in it; None when another holds it, and nothing was noted.

        Raises:
            StoreUnavailable: Redis is away; it may have been noted or not.
            KeyUnusable: Redis refuses.
        """
        visits: list[str | bytes] = []
        for each in begun:
            visits += (each.connection_id, msgspec.json.encode((each.group, each.user)))
        count: int = await self._keys.run(
            scripts.LEDGER,
            (_ledger_key(daemon),),
            holder,
            int(takes),
            _LEASE_MS,
            _KEPT_MS,
            len(begun),
            *visits,
            *over,
        )
        return None if count < 0 else count

    async def read(self, daemon: str, cursor: int) -> tuple[int, list[Noted]]:
        """Some visits of a ledger from ``cursor`` on, and where to read on; 0 at both ends.

        What is there all the time is read at least once.

        Raises:
            StoreUnavailable, KeyUnusable: it cannot be read now.
        """
        key = _ledger_key(daemon)
        further, flat = await self._keys.call("HSCAN", key, cursor, "COUNT", SCANNED)
        found = []
        pairs = iter(flat)
        for connection_id, value in zip(pairs, pairs, strict=True):
            if not connection_id:
                continue
            try:
                group, user = read_json(value, tuple[str, str])
                found.append(Noted(connection_id.decode(), group, user))
            except ValueError as exc:  # somebody else has written there
                self._keys.corrupt(key, exc)
        return int(further), found

    async def list(self, living: Iterable[str]) -> dict[str, int]:
        """Note that daemons live; returns when each was last noted, by the clock of Redis.

        Raises:
            StoreUnavailable, KeyUnusable: it cannot be told now.
        """
        flat = await self._keys.run(scripts.DAEMONS, (_DAEMONS_KEY,), _KEPT_MS, *living)
        pairs = iter(flat)
        listed = {}
        for daemon, at in zip(pairs, pairs, strict=True):
            try:
                listed[daemon.decode()] = int(at)
            except ValueError as exc:  # somebody else has written there
                self._keys.corrupt(_DAEMONS_KEY, exc)
        return listed

    async def unlist(self, daemon: str) -> None:
        """Note that nothing is left to be told of a daemon.

        Its ledger still says that it was taken, in case that the daemon is not dead.

        Raises:
            StoreUnavailable, KeyUnusable: it may not have been noted.
        """
        await self._keys.call("ZREM", _DAEMONS_KEY, daemon)

    async def close(self, daemon: str) -> None:
        """Leave nothing of a daemon that ends.

        Raises:
            StoreUnavailable, KeyUnusable: something may be left.
        """
        await self._keys.call("DEL", _ledger_key(daemon))
        await self.unlist(daemon)


def make_id() -> str:
    """A new id for this daemon, which says where it runs."""
    host = re.sub(r"[^A-Za-z0-9.-]", "", socket.gethostname())[:64]
    return f"{host}:{os.getpid()}:{secrets.token_hex(8)}"


def _ledger_key(daemon: str) -> str:
    return f"fastimd:visits:{daemon}"
