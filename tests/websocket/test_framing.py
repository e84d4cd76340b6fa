"""WebSocket framing at a whole daemon, by a client that sends its frames byte by byte."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest
from conftest import Daemon, run_daemon, run_redis, wait_for
from framing import (
    AWKWARD,
    CLOSE,
    CONTINUATION,
    INVALID,
    LEGAL_CODES,
    MAX_BYTES,
    PING,
    PONG,
    REASONS,
    TEXT,
    TOO_LARGE,
    VIOLATIONS,
    Invalid,
    bytewise,
    close_body,
    fragments,
    frame,
    header,
    masked,
    text,
)
from redis import Redis

from fastimd.redis.embedded import find_server

DEADLINE = 20.0
"""Seconds after which something that should come is given up."""
CUT_OFF_SECONDS = 1.0
"""How soon the end follows a close frame that a client does not heed."""
FULL = b"x" * MAX_BYTES

_groups = count(1)


@pytest.fixture(scope="module")
def redis_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one Redis for all tests here: frames are none of its business."""
    with run_redis(str(find_server()), tmp_path_factory.mktemp("redis")) as url:
        yield url


@contextmanager
def running(folder: Path, redis_url: str) -> Iterator[Daemon]:
    """A daemon that has to stop cleanly at the end."""
    daemon = run_daemon(folder, redis_url)
    try:
        yield daemon
        assert daemon.stop() == 0, daemon.log_path.read_text()[-4000:]
        assert not daemon.events("connection.crashed")
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, redis_here: str) -> Iterator[Daemon]:
    """One daemon for all the small cases."""
    with running(tmp_path_factory.mktemp("house"), redis_here) as daemon:
        yield daemon


@pytest.fixture
def group() -> str:
    """A group that nobody was in before."""
    return f"g{next(_groups)}"


class Peer:
    """A member of a group who has been greeted, and speaks in bytes."""

    def __init__(self, daemon: Daemon, group: str, user: str) -> None:
        host, _, port = daemon.address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self.send(
            b"GET /group/chat/%s/%s/t HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % (group.encode(), user.encode())
        )
        head = self._read_line()
        assert head == b"HTTP/1.1 101 Switching Protocols", head
        while self._read_line():
            pass
        opcode, greeting = self.read_frame()
        assert opcode == TEXT
        assert list(json.loads(greeting)) == ["list", "total"]

    def send(self, *pieces: bytes) -> None:
        """Send pieces, each when the daemon has taken the one before from its kernel."""
        for number, piece in enumerate(pieces):
            if number:
                wait_for(self._all_is_read)
            self.socket.sendall(piece)

    def read_frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame, which is whole, unmasked and shortly told."""
        first, size = self._read(2)
        assert first & 0xF0 == 0x80
        assert size < 128
        if size == 126:
            size = int.from_bytes(self._read(2), "big")
            assert size > 125
        elif size == 127:
            size = int.from_bytes(self._read(8), "big")
            assert size > 65535
        return first & 0x0F, self._read(size)

    def hear(self) -> str:
        """What is said in the message that comes next."""
        opcode, payload = self.read_frame()
        assert opcode == TEXT, (opcode, payload)
        said = json.loads(payload)["info"]
        assert isinstance(said, str)
        return said

    def read_close(self) -> bytes:
        """The payload of the close frame that comes next."""
        opcode, payload = self.read_frame()
        assert opcode == CLOSE, (opcode, payload)
        return payload

    def read_until_close(self) -> tuple[list[str], bytes]:
        """What is said until a close frame comes, and its payload."""
        said = []
        while (heard := self.read_frame())[0] == TEXT:
            said.append(json.loads(heard[1])["info"])
        assert heard[0] == CLOSE, heard
        return said, heard[1]

    def read_failure(self) -> int:
        """The code of the close frame that comes next, and nothing after it but the end."""
        body = self.read_close()
        assert len(body) >= 2
        body[2:].decode()
        self.read_end()
        return int.from_bytes(body[:2], "big")

    def read_end(self) -> None:
        """The daemon ends the stream, in good order, and has said nothing more."""
        assert self._buffer + self.socket.recv(65536) == b""

    def _all_is_read(self) -> bool:
        ours, theirs = (
            f"{socket.htonl(int.from_bytes(socket.inet_aton(host), 'big')):08X}:{port:04X}"
            for host, port in (self.socket.getsockname(), self.socket.getpeername())
        )
        for line in Path("/proc/net/tcp").read_text().splitlines():
            if f" {theirs} {ours} " in line:
                return line.split()[4].endswith(":00000000")  # the receive queue
        return True  # the daemon has closed it

    def _read_line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._read_more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._read_more()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _read_more(self) -> None:
        data = self.socket.recv(65536)
        assert data, f"the connection ended after {self._buffer!r}"
        self._buffer += data


@contextmanager
def peer(daemon: Daemon, group: str, user: str = "1") -> Iterator[Peer]:
    member = Peer(daemon, group, user)
    with member.socket:
        yield member


def stored(redis_url: str, group: str) -> list[str]:
    """What was said in the group's list."""
    with Redis.from_url(redis_url) as redis:
        entries: Any = redis.lrange(f"gml:{group}", 0, -1)
    return [json.loads(each)["info"] for each in entries]


# --- violations


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_violation_gets_its_close_code(house: Daemon, group: str, violation: str) -> None:
    """A close frame with exactly that code, then the end of the stream."""
    code, data = VIOLATIONS[violation]
    with peer(house, group) as culprit:
        culprit.send(data)
        assert culprit.read_failure() == code


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_violation_ends_its_connection_alone(
    house: Daemon, redis_here: str, group: str, violation: str
) -> None:
    """What came before it is said, what comes after is not, and others go on."""
    code, data = VIOLATIONS[violation]
    with peer(house, group, "bystander") as bystander:
        with peer(house, group, "culprit") as culprit:
            culprit.send(fragments(b"be", b"fore") + data + text("after"))
            heard, body = culprit.read_until_close()
            assert heard in ([], ["before"])
            assert int.from_bytes(body[:2], "big") == code
            culprit.read_end()
        assert bystander.hear() == "before"
        bystander.send(text("unmoved"))
        assert bystander.hear() == "unmoved"
    assert stored(redis_here, group) == ["before", "unmoved"]


@pytest.mark.parametrize(
    "violation", ["opcode 3", "unmasked ping", "FF, alone", "binary", "a byte too many"]
)
def test_what_came_before_a_violation_is_said(
    house: Daemon, redis_here: str, group: str, violation: str
) -> None:
    """In the same write: all of it is stored, in order, and others hear it."""
    code, data = VIOLATIONS[violation]
    said = [str(number) for number in range(20)]
    with peer(house, group, "bystander") as bystander, peer(house, group) as culprit:
        culprit.send(b"".join(map(text, said)) + data)
        _, body = culprit.read_until_close()
        assert int.from_bytes(body[:2], "big") == code
        culprit.read_end()
        assert [bystander.hear() for _ in said] == said
    assert stored(redis_here, group) == said


@pytest.mark.parametrize("bad", INVALID.values(), ids=INVALID)
def test_invalid_text_is_seen_at_its_first_byte(house: Daemon, group: str, bad: Invalid) -> None:
    """Over segments within a frame that never ends: valid so far, then a byte that is not."""
    with peer(house, group) as culprit:
        culprit.send(
            header(TEXT, 100),
            masked(b"ok " + bad.so_far),
            masked(b"ok " + bad.so_far + bad.offending)[3 + len(bad.so_far) :],
        )
        assert culprit.read_failure() == 1007


@pytest.mark.parametrize("bad", INVALID.values(), ids=INVALID)
def test_valid_so_far_is_no_violation(house: Daemon, group: str, bad: Invalid) -> None:
    """A text that stops before the byte that spoils it keeps its connection, and a ping goes."""
    with peer(house, group) as member:
        member.send(frame(TEXT, b"ok " + bad.so_far, fin=False) + frame(PING, b"?"))
        assert member.read_frame() == (PONG, b"?")
        member.send(frame(CONTINUATION, bad.offending, fin=False))
        assert member.read_failure() == 1007


@pytest.mark.parametrize("violation", ["unmasked ping", "overlong C0 80, alone", "binary"])
def test_a_violation_is_logged_with_its_code(house: Daemon, group: str, violation: str) -> None:
    """The line of the closed socket tells what the client was told."""
    code, data = VIOLATIONS[violation]
    with peer(house, group) as culprit:
        culprit.send(data)
        assert culprit.read_failure() == code

    def lines() -> list[dict[str, Any]]:
        return [line for line in house.events("socket.closed") if line["group"] == group]

    assert [line["code"] for line in wait_for(lines, house)] == [code]


# --- texts that must pass


def test_text_is_cut_into_fragments_anywhere(house: Daemon, redis_here: str, group: str) -> None:
    """Also inside a character, and with empty fragments."""
    data = AWKWARD.encode()
    cuts = [(data[:cut], data[cut:]) for cut in range(len(data) + 1)]
    ways = [*cuts, bytewise(data), (b"", data, b"", b"")]
    with peer(house, group) as member:
        for way in ways:
            member.send(fragments(*way))
            assert member.hear() == AWKWARD
    assert stored(redis_here, group) == [AWKWARD] * len(ways)


def test_text_is_cut_into_segments_anywhere(house: Daemon, redis_here: str, group: str) -> None:
    """Wherever in a frame a segment ends, header and mask included, the text is whole."""
    said = AWKWARD[:6]
    data = text(said)
    with peer(house, group) as member:
        for cut in range(1, len(data)):
            member.send(data[:cut], data[cut:])
            assert member.hear() == said
    assert stored(redis_here, group) == [said] * (len(data) - 1)


def test_frames_come_a_byte_at_a_time(house: Daemon, group: str) -> None:
    """Texts, a long header, fragments inside a character, pings, and the close frame."""
    beginning = text("你") + frame(PING, b"ping") + header(TEXT, 126)
    rest = frame(TEXT, b"a\xe4", fin=False) + frame(PING) + frame(CONTINUATION, b"\xbd\xa0")
    with peer(house, group) as member:
        member.send(*bytewise(beginning), masked(FULL[:126]), *bytewise(rest))
        heard = [member.read_frame() for _ in range(5)]
        assert [payload for opcode, payload in heard if opcode == PONG] == [b"ping", b""]
        infos = [json.loads(payload)["info"] for opcode, payload in heard if opcode == TEXT]
        assert infos == ["你", "x" * 126, "a你"]
        member.send(*bytewise(frame(CLOSE, close_body(1000, b"bye"))))
        assert member.read_close() == close_body(1000, b"bye")
        member.read_end()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65534, 65535, MAX_BYTES])
def test_messages_of_every_width_of_length(house: Daemon, group: str, size: int) -> None:
    """Around 7, 16 and 64 bits, and up to max_bytes, in one frame and in fragments."""
    payload = FULL[:size]
    ways = [
        frame(TEXT, payload),
        fragments(payload, b""),
        fragments(payload[: size // 2], payload[size // 2 :]),
        fragments(b"", payload[:1], payload[1:], b""),
    ]
    with peer(house, group) as member:
        for way in ways:
            member.send(way)
            assert member.hear() == payload.decode()


@pytest.mark.parametrize("mask", [bytes(4), b"\xff" * 4, b"\x00\x00\x00\x01", b"\x80\x00\x00\x00"])
def test_any_mask_will_do(house: Daemon, group: str, mask: bytes) -> None:
    """Zeros, too; fragments may have masks of their own, in payloads of any length modulo 4."""
    with peer(house, group) as member:
        for size in range(9):
            said = "abcdefgh"[:size]
            member.send(frame(TEXT, said.encode(), mask=mask))
            assert member.hear() == said
            member.send(frame(TEXT, said.encode(), fin=False) + frame(0, b"!", mask=mask))
            assert member.hear() == said + "!"


def test_many_texts_in_one_write(house: Daemon, redis_here: str, group: str) -> None:
    """All are stored and come back, in order."""
    said = [f"{number} 你" for number in range(500)]
    with peer(house, group) as member:
        member.send(b"".join(map(text, said)))
        assert [member.hear() for _ in said] == said
    assert stored(redis_here, group) == said


def test_many_empty_fragments_do_no_harm(house: Daemon, group: str) -> None:
    """Ten thousand of them between two that say something; others are heard meanwhile."""
    with peer(house, group, "patient") as patient, peer(house, group, "other") as other:
        patient.send(frame(TEXT, b"a", fin=False))
        for _ in range(10):
            patient.send(frame(CONTINUATION, b"", fin=False) * 1000)
            other.send(text("meanwhile"))
            assert other.hear() == patient.hear() == "meanwhile"
        patient.send(frame(CONTINUATION, b"b"))
        assert patient.hear() == other.hear() == "ab"


# --- pings and pongs


def test_many_pings_in_one_write(house: Daemon, group: str) -> None:
    """As many pongs, each with its ping's payload, in order."""
    payloads = [bytes(range(size, 2 * size)) for size in (0, 1, 2, 3, 4, 5, 60, 90, 124, 125)]
    with peer(house, group) as member:
        member.send(b"".join(frame(PING, payload) for payload in payloads))
        assert [member.read_frame() for _ in payloads] == [(PONG, each) for each in payloads]
        member.send(text("then"))
        assert member.hear() == "then"


def test_a_ping_amid_a_message_is_answered_at_once(house: Daemon, group: str) -> None:
    """Before the message goes on, even inside a character; the message is whole."""
    payload = "你".encode()
    with peer(house, group) as member:
        for cut in range(len(payload) + 1):
            member.send(frame(TEXT, payload[:cut], fin=False) + frame(PING, b"\xff?"))
            assert member.read_frame() == (PONG, b"\xff?")
            member.send(frame(PONG, b"\xff") + frame(CONTINUATION, payload[cut:]))
            assert member.hear() == "你"


def test_unsolicited_pongs_are_ignored(house: Daemon, redis_here: str, group: str) -> None:
    """Of any length, between messages and inside one."""
    pongs = b"".join(frame(PONG, b"\xff" * size) for size in (0, 1, 125))
    with peer(house, group) as member:
        member.send(pongs + text("a") + pongs)
        assert member.hear() == "a"
        member.send(frame(TEXT, b"b", fin=False) + pongs + frame(CONTINUATION, b"c") + pongs)
        assert member.hear() == "bc"
        member.send(frame(PING, b"?"))
        assert member.read_frame() == (PONG, b"?")
    assert stored(redis_here, group) == ["a", "bc"]


def test_control_frames_do_not_count_against_max_bytes(house: Daemon, group: str) -> None:
    """A message of max_bytes may have the longest pings, pongs and a close amid it."""
    body = close_body(1000, b"x" * 123)
    control = frame(PING, b"p" * 125) + frame(PONG, b"q" * 125)
    with peer(house, group) as member:
        for begun in (FULL[:-1], FULL):
            member.send(frame(TEXT, begun, fin=False) + control)
            assert member.read_frame() == (PONG, b"p" * 125)
            member.send(frame(CONTINUATION, FULL[len(begun) :]))
            assert member.hear() == FULL.decode()
        member.send(frame(TEXT, FULL[:-1], fin=False) + frame(CLOSE, body))
        assert member.read_close() == body
        member.read_end()


# --- close frames

BODIES = {
    "nothing": b"",
    **{
        f"{code} and {name}": close_body(code, reason.encode())
        for code in LEGAL_CODES
        for name, reason in REASONS.items()
    },
}


@pytest.mark.parametrize(
    "begun", [b"", frame(TEXT, b"beg\xe4", fin=False)], ids=["at rest", "amid"]
)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_close_frame_is_echoed(house: Daemon, group: str, body: bytes, begun: bytes) -> None:
    """With the same body, also amid a message; then the stream ends."""
    with peer(house, group) as leaver:
        leaver.send(begun + frame(CLOSE, body))
        assert leaver.read_close() == body
        leaver.read_end()


LATE = {
    "text": text("late"),
    "many texts": text("late") * 100,
    "fragments": fragments(b"la", b"te"),
    "ping": frame(PING, b"late"),
    "another close": frame(CLOSE, close_body(1001)),
    "the message that was begun": frame(CONTINUATION, b"un") + text("late"),
    "violation": frame(3, b"") + text("late"),
    "unmasked": frame(TEXT, b"late", mask=None),
    "too large": header(TEXT, 2**40),
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
def test_nothing_after_a_close_frame_has_any_effect(
    house: Daemon, redis_here: str, group: str, late: bytes
) -> None:
    """What was said before is stored, what follows is not, nor is it answered."""
    body = close_body(3000, "再见".encode())
    with peer(house, group, "bystander") as bystander:
        with peer(house, group, "leaver") as leaver:
            leaver.send(text("last") + frame(TEXT, b"beg", fin=False) + frame(CLOSE, body) + late)
            heard, payload = leaver.read_until_close()
            assert heard in ([], ["last"])
            assert payload == body
            leaver.read_end()
        assert bystander.hear() == "last"
        bystander.send(text("unmoved"))
        assert bystander.hear() == "unmoved"
    assert stored(redis_here, group) == ["last", "unmoved"]


# --- more than max_bytes


def pump(connection: socket.socket) -> tuple[int, float]:
    """Send as fast as it goes until the daemon refuses; how many bytes it took, and until when."""
    sent, data = 0, bytes(1 << 18)
    try:
        while True:
            sent += connection.send(data)
    except (BrokenPipeError, ConnectionResetError):
        return sent, time.monotonic()


def pump_after(daemon: Daemon, group: str, beginning: bytes) -> int:
    """Send too large a message and pump on; return how many bytes the daemon let come."""
    with peer(daemon, group, "culprit") as culprit, ThreadPoolExecutor(1) as pumps:
        culprit.send(beginning)
        pumping = pumps.submit(pump, culprit.socket)
        body = culprit.read_close()
        closed_at = time.monotonic()
        assert int.from_bytes(body[:2], "big") == 1009
        with suppress(ConnectionResetError):  # an end, too, when more is sent than is read
            culprit.read_end()
        read_until = time.monotonic()
        sent, sent_until = pumping.result(DEADLINE)
    assert read_until - closed_at < CUT_OFF_SECONDS
    assert sent_until - closed_at < CUT_OFF_SECONDS
    return sent


@pytest.mark.parametrize("beginning", TOO_LARGE.values(), ids=TOO_LARGE)
def test_who_sends_too_much_is_cut_off_while_sending(
    house: Daemon, group: str, beginning: bytes
) -> None:
    """1009, and the end within a second although more comes all the time."""
    with peer(house, group, "bystander") as bystander:
        pump_after(house, group, beginning)
        bystander.send(text("unmoved"))
        assert bystander.hear() == "unmoved"


def memory(daemon: Daemon, name: str) -> int:
    """Bytes of memory that the kernel tells: VmRSS, or its peak VmHWM."""
    for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(f"the kernel does not tell {name}")


def test_who_sends_too_much_costs_no_memory(tmp_path: Path, redis_here: str, group: str) -> None:
    """Tens of megabytes go by, and the daemon grows by a few at most, not even for a moment."""
    with running(tmp_path, redis_here) as daemon:
        for beginning in TOO_LARGE.values():  # once each, so that all its code has run
            pump_after(daemon, group, beginning)
        now, peak = memory(daemon, "VmRSS"), memory(daemon, "VmHWM")
        pumped = 0
        beginnings = cycle(TOO_LARGE.values())
        while pumped < 100_000_000:
            pumped += pump_after(daemon, group, next(beginnings))
        assert memory(daemon, "VmRSS") - now < 4_000_000
        assert memory(daemon, "VmHWM") - peak < 4_000_000
