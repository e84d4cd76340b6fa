"""The server API beside Centrifugo's: CPU time of the server for a publish, and for a broadcast.

python bench/api.py [--rounds 5] [--seconds 3] [--connections 64]

Publish: each of the connections, which are kept alive, asks again when it has its answer, in one of
100 groups. Broadcast: four connections say the same in 1,000 groups. Both servers keep a history in
the same Redis, and nobody is in the groups. Both run at once and are asked in turn. Every answer is
looked at. Prints the medians over the rounds, and the ratio with its 95 % confidence interval.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import selectors
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from before import FEWEST, median_within
from servers import BenchRedis, Centrifugo, Fastimd, NotStarted, Server

from fastimd.bench.usage import Usage

SECRET = "a secret of the bench"
GROUPS = 100
BROADCAST_GROUPS = 1_000
BROADCAST_CONNECTIONS = 4
TEXT = "x" * 64
WARM_SECONDS = 0.7
SETTLE_SECONDS = 0.3


class FastimdApi(Fastimd):
    """The daemon, with the API on its public address."""

    def environment(self) -> Mapping[str, str]:
        digest = hashlib.sha256(SECRET.encode()).hexdigest()
        return {
            **super().environment(),
            "FASTIMD_API__PUBLIC": "true",
            "FASTIMD_API__KEYS": f'[{{ name = "bench", sha256 = "{digest}" }}]',
        }


class CentrifugoApi(Centrifugo):
    """Centrifugo, with its API."""

    def environment(self) -> Mapping[str, str]:
        return {
            **super().environment(),
            "CENTRIFUGO_HTTP_API_DISABLED": "false",
            "CENTRIFUGO_HTTP_API_KEY": SECRET,
        }


class Load(NamedTuple):
    """A load: the body of each request by its number, the connections, the channels of a body."""

    method: str
    body: Callable[[int], bytes]
    connections: int
    channels: int


class Used(NamedTuple):
    """Microseconds of CPU for a channel, and requests a second."""

    cpu: float
    rate: float


class Caller:
    """One connection, that always has a request under way."""

    def __init__(self, port: int, load: Load, number: int) -> None:
        self._load = load
        self._stream = socket.create_connection(("127.0.0.1", port))
        self._stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._number = number
        self._answer = b""
        self.answered = 0

    def fileno(self) -> int:
        return self._stream.fileno()

    def ask(self) -> None:
        """Send the next request."""
        body = self._load.body(self._number)
        self._number += 1
        self._stream.sendall(
            b"POST /api/%b HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (self._load.method.encode(), SECRET.encode(), len(body), body)
        )

    def take(self) -> None:
        """Read; when the answer is whole, look at it and ask again."""
        data = self._stream.recv(1 << 20)
        if not data:
            sys.exit("a server has closed the connection")
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found or not _is_whole(head, body):
            return
        if not head.startswith(b"HTTP/1.1 200") or b'"error"' in body:
            sys.exit(f"refused: {self._answer[:300]!r}")
        self._answer = b""
        self.answered += 1
        self.ask()


def _is_whole(head: bytes, body: bytes) -> bool:
    lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if b"content-length" in lines:
        return len(body) >= int(lines[b"content-length"])
    return body.endswith(b"0\r\n\r\n")


def measure(server: Server, load: Load, seconds: float) -> Used:
    """Ask for a while."""
    callers = [Caller(server.port, load, number) for number in range(load.connections)]
    with selectors.DefaultSelector() as ready:
        for caller in callers:
            ready.register(caller, selectors.EVENT_READ)
            caller.ask()

        def ask_for(how_long: float) -> int:
            before, until = sum(each.answered for each in callers), time.monotonic() + how_long
            while time.monotonic() < until:
                for key, _ in ready.select(0.1):
                    key.fileobj.take()  # type: ignore[union-attr]
            return sum(each.answered for each in callers) - before

        ask_for(WARM_SECONDS)
        began, used = time.monotonic(), Usage.of(server.pids).cpu_seconds
        answered = ask_for(seconds)
        used = Usage.of(server.pids).cpu_seconds - used
    rate = answered / (time.monotonic() - began)
    return Used(1e6 * used / answered / load.channels, rate)


def loads(connections: int) -> dict[str, Load]:
    """The two loads, by name."""

    def publish(number: int) -> bytes:
        return json.dumps({"channel": f"group-{number % GROUPS}", "data": TEXT}).encode()

    channels = [f"group-{number}" for number in range(BROADCAST_GROUPS)]
    said = json.dumps({"channels": channels, "data": TEXT}).encode()
    return {
        "publish": Load("publish", publish, connections, 1),
        "broadcast": Load("broadcast", lambda _: said, BROADCAST_CONNECTIONS, BROADCAST_GROUPS),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    if options.rounds < FEWEST:
        parser.error(f"--rounds: at least {FEWEST}, or nothing is known with 95 % confidence")
    if missing := Centrifugo.missing():
        sys.exit(missing)
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            redis = stack.enter_context(BenchRedis(folder))
            ours = stack.enter_context(FastimdApi(folder, redis))
            theirs = stack.enter_context(CentrifugoApi(folder, redis))
            print(f"{ours.version}; {theirs.version}; {redis.version}")
            for name, load in loads(options.connections).items():
                pairs = []
                for _ in range(options.rounds):
                    pairs.append(
                        tuple(measure(each, load, options.seconds) for each in (ours, theirs))
                    )
                    time.sleep(SETTLE_SECONDS)
                mine, peer = zip(*pairs, strict=True)
                low, ratio, high = median_within(one.cpu / other.cpu for one, other in pairs)
                print(
                    f"{name}: CPU of a channel {median(each.cpu for each in mine):.1f} us, of"
                    f" Centrifugo {median(each.cpu for each in peer):.1f} us; ratio"
                    f" {ratio:.2f} ({low:.2f} to {high:.2f}); requests/s"
                    f" {median(each.rate for each in mine):,.0f} and"
                    f" {median(each.rate for each in peer):,.0f}",
                    flush=True,
                )
    except NotStarted as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main()
