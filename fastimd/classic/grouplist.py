"""A group-list socket: hears when one of its user's groups changed; what it says is ignored."""

from __future__ import annotations

from ..groups.domain import Domain
from ..websocket.session import Session
from .routes import Route


async def serve_group_list(session: Session, domain: Domain, route: Route, first: bytes) -> None:
    """Serve a user's group list until the socket closes.

    Raises:
        NotLoggedIn, Refused: the user may not have it.
        StoreUnavailable, HookFailed: who has to be asked is away.
        KeyUnusable: what Redis has of the user's groups is no set.
    """
    session.open()
    await domain.access.check_opening(route.user, route.token, "list")
    async with domain.poller.watcher(route.user, session.outbox, session.give_up):
        while texts := await session.receive(first):
            first = b""
            for _ in texts:
                if not await session.wait_turn():
                    return
            if domain.config.group.login_auth:
                await domain.access.check(route.user, route.token, "list")
