"""Pings for all sockets, by one task.

The interval is the same for everybody, so the sockets stand in one queue by the time at which each
is due, and a turn costs as much as there are sockets due.

Silence is counted in turns, so reading from a client needs no look at the clock. A late turn counts
in full, up to twice its length. A longer pause, as when the machine stood still, does not count as
silence of the clients.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import trio

from ..base.settings import Config
from .subprotocol import Subprotocol

TURN_SECONDS = 0.5


class Pinged(Protocol):
    """A socket, as the keepalive sees it.

    ``heard_at`` was the keepalive's ``next_turn`` when the client last said anything.
    """

    heard_at: float
    is_open: bool
    subprotocol: Subprotocol

    def ping(self) -> None: ...

    def end_silent(self) -> None: ...


class Keepalive:
    """Pings silent sockets and ends those that stay silent.

    Args:
        config: ``socket.ping_interval``, seconds of silence before a ping, and
            ``socket.ping_timeout``, seconds of silence before the end.

    ``next_turn`` is when it looks next, in seconds that have passed in its turns.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.next_turn = 0.0
        self._due: deque[tuple[float, Pinged]] = deque()

    def watch(self, pinged: Pinged) -> None:
        """Look after a socket that has just come, until it closes."""
        self._due.append((pinged.heard_at + self._config.socket.ping_interval, pinged))

    async def run(self) -> None:
        """Ping until cancelled."""
        while True:
            turn, began = self._turn_seconds(), trio.current_time()
            await trio.sleep(turn)
            self.next_turn += min(trio.current_time() - began, 2 * turn) - turn
            self._take_turn(self.next_turn)
            self.next_turn += self._turn_seconds()

    def _turn_seconds(self) -> float:
        return min(TURN_SECONDS, self._config.socket.ping_interval / 4)

    def _take_turn(self, now: float) -> None:
        interval, timeout = self._config.socket.ping_interval, self._config.socket.ping_timeout
        while self._due and self._due[0][0] <= now:
            _, pinged = self._due.popleft()
            if not pinged.is_open:
                continue
            silence = now - pinged.heard_at
            if silence >= timeout:
                pinged.end_silent()
                continue
            if silence >= interval / 2 or pinged.subprotocol.pings_always:
                pinged.ping()
            self._due.append((now + interval, pinged))
