"""Whatever comes through the door harms nobody: hypothesis writes the requests.

All the while a member talks in a group and hears each own word once, in order, and soon. After each
test the daemon is the same process, its log knows of no fault of its own, HTTP and sockets work,
and it has as many connections, tasks and open files as before.

``FASTIMD_FUZZ=long`` asks for far more examples than the suite does; give it ``--timeout=0``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
import trio
from clients import BOUNDARY, client_frame, dial, log_in, metrics, request, talking
from conftest import Daemon, connect, receive, run_daemon, run_redis, wait_for
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis

from fastimd.redis.embedded import find_server

ANSWER_SECONDS = 20.0
"""In this time a client that has ended its side gets the last answer and the end of the stream."""
LONG = "long"
HOW = os.environ.get("FASTIMD_FUZZ", "suite")
LET_GO = 45.0
"""Seconds in which every connection must be gone: more than a body's deadline, the longest one."""

FUZZ = settings(
    max_examples={"suite": 50, LONG: 5_000}[HOW],
    derandomize=HOW != LONG,  # the suite says the same of the same code
    deadline=None,
    print_blob=True,
    # An example is a connection or more: how fast they come is the machine's affair.
    suppress_health_check=[HealthCheck.too_slow],
)


pytestmark = pytest.mark.timeout(180)


# --- the daemon, and the member who talks


@dataclass
class House:
    """A daemon, its Redis, and the header fields of a user who is logged in."""

    daemon: Daemon
    redis: Redis
    tasks: float
    files: int
    fields: bytes = b""
    log_read: int = 0

    def faults(self) -> list[str]:
        """New log lines that tell of a fault of the daemon; what is no log line is one, too."""
        with self.daemon.log_path.open("rb") as log:
            log.seek(self.log_read)
            new, end, _ = log.read().rpartition(b"\n")
        self.log_read += len(new) + len(end)
        return [
            line
            for line in new.decode().splitlines()
            if '"exception"' in line or '"level":"info"' not in line or not line.startswith("{")
        ]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One daemon for the whole file; it stops cleanly after it."""
    folder = tmp_path_factory.mktemp("house")
    with run_redis(str(find_server()), folder) as url, Redis.from_url(url) as redis:
        daemon = run_daemon(folder, url)
        try:
            works(daemon)
            wait_for(lambda: metrics(daemon)["fastimd_connections"] == 0, daemon)
            tasks = metrics(daemon)["fastimd_tasks"]
            yield House(daemon, redis, tasks, fewest_files(daemon))
            assert daemon.stop() == 0
        finally:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()


@pytest.fixture(autouse=True)
def calm(house: House) -> Iterator[None]:
    """Around each test: the daemon works before and after, and a member talks all the while."""
    house.faults()  # those of another test are told there
    works(house.daemon)
    logged_in = log_in(house.daemon, "owner")
    house.fields = b"".join(b"%s: %s\r\n" % (n.encode(), v.encode()) for n, v in logged_in.items())
    with talking(house.daemon):
        yield
    works(house.daemon)
    assert house.faults() == []
    wait_for(lambda: metrics(house.daemon)["fastimd_connections"] == 0, house.daemon, LET_GO)
    wait_for(lambda: metrics(house.daemon)["fastimd_tasks"] <= house.tasks, house.daemon, LET_GO)
    assert fewest_files(house.daemon) <= house.files


def works(daemon: Daemon) -> None:
    """HTTP answers, and a socket hears what it says."""
    assert request(daemon, "GET", "/test/websocket").status == 200

    async def echo() -> None:
        async with connect(daemon.chat_url("working", "visitor")) as visitor:
            await receive(visitor)
            await visitor.send_message("still there?")
            assert (await receive(visitor))["info"] == "still there?"

    trio.run(echo)


def fewest_files(daemon: Daemon) -> int:
    """How many files the daemon has open at rest: who asked for a gauge may just be leaving."""
    counts = []
    for _ in range(20):
        counts.append(len(os.listdir(f"/proc/{daemon.process.pid}/fd")))
        time.sleep(0.01)
    return min(counts)


# --- one connection


@dataclass(frozen=True)
class Reply:
    """One answer. After a 101 the body is what came over the socket."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes


def exchange(house: House, *pieces: bytes, ending: str = "half") -> list[Reply]:
    """Send everything, end the connection that way, and read the answers to the last byte."""
    with dial(house.daemon.address) as raw:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it had enough
            for piece in pieces:
                raw.sendall(piece)
        if ending == "reset":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if ending != "half":
            return []
        with contextlib.suppress(OSError):
            raw.shutdown(socket.SHUT_WR)
        answers = read_answers(read_end(raw), may_lack_body=b"HEAD" in b"".join(pieces))
    for answer in answers:
        assert answer.status not in (500, 502, 503, 504), answer
    assert house.faults() == []
    return answers


def read_end(raw: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    deadline = time.monotonic() + ANSWER_SECONDS
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := raw.recv(65536):
            data += more
            raw.settimeout(max(deadline - time.monotonic(), 0.001))
    return data


STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [ -~]*")
FIELD = re.compile(rb"([!#-'*+\-.^-z|~0-9A-Z]+): ?([ -~\t]*)")


def read_answers(data: bytes, *, may_lack_body: bool = False) -> list[Reply]:
    """Read answers strictly, to the last byte; a 101 is the last.

    Args:
        may_lack_body: there was a HEAD among the requests.
    """
    answers: list[Reply] = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, f"half a head: {head!r}"
        line, *field_lines = head.split(b"\r\n")
        status_line = STATUS_LINE.fullmatch(line)
        assert status_line, line
        fields = {}
        for field_line in field_lines:
            field = FIELD.fullmatch(field_line)
            assert field, field_line
            fields[field[1].lower()] = field[2]
        status, body = int(status_line[1]), b""
        if status == 101:
            read_frames(data)
            return [*answers, Reply(status, fields, data)]
        if status not in (100, 204, 304) and not (may_lack_body and data[:5] in (b"", b"HTTP/")):
            size = int(fields[b"content-length"])
            body, data = data[:size], data[size:]
            assert len(body) == size, f"{len(body)} of {size} bytes: {body!r}"
        answers.append(Reply(status, fields, body))
    return answers


def read_frames(data: bytes) -> None:
    """A server's frames by RFC 6455: whole, final, not masked, short lengths; a close is last."""
    opcode = 0
    while data:
        assert opcode != 8, f"after the close frame: {data!r}"
        assert data[0] in (0x81, 0x88, 0x89, 0x8A), data
        opcode, size, start = data[0] & 15, data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
            assert size > 125
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
            assert size > 65535
        payload, data = data[start : start + size], data[start + size :]
        assert len(payload) == size, f"{len(payload)} of {size} bytes: {payload!r}"
        assert opcode == 1 or size < 126
        if opcode == 1:
            json.loads(payload)


# --- what requests are made of

NASTY = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\r\n ", b"\x00", b"\x7f", b"\x80", b"\xff", b"\x1b["),
    *(b":", b";", b",", b'"', b"=", b" ", b"\t", b"%", b"/", b"\\", b"[", b"--", b"*", b"#", b"?"),
    *("é".encode(), "张三".encode(), "\u202e".encode(), b"\xed\xa0\x80", b"GET / HTTP/1.1\r\n\r\n"),
)
scraps = st.sampled_from(NASTY) | st.binary(max_size=12)
soup = st.lists(scraps, max_size=12).map(b"".join)
words = st.text("abcXYZ019-_.~", min_size=1, max_size=12).map(str.encode)
runs = st.builds(
    lambda unit, size: unit * (size // len(unit)),
    st.sampled_from((b" ", b"\t", b"a", b",", b";", b"=", b'"', b"%", b"/", b"a=b; ", b"\xff")),
    st.integers(0, 18_000),
)


@st.composite
def mutated(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    """Good bytes with up to four small changes."""
    data = draw(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("insert", "overwrite", "delete", "repeat", "cut"))):
            case "insert":
                data = data[:at] + draw(scraps) + data[at:]
            case "overwrite":
                scrap = draw(scraps)
                data = data[:at] + scrap + data[at + len(scrap) :]
            case "delete":
                data = data[:at] + data[at + draw(st.integers(1, 20)) :]
            case "repeat":
                data = data[:at] + 2 * data[at : at + draw(st.integers(1, 60))] + data[at + 60 :]
            case "cut":
                data = data[:at]
    return data


@st.composite
def in_pieces(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> list[bytes]:
    """The bytes, as they may be cut on their way."""
    data = draw(whole)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def head(first: bytes, *fields: bytes | tuple[bytes, bytes]) -> bytes:
    """A request head; fields are whole lines, or names and values."""
    lines = [field if isinstance(field, bytes) else b": ".join(field) for field in fields]
    return b"\r\n".join((first, *lines, b"", b""))


HOST = (b"Host", b"localhost")
FORM = (b"Content-Type", b"application/x-www-form-urlencoded")
CREDENTIALS = b"userId=7&password=p"
UPGRADE = (
    HOST,
    (b"Connection", b"Upgrade"),
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Key", b"MDEyMzQ1Njc4OWFiY2RlZg=="),
)
PAGE = head(b"GET /test/websocket HTTP/1.1", HOST)
LOGIN = head(b"POST /user/login HTTP/1.1", HOST, FORM, b"Content-Length: 19") + CREDENTIALS
CHUNKED = (
    head(b"POST /user/login HTTP/1.1", HOST, FORM, b"Transfer-Encoding: chunked")
    + b"7\r\nuserId=\r\nC;x=y\r\n7&password=p\r\n0\r\nTrailer: 1\r\n\r\n"
)
PARTS = (
    b"".join(
        b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        % (BOUNDARY.encode(), *pair)
        for pair in ((b"userId", b"7"), (b"password", b"p"))
    )
    + b"--%s--\r\n" % BOUNDARY.encode()
)
MULTIPART = (
    head(
        b"POST /user/login HTTP/1.1",
        HOST,
        (b"Content-Type", b"multipart/form-data; boundary=" + BOUNDARY.encode()),
        b"Content-Length: %d" % len(PARTS),
    )
    + PARTS
)
PREFLIGHT = head(
    b"OPTIONS /user/login HTTP/1.1",
    HOST,
    (b"Origin", b"https://chat.example.org"),
    (b"Access-Control-Request-Method", b"POST"),
    (b"Access-Control-Request-Headers", b"userId, token"),
)
HANDSHAKE = head(b"GET /group/chat/1/fuzz/t HTTP/1.1", *UPGRADE)
LIST_HANDSHAKE = head(b"GET /group/list/fuzz/t HTTP/1.1", *UPGRADE)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


FRAMES = client_frame(1, b"hello") + client_frame(9, b"?") + client_frame(8, b"\x03\xe8")
CONVERSATIONS = (
    PAGE,
    LOGIN,
    CHUNKED,
    MULTIPART,
    PREFLIGHT,
    HANDSHAKE + FRAMES,
    LIST_HANDSHAKE + FRAMES,
    PAGE.replace(b"GET", b"HEAD", 1) + PAGE,
    LOGIN + PAGE + LOGIN,
    PAGE + HANDSHAKE + FRAMES,
    LOGIN + CHUNKED + PAGE,
)
conversations = st.sampled_from(CONVERSATIONS)


# --- heads


@FUZZ
@given(in_pieces(st.binary(max_size=600) | soup | runs))
@example([b"\r\n\r\n"])
@example([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"])
def test_any_bytes(house: House, pieces: list[bytes]) -> None:
    """What is no request gets one answer at most, and it is a refusal."""
    answers = exchange(house, *pieces)
    assert [answer.status for answer in answers] in ([], [400], [431])


@FUZZ
@given(in_pieces(mutated(conversations)))
def test_nearly_good_requests(house: House, pieces: list[bytes]) -> None:
    """Good conversations with a few bytes changed."""
    exchange(house, *pieces)


def mostly(good: bytes, *odd: bytes, weight: int = 6) -> st.SearchStrategy[bytes]:
    """Nearly always the good one."""
    return st.sampled_from((*weight * [good], *odd))


ODD_METHODS = (b"PRI", b"get", b"", b"G T", b"GET\t", b"M" * 21, b"!", b"QUERY", b"\xff")
METHODS = (b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"CONNECT")
methods = st.sampled_from((*METHODS, *ODD_METHODS))
versions = mostly(
    b"HTTP/1.1",
    *(
        b"HTTP/1.0",
        b"HTTP/1.2",
        b"HTTP/2.0",
        b"HTTP/0.9",
        b"HTTP/11",
        b"http/1.1",
        b"",
        b"HTTP/1.1 ",
    ),
    weight=8,
)
PATHS = (b"/test/websocket", b"/user/login", b"/group/listMessage", b"/group/chat/1/u/t", b"/")
ODD_TARGETS = (
    *(b"*", b"*x", b"", b"?", b"\\", b"//", b"///test/websocket", b"//[", b"/..", b"/?%", b"/#x"),
    *(b"/%00", b"/%", b"/%ff%fe", b"/%e5%bc%a0", b"/\xff", b"/\x00", b"/a;b=c", "/张三".encode()),
    *(b"/../../etc/passwd", b"/test/static/%2e%2e/app.py", b"/test/static/..%2fapp.py"),
    *(b"http://localhost/test/websocket", b"http://localhost", b"http://localhost?x", b"http://"),
    *(b"http://[", b"http://[::1/", b"http://[::1]:99999/", b"http://user:pw@localhost:/x"),
    *(b"HTTP://LOCALHOST/", b"https://localhost/", b"ftp://x/", b"localhost:80", b"http:/x"),
    b"/user/login?userId=%ff&password=%00&&=&a[]=b",
)
targets = st.one_of(
    st.sampled_from(PATHS),
    st.sampled_from(ODD_TARGETS),
    st.builds(lambda path, tail: path + tail, st.sampled_from(PATHS), soup | runs),
    st.lists(st.sampled_from((b"%2e", b"%00", b"%e5", b"%", b"/", b"..", b"a", b"?", b";"))).map(
        lambda each: b"/" + b"".join(each)
    ),
)
NAMES = (
    *(b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"Expect"),
    *(b"Content-Type", b"Content-Encoding", b"Cookie", b"Origin", b"userId", b"token", b"Range"),
    *(b"Sec-WebSocket-Key", b"Sec-WebSocket-Version", b"Sec-WebSocket-Protocol", b"TE", b"Trailer"),
    *(b"Sec-WebSocket-Extensions", b"HTTP2-Settings", b"X-Forwarded-For", b"Forwarded", b"Accept"),
    *(b"Access-Control-Request-Method", b"Access-Control-Request-Headers", b"Authorization"),
    *(
        b"If-None-Match",
        b"If-Modified-Since",
        b"If-Range",
        b"Keep-Alive",
        b"Date",
        b"Accept-Language",
    ),
)
names = st.one_of(st.sampled_from(NAMES), words, soup)
ODD_VALUES = (
    *(
        b"",
        b"0",
        b"5",
        b"-1",
        b"+5",
        b"1e3",
        b"0x5",
        b"99999999999999999999",
        b"5, 5",
        b"*",
        b"a b",
    ),
    *(b"chunked", b"gzip, chunked", b"identity", b"close", b"keep-alive, Upgrade", b"100-continue"),
    *(b"websocket", b"h2c", b"13", b"8", b"AAMAAABkAAQCAAAA", b"bytes=0-1", b"null", b"Basic ===="),
    *(b"text/plain", b"multipart/form-data", b"https://chat.example.org", b"localhost:99999"),
    *(b"[::1", b'for="[::1]:80"', b"127.0.0.1, ,x", b'W/"', "张三".encode(), b"\xff\xfe"),
)
values = st.one_of(st.sampled_from(ODD_VALUES), words, soup, runs)
field_lines = st.one_of(
    st.builds(lambda name, value: name + b": " + value, names, values),
    st.builds(lambda name, gap, value: name + gap + value, names, scraps, values),
)


@FUZZ
@given(methods, targets, versions, st.booleans(), st.lists(field_lines, max_size=6), soup)
def test_any_head(
    house: House,
    method: bytes,
    target: bytes,
    version: bytes,
    with_host: bool,
    fields: list[bytes],
    rest: bytes,
) -> None:
    """Odd methods, targets and versions, with any fields, and something behind the head."""
    host = [b"Host: localhost"] if with_host else []
    exchange(house, head(b" ".join((method, target, version)), *host, *fields) + rest)


@FUZZ
@given(
    st.sampled_from((b"GET", b"POST", b"OPTIONS", b"HEAD")), targets, st.sampled_from(NAMES), values
)
def test_one_odd_thing_in_a_good_head(
    house: House, method: bytes, target: bytes, name: bytes, value: bytes
) -> None:
    """Odd targets and fields get as far as they can when all else is good."""
    host = [] if name == b"Host" else [HOST]
    exchange(house, head(b"%s %s HTTP/1.1" % (method, target), *host, (name, value)))
    exchange(house, head(b"%s /user/login HTTP/1.1" % method, *host, (name, value)))


@FUZZ
@given(
    st.sampled_from(
        (b"X", b"Cookie", b"Content-Type", b"Accept", b"Connection", b"X-Forwarded-For")
    ),
    runs,
    st.sampled_from((b"", b"x", b"\x01", b"\r", b"\xff", b'"', b"=")),
    st.integers(1, 3),
)
@example(b"X", b" " * 16_000, b"\x01", 1)
@example(b"X", b"\t" * 16_000, b"x", 1)
@example(b"Content-Type", b'multipart/form-data; boundary="' + b'\\"' * 7_500, b"", 1)
def test_long_fields(house: House, name: bytes, run: bytes, tail: bytes, times: int) -> None:
    """Long runs of one thing, alone or repeated, cost next to nothing: the member hears itself."""
    exchange(house, head(b"POST /user/login HTTP/1.1", HOST, *(times * [(name, run + tail)])))


@FUZZ
@given(st.integers(0, 6_000), st.sampled_from((b"", b"a", b"a:", b"a:b", b":", b"Host: x", b" ")))
def test_many_fields(house: House, count: int, line: bytes) -> None:
    """Thousands of small fields, whether they are any or not."""
    exchange(house, head(b"GET /test/websocket HTTP/1.1", HOST, *(count * [line])))


# --- upgrades

ODD = ("张三".encode(), b"\xff\xfe", b"", b"\x80", b" ")
HANDSHAKE_PARTS: dict[bytes, tuple[tuple[bytes, ...], tuple[bytes, ...]]] = {
    b"Connection": (
        (b"Upgrade", b"keep-alive, upgrade", b"x,UPGRADE,y"),
        (b"keep-alive", b"Upgrade2", b"close", *ODD),
    ),
    b"Upgrade": ((b"websocket", b"WebSocket"), (b"h2c", b"websocket, h2c", b"websocket/13", *ODD)),
    b"Sec-WebSocket-Version": ((b"13",), (b"8", b"13, 8", b"013", b"13.0", b"-13", *ODD)),
    b"Sec-WebSocket-Key": (
        (b"MDEyMzQ1Njc4OWFiY2RlZg==",),
        (b"MDEy", b"=" * 24, b"MDEyMzQ1Njc4OWFiY2RlZg", b"MDEyMzQ1Njc4OWFiY2RlZg==x", *ODD),
    ),
    b"Sec-WebSocket-Protocol": ((b"chat", b"a, b", *ODD), ()),
    b"Sec-WebSocket-Extensions": ((b"permessage-deflate", b"x; y=z", *ODD), ()),
    b"Cookie": ((b"a=b", *ODD), ()),
    b"Content-Length": ((b"0",), (b"5", b"00005", b"-1", *ODD)),
}
"""Values of a handshake's fields that make a socket, and values that make none."""
NEEDED = frozenset(
    (b"Connection", b"Upgrade", b"Sec-WebSocket-Version", b"Sec-WebSocket-Key"),
)


@st.composite
def handshakes(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A handshake, and whether it is a good one."""
    is_good = True
    lines: list[tuple[bytes, bytes]] = [HOST]
    for name, (good, bad) in HANDSHAKE_PARTS.items():
        choice = draw(st.sampled_from((*12 * ["good"], "bad", "none")))
        if choice == "good" or (choice == "bad" and not bad):
            lines.append((name, draw(st.sampled_from(good))))
        elif choice == "bad":
            lines.append((name, draw(st.sampled_from(bad))))
            is_good = False
        elif name in NEEDED:
            is_good = False
    method = draw(mostly(b"GET", b"POST", b"OPTIONS", b"PRI", weight=9))
    path = draw(st.sampled_from((b"/group/chat/1/u/t", b"/group/list/u/t", b"/group/chat/1/u/")))
    is_good = is_good and method == b"GET" and not path.endswith(b"/")
    lines = draw(st.permutations(lines))
    return head(b"%s %s HTTP/1.1" % (method, path), *lines), is_good


@FUZZ
@given(handshakes(), soup)
def test_only_a_good_handshake_makes_a_socket(
    house: House, handshake: tuple[bytes, bool], rest: bytes
) -> None:
    """Every needed field is there and right, or there is no 101; bytes beyond ASCII do no harm."""
    data, is_good = handshake
    answers = exchange(house, data + rest)
    assert [answer.status == 101 for answer in answers[:1]] == [is_good]
    assert 101 not in [answer.status for answer in answers[1:]]


@FUZZ
@given(st.sampled_from((PAGE, LOGIN, CHUNKED, PREFLIGHT)), handshakes(), soup)
def test_only_a_good_second_request_makes_a_socket(
    house: House, first: bytes, second: tuple[bytes, bool], rest: bytes
) -> None:
    """A handshake behind another request is judged like a first one; chunks are the last."""
    data, is_good = second
    answers = exchange(house, first + data + rest)
    assert answers[0].status == 200
    sockets = [answer.status == 101 for answer in answers[1:]]
    assert sockets[:1] == [True] if is_good and first != CHUNKED else True not in sockets


@FUZZ
@given(
    st.sampled_from((b"h2c", b"H2C", b"h2", b"TLS/1.0", b"websocket, h2c", b"h2c, websocket")),
    st.sampled_from((b"GET", b"POST", b"OPTIONS")),
    st.booleans(),
    st.booleans(),
    soup,
)
def test_nothing_else_is_upgraded_to(
    house: House, protocol: bytes, method: bytes, with_body: bool, second: bool, rest: bytes
) -> None:
    """h2c and others, with and without a body, first or second on the connection."""
    upgrade = head(
        b"%s /user/login HTTP/1.1" % method,
        HOST,
        (b"Connection", b"Upgrade, HTTP2-Settings"),
        (b"Upgrade", protocol),
        (b"HTTP2-Settings", b"AAMAAABkAAQCAAAAAAIAAAAA"),
        *([b"Content-Length: 5"] if with_body else []),
    )
    data = upgrade + (b"12345" if with_body else b"") + PREFACE + rest
    answers = exchange(house, (PAGE if second else b"") + data)
    # Behind another request it is just the end.
    assert [answer.status for answer in answers] == ([200] if second else [501])


@FUZZ
@given(st.booleans(), soup)
def test_the_http2_preface_is_refused(house: House, second: bool, rest: bytes) -> None:
    """Nobody speaks HTTP/2 here, not even behind another request."""
    answers = exchange(house, (PAGE if second else b"") + PREFACE + rest)
    assert [answer.status for answer in answers] == ([200] if second else [400])


frame_bytes = st.one_of(
    soup,
    st.binary(max_size=200),
    mutated(st.just(FRAMES)),
    st.lists(
        st.builds(
            lambda first, size, rest: bytes((first, size)) + rest,
            st.integers(0, 255),
            st.integers(0, 255),
            st.binary(max_size=40),
        ),
        max_size=6,
    ).map(b"".join),
    st.lists(st.builds(client_frame, st.integers(0, 15), st.binary(max_size=125)), max_size=6).map(
        b"".join
    ),
)


@FUZZ
@given(st.sampled_from((HANDSHAKE, LIST_HANDSHAKE)), in_pieces(frame_bytes))
def test_any_bytes_after_a_handshake(house: House, opening: bytes, pieces: list[bytes]) -> None:
    """Whatever follows, the daemon's own frames are good ones, and nothing follows its close."""
    [answer] = exchange(house, opening + pieces[0], *pieces[1:])
    assert answer.status == 101


# --- bodies

MARK = BOUNDARY.encode()
MULTIPART_TYPE = b"multipart/form-data; boundary=" + MARK
FORM_TYPE = b"application/x-www-form-urlencoded"
ODD_TYPES = (
    *(b"multipart/form-data", b"multipart/form-data; boundary=", b"multipart/form-data;boundary"),
    *(b'multipart/form-data; boundary="', b'multipart/form-data; boundary="a b"', b"multipart/"),
    *(b"multipart/form-data; boundary=\xff", b"multipart/form-data; boundary=" + b"b" * 300),
    "multipart/form-data; boundary=张".encode(),
    b"multipart/mixed; boundary=" + MARK,
    b"multipart/form-data; charset=nonsense; boundary=" + MARK,
    b"application/x-www-form-urlencoded; charset=nonsense",
    *(b"application/json", b"", b"/", b";"),
)
content_types = st.one_of(
    st.sampled_from((MULTIPART_TYPE, FORM_TYPE)),
    st.sampled_from(ODD_TYPES),
    soup.map(lambda tail: b"multipart/form-data; " + tail),
)
PART = b"Content-Disposition: form-data"
PART_HEADS = (
    *(PART + b'; name="%s"' % name for name in (b"groupId", b"userId", b"password", b"ts", b"")),
    *(
        PART,
        b"Content-Disposition:",
        b"Content-Disposition: x; =",
        b"no field",
        b"",
        b" folded",
        b":",
    ),
    PART + b"; name*=UTF-8''%ff; name*0=a; name*1=b",
    PART + b"; name*=nonsense'x'groupId",
    PART + b'; name="groupId"; filename="a"',
    PART + b'; name="userId"; filename="\xff\x00"\r\nContent-Type: x',
    PART + b'; name="ts"\r\nContent-Type: text/plain; charset=nonsense',
    PART + b'; name="ts"\r\nContent-Type: text/plain; charset=utf-7',
    PART + b'; name="ts"\r\nContent-Length: 99999',
    PART + b'; name="count"\r\nContent-Transfer-Encoding: base64',
)
parts = st.builds(
    lambda mark, line_end, part_head, gap, body: mark + line_end + part_head + gap + body,
    mostly(b"--" + MARK, b"--", b"", b"-- ", b"--x", b"\r\n--"),
    mostly(b"\r\n", b"\n", b"\r", b"", b" \r\n"),
    st.sampled_from(PART_HEADS) | soup,
    mostly(b"\r\n\r\n", b"\n\n", b"\r\n", b""),
    st.sampled_from((b"7", b"0", b"-1", b"99999999999", b"", b"\xff")) | soup,
)
multiparts = st.builds(
    lambda before, each, between, end: before + between.join((*each, end)),
    mostly(b"", b"preamble\r\n", b"\r\n"),
    st.lists(parts, max_size=6),
    mostly(b"\r\n", b"\n", b""),
    mostly(b"--%s--\r\n" % MARK, b"", b"--" + MARK),
)
form_names = st.sampled_from(
    (b"groupId", b"userId", b"password", b"ts", b"count", b"startPage", b"endPage", b"", b"%ff")
)
forms = st.lists(
    st.builds(
        lambda name, sign, value: name + sign + value,
        form_names,
        mostly(b"=", b"", b"==", b"%3d"),
        st.sampled_from((b"1", b"0", b"-1", b"9007199254740991", b"%ff", b"%", b"+", b"%00"))
        | soup,
    ),
    max_size=8,
).map(b"&".join)
ROUTES = (
    *(b"/user/login", b"/user/joinGroup", b"/user/leaveGroup", b"/user/listGroup"),
    *(b"/group/listMessage", b"/group/listOldMessage", b"/group/delMessage"),
)
bodies = st.one_of(multiparts, mutated(st.just(PARTS)), forms, soup, st.binary(max_size=2_000))


@FUZZ
@given(st.sampled_from(ROUTES), content_types, bodies, st.booleans())
@example(b"/user/login", b"multipart/form-data; boundary=x", b"--x\r\n" * 10_000, False)
@example(b"/user/login", b"application/x-www-form-urlencoded", b"&" * 100_000, False)
@example(b"/user/login", b"application/x-www-form-urlencoded", b"a=b&" * 100_000, False)
def test_broken_forms(
    house: House, route: bytes, content_type: bytes, body: bytes, chunked: bool
) -> None:
    """Forms that are broken in every way get an answer that says so, or do what they say."""
    if chunked and body:
        length, body = b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    else:
        length = b"Content-Length: %d" % len(body)
    opening = head(b"POST %s HTTP/1.1" % route, HOST, (b"Content-Type", content_type), length)
    opening = opening[:-2] + house.fields + b"\r\n"
    answers = exchange(house, opening, body)
    if re.search(rb"[^\t -~\x80-\xff]", content_type):
        return  # no header field, and perhaps two heads
    [answer] = answers
    assert answer.status in (200, 400, 413)
    assert json.loads(answer.body)["code"] in (200, 100, 400, 413)


SMUGGLED_LOGIN = (
    head(b"POST /user/login HTTP/1.1", HOST, FORM, b"Content-Length: 26", b"Connection: close")
    + b"userId=smuggled&password=p"
)
SMUGGLED = SMUGGLED_LOGIN + head(b"GET /group/chat/1/smuggled/t HTTP/1.1", *UPGRADE)


def lengths(size: int) -> tuple[tuple[bytes, ...], ...]:
    """Header fields that say ``size`` bytes or chunks follow, rightly or in two ways."""
    length = b"Content-Length: %d" % size
    chunks = b"Transfer-Encoding: chunked"
    return (
        (length,),
        (length, length),
        (length, b"Content-Length: 0"),
        (b"Content-Length: 0", length),
        (b"Content-Length: 0, %d" % size,),
        (b"Content-Length: +%d" % size,),
        (b"Content-Length: 0x%x" % size,),
        (b"Content-Length: %d_0" % size,),
        (b"Content-Length:\x0b%d" % size,),
        (b"Content-Length : %d" % size,),
        (b" Content-Length: %d" % size,),
        (b"X: y\nContent-Length: %d" % size,),
        (b"Content-Length:\r\n %d" % size,),
        (length, chunks),
        (chunks, length),
        (chunks, b"Content-Length: 0"),
        (chunks,),
        (chunks, chunks),
        (b"Transfer-Encoding: chunked, identity",),
        (b"Transfer-Encoding: identity, chunked",),
        (b"Transfer-Encoding: gzip",),
        (b"Transfer-Encoding: xchunked",),
        (b"Transfer-Encoding: Chunked",),
        (b"Transfer-Encoding: \tchunked",),
        (b"Transfer-Encoding:",),
        (b"Transfer-Encoding : chunked",),
        (b"Transfer-Encoding\xff: chunked",),
        (b"Transfer-Encoding:\x0bchunked",),
        (b'Transfer-Encoding: "chunked"',),
    )


CHUNK_SIZES = (
    *(b"%x", b"%X", b"0%x", b"%x;a=b", b'%x;a="\r\n"', b"%x ", b" %x", b"+%x", b"-%x", b"0x%x"),
    *(b"%x\n", b"%x_", b"%xg", b"\x0b%x", b"00000000000000000000%x", b"fffffffffffffffff%x"),
    b"%x;" + b"a" * 9_000,
)
CHUNK_ENDS = (b"\r\n", b"\n", b"", b"\r", b"xx", b"\r\n\r\n")
TRAILERS = (
    *(b"0\r\n\r\n", b"0\r\n", b"0;\r\n\r\n", b"", b"0\n\n", b"00\r\n\r\n", b"0\r\n: \r\n\r\n"),
    *(b"0\r\nContent-Length: 5\r\n\r\n", b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    b"0\r\n" + b"a: b\r\n" * 4_000 + b"\r\n",
)


@FUZZ
@given(
    st.integers(0, len(lengths(0)) - 1),
    st.booleans(),
    st.sampled_from(CHUNK_SIZES),
    st.sampled_from(CHUNK_ENDS),
    st.sampled_from(TRAILERS),
)
def test_no_request_is_smuggled_in_a_body(
    house: House, framing: int, in_chunks: bool, size: bytes, end: bytes, trailer: bytes
) -> None:
    """What stands in a body is never done, however its length is told, or not at all."""
    body = SMUGGLED
    if in_chunks:
        body = (size % len(SMUGGLED)) + b"\r\n" + SMUGGLED + end + trailer
    fields = lengths(len(body))[framing]
    exchange(house, head(b"POST /user/listGroup HTTP/1.1", HOST, FORM, *fields) + body + PAGE)
    # A length that is none leaves the body unread, or refuses it.
    assert house.redis.exists("login:smuggled", "ugs:smuggled") == 0


@settings(FUZZ, max_examples=FUZZ.max_examples // 5)  # a missing byte is waited for, for a while
@given(st.sampled_from((LOGIN, MULTIPART, CHUNKED)), st.integers(-30, 30), st.booleans(), soup)
def test_bodies_longer_and_shorter_than_said(
    house: House, whole: bytes, change: int, wait: bool, rest: bytes
) -> None:
    """Missing bytes are the end; bytes too many are another request, and seldom a good one."""
    data = whole[:change] if change < 0 else whole + rest[:change]
    pieces = data.partition(b"\r\n\r\n") if wait else (data,)
    answers = exchange(house, *pieces)
    if change >= 0:
        assert answers[0].status == 200


# --- ends


@FUZZ
@given(
    conversations.flatmap(lambda data: st.tuples(st.just(data), st.integers(0, len(data)))),
    st.sampled_from(("half", "close", "reset")),
)
def test_connections_cut_at_any_byte(house: House, cut: tuple[bytes, int], ending: str) -> None:
    """A client may go at any time and in any way."""
    data, at = cut
    exchange(house, data[:at], ending=ending)


@dataclass
class Crowd:
    """Connections that are open at the same time, and how each ends."""

    sent: list[list[bytes]]
    order: list[int]
    endings: list[str]


@st.composite
def crowds(draw: st.DrawFn) -> Crowd:
    sent = draw(st.lists(in_pieces(mutated(conversations)), min_size=2, max_size=8))
    turns = [number for number, pieces in enumerate(sent) for _ in pieces]
    endings = st.sampled_from(("half", "close", "reset"))
    return Crowd(sent, draw(st.permutations(turns)), [draw(endings) for _ in sent])


@FUZZ
@given(crowds())
def test_many_at_once(house: House, crowd: Crowd) -> None:
    """Connections that come, speak and go in any order get the answers that are theirs."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(dial(house.daemon.address)) for _ in crowd.sent]
        left = [iter(pieces) for pieces in crowd.sent]
        for number in crowd.order:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                opened[number].sendall(next(left[number]))
        end_all(opened, crowd.endings)
        for raw, pieces in zip(opened, crowd.sent, strict=True):
            if raw.fileno() >= 0:
                read_answers(read_end(raw), may_lack_body=b"HEAD" in b"".join(pieces))


def end_all(opened: Iterable[socket.socket], endings: Iterable[str]) -> None:
    for raw, ending in zip(opened, endings, strict=True):
        if ending == "half":
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_WR)
            continue
        if ending == "reset":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
