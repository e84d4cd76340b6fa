"""Reads what a client commands, and has it done: one command after the other, in their order.

A command that needs Redis is waited for before the next is taken, but for what is said: of that as
much may be under way as on a chat socket. So whoever asks for much waits itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from ..base.errors import HookFailed, KeyUnusable, StoreUnavailable
from . import connecting, reading, rpc, speaking, subscribing
from .codes import BAD_REQUEST, INTERNAL, NO_SEND, STALE, Disconnect, Refusal
from .connection import Connection
from .protocol import PONG, Command, Nothing, Reply
from .wire import BadFrame

log = structlog.get_logger("fastimd.socket")


async def serve(connection: Connection, first: bytes) -> None:
    """Serve a connection until it closes.

    Args:
        first: bytes that came with the handshake.
    """
    connection.open()
    connection.end_at(connecting.CONNECT_SECONDS, STALE)
    try:
        while payloads := await connection.receive(first):
            first = b""
            for payload in payloads:
                await _take(connection, payload)
            connection.outbox.flush_replies()
            del payloads, payload  # nobody holds them while nothing comes
    finally:
        connection.leave_all()


async def _take(connection: Connection, payload: Any) -> None:
    """Have the commands of a frame done."""
    try:
        for command in connection.service.wire.read_commands(payload):
            if connection.is_dismissed:  # not when the client has gone: that is what it said before
                return
            if connection.outbox.kept > 1:
                connection.outbox.flush_in_a_moment()  # this command may take longer than those
            await _obey(connection, command)
    except BadFrame:
        _disconnect(connection, Disconnect(BAD_REQUEST))


async def _obey(connection: Connection, command: Command) -> None:
    name = command.name
    if not name and command == PONG and connection.user:
        return
    is_connected = bool(connection.user)
    is_numbered = command.id > 0 or name == "send"
    if not name or not is_numbered or is_connected == (name == "connect"):
        _disconnect(connection, Disconnect(BAD_REQUEST))
        return
    wire = connection.subprotocol.name
    metrics = connection.service.around.metrics
    try:
        await HANDLERS[name](connection, command.id, getattr(command, name))
        metrics.count_command(wire, name, "ok")
    except Refusal as refusal:
        metrics.count_command(wire, name, str(refusal.error.code))
        connection.answer(command.id, Reply(error=refusal.error))
    except Disconnect as disconnect:
        metrics.count_command(wire, name, str(disconnect.reason[0]))
        _disconnect(connection, disconnect)
    except (StoreUnavailable, KeyUnusable, HookFailed) as exc:
        metrics.count_command(wire, name, str(INTERNAL.code))
        connection.answer(command.id, Reply(error=INTERNAL))
        log.warning("socket.command_failed", command=name, user=connection.user, error=str(exc))


def _disconnect(connection: Connection, disconnect: Disconnect) -> None:
    connection.close(*disconnect.reason)


async def _ping(connection: Connection, number: int, _request: Nothing) -> None:
    connection.answer(number, Reply(ping=Nothing()))


async def _send(_connection: Connection, _number: int, _request: Nothing) -> None:
    """Nobody here listens to messages without a group."""
    raise Disconnect(NO_SEND)


HANDLERS: dict[str, Callable[[Connection, int, Any], Awaitable[None]]] = {
    "connect": connecting.connect,
    "subscribe": subscribing.subscribe,
    "unsubscribe": subscribing.unsubscribe,
    "publish": speaking.publish,
    "presence": reading.presence,
    "presence_stats": reading.presence_stats,
    "history": reading.history,
    "ping": _ping,
    "send": _send,
    "rpc": rpc.call,
    "refresh": connecting.refresh,
    "sub_refresh": subscribing.sub_refresh,
}
