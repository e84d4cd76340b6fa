"""Presence in a large room: its cost while nothing happens, and the death of a daemon.

python bench/presence.py [--members 30000] [--seconds 30]

Two daemons have half of the members each. All are on the live wire, each is a user of its own.
Nobody speaks, and the daemons do not ping. The bench measures a room of 30 members, a large one
without presence, and a large one with it. If the three cost the same, members cost nothing. Then
it kills one daemon, and measures for how long the members of that daemon still count.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from redis import Redis
from servers import BenchRedis, Fastimd
from shedding import GROUP, Member
from websockets.sync.client import connect

from fastimd.bench.usage import Usage

FEW = 30
SETTLE_SECONDS = 3.0
OUT_SECONDS = 30.0
"""In which the members of a killed daemon are out, as promised."""


class House(Fastimd):
    """A daemon that does not ping, so that its members cause no work of another kind."""

    is_present = True

    def environment(self) -> Mapping[str, str]:
        return {
            **super().environment(),
            "FASTIMD_SOCKET__PING_INTERVAL": "3600",
            "FASTIMD_SOCKET__PING_TIMEOUT": "7200",
            "FASTIMD_PRESENCE__ENABLED": "true" if self.is_present else "false",
        }


class Idle(NamedTuple):
    """Scripts of presence and commands a second, and the share of a core that each process uses."""

    scripts: float
    commands: float
    redis_cpu: float
    daemon_cpu: float


def stay(pipe: Connection, port: int, first: int, count: int) -> None:
    """Be members until told to go."""
    members = [Member(port, f"user-{number}") for number in range(first, first + count)]
    pipe.send(len(members))
    pipe.recv()


def counted(port: int) -> tuple[int, int]:
    """The counts of clients and users that the group has without the one that asks here."""
    url = f"ws://127.0.0.1:{port}/connection/websocket"
    with connect(url, compression=None, proxy=None) as link:
        link.send(json.dumps({"id": 1, "connect": {"data": {"userId": "counter"}}}))
        for number, command in ((2, "subscribe"), (3, "presence_stats")):
            link.send(json.dumps({"id": number, command: {"channel": GROUP}}))
        while True:
            for line in str(link.recv()).splitlines():
                reply = json.loads(line)
                if reply.get("id") == 3:
                    stats = reply["presence_stats"]
                    return stats["num_clients"] - 1, stats["num_users"] - 1


def commands(redis: Redis) -> tuple[int, int]:
    """The numbers of scripts and of all commands that Redis has carried out."""
    stats = redis.info("commandstats")
    scripts = stats.get("cmdstat_evalsha", {}).get("calls", 0)
    return scripts, redis.info("stats")["total_commands_processed"]


def idle(redis: Redis, redis_pid: int, daemons: list[House], seconds: float) -> Idle:
    """Wait, and see what is used meanwhile."""
    pids = [each.pid for each in daemons]
    before = Usage.of([redis_pid]).cpu_seconds, Usage.of(pids).cpu_seconds, commands(redis)
    time.sleep(seconds)
    after = Usage.of([redis_pid]).cpu_seconds, Usage.of(pids).cpu_seconds, commands(redis)
    return Idle(
        (after[2][0] - before[2][0]) / seconds,
        (after[2][1] - before[2][1]) / seconds,
        (after[0] - before[0]) / seconds,
        (after[1] - before[1]) / seconds / len(daemons),
    )


@contextmanager
def room(daemons: list[House], members: int) -> Iterator[None]:
    """So many members, spread over the daemons."""
    context = get_context("spawn")
    share = members // len(daemons)
    pipes, processes = [], []
    for number, daemon in enumerate(daemons):
        ours, theirs = context.Pipe()
        arguments = (theirs, daemon.port, number * share, share)
        process = context.Process(target=stay, args=arguments, daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        if pipe.recv() != share:
            sys.exit("not all members were let in")
    try:
        yield
    finally:
        for pipe in pipes:
            pipe.send("go")
        for process in processes:
            process.join()


def measure(members: int, seconds: float, *, is_present: bool, kill: bool) -> None:
    """Open a room, and print what it costs."""
    House.is_present = is_present
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        database = stack.enter_context(BenchRedis(folder))
        daemons = [stack.enter_context(House(folder, database)) for _ in range(2)]
        redis = stack.enter_context(database.client())
        began = Usage.of([database.pid, *(each.pid for each in daemons)]).cpu_seconds
        stack.enter_context(room(daemons, members))
        came = Usage.of([database.pid, *(each.pid for each in daemons)]).cpu_seconds - began
        time.sleep(SETTLE_SECONDS)
        if is_present and counted(daemons[0].port) != (members, members):
            sys.exit(f"not {members} members: {counted(daemons[0].port)}")
        time.sleep(SETTLE_SECONDS)
        used = idle(redis, database.pid, daemons, seconds)
        print(
            f"{members:>6,} members, presence {'on ' if is_present else 'off'}: a second, "
            f"{used.scripts:.2f} scripts and {used.commands:.1f} commands; CPU of Redis "
            f"{100 * used.redis_cpu:.2f} %, of a daemon {100 * used.daemon_cpu:.2f} %; to come in, "
            f"{1e6 * came / members:.0f} us each in all",
            flush=True,
        )
        if kill:
            os.kill(daemons[1].pid, signal.SIGKILL)
            killed = time.monotonic()
            left = members - members // 2
            while counted(daemons[0].port) != (left, left):
                if time.monotonic() > killed + 2 * OUT_SECONDS:
                    sys.exit("the members of a killed daemon are still counted")
                time.sleep(0.1)
            took = time.monotonic() - killed
            print(f"after SIGKILL, {left:,} are out in {took:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--members", type=int, default=30_000)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < options.members // 2 + 200:
        sys.exit(f"only {hard} files may be open: raise the limit, or lower --members")
    measure(FEW, options.seconds, is_present=True, kill=False)
    measure(options.members, options.seconds, is_present=False, kill=False)
    measure(options.members, options.seconds, is_present=True, kill=True)


if __name__ == "__main__":
    main()
