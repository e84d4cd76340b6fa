"""Listening sockets, what stands for one, and how many connections a process may have."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from pathlib import Path
from struct import Struct
from typing import TypeAlias

from ..base.errors import StartupError
from ..base.settings import parse_bind

BACKLOG = 4096
MAX_NAME_BYTES = 256
"""Of a client's address, when its connection is handed over."""
SPARE_FILES = 64
"""Descriptors kept for Redis, logs and listeners when ``max_connections`` is by the file limit."""

_ONE = Struct("i")  # descriptor
_SPACE = socket.CMSG_LEN(_ONE.size)
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


class Hatch:
    """Connections that another process has accepted and hands over: it stands for a listener.

    Args:
        channel: a ``SOCK_SEQPACKET`` socket. Each packet is the client's address, and has with it
            the descriptor of one connection.
        address: where they are accepted, as ``address_of`` tells it.
    """

    def __init__(self, channel: socket.socket, address: str) -> None:
        self.channel = channel
        self.address = address
        self.accepted = 0
        """How many have been taken out of it."""

    def fileno(self) -> int:
        """What turns readable when a connection is there."""
        return self.channel.fileno()

    def accept(self) -> tuple[socket.socket, tuple[str, ...]]:
        """The next connection, and its client's address; as ``socket.accept``.

        Raises:
            BlockingIOError: there is none now.
            EOFError: the other process has ended.
        """
        # socket.recv_fds and send_fds drop the flags that they are given.
        try:
            name, passed, _, _ = self.channel.recvmsg(MAX_NAME_BYTES, _SPACE, _FLAGS)
        except ConnectionResetError:  # it ended before it had read all that it was told
            raise EOFError("the process that hands connections over has ended") from None
        if not passed:
            if name:  # the system had no descriptor left, and has closed the connection
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            raise EOFError("the process that hands connections over has ended")
        self.accepted += 1
        return socket.socket(fileno=_ONE.unpack(passed[0][2])[0]), (name.decode(),)

    def close(self) -> None:
        """Take no more; those that wait in it are closed."""
        self.channel.close()


Listener: TypeAlias = socket.socket | Hatch
"""What a door opens on."""


def hand_over(channel: socket.socket, connection: socket.socket, name: str) -> None:
    """Hand a connection to the process that has the ``Hatch`` of a channel; close it afterwards.

    Args:
        name: the client's address.

    Raises:
        BlockingIOError: the other process takes none now.
        OSError: it has ended.
    """
    passed = (socket.SOL_SOCKET, socket.SCM_RIGHTS, _ONE.pack(connection.fileno()))
    channel.sendmsg((name.encode(),), (passed,), socket.MSG_DONTWAIT)


def listen(bind: str, setting: str) -> socket.socket:
    """A listening socket.

    Raises:
        StartupError: the address cannot be bound; the message names ``setting``.
    """
    host, port = parse_bind(bind)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            send_at_once(listener)
            listener.bind(address)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as exc:
        raise StartupError(f"{setting}: cannot listen on {bind}: {exc.strerror or exc}") from exc
    listener.setblocking(False)
    return listener


def listen_unix(path: Path, setting: str) -> socket.socket:
    """A listening unix socket that its owner alone may use; a stale file of one is replaced.

    Raises:
        StartupError: the path is in use, or cannot be bound; the message names ``setting``.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        path.chmod(0o600)  # nobody can connect before it listens
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        reason = exc.strerror or exc
        raise StartupError(f"{setting}: cannot listen on unix:{path}: {reason}") from exc
    listener.setblocking(False)
    return listener


def send_at_once(listener: socket.socket) -> None:
    """Have its connections hold no small packets back (TCP_NODELAY), without a call for each."""
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _remove_stale(path: Path) -> None:
    if not path.exists() or not stat.S_ISSOCK(path.lstat().st_mode):
        return  # what else is there stays there, and bind says so
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()


def address_of(listener: Listener) -> str:
    """The URL of a listener: ``http://HOST:PORT``, or ``unix:PATH``."""
    if isinstance(listener, Hatch):
        return listener.address
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def connection_limit(max_connections: int, processes: int = 1) -> int:
    """How many connections this process may have; raises the soft limit of open files.

    It is an equal share of ``max_connections``, rounded up, or what the limit of open files leaves.
    """
    files = raise_file_limit()
    return -(-max_connections // processes) or max(files - SPARE_FILES, 1)


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, and return that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
