"""Commands to a cluster: each goes to the master of its key's slot, over one connection a master.

To the rooms above this is a ``Client``. A script lies where its first key does; its other keys get
the tag of that slot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

import structlog
import trio
from redis import exceptions

from ...base.errors import StoreUnavailable
from ...base.metrics import Metrics
from ...base.settings import Config
from ..clock import RedisClock
from ..connection import Call, Connection
from ..keeping import CALL_SECONDS
from ..replies import USELESS_CONNECTION, InTransit, NotNow, Redirected, Reply
from ..scripts import Script
from ..wire import Argument
from .lanes import Lanes
from .masters import Masters
from .seeds import Seeds
from .slots import slot_of, tag_of

RETRY_SECONDS = 0.02
"""Before a command is sent again that its master cannot take now, or that is moved once more."""

# Replies after which a command is sent over another connection, and all that are no replies yet.
_CONNECT_AGAIN = (exceptions.ConnectionError, *USELESS_CONNECTION)
_NOT_HERE = (TimeoutError, NotNow, *_CONNECT_AGAIN)

log = structlog.get_logger("fastimd.redis")


class ClusterClient:
    """Commands to a cluster from any task; error handling as with ``Client``."""

    def __init__(self, seeds: Seeds, config: Config, metrics: Metrics, clock: RedisClock) -> None:
        self.address = seeds
        self.clock = clock
        self.masters = Masters(seeds, clock, metrics)
        self.appender = Lanes(config, metrics, clock, self.masters)

    @property
    def last_error(self) -> str | None:
        """Why Redis does not take all messages; None while it does."""
        return self.masters.last_error or self.appender.refusal

    @property
    def outage(self) -> str | None:
        """Why nothing can be done; None while one master can be spoken with."""
        return None if self.count_masters()["up"] else self.last_error

    async def wait_connected(self) -> None:
        """Wait until commands for every slot can be sent."""
        while self.masters.last_error is not None:
            await self.masters.wait_change()

    async def run(self) -> None:
        """Keep the connections up until cancelled.

        Raises:
            StartupError: a node refuses the login.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.appender.run)
            nursery.start_soon(self.masters.run)

    def reign_of(self, key: str) -> str:
        """A name of the time of the master that has a key, as master."""
        node = self.masters.of_slot(slot_of(key))
        return "" if node is None else node.reign

    def count_masters(self) -> dict[str, float]:
        """How many masters can be spoken with, and how many cannot."""
        up = sum(node.connection is not None for node in self.masters.nodes)
        return {"up": up, "down": len(self.masters.nodes) - up}

    def connection_of(self, key: str) -> Connection | None:
        """Over which a key is asked about now; None while its master cannot be spoken with."""
        return self.masters.connection_of(slot_of(key))

    async def count_listeners(self, channel: str, told: int) -> int:
        """How many listen to a channel at any master: the one that tells it knows its own."""
        counts = []
        for node in self.masters.nodes:
            if node.connection is not None:
                with suppress(exceptions.RedisError, TimeoutError):
                    reply = await node.connection.call("PUBSUB", "NUMSUB", channel)
                    counts.append(int(reply[1]))
        return max(told, sum(counts))

    def channel_beside(self, key: str, channel: str) -> str | None:
        """The channel that lies where a key does."""
        return tag_of(slot_of(key)) + channel

    # Commands

    async def call(self, *command: Argument) -> Reply:
        """Send a command whose first argument is its key, and return its reply."""
        return await self._attempt(
            slot_of(command[1]), lambda connection: connection.call(*command), command
        )

    async def call_many(self, commands: Sequence[tuple[Argument, ...]]) -> list[Reply]:
        """Send commands together; no master holds up what others answer, or makes it fail.

        Returns:
            The reply to each, in order, or Redis's refusal of it, a ``ResponseError`` instance. Or
            a ``StoreUnavailable`` instance, where its master could not be reached within
            ``CALL_SECONDS``, does not answer, or cannot serve it now.
        """
        replies: list[Reply] = [None] * len(commands)
        deadline = trio.current_time() + CALL_SECONDS
        left = await self._ask_masters(commands, range(len(commands)), replies)
        while left and trio.current_time() < deadline:
            slots = [slot_of(commands[number][1]) for number in left]
            with trio.move_on_at(deadline):
                if any(map(self.masters.connection_of, slots)):
                    await trio.sleep(RETRY_SECONDS)
                else:
                    await self.masters.wait_change()
            left = await self._ask_masters(commands, left, replies)
        for number in left:
            replies[number] = self.unavailable(replies[number])
        return replies

    async def _ask_masters(
        self, commands: Sequence[tuple[Argument, ...]], numbers: Iterable[int], replies: list[Reply]
    ) -> list[int]:
        """Ask each master what is its own; returns the numbers of what is to be asked again."""
        by_connection: dict[Connection | None, list[int]] = {}
        for number in numbers:
            connection = self.masters.connection_of(slot_of(commands[number][1]))
            by_connection.setdefault(connection, []).append(number)
        again = by_connection.pop(None, [])
        not_here: list[int] = []

        async def ask(connection: Connection, numbers: list[int]) -> None:
            try:
                found = await connection.call_many([commands[number] for number in numbers])
            except (exceptions.ConnectionError, TimeoutError) as exc:
                found = [exc] * len(numbers)
            for number, reply in zip(numbers, found, strict=True):
                replies[number] = reply
                if isinstance(reply, _NOT_HERE):
                    not_here.append(number)

        async def follow(number: int) -> None:
            replies[number] = await self._follow(replies[number], commands[number])
            if isinstance(replies[number], InTransit):
                again.append(number)

        async with trio.open_nursery() as nursery:
            for connection, its in by_connection.items():
                assert connection is not None
                nursery.start_soon(ask, connection, its)
        async with trio.open_nursery() as nursery:
            for number in not_here:
                if isinstance(replies[number], InTransit):
                    nursery.start_soon(follow, number)
                elif isinstance(replies[number], _CONNECT_AGAIN):
                    again.append(number)
                else:
                    replies[number] = self.unavailable(replies[number])
        return again

    def send_script(
        self, script: Script, keys: tuple[Argument, ...], *arguments: Argument
    ) -> ClusterCall:
        """Send a script now, if there is a connection; its reply is waited for later."""
        return ClusterCall(self, script.sharded, keys, arguments)

    async def run_anew(
        self, slot: int, script: Script, keys: tuple[Argument, ...], arguments: tuple[Argument, ...]
    ) -> Reply:
        """Run a script wherever its slot is by now."""
        command = ("EVALSHA", script.sha, len(keys), *keys, *arguments)
        return await self._attempt(
            slot, lambda connection: connection.run_script(script, keys, *arguments), command
        )

    async def _attempt(
        self,
        slot: int,
        send: Callable[[Connection], Awaitable[Reply]],
        command: tuple[Argument, ...],
    ) -> Reply:
        """Send something to the master of a slot, and follow where that says it is."""
        failure: Exception | None = None
        deadline = trio.current_time() + CALL_SECONDS
        while trio.current_time() < deadline:
            connection = self.masters.connection_of(slot)
            if connection is None:
                with trio.move_on_at(deadline):
                    await self.masters.wait_change()
                continue
            try:
                return await send(connection)
            except InTransit as exc:
                reply = await self._follow(exc, command)
                if not isinstance(reply, Exception):
                    return reply
                if isinstance(reply, InTransit):
                    failure = reply
                elif isinstance(reply, _NOT_HERE):
                    raise self.unavailable(reply) from exc
                else:
                    raise reply from exc
            except NotNow as exc:
                raise self.unavailable(exc) from exc
            except (exceptions.ConnectionError, exceptions.ReadOnlyError, TimeoutError) as exc:
                raise self.unavailable(exc) from exc
            await trio.sleep(RETRY_SECONDS)
        raise self.unavailable(failure)

    async def _follow(self, refusal: InTransit, command: tuple[Argument, ...]) -> Reply:
        """Ask the master that a slot is on its way to; else the refusal: ask again, soon."""
        if not isinstance(refusal, Redirected):
            return refusal
        if refusal.is_moved:
            self.masters.note_moved(refusal)
            return refusal
        connection = self.masters.at(refusal).connection
        if connection is not None:
            with suppress(exceptions.ConnectionError, TimeoutError):
                _, reply = await connection.call_many([("ASKING",), command])
                return reply
        return refusal

    def unavailable(self, failure: Exception | None) -> StoreUnavailable:
        """The error for a call that Redis did not answer, or cannot serve now."""
        if failure is not None and not isinstance(failure, TimeoutError):
            return StoreUnavailable(f"Redis cannot serve this now ({failure})")
        reason = self.last_error or f"no answer within {CALL_SECONDS:g} s"
        return StoreUnavailable(f"Redis is away ({reason})")


class ClusterCall:
    """A script that was sent, or will be as soon as there is a connection; as ``ScriptCall``."""

    __slots__ = ("_arguments", "_call", "_cluster", "_script", "_slot", "_tagged", "keys")

    def __init__(
        self,
        cluster: ClusterClient,
        script: Script,
        keys: tuple[Argument, ...],
        arguments: tuple[Argument, ...],
    ) -> None:
        self.keys = keys
        self._cluster = cluster
        self._script = script
        self._arguments = arguments
        first, *others = map(str, keys)
        self._slot = slot_of(first)
        tag = tag_of(self._slot) if others else ""
        self._tagged = (first, *(tag + key for key in others))
        connection = cluster.masters.connection_of(self._slot)
        self._call: Call | None = None
        if connection is not None:
            self._call = connection.send(
                "EVALSHA", script.sha, len(keys), *self._tagged, *arguments
            )

    async def reply(self) -> Reply:
        """Wait for the reply, once; errors as with ``ClusterClient.call``."""
        if self._call is not None:
            try:
                return await self._call.reply()
            except (exceptions.NoScriptError, NotNow):
                pass
            except (exceptions.ConnectionError, exceptions.ReadOnlyError, TimeoutError) as exc:
                raise self._cluster.unavailable(exc) from exc
        return await self._cluster.run_anew(self._slot, self._script, self._tagged, self._arguments)
