"""A run of which no price was taken, beside what the prices say of it.

It has many groups and a busy one, on two daemons. It is done at the pace of the prices, where the
bill must be right, and once more busier, which shows how much cheaper a message is then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from bill import Part, Prices, bill, off_by
from meter import Daemon, Meter, Sample, loaded
from prices import Progress, load
from results import aligned, three_digits
from servers import BenchRedis

TOLERANCE = 0.2
MIXED = (Part(40, 50, 5.0), Part(1, 500, 10.0))
"""2,000 sockets in groups of 50, and one busy group of 500."""
BUSIER = 3
DAEMONS = 2
OPENING_SECONDS = 8.0
"""How much longer the loads last: one runs while the other opens its sockets."""
CHECK, BUSY = "Check", f"Check, {BUSIER} times as busy"
LESS = (
    " Busier processes spend less on a message: their caches stay warm, and messages that come "
    "close together share appends, reads and writes. The load generator adds to that, as it says "
    "what has become due in clumps of one group. The tables below count on none of it."
)


@dataclass(frozen=True)
class Checked:
    """What was predicted of a run, and what it was."""

    what: str
    predicted: float
    measured: float
    unit: str
    scale: float

    @property
    def is_off(self) -> bool:
        """By more than it may be."""
        return abs(off_by(self.predicted, self.measured)) > TOLERANCE


@dataclass(frozen=True)
class Mixture:
    """One run: what it used, and bytes by which the daemons grew."""

    sample: Sample
    grown: float


def parts_of(times: int) -> list[Part]:
    """The groups, with so many times the messages."""
    return [replace(part, rate=part.rate * times) for part in MIXED]


def run_mixed(
    parts: Sequence[Part], folder: Path, redis: BenchRedis, seconds: float, progress: Progress
) -> Mixture:
    """Do it once, on new daemons."""
    progress(f"the check, {sum(part.messages for part in parts):g} messages/s")
    first, second = daemons = [Daemon(folder, redis) for _ in range(DAEMONS)]
    with first, second:
        meter = Meter(daemons, redis)
        before = meter.used().resident_bytes
        specs = [
            load(
                "talk",
                daemons,
                seconds + OPENING_SECONDS,
                groups=part.groups,
                members=part.members,
                rate=part.messages,
            )
            for part in parts
        ]
        with loaded(meter, specs):
            sample = meter.sample(seconds)
            grown = meter.used().resident_bytes - before
    redis.flush()
    return Mixture(sample, grown)


def check(price: Prices, parts: Sequence[Part], runs: Sequence[Mixture]) -> list[Checked]:
    """The medians of the runs, beside what the prices say."""
    predicted = bill(price, parts, DAEMONS)
    samples = [each.sample for each in runs]
    counted = [sample.counted for sample in samples]
    lines = (
        (
            *("CPU of the daemons", predicted.cpu),
            *([sum(sample.daemons) for sample in samples], "% of a core", 100),
        ),
        (
            *("CPU of Redis", predicted.redis_cpu),
            *([sample.redis for sample in samples], "% of a core", 100),
        ),
        (
            "memory of the daemons, beyond what they have without clients",
            predicted.memory - DAEMONS * price.daemon,
            *([each.grown for each in runs], "MiB", 2**-20),
        ),
        (
            "bytes sent to clients, without TCP and IP",
            sum(part.deliveries for part in parts) * price.sent,
            *([each["bytes_sent"] for each in counted], "kB/s", 1e-3),
        ),
        (
            "bytes received from clients, without TCP and IP",
            sum(part.messages for part in parts) * price.received,
            *([each["bytes_received"] for each in counted], "kB/s", 1e-3),
        ),
        (
            *("bytes from Redis", predicted.redis_out),
            *([sample.redis_out for sample in samples], "kB/s", 1e-3),
        ),
        (
            *("commands of Redis", predicted.commands),
            *([sample.commands for sample in samples], "/s", 1),
        ),
    )
    return [
        Checked(what, expected, median(measured), unit, scale)
        for what, expected, measured, unit, scale in lines
    ]


def check_table(heading: str, parts: Sequence[Part], rows: Sequence[Checked]) -> Iterator[str]:
    """Predicted beside measured."""
    groups = " and ".join(
        f"{part.groups} of {part.members} with {part.messages:g} messages/s" for part in parts
    )
    note = LESS if heading == BUSY else ""
    yield from (f"## {heading}", "", f"Groups: {groups}; {DAEMONS} daemons.{note}", "")
    table = [["", "predicted", "measured", "off by"]]
    for row in rows:
        values = [
            f"{three_digits(value * row.scale)} {row.unit}"
            for value in (row.predicted, row.measured)
        ]
        mark = " TOO MUCH" if heading == CHECK and row.is_off else ""
        table.append([row.what, *values, f"{off_by(row.predicted, row.measured):+.0%}{mark}"])
    yield from (*aligned(table), "")
