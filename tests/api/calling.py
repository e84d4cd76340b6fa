"""A backend that calls the server API: over ``http.client``, or with bytes by hand."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple, TypeAlias

import trio
from clients import Answer, dial
from conftest import Daemon

SECRETS = {"game": "of-the-game", "speaker": "of-the-speaker", "match": "of-the-match"}
"""The backends of the tests: for everything, for two methods, for some groups."""
_MAY: dict[str, dict[str, list[str]]] = {
    "game": {},
    "speaker": {"methods": ["pub*", "broadcast"]},
    "match": {"groups": ["match-*", "lobby"]},
}

Body: TypeAlias = Mapping[str, Any] | bytes


def table_of(name: str, secret: str, **may: Sequence[str]) -> str:
    """A key as the settings have it, in one line."""
    digest = sha256(secret.encode()).hexdigest()
    lists = "".join(f", {glob} = {json.dumps(list(globs))}" for glob, globs in may.items())
    return f'{{name = "{name}", sha256 = "{digest}"{lists}}}'


KEYS = f"[{', '.join(table_of(name, SECRETS[name], **may) for name, may in _MAY.items())}]"
SETTINGS = {"api__keys": KEYS, "api__public": "true"}


class ApiFailed(AssertionError):
    """A call was answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass
class Backend:
    """Calls a daemon at HOST:PORT, each time on a new connection."""

    address: str
    headers: Mapping[str, str] = field(
        default_factory=partial(dict, {"X-API-Key": SECRETS["game"]})
    )
    seconds: float = 20.0

    def send(
        self,
        method: str,
        body: Body = b"{}",
        headers: Mapping[str, str] | None = None,
        verb: str = "POST",
    ) -> Answer:
        """Make a call."""
        host, port = self.address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=self.seconds)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(verb, f"/api/{method}", data, {**self.headers, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def call(self, method: str, body: Body | None = None, **fields: Any) -> Any:
        """Make a call; returns its result."""
        answer = self.send(method, fields if body is None else body)
        error = answer.json.get("error")
        if error is not None:
            raise ApiFailed(error["code"], error["message"])
        assert answer.status == 200
        return answer.json["replies" if method == "batch" else "result"]

    async def call_async(self, method: str, **fields: Any) -> Any:
        """``call`` from a Trio task."""
        return await trio.to_thread.run_sync(partial(self.call, method, **fields))


def backend(daemon: Daemon, name: str = "game", *, admin: bool = False) -> Backend:
    """The backend with this key, at the public address or the admin one."""
    return Backend(
        admin_of(daemon) if admin else daemon.address,
        {"X-API-Key": SECRETS[name]} if name else {},
    )


def admin_of(daemon: Daemon) -> str:
    """HOST:PORT of the admin address."""
    return daemon.admin.removeprefix("http://")


# By hand


class Heard(NamedTuple):
    """An answer as it came."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Line:
    """A connection on which bytes are sent as they are given."""

    def __init__(self, address: str) -> None:
        self.stream = dial(address)
        self.buffer = b""

    def say(self, data: bytes) -> None:
        """Send bytes."""
        self.stream.sendall(data)

    def hear(self, *, of_head: bool = False) -> Heard:
        """The next answer; of a HEAD request it has no body."""
        head = self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        status = int(first.split(" ")[1])
        assert first.startswith("HTTP/1.1 "), first
        size = 0 if of_head or status < 200 else int(fields["content-length"])
        while len(self.buffer) < size:
            self._more()
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        return Heard(status, fields, body)

    def is_at_end(self) -> bool:
        """Whether nothing more comes: the daemon has closed the connection."""
        assert self.buffer == b"", self.buffer
        try:
            return self.stream.recv(1) == b""
        except ConnectionResetError:
            return True

    def _until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            self._more()
        found, _, self.buffer = self.buffer.partition(end)
        return found

    def _more(self) -> None:
        data = self.stream.recv(65536)
        assert data, ("the connection ends", self.buffer)
        self.buffer += data


@contextmanager
def line_to(address: str) -> Iterator[Line]:
    """A connection."""
    line = Line(address)
    try:
        yield line
    finally:
        line.stream.close()


def request_of(
    method: str,
    body: Body = b"{}",
    *,
    key: str = SECRETS["game"],
    head: str = "",
    version: str = "1.1",
) -> bytes:
    """The bytes of a call; ``head`` has further lines."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    key_line = f"X-API-Key: {key}\r\n" if key else ""
    length = "" if "transfer-encoding" in head.lower() else f"Content-Length: {len(data)}\r\n"
    return (
        f"POST /api/{method} HTTP/{version}\r\nHost: localhost\r\n{key_line}{head}{length}\r\n"
    ).encode() + data


def unix_line(path: str) -> Line:
    """A connection to a unix socket."""
    line = Line.__new__(Line)
    line.stream = socket.socket(socket.AF_UNIX)
    line.stream.settimeout(20)
    line.stream.connect(path)
    line.buffer = b""
    return line
