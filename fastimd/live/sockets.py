"""Serves the connections of the live wire."""

from __future__ import annotations

import socket
from collections.abc import Awaitable

import trio

from ..door.head import Head, request_id_field
from ..groups.domain import Domain
from ..websocket.handshake import accept
from ..websocket.session import Session, Surroundings, run_session
from .connection import LiveConnection
from .dialect import Live

PATH = b"/connection/websocket"
KINDS = ("live",)


class LiveSockets:
    """The connections of this wire.

    Args:
        nursery: where outboxes flush.
    """

    def __init__(self, around: Surroundings, domain: Domain, nursery: trio.Nursery) -> None:
        self._around = around
        self._domain = domain
        self._nursery = nursery
        self._dialect = Live(domain.store.history)

    def serve(self, connection: socket.socket, head: Head, first: bytes) -> Awaitable[None]:
        """Judge a handshake, and return what serves its connection."""
        fields = request_id_field()
        offered = head.fields.get(b"sec-websocket-protocol", b"").replace(b" ", b"").split(b",")
        if b"centrifuge-json" in offered:
            fields += b"Sec-WebSocket-Protocol: centrifuge-json\r\n"
        answer = accept(head, self._around.config.server.allowed_origins, fields)
        return self._serve(connection, answer, first)

    async def _serve(self, connection: socket.socket, answer: bytes, first: bytes) -> None:
        await self._around.turnstile.pass_through()
        with trio.CancelScope() as scope:
            session = Session(connection, scope, self._nursery, self._around, answer)
            serving = LiveConnection(session, self._domain, self._dialect).serve(first)
            await run_session(session, self._around, serving, "live", "", None)
