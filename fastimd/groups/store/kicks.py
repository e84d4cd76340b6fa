"""Kicks: announced to every daemon, and remembered for those that were away."""

from __future__ import annotations

import msgspec

from ...base.codec import read_json
from ...base.settings import Config
from ...redis import scripts
from ...websocket.kick import Kick
from ..events import EVENTS_CHANNEL, Event
from .keyspace import Keyspace

_KICKS_KEY = "fastimd:kicks"


class RememberedKicks:
    """The kicks of all daemons."""

    def __init__(self, keys: Keyspace, config: Config) -> None:
        self._keys = keys
        self._config = config

    async def announce(self, kick: Kick) -> int:
        """Have every daemon close the sockets that a kick means.

        It is remembered for ``redis.hold_seconds``. With ``KeyUnusable`` it is not, but announced.

        Returns:
            How many daemons heard of it.
        """
        code, reason = kick.close or (0, "")
        event = Event(
            kick.group,
            kick.user,
            kick=True,
            client=kick.client,
            keep=list(kick.keep),
            code=code,
            reason=reason,
        )
        told: int = await self._keys.run(
            scripts.KICK,
            (_KICKS_KEY,),
            EVENTS_CHANNEL,
            msgspec.json.encode(event),
            int(self._config.redis.hold_seconds * 1000),
        )
        return await self._keys.count_listeners(EVENTS_CHANNEL, told)

    async def all(self) -> list[tuple[Event, int]]:
        """The kicks that are remembered, oldest first, each with its ``ts``."""
        pairs = iter(await self._keys.call("ZRANGE", _KICKS_KEY, 0, -1, "WITHSCORES"))
        kicks = []
        for entry, score in zip(pairs, pairs, strict=True):
            try:
                event = read_json(entry, Event)
                ts = int(score)
            except ValueError as exc:
                self._keys.corrupt(_KICKS_KEY, exc)
                continue
            if event.kick:
                kicks.append((event, ts))
        return kicks
