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
from ..api.document import describe_api
from ..api.server import ApiServer
from ..api.service import make_service
from ..base import log as logs
from ..base import systemd
from ..base.metrics import Metrics
from ..base.settings import Config, parse_bind
from ..base.supervise import open_floor, start, supervise
from ..classic.sockets import KINDS
from ..door.head import Head
from ..door.listeners import Listener
from ..door.receiver import Readiness
from ..groups.access import Access
from ..groups.announcements import Announcements
from ..groups.domain import Domain
from ..groups.events import Events
from ..groups.following import follow_master
from ..groups.hub import Hub
from ..groups.kicks import Kicks
from ..groups.lists.poller import Poller
from ..groups.moderation.acts import Moderation
from ..groups.moderation.announcer import Announcer
from ..groups.moderation.judge import Judge
from ..groups.moderation.policies import Policies
from ..groups.moderation.waiting import Waiting
from ..groups.presence.presence import Presence
from ..groups.relays import GroupRelay, make_relay
from ..groups.store import Store
from ..groups.surveys import ANSWER_BEGINS, Surveys
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
        relay, hub, poller, announcer = _build_hub(
            ground, kicks, sessions, presence, policies, surveys
        )
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
        if ground.link is not None:
            tell_parent = partial(_report, ground, reasons, hub, sessions)
            floor.start_soon(supervise, "parent", ground.link.keep_told, tell_parent)
        if systemd.is_listening():
            tell = partial(_state, reasons, hub, sessions, metrics)
            serving = ground.stop.serving
            floor.start_soon(supervise, "systemd", systemd.keep_told, tell, serving)
        access = Access(config, store, ground.hooks)
        visits = Visits(ground.hooks, config, metrics)
        domain = Domain(
            config,
            metrics,
            store,
            access,
            ground.hooks,
            visits,
            hub,
            poller,
            presence,
            Judge(store.policies, policies, waiting, metrics),
            moderation,
            announcer,
        )
        desk = Desk(config, store, hub, client, relay, metrics, sessions, reasons)
        service = make_service(domain, sessions, surveys, desk.status, ground.stop.drain)
        make_api = partial(ApiServer, Calls(service, metrics), config, metrics, describe_api)
        admin = await open_admin(
            config,
            floor,
            metrics,
            ground.readiness,
            partial(create_admin_app, metrics, desk, moderation),
            ground.inherited["admin"],
            make_api,
        )
        await client.wait_connected()
        await relay.wait_connected()
        await _serve_front(ground, domain, sessions, admin, tellings, make_api(_nobody))


async def _serve_front(
    ground: _Ground,
    domain: Domain,
    sessions: Sessions,
    admin: str,
    tellings: Tellings,
    api: ApiServer,
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
            api,
            ground.stop,
            admin,
            ground.inherited["http"],
            ground.link,
        )
        appender = ground.client.appender
        with trio.move_on_after(LAST_SECONDS):
            await appender.wait_all_answered()
            await visits.wait_all_told()
            await domain.presence.wait_all_noted()
            await tellings.wait_all_told()
            if burials is not None:
                await burials.close()
        if visits.waiting:
            log.warning("daemon.presence_untold", connections=visits.waiting)
        if tellings.waiting:
            log.warning("daemon.acts_untold", acts=tellings.waiting)
        if appender.unanswered:
            log.warning("daemon.unanswered", messages=appender.unanswered)


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


def _build_hub(
    ground: _Ground,
    kicks: Kicks,
    sessions: Sessions,
    presence: Presence,
    policies: Policies,
    surveys: Surveys,
) -> tuple[GroupRelay, Hub, Poller, Announcer]:
    client, store, metrics = ground.client, ground.store, ground.metrics
    relay = make_relay(client, store.history, metrics)
    client.appender.heard, client.appender.hear_out = relay.newest_of, relay.hear_out
    hub = Hub(relay, store.history, metrics, ground.config, policies)
    poller = Poller(relay, store, metrics, ground.config)
    announcer = Announcer(
        policies, store.policies, store.members, partial(_users_of, sessions), hub.notice
    )

    def on_gap() -> None:
        poller.sweep()
        kicks.look()
        presence.note_gap()

    events = Events(
        on_change=poller.note_event,
        on_removal=hub.notice,
        on_leave=sessions.leave,
        on_kick=kicks.receive,
        on_policy=announcer.receive,
        on_question=surveys.receive_question,
    )

    def on_letter(payload: bytes) -> None:
        is_answer = payload.startswith(ANSWER_BEGINS)
        (surveys.receive_answer if is_answer else presence.receive)(payload)

    announcements = Announcements(
        store.presences.inbox,
        on_event=events.receive,
        on_letter=on_letter,
        on_gap=on_gap,
    )
    relay.hand_to(on_batch=hub.flush, announcements=announcements)
    metrics.add_gauge("groups", "Groups with members here.", lambda: hub.groups)
    metrics.add_gauge(
        "members", "Connections in groups here, once a group.", lambda: presence.connections
    )
    metrics.add_gauge("subscriptions", "Channels subscribed.", lambda: relay.subscriptions)
    metrics.add_gauge(
        "held_messages", "Appends without an answer.", lambda: store.messages.unanswered
    )
    metrics.add_gauge("tasks", "Living tasks.", _living_tasks)
    metrics.add_divided_gauge(
        "redis_masters",
        "Masters of Redis, by whether they can be spoken with.",
        "state",
        client.count_masters,
    )
    metrics.add_divided_gauge(
        "redis_up",
        "Whether Redis can be used, by what for.",
        "purpose",
        lambda: {"commands": client.last_error is None, "messages": relay.last_error is None},
    )
    return relay, hub, poller, announcer


def _users_of(sessions: Sessions, groups: set[str]) -> dict[str, set[str]]:
    """The users with sockets in each of some groups."""
    users: dict[str, set[str]] = {}
    for session in sessions:
        for group in groups.intersection(session.groups):
            users.setdefault(group, set()).add(session.user)
    return users


def _nobody(_head: Head) -> bool:
    """On the public address everybody needs a key."""
    return False


def _living_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


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
