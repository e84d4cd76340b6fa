"""The drain beside a door and an HTTP server, on a clock that only the test moves on."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.daemon.drain import HEAR_SECONDS, drain
from fastimd.door.door import Door
from fastimd.door.listeners import listen
from fastimd.door.receiver import Readiness
from fastimd.http.server import HttpServer, serve_http
from fastimd.websocket.session import Sessions

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

Draining = tuple[trio.SocketStream, trio.Event]
"""A client's connection that the door has accepted, and what says that the drain is over."""


async def _nothing() -> None: ...


async def _app(
    scope: dict[str, Any], _receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def draining(mock_clock: MockClock, nursery: trio.Nursery) -> AsyncIterator[Draining]:
    """A drain that began when a client had connected and said nothing yet."""
    config = Config()
    listener = listen("127.0.0.1:0", "server.bind")
    http = HttpServer(_app, lambda _head: False)
    apis = SimpleNamespace(end=lambda: None, wait_answered=_nothing)

    async def handle(connection: socket.socket, reader: Any, head: Any) -> Any:
        return await serve_http(http, connection, reader, head)

    readiness = Readiness()
    nursery.start_soon(readiness.run)
    door = Door([listener], handle, config, Metrics(), readiness, max_connections=10)
    around = SimpleNamespace(
        config=config,
        sessions=Sessions(()),
        readiness=readiness,
    )
    presence = SimpleNamespace(wait_all_told=_nothing)
    over = trio.Event()

    async def run_drain() -> None:
        visits = cast(Any, presence)
        await drain(door, http, cast(Any, apis), cast(Any, around), visits, at_once=False)
        over.set()

    async with trio.open_nursery() as accepting:
        accepting.start_soon(door.accept_connections, nursery)
        client = await trio.open_tcp_stream(*listener.getsockname())
        while not door.connections:
            await wait_all_tasks_blocked()
        accepting.cancel_scope.cancel()
    nursery.start_soon(run_drain)
    await wait_all_tasks_blocked()
    async with client:
        yield client, over


async def test_a_request_of_a_new_connection_is_answered(draining: Draining) -> None:
    """Who was let in just before the drain, and asks just after it began, has the answer."""
    client, over = draining
    assert not over.is_set()
    await client.send_all(REQUEST)
    assert (await client.receive_some()).startswith(b"HTTP/1.1 204")
    await over.wait()


async def test_a_connection_that_says_nothing_is_not_waited_for_long(
    draining: Draining, mock_clock: MockClock
) -> None:
    """A browser's spare connection costs a drain a second, and no more."""
    client, over = draining
    mock_clock.jump(HEAR_SECONDS * 0.9)
    await wait_all_tasks_blocked()
    assert not over.is_set()
    mock_clock.jump(HEAR_SECONDS * 0.2)
    await over.wait()
    with suppress(trio.BrokenResourceError):
        assert await client.receive_some() == b""


async def test_one_that_goes_is_not_waited_for(draining: Draining) -> None:
    """The drain is over when the last silent connection ends."""
    client, over = draining
    await client.aclose()
    await over.wait()
