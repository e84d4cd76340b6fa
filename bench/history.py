"""The cost of pages of a long history: requests one after another on one connection.

Prints the CPU time of the daemon and Redis together for each request. That leaves out the client
and whatever else the machine does.
"""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Callable
from urllib.parse import urlencode

from redis import Redis
from servers import BenchRedis, Fastimd

from fastimd.bench.usage import Usage

MESSAGES = 100_000
REQUESTS = 500
GROUP = "long"
USER = "someone"


def measure_history(server: Fastimd, database: BenchRedis, redis: Redis) -> dict[str, float]:
    """The p99 of a history page, a page before a message, and a recall, in milliseconds."""
    pids = (server.pid, database.pid)
    first = _fill(redis)
    connection = http.client.HTTPConnection(server.address.host, server.address.port, timeout=10)
    headers = {"userId": USER}

    def ask(path: str, **parameters: object) -> str:
        connection.request(
            "POST",
            path,
            urlencode(parameters),
            headers | {"Content-Type": "application/x-www-form-urlencoded"},
        )
        answer = json.loads(connection.getresponse().read())
        if answer["code"] != 200:
            raise Unexpected(f"{path}: {answer}")
        return str(answer["msg"])

    headers["token"] = ask("/user/login", userId=USER, password="any")

    def page(_number: int) -> None:
        ask("/group/listMessage", groupId=GROUP, startPage=-50, endPage=-1)

    def before(number: int) -> None:
        ts = first + 1000 + number * 191 % (MESSAGES - 1000)
        ask("/group/listOldMessage", groupId=GROUP, userId=USER, ts=ts, count=50)

    def recall(number: int) -> None:
        ask("/group/delMessage", groupId=GROUP, ts=first + MESSAGES - 1 - number * 7)

    found = {
        f"page of a history of {MESSAGES:,}": _p99(page, pids),
        f"page before one of {MESSAGES:,} messages": _p99(before, pids),
        f"recall of one of {MESSAGES:,} messages": _p99(recall, pids),
    }
    connection.close()
    return found


class Unexpected(Exception):
    """An answer that is not the one that is measured."""


def _fill(redis: Redis) -> int:
    """A long list whose messages are a millisecond apart, the last of now; the first ``ts``."""
    first = time.time_ns() // 1_000_000 - MESSAGES
    entries = [
        f'{{"groupId":"{GROUP}","userId":"{USER}","info":"{"x" * 64}","ts":{first + n}}}'
        for n in range(MESSAGES)
    ]
    for start in range(0, MESSAGES, 1000):
        redis.rpush(f"gml:{GROUP}", *entries[start : start + 1000])
    return first


def _p99(ask: Callable[[int], None], pids: tuple[int, ...]) -> float:
    taken = []
    for number in range(REQUESTS):
        before = Usage.of(pids).cpu_seconds
        ask(number)
        taken.append(Usage.of(pids).cpu_seconds - before)
    return statistics.quantiles(taken, n=100)[-1] * 1000
