"""What moderation costs: a message that is looked at, and Redis while many messages are deleted."""

from __future__ import annotations

import argparse
import time
import timeit
from time import monotonic
from typing import Any

from redis import Redis

from fastimd.base import codec
from fastimd.groups.hearing import Hearing
from fastimd.groups.moderation.policy import Policy
from fastimd.groups.store.keyspace import (
    life_key,
    list_keys,
    messages_key,
    removals_key,
    reports_key,
)
from fastimd.groups.store.removals import PART
from fastimd.redis.scripts import DELETE_OF

GROUP = "bench-of-moderation"
MESSAGES = 100_000
CALLS = 200_000
SHARES = (2, 10, 1000)
"""One message in so many is the user's."""
TEXT = "x" * 64


def measure_check() -> None:
    """Nanoseconds that a message pays, in a group without decisions and in one with many."""
    nothing = min(timeit.repeat(lambda: None, number=CALLS, repeat=5))
    for count in (0, 10_000):
        policy = Policy(GROUP)
        policy.take({f"m:user {number}": '{"until":0}' for number in range(count)})
        policy.hearing = Hearing(monotonic() + 3600)
        assert policy.lets("3")
        taken = min(timeit.repeat(lambda: policy.lets("3"), number=CALLS, repeat=5))  # noqa: B023
        print(f"{count:,} decisions: {(taken - nothing) / CALLS * 1e9:.0f} ns a message")


def measure_deletion(redis: Redis, share: int) -> None:
    """How long each call holds Redis up, with the way there and back."""
    key = messages_key(GROUP)
    redis.delete(key)
    began = int(time.time() * 1000) - 10 * MESSAGES
    for start in range(0, MESSAGES, 1000):
        redis.rpush(
            key,
            *(
                codec.message_prefix(GROUP, str(number % share), TEXT) + b"%d}" % (began + number)
                for number in range(start, start + 1000)
            ),
        )
    keys = (*list_keys(GROUP), life_key(GROUP), removals_key(GROUP), reports_key(GROUP))
    event = f'{{"group":"{GROUP}","user":"1","ts":'
    stop: Any = ""
    deleted, calls = 0, []
    while stop != 0:
        asked_at = time.perf_counter()
        stop, count = redis.eval(
            DELETE_OF.source.decode(),
            len(keys),
            *keys,
            "1",
            stop,
            PART,
            2**52,
            "unheard",
            event,
            60,
        )
        calls.append(time.perf_counter() - asked_at)
        deleted += count
    redis.delete(*keys)
    print(
        f"{deleted:,} of {MESSAGES:,} deleted in {len(calls)} calls, {sum(calls):.2f} s;"
        f" the longest {max(calls) * 1000:.1f} ms"
    )


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("redis", metavar="URL", help="a Redis to fill, and to clean up again")
    arguments = parser.parse_args()
    measure_check()
    with Redis.from_url(arguments.redis) as redis:
        for share in SHARES:
            measure_deletion(redis, share)


if __name__ == "__main__":
    main()
