"""The bottom of the Redis wire: where Redis is, and RESP over one Trio stream.

A ``Wire`` writes what its users leave in it during one scheduler turn with one system call, and
reads replies in whatever batches the kernel hands over. Command and pub/sub connections are built
on it; neither knows sockets.
"""

from __future__ import annotations

import copy
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import hiredis
import trio
from redis import exceptions
from redis.connection import parse_url

from ..base.errors import StartupError
from .cause import CERTIFICATE_WANTED, NO_TLS, TLS_WANTED, Unreachable, cause_of
from .tls import ssl_context

Argument: TypeAlias = bytes | str | int | float
Reply: TypeAlias = Any
"""What hiredis makes of a reply: bytes, int, None, a list of these, or an exception instance."""

CONNECT_SECONDS = 5.0
RECEIVE_BYTES = 262_144
LAST_WORDS_SECONDS = 0.2
"""How long is read on from a connection that takes nothing more."""

PROBE_INTERVAL = 3.0
PROBE_TIMEOUT = 5.0
"""Seconds; together less than the ten in which a silent connection must be found out."""


class NotNow(exceptions.ResponseError):
    """Redis cannot do this now: it is out of memory, its disk fails, it is busy with a script…

    The connection is good, and the same command may work later.
    """


USELESS_CONNECTION = (
    exceptions.BusyLoadingError,
    exceptions.MasterDownError,
    exceptions.ReadOnlyError,
)
"""Refusals by which a server says that it is not the one to speak with: connect again."""

_ERRORS: dict[str, type[exceptions.RedisError]] = {
    "BUSY": NotNow,
    "LOADING": exceptions.BusyLoadingError,
    "MASTERDOWN": exceptions.MasterDownError,
    "MISCONF": NotNow,
    "NOAUTH": exceptions.AuthenticationError,
    "NOPERM": exceptions.NoPermissionError,
    "NOREPLICAS": NotNow,
    "NOSCRIPT": exceptions.NoScriptError,
    "OOM": NotNow,
    "READONLY": exceptions.ReadOnlyError,
    "WRONGPASS": exceptions.AuthenticationError,
}
_OF_NO_COMMAND = ("ERR max number of clients reached", "DENIED ")
"""How those refusals begin that concern the connection, whatever is asked."""
# Before the arguments of a command that Redis does not know: a password may be among them.
_ARGUMENTS = ", with args beginning with"
# Redis 6 words what a script's command was refused with like this.
_IN_SCRIPT = re.compile(r"ERR Error running script .*?: -?(?P<message>[A-Z]+ .*)", re.DOTALL)
# Redis 7 says after it in which script, by its digest; Valkey 9 leaves the digest out.
_OF_SCRIPT = re.compile(r" script:( [0-9a-f]{40},)? on @user_script:\d+\.?$")


class _PromptStream(trio.abc.Stream):
    """A socket's stream that spares the scheduler and the kernel what a busy daemon does not need.

    Trio's own tries before it waits to read, and after a write that did not have to wait it lets
    every other task go first.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            descriptor = self._descriptor()
            await trio.lowlevel.wait_readable(descriptor)
            try:
                return os.read(descriptor, max_bytes or RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except OSError as exc:
                raise trio.BrokenResourceError(str(exc)) from exc

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            sent = os.write(self._descriptor(), data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        if sent < len(data):
            await self._stream.send_all(memoryview(data)[sent:])

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def _descriptor(self) -> int:
        descriptor = self._stream.socket.fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError("closed")
        return descriptor


class Wire:
    """RESP over one stream.

    Resource handling: ``run_writer`` must run in a task as long as the wire is used; whoever
    opened the stream closes it with ``aclose``.

    ``reign`` names the time of a server as master, where masters follow each other; else it is "".
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._reader = hiredis.Reader(
            protocolError=exceptions.InvalidResponse, replyError=_reply_error
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


class Server(Protocol):
    """Where Redis is: one server, or the master of several. As a text it is for logs."""

    @property
    def shown_url(self) -> str:
        """The URL without user, password and options of TLS."""

    async def connect(self) -> Wire:
        """Open a connection that is logged in; raises as ``Address.connect`` does."""


class Address:
    """Where Redis is and how to log in to it.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it.

    Raises:
        StartupError: the URL cannot be read, or a certificate or key that it names cannot be used.
    """

    def __init__(self, url: str) -> None:
        try:
            options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        except ValueError as exc:
            raise StartupError(f"redis.url: {exc}") from exc
        self._path: str | None = options.get("path")
        self._host: str = options.get("host", "localhost")
        self._port: int = options.get("port", 6379)
        self._username: str | None = options.get("username")
        self._password: str | None = options.get("password")
        self._database: int = options.get("db", 0)
        self._has_answered = False
        self._ssl = ssl_context(options) if url.startswith("rediss:") else None

    def __str__(self) -> str:
        """The place alone, for logs: never the password."""
        return self._path or f"{self._host}:{self._port}"

    @property
    def shown_url(self) -> str:
        """The URL without user, password and options of TLS."""
        if self._path is not None:
            return f"unix://{self._path}" + (f"?db={self._database}" if self._database else "")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"redis{'s' if self._ssl else ''}://{host}:{self._port}/{self._database}"

    def moved_to(self, host: str, port: int) -> Address:
        """The same login, database and TLS at another place."""
        moved = copy.copy(self)
        moved._host, moved._port = host, port
        return moved

    async def connect(self) -> Wire:
        """Open a connection, log in and select the database.

        Raises:
            OSError: it cannot be reached within ``CONNECT_SECONDS``, or broke.
            redis.exceptions.RedisError: Redis refused the login or the database.
        """
        deadline = trio.current_time() + CONNECT_SECONDS
        stream = await self._open_stream(deadline)
        wire = Wire(stream)
        try:
            with _step(deadline, "no answer", closed=self._why_closed()):
                await wire.ask(*self._opening())
        except BaseException:
            await wire.aclose()
            raise
        self._has_answered = True
        return wire

    async def _open_stream(self, deadline: float) -> trio.abc.Stream:
        with _step(deadline, "the connection was not taken"):
            if self._path is not None:
                return _PromptStream(await trio.open_unix_socket(self._path))
            try:
                stream = await trio.open_tcp_stream(self._host, self._port)
            except (socket.gaierror, UnicodeError) as exc:
                raise Unreachable(f"the host name {self._host}: {cause_of(exc)}") from exc
        if self._ssl is None:
            return _PromptStream(stream)
        encrypted = trio.SSLStream(stream, self._ssl, server_hostname=self._host)
        try:
            late = "" if self._has_answered else NO_TLS
            with _step(deadline, "no TLS handshake", late=late):
                await encrypted.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(encrypted)
            raise
        return encrypted

    def _why_closed(self) -> str:
        """Why a server may hang up before it has ever answered anything."""
        if self._path is not None or self._has_answered:
            return ""
        return TLS_WANTED if self._ssl is None else CERTIFICATE_WANTED

    def _opening(self) -> Iterable[tuple[Argument, ...]]:
        if self._password is not None:
            user = () if self._username is None else (self._username,)
            yield ("AUTH", *user, self._password)
        if self._database:
            yield ("SELECT", self._database)
        yield ("CLIENT", "SETNAME", "fastimd")


def _pack(command: tuple[Argument, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


@contextmanager
def _step(deadline: float, nothing: str, *, late: str = "", closed: str = "") -> Iterator[None]:
    """A step of opening a connection: what goes wrong in it is told in words.

    Args:
        nothing: what did not come when the step is not done in time.
        late: what may be the reason then.
        closed: what may be the reason when the connection breaks.

    Raises:
        Unreachable: the step failed.
    """
    try:
        with trio.fail_at(deadline):
            yield
    except trio.TooSlowError as exc:
        raise Unreachable(_joined(f"{nothing} within {CONNECT_SECONDS:g} s", late)) from exc
    except (OSError, trio.BrokenResourceError) as exc:
        raise Unreachable(_joined(cause_of(exc), closed)) from exc


def _joined(what: str, why: str) -> str:
    return f"{what}; {why}" if why and why not in what else what


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


def _reply_error(message: str) -> exceptions.RedisError:
    in_script = _IN_SCRIPT.match(message)
    if in_script is not None:
        message = in_script["message"]
    message = _OF_SCRIPT.sub("", message.partition(_ARGUMENTS)[0])
    return _ERRORS.get(message.split(" ", 1)[0], exceptions.ResponseError)(message)
