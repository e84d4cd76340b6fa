"""Connections to Redis that are kept up: one life after the other, with a pause between.

The pause grows with jitter, up to a second.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Never

import structlog
import trio
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff

from ..base.errors import StartupError
from ..base.metrics import Metrics
from .address import Server
from .cause import cause_of
from .clock import RedisClock
from .connection import Connection, seconds_of
from .scripts import Script
from .wire import Wire

CALL_SECONDS = 1.5
"""How long a caller waits for Redis before it is told that the store is unavailable."""

log = structlog.get_logger("fastimd.redis")


class Reconnecting:
    """Backoff, log lines and count of one connection that is opened again and again."""

    def __init__(self, purpose: str, address: Server, metrics: Metrics) -> None:
        self._purpose = purpose
        self._address = address
        self._metrics = metrics
        self._backoff = ExponentialWithJitterBackoff(base=0.05, cap=1.0)
        self._failures = 0
        self._was_connected = False
        self.last_error: str | None = "not connected yet"

    def connected(self) -> None:
        """The connection is in use."""
        log.info("redis.connected", purpose=self._purpose, address=str(self._address))
        self._metrics.redis_reconnects[self._purpose] += self._was_connected
        self._failures = 0
        self._was_connected = True
        self.last_error = None

    async def wait_after(self, failure: Exception) -> None:
        """Say why the connection is not there, and wait before the next attempt.

        Raises:
            StartupError: Redis refuses the very first login.
        """
        self.last_error = cause_of(failure)
        if isinstance(failure, exceptions.AuthenticationError) and not self._was_connected:
            raise StartupError(f"redis.url: {self._address} refuses the login: {failure}")
        self._failures += 1
        log.warning(
            "redis.unavailable",
            purpose=self._purpose,
            address=str(self._address),
            error=self.last_error,
            attempts=self._failures,
        )
        await trio.sleep(self._backoff.compute(self._failures))


@asynccontextmanager
async def connected_wire(address: Server) -> AsyncIterator[Wire]:
    """A wire to Redis that is closed at the end, whatever happens."""
    wire = await address.connect()
    try:
        yield wire
    finally:
        await wire.aclose()


async def serve_connection(
    address: Server,
    scripts: Sequence[Script],
    clock: RedisClock,
    put_to_use: Callable[[Connection, str], Awaitable[None]],
    retire: Callable[[Connection], None],
) -> Never:
    """One life of a connection for commands.

    Args:
        clock: learns the time of Redis before the connection is put to use.
        put_to_use: gets the connection, and the reign of its server, while the connection runs.
        retire: told that it has ended.

    Raises:
        redis.exceptions.RedisError: why there is none, or why it has ended.
        OSError: the same.
    """
    async with connected_wire(address) as wire:
        await wire.ask(*(("SCRIPT", "LOAD", script.source) for script in scripts))
        asked_at = clock.now()
        clock.learn(asked_at, seconds_of((await wire.ask(("TIME",)))[0]))
        connection = Connection(wire, CALL_SECONDS, clock)
        failure = exceptions.ConnectionError("the connection has ended")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put_to_use, connection, wire.reign)
            try:
                await connection.run()
            except exceptions.ConnectionError as exc:
                failure = exc
                retire(connection)
            nursery.cancel_scope.cancel()
        raise failure
