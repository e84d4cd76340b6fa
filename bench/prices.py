"""Measures the prices of the bill: each is the difference of two simple runs.

A round does every run once. A price is the median over the rounds; its spread is the lowest and the
highest. Runs at a pace come one message at a time, as on a daemon with time to spare, which makes a
message dear. Runs in step send the next messages when all members have the last ones, so that it is
known how many one write carries. Runs that read get messages of many groups at once, published as
by other daemons. Leases of presence are renewed in the crowd with many groups, which is measured
for as long as it takes until each has been renewed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from bill import Prices
from meter import Daemon, Meter, Sample, listening, loaded, publishing
from servers import BenchRedis

from fastimd.bench.dialect import Dialect
from fastimd.bench.live import LIVE
from fastimd.bench.spec import Spec
from fastimd.groups.presence.presence import RENEW_SECONDS
from fastimd.groups.store.keyspace import channel_of

DAEMONS = 3
PACE = 200.0
"""Messages a second that come alone: further apart than a daemon gathers."""
WIDE, WIDE_PACE = 500, 30.0
"""Members of the larger group, and messages a second in it."""
NARROW = 10
BATCH = 16
READINGS = (16, 64)
"""Messages of as many groups that come in one reading of the relay."""
READING_SECONDS = 0.02
"""From one of them to the next."""
LISTENERS = 16
SOCKETS = 1000
SUBSCRIPTIONS = 20
FEW = SOCKETS // 50
"""Groups of the sockets where there are few."""
OFTEN, NEVER = 1.0, 3600.0
"""Seconds between two pings, where pings are measured and where they would disturb."""
SETTLE_SECONDS = 5.0
"""In which a daemon has noted that whoever tried it at its start is gone."""
MORE_SECONDS = 2.5
"""How much longer a load lasts than it is measured."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Crowd:
    """The cost of silent sockets: CPU to connect, memory, and what they cost when all are there."""

    connect: float
    memory: float
    redis_memory: float
    sample: Sample


@dataclass(frozen=True)
class Round:
    """Each run once, by name."""

    samples: Mapping[str, Sample]
    crowds: Mapping[str, Crowd]
    daemon: float
    stored: float

    def of_message(self, name: str, daemon: int = 0) -> float:
        """CPU of one daemon for each message, without what it uses when idle."""
        sample, idle = self.samples[name], self.samples["idle"].daemons[daemon]
        return (sample.daemons[daemon] - idle) / sample.messages

    def of_reading(self, messages: int) -> float:
        """CPU of a daemon for each reading of the relay that brings so many messages."""
        sample, idle = self.samples[f"read {messages}"], self.samples["idle"].daemons[0]
        return (sample.daemons[0] - idle) * messages / sample.deliveries

    def redis_of_message(self, name: str) -> float:
        """CPU of Redis for each message, without what it uses when idle."""
        sample = self.samples[name]
        return (sample.redis - self.samples["idle"].redis) / sample.messages

    def of_lease(self, what: str) -> float:
        """What Redis does for each lease, of what a sample has: of many groups, less of few."""
        one, many = (getattr(self.crowds[name].sample, what) for name in ("one", "many"))
        return float(many - one) * RENEW_SECONDS / (SOCKETS - FEW)


def prices(found: Round) -> Prices:
    """The differences of the runs of a round."""
    alone, batch, samples = found.of_message, BATCH, found.samples
    delivery = (alone("wide") - alone("alone")) / (WIDE - 1)
    # One pass of a batch through the larger group, less that through the smaller.
    passes = {
        size: (alone(f"{size} to {WIDE}") - alone(f"{size} to {NARROW}")) * size / (WIDE - NARROW)
        for size in (1, batch)
    }
    carried = max(0.0, (passes[batch] - passes[1]) / (batch - 1))
    write = delivery - carried
    # Both daemons relay and deliver; the first one appends, too.
    heard = alone("three", 1) - delivery
    few, many = (found.of_reading(number) for number in READINGS)
    relay = max(0.0, (many - few) / (READINGS[1] - READINGS[0]) - delivery)
    turn = heard - relay
    redis_alone = found.redis_of_message("alone")
    subscriber = (found.redis_of_message("listened") - redis_alone) / LISTENERS
    per_message = max(
        0.0, (batch * found.redis_of_message(f"{batch} to {NARROW}") - redis_alone) / (batch - 1)
    )
    one, apart, live, wide = (found.crowds[name] for name in ("one", "many", "live", "wide"))
    group = (apart.memory - one.memory) / (SOCKETS - FEW)
    channel = (apart.redis_memory - one.redis_memory) / (SOCKETS - FEW)
    idle = samples["idle"].daemons[0]
    lease = (apart.sample.daemons[0] - idle) * RENEW_SECONDS / SOCKETS
    pings = one.sample.daemons[0] - idle - lease * FEW / RENEW_SECONDS
    alone_sample = samples["alone"]
    answered = alone_sample.redis_out / alone_sample.messages
    out = (samples["listened"].redis_out / samples["listened"].messages - answered) / LISTENERS
    return Prices(
        idle=sum(samples["idle"].daemons) / DAEMONS,
        append=alone("three") - alone("three", 1),
        turn=turn,
        relay=relay,
        write=write,
        carried=carried,
        ping=pings * OFTEN / SOCKETS,
        connect=apart.connect / SOCKETS,
        lease=lease,
        redis_idle=samples["idle"].redis / DAEMONS,
        redis_batch=redis_alone - per_message - subscriber,
        redis_message=per_message,
        redis_subscriber=subscriber,
        redis_lease=found.of_lease("redis"),
        daemon=found.daemon,
        socket=(one.memory - group * FEW) / SOCKETS,
        group=group,
        subscription=(wide.memory - live.memory) / SOCKETS / (SUBSCRIPTIONS - 1),
        stored=found.stored,
        channel=channel,
        member=(one.redis_memory - channel * FEW) / SOCKETS,
        sent=samples["wide"].counted["bytes_sent"] / samples["wide"].deliveries,
        received=alone_sample.counted["bytes_received"] / alone_sample.messages,
        redis_in=alone_sample.redis_in / alone_sample.messages,
        redis_answer=answered - out,
        redis_out=out,
        commands=(alone_sample.commands - samples["idle"].commands) / alone_sample.messages,
        lease_in=found.of_lease("redis_in"),
        lease_out=found.of_lease("redis_out"),
        lease_commands=found.of_lease("commands"),
    )


def medians(found: Sequence[Prices]) -> Prices:
    """Each price by itself."""
    return Prices(**{name: median(values) for name, values in columns(found).items()})


def columns(found: Sequence[Prices]) -> dict[str, list[float]]:
    """Each price in all rounds."""
    return {each.name: [getattr(one, each.name) for one in found] for each in fields(Prices)}


def measure(folder: Path, redis: BenchRedis, seconds: float, progress: Progress) -> Round:
    """Do every run once."""
    samples: dict[str, Sample] = {}
    with ExitStack() as stack:
        daemons = [stack.enter_context(Daemon(folder, redis)) for _ in range(DAEMONS)]
        daemon = Meter(daemons, redis).used().resident_bytes / DAEMONS
        progress("idle")
        time.sleep(SETTLE_SECONDS)
        samples["idle"] = Meter(daemons, redis).sample(seconds)
        for name, (used, options) in _runs().items():
            progress(name)
            samples[name] = _run(daemons[:used], redis, seconds, name, options)
        for messages in READINGS:
            progress(f"read {messages}")
            samples[f"read {messages}"] = _read(daemons[0], redis, seconds, messages)
    stored = _stored(redis)
    redis.flush()
    crowds = {}
    for name, (dialect, groups, each) in _crowds().items():
        progress(f"{SOCKETS:,} sockets, {name}")
        pings = OFTEN if name == "one" else NEVER
        lasting = RENEW_SECONDS if name in ("one", "many") else seconds
        crowds[name] = _crowd(folder, redis, dialect, groups, each, lasting, pings)
        redis.flush()
    return Round(samples, crowds, daemon, stored)


def _runs() -> dict[str, tuple[int, dict[str, Any]]]:
    """Name, daemons and load of each."""
    in_step = {
        f"{size} to {members}": (1, {"members": members, "in_flight": size, "at_once": size})
        for size in (1, BATCH)
        for members in (NARROW, WIDE)
    }
    return {
        "alone": (1, {"members": 1, "rate": PACE}),
        "listened": (1, {"members": 1, "rate": PACE}),
        "three": (DAEMONS, {"members": DAEMONS, "rate": PACE}),
        "wide": (1, {"members": WIDE, "rate": WIDE_PACE}),
        **in_step,
    }


def _crowds() -> dict[str, tuple[Dialect, int, int]]:
    """Name, what is spoken, groups, and groups of each socket."""
    return {
        "one": (Daemon.dialect, FEW, 1),
        "many": (Daemon.dialect, SOCKETS, 1),
        "live": (LIVE, FEW, 1),
        "wide": (LIVE, FEW, SUBSCRIPTIONS),
    }


def _run(
    daemons: Sequence[Daemon],
    redis: BenchRedis,
    seconds: float,
    name: str,
    options: Mapping[str, Any],
) -> Sample:
    meter = Meter(daemons, redis)
    spec = load("burst", daemons, seconds, **options)
    more = (
        listening(redis, channel_of(spec.group(0)).encode(), LISTENERS)
        if name == "listened"
        else nullcontext()
    )
    with loaded(meter, [spec]), more:
        return meter.sample(seconds)


def _read(daemon: Daemon, redis: BenchRedis, seconds: float, messages: int) -> Sample:
    """Messages from elsewhere, to groups that have one member each."""
    meter = Meter([daemon], redis)
    spec = load("idle", [daemon], seconds, groups=messages, members=1)
    groups = [spec.group(number) for number in range(messages)]
    with loaded(meter, [spec]), publishing(redis, groups, READING_SECONDS):
        return meter.sample(seconds)


def load(mode: str, daemons: Sequence[Daemon], seconds: float, **options: Any) -> Spec:
    """A load that lasts longer than it is measured."""
    return Spec(
        mode,
        tuple(daemon.address for daemon in daemons),
        warm_up=0.0,
        seconds=seconds + MORE_SECONDS,
        run=secrets.token_hex(4),
        **{"dialect": Daemon.dialect, **options},
    )


def _crowd(
    folder: Path,
    redis: BenchRedis,
    dialect: Dialect,
    groups: int,
    each: int,
    seconds: float,
    ping_interval: float,
) -> Crowd:
    daemon = Daemon(folder, redis)
    daemon.ping_interval = ping_interval
    with daemon:
        meter = Meter([daemon], redis)
        spec = load(
            "idle",
            [daemon],
            seconds,
            dialect=dialect,
            groups=groups,
            members=SOCKETS // groups,
            groups_each=each,
            opening=32,
        )
        time.sleep(SETTLE_SECONDS)
        redis_before, before = meter.redis_memory(), meter.used()
        with loaded(meter, [spec]):
            after, redis_after = meter.used(), meter.redis_memory()
            sample = meter.sample(seconds)
    return Crowd(
        after.cpu_seconds - before.cpu_seconds,
        after.resident_bytes - before.resident_bytes,
        redis_after - redis_before,
        sample,
    )


def _stored(redis: BenchRedis) -> float:
    """Memory of Redis for a message, in the longest list."""
    with redis.client() as client:
        length, key = max((client.llen(key), key) for key in client.keys("gml:*"))
        return float(client.memory_usage(key, samples=0) / length)
