"""One room over its budget: how long urgent messages take, and whether gaps have their true counts.

python bench/shedding.py [--members 10000] [--offered 2000] [--budget 100000] [--seconds 15]

A crowd talks on the seed's wire, and a host says something urgent a few times a second, as a
program beside the daemon does. Everybody else is on the live wire, in processes that read at once
what comes, and compare what they heard and were told to have missed with what was said. Clients,
daemon and Redis share the machine. A delay is from when an urgent message is sent to Redis until a
client has read it.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import resource
import select
import socket
import sys
import time
from array import array
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.request import urlopen

import msgspec
from redis import Redis
from servers import BenchRedis, Fastimd, Store, free_port

from fastimd.bench.usage import Usage

GROUP = "stadium"
TALKERS = 50
TEXT = "x" * 64
SETTLE_SECONDS = 3.0
"""Before anything is said: until those who have come are members."""
END_SECONDS = 20.0
"""Within them everybody must have heard, or been told to have missed, what was said."""
MASK = b"\0\0\0\0"
SAY = """
local time = redis.call('TIME')
local ts = time[1] * 1000 + math.floor(time[2] / 1000)
local last = redis.call('LINDEX', KEYS[1], -1)
if last then ts = math.max(ts, tonumber(string.match(last, '"ts":(%d+)}$')) + 1) end
local message = ARGV[1] .. string.format('%.0f}', ts)
redis.call('RPUSH', KEYS[1], message)
redis.call('PUBLISH', KEYS[2], message)
return ts
"""
"""Says something as a program beside the daemon does, which gives it tags."""


class Stadium(Fastimd):
    """A daemon with a budget for its rooms."""

    budget = 0

    def __init__(self, folder: Path, redis: Store) -> None:
        super().__init__(folder, redis)
        self.admin = free_port()

    def environment(self) -> Mapping[str, str]:
        return {
            **super().environment(),
            "FASTIMD_ADMIN__BIND": f"127.0.0.1:{self.admin}",
            "FASTIMD_ROOM__MAX_DELIVERIES_PER_SECOND": str(self.budget),
        }

    def metrics(self) -> dict[str, float]:
        """Its metrics, by name."""
        with urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _, value in samples}


class Heard(NamedTuple):
    """The messages and gaps that the members of one process received.

    ``wrong`` is how many of them have heard and missed anything but what was said, ``closed`` how
    many were closed. ``delays`` are nanoseconds of the urgent messages, each at each member.
    """

    heard: int
    missed: int
    wrong: int
    closed: int
    delays: bytes


class Said(NamedTuple):
    """How many messages the crowd and the host sent, how many are stored, and in how long."""

    sent: int
    urgent: int
    stored: int
    seconds: float


class Told(NamedTuple):
    """The messages and gaps of a frame; ``urgent`` are when its urgent messages were sent."""

    heard: int
    missed: int
    urgent: tuple[int, ...]


# Members


def client_frame(payload: bytes) -> bytes:
    """A short text frame."""
    size = len(payload)
    head = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + head + MASK + payload


def shake_hands(port: int, path: str) -> socket.socket:
    """A WebSocket of which nothing was read but the answer."""
    stream = socket.create_connection(("127.0.0.1", port))
    key = base64.b64encode(os.urandom(16)).decode()
    stream.sendall(
        f"GET {path} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        # No more than the head: what follows is of the frames.
        answer += stream.recv(1)
    if b" 101 " not in answer:
        sys.exit(f"no WebSocket: {answer.decode()}")
    return stream


@lru_cache(maxsize=64)
def read(payload: bytes) -> Told:
    """Read a frame; all members get the same bytes, so it is parsed once."""
    gaps = re.findall(rb'"missed":(\d+)', payload)
    urgent = re.findall(rb'"data":"goal (\d+)"', payload)
    return Told(payload.count(b'"offset":'), sum(map(int, gaps)), tuple(map(int, urgent)))


class Member:
    """A socket of the live wire."""

    __slots__ = ("buffer", "heard", "missed", "stream")

    def __init__(self, port: int, user: str) -> None:
        self.stream = shake_hands(port, "/connection/websocket")
        self.heard = self.missed = 0
        self.buffer = b""
        commands: list[object] = [{"id": 1, "connect": {"data": {"userId": user}}}]
        commands.append({"id": 2, "subscribe": {"channel": GROUP}})
        self.stream.sendall(client_frame(b"\n".join(map(msgspec.json.encode, commands))))
        while b'"id":2' not in self.buffer:
            self.buffer += self.stream.recv(65536)
        if b'"error"' in self.buffer:
            sys.exit(f"not let in: {self.buffer!r}")
        self.buffer = b""
        self.stream.setblocking(False)

    def hear(self, delays: array[int]) -> bool:
        """Take what has come; False when the connection was closed."""
        try:
            data = self.stream.recv(262_144)
        except OSError:
            return False
        now = time.monotonic_ns()
        if not data:
            return False
        data, at = self.buffer + data, 0
        while len(data) - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            elif size == 127:
                size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
            if len(data) < start + size:
                break
            if data[at] == 0x88:
                return False
            payload = data[start : start + size]
            at = start + size
            if payload == b"{}":
                self.stream.send(client_frame(b"{}"))
                continue
            told = read(payload)
            self.heard += told.heard
            self.missed += told.missed
            delays.extend([now - said for said in told.urgent])
        self.buffer = data[at:]
        return True


def listen(pipe: Connection, port: int, first: int, count: int) -> None:
    """The members of one process: they come, read until all has been said, and tell."""
    members = {}
    poll = select.epoll()
    for number in range(first, first + count):
        member = Member(port, f"user-{number}")
        members[member.stream.fileno()] = member
        poll.register(member.stream, select.EPOLLIN)
    pipe.send("here")
    delays = array("q")
    closed = 0
    said, until = -1, float("inf")
    while time.monotonic() < until:
        for descriptor, _ in poll.poll(0.1, 1024):
            if not members[descriptor].hear(delays):
                poll.unregister(descriptor)
                closed += 1
        if said < 0 and pipe.poll():
            said, until = pipe.recv(), time.monotonic() + END_SECONDS
        if said >= 0 and all(each.heard + each.missed == said for each in members.values()):
            break
    everybody = members.values()
    wrong = sum(each.heard + each.missed != said for each in everybody)
    heard, missed = sum(each.heard for each in everybody), sum(each.missed for each in everybody)
    pipe.send(Heard(heard, missed, wrong, closed, delays.tobytes()))


# Those who talk


def talk(pipe: Connection, port: int, offered: int, seconds: float) -> None:
    """A crowd on the seed's wire; tells how many messages it has sent."""
    poll = select.poll()
    streams = []
    for number in range(TALKERS):
        stream = shake_hands(port, f"/group/chat/{GROUP}/talker-{number}/t")
        stream.setblocking(False)
        streams.append(stream)
        poll.register(stream, select.POLLIN)
    by_descriptor = {stream.fileno(): stream for stream in streams}
    pipe.send("here")
    pipe.recv()
    frame = client_frame(TEXT.encode())
    began, sent = time.monotonic(), 0
    while (now := time.monotonic()) < began + seconds:
        due = int((now - began) * offered)
        with suppress(BlockingIOError):  # the daemon reads no more for now
            while sent < due:
                streams[sent % TALKERS].send(frame)
                sent += 1
        for descriptor, _ in poll.poll(5):
            by_descriptor[descriptor].recv(1 << 20)
    pipe.send((sent, time.monotonic() - began))
    while not pipe.poll():  # they stay to the end
        for descriptor, _ in poll.poll(50):
            by_descriptor[descriptor].recv(1 << 20)


def urgent(group: str, text: str) -> bytes:
    """An urgent message of the host up to its ts, as ``SAY`` takes it."""
    message = {"groupId": group, "userId": "host", "info": text, "tags": {"priority": "high"}}
    return msgspec.json.encode(message)[:-1] + b',"ts":'


def be_host(redis: Redis, a_second: float, seconds: float) -> int:
    """Say something urgent so often; returns how often it was said."""
    say = redis.register_script(SAY)
    ends = time.monotonic() + seconds
    said = 0
    while time.monotonic() < ends:
        begins = urgent(GROUP, f"goal {time.monotonic_ns()}")
        say(keys=[f"gml:{GROUP}", f"mq:{GROUP}"], args=[begins])
        said += 1
        time.sleep(1 / a_second)
    return said


# The run


def run(server: Stadium, redis: BenchRedis, options: argparse.Namespace) -> bool:
    """Let all of it happen, and print what came of it; returns whether all was as it should be."""
    context = get_context("spawn")
    processes = []

    def start(target: Callable[..., None], *arguments: object) -> Connection:
        ours, theirs = context.Pipe()
        process = context.Process(
            target=target, args=(theirs, server.port, *arguments), daemon=True
        )
        process.start()
        processes.append(process)
        return ours

    share = options.members // options.listeners
    pipes = [start(listen, number * share, share) for number in range(options.listeners)]
    crowd = start(talk, options.offered, options.seconds)
    for pipe in (*pipes, crowd):
        pipe.recv()
    time.sleep(SETTLE_SECONDS)
    before = Usage.of(server.pids)
    with redis.client() as client:
        crowd.send("talk")
        said_urgently = be_host(client, options.urgent, options.seconds)
        sent, seconds = crowd.recv()
        used = Usage.of(server.pids)
        while client.llen(f"gml:{GROUP}") < sent + said_urgently:
            time.sleep(0.05)
        stored = client.llen(f"gml:{GROUP}")
    for pipe in pipes:
        pipe.send(stored)
    heard = [pipe.recv() for pipe in pipes]
    crowd.send("enough")
    for process in processes:
        process.join(10)
    delays = array("q")
    for each in heard:
        delays.frombytes(each.delays)
    cpu = (used.cpu_seconds - before.cpu_seconds) / seconds
    said = Said(sent, said_urgently, stored, seconds)
    return tell(options, said, heard, sorted(delays), server.metrics(), cpu, used.resident_bytes)


def tell(
    options: argparse.Namespace,
    said: Said,
    heard: list[Heard],
    delays: list[int],
    numbers: Mapping[str, float],
    cpu: float,
    resident_bytes: int,
) -> bool:
    """Print the figures; returns whether all was as it should be."""
    sent, urgent, stored, seconds = said
    members = options.members // options.listeners * options.listeners
    total, missed = sum(each.heard for each in heard), sum(each.missed for each in heard)
    wrong, closed = sum(each.wrong for each in heard), sum(each.closed for each in heard)
    slow = int(numbers["fastimd_slow_closes_total"])

    def delay(share: float) -> str:
        return f"{delays[min(len(delays) - 1, int(share * len(delays)))] / 1e6:,.0f} ms"

    rows = {
        "members on the live wire": f"{members:,}",
        "budget": f"{options.budget:,} deliveries/s",
        "said": f"{stored:,} in {seconds:.1f} s, {stored / seconds:,.0f}/s; {urgent} urgent",
        "history": f"{stored:,} of {sent + urgent:,}",
        "heard": f"{total:,}, {total / seconds:,.0f} deliveries/s",
        "told to have missed": f"{missed:,}",
        "left out by the daemon": f"{numbers['fastimd_messages_shed_total']:,.0f} messages",
        "heard + missed is not what was said": f"{wrong} members",
        "closed; as slow": f"{closed}; {slow}",
        "urgent, until read": f"p50 {delay(0.5)}, p99 {delay(0.99)}, longest {delay(1)}"
        f" ({len(delays):,} of {urgent * members:,})",
        "daemon, CPU": f"{cpu:.2f} of a core",
        "daemon, memory": f"{resident_bytes / 2**20:,.0f} MiB",
    }
    width = max(map(len, rows))
    for name, figure in rows.items():
        print(f"{name:<{width}}  {figure}", flush=True)
    return not (wrong or closed or slow) and stored == sent + urgent


def main() -> int:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--listeners", type=int, default=2, help="processes that they are in")
    parser.add_argument("--offered", type=int, default=2000, help="messages a second")
    parser.add_argument("--urgent", type=float, default=4, help="urgent messages a second")
    parser.add_argument("--budget", type=int, default=100_000, help="deliveries a second")
    parser.add_argument("--seconds", type=float, default=15)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < options.members + 200:
        sys.exit(f"only {hard} files may be open: raise the limit, or lower --members")
    Stadium.budget = options.budget
    with (
        TemporaryDirectory() as name,
        BenchRedis(Path(name)) as redis,
        Stadium(Path(name), redis) as server,
    ):
        return 0 if run(server, redis, options) else 1


if __name__ == "__main__":
    sys.exit(main())
