"""Measures what other daemons add to a look of presence.

A look is the script that notes changes, without a change: it reads of each other daemon that it has
members in the group. Here one process is all these daemons. It sends what they send, with their own
client, and as they do: for many groups at once.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import trio
from servers import BenchRedis
from structlog.testing import capture_logs

from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.bench.usage import Usage
from fastimd.groups.store.keyspace import Keyspace
from fastimd.groups.store.presence import MAX_OTHERS, Change, Place, Presences, value_of
from fastimd.redis.clients import make_client

MANY = 1 + MAX_OTHERS
"""Daemons that keep each other in mind, so that no look has to be asked again."""
GROUPS = 5 * (MANY + 1)
"""A daemon looks at all that it has members in at once."""
LOOKS = 100
"""Times that each group is looked at by one daemon or another."""
ANNOUNCED, UNLISTED = 200, -1


@dataclass(frozen=True)
class Look:
    """One look: CPU of the daemon and of Redis, bytes to Redis and from it, scripts."""

    daemon: float
    redis: float
    redis_in: float
    redis_out: float
    scripts: float


@dataclass(frozen=True)
class Looks:
    """What a look is on average.

    Args:
        alone: of a daemon that is alone in its groups.
        beside: of one that is in them with ``MANY`` less one, all of which it has in mind.
        again: the same where it cannot have them all in mind, for other groups have other ones.
    """

    alone: Look
    beside: Look
    again: Look


class _Daemon:
    """One of them, with a member in each of some groups."""

    def __init__(self, keys: Keyspace, groups: Iterable[int]) -> None:
        self._presences = Presences(keys)
        self._groups = {f"bench-looks-{number}": 0 for number in groups}
        """The groups, and the version of each after the last look."""

    async def come(self) -> None:
        """Note the members."""
        user = f"user-{self._presences.daemon}"
        value = value_of([Place(secrets.token_hex(16))])
        await self._send(Change(False, "told", 1, 1, 1, 0, 0, [(user, value)]))

    async def look(self) -> int:
        """Look at each group; returns how many there are."""
        await self._send(Change(False, "told", 1, 1, 1, 1, 0, []))
        return len(self._groups)

    async def _send(self, change: Change) -> None:
        sent = []
        for group, version in self._groups.items():
            each = change._replace(noted=version)
            call = self._presences.send(group, each, ANNOUNCED, UNLISTED)
            sent.append((group, each, call))
        for group, each, call in sent:
            roll = await self._presences.reply(call, group, each, ANNOUNCED, UNLISTED)
            assert roll is not None
            self._groups[group] = roll.version


def measure_looks(redis: BenchRedis) -> Looks:
    """Do each kind; Redis has nothing before and after."""
    everywhere = range(GROUPS)
    elsewhere = [
        [each for each in everywhere if each % (MANY + 1) != out] for out in range(MANY + 1)
    ]
    with capture_logs():  # else the client's lines would be among what is printed
        alone, beside, again = (
            trio.run(_measure, redis, groups)
            for groups in ([everywhere], [everywhere] * MANY, elsewhere)
        )
    return Looks(alone, beside, again)


async def _measure(redis: BenchRedis, groups_of: Sequence[Iterable[int]]) -> Look:
    """What a look is; ``groups_of`` are the groups of each daemon."""
    metrics = Metrics()
    client = make_client(redis.url, Config(), metrics)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await client.wait_connected()
        keys = Keyspace(client, metrics)
        daemons = [_Daemon(keys, groups) for groups in groups_of]
        for daemon in daemons:
            await daemon.come()
        for daemon in daemons:
            await daemon.look()  # now each has met the others
        before, looks = _used(redis), 0
        while looks < LOOKS * GROUPS:
            for daemon in daemons:
                looks += await daemon.look()
        after = _used(redis)
        nursery.cancel_scope.cancel()
    redis.flush()
    spent = zip(astuple(before), astuple(after), strict=True)
    return Look(*((now - then) / looks for then, now in spent))


def _used(redis: BenchRedis) -> Look:
    """What has been used until now."""
    with redis.client() as client:
        told, scripts = client.info("stats"), client.info("commandstats")["cmdstat_evalsha"]
    counts = told["total_net_input_bytes"], told["total_net_output_bytes"], scripts["calls"]
    cpu = Usage.of((redis.pid,)).cpu_seconds
    return Look(time.process_time(), cpu, *map(float, counts))
