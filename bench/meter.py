"""Measures daemons and their Redis while a load runs: CPU time, memory, bytes, commands.

The load runs in processes of its own. Everything else is read from outside, before and after some
seconds of it: /proc, the daemons' metrics, and ``INFO`` of Redis.
"""

from __future__ import annotations

import multiprocessing
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeVar, cast

from servers import BenchRedis, Fastimd

from fastimd.base.codec import message_prefix
from fastimd.bench.report import Result
from fastimd.bench.run import Failed, run
from fastimd.bench.spec import Spec
from fastimd.bench.usage import Usage
from fastimd.groups.store.keyspace import channel_of

TEXT_SENT = "x" * 64
"""What is published; as long as what the load generator says."""
OPEN_SECONDS = 60.0
PONG_SECONDS = 35.0
"""From a ping until a client that is silent is cut off, by default."""
WARM_SECONDS = 0.8
LOOK_SECONDS = 0.05
Seen = TypeVar("Seen")

COUNTED = ("bytes_sent", "bytes_received", "deliveries", "messages_received")
"""The counters of a daemon that a sample has."""


class Daemon(Fastimd):
    """A daemon whose metrics are read; ``ping_interval`` is the setting."""

    ping_interval = 25.0

    def environment(self) -> Mapping[str, str]:
        return {
            **super().environment(),
            "FASTIMD_ADMIN__BIND": f"unix:{self.folder}/admin.sock",
            "FASTIMD_SOCKET__PING_INTERVAL": str(self.ping_interval),
            "FASTIMD_SOCKET__PING_TIMEOUT": str(self.ping_interval + PONG_SECONDS),
        }

    def numbers(self) -> dict[str, float]:
        """Its metrics without labels, by name."""
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(10)
            stream.connect(f"{self.folder}/admin.sock")
            stream.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            with stream.makefile("rb") as answer:
                scraped = answer.read().decode()
        found = re.findall(r"^fastimd_(\w+?)(?:_total)? (\S+)$", scraped, re.M)
        return {name: float(value) for name, value in found}


@dataclass(frozen=True)
class Sample:
    """What happened, each a second.

    Args:
        daemons: CPU seconds of each.
        redis: CPU seconds of Redis.
        counted: by the daemons together; ``COUNTED``.
        commands: of Redis, with those that scripts call.
        redis_in: bytes that Redis received.
        redis_out: bytes that Redis sent.
    """

    daemons: tuple[float, ...]
    redis: float
    counted: Mapping[str, float]
    commands: float = 0.0
    redis_in: float = 0.0
    redis_out: float = 0.0

    @property
    def messages(self) -> float:
        """How many the daemons received."""
        return self.counted["messages_received"]

    @property
    def deliveries(self) -> float:
        """How many there were."""
        return self.counted["deliveries"]


class Meter:
    """Looks at some daemons and their Redis."""

    def __init__(self, daemons: Sequence[Daemon], redis: BenchRedis) -> None:
        self._daemons = daemons
        self._redis = redis

    def count(self, name: str) -> float:
        """What the daemons have counted, together."""
        return sum(daemon.numbers()[name] for daemon in self._daemons)

    def used(self) -> Usage:
        """CPU time and memory of the daemons, together."""
        return Usage.of(daemon.pid for daemon in self._daemons)

    def redis_memory(self) -> int:
        """Bytes that Redis has allocated."""
        with self._redis.client() as client:
            return int(client.info("memory")["used_memory"])

    def sample(self, seconds: float) -> Sample:
        """Look, wait, and look again.

        Counters are read before the CPU time and again after it, so that reading them costs none.
        Each has an interval of its own, by which it is divided.
        """
        with self._redis.client() as client:
            counted, told = self._counted(), _timed(lambda: client.info("stats"))
            used = _timed(self._cpu)
            time.sleep(seconds)
            used_now = _timed(self._cpu)
            told_now, counted_now = _timed(lambda: client.info("stats")), self._counted()
        took = used_now[0] - used[0]
        cpu = [(now - then) / took for then, now in zip(used[1], used_now[1], strict=True)]
        spent = {
            name: (told_now[1][name] - told[1][name]) / (told_now[0] - told[0])
            for name in (
                *("total_commands_processed", "total_net_input_bytes", "total_net_output_bytes"),
            )
        }
        totals = dict.fromkeys(COUNTED, 0.0)
        for (then, before), (now, after) in zip(counted, counted_now, strict=True):
            for name in COUNTED:
                totals[name] += (after[name] - before[name]) / (now - then)
        return Sample(tuple(cpu[:-1]), cpu[-1], totals, *spent.values())

    def _cpu(self) -> list[float]:
        pids = [*(daemon.pid for daemon in self._daemons), self._redis.pid]
        return [Usage.of((pid,)).cpu_seconds for pid in pids]

    def _counted(self) -> list[tuple[float, dict[str, float]]]:
        return [_timed(daemon.numbers) for daemon in self._daemons]


def _timed(look: Callable[[], Seen]) -> tuple[float, Seen]:
    """What is seen, and when."""
    seen = look()
    return time.monotonic(), seen


@contextmanager
def listening(redis: BenchRedis, channel: bytes, count: int) -> Iterator[None]:
    """So many more subscribers of a channel, as that many more daemons would be."""
    ended = threading.Event()

    def read(streams: list[socket.socket]) -> None:
        while not ended.is_set():
            for stream in select.select(streams, (), (), LOOK_SECONDS)[0]:
                stream.recv(65536)

    with ExitStack() as stack:
        streams = [
            stack.enter_context(socket.create_connection(("127.0.0.1", redis.port)))
            for _ in range(count)
        ]
        for stream in streams:
            stream.sendall(b"*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%b\r\n" % (len(channel), channel))
        reader = threading.Thread(target=read, args=(streams,))
        reader.start()
        try:
            yield
        finally:
            ended.set()
            reader.join()


@contextmanager
def publishing(redis: BenchRedis, groups: Sequence[str], seconds: float) -> Iterator[None]:
    """A message to each group at once, every so many seconds, as other daemons would send them."""
    ended = threading.Event()
    beginnings = [
        (channel_of(group), message_prefix(group, "somebody", TEXT_SENT)) for group in groups
    ]

    def publish() -> None:
        with redis.client() as client:
            while not ended.wait(seconds):
                ts = b"%d}" % (time.time_ns() // 1_000_000)
                together = client.pipeline(transaction=False)
                for channel, beginning in beginnings:
                    together.publish(channel, beginning + ts)
                together.execute()

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        yield
    finally:
        ended.set()
        publisher.join()


@contextmanager
def loaded(meter: Meter, specs: Sequence[Spec]) -> Iterator[None]:
    """Put loads on the daemons, all at once, and wait until they run.

    They run for their ``seconds`` and a little more. At the end every message must have arrived.

    Raises:
        Failed: a load broke off, or a message did not arrive.
    """
    context = multiprocessing.get_context("fork")
    started: list[tuple[BaseProcess, Connection]] = []
    sockets = sum(spec.sockets for spec in specs) + meter.count("sockets")
    received = meter.count("messages_received")
    try:
        for spec in specs:
            ours, theirs = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(target=_put, args=(spec, theirs))
            process.start()
            theirs.close()
            started.append((process, ours))
        _wait(meter, sockets, received if any(_talks(spec) for spec in specs) else None, started)
        time.sleep(WARM_SECONDS)
        yield
        for _, end in started:
            _check(end)
    finally:
        for process, _ in started:
            process.terminate()
            process.join()


def _talks(spec: Spec) -> bool:
    return spec.mode in ("burst", "talk")


def _put(spec: Spec, end: Connection) -> None:
    try:
        end.send(run(spec))
    except Exception as exc:
        end.send(Failed(str(exc)))


def _wait(
    meter: Meter,
    sockets: float,
    received: float | None,
    started: Sequence[tuple[BaseProcess, Connection]],
) -> None:
    """Wait until all sockets are open and, if anybody talks, until messages come."""
    deadline = time.monotonic() + OPEN_SECONDS
    while meter.count("sockets") < sockets or (
        received is not None and meter.count("messages_received") <= received
    ):
        for _, end in started:
            if end.poll():
                _check(end)
                raise Failed("a load ended before it was measured")
        if time.monotonic() > deadline:
            raise Failed(f"not open within {OPEN_SECONDS:g} s: {sockets:.0f} sockets")
        time.sleep(LOOK_SECONDS)


def _check(end: Connection) -> None:
    try:
        told = end.recv()
    except EOFError:
        raise Failed("a load ended without a word") from None
    if isinstance(told, Failed):
        raise told
    result = cast(Result, told)
    if not result.is_sound:
        raise Failed(result.as_table())
