"""The admin address: metrics, health, and the operator's desk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from ..base.metrics import Metrics
from ..base.settings import Config, parse_bind, unix_path
from ..base.supervise import start, supervise
from ..door.door import Door
from ..door.listeners import Listener, address_of, listen, listen_unix
from ..door.receiver import Readiness
from ..http.server import HttpServer, serve_http

ADMIN_CONNECTIONS = 64


async def open_admin(
    config: Config,
    floor: trio.Nursery,
    metrics: Metrics,
    readiness: Readiness,
    create_app: Callable[[Sequence[str]], object],
    inherited: Sequence[Listener],
) -> str:
    """Serve the admin address.

    Args:
        create_app: makes the app from the names that a request may address it by.

    Returns:
        Where it is, or "off".
    """
    bind = config.admin.bind
    if not bind and not inherited:
        return "off"
    path = unix_path(bind) if bind and not inherited else None
    names = [] if not bind or unix_path(bind) is not None else [parse_bind(bind)[0].lower()]
    listeners: Sequence[Listener]
    if path is not None:
        listeners = [listen_unix(path, "admin.bind")]
    else:
        listeners = inherited or [listen(bind, "admin.bind")]
    http = HttpServer(create_app(names))
    await start(floor, "admin http", http.run_lifespan)
    address = address_of(listeners[0])
    door = Door(
        listeners,
        partial(serve_http, http),
        config,
        metrics,
        readiness,
        max_connections=ADMIN_CONNECTIONS,
    )
    floor.start_soon(supervise, "admin door", partial(_accept_admin, door, floor, path))
    return address


async def _accept_admin(door: Door, connections: trio.Nursery, path: Path | None) -> None:
    try:
        await door.accept_connections(connections)
    finally:
        _remove(path)


def _remove(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)
