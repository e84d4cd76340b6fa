"""The drain: every client is told to go, is heard out, and is not waited for longer than is set."""

from __future__ import annotations

import random

import structlog
import trio

from ..api.servers import ApiServers
from ..door.door import Door
from ..hooks.visits import Visits
from ..http.server import HttpServer
from ..websocket.session import Surroundings

DRAIN_SHARE = 0.8
"""The part of ``drain_seconds`` over which sockets are told to go; the rest is for answers."""
RETURNS_A_SECOND = 2000
"""How many clients of a drained daemon are asked to come back in a second."""
RETURN_SECONDS = 1.0
"""The least time over which they are asked to."""
DRAIN_LOOK_SECONDS = 0.2
"""How often the drain looks for sockets that opened meanwhile."""
HEAR_SECONDS = 1.0
"""How long, from the beginning, a new connection may still come to ask for something."""

log = structlog.get_logger("fastimd.daemon")


async def drain(
    door: Door,
    http: HttpServer,
    apis: ApiServers,
    around: Surroundings,
    visits: Visits,
    *,
    at_once: bool,
) -> None:
    """Tell every socket to go, evenly over most of the time, and wait for them within it."""
    sockets, seconds = len(around.sessions), around.config.server.drain_seconds
    log.info("daemon.draining", sockets=sockets, seconds=seconds)
    apis.end()
    pace = 0 if at_once else seconds * DRAIN_SHARE / max(sockets, 1)
    hear_until = trio.current_time() + (0 if at_once else HEAR_SECONDS)
    with trio.move_on_after(seconds):
        await _end_sockets(around, pace, at_once=at_once)
        with trio.move_on_at(hear_until):
            await door.wait_heard()
        await _end_sockets(around, 0, at_once=at_once)
        await http.wait_answered()
        await apis.wait_answered()
        await visits.wait_all_told()
    door.close_all()
    around.readiness.wake_all()


async def _end_sockets(around: Surroundings, pace: float, *, at_once: bool) -> None:
    sockets = len(around.sessions)
    while around.sessions:  # a handshake that was under way adds one
        began = trio.current_time()
        for number, session in enumerate(list(around.sessions)):
            if session.is_open:  # who went by themselves is not waited for
                # By the clock, not by sleeps: late sleeps would add up to more than there is.
                await trio.sleep_until(began + number * pace)
                session.dismiss("going away" if at_once else _restart_hint(sockets))
        pace = 0
        with trio.move_on_after(DRAIN_LOOK_SECONDS):
            await around.sessions.wait_empty()


def _restart_hint(sockets: int) -> str:
    """The reason of a drain's close frame: the client's own wait before it returns, in ms."""
    seconds = max(RETURN_SECONDS, sockets / RETURNS_A_SECOND)
    return f"restart {round(random.uniform(0, seconds) * 1000)}"  # noqa: S311 - no secret
