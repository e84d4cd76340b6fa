"""What the tests of the wire speak with: a plain HTTP client, and helpers for sockets."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
import trio
from conftest import Daemon, receive
from redis import Redis
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

ECHO_SECONDS = 5.0
"""In this time a member that talks hears what it said, whatever others do."""

AGAIN = {"code": 503, "msg": "暂时无法服务 (try again)", "data": None}
"""What HTTP, and with the text as ``data`` a socket, says when a hook has failed."""

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
    headers: Mapping[str, str | bytes] | None = None,
) -> Answer:
    """Send one request; header values that are text travel as UTF-8."""
    host, port = daemon.address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.putrequest(method, path)
        for name, value in (headers or {}).items():
            connection.putheader(name, value.encode() if isinstance(value, str) else value)
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


def in_both_languages(msg: str) -> bool:
    """Whether a text of an answer is ``中文 (English)``."""
    chinese = "\u4e00-\u9fff"
    form = rf"[^()]*[{chinese}][^()]* \([^{chinese}]*[A-Za-z][^{chinese}]*\)"
    return re.fullmatch(form, msg) is not None


def stored(redis: Redis, group: str = "1") -> list[str]:
    """The texts of a group's messages."""
    entries: Any = redis.lrange(f"gml:{group}", 0, -1)
    return [json.loads(entry)["info"] for entry in entries]


async def kick(daemon: Daemon, user: str = "1", group: str | None = None) -> None:
    """Kick a user, with the request that ``fastimd kick`` makes, and without its start."""
    asking = Request(
        f"{daemon.admin}/operate/kick",
        json.dumps({"user": user, "group": group}).encode(),
        {"Fastimd-Command": "1", "Content-Type": "application/json"},
    )
    with await trio.to_thread.run_sync(partial(urlopen, asking, timeout=10)) as answer:
        assert json.load(answer)["count"] >= 1


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


# Clients by hand

TEXT, BINARY, RESERVED, CLOSE, PING, PONG = 1, 2, 3, 8, 9, 10
SEGMENT_BYTES = 1400
"""As on Ethernet. With loopback's own 64 KB the kernel takes 4 MB for a socket that nobody reads,
and what a test wants to see wait in the daemon would be long in coming."""
SMALL_BUFFER = 4096


class Frame(NamedTuple):
    """A frame that a daemon sent."""

    opcode: int
    payload: bytes

    @property
    def closing(self) -> tuple[int, str]:
        """Code and reason of a close frame."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2], "big"), self.payload[2:].decode()


def take_frames(buffer: bytearray) -> list[Frame]:
    """Take the whole frames off the front of what a daemon sent."""
    frames = []
    start = 0
    while len(buffer) >= start + 2:
        size, head = buffer[start + 1], 2  # a daemon masks nothing
        if size >= 126:
            head = 4 if size == 126 else 10
            size = int.from_bytes(buffer[start + 2 : start + head], "big")
        end = start + head + size
        if len(buffer) < end:
            break
        frames.append(Frame(buffer[start] & 0x0F, bytes(buffer[start + head : end])))
        start = end
    del buffer[:start]
    return frames


def client_frame(opcode: int, payload: bytes = b"") -> bytes:
    """A whole frame of a client, masked with zeros."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


def opening(path: str) -> bytes:
    """A good opening handshake."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    ).encode()


def dial(address: str, receive_buffer: int = 0) -> socket.socket:
    """A TCP connection; with a ``receive_buffer`` the kernel buffers little on both sides."""
    host, _, port = address.rpartition(":")
    stream = socket.socket()
    try:
        if receive_buffer:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.settimeout(20)
        stream.connect((host, int(port)))
    except BaseException:
        stream.close()
        raise
    return stream


class RawClient:
    """A client that has shaken hands and does only what it is told.

    It reads nothing by itself, sends no pong and answers no close frame. Calls block, for at most
    20 seconds.
    """

    def __init__(self, address: str, path: str, *, receive_buffer: int = 0) -> None:
        self.stream = dial(address, receive_buffer)
        self._buffer = bytearray()
        self._frames: deque[Frame] = deque()
        try:
            self._shake_hands(path)
        except BaseException:
            self.stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def _shake_hands(self, path: str) -> None:
        self.stream.sendall(opening(path))
        answer = bytearray()
        while b"\r\n\r\n" not in answer:
            data = self.stream.recv(65536)
            assert data, bytes(answer)
            answer += data
        head, _, self._buffer = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), bytes(head)
        self._frames.extend(take_frames(self._buffer))

    def send(self, opcode: int, payload: bytes = b"") -> None:
        """Send a whole frame."""
        self.stream.sendall(client_frame(opcode, payload))

    def say(self, text: str) -> None:
        """Send a message."""
        self.send(TEXT, text.encode())

    def answer(self, frame: Frame) -> None:
        """Answer a ping or a close as RFC 6455 wants it."""
        self.send(PONG if frame.opcode == PING else CLOSE, frame.payload)

    def frames_so_far(self) -> list[Frame]:
        """The frames that have been read, without reading more."""
        frames = list(self._frames)
        self._frames.clear()
        return frames

    def next_frame(self) -> Frame | None:
        """The next frame of any kind; None at the end of the stream."""
        while not self._frames:
            if not self.receive_some():
                assert not self._buffer, "the stream ends within a frame"
                return None
        return self._frames.popleft()

    def next_text(self) -> str:
        """The next frame, which must be a text."""
        frame = self.next_frame()
        assert frame is not None
        assert frame.opcode == TEXT, frame
        return frame.payload.decode()

    def infos_to_the_end(self) -> tuple[list[str], tuple[int, str]]:
        """Read on and answer the close: the ``info`` of each message that came, and the close."""
        infos = []
        while (frame := self.next_frame()) is not None and frame.opcode != CLOSE:
            if frame.opcode == TEXT:
                message = json.loads(frame.payload)
                if "list" not in message:  # the greeting
                    infos.append(message["info"])
        assert frame is not None, "no close frame"
        self.answer(frame)
        assert self.next_frame() is None, "something follows the close frame"
        return infos, frame.closing

    def receive_some(self, max_bytes: int = 65536) -> int:
        """Read once and keep what came; how many bytes it was, 0 at the end of the stream."""
        data = self.stream.recv(max_bytes)
        self._buffer += data
        self._frames.extend(take_frames(self._buffer))
        return len(data)


def memory_of(daemon: Daemon, name: str = "VmRSS") -> int:
    """Bytes of a daemon's resident memory; ``VmHWM`` is the most there ever were."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


# A member that talks while other things go on


class Talker(threading.Thread):
    """A member that says numbers, and must hear each of them once, in order, and soon.

    Args:
        seconds: how soon.
    """

    def __init__(self, daemon: Daemon, seconds: float) -> None:
        super().__init__(name="talker")
        self._seconds = seconds
        self.said = 0
        self.is_greeted = threading.Event()
        self._daemon = daemon
        self._failure: BaseException | None = None
        self._stopped = threading.Event()

    def run(self) -> None:
        try:
            trio.run(self._talk)
        except BaseException as exc:
            self._failure = exc

    def stop(self) -> None:
        """Leave.

        Raises:
            AssertionError: something was lost, doubled, late or out of order.
        """
        self._stopped.set()
        self.join()
        if self._failure is not None:
            raise AssertionError(f"the member was disturbed after {self.said}") from self._failure

    async def _talk(self) -> None:
        async with open_websocket_url(self._daemon.chat_url("calm", "talker")) as member:
            await receive(member)
            self.is_greeted.set()
            while not self._stopped.is_set():
                await member.send_message(str(self.said))
                with trio.fail_after(self._seconds):
                    heard = await receive(member)
                assert (heard["userId"], heard["info"]) == ("talker", str(self.said))
                self.said += 1
                await trio.sleep(0.002)  # the others want to get in, too


@contextmanager
def talking(daemon: Daemon, seconds: float = ECHO_SECONDS) -> Iterator[Talker]:
    """A member talks all the while; the block fails when it is disturbed."""
    talker = Talker(daemon, seconds)
    talker.start()
    try:
        assert talker.is_greeted.wait(20)
        said = talker.said
        yield talker
    finally:
        talker.stop()
    assert talker.said > said
