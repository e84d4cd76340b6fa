"""Listening sockets, TCP and unix, and how many connections the process may have."""

from __future__ import annotations

import resource
import socket
import stat
from pathlib import Path

from ..base.errors import StartupError
from ..base.settings import parse_bind

BACKLOG = 4096
SPARE_FILES = 64
"""Descriptors kept for Redis, logs and listeners when ``max_connections`` is by the file limit."""


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


def _remove_stale(path: Path) -> None:
    if not path.exists() or not stat.S_ISSOCK(path.lstat().st_mode):
        return  # what else is there stays there, and bind says so
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()


def address_of(listener: socket.socket) -> str:
    """The URL of a listener: ``http://HOST:PORT``, or ``unix:PATH``."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def connection_limit(max_connections: int) -> int:
    """``max_connections``, or what the limit of open files leaves; raises the soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max_connections or max(hard - SPARE_FILES, 1)
