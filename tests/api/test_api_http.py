"""The server API's own path of HTTP: bodies of any kind, and many requests on a connection."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from calling import SECRETS, SETTINGS, Line, admin_of, backend, line_to, request_of
from clients import TEXT, client_frame, memory_of, opening, take_frames, talking
from conftest import Daemon, ShareDaemon, StartDaemon, wait_for
from test_api_methods import GROUP

from fastimd.api.server import BODY_SECONDS, MAX_BODY_BYTES
from fastimd.door.chunks import Chunks

SAY = {"channel": GROUP, "data": "x"}
STATS = request_of("presence_stats", {"channel": GROUP})
NOBODY = {"result": {"num_clients": 0, "num_users": 0}}


@pytest.fixture
def daemon(share_daemon: ShareDaemon) -> Daemon:
    return share_daemon(**SETTINGS)


@pytest.fixture(params=["public", "admin"])
def address(request: pytest.FixtureRequest, daemon: Daemon) -> str:
    return admin_of(daemon) if request.param == "admin" else daemon.address


def chunked(body: bytes, sizes: list[int], trailer: bytes = b"", extension: bytes = b"") -> bytes:
    """A body in chunks of these sizes, the rest in one."""
    parts = []
    for size in [*sizes, len(body)]:
        part, body = body[:size], body[size:]
        if part:
            parts.append(b"%x%b\r\n%b\r\n" % (len(part), extension, part))
    return b"".join(parts) + b"0\r\n" + trailer + b"\r\n"


def in_chunks(method: str, data: bytes, **options: Any) -> bytes:
    """A call whose body comes in chunks that are already made."""
    return request_of(method, data, head="Transfer-Encoding: chunked\r\n", **options)


# One connection


def test_a_body_may_come_in_chunks(address: str) -> None:
    """Of any size, with extensions and trailers, and cut anywhere by the network."""
    rng = random.Random(7)
    with line_to(address) as line:
        for number in range(60):
            body = json.dumps({"channel": GROUP, "data": "y" * rng.randrange(200)}).encode()
            sizes = [rng.randrange(1, 40) for _ in range(rng.randrange(6))]
            whole = in_chunks(
                "publish",
                chunked(
                    body,
                    sizes,
                    rng.choice([b"", b"X-Checked: yes\r\n"]),
                    rng.choice([b"", b";x=y"]),
                ),
            )
            if number % 3:
                cut = rng.randrange(1, len(whole))
                line.say(whole[:cut])
                time.sleep(0.002)
                whole = whole[cut:]
            line.say(whole)
            assert line.hear().json["result"]["offset"] > 0
        assert line.buffer == b""


def test_requests_in_one_packet_are_answered_in_order(address: str) -> None:
    """A client need not wait for answers; bodies with a length and in chunks follow each other."""
    with line_to(address) as line:
        body = json.dumps(SAY).encode()
        line.say(
            b"".join(
                request_of("publish", SAY)
                + in_chunks("presence_stats", chunked(b'{"channel":"x"}', [3]))
                + in_chunks("publish", chunked(body, [1, 1]))
                for _ in range(50)
            )
        )
        given = []
        for _ in range(50):
            given.append(line.hear().json["result"]["offset"])
            assert line.hear().json == NOBODY
            given.append(line.hear().json["result"]["offset"])
    assert given == sorted(set(given))


def test_a_client_that_asks_first_is_told_to_go_on(address: str) -> None:
    """``Expect: 100-continue`` gets its line before the body, and not if it is refused."""
    body = json.dumps(SAY).encode()
    whole = request_of("publish", body, head="Expect: 100-continue\r\n")
    head, data = whole[: -len(body)], whole[-len(body) :]
    with line_to(address) as line:
        for _ in "12":
            line.say(head)
            assert line.hear().status == 100
            line.say(data)
            assert line.hear().json["result"]["offset"] > 0
        line.say(head.replace(SECRETS["game"].encode(), b"wrong"))
        answer = line.hear()
        assert (answer.status, answer.fields["connection"]) == (401, "close")
        assert line.is_at_end()


def test_the_api_shares_a_connection_with_all_else(daemon: Daemon) -> None:
    """Calls, the routes of Fast-IM, the page, and at last a socket, on which the chat goes on."""
    page = b"GET /test/websocket HTTP/1.1\r\nHost: localhost\r\n\r\n"
    login = b"userId=1&password=123456"
    post = (
        b"POST /user/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n%b" % (len(login), login)
    )
    with line_to(daemon.address) as line:
        for _ in range(3):
            line.say(STATS + page + STATS + STATS + post)
            assert line.hear().json == NOBODY
            assert b"<html" in line.hear().body
            assert line.hear().json == NOBODY
            assert line.hear().json == NOBODY
            assert line.hear().json["code"] == 200
        line.say(request_of("publish", SAY) + opening(f"/group/chat/{GROUP}/bo/t"))
        assert line.hear().json["result"]["offset"] > 0
        head = line._until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        line.say(client_frame(TEXT, b"hello"))
        heard = bytearray(line.buffer)
        while b"hello" not in heard:
            heard += line.stream.recv(65536)
        assert json.loads(take_frames(heard)[-1].payload)["info"] == "hello"


def test_the_admin_address_has_its_app_beside_the_api(daemon: Daemon) -> None:
    """On one connection, in either order."""
    scrape = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with line_to(admin_of(daemon)) as line:
        for _ in range(3):
            line.say(STATS + scrape + STATS)
            assert line.hear().json == NOBODY
            assert b"fastimd_api_calls_total" in line.hear().body
            assert line.hear().json == NOBODY


@pytest.mark.parametrize(
    ("version", "connection", "is_kept"),
    [
        ("1.1", "", True),
        ("1.1", "keep-alive", True),
        ("1.1", "close", False),
        ("1.1", "Close, X", False),
        ("1.0", "", False),
        ("1.0", "keep-alive", True),
        ("1.0", "Keep-Alive", True),
    ],
)
def test_a_connection_lives_as_its_client_wants(
    address: str, version: str, connection: str, is_kept: bool
) -> None:
    """And the answer says so, to a client of HTTP/1.0 too."""
    head = f"Connection: {connection}\r\n" if connection else ""
    call = request_of("presence_stats", {"channel": GROUP}, version=version, head=head)
    with line_to(address) as line:
        line.say(call)
        answer = line.hear()
        assert answer.json == NOBODY
        told = answer.fields.get("connection")
        kept = "keep-alive" if version == "1.0" else None
        assert told == (kept if is_kept else "close")
        if is_kept:
            line.say(call)
            assert line.hear().json == NOBODY
        else:
            assert line.is_at_end()


@pytest.mark.parametrize("verb", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "QUERY"])
def test_only_post_calls(address: str, verb: str) -> None:
    """Another verb is told so, without a call; what answers HEAD has no body."""
    with line_to(address) as line:
        for _ in "12":
            line.say(request_of("publish", b"").replace(b"POST", verb.encode(), 1))
            answer = line.hear(of_head=verb == "HEAD")
            assert (answer.status, answer.fields["allow"]) == (405, "POST")
            line.say(STATS)
            assert line.hear().json == NOBODY
        line.say(request_of("publish", SAY).replace(b"POST", verb.encode(), 1))
        assert line.hear(of_head=verb == "HEAD").status == 405
        assert line.is_at_end()


def test_the_description_may_be_asked_for_by_head(address: str) -> None:
    """With the length that it has."""
    with line_to(address) as line:
        line.say(request_of("openapi.json", b"").replace(b"POST", b"GET", 1))
        size = len(line.hear().body)
        line.say(request_of("openapi.json", b"").replace(b"POST", b"HEAD", 1))
        answer = line.hear(of_head=True)
        assert (answer.status, int(answer.fields["content-length"])) == (200, size)
        line.say(STATS)
        assert line.hear().json == NOBODY


def test_an_answer_has_the_id_of_its_request(daemon: Daemon) -> None:
    """As the line of the log has; on one connection each call has its own."""
    with line_to(daemon.address) as line:
        named = []
        for number in range(3):
            line.say(request_of("publish", SAY, head=f"X-Request-Id: mine-{number}\r\n"))
            named.append(line.hear().fields["x-request-id"])
    wait_for(lambda: len(daemon.events("api.call")) == 3, daemon)
    assert [each["request_id"] for each in daemon.events("api.call")] == named
    assert len(set(named)) == 3
    assert not any(each.startswith("mine") for each in named)


def test_a_proxy_names_the_requests(share_daemon: ShareDaemon) -> None:
    """One that is trusted: its id is in the answer and in the log."""
    daemon = share_daemon(server__trusted_proxies="127.0.0.1", **SETTINGS)
    with line_to(daemon.address) as line:
        for number in range(3):
            line.say(request_of("publish", SAY, head=f"X-Request-Id: mine-{number}\r\n"))
            assert line.hear().fields["x-request-id"] == f"mine-{number}"
    wait_for(lambda: len(daemon.events("api.call")) == 3, daemon)
    assert [each["request_id"] for each in daemon.events("api.call")] == [
        f"mine-{number}" for number in range(3)
    ]


# Bodies that are no good


GARBAGE: dict[str, bytes] = {
    "no JSON": b"hello",
    "cut JSON": b'{"channel": "x", "data"',
    "two values": b"{} {}",
    "a form": b"channel=x&data=y",
    "no UTF-8": b'{"channel": "\xff", "data": "x"}',
    "UTF-16": '{"channel": "x", "data": "x"}'.encode("utf-16"),
    "a NUL in an id": b'{"channel": "a\\u0000b", "data": "x"}',
    "a bare NUL": b'{"channel": "a\x00b", "data": "x"}',
    "half a pair": b'{"channel": "\\ud800", "data": "x"}',
    "deep": b"[" * 100_000,
    "deep data": b'{"channel": "x", "data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep and ignored": b'{"channel":"","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of a megabyte": b'{"channel": ' + b"9" * 1_000_000 + b"}",
    "nothing": b"",
    "white space": b" \n",
    "a BOM": b'\xef\xbb\xbf{"channel": "x", "data": "x"}',
}


@pytest.mark.parametrize("what", GARBAGE)
@pytest.mark.parametrize("name", ["publish", "batch"])
def test_garbage_is_a_bad_request(daemon: Daemon, what: str, name: str) -> None:
    """With the reason, and the next call on the connection is done."""
    with line_to(daemon.address) as line:
        line.say(request_of(name, GARBAGE[what]))
        answer = line.hear()
        assert answer.status in (200, 400)
        assert answer.json["error"]["code"] == 107, answer
        assert answer.json["error"]["message"].startswith("bad request: ")
        assert len(answer.body) < 1000
        line.say(STATS)
        assert line.hear().json == NOBODY
    assert not daemon.events("api.crashed")


@pytest.mark.parametrize("what", ["hello", '{"channel'])
def test_what_is_no_json_has_the_status_400(daemon: Daemon, what: str) -> None:
    """As in Centrifugo; a field that is wrong has 200."""
    answer = backend(daemon).send("publish", what.encode())
    assert (answer.status, answer.json["error"]["code"]) == (400, 107)


def test_deep_data_within_reason_is_said(daemon: Daemon) -> None:
    """As deep as it may be on the live wire."""
    game = backend(daemon)
    deep = b"[" * 500 + b"]" * 500
    body = b'{"channel": "match-1", "data": %b}' % deep
    assert game.call("publish", body)["offset"] > 0


def test_a_body_has_at_most_eight_megabytes(address: str) -> None:
    """One byte more is refused before it is read, or in chunks when it is; and not in memory."""
    fill = b" " * (MAX_BODY_BYTES - len(json.dumps(SAY)))
    with line_to(address) as line:
        line.say(request_of("publish", json.dumps(SAY).encode() + fill))
        assert line.hear().json["result"]["offset"] > 0
        line.say(
            request_of("publish", b"")[:-4].replace(b": 0", f": {MAX_BODY_BYTES + 1}".encode())
        )
        line.say(b"\r\n\r\n")
        answer = line.hear()
        assert (answer.status, answer.json["error"]["code"]) == (413, 107)
        assert answer.fields["connection"] == "close"
        assert line.is_at_end()


@pytest.mark.parametrize("kind", ["length", "chunks", "chunk lines"])
def test_who_sends_all_of_a_long_body_hears_why_it_is_refused(daemon: Daemon, kind: str) -> None:
    """Though the client reads only when it has written everything, as most do."""
    before = memory_of(daemon)
    size = MAX_BODY_BYTES + 1
    bodies: dict[str, Callable[[], bytes]] = {
        "length": lambda: request_of("publish", b" " * size),
        "chunks": lambda: in_chunks("publish", chunked(b" " * size, [65_536] * 128)),
        "chunk lines": lambda: in_chunks(
            "publish", (b"1;%b\r\n \r\n" % (b"x" * 8000)) * 2200 + b"0\r\n\r\n"
        ),
    }
    for _ in range(3):
        with line_to(daemon.address) as line:
            line.say(bodies[kind]())
            assert line.hear().status == 413
    with line_to(daemon.address) as line:
        line.say(request_of("publish", b" " * 3_000_000, key="wrong"))
        assert line.hear().status == 401
    assert memory_of(daemon) - before < 4 * MAX_BODY_BYTES


MALFORMED: dict[str, bytes] = {
    "no hexadecimal": b"xyz\r\n",
    "a sign": b"-1\r\n",
    "too long a size": b"1" * 17 + b"\r\n",
    "no size": b"\r\n",
    "an endless line": b"1;" + b"x" * 20_000,
    "bare LF": b"2\n{}\n0\n\n",
    "no end of the chunk": b"2\r\n{}XX0\r\n\r\n",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_chunks_are_refused(daemon: Daemon, what: str) -> None:
    """And the connection ends: nobody knows where the next request would begin."""
    with line_to(daemon.address) as line:
        line.say(in_chunks("presence_stats", MALFORMED[what]))
        answer = line.hear()
        assert (answer.status, answer.json["error"]["code"]) == (400, 107)
        assert line.is_at_end()


@pytest.mark.parametrize(
    "fields",
    [
        "Content-Length: x\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_a_length_that_can_be_read_in_two_ways_is_refused(address: str, fields: str) -> None:
    """By the door, before anybody acts on it."""
    with line_to(address) as line:
        line.say(
            f"POST /api/info HTTP/1.1\r\nHost: x\r\nX-API-Key: {SECRETS['game']}\r\n"
            f"{fields}\r\n{{}}".encode()
        )
        assert line.hear().status == 400
        assert line.is_at_end()


def test_a_transfer_coding_that_nobody_knows_is_refused(address: str) -> None:
    """Its body would be read as something that it is not."""
    with line_to(address) as line:
        line.say(
            b"POST /api/info HTTP/1.1\r\nHost: x\r\nX-API-Key: %b\r\n"
            b"Transfer-Encoding: gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n" % SECRETS["game"].encode()
        )
        assert line.hear().status in (400, 501)
        assert line.is_at_end()


def test_a_body_that_is_cut_off_is_no_call(daemon: Daemon) -> None:
    """Nothing is said, and nothing crashes."""
    whole = [
        request_of("publish", SAY),
        in_chunks("publish", chunked(json.dumps(SAY).encode(), [5, 5])),
    ]
    for call in whole:
        for cut in range(len(call) - 30, len(call)):
            with line_to(daemon.address) as line:
                line.say(call[:cut])
    game = backend(daemon)
    assert game.call("history", channel=GROUP, limit=100)["publications"] == []


def test_a_slow_body_is_waited_for_ten_seconds(daemon: Daemon) -> None:
    """Then its client hears so; meanwhile it disturbs nobody."""
    whole = request_of("publish", SAY)
    done = threading.Event()
    heard: list[Any] = []

    def dawdle() -> None:
        with line_to(daemon.address) as line:
            line.say(whole[:-3])
            began = time.monotonic()
            heard.append((line.hear(), time.monotonic() - began))
            done.set()

    slow = threading.Thread(target=dawdle)
    slow.start()
    with talking(daemon), line_to(daemon.address) as line:
        for byte in whole:
            line.say(bytes((byte,)))
        assert line.hear().json["result"]["offset"] > 0
        assert done.wait(BODY_SECONDS + 5)
    slow.join()
    answer, seconds = heard[0]
    assert answer.status == 408
    assert BODY_SECONDS - 1 < seconds < BODY_SECONDS + 3


# The end of a daemon


def test_a_drain_finishes_the_call_that_is_under_way(start_daemon: StartDaemon) -> None:
    """On either address it is answered, as the connection's last."""
    daemon = start_daemon(**SETTINGS)
    whole = request_of("publish", SAY)
    lines = [Line(daemon.address) for _ in range(3)]
    waiting, calling, admin = lines[0], lines[1], Line(admin_of(daemon))
    waiting.say(STATS)
    assert waiting.hear().json == NOBODY
    for line in (calling, admin):
        line.say(whole[:-5])
    time.sleep(0.2)
    daemon.process.send_signal(signal.SIGTERM)
    wait_for(lambda: daemon.events("daemon.draining"), daemon)
    time.sleep(0.3)
    for line in (admin, calling):
        line.say(whole[-5:])
        answer = line.hear()
        assert answer.json["result"]["offset"] > 0
        assert answer.fields["connection"] == "close"
        assert line.is_at_end()
    for line in (*lines, admin):
        line.stream.close()
    daemon.process.wait(10)


# Pure parts


@pytest.mark.parametrize("cut", range(1, 9))
def test_chunks_are_the_same_however_they_are_cut(cut: int) -> None:
    """The content, and how much of the bytes belongs to the body."""
    data = chunked(b'{"channel":"x"}', [1, 2, 7], b"A: b\r\n", b" ;x") + b"POST"
    content = bytearray()
    chunks, taken = Chunks(content), 0
    for start in range(0, len(data), cut):
        taken += chunks.take(data[start : start + cut])
        if chunks.has_ended:
            break
    assert chunks.has_ended
    assert content == b'{"channel":"x"}'
    assert data[taken:] == b"POST"
