"""The daemon's tree of nurseries: floors open upward and drain downward.

Every task below is supervised: one that crashes ends the daemon, and the log says which and why.
The crash of a single connection stays behind the door.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import structlog
import trio

from .. import __version__
from ..base import log as logs
from ..base import systemd
from ..base.errors import StartupError
from ..base.metrics import Metrics
from ..base.settings import Config, default_data_dir, parse_bind, unix_path
from ..base.supervise import open_floor, start, supervise
from ..door.door import (
    Door,
    address_of,
    admin_handler,
    connection_limit,
    listen,
    listen_unix,
    public_handler,
)
from ..groups.access import Access
from ..groups.hub import Hub
from ..groups.kicks import Kicks
from ..groups.poller import Poller
from ..groups.relay import Relay
from ..groups.store import Store
from ..hooks.presence import Presence
from ..hooks.runner import HookRunner, open_hooks
from ..http.admin import create_admin_app
from ..http.app import create_app
from ..http.desk import Desk
from ..http.server import HttpServer
from ..redis.appender import Appender
from ..redis.client import Client
from ..redis.clock import RedisClock
from ..redis.embedded import serve_embedded
from ..redis.wire import Address
from ..websocket.keepalive import Keepalive
from ..websocket.receiver import Readiness
from ..websocket.session import Sessions, Surroundings
from ..websocket.turnstile import Turnstile
from .drain import drain
from .reload import reload

SOCKETS_A_TURN = 64
"""How many sockets open or end in one turn of the scheduler."""
ADMIN_CONNECTIONS = 64
LAST_SECONDS = 1.0
"""How long Redis may still take to answer appends, and hooks to hear, when everybody has gone."""

log = structlog.get_logger("fastimd.daemon")


class _Stop:
    """The first signal drains the daemon once it serves, and ends it before; so does a second.

    ``at_once`` says that a person at a terminal waits: no need to spread the sockets.
    """

    def __init__(self, everything: trio.CancelScope) -> None:
        self._everything = everything
        self.serving = trio.Event()
        self.reload: Callable[[], None] = _nothing_to_reload
        self.at_once = False
        self.asked = trio.Event()

    async def wait_signals(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            log.info("daemon.signal", signal=signal.Signals(number).name)
            if number == signal.SIGHUP:
                if not self.asked.is_set():
                    self.reload()
                continue
            if not self.serving.is_set() or self.asked.is_set():
                self._everything.cancel()
            self.at_once = number == signal.SIGINT
            self.asked.set()


async def serve(config: Config) -> None:
    """Run the daemon until SIGTERM or SIGINT, then drain.

    Raises:
        StartupError: it cannot start.
        TaskCrashed: one of its tasks crashed; the log line says why.
    """
    log.info("daemon.starting", version=__version__, config=config.source, pid=os.getpid())
    inherited = _by_known_names(systemd.take_listeners(os.environ))
    metrics = Metrics()
    async with open_hooks(config, metrics) as hooks:
        _warn_of_open_login(config, hooks)
        await _serve_floors(config, inherited, hooks, metrics)


async def _serve_floors(
    config: Config,
    inherited: dict[str, list[socket.socket]],
    hooks: HookRunner,
    metrics: Metrics,
) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        # What the receiver falls back to: one more at the very end must not change the status.
        signal.signal(number, signal.SIG_IGN)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with open_floor() as redis_floor:
            stop = _Stop(redis_floor.cancel_scope)
            redis_floor.start_soon(supervise, "signals", stop.wait_signals, signals)
            redis_floor.start_soon(supervise, "log", logs.keep_telling)
            redis_floor.start_soon(supervise, "event loop", metrics.watch_event_loop)
            address = await _redis_address(config, redis_floor)
            clock = RedisClock()
            appender = Appender(config, metrics, clock)
            client = Client(address, appender, clock, metrics)
            redis_floor.start_soon(supervise, "redis", client.run)
            store = Store(client, config, metrics)
            async with open_floor() as relay_floor:
                kicks = Kicks(store)
                relay, hub, poller = _build_hub(config, client, store, kicks, metrics)
                appender.heard, appender.hear_out = relay.newest_of, relay.hear_out
                sessions = Sessions()
                poller.on_kick = kicks.on_kick = sessions.kick
                relay_floor.start_soon(supervise, "relay", relay.run)
                relay_floor.start_soon(supervise, "poller", poller.run)
                relay_floor.start_soon(supervise, "kicks", kicks.run)
                if systemd.is_listening():
                    tell = partial(_state, stop, client, relay, hub, sessions, metrics)
                    relay_floor.start_soon(
                        supervise, "systemd", systemd.keep_told, tell, stop.serving
                    )
                ready = partial(_reasons_not_ready, client, relay, stop)
                desk = Desk(config, store, hub, client, relay, metrics, sessions, ready)
                admin = await _open_admin(config, relay_floor, metrics, desk, inherited["admin"])
                await client.wait_connected()
                await relay.wait_connected()
                keepalive = Keepalive(config)
                readiness = Readiness()
                turnstile = Turnstile(SOCKETS_A_TURN)
                access = Access(config, store, hooks)
                presence = Presence(hooks, config, metrics)
                around = Surroundings(
                    config,
                    store,
                    access,
                    hooks,
                    presence,
                    hub,
                    poller,
                    metrics,
                    keepalive,
                    readiness,
                    turnstile,
                    sessions,
                )
                http = HttpServer(create_app(config, store, access, hooks, metrics))
                with readiness:
                    async with open_floor() as front_floor:
                        front_floor.start_soon(supervise, "keepalive", keepalive.run)
                        front_floor.start_soon(supervise, "readiness", readiness.run)
                        front_floor.start_soon(supervise, "turnstile", turnstile.run)
                        front_floor.start_soon(supervise, "presence", presence.run)
                        await start(front_floor, "http", http.run_lifespan)
                        await _serve_public(config, around, http, stop, admin, inherited["http"])
                        with trio.move_on_after(LAST_SECONDS):
                            await client.appender.wait_all_answered()
                            await presence.wait_all_told()
                        if presence.waiting:
                            log.warning("daemon.presence_untold", connections=presence.waiting)
                        if client.appender.unanswered:
                            log.warning("daemon.unanswered", messages=client.appender.unanswered)
    logs.tell_left_out()
    log.info("daemon.stopped")


async def _serve_public(
    config: Config,
    around: Surroundings,
    http: HttpServer,
    stop: _Stop,
    admin: str,
    inherited: list[socket.socket],
) -> None:
    listeners = inherited or [listen(config.server.bind, "server.bind")]
    limit = connection_limit(config.server.max_connections)
    async with trio.open_nursery() as connections:
        handle = public_handler(around, http, connections)
        door = Door(
            listeners,
            handle,
            config,
            around.metrics,
            max_connections=limit,
            max_connections_per_ip=config.server.max_connections_per_ip,
        )
        around.metrics.add_gauge("connections", "Open connections.", lambda: door.connections)
        around.metrics.add_divided_gauge(
            "connections_by_kind",
            "Open connections, by what they are for.",
            "kind",
            partial(_connections_by_kind, door, around.sessions),
        )
        around.metrics.add_gauge("sockets", "Open sockets.", lambda: len(around.sessions))
        around.metrics.add_gauge(
            "presence_waiting",
            "Connections with a join or leave that no hook was told yet.",
            lambda: around.presence.waiting,
        )
        around.metrics.add_gauge(
            "outbox_bytes", "Bytes that wait for clients.", lambda: around.sessions.queued
        )
        async with open_floor() as accepting:
            accept = partial(door.accept_connections, connections)
            accepting.start_soon(supervise, "door", accept)
            log.info(
                "daemon.serving",
                page=f"{address_of(listeners[0])}/test/websocket",
                admin=admin,
                max_connections=limit,
            )
            _settle_memory()
            stop.serving.set()
            stop.reload = partial(reload, config, partial(_adopt_limits, config, door))
            systemd.notify("READY=1", f"MAINPID={os.getpid()}")
            await stop.asked.wait()
        systemd.notify("STOPPING=1")
        await drain(config.server.drain_seconds, around, http, door, at_once=stop.at_once)
        connections.cancel_scope.cancel()


def _by_known_names(
    inherited: dict[str, list[socket.socket]],
) -> dict[str, list[socket.socket]]:
    """What systemd has passed on for each address; a single socket of any name is the public one.

    Raises:
        StartupError: there is a name that means nothing here.
    """
    listeners: dict[str, list[socket.socket]] = {"http": [], "admin": []}
    unknown = sorted(inherited.keys() - listeners.keys())
    if unknown and len(inherited) == 1:
        return listeners | {"http": inherited[unknown[0]]}
    if unknown:
        raise StartupError(
            f"systemd passes on a socket named {unknown[0]!r}; FileDescriptorName= is http or admin"
        )
    return listeners | inherited


def _state(
    stop: _Stop, client: Client, relay: Relay, hub: Hub, sessions: Sessions, metrics: Metrics
) -> systemd.State:
    sockets = f"{len(sessions):,} sockets in {hub.groups:,} groups"
    reasons = _reasons_not_ready(client, relay, stop)
    return systemd.State(
        f"{', '.join(reasons)}; {sockets}" if reasons else sockets, metrics.messages_received
    )


def _adopt_limits(config: Config, door: Door) -> None:
    door.adopt_limits(
        config,
        max_connections=connection_limit(config.server.max_connections),
        max_connections_per_ip=config.server.max_connections_per_ip,
    )


def _nothing_to_reload() -> None:
    """The settings have only just been read."""


def _settle_memory() -> None:
    """Let the garbage collector leave alone what stays, and look seldom for what seldom is.

    Sockets are freed without it. With its defaults it took a quarter of the CPU time of a storm of
    connections, and held everybody up for a full look at all objects again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _reasons_not_ready(client: Client, relay: Relay, stop: _Stop) -> list[str]:
    reasons = [f"redis: {client.last_error}"] if client.last_error else []
    reasons += [f"relay: {relay.last_error}"] if relay.last_error else []
    reasons += ["draining"] if stop.asked.is_set() else []
    return reasons if stop.serving.is_set() else [*reasons, "starting"]


async def _open_admin(
    config: Config,
    floor: trio.Nursery,
    metrics: Metrics,
    desk: Desk,
    inherited: list[socket.socket],
) -> str:
    """Serve the admin address; returns where, or "off"."""
    bind = config.admin.bind
    if not bind and not inherited:
        return "off"
    path = unix_path(bind) if bind and not inherited else None
    names = [] if not bind or unix_path(bind) is not None else [parse_bind(bind)[0].lower()]
    if path is not None:
        listeners = [listen_unix(path, "admin.bind")]
    else:
        listeners = inherited or [listen(bind, "admin.bind")]
    http = HttpServer(create_admin_app(metrics, desk, names))
    await start(floor, "admin http", http.run_lifespan)
    address = address_of(listeners[0])
    door = Door(listeners, admin_handler(http), config, metrics, max_connections=ADMIN_CONNECTIONS)
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


async def _redis_address(config: Config, floor: trio.Nursery) -> Address:
    """Where Redis is, after starting the embedded one if it is that."""
    if config.redis.url != "embedded":
        return Address(config.redis.url)
    data_dir = Path(config.redis.data_dir or default_data_dir(os.environ))
    socket_path = await start(floor, "embedded redis", partial(serve_embedded, data_dir))
    return Address(f"unix://{socket_path}")


def _build_hub(
    config: Config, client: Client, store: Store, kicks: Kicks, metrics: Metrics
) -> tuple[Relay, Hub, Poller]:
    relay = Relay(client.address, store, metrics)
    client.on_moved = relay.reconnect
    hub = Hub(relay, store, metrics, config)
    poller = Poller(relay, store, metrics, config)

    def on_gap() -> None:
        poller.sweep()
        kicks.look()

    relay.hand_to(on_batch=hub.flush, on_event=poller.receive_event, on_gap=on_gap)
    metrics.add_gauge("groups", "Groups with members here.", lambda: hub.groups)
    metrics.add_gauge("subscriptions", "Channels subscribed.", lambda: relay.subscriptions)
    metrics.add_gauge("held_messages", "Appends without an answer.", lambda: store.unanswered)
    metrics.add_gauge("tasks", "Living tasks.", _living_tasks)
    metrics.add_divided_gauge(
        "redis_up",
        "Whether Redis can be used, by what for.",
        "purpose",
        lambda: {"commands": client.last_error is None, "messages": relay.last_error is None},
    )
    return relay, hub, poller


def _connections_by_kind(door: Door, sessions: Sessions) -> dict[str, float]:
    return {**sessions.by_kind(), "http": max(0, door.connections - len(sessions))}


def _living_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def _warn_of_open_login(config: Config, hooks: HookRunner) -> None:
    host, _ = parse_bind(config.server.bind)
    try:
        loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not hooks.has("login") and not hooks.has("authorize"):
        log.warning(
            "login.open",
            bind=config.server.bind,
            hint="everybody may log in as anybody: name a login hook",
        )
