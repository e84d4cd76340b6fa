"""The data directory, which one daemon and its server hold at a time.

The lock is an flock on ``<data_dir>/fastimd.lock``. The server inherits its descriptor, so the
kernel holds the lock as long as either process lives, and a new daemon waits for an orphan to end.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ...base.errors import StartupError

MAX_SOCKET_PATH = 107
"""Bytes in the path of a unix socket on Linux: ``sun_path`` without its final zero (unix(7))."""

ORPHAN_SECONDS = 10.0
"""How long to wait for the server of a killed daemon to end and free the data directory."""

_LOCK_INTERVAL = 0.1


def find_socket_path(data_dir: Path) -> Path:
    """The absolute path of the socket in ``data_dir``, if the system can bind so long a one."""
    path = data_dir.absolute() / "redis.sock"
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise StartupError(
            f"the path of the unix socket {path} has {length} bytes, and the system allows "
            f"{MAX_SOCKET_PATH}: set redis.data_dir to a shorter path"
        )
    return path


def _open_lock(data_dir: Path) -> int:
    """Create the data directory (0700, its parents too) and open the lock file in it."""
    try:
        for folder in reversed([data_dir, *data_dir.parents]):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
        return os.open(data_dir / "fastimd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartupError(
            f"data_dir {data_dir} cannot be used ({error.strerror}: {error.filename}): "
            "set redis.data_dir to a directory that can be written"
        ) from error


def _try_lock(lock: int, data_dir: Path) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StartupError(f"data_dir {data_dir} cannot be locked ({error.strerror})") from error
    return True


def _read_holder(lock: int) -> int | None:
    """The pid in the lock file, or None while its holder has not written it yet."""
    text = os.pread(lock, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _write_holder(lock: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's, and so it is
    return True


async def _wait_lock(lock: int, data_dir: Path) -> None:
    """Take the lock, waiting only for the server of a daemon that is gone.

    Raises:
        StartupError: a living daemon holds it, or the orphan does not end.
    """
    deadline = trio.current_time() + ORPHAN_SECONDS
    while not _try_lock(lock, data_dir):
        holder = _read_holder(lock)
        if holder is not None and _is_alive(holder):
            raise StartupError(f"data_dir {data_dir} is in use by another fastimd (pid {holder})")
        if trio.current_time() >= deadline:
            raise StartupError(
                f"data_dir {data_dir} is still held by the redis-server of a fastimd that is gone "
                f"(pid {holder}): end that redis-server"
            )
        await trio.sleep(_LOCK_INTERVAL)


@asynccontextmanager
async def hold_data_dir(data_dir: Path) -> AsyncIterator[int]:
    """Make the directory if it is missing and hold its lock, whose descriptor this gives.

    Raises:
        StartupError: it cannot be used, or somebody else has it.
    """
    lock = _open_lock(data_dir)
    try:
        await _wait_lock(lock, data_dir)
        _write_holder(lock)
        yield lock
    finally:
        os.close(lock)
