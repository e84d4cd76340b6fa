"""The door of a whole daemon, through raw sockets: what comes in, and what stays outside."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from conftest import Daemon, StartDaemon, connect, receive, run_daemon, run_redis, wait_for

from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.door.door import Door
from fastimd.door.head import Head, HeadReader
from fastimd.door.listeners import listen
from fastimd.door.receiver import Readiness
from fastimd.redis.embedded import find_server

KEY = b64encode(b"0123456789abcdef")
ACCEPT = b"BACScCJPNqyz+UBoqMH89VmURoA="
"""The answer to KEY by RFC 6455."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all the small knocks; it stops cleanly after them."""
    folder = tmp_path_factory.mktemp("house")
    with run_redis(str(find_server()), folder) as url:
        daemon = run_daemon(folder, url)
        try:
            yield daemon
            assert daemon.stop() == 0
            assert not daemon.events("connection.crashed")
        finally:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()


class Caller:
    """A raw connection to a daemon."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=15)
        self.buffer = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_head(self) -> tuple[int, dict[bytes, bytes]]:
        """Status and header fields of the next answer."""
        while b"\r\n\r\n" not in self.buffer:
            self._read_more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        return int(line.split(b" ")[1]), {
            name.lower(): value for name, _, value in (each.partition(b": ") for each in fields)
        }

    def read_answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        status, fields = self.read_head()
        return status, self.read(int(fields[b"content-length"]))

    def read(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self._read_more()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def read_frame(self) -> bytes:
        """The payload of the next text frame, all of them short."""
        opcode, size = self.read(2)
        assert opcode == 0x81
        return self.read(int.from_bytes(self.read(2), "big") if size == 126 else size)

    def read_end(self) -> bytes:
        """Everything until the daemon ends the connection."""
        try:
            while data := self.socket.recv(65536):
                self.buffer += data
        except ConnectionResetError:
            pass
        return self.buffer

    def _read_more(self) -> None:
        data = self.socket.recv(65536)
        assert data, f"the connection ended after {self.buffer!r}"
        self.buffer += data


@contextmanager
def call(daemon: Daemon) -> Iterator[Caller]:
    caller = Caller(daemon.address)
    with caller.socket:
        yield caller


def handshake(path: bytes = b"/group/chat/1/raw/t", *, key: bytes = KEY, **fields: bytes) -> bytes:
    lines = {
        b"Host": b"localhost",
        b"Connection": b"keep-alive, Upgrade",
        b"Upgrade": b"websocket",
        b"Sec-WebSocket-Version": b"13",
        b"Sec-WebSocket-Key": key,
        **{name.replace("_", "-").encode(): value for name, value in fields.items()},
    }
    head = b"".join(b"%s: %s\r\n" % field for field in lines.items() if field[1])
    return b"GET %s HTTP/1.1\r\n%s\r\n" % (path, head)


def masked(text: bytes, opcode: int = 1) -> bytes:
    """A client's frame, with a mask of zeros."""
    assert len(text) < 126
    return bytes((0x80 | opcode, 0x80 | len(text), 0, 0, 0, 0)) + text


PAGE = b"GET /test/websocket HTTP/1.1\r\nHost: localhost\r\n\r\n"

REFUSED = {
    "h2c": (PAGE[:-2] + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n", 501),
    "upgrade of two": (PAGE[:-2] + b"Upgrade: h2c, websocket\r\n\r\n", 501),
    "two upgrades": (PAGE[:-2] + b"Upgrade: websocket\r\nUpgrade: h2c\r\n\r\n", 400),
    "http2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00", 400),
    "connect": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n", 400),
    "another host's url": (b"GET ftp://example.org/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "raw bytes in the path": ("GET /张三 HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 400),
    "space in the path": (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "http/1.2": (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 400),
    "long head": (PAGE[:-2] + b"X-Long: " + b"x" * 20_000 + b"\r\n\r\n", 431),
    "long line without end": (b"GET /" + b"x" * 20_000, 431),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "zeros": (b"\x00" * 300 + b"\r\n\r\n", 400),
    "nothing but an empty line": (b"\r\n\r\n", 400),
    "folded field": (PAGE[:-2] + b"X-A: 1\r\n folded\r\n\r\n", 400),
    "space before the colon": (PAGE[:-2] + b"Content-Length : 5\r\n\r\n", 400),
    "zero byte in a field": (PAGE[:-2] + b"X-A: a\x00b\r\n\r\n", 400),
    "bare line feed": (PAGE[:-2] + b"X-A: a\nX-B: b\r\n\r\n", 400),
    "two hosts": (PAGE[:-2] + b"Host: other\r\n\r\n", 400),
    "two lengths": (PAGE[:-2] + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n", 400),
    "negative length": (PAGE[:-2] + b"Content-Length: -5\r\n\r\n", 400),
    "length and chunks": (
        b"POST /user/login HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "version 8": (handshake(Sec_WebSocket_Version=b"8"), 426),
    "no version": (handshake(Sec_WebSocket_Version=b""), 426),
    "no key": (handshake(key=b""), 400),
    "short key": (handshake(key=b64encode(b"short")), 400),
    "key that is no base64": (handshake(key=b"!" * 24), 400),
    "no connection upgrade": (handshake(Connection=b"keep-alive"), 400),
    "post handshake": (handshake().replace(b"GET", b"POST", 1), 400),
    "handshake with a body": (handshake(Content_Length=b"5") + b"12345", 400),
    "unknown path": (handshake(b"/group/talk/1/raw/t"), 404),
    "no user": (handshake(b"/group/chat/1"), 404),
    "no token": (handshake(b"/group/chat/1/raw/"), 404),
    "too long a path": (handshake(b"/group/chat/1/raw/t/more"), 404),
    "empty group": (handshake(b"/group/chat//raw/t"), 400),
    "control character in the group": (handshake(b"/group/chat/a%0Ab/raw/t"), 400),
    "escape in the user": (handshake(b"/group/list/%1b%5b31m/t"), 400),
    "long user": (handshake(b"/group/list/" + b"x" * 129 + b"/t"), 400),
    "path that is no utf-8": (handshake(b"/group/chat/%ff%fe/raw/t"), 400),
}


@pytest.mark.parametrize("knock", REFUSED)
def test_it_is_refused_with_an_answer(house: Daemon, knock: str) -> None:
    """A bad opening gets its status as JSON, and the end of the connection."""
    data, expected = REFUSED[knock]
    with call(house) as caller:
        caller.send(data)
        status, fields = caller.read_head()
        assert status == expected
        assert fields[b"connection"] == b"close"
        answer = json.loads(caller.read(int(fields[b"content-length"])))
        assert answer["code"] == expected
        assert caller.read_end() == b""
    if expected == 426:
        assert fields[b"sec-websocket-version"] == b"13"


def test_a_handshake_is_answered_by_the_rfc(house: Daemon) -> None:
    """The answer proves that the key was read, and offers no extension."""
    with call(house) as caller:
        caller.send(handshake(Sec_WebSocket_Extensions=b"permessage-deflate"))
        status, fields = caller.read_head()
        assert status == 101
        assert fields[b"sec-websocket-accept"] == ACCEPT
        assert fields[b"upgrade"].lower() == b"websocket"
        assert b"sec-websocket-extensions" not in fields


@pytest.mark.parametrize(
    "fields",
    [
        {"Upgrade": b"WebSocket"},
        {"Connection": b"UPGRADE"},
        {"X_Name": "张三".encode()},
        {"Sec_WebSocket_Protocol": b"\xff\xfe"},
        {"Cookie": b"\x80"},
    ],
)
def test_odd_fields_do_no_harm(house: Daemon, fields: dict[str, bytes]) -> None:
    """Any case, and bytes beyond ASCII in header fields, still make a socket."""
    with call(house) as caller:
        caller.send(handshake(**fields))
        assert caller.read_head()[0] == 101
        assert b'"list":' in caller.read_frame()


def test_ids_of_any_script_come_percent_encoded(house: Daemon) -> None:
    """A path names group and user in UTF-8, percent-encoded, and a query is passed over."""
    with call(house) as caller:
        caller.send(handshake(b"/group/chat/%E7%BE%A4%2F1/%E5%BC%A0/t?x=1") + masked(b"hi"))
        caller.read_head()
        caller.read_frame()
        message = json.loads(caller.read_frame())
    assert (message["groupId"], message["userId"]) == ("群/1", "张")


def test_bytes_after_the_handshake_are_the_first_frames(house: Daemon) -> None:
    """A client that does not wait for the answer loses nothing, not even half a frame."""
    frames = masked(b"first") + masked(b"second") + masked(b"third")
    with call(house) as caller:
        caller.send(handshake(b"/group/chat/eager/raw/t") + frames[:-3])
        assert caller.read_head()[0] == 101
        assert json.loads(caller.read_frame()) == {"list": [], "total": 0}
        assert json.loads(caller.read_frame())["info"] == "first"
        assert json.loads(caller.read_frame())["info"] == "second"
        caller.send(frames[-3:])
        assert json.loads(caller.read_frame())["info"] == "third"


def test_a_head_may_come_byte_by_byte(house: Daemon) -> None:
    """The end of the head is found wherever the pieces break."""
    with call(house) as caller:
        for byte in handshake(b"/group/chat/slow/raw/t"):
            caller.send(bytes((byte,)))
        assert caller.read_head()[0] == 101


def test_two_requests_on_one_connection(house: Daemon) -> None:
    """Keep-alive: the second request is answered too, pipelined or not."""
    with call(house) as caller:
        for _ in range(2):
            caller.send(PAGE)
            status, body = caller.read_answer()
            assert status == 200
            assert b"<html" in body
        caller.send(PAGE + PAGE)
        assert [caller.read_answer()[0] for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("pipelined", [True, False])
def test_a_handshake_may_follow_other_requests(house: Daemon, pipelined: bool) -> None:
    """Clients and proxies send it on a connection that they have; nothing of either is lost."""
    path = b"/group/chat/later/raw%d/t" % pipelined
    upgrade = handshake(path) + masked(b"first")
    with call(house) as caller:
        caller.send(PAGE + PAGE + (upgrade if pipelined else b""))
        assert [caller.read_answer()[0] for _ in range(2)] == [200, 200]
        if not pipelined:
            caller.send(upgrade[:-3])
        status, fields = caller.read_head()
        assert (status, fields[b"upgrade"]) == (101, b"websocket")
        assert b"list" in caller.read_frame()
        if not pipelined:
            caller.send(upgrade[-3:])
        assert json.loads(caller.read_frame())["info"] == "first"
        caller.send(masked(b"second"))
        assert json.loads(caller.read_frame())["info"] == "second"
    [line] = [
        line for line in house.events("socket.opened") if line["user"] == f"raw{int(pipelined)}"
    ]
    assert line["request_id"] == fields[b"x-request-id"].decode()


def test_a_later_handshake_is_judged_like_a_first_one(house: Daemon) -> None:
    """It is refused with an answer, or goes where its own path says."""
    with call(house) as caller:
        caller.send(PAGE + handshake(b"/nowhere"))
        assert [caller.read_answer()[0] for _ in range(2)] == [200, 404]
        assert caller.read_end() == b""


def test_behind_chunks_a_handshake_is_the_end(house: Daemon) -> None:
    """A request with a chunked body is its connection's last, whatever follows."""
    chunked = b"POST /user/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with call(house) as caller:
        caller.send(chunked + handshake())
        assert caller.read_answer()[0] == 400
        assert b"101" not in caller.read_end()


@pytest.mark.parametrize("first", [b"", PAGE])
def test_the_admin_address_has_no_sockets(house: Daemon, first: bytes) -> None:
    """A handshake is refused there, as a first request and as a later one."""
    caller = Caller(house.admin.removeprefix("http://"))
    with caller.socket:
        caller.send(first + handshake())
        if first:
            assert caller.read_answer()[0] == 404
        assert caller.read_answer()[0] == 400
        assert caller.read_end() == b""


def test_a_body_does_not_pass_for_a_request(house: Daemon) -> None:
    """A handshake inside a POST's body stays a body."""
    body = handshake()
    head = b"POST /user/login HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with call(house) as caller:
        caller.send(head + body + PAGE)
        assert caller.read_answer()[0] == 400  # no userId in it
        status, page = caller.read_answer()
        assert status == 200
        assert b"<html" in page


def test_a_chunked_post_works(house: Daemon) -> None:
    """A body in chunks is read, whatever the pieces."""
    with call(house) as caller:
        caller.send(
            b"POST /user/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        )
        for piece in (b"userId=7", b"&password=", b"p"):
            caller.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        caller.send(b"0\r\n\r\n")
        status, body = caller.read_answer()
    answer = json.loads(body)
    assert (status, answer["code"], answer["data"]) == (200, 200, "user_info")
    assert len(answer["msg"]) == 32


@pytest.mark.parametrize("rest", [b"", b"GET /test", handshake()[:-2]])
def test_who_hangs_up_is_let_go(house: Daemon, rest: bytes) -> None:
    """A connection that ends before its head is whole just ends."""
    with call(house) as caller:
        caller.send(rest)
        caller.socket.shutdown(socket.SHUT_WR)
        assert caller.read_end() == b""


def test_a_slow_head_is_given_up(house: Daemon) -> None:
    """After ten seconds a half head gets 408, however it trickles, and silence gets the end."""
    with call(house) as caller, call(house) as silent:
        began = time.monotonic()
        caller.socket.settimeout(0.5)
        data = b"GET / HTTP/1.1\r\n"
        while not caller.buffer and time.monotonic() - began < 12:
            caller.send(data)
            data = b"X"
            with contextlib.suppress(TimeoutError):
                caller.buffer += caller.socket.recv(65536)
        assert 9.5 < time.monotonic() - began < 11.5
        assert caller.buffer.startswith(b"HTTP/1.1 408 ")
        assert silent.read_end() == b""
        assert time.monotonic() - began < 11.5


async def test_a_member_loses_nothing_while_others_knock(start_daemon: StartDaemon) -> None:
    """All the bad openings at once, twice, and a member hears each own word in order."""
    daemon = start_daemon()

    def knock(data: bytes) -> None:
        with call(daemon) as caller:
            caller.send(data)
            caller.read_end()

    async with connect(daemon.chat_url(group="calm")) as member, trio.open_nursery() as nursery:
        await receive(member)
        for data, _ in 2 * list(REFUSED.values()):
            nursery.start_soon(trio.to_thread.run_sync, knock, data)
        for number in range(300):
            await member.send_message(str(number))
            assert (await receive(member))["info"] == str(number)
    refused = [line["status"] for line in daemon.events("connection.refused")]
    assert set(refused) == {status for _, status in REFUSED.values()}
    assert daemon.stop() == 0
    assert [line["code"] for line in daemon.events("socket.closed")] == [1000]


def test_refusals_are_logged(house: Daemon) -> None:
    """One line, with status and reason."""
    seen = len(house.events("connection.refused"))
    with call(house) as caller:
        caller.send(handshake(b"/nowhere"))
        caller.read_end()
    wait_for(lambda: len(house.events("connection.refused")) > seen, house)
    line = house.events("connection.refused")[-1]
    assert line["status"] == 404
    assert line["client"] == "127.0.0.1"


def test_too_many_connections_get_503(start_daemon: StartDaemon) -> None:
    """Beyond max_connections: told to come later; when one leaves there is room again."""
    daemon = start_daemon(server__max_connections="2")
    with call(daemon) as first:
        with call(daemon) as second:
            for caller in (first, second):
                caller.send(handshake())
                assert caller.read_head()[0] == 101
            with call(daemon) as third:
                status, fields = third.read_head()
                assert status == 503
                assert int(fields[b"retry-after"]) > 0
                third.read(int(fields[b"content-length"]))
                assert third.read_end() == b""
            second.send(masked(b"\x03\xe8", opcode=8))
            second.read_end()
        wait_for(lambda: is_let_in(daemon), daemon)
        assert first.socket.fileno() >= 0


def is_let_in(daemon: Daemon) -> bool:
    with call(daemon) as caller:
        caller.send(PAGE)
        return caller.read_head()[0] == 200


def client_in_log(daemon: Daemon, forwarded: bytes) -> str:
    """Under which address the daemon logs a caller who sends this X-Forwarded-For."""
    seen = len(daemon.events("socket.opened"))
    with call(daemon) as caller:
        caller.send(handshake(X_Forwarded_For=forwarded))
        assert caller.read_head()[0] == 101
        wait_for(lambda: len(daemon.events("socket.opened")) > seen, daemon)
    return str(daemon.events("socket.opened")[-1]["client"])


def test_only_trusted_proxies_are_believed(house: Daemon, start_daemon: StartDaemon) -> None:
    """The log's client is the last address that no trusted proxy stands behind."""
    assert client_in_log(house, b"203.0.113.9") == "127.0.0.1"
    others = start_daemon(server__trusted_proxies="10.0.0.0/8")
    assert client_in_log(others, b"203.0.113.9") == "127.0.0.1"
    trusting = start_daemon(server__trusted_proxies="127.0.0.0/8,10.0.0.7")
    assert client_in_log(trusting, b"203.0.113.9") == "203.0.113.9"
    assert client_in_log(trusting, b"6.6.6.6, 203.0.113.9") == "203.0.113.9"
    assert client_in_log(trusting, b"6.6.6.6, 203.0.113.9, 10.0.0.7") == "203.0.113.9"
    assert client_in_log(trusting, b"6.6.6.6,10.0.0.8") == "10.0.0.8"
    assert client_in_log(trusting, b"") == "127.0.0.1"


def test_an_answer_is_whole_though_the_client_ended_its_side(house: Daemon) -> None:
    """A client that half-closes after its request gets all of the answer."""
    for _ in range(20):
        caller = Caller(house.address)
        with caller.socket:
            caller.send(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
            caller.socket.shutdown(socket.SHUT_WR)
            status, body = caller.read_answer()
            assert status == 200
            assert body.rstrip().endswith((b"}", b";", b")"))


async def test_what_is_small_is_sent_at_once(nursery: trio.Nursery) -> None:
    """Nagle's algorithm is off on every connection, without a call for each."""
    listener = listen("127.0.0.1:0", "server.bind")
    address = listener.getsockname()
    found: list[int] = []

    async def handle(connection: socket.socket, _reader: HeadReader, _head: Head) -> None:
        found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    readiness = Readiness()
    nursery.start_soon(readiness.run)
    door = Door([listener], handle, Config(), Metrics(), readiness, max_connections=10)
    nursery.start_soon(door.accept_connections, nursery)
    async with await trio.open_tcp_stream(*address) as client:
        await client.send_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        assert await client.receive_some() == b""
    assert found == [1]
