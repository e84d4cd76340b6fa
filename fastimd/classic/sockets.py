"""Serves the sockets of Fast-IM's paths, and says in its way why one may not be served."""

from __future__ import annotations

import socket
from collections.abc import Awaitable

import structlog
import trio

from ..base.errors import HookFailed, KeyUnusable, NotLoggedIn, Refused, StoreUnavailable
from ..door.head import Head, request_id_field
from ..groups.domain import Domain
from ..groups.events import PolicyChange
from ..groups.moderation.restraint import banned
from ..groups.store.policy import Sentence
from ..websocket.frames import cut_reason
from ..websocket.handshake import accept
from ..websocket.life import run_session
from ..websocket.session import Session, Surroundings
from .chat import serve_chat
from .dialect import Classic
from .grouplist import serve_group_list
from .routes import Route, find_route
from .subprotocol import FAST_IM

KINDS = ("chat", "list")
"""Of sockets."""
LOGIN_REQUIRED = b"440"

log = structlog.get_logger("fastimd.socket")


class ClassicSockets:
    """The sockets of this dialect.

    Args:
        nursery: where outboxes flush.
    """

    def __init__(self, around: Surroundings, domain: Domain, nursery: trio.Nursery) -> None:
        self._around = around
        self._domain = domain
        self._nursery = nursery
        self._dialect = Classic(domain.store.history)
        domain.announcer.listen(self._put_out)

    def serve(
        self, connection: socket.socket, head: Head, first: bytes, scope: trio.CancelScope
    ) -> Awaitable[None]:
        """Judge a handshake, and return what serves its socket: the head is needed no more.

        Args:
            scope: around all that serves it.

        Raises:
            fastimd.door.head.Refused: it cannot be served.
        """
        answer = accept(head, self._around.config.server.allowed_origins, request_id_field())
        route = find_route(head.target)
        session = Session(connection, scope, self._nursery, self._around, answer, FAST_IM)
        session.kind, session.user = route.kind, route.user
        session.groups = () if route.group is None else (route.group,)
        return run_session(session, self._around, self._serve_route(session, route, first))

    def _put_out(self, act: PolicyChange) -> None:
        """Close the sockets of a user who is banned; of other acts this wire has no words."""
        if act.act != "ban":
            return
        reason = str(banned(Sentence(act.until, act.reason, act.by)))
        for session in self._around.sessions.of_user(act.user, act.group):
            if session.kind == "chat":
                session.close(1008, cut_reason(reason))

    async def _serve_route(self, session: Session, route: Route, first: bytes) -> None:
        try:
            if route.group is None:
                await serve_group_list(session, self._domain, route, first)
            else:
                await serve_chat(session, self._domain, self._dialect, route, first)
        except NotLoggedIn:
            session.push_text(LOGIN_REQUIRED)
            session.close(1008, "login required")
        except Refused as exc:
            session.close(1008, cut_reason(str(exc) or "not allowed"))
        except (HookFailed, KeyUnusable):
            session.give_up()
        except StoreUnavailable as exc:
            session.give_up()
            log.warning("socket.store_unavailable", error=str(exc))
