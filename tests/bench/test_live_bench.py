"""The load generator on the live wire: in both encodings it hears all, and believes no more."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from chats import (
    COMMAND,
    FAULTS,
    Group,
    bench,
    changes_one,
    doubles_one,
    honest,
    loses_one,
    result_of,
    served,
)
from clients import log_in
from conftest import Daemon, StartDaemon, wait_for
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

from fastimd.bench.dialect import Position, Texts, Visit, client_frame
from fastimd.bench.encodings import CONNECT, JSON, PROTOBUF, PUBLISH, SUBSCRIBE, Encoding
from fastimd.bench.links import Link
from fastimd.bench.live import LIVE, LIVE_PROTOBUF, Live, LiveGreeting, ReplyReader
from fastimd.bench.protobuf import read_message, read_varint, varint, write_message
from fastimd.bench.transcript import Disorder, Listener, Transcript

WIRES = (LIVE, LIVE_PROTOBUF)
both = pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)

SHORT = ("--seconds", 0.3)
MODES: dict[str, tuple[object, ...]] = {
    "burst": ("--members", 5, "--warm-up", 0, *SHORT),
    "talk": ("--groups", 3, "--members", 2, "--warm-up", 0, *SHORT),
    "idle": ("--groups", 3, "--members", 2, "--groups-each", 3, *SHORT),
    "storm": ("--groups", 3, "--members", 2, "--groups-each", 2),
}

# Replies, as a server writes them


def answer(wire: Live, number: int, name: str, **fields: Any) -> bytes:
    """The answer to a command."""
    if wire is LIVE:
        return json.dumps({"id": number, name: fields}, separators=(",", ":")).encode()
    if name == "error":
        body = write_message({1: fields["code"], 2: fields["message"].encode()})
        return write_message({1: number, 2: body})
    field = {"connect": 5, "subscribe": 6, "publish": 8}[name]
    epoch, recovered = fields.get("epoch", "").encode(), int(fields.get("recovered", False))
    result = write_message({6: epoch, 8: recovered, 9: fields.get("offset", 0)})
    return write_message({1: number}) + varint(field << 3 | 2) + varint(len(result)) + result


def push(wire: Live, channel: str, text: str, offset: int) -> bytes:
    """A publication."""
    if wire is LIVE:
        publication = f'{{"data":"{text}","info":{{"user":"u"}},"offset":{offset},"time":7}}'
        return f'{{"push":{{"channel":"{channel}","pub":{publication}}}}}'.encode()
    info = write_message({1: b"u"})
    pub = write_message({4: f'"{text}"'.encode(), 5: info, 6: offset, 9: 7})
    return write_message({4: write_message({2: channel.encode(), 4: pub})})


def ping(wire: Live) -> bytes:
    """A reply that asks for a pong."""
    return b"{}" if wire is LIVE else b""


def server_frame(wire: Live, replies: Iterable[bytes]) -> bytes:
    """Replies in one frame."""
    payload = wire.encoding.commands(replies)
    frame = client_frame(wire.opcode, payload)
    return bytes((frame[0], frame[1] & 0x7F)) + frame[2 : -len(payload) - 4] + payload


def read_commands(wire: Live, frame: str | bytes) -> Iterable[dict[str, Any]]:
    """Commands, by the names of JSON."""
    if wire is LIVE:
        yield from map(json.loads, str(frame).split("\n"))
        return
    assert isinstance(frame, bytes)
    at = 0
    while at < len(frame):
        size, start = read_varint(frame, at)
        at = start + size
        yield _by_name(read_message(frame[start:at]))


def _by_name(message: dict[int, int | bytes]) -> dict[str, Any]:
    names = {1: "id", 4: "connect", 5: "subscribe", 7: "publish"}
    command: dict[str, Any] = {names[field]: value for field, value in message.items()}
    if "subscribe" in command:
        fields = read_message(command["subscribe"])
        given = {"channel": fields[1], "recover": fields.get(3), "epoch": fields.get(6)}
        command["subscribe"] = {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in (given | {"offset": fields.get(7, 0)}).items()
        }
    if "publish" in command:
        fields = read_message(command["publish"])
        channel, data = fields[1], fields[2]
        assert isinstance(channel, bytes)
        assert isinstance(data, bytes)
        command["publish"] = {"channel": channel.decode(), "data": json.loads(data)}
    return command


# A server that is not to be relied on


class Centrifugal(Group):
    """A group on the live wire, where each member is pinged once.

    Args:
        refused: the command that is refused.
        forgotten: the message that is not acknowledged.
        can_recover: whether it knows where who returns has been.
    """

    def __init__(
        self,
        wire: Live,
        fault: Callable[[list[str], int], list[str]] = honest,
        *,
        refused: str = "",
        forgotten: int = 0,
        can_recover: bool = True,
    ) -> None:
        super().__init__(fault)
        self._wire = wire
        self._refused = refused
        self._forgotten = forgotten
        self._can_recover = can_recover
        self._channel = ""
        self.pongs = 0
        self.returned = 0

    def serve(self, member: ServerConnection) -> None:
        assert member.request is not None
        assert ("protobuf" in member.request.path) == (self._wire is LIVE_PROTOBUF)
        with suppress(ConnectionClosed):
            for frame in member:
                with self._lock:
                    for command in read_commands(self._wire, frame):
                        self._obey(member, command)

    def _obey(self, member: ServerConnection, command: dict[str, Any]) -> None:
        number = command.pop("id", None)
        if number is None:
            assert command == {}
            self.pongs += 1
            return
        ((name, fields),) = command.items()
        wire = self._wire
        told = answer(wire, number, name)
        if name == "subscribe":
            told = answer(wire, number, name, **self._subscribe(member, fields))
        if name == self._refused:
            told = answer(wire, number, "error", code=103, message="permission denied")
        if name == "publish":
            self._publish(member, fields, told)
        else:
            self._send(member, [told])

    def _subscribe(self, member: ServerConnection, fields: dict[str, Any]) -> dict[str, Any]:
        self._channel = fields["channel"]
        self._members.append(member)
        place: dict[str, Any] = {"epoch": "e", "offset": 5}
        if fields.get("recover"):
            assert (fields["epoch"], fields["offset"]) == ("e", 5)
            self.returned += 1
            return place | {"recovered": self._can_recover}
        return place

    def _publish(self, member: ServerConnection, fields: dict[str, Any], told: bytes) -> None:
        assert fields["channel"] == self._channel
        self._said.append(fields["data"])
        for index, each in enumerate(self._members):
            replies = [
                push(self._wire, self._channel, text, len(self._said))
                for text in self._fault(self._said, index)
            ]
            if each is member and len(self._said) != self._forgotten:
                replies.insert(random.randrange(len(replies) + 1), told)
            if len(self._said) == 1:
                replies.insert(random.randrange(len(replies) + 1), ping(self._wire))
            if replies:
                self._send(each, replies)

    def _send(self, member: ServerConnection, replies: list[bytes]) -> None:
        with suppress(ConnectionClosed):
            member.send(self._wire.encoding.commands(replies), text=self._wire is LIVE)


def run_live(mode: str, group: Centrifugal, wire: Live, *given: object) -> dict[str, Any]:
    """What a run against it has shown, or why it broke off."""
    bounds = ("--members", 5, "--warm-up", 0, "--seconds", 5, "--messages", 300)
    with served(group) as address:
        done = bench(mode, address, "--wire", wire.name, *bounds, *given, "--json")
    if done.returncode == 3:
        return {"failed": done.stderr}
    result: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if result["messages_per_second"] is None else 0)
    return result


@both
@pytest.mark.parametrize("mode", ["burst", "talk"])
def test_a_server_that_answers(mode: str, wire: Live) -> None:
    """Answers and pings are no messages, and pings are answered."""
    group = Centrifugal(wire)
    result = run_live(mode, group, wire, *(("--groups", 1) if mode == "talk" else ()))
    assert (result["lost"], result["disorder"], result["unanswered"]) == (0, "", 0)
    assert result["messages"] >= 300
    assert result["parameters"]["wire"] == wire.name
    assert group.pongs == 5


BAD = [(LIVE, fault) for fault in FAULTS] + [
    (LIVE_PROTOBUF, fault) for fault in (loses_one, doubles_one, changes_one)
]


@pytest.mark.parametrize(
    ("wire", "fault"), BAD, ids=[f"{wire.name}-{fault.__name__}" for wire, fault in BAD]
)
def test_no_speed_of_what_did_not_arrive(
    wire: Live, fault: Callable[[list[str], int], list[str]]
) -> None:
    """Each message is checked at each member there, too."""
    result = run_live("burst", Centrifugal(wire, fault), wire)
    if "failed" in result:
        assert re.search("lost: |doubled: |different messages|nobody sent", result["failed"])
        return
    assert result["lost"] or result["disorder"]
    assert result["messages_per_second"] is None


def test_no_speed_of_what_was_not_acknowledged() -> None:
    """A server that leaves the sender in doubt does less than the others."""
    result = run_live("burst", Centrifugal(LIVE, forgotten=30), LIVE)
    assert (result["lost"], result["disorder"], result["unanswered"]) == (0, "", 1)
    assert result["messages_per_second"] is None


@both
@pytest.mark.parametrize("refused", ["connect", "subscribe", "publish"])
def test_a_server_that_refuses(refused: str, wire: Live) -> None:
    """What it says against the greeting or a message is told."""
    told = run_live("burst", Centrifugal(wire, refused=refused), wire)["failed"]
    assert "refused: " in told
    assert "permission denied" in told


@both
def test_a_storm_recovers(wire: Live) -> None:
    """Who returns says where it has been; a server that does not know has refused it."""
    group = Centrifugal(wire)
    with served(group) as address:
        result = result_of("storm", address, "--wire", wire.name, "--groups", 1, "--members", 5)
    assert result["connects_per_second"] > 0
    assert group.returned == 5
    with served(Centrifugal(wire, can_recover=False)) as address:
        done = bench("storm", address, "--wire", wire.name, "--groups", 1, "--members", 5)
    assert done.returncode == 1
    assert re.search(r"refused +5 \(not recovered: bench-", done.stdout)


# A real daemon


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("wire", "login_auth"), [(LIVE, "false"), (LIVE_PROTOBUF, "true")])
def test_a_run_leaves_nothing(
    start_daemon: StartDaemon, redis: Redis, mode: str, wire: Live, login_auth: str
) -> None:
    """All is heard, acknowledged and recovered, and what was made is taken away."""
    daemon = start_daemon(group__login_auth=login_auth)
    redis.sadd("ugs:b0", "7")
    log_in(daemon, "b0")
    where = (f"ws://{daemon.address}", "--admin", daemon.admin.removeprefix("http://"))
    done = bench(mode, *where, "--wire", wire.name, *MODES[mode], "--json")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert (result["lost"], result["unanswered"], result["refused"]) == (0, 0, 0)
    assert result["parameters"]["wire"] == wire.name
    assert {key for key in redis.scan_iter() if not key.startswith(b"fastimd:")} == {
        b"ugs:b0",
        b"login:b0",
    }


@both
def test_a_login_is_needed(
    start_daemon: StartDaemon,
    redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wire: Live,
) -> None:
    """Of a daemon that lets nobody in, what it needs is told: status 3."""
    (tmp_path / "nobody.py").write_text("def login(user_id, password):\n    return None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    daemon = start_daemon(group__login_auth="true", login__hook="nobody:login")
    done = bench("burst", f"ws://{daemon.address}", "--wire", wire.name, *MODES["burst"])
    assert done.returncode == 3
    assert "3500 invalid token" in done.stderr
    assert "give --users and --password-file" in done.stderr
    assert redis.keys("ugs:*") == []


def test_a_socket_in_many_groups(daemon: Daemon, redis: Redis) -> None:
    """Each of eight sockets is in three of four groups, and leaves them all."""
    given = ("--groups", 4, "--members", 2, "--groups-each", 3, "--users", "tester", "--admin", "")
    command = [*COMMAND, "idle", f"ws://{daemon.address}", "--wire", "live", *map(str, given)]
    running = subprocess.Popen([*command, "--seconds", "60"], stderr=subprocess.PIPE)
    users = [f"ugs:tester{number}" for number in range(8)]
    wait_for(lambda: sum(redis.scard(user) for user in users) == 24, daemon, 30)
    groups = {user: frozenset(redis.smembers(user)) for user in users}
    assert len(set(groups.values())) == 4
    assert all(len(each) == 3 for each in groups.values())
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)
    assert not any(map(redis.exists, users))


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (("idle", "--groups-each", "2"), "only on the live wire is a socket in several groups"),
        (("idle", "--groups", "3", "--groups-each", "4"), "4 groups each of 3 groups"),
        (("talk", "--wire", "dead"), "invalid choice: 'dead'"),
        (("list", "--wire", "live"), "unrecognized arguments: --wire live"),
    ],
)
def test_mistakes_are_told(arguments: tuple[str, ...], mistake: str) -> None:
    """Status 2, and what is wrong."""
    done = bench(*arguments[:1], "ws://127.0.0.1:1", *arguments[1:])
    assert done.returncode == 2
    assert mistake in done.stderr


# The reader


class Answered:
    """A socket that notes with what pings are answered."""

    def __init__(self) -> None:
        self.pongs: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.pongs.append(frame)

    def pong(self, payload: bytes) -> None:
        self.pongs.append(payload)


def no_pong(_payload: bytes) -> None:
    raise AssertionError("nobody pinged")


def texts_of(texts: Texts, count: int) -> list[str]:
    """Texts as they are said."""
    frames = (texts.frame(0, number, 1000 + number) for number in range(count))
    return [frame[frame.index(texts.mark) :][:64].decode() for frame in frames]


@both
@given(data=st.data())
def test_members_that_hear_the_same_in_other_frames(data: st.DataObject, wire: Live) -> None:
    """However many replies a frame holds, and whatever answers and pings are among them."""
    texts = Texts(wire, 64)
    transcript = Transcript(texts, wire)
    first = data.draw(st.integers(1, 2**53 - 21))
    said = [push(wire, "g", text, first + n) for n, text in enumerate(texts_of(texts, 20))]
    for _ in range(2):
        listener, socket, answers = transcript.listen(), Answered(), list[int]()

        def hear(pushes: bytes, listener: Listener = listener) -> None:
            transcript.take(listener, pushes, no_pong)

        reader = ReplyReader(wire.encoding, lambda _link: None, hear, answers.append)
        reader.enter(cast(Link, socket))
        replies = list(said)
        pinged, answered = ping(wire), answer(wire, PUBLISH, "publish")
        for other in data.draw(st.lists(st.sampled_from([pinged, answered]), max_size=8)):
            replies.insert(data.draw(st.integers(0, len(replies))), other)
        ends = sorted(data.draw(st.sets(st.integers(1, len(replies) - 1))))
        whole = b"".join(
            server_frame(wire, replies[a:b])
            for a, b in zip([0, *ends], [*ends, len(replies)], strict=True)
        )
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
        for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            reader.take(whole[a:b])
        assert listener.heard == 20
        pong = client_frame(wire.opcode, wire.encoding.pong)
        assert socket.pongs == [pong] * replies.count(pinged)
        assert sum(answers) == replies.count(answered)


REFUSED = {"code": 103, "message": "no"}


@both
@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (
            lambda wire: server_frame(
                wire, [ping(wire), answer(wire, PUBLISH, "error", **REFUSED)]
            ),
            Disorder,
            "a message was refused",
        ),
        (lambda _wire: b"\x01\x02hi", Disorder, "a frame begins with 0102"),
        (lambda _wire: b"\x88\x04\x0b\xb8by", ConnectionError, "closed by the server: 3000 by"),
    ],
)
def test_what_ends_a_run(
    make: Callable[[Live], bytes], error: type[Exception], told: str, wire: Live
) -> None:
    """A refusal, what is no frame, and a close frame."""
    reader = ReplyReader(wire.encoding, lambda _link: None, no_pong, lambda _count: None)
    reader.enter(cast(Link, Answered()))
    with pytest.raises(error, match=told):
        reader.take(make(wire))


@both
@pytest.mark.parametrize("offsets", [(2, 2), (2, 1), (0,)])
def test_offsets_that_do_not_increase(offsets: tuple[int, ...], wire: Live) -> None:
    """Or are not there."""
    texts = Texts(wire, 64)
    transcript = Transcript(texts, wire)
    pushes = wire.encoding.commands(
        push(wire, "g", text, offset)
        for text, offset in zip(texts_of(texts, len(offsets)), offsets, strict=True)
    )
    with pytest.raises(Disorder, match="position"):
        transcript.take(transcript.listen(), wire.encoding.sort([pushes]).pushes, no_pong)


# The greeting


@both
def test_a_greeting(wire: Live) -> None:
    """Its answers come in any order and frames; a ping among them is answered."""
    visit = Visit(("a", "b"), "u", "t", {"a": Position("e", 7)})
    greeting = LiveGreeting(wire.encoding, visit)
    (hello,) = greeting.hello
    frame: str | bytes = hello.decode() if wire is LIVE else hello
    connect, one, other = read_commands(wire, frame)
    assert [command["id"] for command in (connect, one, other)] == [
        CONNECT,
        SUBSCRIBE,
        SUBSCRIBE + 1,
    ]
    told = one["subscribe"]
    assert (told["channel"], told["recover"], told["epoch"], told["offset"]) == ("a", True, "e", 7)
    assert not other["subscribe"].get("recover")

    def take(*replies: bytes) -> bytes:
        return greeting.take(wire.encoding.commands(replies))

    assert take(answer(wire, SUBSCRIBE + 1, "subscribe", epoch="f", offset=3)) == b""
    assert take(ping(wire), answer(wire, CONNECT, "connect")) == wire.encoding.pong
    assert greeting.awaited == 1
    take(answer(wire, SUBSCRIBE, "subscribe", epoch="e", offset=9, recovered=True))
    assert greeting.awaited == 0
    assert visit.positions == {"a": Position("e", 9), "b": Position("f", 3)}


@both
def test_who_connects_says_so(wire: Live) -> None:
    """With the token of the login, if there is one."""
    for token in ("", "secret"):
        (hello,) = LiveGreeting(wire.encoding, Visit((), "mara", token)).hello
        assert (b"secret" in hello) == bool(token)
        assert b'{"userId":"mara"}' in hello


# Protobuf


@given(st.dictionaries(st.integers(1, 2**20), st.integers(1, 2**64 - 1) | st.binary(min_size=1)))
def test_messages_of_protobuf(fields: dict[int, int | bytes]) -> None:
    """What was written is read, and what was cut is not."""
    written = write_message(fields)
    assert read_message(written) == fields
    for end in range(1, min(len(written), 100)):
        with suppress(ValueError):
            assert read_message(written[:end]) != fields


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 11])
def test_numbers_that_are_cut(data: bytes) -> None:
    """Or never end."""
    with pytest.raises(ValueError, match="no number begins with"):
        read_varint(data, 0)


@pytest.mark.parametrize("data", [b"\x0d\x01", b"\x0a\x05abc"])
def test_fields_that_are_unknown_or_cut(data: bytes) -> None:
    """A field of fixed size, and bytes that are not all there."""
    with pytest.raises(ValueError, match="has no end, or is not known"):
        read_message(data)


@pytest.mark.parametrize("encoding", [JSON, PROTOBUF], ids=["json", "protobuf"])
def test_what_stands_around_a_text(encoding: Encoding) -> None:
    """Whatever the size of the text and of the group's name, so that lengths need more bytes."""
    wire = LIVE if encoding is JSON else LIVE_PROTOBUF
    for size, group in ((40, "g"), (120, "g" * 128), (20_000, "群")):
        before, after = encoding.around(group, size)
        payload = before + b"x" * size + after
        (command,) = read_commands(wire, payload.decode() if wire is LIVE else payload)
        assert command == {"id": PUBLISH, "publish": {"channel": group, "data": "x" * size}}


# What is held against Centrifugo

CHECK_GOALS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from cases import LIVE_CASES
from goals import check_live_goals
from results import Measured
from servers import LIVE_KINDS, PROTOBUF_KINDS
from fastimd.bench.report import Latency, Result, Server

measured = Measured(command="")
for pair in (LIVE_KINDS, PROTOBUF_KINDS)[: int(sys.argv[2])]:
    for kind, cost in zip(pair, (1.0, 4.0)):
        for case in LIVE_CASES:
            server = Server(1.0, 1, 0.5, cost, cost, cost, cost)
            speed = 1 / cost
            latency = Latency(cost, cost, cost)
            result = Result(case.mode, 1, 1.0, 1, 1, speed, speed, speed, latency, server)
            measured.add(kind.name, case.name, result)
goals = check_live_goals(measured).goals
print(json.dumps([(goal.name, goal.value, goal.is_reached) for goal in goals]))
"""


@pytest.mark.parametrize("pairs", [0, 1, 2])
def test_goals_of_the_live_wire(pairs: int) -> None:
    """Each is measured by one of the cases, and a quarter of the cost of Centrifugo reaches it."""
    folder = Path(__file__).parents[2] / "bench"
    command = [sys.executable, "-c", CHECK_GOALS, str(folder), str(pairs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    goals = json.loads(done.stdout)
    assert len(goals) == 11 * max(pairs, 1)
    assert len({name for name, _, _ in goals}) == len(goals)
    for _, value, is_reached in goals:
        assert value in ((0.25, 4.0) if pairs else (None,))
        assert is_reached == (True if pairs else None)
