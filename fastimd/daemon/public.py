"""The public address: sockets of every dialect and the HTTP routes, until a signal asks to stop."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Sequence
from functools import partial

import structlog
import trio

from ..api.server import ApiServer, is_api
from ..api.servers import ApiServers
from ..base import systemd
from ..base.settings import Config
from ..base.supervise import open_floor, supervise
from ..classic.sockets import ClassicSockets
from ..door.door import Door, Handle
from ..door.head import Head, HeadReader
from ..door.listeners import Listener, address_of, connection_limit, listen
from ..groups.domain import Domain
from ..http.server import HttpServer, serve_http
from ..live.sockets import PATH as LIVE_PATH
from ..live.sockets import LiveSockets
from ..live.tokens import Tokens
from ..websocket.session import Sessions, Surroundings
from .drain import drain
from .memory import Memory
from .reload import reload
from .stop import Stop
from .workers.link import Link

log = structlog.get_logger("fastimd.daemon")


async def serve_public(
    around: Surroundings,
    domain: Domain,
    tokens: Tokens,
    http: HttpServer,
    apis: ApiServers,
    stop: Stop,
    admin: str,
    inherited: Sequence[Listener],
    link: Link | None,
) -> None:
    """Serve until a signal asks to stop, then drain.

    Args:
        admin: where the admin address is, for the log.
        inherited: listeners that systemd or the parent has passed on.
        link: to the parent, when this is one of several workers.
    """
    config = around.config
    listeners = inherited or [listen(config.server.bind, "server.bind")]
    workers = 1 if link is None else link.count
    limit = connection_limit(config.server.max_connections, workers)
    async with trio.open_nursery() as connections:
        classic = ClassicSockets(around, domain, connections)
        live = LiveSockets(around, domain, tokens, connections)
        handle = _public_handler(
            classic, live, http, apis.make(_nobody, partial(is_public_api, config)), config
        )
        door = Door(
            listeners,
            handle,
            config,
            around.metrics,
            around.readiness,
            max_connections=limit,
            max_connections_per_ip=config.server.max_connections_per_ip,
        )
        _add_gauges(door, around, domain)
        if link is not None:
            link.connections = lambda: door.connections
        live.start(connections)
        async with open_floor() as accepting:
            accept = partial(door.accept_connections, connections)
            accepting.start_soon(supervise, "door", accept)
            accepting.start_soon(supervise, "memory", Memory(around.metrics).run)
            log.info(
                "daemon.serving",
                page=f"{address_of(listeners[0])}/test/websocket",
                admin=admin,
                max_connections=limit,
            )
            stop.serving.set()
            stop.reload = partial(reload, config, partial(_adopt_limits, config, door, workers))
            systemd.notify("READY=1", f"MAINPID={os.getpid()}")
            await stop.asked.wait()
        systemd.notify("STOPPING=1")
        await drain(door, http, apis, around, domain.visits, at_once=stop.at_once)
        connections.cancel_scope.cancel()


def _public_handler(
    classic: ClassicSockets, live: LiveSockets, http: HttpServer, api: ApiServer, config: Config
) -> Handle:
    """Sockets and calls to those that serve them, anything else to the HTTP app."""

    def handle(connection: socket.socket, reader: HeadReader, head: Head) -> Awaitable[Head | None]:
        if head.wants_websocket:
            path = head.target.partition(b"?")[0]
            sockets = live if path == LIVE_PATH else classic
            return sockets.serve(connection, head, reader.buffer, reader.scope)
        if is_public_api(config, head):
            return api.serve(connection, reader, head)
        return serve_http(http, connection, reader, head)

    return handle


def _nobody(_head: Head) -> bool:
    """On the public address everybody needs a key."""
    return False


def is_public_api(config: Config, head: Head) -> bool:
    """Whether a request on the public address is a call of the server API."""
    return config.api.public and is_api(head)


def _add_gauges(door: Door, around: Surroundings, domain: Domain) -> None:
    metrics, sessions = around.metrics, around.sessions
    metrics.add_gauge("connections", "Open connections.", lambda: door.connections)
    metrics.add_divided_gauge(
        "connections_by_kind",
        "Open connections, by what they are for.",
        "kind",
        partial(_connections_by_kind, door, sessions),
    )
    metrics.add_gauge("sockets", "Open sockets.", lambda: len(sessions))
    metrics.add_gauge(
        "presence_waiting",
        "Connections with a join or leave that no hook was told yet.",
        lambda: domain.visits.waiting,
    )
    metrics.add_gauge("outbox_bytes", "Bytes that wait for clients.", lambda: sessions.queued)


def _adopt_limits(config: Config, door: Door, workers: int) -> None:
    door.adopt_limits(
        config,
        max_connections=connection_limit(config.server.max_connections, workers),
        max_connections_per_ip=config.server.max_connections_per_ip,
    )


def _connections_by_kind(door: Door, sessions: Sessions) -> dict[str, float]:
    return {**sessions.by_kind(), "http": max(0, door.connections - len(sessions))}
