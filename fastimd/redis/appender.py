"""Appends that are neither lost nor doubled.

Theory of operation: appends carry sequence numbers and leave in order over one connection. The
append script keeps the number of the last one it applied, the daemon's *applied mark*, in Redis.
When a connection breaks, the appends without a reply stay here. The next connection first runs the
settle script, which raises the epoch (so that whatever the old connection may still deliver is
fenced) and returns the mark: appends up to it were applied, and only their reply was lost; the
others were not, and are sent again, in order. While Redis is away new appends wait in the same
queue, bounded by bytes and by age.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import trio
from redis import exceptions

from ..errors import StoreUnavailable
from .connection import Connection
from .scripts import APPEND, SETTLE
from .wire import Argument, Reply

HOLD_BYTES = 4 * 1024 * 1024
HOLD_SECONDS = 10.0
MARK_SECONDS = 3600
"""How long an applied mark outlives the last append of its daemon."""

OnAppended: TypeAlias = Callable[[Exception | None], None]

_CONNECTION_IS_USELESS = (
    exceptions.ConnectionError,
    exceptions.NoScriptError,
    exceptions.BusyLoadingError,
)


class _Append:
    __slots__ = ("arguments", "keys", "on_appended", "sequence", "since", "size")

    def __init__(
        self,
        sequence: int,
        keys: tuple[Argument, ...],
        arguments: tuple[Argument, ...],
        size: int,
        on_appended: OnAppended,
    ) -> None:
        self.sequence = sequence
        self.keys = keys
        self.arguments = arguments
        self.size = size
        self.since = trio.current_time()
        self.on_appended = on_appended


class Appender:
    """The daemon's queue of appends that Redis has not answered yet."""

    def __init__(self) -> None:
        self._mark_key = f"fastimd:applied:{secrets.token_hex(8)}"
        self._sequence = 0
        self._epoch = 0
        self._connection: Connection | None = None
        self._unanswered: deque[_Append] = deque()
        self._held_bytes = 0
        self._all_answered: trio.Event | None = None

    async def wait_all_answered(self) -> None:
        """Wait until the fate of every append is known."""
        if self._unanswered:
            if self._all_answered is None:
                self._all_answered = trio.Event()
            await self._all_answered.wait()

    def append(
        self,
        keys: tuple[Argument, Argument],
        arguments: tuple[Argument, ...],
        size: int,
        on_appended: OnAppended,
    ) -> None:
        """Queue one append.

        Args:
            keys: the list and the ts floor of the group.
            arguments: channel, JSON prefix, expiry, longest list, as the append script wants them.
            size: bytes that count against ``HOLD_BYTES``.
            on_appended: called once with None when the message is in Redis, else with the reason;
                ``StoreUnavailable`` when its fate stays unknown or there is no room.
        """
        if self._connection is None and self._held_bytes + size > HOLD_BYTES:
            on_appended(StoreUnavailable("Redis is away and the waiting room is full"))
            return
        self._sequence += 1
        listed, floor = keys
        append = _Append(
            self._sequence, (listed, self._mark_key, floor), arguments, size, on_appended
        )
        self._unanswered.append(append)
        self._held_bytes += size
        if self._connection is not None:
            self._send(append)

    async def resume(self, connection: Connection) -> None:
        """Settle what the last connection left, then append over this one.

        Raises:
            redis.exceptions.RedisError: the connection broke or cannot write.
        """
        self._epoch += 1
        applied = await connection.run_script(SETTLE, (self._mark_key,), self._epoch, MARK_SECONDS)
        while self._unanswered and self._unanswered[0].sequence <= applied:
            self._finish(None)
        self._connection = connection
        for append in self._unanswered:
            self._send(append)

    def suspend(self) -> None:
        """The connection is gone: hold what comes, and what has no answer."""
        self._connection = None

    async def run_expiry(self) -> None:
        """Fail appends that have waited ``HOLD_SECONDS`` while Redis was away, until cancelled."""
        while True:
            await trio.sleep(0.25)
            oldest = trio.current_time() - HOLD_SECONDS
            while (
                self._connection is None and self._unanswered and self._unanswered[0].since < oldest
            ):
                self._finish(StoreUnavailable(f"Redis was away for {HOLD_SECONDS:g} s"))

    def _send(self, append: _Append) -> None:
        assert self._connection is not None
        connection = self._connection

        def on_reply(reply: Reply) -> None:
            if isinstance(reply, _CONNECTION_IS_USELESS):
                # It stays in the queue for the next connection.
                connection.fail(str(reply))
            elif self._unanswered and self._unanswered[0] is append:
                self._finish(reply if isinstance(reply, Exception) else None)

        connection.submit(
            on_reply,
            "EVALSHA",
            APPEND.sha,
            len(append.keys),
            *append.keys,
            *append.arguments,
            self._epoch,
            append.sequence,
            MARK_SECONDS,
        )

    def _finish(self, failure: Exception | None) -> None:
        append = self._unanswered.popleft()
        self._held_bytes -= append.size
        append.on_appended(failure)
        if not self._unanswered and self._all_answered is not None:
            self._all_answered.set()
            self._all_answered = None
