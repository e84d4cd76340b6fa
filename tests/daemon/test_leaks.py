"""Whoever comes and goes, and however: the daemon ends up holding what it held before."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from clients import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    RESERVED,
    SMALL_BUFFER,
    TEXT,
    RawClient,
    client_frame,
    dial,
    memory_of,
    metrics,
    opening,
)
from conftest import Daemon, StartDaemon, wait_for
from redis import Redis

PATIENCE = 45.0
Visit: TypeAlias = Callable[[Daemon, str], None]
"""A client comes and goes; the name is nobody else's."""
GAUGES = (
    "connections",
    "groups",
    "held_messages",
    "outbox_bytes",
    "sockets",
    "subscriptions",
    "tasks",
)


def holdings(daemon: Daemon, redis: Redis) -> dict[str, Any]:
    """All that a connection may leave behind."""
    numbers = metrics(daemon)
    return {
        **{name: numbers[f"fastimd_{name}"] for name in GAUGES},
        "files": len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir())),
        "channels": sorted(redis.pubsub_channels()),
        "redis clients": len(redis.client_list()),
    }


def wait_for_nothing_more(daemon: Daemon, redis: Redis, before: dict[str, Any]) -> None:
    """Wait until the daemon holds what it held before; subscriptions linger on purpose."""
    now: dict[str, Any] = {}

    def is_as_before() -> bool:
        now.update(holdings(daemon, redis))
        return now == before

    try:
        wait_for(is_as_before, daemon, PATIENCE)
    finally:
        assert now == before


def chat(daemon: Daemon, name: str, receive_buffer: int = 0) -> RawClient:
    """A socket of a user and a group that nobody else has."""
    return RawClient(
        daemon.address, f"/group/chat/g{name}/u{name}/t", receive_buffer=receive_buffer
    )


def reset(stream: socket.socket) -> None:
    """Make the end of a connection a reset."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def read_to_the_end(stream: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := stream.recv(65536):
            received += data
    return received


def log_in(user: str, fields: bytes = b"") -> bytes:
    """A request with more header fields."""
    form = f"userId={user}&password=x".encode()
    kind = b"Content-Type: application/x-www-form-urlencoded\r\n"
    head = b"POST /user/login HTTP/1.1\r\nHost: x\r\n%b%bContent-Length: %d\r\n\r\n"
    return head % (kind, fields, len(form)) + form


# Ways to come and go


def chats_and_closes(daemon: Daemon, name: str) -> None:
    with chat(daemon, name) as client:
        client.next_text()
        client.say("hello")
        client.next_text()
        client.send(PING, b"there?")
        assert client.next_frame() == (PONG, b"there?")
        client.send(CLOSE, b"\x03\xe8")
        assert client.next_frame() == (CLOSE, b"\x03\xe8")
        assert client.next_frame() is None


def lists_and_closes(daemon: Daemon, name: str) -> None:
    with chat(daemon, name), RawClient(daemon.address, f"/group/list/u{name}/t") as client:
        client.next_text()
        client.send(CLOSE, b"\x03\xe8")
        assert client.next_frame() == (CLOSE, b"\x03\xe8")


def resets_a_chat(daemon: Daemon, name: str) -> None:
    with chat(daemon, name) as client:
        client.next_text()
        client.say("hello")
        reset(client.stream)


def resets_a_list(daemon: Daemon, name: str) -> None:
    with chat(daemon, name), RawClient(daemon.address, f"/group/list/u{name}/t") as client:
        reset(client.stream)


def goes_before_the_greeting(daemon: Daemon, name: str) -> None:
    with dial(daemon.address) as stream:
        stream.sendall(opening(f"/group/chat/g{name}/u{name}/t"))
        reset(stream)


def goes_without_a_close(daemon: Daemon, name: str) -> None:
    with chat(daemon, name) as client:
        for _ in range(10):
            client.say("hello")
        client.stream.shutdown(socket.SHUT_WR)
        while client.next_frame() is not None:
            pass


def goes_within_a_frame(daemon: Daemon, name: str) -> None:
    with chat(daemon, name) as client:
        client.stream.sendall(client_frame(TEXT, b"x" * 1000)[:500])


def never_speaks(daemon: Daemon, _name: str) -> None:
    dial(daemon.address).close()


def goes_within_the_handshake(daemon: Daemon, name: str) -> None:
    with dial(daemon.address) as stream:
        stream.sendall(opening(f"/group/chat/g{name}/u{name}/t")[:40])


def is_refused(daemon: Daemon, _name: str) -> None:
    for path, status in (("/group/nothing", 404), ("/group/chat/%20/1/t", 400)):
        with dial(daemon.address) as stream:
            stream.sendall(opening(path))
            assert read_to_the_end(stream).startswith(f"HTTP/1.1 {status} ".encode())


def asks(daemon: Daemon, name: str) -> None:
    with dial(daemon.address) as stream:
        stream.sendall(log_in(name) + log_in(name, b"Connection: close\r\n"))
        assert read_to_the_end(stream).count(b'"code":200') == 2


def goes_within_a_request(daemon: Daemon, _name: str) -> None:
    for is_reset in (False, True):
        with dial(daemon.address) as stream:
            stream.sendall(
                b"POST /user/login HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nuser"
            )
            if is_reset:
                reset(stream)


def goes_before_the_answer(daemon: Daemon, _name: str) -> None:
    with dial(daemon.address) as stream:
        stream.sendall(b"GET /test/websocket HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        reset(stream)


# The same on the live wire

LIVE = "/connection/websocket"


def live(daemon: Daemon, name: str, *groups: str, receive_buffer: int = 0) -> RawClient:
    """A connection of a user that nobody else is, in groups."""
    client = RawClient(daemon.address, LIVE, receive_buffer=receive_buffer)
    client.say(f'{{"id":1,"connect":{{"data":{{"userId":"l{name}"}}}}}}')
    for number, group in enumerate(groups, 2):
        client.say(
            f'{{"id":{number},"subscribe":{{"channel":"{group}","join_leave":true,'
            f'"recover":true,"epoch":"none","offset":1}}}}'
        )
    return client


def hear(client: RawClient, *signs: str) -> None:
    """Read on until all of these have come."""
    heard = ""
    while not all(sign in heard for sign in signs):
        heard += client.next_text()


def lives_and_closes(daemon: Daemon, name: str) -> None:
    with live(daemon, name, f"a{name}", f"b{name}") as client:
        for number, command in enumerate(
            (
                '"publish":{"channel":"CHANNEL","data":{"text":"hello"}}',
                '"rpc":{"method":"send","data":{"channel":"CHANNEL","data":"x","nonce":"n"}}',
                '"rpc":{"method":"groups"}',
                '"history":{"channel":"CHANNEL","limit":10}',
                '"presence":{"channel":"CHANNEL"}',
                '"publish":{"channel":"elsewhere","data":"x"}',
            ),
            10,
        ):
            client.say(f'{{"id":{number},{command.replace("CHANNEL", f"a{name}")}}}')
        hear(client, '"id":10', '"id":11', '"id":15', '{"text":"hello"}')
        client.say(f'{{"id":16,"unsubscribe":{{"channel":"a{name}"}}}}')
        hear(client, '"id":16')
        client.send(CLOSE, b"\x03\xe8")
        while (frame := client.next_frame()) is not None and frame.opcode != CLOSE:
            pass
        assert client.next_frame() is None


def lives_in_protobuf(daemon: Daemon, name: str) -> None:
    with RawClient(daemon.address, f"{LIVE}?format=protobuf") as client:
        group = f"p{name}".encode()
        channel = bytes((0x0A, len(group))) + group
        for request in (
            b"\x08\x01\x22\x00",  # connect
            b"\x08\x02\x2a" + bytes((len(channel),)) + channel,  # subscribe
        ):
            client.send(BINARY, bytes((len(request),)) + request)
            frame = client.next_frame()
            assert frame is not None
            assert frame.opcode == BINARY


def resets_a_live_one(daemon: Daemon, name: str) -> None:
    with live(daemon, name, f"r{name}") as client:
        hear(client, '"subscribe":')
        for number in range(10, 20):
            client.say(f'{{"id":{number},"publish":{{"channel":"r{name}","data":"x"}}}}')
        reset(client.stream)


def goes_before_it_is_in(daemon: Daemon, name: str) -> None:
    with live(daemon, name, *(f"{group}{name}" for group in "abcdefgh")) as client:
        reset(client.stream)


def goes_without_connecting(daemon: Daemon, _name: str) -> None:
    for is_reset in (False, True):
        with RawClient(daemon.address, LIVE) as client:
            if is_reset:
                reset(client.stream)


def sees_others_come_and_go(daemon: Daemon, name: str) -> None:
    with live(daemon, name, f"s{name}") as client:
        hear(client, '"subscribe":')
        with chat(daemon, f"s{name}"):
            pass
        with live(daemon, f"{name}-other", f"s{name}") as other:
            hear(other, '"subscribe":')
            hear(client, f'"l{name}-other"')


VISITS = (
    lives_and_closes,
    lives_in_protobuf,
    resets_a_live_one,
    goes_before_it_is_in,
    goes_without_connecting,
    sees_others_come_and_go,
    chats_and_closes,
    lists_and_closes,
    resets_a_chat,
    resets_a_list,
    goes_before_the_greeting,
    goes_without_a_close,
    goes_within_a_frame,
    never_speaks,
    goes_within_the_handshake,
    is_refused,
    asks,
    goes_within_a_request,
    goes_before_the_answer,
)


# Ways to be kicked out


def violates(frame: bytes, code: int) -> Visit:
    """Breaks a rule and is told so."""

    def visit(daemon: Daemon, name: str) -> None:
        with chat(daemon, name) as client:
            client.stream.sendall(frame)
            assert client.infos_to_the_end()[1][0] == code

    return visit


def does_not_read(daemon: Daemon, name: str, *, at_all: bool) -> None:
    """Says much and hears nothing of it until it is closed."""
    closes = metrics(daemon)["fastimd_slow_closes_total"]
    with chat(daemon, name, SMALL_BUFFER) as client:
        for _ in range(6):
            client.say("x" * 50_000)
        wait_for(lambda: metrics(daemon)["fastimd_slow_closes_total"] > closes, daemon, PATIENCE)
        if at_all:
            assert client.infos_to_the_end()[1] == (1013, "slow")
        else:
            reset(client.stream)


def breaks_off(payload: bytes, code: int, opcode: int = TEXT) -> Visit:
    """Says on the live wire, among others, what ends a connection."""

    def visit(daemon: Daemon, name: str) -> None:
        with live(daemon, name, f"b{name}") as client:
            client.send(opcode, payload)
            while (frame := client.next_frame()) is not None and frame.opcode != CLOSE:
                pass
            assert frame is not None
            assert frame.closing[0] == code
            client.answer(frame)
            assert client.next_frame() is None

    return visit


def is_refused_on_the_live_wire(daemon: Daemon, name: str) -> None:
    """Has the answers to a thousand commands, each an error."""
    with live(daemon, name) as client:
        client.say("\n".join(f'{{"id":{n},"rpc":{{"method":"none"}}}}' for n in range(10, 1000)))
        hear(client, '"id":999,')


def does_not_read_the_live_wire(daemon: Daemon, name: str) -> None:
    """As it does not on the other."""
    closes = metrics(daemon)["fastimd_slow_closes_total"]
    with live(daemon, name, f"w{name}", receive_buffer=SMALL_BUFFER) as client:
        for number in range(10, 20):
            data = "x" * 50_000
            client.say(f'{{"id":{number},"publish":{{"channel":"w{name}","data":"{data}"}}}}')
        wait_for(lambda: metrics(daemon)["fastimd_slow_closes_total"] > closes, daemon, PATIENCE)
        reset(client.stream)


FLOODS = (
    breaks_off(b"nonsense", 3501),
    breaks_off(b'{"id":1,"connect":{}}', 3501),
    breaks_off(b'{"send":{}}', 3508),
    breaks_off(b"[" * 2**16, 3501),
    breaks_off(b"x" * 2**20, 1009),
    breaks_off(b"x", 1003, BINARY),
    is_refused_on_the_live_wire,
    does_not_read_the_live_wire,
    violates(client_frame(TEXT, b"x" * 65_537), 1009),
    violates(client_frame(TEXT, b"x" * 2**20)[:1000], 1009),
    violates(client_frame(BINARY, b"x"), 1003),
    violates(client_frame(TEXT, b"\xff"), 1007),
    violates(client_frame(RESERVED), 1002),
    violates(b"\x81\x01x", 1002),  # no mask
    partial(does_not_read, at_all=True),
    partial(does_not_read, at_all=False),
)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("ways", "visits", "may_grow"),
    [(VISITS, 500, 2 * 2**20), (FLOODS, 200, 2 * 2**20)],
    ids=["visits", "floods"],
)
def test_nothing_stays_of_who_came_and_went(
    start_daemon: StartDaemon, redis: Redis, ways: Sequence[Visit], visits: int, may_grow: int
) -> None:
    """Neither tasks, files, sockets, groups nor subscriptions, and no memory.

    A thousand visits more may cost as much as the heap's slack varies, which is less than the
    smallest object of a connection costs a thousand times.
    """
    daemon = start_daemon(
        socket__outbox_bytes="16384", socket__ping_interval="1", group_message__list_num="0"
    )
    before = holdings(daemon, redis)

    def come_and_go(turn: int) -> int:
        for number, visit in zip(range(visits), itertools.cycle(ways), strict=False):
            visit(daemon, f"{turn}-{number}")
        wait_for_nothing_more(daemon, redis, before)
        redis.flushall()
        return memory_of(daemon)

    _warm_up, began, _, ended = (come_and_go(turn) for turn in range(4))
    assert ended - began < may_grow
    assert not daemon.events("connection.crashed")


SLOW_HOOK = """
from pathlib import Path

import trio


async def log_in(user: str, password: str) -> str:
    Path("asked").touch()
    await trio.sleep(0.05)
    return user
"""


def test_nothing_stays_of_requests_whose_client_has_gone(
    start_daemon: StartDaemon, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer finds nobody, be it the only one or others behind it in the same breath."""
    (tmp_path / "slow_hook.py").write_text(SLOW_HOOK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    daemon = start_daemon(login__hook="slow_hook:log_in")
    before = holdings(daemon, redis)
    asked = daemon.log_path.parent / "asked"
    for number in range(40):
        with dial(daemon.address) as stream:
            stream.sendall(log_in(f"u{number}") * (1 + number % 3))
            wait_for(asked.exists, daemon)
            asked.unlink()
            if number % 2:
                reset(stream)
    wait_for_nothing_more(daemon, redis, before)
    assert not daemon.events("connection.crashed")


# Half-open


def test_nothing_stays_of_who_is_silent(start_daemon: StartDaemon, redis: Redis) -> None:
    """Connections whose clients do nothing any more are ended, each by its own rule.

    All their ends stay open here, as those of clients do whose network is gone.
    """
    daemon = start_daemon(socket__ping_interval="1", socket__ping_timeout="3")
    before = holdings(daemon, redis)
    with ExitStack() as stack:
        for number in range(20):
            stack.enter_context(chat(daemon, f"{number}"))
            stack.enter_context(live(daemon, f"{number}", f"silent{number}", f"{number}"))
            stack.enter_context(RawClient(daemon.address, LIVE))
            path = f"/group/list/u{number}/t"
            stack.enter_context(RawClient(daemon.address, path))
            closed = stack.enter_context(chat(daemon, f"closed{number}"))
            closed.send(BINARY, b"x")
            for beginning in BEGINNINGS:
                stream = stack.enter_context(dial(daemon.address))
                stream.sendall(beginning)
            ended = stack.enter_context(dial(daemon.address))
            ended.sendall(opening(f"/group/chat/ended{number}/1/t"))
            ended.shutdown(socket.SHUT_WR)
        wait_for(lambda: metrics(daemon)["fastimd_sockets"] == 0, daemon, PATIENCE)
        wait_for_nothing_more(daemon, redis, before)


BEGINNINGS = (
    b"",
    b"GET /group/ch",
    b"POST /user/login HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\nuserId",
)
