"""The bill: what sockets, groups, messages and deliveries cost, and what a million sockets cost.

Measures the prices (``prices.py``), prints each with its spread, and checks the arithmetic
(``bill.py``) with a run of which no price was taken: ends with 1 if it is off by more than 20 %.
Then it prints what three kinds of use cost at three sizes. CPU time is that of the processes with
their system calls. On loopback a sender's system call does the receiver's part of TCP too; the
receiver's own read is not in it.

    python bench/cost.py [--wire live] [--rounds 3] [--seconds 2] [--write]

``--rounds 1`` is the short one: two or three minutes instead of seven.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bill import USE, Part, Prices, cheapest
from meter import Daemon, Sample
from mixed import BUSIER, BUSY, CHECK, check, check_table, parts_of, run_mixed
from prices import WIDE, columns, measure, medians, prices
from results import aligned, machine, three_digits
from servers import BenchRedis, NotStarted

from fastimd.bench.dialect import FASTIMD
from fastimd.bench.live import LIVE, LIVE_PROTOBUF
from fastimd.bench.run import Failed
from fastimd.groups.presence.presence import RENEW_SECONDS

WIRES = {dialect.name: dialect for dialect in (FASTIMD, LIVE, LIVE_PROTOBUF)}
SIZES = (10_000, 100_000, 1_000_000)
LOADS = {CHECK: parts_of(1), BUSY: parts_of(BUSIER)}
ROOM = 100_000
ROOM_RATES = (1.0, 5.0, 10.0, 50.0)
ROOM_WRITES = 2.0
DOCUMENT = Path(__file__).with_name("COST.md")


@dataclass(frozen=True)
class Use:
    """A kind of use.

    Args:
        members: of a group, at most.
        rate: messages a second of each member.
        budget: how many messages a second of a group are delivered; None = all.
    """

    name: str
    members: int
    rate: float
    budget: float | None = None

    def parts(self, sockets: int) -> list[Part]:
        """Groups for so many sockets."""
        members = min(self.members, sockets)
        return [Part(sockets // members, members, members * self.rate, self.budget)]


USES = (
    Use("guild chat: groups of 50, a message a minute and member", 50, 1 / 60),
    Use("match chat: groups of 10, a message every 5 seconds and member", 10, 1 / 5),
    Use(
        "live rooms of 100,000: a message every 10 minutes and member, 10 a second delivered",
        ROOM,
        1 / 600,
        10.0,
    ),
)


def main() -> int:
    """Measure, check and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--wire", choices=WIRES, default=FASTIMD.name, help="what is spoken")
    parser.add_argument("--rounds", type=int, default=3, help="how often each run is done")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each is measured")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name}")
    arguments = parser.parse_args()
    Daemon.dialect = WIRES[arguments.wire]
    try:
        with TemporaryDirectory() as name, BenchRedis(Path(name)) as redis:
            folder = Path(name)
            rounds = [
                measure(folder, redis, arguments.seconds, _tell) for _ in range(arguments.rounds)
            ]
            found = [prices(each) for each in rounds]
            price = medians(found)
            checks = {
                heading: check(
                    price,
                    parts,
                    [
                        run_mixed(parts, folder, redis, arguments.seconds, _tell)
                        for _ in range(arguments.rounds)
                    ],
                )
                for heading, parts in LOADS.items()
            }
            version = redis.version
    except (Failed, NotStarted) as exc:
        sys.exit(str(exc))
    text = "\n".join(
        (
            *_head(arguments, version),
            *price_table(price, columns(found)),
            *run_table([each.samples for each in rounds]),
            *(
                line
                for heading, rows in checks.items()
                for line in check_table(heading, LOADS[heading], rows)
            ),
            *(line for use in USES for line in use_table(price, use)),
            *room_table(price),
        )
    )
    print(text)
    if arguments.write:
        DOCUMENT.write_text(text)
    return int(any(row.is_off for row in checks[CHECK]))


def _head(arguments: argparse.Namespace, version: str) -> Iterator[str]:
    yield from ("# Costs", "")
    yield (
        f"Measured by `python bench/cost.py --wire {arguments.wire}` on {machine()}, {version}, "
        f"Python {platform.python_version()}: medians of {arguments.rounds} rounds. "
        "[docs/SCALING.md](../docs/SCALING.md) says what to do with it. CPU includes system calls, "
        "memory leaves out the kernel's own for each TCP connection. CPU prices are those of a "
        "daemon and a Redis with time to spare, where messages come one by one; busy ones batch "
        "more and cost less. Texts have 64 bytes."
    )
    yield ""


def _tell(what: str) -> None:
    print(f"  {time.strftime('%X')} {what}", file=sys.stderr, flush=True)


# Prices


@dataclass(frozen=True)
class Shown:
    """How a price is printed."""

    price: str
    what: str
    scale: float = 1e6
    unit: str = "us"


SHOWN = (
    Shown("append", "CPU of a message that is appended alone"),
    Shown("turn", "CPU of a read of the relay"),
    Shown("relay", "CPU of each message that it brings"),
    Shown("write", "CPU of a write to a member"),
    Shown("carried", "CPU of each message that it carries"),
    Shown("ping", "CPU of a ping and its pong"),
    Shown("connect", "CPU of a connect"),
    Shown("lease", "CPU of a lease that is renewed"),
    Shown("idle", "CPU of a daemon without clients", 100, "% of a core"),
    Shown("redis_batch", "CPU of Redis, a call of the append script"),
    Shown("redis_message", "CPU of Redis, each message in it"),
    Shown("redis_subscriber", "CPU of Redis, a message to one daemon"),
    Shown("redis_lease", "CPU of Redis, a lease that is renewed"),
    Shown("redis_idle", "CPU of Redis for a daemon without clients", 100, "% of a core"),
    Shown("daemon", "memory of a daemon without clients", 2**-20, "MiB"),
    Shown("socket", "memory of a socket", 2**-10, "KiB"),
    Shown("subscription", "memory of one more group on a socket of the live wire", 2**-10, "KiB"),
    Shown("group", "memory of a group on a daemon", 2**-10, "KiB"),
    Shown("stored", "memory of Redis, a stored message", 1, "B"),
    Shown("channel", "memory of Redis, a group on a daemon", 1, "B"),
    Shown("member", "memory of Redis, a member and the set of the user's groups", 1, "B"),
    Shown("sent", "frame of a delivery", 1, "B"),
    Shown("received", "frame of a message", 1, "B"),
    Shown("redis_in", "to Redis for a message", 1, "B"),
    Shown("redis_answer", "answer of Redis", 1, "B"),
    Shown("redis_out", "from Redis to one daemon for a message", 1, "B"),
    Shown("commands", "commands of Redis for a message, those in the script too", 1, ""),
    Shown("lease_in", "to Redis for a lease", 1, "B"),
    Shown("lease_out", "answer of Redis for a lease", 1, "B"),
    Shown("lease_commands", "commands of Redis for a lease", 1, ""),
)


def price_table(price: Prices, rounds: dict[str, list[float]]) -> Iterator[str]:
    """Each price, and the lowest and highest of the rounds."""
    rows = [["price", "", "lowest", "highest", "unit"]]
    for shown in SHOWN:
        values = (getattr(price, shown.price), min(rounds[shown.price]), max(rounds[shown.price]))
        rows.append(
            [shown.what, *(three_digits(value * shown.scale) for value in values), shown.unit]
        )
    yield from ("## Prices", "")
    yield (
        f"Every {RENEW_SECONDS:g} seconds a daemon renews its lease in each group of which it has "
        "members. That is its price where nobody wants to be told of joins and leaves."
    )
    yield from ("", *aligned(rows), "")


def run_table(rounds: Sequence[Mapping[str, Sample]]) -> Iterator[str]:
    """The cost of a message and of a delivery in each run (medians), with batching at work."""
    rows = [
        [
            *("run", "messages/s", "deliveries/s", "CPU of the first daemon, us/message"),
            *("Redis, us/message", "Redis commands/message"),
        ]
    ]
    for name in rounds[0]:
        samples = [each[name] for each in rounds]
        if min(sample.messages for sample in samples):
            values = zip(*(_of_run(sample) for sample in samples), strict=True)
            rows.append([name, *(three_digits(median(column)) for column in values)])
    yield from ("## Runs", "")
    yield (
        "`alone`, `listened` (16 more subscribers), `three` (daemons, a member on each) and `wide` "
        f"({WIDE} members) are at a pace. In `16 to 500` sixteen messages go to 500 members in "
        "one write each, and the next sixteen when all have them."
    )
    yield from ("", *aligned(rows), "")


def _of_run(sample: Sample) -> tuple[float, ...]:
    return (
        sample.messages,
        sample.deliveries,
        sample.daemons[0] / sample.messages * 1e6,
        sample.redis / sample.messages * 1e6,
        sample.commands / sample.messages,
    )


# What a use costs


def use_table(price: Prices, use: Use) -> Iterator[str]:
    """The cost of a kind of use, at each size."""
    columns = [list(_lines(price, use, sockets)) for sockets in SIZES]
    rows = [["", *(f"{sockets:,} sockets" for sockets in SIZES)]]
    rows += [[cells[0][0], *(value for _, value in cells)] for cells in zip(*columns, strict=True)]
    yield from (f"## {use.name[0].upper()}{use.name[1:]}", "", *aligned(rows), "")


def _lines(price: Prices, use: Use, sockets: int) -> Iterator[tuple[str, str]]:
    parts = use.parts(sockets)
    found = cheapest(price, parts)
    megabits = 8e-6
    yield "messages/s", f"{sum(part.messages for part in parts):,.0f}"
    yield "deliveries/s", f"{sum(part.deliveries for part in parts):,.0f}"
    yield f"daemons, each {USE * 100:.0f} % busy", f"{found.daemons:,}"
    yield "their CPU, cores", three_digits(found.cpu)
    yield "their memory, GiB", three_digits(found.memory / 2**30)
    yield "to clients, Mbit/s", three_digits(found.sent * megabits)
    yield "from clients, Mbit/s", three_digits(found.received * megabits)
    yield "leases renewed a second", f"{found.leases:,.0f}"
    yield "CPU of Redis, cores", three_digits(found.redis_cpu)
    yield "of it for leases, cores", three_digits(found.lease_cpu)
    yield f"Redis masters, each {USE * 100:.0f} % busy", f"{found.masters:,}"
    yield "Redis commands/s", f"{found.commands:,.0f}"
    yield "to Redis, Mbit/s", three_digits(found.redis_in * megabits)
    yield "from Redis, Mbit/s", three_digits(found.redis_out * megabits)
    yield (
        "memory of Redis for open groups and members, GiB",
        three_digits(found.redis_memory / 2**30),
    )
    yield "stored in an hour, GiB", three_digits(found.stored * 3600 / 2**30)
    yield (
        "everybody connects again, s of CPU of each daemon",
        three_digits(sockets * price.connect / found.daemons),
    )


def room_table(price: Prices) -> Iterator[str]:
    """How many daemons one room needs, by the messages a second that all its members get."""
    rows = [
        [
            *("messages/s", "deliveries/s", "to clients, Mbit/s", "daemons"),
            f"daemons, {ROOM_WRITES:g} writes a second and member",
        ]
    ]
    for rate in ROOM_RATES:
        found = cheapest(price, [Part(1, ROOM, rate)])
        gathered = cheapest(price, [Part(1, ROOM, rate, most_writes=ROOM_WRITES)])
        rows.append(
            [
                *(f"{rate:g}", f"{rate * ROOM:,.0f}", three_digits(found.sent * 8e-6)),
                *(f"{found.daemons:,}", f"{gathered.daemons:,}"),
            ]
        )
    per_core = USE / (ROOM * (price.write + price.carried))
    yield from (f"## One room of {ROOM:,}", "")
    yield (
        f"A daemon that is {USE * 100:.0f} % busy makes {USE / (price.write + price.carried):,.0f} "
        f"deliveries/s, so each adds {three_digits(per_core)} messages/s to such a room."
    )
    yield from ("", *aligned(rows), "")


if __name__ == "__main__":
    sys.exit(main())
