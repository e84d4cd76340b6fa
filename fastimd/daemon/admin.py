"""The admin address: metrics, health, the operator's desk, and the server API."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import trio

from ..api.server import ApiServer, is_api
from ..base.metrics import Metrics
from ..base.settings import Config, parse_bind, unix_path
from ..base.supervise import start, supervise
from ..door.door import Door, Handle
from ..door.head import Head, HeadReader
from ..door.listeners import Listener, address_of, listen, listen_unix
from ..door.receiver import Readiness
from ..http.admin import is_trusted_host
from ..http.forms import COMMAND_HEADER
from ..http.server import HttpServer, serve_http

ADMIN_CONNECTIONS = 1024
"""What a backend's connections need, beside those of operators."""


async def open_admin(
    config: Config,
    floor: trio.Nursery,
    metrics: Metrics,
    readiness: Readiness,
    create_app: Callable[[Sequence[str], bool], object],
    inherited: Sequence[Listener],
    make_api: Callable[[Callable[[Head], bool]], ApiServer] | None = None,
) -> str:
    """Serve the admin address.

    Args:
        create_app: makes the app from the names that a request may address it by, and whether only
            this machine can reach it.
        make_api: makes the server API, from whether a request without a key is an operator's; None
            if the app has it.

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
    api = None if make_api is None else make_api(partial(_trusts, listeners[0], names))
    app = create_app(names, _is_local(listeners[0]))
    http = HttpServer(app, is_api if api is not None else _never)
    await start(floor, "admin http", http.run_lifespan)
    address = address_of(listeners[0])
    door = Door(
        listeners,
        _handler(http, api),
        config,
        metrics,
        readiness,
        max_connections=ADMIN_CONNECTIONS,
    )
    floor.start_soon(supervise, "admin door", partial(_accept_admin, door, floor, path))
    return address


def _handler(http: HttpServer, api: ApiServer | None) -> Handle:
    def handle(connection: socket.socket, reader: HeadReader, head: Head) -> Awaitable[Head | None]:
        if api is not None and is_api(head):
            return api.serve(connection, reader, head)
        return serve_http(http, connection, reader, head)

    return handle


def _trusts(listener: Listener, names: Collection[str], head: Head) -> bool:
    """Whether a request is an operator's: from this machine, and from no web page.

    As for the desk, it has a header that a page can set only if it is allowed to, and names the
    address by a number or one of its names.
    """
    host = head.fields.get(b"host", b"").decode("latin-1")
    return (
        _is_local(listener)
        and COMMAND_HEADER.lower().encode() in head.fields
        and is_trusted_host(host, ("localhost", *names))
    )


def _is_local(listener: Listener) -> bool:
    """Whether only this machine can reach a listener."""
    if not isinstance(listener, socket.socket):
        return False
    name = listener.getsockname()
    return not isinstance(name, tuple) or ip_address(name[0]).is_loopback


def _never(_head: Head) -> bool:
    return False


async def _accept_admin(door: Door, connections: trio.Nursery, path: Path | None) -> None:
    try:
        await door.accept_connections(connections)
    finally:
        _remove(path)


def _remove(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)
