"""Waiting for the answer of a server that was started.

While it says that it loads its data, it may take as long as that needs; while it is silent it may
not.
"""

from __future__ import annotations

from pathlib import Path

import trio

ANSWER_SECONDS = 60.0
"""How long a living server may take to its first PONG; each LOADING reply starts it anew."""

_PING_INTERVAL = 0.02


async def wait_answering(socket_path: Path) -> bool:
    """Wait until the server has loaded its data and answers, for ``ANSWER_SECONDS``.

    A server that says it is loading gets all that time again: a long append-only file is no fault.
    """
    with trio.move_on_after(ANSWER_SECONDS) as scope:
        while (reply := await _ping(socket_path)) != b"+PONG":
            if reply.startswith(b"-LOADING"):
                scope.deadline = trio.current_time() + ANSWER_SECONDS
            await trio.sleep(_PING_INTERVAL)
    return not scope.cancelled_caught


async def _ping(socket_path: Path) -> bytes:
    """The reply to one PING without its line end; empty when nobody answers there yet."""
    reply = b""
    try:
        async with await trio.open_unix_socket(socket_path) as stream:
            await stream.send_all(b"PING\r\n")
            while not reply.endswith(b"\r\n"):
                if not (chunk := await stream.receive_some()):
                    return b""
                reply += chunk
    except (OSError, trio.BrokenResourceError):
        return b""
    return reply.removesuffix(b"\r\n")
