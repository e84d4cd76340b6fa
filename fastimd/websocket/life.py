"""A socket from its beginning to its end, with what all have: log lines, counts, a proper end."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog
import trio

from .session import Session, Surroundings

log = structlog.get_logger("fastimd.socket")


async def run_session(session: Session, around: Surroundings, serving: Awaitable[None]) -> None:
    """Run a socket, whose ``kind``, ``user`` and ``groups`` are set.

    Args:
        serving: what the socket does, until it closes.
    """
    around.metrics.sockets_opened += 1
    session.opened_at = trio.current_time()
    around.sessions.add(session)
    if session.user:
        tell_opened(session)
    try:
        around.keepalive.watch(session)
        try:
            await serving
        except Exception:
            session.close(*session.subprotocol.crashed)
            raise  # the door logs it
        await session.wait_closed()
    finally:
        await session.finish()
        around.sessions.remove(session)
        code, reason = session.outcome()
        around.metrics.count_close(code)
        log.info(
            "socket.closed",
            **session.description(),
            code=code,
            reason=reason,
            seconds=round(trio.current_time() - session.opened_at, 3),
            messages_in=session.messages_in,
            messages_out=session.outbox.messages,
        )


def tell_opened(session: Session) -> None:
    """Log that a socket has opened, and whose it is."""
    log.info("socket.opened", **session.description())
