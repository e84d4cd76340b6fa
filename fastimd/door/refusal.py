"""The answer to a connection that is not served."""

from __future__ import annotations

import socket

import trio

from ..base import texts
from .head import Refused, request_id_field

_REASONS: dict[int, str] = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    503: "Service Unavailable",
}


async def refuse(connection: socket.socket, refused: Refused) -> None:
    text = texts.of_status(refused.status, str(refused))
    body = b'{"code":%d,"msg":"%s","data":null}' % (refused.status, text.encode())
    answer = (
        f"HTTP/1.1 {refused.status} {_REASONS.get(refused.status, 'Refused')}\r\n"
        f"{refused.headers}{request_id_field().decode()}Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body
    with trio.move_on_after(1):
        connection.send(answer)  # the first bytes of a connection: the kernel takes them
        connection.shutdown(socket.SHUT_WR)
        while True:
            await trio.lowlevel.wait_readable(connection)
            if not connection.recv(65536):
                break
