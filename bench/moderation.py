"""The costs of moderation: of judging a message, and of deleting a user's messages.

python bench/moderation.py [--rounds 12] [--seconds 2]

The first figure is a look at a policy, which every message pays for. The second is the daemon's CPU
time for a message, with 25 talkers in each of 20 groups. Groups without moderation and groups with
1,000 mutes and 100 moderators take turns; the interval is that of their ratio. Nobody muted speaks.
Last, the bench deletes one user's messages from a list of 100,000, in parts, as the daemon does.
Redis serves others between two parts, so its longest stop is the CPU time of the longest part.
"""

from __future__ import annotations

import argparse
import sys
import time
import timeit
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from before import FEWEST, SETTLE, median_within
from redis import Redis
from servers import BenchRedis, Fastimd

from fastimd.base import codec
from fastimd.bench.run import run
from fastimd.bench.spec import Spec
from fastimd.groups.hearing import Hearing
from fastimd.groups.moderation.policy import Policy
from fastimd.groups.store.keyspace import (
    life_key,
    list_keys,
    messages_key,
    policy_key,
    removals_key,
    reports_key,
)
from fastimd.groups.store.removals import PART
from fastimd.redis.scripts import DELETE_OF

GROUP = "bench-of-moderation"
MUTES, MODERATORS = 1_000, 100
MESSAGES = 100_000
CALLS = 200_000
SHARES = (2, 10, 1000)
"""The user said one message in this many."""
TEXT = "x" * 64


def fields(mutes: int, moderators: int = 0) -> dict[Any, Any]:
    """What Redis has of a policy."""
    return {
        "v": "1",
        **{f"m:muted-{number}": '{"until":0}' for number in range(mutes)},
        **{f"mod:moderator-{number}": "1" for number in range(moderators)},
    }


def measure_check() -> None:
    """Nanoseconds that a message pays, in a group without decisions and in one with many."""
    nothing = min(timeit.repeat(lambda: None, number=CALLS, repeat=5))
    for count in (0, 10_000):
        policy = Policy(GROUP)
        policy.take(fields(count))
        policy.hearing = Hearing(monotonic() + 3600)
        assert policy.lets("3")
        taken = min(timeit.repeat(lambda: policy.lets("3"), number=CALLS, repeat=5))  # noqa: B023
        print(f"{count:,} decisions: {(taken - nothing) / CALLS * 1e9:.0f} ns a message")


def measure_messages(
    server: Fastimd, redis: Redis, rounds: int, seconds: float
) -> list[tuple[float, float]]:
    """The daemon's CPU time for a message, in us, without a policy and with one."""
    used = []
    for number in range(rounds):
        found: dict[bool, float] = {}
        for is_moderated in (True, False) if number % 2 else (False, True):  # each begins as often
            spec = Spec(
                "talk",
                (server.address,),
                groups=20,
                members=25,
                in_flight=1,
                seconds=seconds,
                warm_up=seconds / 2,
                settle=SETTLE,
                run=f"{number}-{is_moderated}",
            )
            if is_moderated:
                for group in spec.groups_talked_in():
                    redis.hset(policy_key(group), mapping=fields(MUTES, MODERATORS))
            result = run(spec, pids=server.pids)
            cost = result.server.cpu_us_per_message if result.server is not None else None
            if not result.is_sound or cost is None:
                sys.exit(result.as_table())
            found[is_moderated] = cost
        used.append((found[False], found[True]))
    return used


def ran_for(pid: int) -> float:
    """Milliseconds for which a process has had a core, but for its other threads."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def measure_deletion(redis: Redis, pid: int, share: int) -> None:
    """How long each part holds Redis up."""
    key = messages_key(GROUP)
    began = int(time.time() * 1000) - 10 * MESSAGES
    for start in range(0, MESSAGES, 1000):
        entries = (
            codec.message_prefix(GROUP, str(number % share), TEXT) + b"%d}" % (began + number)
            for number in range(start, start + 1000)
        )
        redis.rpush(key, *entries)
    keys = (*list_keys(GROUP), life_key(GROUP), removals_key(GROUP), reports_key(GROUP))
    event = f'{{"group":"{GROUP}","user":"1","ts":'
    delete = redis.register_script(DELETE_OF.source)
    stop: Any = ""
    deleted, parts = 0, []
    while stop != 0:
        before = ran_for(pid)
        stop, count = delete(keys, ("1", stop, PART, 2**52, "unheard", event, 60))
        parts.append(ran_for(pid) - before)
        deleted += count
    redis.delete(*keys)
    print(
        f"{deleted:,} of {MESSAGES:,} deleted in {len(parts)} parts, {sum(parts):.0f} ms of Redis;"
        f" median {median(parts):.2f}, longest {max(parts):.2f} ms"
    )


def main() -> None:
    """Measure all three."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=12, help="how often messages are measured")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each time")
    arguments = parser.parse_args()
    if arguments.rounds < FEWEST:
        parser.error(f"--rounds: at least {FEWEST}, or nothing is known with 95 % confidence")
    measure_check()
    with (
        TemporaryDirectory() as folder,
        BenchRedis(Path(folder)) as database,
        database.client() as redis,
    ):
        with Fastimd(Path(folder), database) as server:
            used = measure_messages(server, redis, arguments.rounds, arguments.seconds)
        plain, moderated = (median(column) for column in zip(*used, strict=True))
        low, ratio, high = median_within(after / before for before, after in used)
        print(
            f"a message: {plain:.2f} us without a policy, {moderated:.2f} us with {MUTES:,} mutes;"
        )
        print(f"ratio {ratio:.3f} ({low:.3f} to {high:.3f})")
        for share in SHARES:
            measure_deletion(redis, database.pid, share)


if __name__ == "__main__":
    main()
