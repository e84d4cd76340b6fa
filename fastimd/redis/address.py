"""Where Redis is, and how a connection to it is opened."""

from __future__ import annotations

import copy
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import trio
from redis import exceptions
from redis.connection import parse_url

from ..base.errors import StartupError
from .cause import CERTIFICATE_WANTED, NO_TLS, TLS_WANTED, Unreachable, cause_of
from .tls import ssl_context
from .wire import CONNECT_SECONDS, RECEIVE_BYTES, Argument, Wire


class Server(Protocol):
    """Where Redis is: one server, or the master of several. As a text it is for logs."""

    @property
    def shown_url(self) -> str:
        """The URL without user, password and options of TLS."""

    async def connect(self) -> Wire:
        """Open a connection that is logged in; raises as ``Address.connect`` does."""


@dataclass
class _Login:
    """A user and a password, the same at every place; ``was_taken`` tells that they were good."""

    username: str | None
    password: str | None
    was_taken: bool = False


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
        self._login = _Login(options.get("username"), options.get("password"))
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

    @property
    def host(self) -> str:
        """Of its server."""
        return self._host

    def moved_to(self, host: str, port: int) -> Address:
        """The same login, database and TLS at another place."""
        moved = copy.copy(self)
        moved._host, moved._port = host, port
        return moved

    async def connect(self) -> Wire:
        """Open a connection, log in and select the database.

        Raises:
            OSError: it cannot be reached within ``CONNECT_SECONDS``, or broke.
            redis.exceptions.RedisError: Redis refused the login or the database;
                ``AuthenticationError`` if nobody has ever taken the login, there or elsewhere.
        """
        deadline = trio.current_time() + CONNECT_SECONDS
        stream = await self._open_stream(deadline)
        wire = Wire(stream)
        try:
            with _step(deadline, "no answer", closed=self._why_closed()):
                await wire.ask(*self._opening())
        except BaseException as exc:
            await wire.aclose()
            if isinstance(exc, exceptions.AuthenticationError) and self._login.was_taken:
                raise exceptions.ConnectionError(str(exc)) from exc  # to be mended over there
            raise
        self._has_answered = self._login.was_taken = True
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
        if self._login.password is not None:
            user = () if self._login.username is None else (self._login.username,)
            yield ("AUTH", *user, self._login.password)
        if self._database:
            yield ("SELECT", self._database)
        yield ("CLIENT", "SETNAME", "fastimd")


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
