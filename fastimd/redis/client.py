"""The daemon's command connection, kept up.

One task opens the connection, loads the scripts, settles the appender, and serves it until it
breaks; then the next, after a backoff with jitter. Whoever calls meanwhile waits for it a little.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog
import trio
from redis import exceptions

from ..base.errors import StoreUnavailable
from ..base.metrics import Metrics
from .address import Server
from .appender import Appender
from .cause import cause_of
from .clock import RedisClock
from .connection import Call, Connection
from .keeping import CALL_SECONDS, Reconnecting, serve_connection
from .replies import NotNow, Reply
from .scripts import ALL, Script
from .wire import Argument

_CANNOT_SERVE = (exceptions.ConnectionError, exceptions.ReadOnlyError, NotNow)
_IS_AWAY = (TimeoutError, trio.TooSlowError, *_CANNOT_SERVE)

_Answer = TypeVar("_Answer")

log = structlog.get_logger("fastimd.redis")


class Client:
    """Commands to Redis from any task.

    Args:
        address: where Redis is.
        appender: the appends that go over the same connection.
        clock: learns the time of Redis, on each connection before it is put to use.

    Error handling: a command that finds no connection within ``CALL_SECONDS``, or whose connection
    breaks, raises ``StoreUnavailable``; so does a refusal that says Redis cannot serve now.

    ``on_moved`` is called when a connection is up after a server had said that it is not the one
    to speak with, for then other connections may lead to the wrong one.

    ``reign`` is that of the server that was connected last.
    """

    def __init__(
        self, address: Server, appender: Appender, clock: RedisClock, metrics: Metrics
    ) -> None:
        self.address = address
        self.appender = appender
        self.clock = clock
        self.on_moved: Callable[[], None] = lambda: None
        self._was_demoted = False
        self.reign = ""
        self._connection: Connection | None = None
        self._is_connected = trio.Event()
        self._reconnecting = Reconnecting("commands", address, metrics)

    @property
    def last_error(self) -> str | None:
        """Why Redis does not take messages; None while it does."""
        return self._reconnecting.last_error or self.appender.refusal

    @property
    def outage(self) -> str | None:
        """Why nothing can be done; None while something can."""
        return self.last_error

    async def wait_connected(self) -> None:
        """Wait until commands can be sent."""
        await self._is_connected.wait()

    def reign_of(self, _key: str) -> str:
        """A name of the time of the server that has a key, as master."""
        return self.reign

    def count_masters(self) -> dict[str, float]:
        """How many masters can be spoken with, and how many cannot."""
        is_up = self._connection is not None
        return {"up": is_up, "down": not is_up}

    def connection_of(self, _key: str) -> Connection | None:
        """Over which a key is asked about now; None while Redis cannot be spoken with."""
        return self._connection

    async def count_listeners(self, _channel: str, told: int) -> int:
        """How many listen to a channel, when Redis has told so many."""
        return told

    def channel_beside(self, _key: str, _channel: str) -> str | None:
        """The channel that lies where a key does; None where that means nothing."""
        return None

    async def call(self, *command: Argument) -> Reply:
        """Send a command and return its reply.

        Raises:
            StoreUnavailable: see the class.
            redis.exceptions.ResponseError: the command is wrong.
        """
        return await self._attempt(lambda connection: connection.call(*command))

    async def call_many(self, commands: Sequence[tuple[Argument, ...]]) -> list[Reply]:
        """Send commands together; errors as with ``call``, but for what one command meets alone.

        Returns:
            The reply to each, in order, or Redis's refusal of it, a ``ResponseError`` instance.
        """

        async def call(connection: Connection) -> list[Reply]:
            replies = await connection.call_many(commands)
            for reply in replies:
                if isinstance(reply, _CANNOT_SERVE):
                    raise reply
            return replies

        return await self._attempt(call)

    def send_script(
        self, script: Script, keys: tuple[Argument, ...], *arguments: Argument
    ) -> ScriptCall:
        """Send a script now, if there is a connection; its reply is waited for later."""
        return ScriptCall(self, self._connection, script, keys, arguments)

    async def run_anew(
        self,
        connection: Connection | None,
        script: Script,
        keys: tuple[Argument, ...],
        arguments: tuple[Argument, ...],
    ) -> Reply:
        """Run a script on a connection, or, with None, as soon as there is one."""
        return await self._attempt(
            lambda connection: connection.run_script(script, keys, *arguments), connection
        )

    async def run(self) -> None:
        """Keep the connection up until cancelled.

        Raises:
            StartupError: Redis refuses the login.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.appender.run)
            while True:
                try:
                    await serve_connection(
                        self.address, ALL, self.clock, self._put_to_use, self._retire
                    )
                except (exceptions.RedisError, OSError) as exc:
                    await self._reconnecting.wait_after(exc)

    def is_beside(self, reign: str) -> bool:
        """Whether there is a connection, and to another server than the one of that reign."""
        return self._connection is not None and self.reign != reign

    async def leave(self, seconds: float) -> None:
        """Say nothing more to this server; its connection is given up so many seconds later.

        Until then its last replies are heard, and nothing is said to the next one.
        """
        connection = self._connection
        if connection is None:
            return
        self._retire(connection)
        await trio.sleep(seconds)
        connection.fail("the sentinels name another master")

    async def _attempt(
        self,
        command: Callable[[Connection], Awaitable[_Answer]],
        connection: Connection | None = None,
    ) -> _Answer:
        connection = connection or self._connection
        try:
            if connection is not None:
                return await command(connection)
            with trio.fail_after(CALL_SECONDS):
                while (connection := self._connection) is None:
                    await self._is_connected.wait()
                return await command(connection)
        except _IS_AWAY as exc:
            raise self.unavailable(exc) from exc

    def unavailable(self, failure: Exception) -> StoreUnavailable:
        """The error for a call that Redis did not answer, or cannot serve now."""
        if isinstance(failure, _CANNOT_SERVE):
            return StoreUnavailable(f"Redis cannot serve this now ({failure})")
        reason = self.last_error or f"no answer within {CALL_SECONDS:g} s"
        return StoreUnavailable(f"Redis is away ({reason})")

    async def _put_to_use(self, connection: Connection, reign: str) -> None:
        try:
            await self.appender.attach(connection)
        except (exceptions.RedisError, TimeoutError) as exc:
            connection.fail(f"the applied mark fastimd:applied:*: {cause_of(exc)}")
            return
        self._connection, self.reign = connection, reign
        self._is_connected.set()
        self._reconnecting.connected()
        if self._was_demoted:
            self._was_demoted = False
            self.on_moved()

    def _retire(self, connection: Connection) -> None:
        self._was_demoted |= connection.is_demoted
        self.appender.detach()
        self._connection = None
        if self._is_connected.is_set():  # else somebody waits for it
            self._is_connected = trio.Event()


class ScriptCall:
    """A script that was sent, or will be as soon as there is a connection.

    ``keys`` are those that it touches.
    """

    __slots__ = ("_arguments", "_call", "_client", "_connection", "_script", "keys")

    def __init__(
        self,
        client: Client,
        connection: Connection | None,
        script: Script,
        keys: tuple[Argument, ...],
        arguments: tuple[Argument, ...],
    ) -> None:
        self._client = client
        self._connection = connection
        self._script = script
        self.keys = keys
        self._arguments = arguments
        self._call: Call | None = None
        if connection is not None:
            self._call = connection.send("EVALSHA", script.sha, len(keys), *keys, *arguments)

    async def reply(self) -> Reply:
        """Wait for the reply, once; errors as with ``Client.call``."""
        if self._call is not None:
            try:
                return await self._call.reply()
            except exceptions.NoScriptError:
                pass  # Redis has forgotten it
            except _IS_AWAY as exc:
                raise self._client.unavailable(exc) from exc
        return await self._client.run_anew(
            self._connection, self._script, self.keys, self._arguments
        )
