"""Serves the connections of the live wire."""

from __future__ import annotations

import socket
from collections.abc import Awaitable
from typing import cast

import trio

from ..base.supervise import supervise
from ..door.head import Head, request_id_field
from ..groups.domain import Domain
from ..groups.events import PolicyChange
from ..websocket.handshake import accept
from ..websocket.life import run_session
from ..websocket.replies import Replies
from ..websocket.session import Surroundings
from ..websocket.timers import Timers
from . import json_wire, protobuf_wire
from .commands import serve
from .connection import Connection
from .moderating import tell
from .service import Service
from .tokens import Tokens
from .wire import Wire

PATH = b"/connection/websocket"
KINDS = ("live",)
"""Of sockets."""
_ASKED = frozenset((b"format=protobuf", b"cf_protocol=protobuf"))
_PROTOBUF, _JSON = b"centrifuge-protobuf", b"centrifuge-json"


class LiveSockets:
    """The connections of this wire.

    Args:
        nursery: where outboxes flush.
    """

    def __init__(
        self, around: Surroundings, domain: Domain, tokens: Tokens, nursery: trio.Nursery
    ) -> None:
        self._around = around
        self._nursery = nursery
        self._timers, self._replies = Timers(), Replies()
        self._json, self._protobuf = (
            Service(around, domain, tokens, self._timers, self._replies, cast(Wire, wire))
            for wire in (json_wire, protobuf_wire)
        )
        domain.announcer.listen(self._tell)

    def _tell(self, act: PolicyChange) -> None:
        """Tell the connections of the user whom an act concerns."""
        for session in self._around.sessions.of_user(act.user, act.group):
            if isinstance(session, Connection):
                tell(session, act)

    def start(self, floor: trio.Nursery) -> None:
        """Run what all connections need, until the floor is cancelled."""
        floor.start_soon(supervise, "timers", self._timers.run)
        floor.start_soon(supervise, "replies", self._replies.run)

    def serve(
        self, connection: socket.socket, head: Head, first: bytes, scope: trio.CancelScope
    ) -> Awaitable[None]:
        """Judge a handshake, and return what serves its connection.

        Args:
            scope: around all that serves it.

        Raises:
            fastimd.door.head.Refused: it cannot be served.
        """
        fields = request_id_field()
        offered = head.fields.get(b"sec-websocket-protocol", b"").replace(b" ", b"").split(b",")
        query = head.target.partition(b"?")[2].split(b"&")
        chosen = next((each for each in offered if each in (_JSON, _PROTOBUF)), b"")
        is_protobuf = chosen == _PROTOBUF or (not chosen and not _ASKED.isdisjoint(query))
        service = self._protobuf if is_protobuf else self._json
        if chosen:
            fields += b"Sec-WebSocket-Protocol: %s\r\n" % chosen
        answer = accept(head, self._around.config.server.allowed_origins, fields)
        session = Connection(connection, scope, self._nursery, service, answer)
        return run_session(session, self._around, serve(session, first))
