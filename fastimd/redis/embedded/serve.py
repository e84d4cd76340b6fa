"""All lives of the server, one after the other, on one data directory.

Whenever it has ended it is started again, after a pause that grows while its lives are short, until
that is in vain.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Never

import structlog
import trio
from redis.backoff import ExponentialWithJitterBackoff
from structlog.typing import FilteringBoundLogger

from ...base.errors import StartupError, StoreUnavailable
from .child import Life, live
from .command import server_command
from .executable import choose_server, find_servers
from .lock import find_socket_path, hold_data_dir

STEADY_SECONDS = 10.0
"""A server that lived this long was well: the pause before its restart is short again."""

MAX_FAILED_STARTS = 5
"""Restarts in a row without one answer, after which the daemon ends."""

_BACKOFF_BASE = 0.1
_BACKOFF_CAP = 2.0

log: FilteringBoundLogger = structlog.get_logger("fastimd.redis")


async def _keep_alive(name: str, next_life: Callable[[], Awaitable[Life]]) -> Never:
    """Start a server, which messages call by its name, whenever the last one has ended.

    Raises:
        StartupError: the very first one never answered.
        StoreUnavailable: ``MAX_FAILED_STARTS`` later ones in a row never answered.
    """
    backoff = ExponentialWithJitterBackoff(cap=_BACKOFF_CAP, base=_BACKOFF_BASE)
    ever_answered = False
    failed_starts = short_lives = 0
    while True:
        life = await next_life()
        log.error("redis.ended", reason=life.reason, last_lines=life.lines)
        ever_answered = ever_answered or life.answered
        if not ever_answered:
            raise StartupError(f"{name} did not start: {life.reason}")
        failed_starts = 0 if life.answered else failed_starts + 1
        if failed_starts >= MAX_FAILED_STARTS:
            raise StoreUnavailable(
                f"{name} failed to start {failed_starts} times in a row: {life.reason}"
            )
        short_lives = 0 if life.seconds >= STEADY_SECONDS else short_lives + 1
        await trio.sleep(backoff.compute(short_lives))


async def serve_embedded(
    data_dir: Path,
    *,
    executable: Path | None = None,
    task_status: trio.TaskStatus[Path] = trio.TASK_STATUS_IGNORED,
) -> Never:
    """Run a private Redis server on ``data_dir`` until cancelled: ``await nursery.start(...)``.

    Reports the path of its unix socket, which stays the same, once the server answers there with
    its data loaded. A server that ends by itself is logged and started again; clients are expected
    to connect again, and may be told ``LOADING`` for a while.

    Resource handling: when this returns, by cancellation or error, the server has ended (it got
    ``STOP_SECONDS`` to flush its data) and the data directory is free. When the daemon dies without
    a chance to clean up, Linux sends the server SIGTERM.

    Args:
        data_dir: where the append-only file, the socket and the lock lie; created if missing.
        executable: a redis-server from 6.2 on, or a valkey-server; None means the preferred one
            of this machine that can read the data.

    Raises:
        StartupError: there is no server, or none that can read the data; the directory cannot be
            used or is in use; or the server does not start, and the message holds its own reason.
        StoreUnavailable: it ended later and could not be started again.
    """
    socket_path = find_socket_path(data_dir)
    data_dir = socket_path.parent
    servers = find_servers() if executable is None else [executable]
    started = False

    def announce() -> None:
        nonlocal started
        log.info("redis.ready", executable=str(server), data_dir=str(data_dir))
        if not started:
            started = True
            task_status.started(socket_path)

    async with hold_data_dir(data_dir) as lock:
        server = await choose_server(servers, data_dir)
        command = server_command(server, data_dir, socket_path)
        await _keep_alive(server.name, lambda: live(command, lock, socket_path, announce))
