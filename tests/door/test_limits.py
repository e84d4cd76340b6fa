"""What one client may take: connections, messages, time; and who a client is behind proxies."""

from __future__ import annotations

import itertools
import json
import re
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
from clients import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Frame,
    RawClient,
    client_frame,
    closing,
    dial,
    kick,
    metrics,
    opening,
    talking,
)
from conftest import Daemon, StartDaemon, connect, receive, wait_for
from redis import Redis

from fastimd.door.clients import Proxies

# Who a client is

TRUSTED = ("10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48")


@pytest.mark.parametrize(
    ("peer", "fields", "client"),
    [
        ("203.0.113.9", {"x-forwarded-for": "6.6.6.6"}, "203.0.113.9"),
        ("203.0.113.9", {"forwarded": "for=6.6.6.6"}, "203.0.113.9"),
        ("10.0.0.1", {}, "10.0.0.1"),
        ("::ffff:10.0.0.1", {"x-forwarded-for": "203.0.113.9"}, "203.0.113.9"),
        ("10.0.0.1", {"x-forwarded-for": "203.0.113.9"}, "203.0.113.9"),
        ("10.0.0.1", {"x-forwarded-for": "203.0.113.9:4711"}, "203.0.113.9"),
        ("10.0.0.1", {"x-forwarded-for": "6.6.6.6, 203.0.113.9"}, "203.0.113.9"),
        ("10.0.0.1", {"x-forwarded-for": "6.6.6.6,203.0.113.9,192.0.2.7"}, "203.0.113.9"),
        ("10.0.0.1", {"x-forwarded-for": "10.0.0.2, 10.0.0.3"}, "10.0.0.2"),
        ("10.0.0.1", {"x-forwarded-for": "203.0.113.9, nonsense, 10.0.0.3"}, "10.0.0.3"),
        ("10.0.0.1", {"x-forwarded-for": "nonsense"}, "10.0.0.1"),
        ("10.0.0.1", {"x-forwarded-for": ""}, "10.0.0.1"),
        ("10.0.0.1", {"x-forwarded-for": "999.1.1.1"}, "10.0.0.1"),
        ("2001:db8:1::5", {"x-forwarded-for": "2001:db8:2::9"}, "2001:db8:2::9"),
        ("10.0.0.1", {"x-forwarded-for": "[2001:DB8:2:0::9]:443"}, "2001:db8:2::9"),
        ("10.0.0.1", {"forwarded": "for=203.0.113.9;proto=https;by=10.0.0.1"}, "203.0.113.9"),
        ("10.0.0.1", {"forwarded": "proto=https; FOR=203.0.113.9"}, "203.0.113.9"),
        ("10.0.0.1", {"forwarded": 'for="[2001:db8:2::9]:4711"'}, "2001:db8:2::9"),
        ("10.0.0.1", {"forwarded": 'for="203.0.113.9:80";by="a,b"'}, "203.0.113.9"),
        ("10.0.0.1", {"forwarded": "for=6.6.6.6, for=203.0.113.9, for=10.0.0.9"}, "203.0.113.9"),
        ("10.0.0.1", {"forwarded": "for=203.0.113.9, for=unknown"}, "10.0.0.1"),
        ("10.0.0.1", {"forwarded": "for=203.0.113.9, for=_hidden, for=10.0.0.9"}, "10.0.0.9"),
        ("10.0.0.1", {"forwarded": "for=203.0.113.9, by=10.0.0.9"}, "10.0.0.1"),
        ("10.0.0.1", {"forwarded": "therefor=203.0.113.9"}, "10.0.0.1"),
        ("10.0.0.1", {"forwarded": 'for="203.0.113.9'}, "10.0.0.1"),
        ("10.0.0.1", {"forwarded": ",,,"}, "10.0.0.1"),
        ("10.0.0.1", {"x-forwarded-for": "203.0.113.9", "forwarded": "for=6.6.6.6"}, "203.0.113.9"),
        # What a client may have a proxy quote, its Host above all, names nobody.
        ("10.0.0.1", {"forwarded": 'host="a;for=6.6.6.6";for=203.0.113.9'}, "203.0.113.9"),
        ("10.0.0.1", {"forwarded": 'for=203.0.113.9;host="a;for=6.6.6.6"'}, "203.0.113.9"),
        ("10.0.0.1", {"forwarded": 'for=203.0.113.9;host="a,for=6.6.6.6"'}, "203.0.113.9"),
        ("10.0.0.1", {"forwarded": r'for=203.0.113.9;host="a\",for=6.6.6.6;x=\"b"'}, "203.0.113.9"),
        ("10.0.0.1", {"forwarded": r'host="a\";for=6.6.6.6;x=\"b";for=203.0.113.9'}, "203.0.113.9"),
        ("10.0.0.1", {"forwarded": 'host="a;for=6.6.6.6"'}, "10.0.0.1"),
        ("10.0.0.1", {"forwarded": r'for="203\.0.113.9"'}, "203.0.113.9"),
        # A quote that a client leaves open does not hide what the proxy adds.
        ("10.0.0.1", {"forwarded": 'for="6.6.6.6, for=203.0.113.9'}, "203.0.113.9"),
        ("10.0.0.1", {"forwarded": 'for=6.6.6.6;x=", for="[2001:db8:2::9]:4"'}, "2001:db8:2::9"),
        ("10.0.0.1", {"forwarded": 'x=", for=203.0.113.9;host="h"'}, "203.0.113.9"),
        ("10.0.0.1", {"forwarded": "for=6.6.6.6;;x, for=203.0.113.9;"}, "203.0.113.9"),
    ],
)
def test_proxies_name_the_client(peer: str, fields: dict[str, str], client: str) -> None:
    """The nearest address that is no trusted proxy's; what is no address ends the chain."""
    given = {name.encode(): value.encode() for name, value in fields.items()}
    assert Proxies(TRUSTED).client_of(peer, given) == client


@pytest.mark.parametrize(
    ("start", "repeated", "end"),
    [
        ("a=", " ", "\\"),
        ("", "a", "\\"),
        ("", ",a", ""),
        ("", ", ", "\\"),
        ("", 'a=",', ""),
        ("", 'a="\\",', ""),
        ("", "a=b;", "\\"),
        ("", "a=   ;", '"'),
        ("", " ", "\\"),
    ],
)
def test_no_client_makes_forwarded_hard_to_read(start: str, repeated: str, end: str) -> None:
    """Four times as much takes about four times as long, not sixteen times or for ever."""

    def cost(size: int) -> float:
        field = (start + repeated * (size // len(repeated)) + end).encode()
        began = time.process_time()
        for _ in range(10):
            assert Proxies(TRUSTED).client_of("10.0.0.1", {b"forwarded": field})
        return time.process_time() - began

    small = min(cost(4000) for _ in range(5))
    large = min(cost(16_000) for _ in range(5))
    assert large < 10 * max(small, 0.001)


@contextmanager
def knock(
    daemon: Daemon, *, source: str = "127.0.0.1", fields: str = ""
) -> Iterator[tuple[socket.socket, int]]:
    """A handshake from an address, with more header fields: the stream and the status."""
    host, _, port = daemon.address.rpartition(":")
    with socket.create_connection((host, int(port)), 10, (source, 0)) as stream:
        stream.sendall(
            opening("/group/chat/1/1/t").replace(b"\r\n\r\n", f"\r\n{fields}\r\n".encode("latin-1"))
        )
        head = b""
        while b"\r\n\r\n" not in head:
            data = stream.recv(65536)
            assert data, head
            head += data
        yield stream, int(head.split(b" ", 2)[1])


def status_of(daemon: Daemon, *, source: str = "127.0.0.1", fields: str = "") -> int:
    with knock(daemon, source=source, fields=fields) as (_, status):
        return status


def test_one_address_has_so_many_connections(start_daemon: StartDaemon) -> None:
    """One more gets 429 and the end; others are let in, and so is it when there is room again."""
    daemon = start_daemon(server__max_connections_per_ip="2")
    with knock(daemon) as (_, first):
        with knock(daemon) as (_, second):
            assert (first, second) == (101, 101)
            with knock(daemon) as (stream, third):
                assert third == 429
                while stream.recv(65536):
                    pass
            assert status_of(daemon, source="127.0.0.2") == 101
        wait_for(lambda: status_of(daemon) == 101, daemon)
    assert metrics(daemon)["fastimd_connections_refused_total"] >= 1


def test_a_half_request_counts_too(start_daemon: StartDaemon) -> None:
    """Who only opens connections and says nothing is held to the limit as well."""
    daemon = start_daemon(server__max_connections_per_ip="2")
    with dial(daemon.address), dial(daemon.address):
        wait_for(lambda: status_of(daemon) == 429, daemon)
    wait_for(lambda: status_of(daemon) == 101, daemon)


@pytest.mark.parametrize("header", ["X-Forwarded-For: {}\r\n", 'Forwarded: for="{}"\r\n'])
def test_clients_of_a_trusted_proxy_are_counted_each(
    start_daemon: StartDaemon, header: str
) -> None:
    """The proxy itself may have any number; IPv6 clients are counted by their network."""
    daemon = start_daemon(
        server__max_connections_per_ip="1", server__trusted_proxies="127.0.0.1/32"
    )
    told = partial(str.format, header)
    with ExitStack() as stack:
        for client in ("203.0.113.1", "203.0.113.2", "[2001:db8:2:3::1]:80"):
            _, status = stack.enter_context(knock(daemon, fields=told(client)))
            assert status == 101
        for client in ("203.0.113.1", "203.0.113.1:99", "[2001:db8:2:3:ffff::9]:81"):
            assert status_of(daemon, fields=told(client)) == 429
        assert status_of(daemon, fields=told("[2001:db8:2:4::1]:80")) == 101
        # 127.0.0.2 is no proxy, so what it says of others counts for nothing.
        _, status = stack.enter_context(knock(daemon, source="127.0.0.2", fields=told("1.1.1.1")))
        assert status == 101
        assert status_of(daemon, source="127.0.0.2", fields=told("1.1.1.2")) == 429
    clients = {line["client"] for line in daemon.events("socket.opened")}
    assert {"203.0.113.1", "203.0.113.2", "2001:db8:2:3::1", "127.0.0.2"} <= clients


CLIENTS = {
    "nothing": ("", "127.0.0.1"),
    "one hop": ("X-Forwarded-For: 203.0.113.9\r\n", "203.0.113.9"),
    "a chain": ("X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.0.0.7\r\n", "203.0.113.9"),
    "fields of two proxies": (
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.9\r\nx-forwarded-for: 10.0.0.7\r\n",
        "203.0.113.9",
    ),
    "the other header": ('Forwarded: for="[2001:db8::9]:47"\r\n', "2001:db8::9"),
    "the other header twice": (
        "Forwarded: for=6.6.6.6\r\nForwarded: for=203.0.113.9, for=10.0.0.7\r\n",
        "203.0.113.9",
    ),
    "both": ("Forwarded: for=6.6.6.6\r\nX-Forwarded-For: 203.0.113.9\r\n", "203.0.113.9"),
    "garbage": ("X-Forwarded-For: 203.0.113.9, <script>, 10.0.0.7\r\n", "10.0.0.7"),
    "only garbage": ("X-Forwarded-For: \x80\xff\r\n", "127.0.0.1"),
    "long garbage": (f"X-Forwarded-For: {'1.' * 4000}\r\n", "127.0.0.1"),
    "empty elements": ("X-Forwarded-For: , ,\r\nForwarded: for=6.6.6.6\r\n", "127.0.0.1"),
}


def test_the_log_tells_the_client_that_trusted_proxies_name(start_daemon: StartDaemon) -> None:
    """In the lines of sockets and of HTTP alike; of an untrusted peer the log tells the peer."""
    trusting = start_daemon(server__trusted_proxies="127.0.0.1/32,10.0.0.0/8")
    for name, (fields, client) in CLIENTS.items():
        for source, expected in (("127.0.0.1", client), ("127.0.0.2", "127.0.0.2")):
            seen = len(trusting.lines)
            assert status_of(trusting, source=source, fields=fields) == 101, name
            page = f"GET /test/websocket HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode("latin-1")
            host, _, port = trusting.address.rpartition(":")
            with socket.create_connection((host, int(port)), 10, (source, 0)) as stream:
                stream.sendall(page)
                assert stream.recv(65536).startswith(b"HTTP/1.1 200 "), name

            def logged(seen: int = seen) -> dict[str, str]:
                return {line["event"]: line["client"] for line in trusting.lines[seen:]}

            wait_for(lambda: {"socket.closed", "http.request"} <= logged().keys(), trusting)
            assert set(logged().values()) == {expected}, (name, source)


# How fast a client may talk


def stored_infos(redis: Redis, group: str) -> list[tuple[int, str]]:
    entries = [json.loads(entry) for entry in redis.lrange(f"gml:{group}", 0, -1)]
    return [(entry["ts"], entry["info"]) for entry in entries]


def test_a_burst_is_slowed_and_loses_nothing(start_daemon: StartDaemon, redis: Redis) -> None:
    """More than the burst comes at the rate, whole and in order; another socket is not slowed."""
    rate, burst, messages = 50, 10, 110
    daemon = start_daemon(
        socket__max_messages_per_second=str(rate), socket__message_burst=str(burst)
    )
    with (
        RawClient(daemon.address, "/group/chat/fast/1/t") as fast,
        RawClient(daemon.address, "/group/chat/calm/2/t") as calm,
    ):
        fast.next_text()
        calm.next_text()
        texts = [str(number) for number in range(messages)]
        fast.stream.sendall(b"".join(client_frame(TEXT, text.encode()) for text in texts))
        for number in range(burst):
            calm.say(str(number))
            assert json.loads(calm.next_text())["info"] == str(number)
        assert redis.llen("gml:fast") < messages
        assert [json.loads(fast.next_text())["info"] for _ in texts] == texts
    stored = stored_infos(redis, "fast")
    assert [info for _, info in stored] == texts
    moments = [ts for ts, _ in stored]
    for index, begin in enumerate(moments):
        in_a_second = sum(begin <= ts < begin + 1000 for ts in moments[index:])
        assert in_a_second <= rate + burst + 2
    assert moments[-1] - moments[0] >= (messages - burst) / rate * 1000 * 0.95


@pytest.mark.timeout(90)
async def test_who_is_closed_does_not_get_its_turn(start_daemon: StartDaemon, redis: Redis) -> None:
    """What waits for its turn when its member is kicked is not said."""
    daemon = start_daemon(socket__max_messages_per_second="0.25", socket__message_burst="1")
    async with connect(daemon.chat_url("7")) as member:
        await receive(member)
        for text in ("said", "not yet"):
            await member.send_message(text)
        assert (await receive(member))["info"] == "said"
        wait_for(lambda: metrics(daemon)["fastimd_messages_received_total"] == 2, daemon)
        await kick(daemon)
        assert await closing(member) == (1008, "kicked")
    wait_for(lambda: daemon.events("socket.closed"), daemon)
    assert [info for _, info in stored_infos(redis, "7")] == ["said"]


@pytest.mark.parametrize(
    ("path", "rate"),
    [("/group/chat/1/1/t", 20), ("/group/chat/1/1/t", 300), ("/group/list/1/t", 20)],
)
def test_a_flood_is_closed(start_daemon: StartDaemon, redis: Redis, path: str, rate: int) -> None:
    """Who stays over the rate for ten seconds is told so, and everybody else stays."""
    daemon = start_daemon(socket__max_messages_per_second=str(rate), socket__message_burst="5")
    with (
        RawClient(daemon.address, path) as flooder,
        RawClient(daemon.address, "/group/chat/1/2/t") as other,
    ):
        other.next_text()
        began = time.monotonic()
        flooder.stream.settimeout(0.01)
        closing = None
        unsent = b""
        while closing is None:
            assert time.monotonic() - began < 30
            unsent = unsent or client_frame(TEXT, b"spam") * 100
            with suppress(TimeoutError, ConnectionError):
                unsent = unsent[flooder.stream.send(unsent) :]
            with suppress(TimeoutError, ConnectionError):
                flooder.receive_some()
            for frame in flooder.frames_so_far():
                if frame.opcode == CLOSE:
                    closing = frame.closing
        assert closing == (1008, "flood")
        assert time.monotonic() - began > 9
        other.say("still here")
        while json.loads(other.next_text())["info"] != "still here":
            pass
    assert 7 * rate < redis.llen("gml:1") < 30 * rate or "list" in path

    def closed_flooders() -> list[dict[str, Any]]:
        return [line for line in daemon.events("socket.closed") if line["user"] == "1"]

    (closed,) = wait_for(closed_flooders, daemon)
    assert (closed["code"], closed["reason"]) == (1008, "flood")
    assert metrics(daemon)["fastimd_flood_closes_total"] == 1


@pytest.mark.alone
def test_who_keeps_to_the_rate_is_never_slowed(start_daemon: StartDaemon, redis: Redis) -> None:
    """Messages in time, and pings however many, pass as if there were no rate."""
    daemon = start_daemon(socket__max_messages_per_second="20", socket__message_burst="5")
    waits: list[float] = []
    with RawClient(daemon.address, "/group/chat/1/1/t") as member:
        member.next_text()
        for number in range(40):
            began = time.monotonic()
            member.stream.sendall(client_frame(PING, b"p") * 50)
            member.say(str(number))
            frames = [member.next_frame() for _ in range(51)]
            opcodes = Counter(frame and frame.opcode for frame in frames)
            assert opcodes == {PONG: 50, TEXT: 1}
            waits.append(time.monotonic() - began)
            time.sleep(max(0, 0.06 - waits[-1]))
    assert [info for _, info in stored_infos(redis, "1")] == [str(number) for number in range(40)]
    assert sorted(waits)[len(waits) // 2] < 0.05, "as long as a message that must wait its turn"


@pytest.mark.parametrize("path", ["/group/chat/1/1/t", "/group/list/1/t"])
def test_who_is_slowed_is_answered_and_not_taken_for_silent(
    start_daemon: StartDaemon, redis: Redis, path: str
) -> None:
    """Pings among messages get their pongs, and a client that is not read is not held silent."""
    daemon = start_daemon(
        socket__max_messages_per_second="20",
        socket__message_burst="5",
        socket__ping_interval="0.5",
        socket__ping_timeout="1.5",
    )
    texts = [str(number) for number in range(105)]  # five seconds of them
    frames = [client_frame(TEXT, text.encode()) for text in texts]
    pongs: list[bytes] = []
    with RawClient(daemon.address, path) as member:
        member.stream.sendall(b"".join(frames[:50]) + client_frame(PING, b"half"))
        member.stream.sendall(b"".join(frames[50:]) + client_frame(PING, b"all"))
        while pongs != [b"half", b"all", b"late"]:
            frame = member.next_frame()
            assert frame is not None, "the daemon has cut the connection"
            if frame.opcode == PING:
                member.answer(frame)
            if frame.opcode == PONG:
                pongs.append(frame.payload)
                if pongs == [b"half", b"all"]:  # read when all before has had its turn
                    time.sleep(0.1)
                    member.stream.sendall(client_frame(PING, b"late"))
        if "chat" in path:
            wait_for(lambda: redis.llen("gml:1") == len(texts), daemon)
    if "chat" in path:
        assert [info for _, info in stored_infos(redis, "1")] == texts


# How much the daemon has


def test_without_descriptors_members_stay_and_accepting_resumes(
    start_daemon: StartDaemon,
) -> None:
    """At the limit of open files nobody who is in notices, and the log says so once a second."""
    daemon = start_daemon(server__max_connections="100000")
    with RawClient(daemon.address, "/group/chat/1/1/t") as member, ExitStack() as crowd:
        member.next_text()
        _, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (80, hard))
        for _ in range(120):
            crowd.enter_context(dial(daemon.address))
        wait_for(lambda: daemon.events("door.accept_failed"), daemon)
        until = time.monotonic() + 2.5
        said = 0
        while time.monotonic() < until:
            member.say(str(said))
            assert json.loads(member.next_text())["info"] == str(said)
            said += 1
        assert said > 20
        lines = daemon.events("door.accept_failed")
        assert 2 <= len(lines) <= 5
        assert any(line.get("suppressed", 0) > 0 for line in lines)
        crowd.close()
        with RawClient(daemon.address, "/group/chat/1/2/t") as late:
            late.next_text()
        assert daemon.process.poll() is None


def test_at_max_connections_members_stay(start_daemon: StartDaemon) -> None:
    """Hundreds who are turned away disturb nobody, and fill no log."""
    daemon = start_daemon(server__max_connections="3")
    turned_away = 0
    with RawClient(daemon.address, "/group/chat/1/1/t") as member:
        member.next_text()
        with dial(daemon.address), dial(daemon.address):
            wait_for(lambda: status_of(daemon) == 503, daemon)
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                assert status_of(daemon) == 503
                turned_away += 1
                member.say(str(turned_away))
                assert json.loads(member.next_text())["info"] == str(turned_away)
    refused = daemon.events("connection.refused")
    assert 2 <= len(refused) <= 5
    assert turned_away > 20
    assert metrics(daemon)["fastimd_connections_refused_total"] >= turned_away


# How long a client may take

HEAD = b"POST /user/login HTTP/1.1\r\nHost: x\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"


PAGE = b"GET /test/websocket HTTP/1.1\r\nHost: x\r\n\r\n"
HANDSHAKE = opening("/group/chat/1/1/t")
BODY = HEAD + FORM + b"Content-Length: 500\r\n\r\nuserId=1"
CHUNKS = HEAD + FORM + b"Transfer-Encoding: chunked\r\n\r\n5\r\nuserI\r\n"
LATE = [b"", b"", b"", b"", b"", b"", b""]
"""A pause of seven seconds."""


@dataclass(frozen=True)
class Slow:
    """What a slow client sends, a piece a second; when it is ended, and what it gets before."""

    pieces: Sequence[bytes]
    ended_at: float
    answers: list[int] = field(default_factory=list)


def bytes_of(data: bytes) -> list[bytes]:
    return [bytes((byte,)) for byte in data]


SLOW = {
    "nothing": Slow([], 10),
    "a head that stops": Slow([b"GET / HT"], 10),
    "a head that trickles": Slow(bytes_of(PAGE), 10),
    "a head that begins late and trickles": Slow([*LATE, *bytes_of(PAGE)], 10),
    "a handshake that trickles": Slow([HANDSHAKE[:-30], *bytes_of(HANDSHAKE[-30:])], 10),
    "a handshake that begins late": Slow([*LATE, *bytes_of(HANDSHAKE)], 10),
    "a body that does not come": Slow([BODY.partition(b"userId")[0]], 30),
    "a body that stops": Slow([BODY], 30),
    "a body that trickles": Slow([BODY, *bytes_of(b"x" * 99)], 30),
    "chunks that stop": Slow([CHUNKS], 30),
    "chunks that trickle": Slow([CHUNKS, *(99 * [b"1\r\nx\r\n"])], 30),
    "a chunk's size that trickles": Slow([CHUNKS, *bytes_of(b"0" * 99)], 30),
    "a second head that trickles": Slow([PAGE, *bytes_of(PAGE)], 11, [200]),
    "a second body that trickles": Slow([PAGE, BODY, *bytes_of(b"x" * 99)], 31, [200]),
    "an idle connection": Slow([PAGE], 60, [200]),
    "an idle connection after a while": Slow([PAGE, *LATE, PAGE], 68, [200, 200]),
}


def outlast(daemon: Daemon, slow: Slow) -> tuple[float, bytes]:
    """Be as slow as that: when the daemon ends the connection, and all that it said."""
    said = b""
    pieces = iter(slow.pieces)
    with dial(daemon.address) as stream:
        began = time.monotonic()
        with suppress(ConnectionError):
            for second in itertools.count():
                stream.sendall(next(pieces, b""))
                while (left := began + second + 1 - time.monotonic()) > 0:
                    stream.settimeout(left)
                    with suppress(TimeoutError):
                        received = stream.recv(65536)
                        if not received:
                            return time.monotonic() - began, said
                        said += received
                assert second < 100, "nobody ends it"
        return time.monotonic() - began, said


@pytest.mark.timeout(150)
def test_nobody_takes_longer_than_the_deadlines(start_daemon: StartDaemon) -> None:
    """A first head has 10 s from its connection's begin, a body 30 s, a connection between requests
    60 s, whatever trickles. A refusal is told or not; members notice nothing, idle ones neither."""
    daemon = start_daemon()
    with (
        talking(daemon),
        RawClient(daemon.address, "/group/chat/1/idle/t") as idle,
        ThreadPoolExecutor(len(SLOW)) as pool,
    ):
        idle.next_text()
        running = {name: pool.submit(outlast, daemon, slow) for name, slow in SLOW.items()}
        for name, slow in SLOW.items():
            seconds, said = running[name].result()
            assert slow.ended_at - 1 < seconds < slow.ended_at + 10, (name, seconds, said)
            statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]+) ", said)]
            assert statuses in (slow.answers, [*slow.answers, 408]), (name, said)
        idle.say("still here")
        while (frame := idle.next_frame()) is not None and frame.opcode != TEXT:
            assert frame.opcode == PING
        assert frame is not None
        assert json.loads(frame.payload)["info"] == "still here"
    assert not daemon.events("http.crashed")


def test_a_slow_handshake_within_the_deadline_is_a_socket(daemon: Daemon) -> None:
    """Seven seconds of a head are no reason to refuse it."""
    with dial(daemon.address) as stream:
        for piece in (*bytes_of(HANDSHAKE[:7]), HANDSHAKE[7:]):
            stream.sendall(piece)
            time.sleep(1)
        assert stream.recv(65536).startswith(b"HTTP/1.1 101 ")


LAST = {
    "it says so": (PAGE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), 200),
    "HTTP/1.0": (PAGE.replace(b"/1.1", b"/1.0"), 200),
    "chunked": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a chunk that is none": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", 400),
    "too long a body": (HEAD + FORM + b"Content-Length: 1048577\r\n\r\n", 413),
    "too long a body, begun": (
        HEAD + FORM + b"Content-Length: 1048577\r\n\r\n" + b"x" * 9_000,
        413,
    ),
    "no such route": (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", 404),
    "no login": (b"POST /user/listGroup HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", 200),
    "no host": (b"GET /test/websocket HTTP/1.1\r\n\r\n", 400),
    "malformed": (b"GET\r\n\r\n", 400),
}
"""Requests after which there can be no other: their connection has ended, or half a body is due."""


@pytest.mark.parametrize("kind", LAST)
def test_the_last_answer_is_followed_by_the_end(daemon: Daemon, kind: str) -> None:
    """Whole, at once, and without waiting for the client or for a deadline."""
    data, status = LAST[kind]
    with dial(daemon.address) as stream:
        stream.settimeout(8)
        stream.sendall(data)
        said = b""
        while received := stream.recv(65536):
            said += received
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"content-length: %d" % len(body) in head.lower()
        wait_for(lambda: metrics(daemon)["fastimd_connections"] == 0, daemon)


PLAIN = b"Content-Type: text/plain\r\n"
CHUNK = b"10000\r\n%b\r\n" % (b"a" * 65536)
SIZES = {
    "head": (b"GET / HTTP/1.1\r\nHost: x\r\nA: %b\r\n\r\n" % (b"a" * 16_384), 431),
    "head that never ends": (b"GET / HTTP/1.1\r\nHost: x\r\nA: %b" % (b"a" * 16_384), 431),
    "head of 16 KiB": (PAGE[:-4] + b"\r\nA: %b\r\n\r\n" % (b"a" * (16_384 - len(PAGE) - 1)), 200),
    "length": (HEAD + FORM + b"Content-Length: 1048577\r\n\r\n", 413),
    "length of no form": (HEAD + b"Content-Length: 1048577\r\n\r\n", 413),
    "chunks": (HEAD + FORM + b"Transfer-Encoding: chunked\r\n\r\n" + 17 * CHUNK, 413),
    "one chunk": (
        HEAD + FORM + b"Transfer-Encoding: chunked\r\n\r\n100001\r\n" + b"a" * 2**20 + b"a",
        413,
    ),
    "body of 1 MiB": (HEAD + PLAIN + b"Content-Length: 1048576\r\n\r\n" + b"a" * 2**20, 400),
    "chunks of 1 MiB": (
        HEAD + PLAIN + b"Transfer-Encoding: chunked\r\n\r\n" + 16 * CHUNK + b"0\r\n\r\n",
        400,
    ),
}
"""Requests and answers: 431 and 413 for what is too large; else the page, or a missing user id."""


@pytest.mark.parametrize("size", SIZES)
def test_what_is_too_large_is_refused(daemon: Daemon, size: str) -> None:
    """Heads over 16 KiB; bodies over 1 MiB, by their length at once, or when it is reached."""
    data, status = SIZES[size]
    with dial(daemon.address) as stream:
        with suppress(ConnectionError):  # it need not read more than it takes
            stream.sendall(data)
        answer = b""
        while b"\r\n\r\n" not in answer:
            received = stream.recv(65536)
            assert received, answer
            answer += received
    assert answer.startswith(b"HTTP/1.1 %d " % status)


# One task pings everybody


async def test_an_idle_socket_is_one_task(start_daemon: StartDaemon) -> None:
    """Fifty more sockets are fifty more tasks; pings and deadlines take none."""
    daemon = start_daemon(socket__ping_interval="0.2", socket__ping_timeout="30")
    counts: list[float] = []
    with ExitStack() as stack:
        for number in range(100):
            client = RawClient(daemon.address, f"/group/chat/1/{number}/t")
            stack.enter_context(client)
            client.next_text()
            if number in (49, 99):
                counts.append(await trio.to_thread.run_sync(settled_tasks, daemon))
        frames: list[Frame | None] = []
        while len(frames) < 3:
            frames.append(client.next_frame())
    assert counts[1] - counts[0] == 50
    assert all(frame is not None and frame.opcode == PING for frame in frames)


def settled_tasks(daemon: Daemon) -> float:
    """The number of living tasks, when two scrapes in a row agree."""
    seen = [metrics(daemon)["fastimd_tasks"]]

    def is_settled() -> bool:
        seen.append(metrics(daemon)["fastimd_tasks"])
        return seen[-1] == seen[-2]

    wait_for(is_settled, daemon)
    return seen[-1]


def test_a_silent_socket_is_ended_at_the_timeout(start_daemon: StartDaemon) -> None:
    """Who answers pings stays, who does not goes, both at their time."""
    daemon = start_daemon(socket__ping_interval="0.5", socket__ping_timeout="2")
    with (
        RawClient(daemon.address, "/group/chat/1/dead/t") as dead,
        RawClient(daemon.address, "/group/chat/1/alive/t") as alive,
    ):
        began = time.monotonic()
        pings = 0
        while time.monotonic() - began < 4:
            frame = alive.next_frame()
            assert frame is not None
            if frame.opcode == PING:
                alive.answer(frame)
                pings += 1
        assert pings >= 4
        closed = wait_for(lambda: daemon.events("socket.closed"), daemon)
        assert [(line["user"], line["code"], line["reason"]) for line in closed] == [
            ("dead", 1006, "ping timeout")
        ]
        assert 1.9 < closed[0]["seconds"] < 4
        while dead.next_frame() is not None:
            pass
