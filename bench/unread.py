"""How long the inbox of a user in many groups takes: the method `groups` of the live wire.

python bench/unread.py [--groups 1000] [--messages 1000] [--asks 30]

Each group has as many messages. Three inboxes are asked for: all is read, some messages are unread
in each group, and the read marks are anywhere, with no mark in a tenth of the groups. Each count is
checked. Prints the milliseconds from question to answer, as the client sees them, and the CPU time
of the daemon and of Redis for an answer.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from redis import Redis
from servers import BenchRedis, Fastimd
from websockets.sync.client import ClientConnection, connect

from fastimd.bench.usage import Usage

USER = "many"
SOME = 10
"""How many messages are unread in a group at most, where some are."""


def fill(redis: Redis, groups: int, messages: int) -> dict[str, int]:
    """Put the user into groups with messages; returns the ts of the first in each."""
    begin = time.time_ns() // 1_000_000 - groups - messages
    firsts = {f"group-{number}": begin + number for number in range(groups)}
    for group, first in firsts.items():
        said = {"groupId": group, "userId": "7", "info": "x" * 40}
        texts = [compact({**said, "ts": first + number}) for number in range(messages)]
        with redis.pipeline(transaction=False) as pipe:
            pipe.sadd(f"ugs:{USER}", group)
            pipe.rpush(f"gml:{group}", *texts)
            pipe.expire(f"gml:{group}", 600_000)
            pipe.execute()
    return firsts


def compact(message: dict[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"))


def inboxes(groups: list[str], messages: int) -> dict[str, dict[str, int]]:
    """How many messages are unread in each group, in each of the inboxes."""
    chance = random.Random(1)
    return {
        "all is read": dict.fromkeys(groups, 0),
        f"1 to {SOME} are unread": {group: chance.randint(1, SOME) for group in groups},
        "marks anywhere": {
            group: messages if number % 10 == 0 else chance.randint(0, messages)
            for number, group in enumerate(groups)
        },
    }


def mark(redis: Redis, firsts: dict[str, int], messages: int, unread: dict[str, int]) -> None:
    """Set the marks before what is to be unread; without a mark all is."""
    marks = {
        group: firsts[group] + messages - count - 1
        for group, count in unread.items()
        if count < messages
    }
    redis.delete(f"fastimd:read:{USER}")
    redis.zadd(f"fastimd:read:{USER}", marks)


def ask(link: ClientConnection, number: int) -> tuple[float, list[dict[str, Any]]]:
    """Ask for the groups; returns the milliseconds, and the answer."""
    began = time.perf_counter()
    link.send(json.dumps({"id": number, "rpc": {"method": "groups", "data": {}}}))
    while True:
        answer = link.recv()
        took = time.perf_counter() - began
        reply = json.loads(answer)
        if reply.get("id") == number:
            return 1000 * took, reply["rpc"]["data"]["groups"]


def measure(
    what: str, pids: tuple[int, int], link: ClientConnection, unread: dict[str, int], asks: int
) -> None:
    """Ask for one of the inboxes, many times."""
    before = [Usage.of([pid]).cpu_seconds for pid in pids]
    times = []
    for number in range(2, asks + 2):
        took, groups = ask(link, number)
        times.append(took)
        told = {group["channel"]: group["unread"] for group in groups}
        if told != unread:
            raise SystemExit(f"not what is unread: {told.items() ^ unread.items()}")
    after = [Usage.of([pid]).cpu_seconds for pid in pids]
    daemon, redis = (1000 * (end - begin) / asks for begin, end in zip(before, after, strict=True))
    print(
        f"{len(unread):,} groups, {what:<20} least {min(times):5.1f}, median {median(times):5.1f}, "
        f"longest {max(times):5.1f} ms; CPU of the daemon {daemon:.1f}, of Redis {redis:.1f} ms"
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=1000, help="at most 1000")
    parser.add_argument("--messages", type=int, default=1000, help="in each group")
    parser.add_argument("--asks", type=int, default=30)
    given = parser.parse_args(arguments)
    with (
        TemporaryDirectory() as folder,
        BenchRedis(Path(folder)) as database,
        Fastimd(Path(folder), database) as server,
        database.client() as redis,
    ):
        firsts = fill(redis, given.groups, given.messages)
        url = f"ws://127.0.0.1:{server.port}/connection/websocket"
        with connect(url, compression=None, proxy=None, max_size=None) as link:
            link.send(json.dumps({"id": 1, "connect": {"data": {"userId": USER}}}))
            link.recv()
            for what, unread in inboxes(list(firsts), given.messages).items():
                mark(redis, firsts, given.messages, unread)
                measure(what, (server.pid, database.pid), link, unread, given.asks)


if __name__ == "__main__":
    main(sys.argv[1:])
