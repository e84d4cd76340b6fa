"""The daemon's tree of nurseries: floors open upward and drain downward.

Redis is at the bottom, the groups stand on it, and the front on both. Every task below is
supervised: one that crashes ends the daemon, and the log says which and why. The crash of a single
connection stays behind the door.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address

import structlog
import trio

from .. import __version__
from ..api.calls import Calls
from ..api.servers import ApiServers
from ..api.service import make_service
from ..base import log as logs
from ..base import systemd
from ..base.metrics import Metrics
from ..base.settings import Config, parse_bind
from ..base.supervise import open_floor, start, supervise
from ..classic.sockets import KINDS
from ..door.listeners import Listener
from ..door.receiver import Readiness
from ..groups.access import Access
from ..groups.domain import Domain
from ..groups.following import follow_master
from ..groups.hub import Hub
from ..groups.kicks import Kicks
from ..groups.moderation.acts import Moderation
from ..groups.moderation.judge import Judge
from ..groups.moderation.policies import Policies
from ..groups.moderation.waiting import Waiting
from ..groups.outgoing.outgoing import Outgoing, make_outgoing
from ..groups.presence.presence import Presence
from ..groups.relays import GroupRelay
from ..groups.store import Store
from ..groups.surveys import Surveys
from ..groups.visits.burials import Burials
from ..hooks.runner import HookRunner, open_hooks
from ..hooks.tellings import Tellings
from ..hooks.visits import Visits
from ..http.admin import create_admin_app
from ..http.app import create_app
from ..http.desk import Desk
from ..http.server import HttpServer
from ..live.sockets import KINDS as LIVE_KINDS
from ..live.tokens import Tokens
from ..redis.clients import RedisClient, make_client
from ..redis.sentinel import Service
from ..websocket.keepalive import Keepalive
from ..websocket.session import Sessions, Surroundings
from .admin import open_admin
from .ground import open_redis, take_listeners
from .hub import build_hub
from .public import is_public_api, serve_public
from .stop import Stop
from .workers.link import Link, Report

LAST_SECONDS = 1.0
"""How long Redis may still take to answer appends, and hooks to hear, when everybody has gone."""

log = structlog.get_logger("fastimd.daemon")


@dataclass
class _Ground:
    """What the floors above Redis stand on."""

    config: Config
    metrics: Metrics
    hooks: HookRunner
    tokens: Tokens
    inherited: dict[str, Sequence[Listener]]
    link: Link | None
    stop: Stop
    client: RedisClient
    store: Store
    readiness: Readiness


async def serve(config: Config, link: Link | None) -> None:
    """Run the daemon until SIGTERM or SIGINT, then drain.

    Args:
        link: to its parent, when it is one of several workers.

    Raises:
        StartupError: it cannot start.
        TaskCrashed: one of its tasks crashed; the log line says why.
    """
    log.info("daemon.starting", version=__version__, config=config.source, pid=os.getpid())
    inherited: dict[str, Sequence[Listener]] = {**take_listeners(os.environ)}
    if link is not None:
        inherited["http"] = [link.hatch]
    metrics = Metrics()
    tokens = Tokens(config, metrics)
    async with open_hooks(config, metrics) as hooks:
        _warn_of_open_login(config, hooks)
        for number in (signal.SIGTERM, signal.SIGINT):
            # What the receiver falls back to: one more at the very end must not change the status.
            signal.signal(number, signal.SIG_IGN)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            await _serve_on_redis(config, metrics, hooks, tokens, inherited, link, signals)
    logs.tell_left_out()
    log.info("daemon.stopped")


async def _serve_on_redis(
    config: Config,
    metrics: Metrics,
    hooks: HookRunner,
    tokens: Tokens,
    inherited: dict[str, Sequence[Listener]],
    link: Link | None,
    signals: AsyncIterator[int],
) -> None:
    with Readiness() as readiness:
        async with open_floor() as floor:
            stop = Stop(floor.cancel_scope, is_worker=link is not None)
            floor.start_soon(supervise, "signals", stop.wait_signals, signals)
            floor.start_soon(supervise, "log", logs.keep_telling)
            floor.start_soon(supervise, "event loop", metrics.watch_event_loop)
            floor.start_soon(supervise, "readiness", readiness.run)
            url = await open_redis(config, floor)
            client = make_client(url, config, metrics)
            floor.start_soon(supervise, "redis", client.run)
            store = Store(client, config, metrics)
            ground = _Ground(
                config, metrics, hooks, tokens, inherited, link, stop, client, store, readiness
            )
            await _serve_groups(ground)


async def _serve_groups(ground: _Ground) -> None:
    config, metrics, client, store = ground.config, ground.metrics, ground.client, ground.store
    async with open_floor() as floor:
        sessions = Sessions((*KINDS, *LIVE_KINDS))
        kicks = Kicks(store.kicks, store.history, sessions.kick)
        presence = Presence(store.presences, config)
        policies = Policies(store.policies)
        surveys = Surveys(store.announcing, store.presences.daemon, store.presences.inbox)
        relay, hub, poller, announcer = build_hub(
            client, store, config, metrics, kicks, sessions, presence, policies, surveys
        )
        outgoing = _start_outgoing(ground, floor)
        floor.start_soon(supervise, "relay", relay.run)
        if isinstance(client.address, Service):
            floor.start_soon(supervise, "sentinels", follow_master, client.address, client, relay)
        floor.start_soon(supervise, "poller", poller.run)
        floor.start_soon(supervise, "gaps", hub.tell_gaps)
        floor.start_soon(supervise, "kicks", kicks.run)
        if presence.is_enabled:
            floor.start_soon(supervise, "presence", presence.run)
        floor.start_soon(supervise, "policies", policies.run)
        floor.start_soon(supervise, "surveys", surveys.run)
        floor.start_soon(supervise, "bans", announcer.run)
        waiting = Waiting(policies, client.appender.room, config)
        floor.start_soon(supervise, "waiting messages", waiting.run)
        tellings = Tellings(ground.hooks, metrics)
        moderation = Moderation(store, policies, tellings, metrics)
        reasons = partial(_reasons_not_ready, client, relay, ground.stop)
        _start_telling(ground, floor, reasons, hub, sessions)
        domain = Domain(
            config,
            metrics,
            store,
            Access(config, store, ground.hooks),
            ground.hooks,
            Visits(ground.hooks, config, metrics),
            hub,
            poller,
            presence,
            Judge(store.policies, policies, waiting, metrics),
            moderation,
            announcer,
        )
        desk = Desk(config, store, hub, client, relay, metrics, sessions, reasons)
        service = make_service(domain, sessions, surveys, desk.status, ground.stop.drain)
        floor.start_soon(supervise, "api", service.appends.run)
        apis = ApiServers(Calls(service, metrics), config, metrics)
        admin = await open_admin(
            config,
            floor,
            metrics,
            ground.readiness,
            lambda names, _is_local: create_admin_app(metrics, desk, moderation, names),
            ground.inherited["admin"],
            apis.make,
        )
        await client.wait_connected()
        await relay.wait_connected()
        await _serve_front(ground, domain, sessions, admin, tellings, apis, outgoing)


def _start_outgoing(ground: _Ground, floor: trio.Nursery) -> Outgoing | None:
    """What brings events to the backend, if it is told any."""
    config, metrics, client, store = ground.config, ground.metrics, ground.client, ground.store
    outgoing = make_outgoing(ground.hooks, store, client, config, metrics)
    if outgoing is not None:
        floor.start_soon(supervise, "events", outgoing.run)
    return outgoing


def _start_telling(
    ground: _Ground,
    floor: trio.Nursery,
    reasons: Callable[[], list[str]],
    hub: Hub,
    sessions: Sessions,
) -> None:
    """Have the parent of workers told how this one is, and systemd how the daemon is."""
    if ground.link is not None:
        tell_parent = partial(_report, ground, reasons, hub, sessions)
        floor.start_soon(supervise, "parent", ground.link.keep_told, tell_parent)
    if systemd.is_listening():
        tell = partial(_state, reasons, hub, sessions, ground.metrics)
        floor.start_soon(supervise, "systemd", systemd.keep_told, tell, ground.stop.serving)


async def _serve_front(
    ground: _Ground,
    domain: Domain,
    sessions: Sessions,
    admin: str,
    tellings: Tellings,
    apis: ApiServers,
    outgoing: Outgoing | None,
) -> None:
    config, metrics, visits = ground.config, ground.metrics, domain.visits
    keepalive = Keepalive(config)
    around = Surroundings(config, metrics, keepalive, ground.readiness, sessions)
    http = HttpServer(
        create_app(config, domain.store, domain.access, domain.judge, domain.hooks, metrics),
        partial(is_public_api, config),
    )
    async with open_floor() as floor:
        floor.start_soon(supervise, "keepalive", keepalive.run)
        floor.start_soon(supervise, "visits", visits.run)
        floor.start_soon(supervise, "tellings", tellings.run)
        burials = None
        if visits.tells_leaves:
            burials = Burials(domain.store.ledgers, visits, metrics, ground.stop.asked)
            floor.start_soon(supervise, "burials", burials.run)
        floor.start_soon(supervise, "tokens", ground.tokens.run)
        await start(floor, "http", http.run_lifespan)
        await serve_public(
            around,
            domain,
            ground.tokens,
            http,
            apis,
            ground.stop,
            admin,
            ground.inherited["http"],
            ground.link,
        )
        with trio.move_on_after(LAST_SECONDS):
            await domain.store.messages.wait_all_answered()
            await visits.wait_all_told()
            await domain.presence.wait_all_noted()
            await tellings.wait_all_told()
            if burials is not None:
                await burials.close()
            if outgoing is not None:
                await outgoing.wait_idle()
        if visits.waiting:
            log.warning("daemon.presence_untold", connections=visits.waiting)
        if tellings.waiting:
            log.warning("daemon.acts_untold", acts=tellings.waiting)
        if unanswered := domain.store.messages.unanswered:
            log.warning("daemon.unanswered", messages=unanswered)


def _state(
    reasons_not_ready: Callable[[], list[str]], hub: Hub, sessions: Sessions, metrics: Metrics
) -> systemd.State:
    sockets = f"{len(sessions):,} sockets in {hub.groups:,} groups"
    reasons = reasons_not_ready()
    return systemd.State(
        f"{', '.join(reasons)}; {sockets}" if reasons else sockets, metrics.messages_received
    )


def _report(
    ground: _Ground, reasons_not_ready: Callable[[], list[str]], hub: Hub, sessions: Sessions
) -> Report:
    link, stop = ground.link, ground.stop
    assert link is not None
    return Report(
        takes=stop.serving.is_set() and not stop.asked.is_set(),
        reasons=reasons_not_ready(),
        connections=link.connections(),
        accepted=link.hatch.accepted,
        sockets=len(sessions),
        groups=hub.groups,
        messages=ground.metrics.messages_received,
    )


def _reasons_not_ready(client: RedisClient, relay: GroupRelay, stop: Stop) -> list[str]:
    reasons = [f"redis: {client.outage}"] if client.outage else []
    reasons += [f"relay: {relay.outage}"] if relay.outage else []
    reasons += ["draining"] if stop.asked.is_set() else []
    return reasons if stop.serving.is_set() else [*reasons, "starting"]


def _warn_of_open_login(config: Config, hooks: HookRunner) -> None:
    host, _ = parse_bind(config.server.bind)
    try:
        loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if loopback or hooks.has("authorize"):
        return
    if not hooks.has("login"):
        hint = "everybody may log in as anybody: name a login hook"
    elif not config.group.login_auth:
        hint = "a socket may name any user without a login: set group.login_auth = true"
    else:
        return
    log.warning("login.open", bind=config.server.bind, hint=hint)
