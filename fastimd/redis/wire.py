"""The bottom of the Redis wire: RESP over one Trio stream.

A ``Wire`` writes what its users leave in it during one scheduler turn with one system call, and
reads replies in whatever batches the kernel hands over. Command and pub/sub connections are built
on it; neither knows sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import hiredis
import trio
from redis import exceptions

from .cause import cause_of
from .replies import Reply, reply_error

Argument: TypeAlias = bytes | str | int | float

CONNECT_SECONDS = 5.0
RECEIVE_BYTES = 262_144
LAST_WORDS_SECONDS = 0.2
"""How long is read on from a connection that takes nothing more."""

PROBE_INTERVAL = 3.0
PROBE_TIMEOUT = 5.0
"""Seconds; together less than the ten in which a silent connection must be found out."""


_OF_NO_COMMAND = ("ERR max number of clients reached", "DENIED ")
"""How those refusals begin that concern the connection, whatever is asked."""


class Wire:
    """RESP over one stream.

    Resource handling: ``run_writer`` must run in a task as long as the wire is used; whoever
    opened the stream closes it with ``aclose``.

    ``reign`` names the time of a server as master, where masters follow each other; else it is "".
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._reader = hiredis.Reader(
            protocolError=exceptions.InvalidResponse, replyError=reply_error
        )
        self._unsent: list[bytes | Callable[[], tuple[Argument, ...]]] = []
        self._unsent_added = trio.Event()
        self._reads = 0
        self.reign = ""

    def write(self, *command: Argument) -> None:
        """Leave a command to be written in this scheduler turn."""
        self._unsent.append(_pack(command))
        self._unsent_added.set()

    def write_many(self, commands: Iterable[tuple[Argument, ...]]) -> None:
        """Leave commands to be written in this scheduler turn."""
        self._unsent.append(b"".join([_pack(command) for command in commands]))
        self._unsent_added.set()

    def write_later(self, make_command: Callable[[], tuple[Argument, ...]]) -> None:
        """Leave the place of a command that is made when the turn's commands are written."""
        self._unsent.append(make_command)
        self._unsent_added.set()

    async def run_writer(self) -> None:
        """Write what is left in the wire, until cancelled.

        Raises:
            trio.BrokenResourceError: the connection is gone.
        """
        while True:
            await self._unsent_added.wait()
            self._unsent_added = trio.Event()
            unsent, self._unsent = self._unsent, []
            packed = [each if isinstance(each, bytes) else _pack(each()) for each in unsent]
            try:
                await self._stream.send_all(b"".join(packed))
            except trio.BrokenResourceError:
                # What Redis said before it ended is still to be read; the reader meets the end.
                await trio.sleep(LAST_WORDS_SECONDS)
                raise

    async def read(self) -> list[Reply]:
        """Wait for replies and return all that have come.

        Raises:
            trio.BrokenResourceError: the connection is gone.
            redis.exceptions.InvalidResponse: what comes is not RESP.
        """
        replies: list[Reply] = []
        while not replies:
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if not data:
                raise trio.BrokenResourceError("closed by Redis")
            self._reads += 1
            self._reader.feed(bytes(data))
            while (reply := self._reader.gets()) is not False:
                replies.append(reply)
        return replies

    async def probe(self, ping: Callable[[], None]) -> None:
        """Let ``ping`` send a PING now and then, until Redis says nothing at all any more.

        Raises:
            trio.BrokenResourceError: Redis was silent for ``PROBE_TIMEOUT`` after a PING.
        """
        while True:
            await trio.sleep(PROBE_INTERVAL)
            asked_at, reads = trio.current_time(), self._reads
            ping()
            while self._reads == reads:
                if trio.current_time() - asked_at > PROBE_TIMEOUT:
                    raise trio.BrokenResourceError(f"no answer to PING for {PROBE_TIMEOUT:g} s")
                await trio.sleep(PROBE_TIMEOUT / 20)

    async def ask(self, *commands: tuple[Argument, ...]) -> list[Reply]:
        """Send commands and wait for their replies, before the wire is put to use.

        Raises:
            OSError: the connection broke, or was silent for ``CONNECT_SECONDS``.
            redis.exceptions.ResponseError: Redis refused one of them; the text names the command.
            redis.exceptions.InvalidResponse: what comes is not RESP.
        """
        replies: list[Reply] = []
        try:
            with trio.fail_after(CONNECT_SECONDS):
                await self._ask(commands, replies)
        except trio.TooSlowError as exc:
            raise TimeoutError(f"no answer within {CONNECT_SECONDS:g} s") from exc
        except trio.BrokenResourceError as exc:
            _raise_refusal(commands, replies)  # a server that turns us away says why, and hangs up
            raise ConnectionError(cause_of(exc)) from exc
        _raise_refusal(commands, replies)
        return replies

    async def _ask(self, commands: tuple[tuple[Argument, ...], ...], replies: list[Reply]) -> None:
        try:
            await self._stream.send_all(b"".join(_pack(command) for command in commands))
        except trio.BrokenResourceError:
            replies += await self.read()  # what it said before it hung up
            raise
        while len(replies) < len(commands):
            replies += await self.read()

    async def aclose(self) -> None:
        """Close the stream at once."""
        await trio.aclose_forcefully(self._stream)


def _pack(command: tuple[Argument, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


def _raise_refusal(commands: tuple[tuple[Argument, ...], ...], replies: list[Reply]) -> None:
    """Raise the first refusal among replies, with the command that it concerns."""
    for command, reply in zip(commands, replies, strict=False):
        if not isinstance(reply, Exception):
            continue
        is_plain = type(reply) in (exceptions.ResponseError, exceptions.NoPermissionError)
        if not is_plain or str(reply).startswith(_OF_NO_COMMAND):
            raise reply
        # Of AUTH nothing but its name: a password follows.
        shown = command[: 1 if command[0] == "AUTH" else 2]
        raise type(reply)(f"{' '.join(map(str, shown))}: {reply}") from reply
