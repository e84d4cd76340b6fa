"""What the tests of the wire speak with: a plain HTTP client, and helpers for sockets."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import trio
from conftest import Daemon
from trio_websocket import ConnectionClosed, WebSocketConnection

BOUNDARY = "a-boundary-of-the-tests"


@dataclass(frozen=True)
class Answer:
    """What a daemon answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def request(
    daemon: Daemon,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request; header values travel as UTF-8."""
    host, port = daemon.address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.putrequest(method, path)
        for name, value in (headers or {}).items():
            connection.putheader(name, value.encode())
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def metrics(daemon: Daemon) -> dict[str, float]:
    """Every metric of the daemon, by its name with its labels as the scrape shows them."""
    with urlopen(f"{daemon.admin}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    samples = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in samples}


def post(
    daemon: Daemon,
    path: str,
    fields: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    multipart: bool = True,
) -> Answer:
    """Post a form, as ``multipart/form-data`` or as ``application/x-www-form-urlencoded``."""
    texts = {name: str(value) for name, value in (fields or {}).items()}
    if multipart:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        parts = [
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
            for name, text in texts.items()
        ]
        body = "".join((*parts, f"--{BOUNDARY}--\r\n")).encode()
    else:
        kind = "application/x-www-form-urlencoded"
        body = urlencode(texts).encode()
    return request(
        daemon, "POST", path, body=body, headers={"Content-Type": kind, **(headers or {})}
    )


def log_in(daemon: Daemon, user: str = "1") -> dict[str, str]:
    """Log a user in; return the headers of the protected routes."""
    answer = post(daemon, "/user/login", {"userId": user, "password": "123456"})
    assert answer.json["code"] == 200, answer.body
    return {"userId": user, "token": answer.json["msg"]}


async def post_async(
    daemon: Daemon,
    path: str,
    fields: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """``post`` from a Trio task."""
    return await trio.to_thread.run_sync(partial(post, daemon, path, fields, headers))


async def log_in_async(daemon: Daemon, user: str = "1") -> dict[str, str]:
    """``log_in`` from a Trio task."""
    return await trio.to_thread.run_sync(partial(log_in, daemon, user))


async def handshake(daemon: Daemon, path: str, **headers: str) -> Answer:
    """Send a good opening handshake for a path and return the answer."""
    fields = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        **headers,
    }
    return await trio.to_thread.run_sync(partial(request, daemon, "GET", path, headers=fields))


async def frame(connection: WebSocketConnection) -> str:
    """The next text frame as it is."""
    with trio.fail_after(10):
        text = await connection.get_message()
    assert isinstance(text, str)
    return text


async def closing(connection: WebSocketConnection) -> tuple[int, str | None]:
    """The code and reason of the close that is the next thing the daemon sends."""
    with trio.fail_after(10), pytest.raises(ConnectionClosed) as ended:
        await connection.get_message()
    # The client leaves its stream open when the server was the first to close.
    await connection._close_stream()
    reason = ended.value.reason
    assert reason is not None
    return reason.code, reason.reason


def message(ts: int, *, group: str = "1", user: str = "1", info: str = "x") -> str:
    """A message as it lies in a list."""
    fields = {"groupId": group, "userId": user, "info": info, "ts": ts}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def wrapped(text: str) -> str:
    """The form in which the Java server stores a string."""
    return json.dumps(text, ensure_ascii=False)
