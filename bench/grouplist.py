"""The cost of a list socket for a user in very many groups, and how far it disturbs others.

python bench/grouplist.py [--groups 100000] [--messages] [--rate 1]

The socket opens, changes and closes. An instrument in the daemon records the CPU time of each turn
of its scheduler, between two sleeps. Meanwhile a client talks in another group and measures how
long its messages take to return.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Event, Thread

from redis import Redis
from servers import BenchRedis, Fastimd
from websockets.sync.client import ClientConnection, connect

from fastimd.bench.usage import Usage

LONG_TURN = 0.002
"""Seconds; a turn that is shorter is not noted."""
QUIET_SECONDS = 3.0
SWEEP_SECONDS = 32.0
LINGER_SECONDS = 10.0
"""Until what was listened to is let go."""
LAUNCHER = """
import runpy, sys, time
import trio

LONG_TURN, notes = float(sys.argv[1]), open(sys.argv[2], "w", buffering=1)
run = trio.run

class Turns(trio.abc.Instrument):
    began = 0.0

    def after_io_wait(self, timeout):
        self.began = time.thread_time()

    def before_io_wait(self, timeout):
        took = time.thread_time() - self.began
        if took > LONG_TURN and self.began:
            print(time.monotonic() - took, took, file=notes)

trio.run = lambda *given, **options: run(*given, instruments=[Turns()], **options)
sys.argv = ["fastimd", *sys.argv[3:]]
runpy.run_module("fastimd", run_name="__main__")
"""


class Watched(Fastimd):
    """A daemon whose turns are noted."""

    rate = 1.0

    @property
    def notes(self) -> Path:
        return self.folder / "turns"

    def command(self) -> list[str]:
        python, _dash_m, _fastimd, *rest = super().command()
        return [python, "-c", LAUNCHER, str(LONG_TURN), str(self.notes), *rest]

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "FASTIMD_GROUP_LIST__UPDATE_RATE": str(self.rate)}

    def longest_turn(self, since: float, until: float) -> float:
        """The longest turn that began between two moments of ``time.monotonic``, in seconds."""
        turns = (tuple(map(float, line.split())) for line in self.notes.read_text().splitlines())
        return max((took for began, took in turns if since <= began <= until), default=LONG_TURN)


class Talker(Thread):
    """Somebody who talks all the while, and notes when the text has come back."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.delays: list[tuple[float, float]] = []
        self.stopped = Event()
        self._url = url

    def run(self) -> None:
        with connect(self._url, compression=None, proxy=None) as link:
            link.recv()
            while not self.stopped.is_set():
                began = time.monotonic()
                link.send("hello")
                link.recv()
                self.delays.append((began, time.monotonic() - began))
                time.sleep(0.002)


def fill(redis: Redis, user: str, groups: int, *, messages: bool) -> None:
    """Put a user into groups; with a message in each, newest first in no order."""
    now = time.time_ns() // 1_000_000 - 10 * groups
    for start in range(0, groups, 1000):
        with redis.pipeline(transaction=False) as pipe:
            numbers = range(start, min(start + 1000, groups))
            pipe.sadd(f"ugs:{user}", *(f"group-{number}" for number in numbers))
            for number in numbers if messages else ():
                said = {"groupId": f"group-{number}", "userId": "7", "info": "x" * 40}
                ts = now + number * 7919 % groups
                pipe.rpush(
                    f"gml:group-{number}", json.dumps({**said, "ts": ts}, separators=(",", ":"))
                )
                pipe.expire(f"gml:group-{number}", 600_000)
            pipe.execute()


@contextmanager
def told(
    what: str, server: Watched, talker: Talker, *, settle: float = 0.0
) -> Iterator[Callable[[], None]]:
    """Tell how long a block took, until the mark it may set, and whom it held up."""
    marks: list[float] = []
    before = Usage.of(server.pids).cpu_seconds
    began = time.monotonic()
    yield lambda: marks.append(time.monotonic())
    took = (marks or [time.monotonic()])[0] - began
    time.sleep(settle)
    ended = time.monotonic()
    cpu = Usage.of(server.pids).cpu_seconds - before
    delays = [delay for at, delay in list(talker.delays) if began <= at <= ended]
    print(
        f"{what:<34} {took:7.2f} s  CPU {cpu:6.2f} s  "
        f"longest turn {server.longest_turn(began, ended) * 1000:6.0f} ms  "
        f"a talker's echo: median {median(delays or [0]) * 1000:6.1f}, "
        f"longest {max(delays or [0]) * 1000:6.0f} ms",
        flush=True,
    )


@contextmanager
def opened_list(server: Watched) -> Iterator[ClientConnection]:
    url = f"ws://127.0.0.1:{server.port}/group/list/many/t"
    with connect(url, compression=None, proxy=None, max_size=None) as link:
        yield link


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=100_000)
    parser.add_argument("--messages", action="store_true", help="a message in each group")
    parser.add_argument("--rate", type=float, default=1.0, help="group_list.update_rate")
    given = parser.parse_args(arguments)
    Watched.rate = given.rate
    with (
        TemporaryDirectory() as folder,
        BenchRedis(Path(folder)) as redis,
        Watched(Path(folder), redis) as server,
        redis.client() as client,
    ):
        fill(client, "many", given.groups, messages=given.messages)
        talker = Talker(f"ws://127.0.0.1:{server.port}/group/chat/calm/2/t")
        talker.start()
        time.sleep(1)
        measure(server, talker, given.groups)
        talker.stopped.set()
        talker.join()


def measure(server: Watched, talker: Talker, groups: int) -> None:
    with told("nothing", server, talker):
        time.sleep(QUIET_SECONDS)
    with ExitStack() as stack:
        with told("the first push", server, talker):
            link = stack.enter_context(opened_list(server))
            size = len(link.recv(timeout=120))
        with told("a second socket's first push", server, talker), opened_list(server) as second:
            second.recv(timeout=120)
        url = f"ws://127.0.0.1:{server.port}/group/chat/group-{groups // 2}/2/t"
        with connect(url, compression=None, proxy=None) as chat:
            chat.recv()
            with told("ten messages in one of the groups", server, talker):
                for _ in range(10):
                    chat.send("hi")
                    link.recv(timeout=120)
        with told("a sweep", server, talker):
            time.sleep(SWEEP_SECONDS)
        with told("the socket closes", server, talker, settle=LINGER_SECONDS) as mark:
            stack.close()
            mark()
    print(f"a push has {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
