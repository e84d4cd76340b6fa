"""The goals, as ratios within one run, and whether this run met them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

from results import Measured, aligned

FASTIMD, NCHAN, CENTRIFUGO, LOOP = "fastimd", "Nchan", "Centrifugo", "send() loop"
LIVE_PAIRS = (
    ("", "fastimd, live wire", "Centrifugo, recovery"),
    ("Protobuf, ", "fastimd, Protobuf", "Centrifugo, Protobuf"),
)
"""Who is held against whom on the live wire, and what the names of the goals begin with."""

PER_DELIVERY = "server.cpu_us_per_delivery"
PER_MESSAGE = "server.cpu_us_per_message"
PER_CONNECT = "server.cpu_us_per_socket"
THROUGHPUT = "messages_per_second"
MEMORY = "server.bytes_per_socket"
P99 = "latency.p99"


@dataclass(frozen=True)
class Goal:
    """One number; None if it was not measured."""

    name: str
    aim: str
    value: float | None
    limit: float
    is_least: bool = False
    form: str = "{:.2f} x"

    @property
    def is_reached(self) -> bool | None:
        """Whether it is; None if it was not measured."""
        if self.value is None:
            return None
        compare = operator.ge if self.is_least else operator.le
        return bool(compare(self.value, self.limit))


@dataclass(frozen=True)
class Goals:
    """All of them."""

    goals: list[Goal]

    def table(self) -> str:
        """Reached or not."""
        said = {True: "reached", False: "NOT reached", None: "not measured"}
        rows = [["what", "to reach", "measured", ""]]
        for goal in self.goals:
            value = "" if goal.value is None else goal.form.format(goal.value)
            rows.append([goal.name, goal.aim, value, said[goal.is_reached]])
        return "\n" + "\n".join(aligned(rows))


def check_goals(measured: Measured) -> Goals:
    """Hold what was measured against what is to be reached."""
    return Goals(list(_goals(measured)))


def _goals(measured: Measured) -> Iterator[Goal]:
    median = measured.median

    def ratio(case: str, value: str, peer: str = NCHAN) -> float | None:
        return _quotient(median(FASTIMD, case, value), median(peer, case, value))

    for members in (100, 1000, 5000):
        case = f"burst {members}"
        yield Goal(f"{case}: CPU/delivery", "<= 0.25 x Nchan", ratio(case, PER_DELIVERY), 0.25)
    for case, cost, speed in (("talk 100 x 5", 0.9, 2.5), ("talk 20 x 25", 0.5, 3.0)):
        yield Goal(f"{case}: CPU/message", f"<= {cost} x Nchan", ratio(case, PER_MESSAGE), cost)
        yield Goal(
            f"{case}: messages/s",
            f">= {speed} x Nchan",
            ratio(case, THROUGHPUT),
            speed,
            is_least=True,
        )
    case = "one at a time to 1000"
    yield Goal(
        f"{case}: CPU/delivery", "<= 1.5 x send() loop", ratio(case, PER_DELIVERY, LOOP), 1.5
    )
    yield Goal("p99 at half of the peak", "<= Nchan", ratio("50 % of the peak", P99), 1.0)
    yield from _sockets(measured)
    yield from _flatness(measured)
    for name, value in measured.history.items():
        yield Goal(name, "p99 < 5 ms", value, 5.0, form="{:.2f} ms")


def _sockets(measured: Measured) -> Iterator[Goal]:
    median = measured.median
    memory = median(FASTIMD, "idle 5000", MEMORY)
    yield Goal(
        "memory of an idle socket",
        "<= 10 KiB",
        None if memory is None else memory / 1024,
        10.0,
        form="{:.1f} KiB",
    )
    used = median(FASTIMD, "idle 5000", "server.cpu_seconds")
    seconds = median(FASTIMD, "idle 5000", "seconds")
    share = _quotient(used, seconds)
    yield Goal(
        "CPU of 5,000 idle sockets",
        "<= 1 % of a core",
        None if share is None else share * 100,
        1.0,
        form="{:.2f} %",
    )
    cost = median(FASTIMD, "storm 10000", PER_CONNECT)
    yield Goal(
        "10,000 sockets reconnect: connects/s a core",
        ">= 4,000",
        None if cost is None else 1e6 / cost,
        4000.0,
        is_least=True,
        form="{:,.0f}",
    )
    yield from _connects(measured)
    commands = median(FASTIMD, "lists, 100 active", "redis_commands_per_second")
    yield Goal("5,000 lists: Redis commands/s", "< 1,000", commands, 1000.0, form="{:,.0f}")


def _connects(measured: Measured) -> Iterator[Goal]:
    """To be let in and greeted by fastimd, beside connect and subscribe of Centrifugo."""

    def both(case: str) -> tuple[float | None, float | None]:
        one, other = (measured.median(name, case, PER_CONNECT) for name in (FASTIMD, CENTRIFUGO))
        return one, other

    ours, theirs = both("idle 5000")
    yield Goal(
        "5,000 sockets come by and by: CPU/connect",
        "<= 1.0 x Centrifugo",
        _quotient(ours, theirs),
        1.0,
    )
    ours, theirs = both("storm 10000")
    yield Goal(
        "10,000 sockets reconnect: connects/s a core",
        ">= 1.0 x Centrifugo",
        _quotient(theirs, ours),
        1.0,
        is_least=True,
    )


def _flatness(measured: Measured) -> Iterator[Goal]:
    for name, value, cases in (
        ("CPU/delivery from 100 to 5,000 members", PER_DELIVERY, ("burst 100", "burst 5000")),
        ("CPU/delivery from 100 to 10,000 members", PER_DELIVERY, ("burst 100", "burst 10000")),
        ("CPU/message from 1 to 10,000 groups", PER_MESSAGE, ("1 group", "10000 groups")),
    ):
        few, many = (measured.median(FASTIMD, case, value) for case in cases)
        yield Goal(name, "<= 1.3 x", _quotient(many, few), 1.3)


# The live wire


def check_live_goals(measured: Measured) -> Goals:
    """Hold fastimd's live wire against Centrifugo: quotients of what both did with one client."""
    return Goals(
        [
            goal
            for prefix, ours, theirs in LIVE_PAIRS
            if not prefix or measured.has(ours)
            for goal in _live_goals(measured, prefix, ours, theirs)
        ]
    )


LIVE_GOALS = (
    ("burst 100: CPU/delivery", "burst 100", PER_DELIVERY, 0.25),
    ("burst 1000: CPU/delivery", "burst 1000", PER_DELIVERY, 0.25),
    ("talk 100 x 5: CPU/message", "talk 100 x 5", PER_MESSAGE, 0.7),
    ("talk 20 x 25: CPU/message", "talk 20 x 25", PER_MESSAGE, 0.7),
    ("p99 at half of the server's own peak", "50 % of the peak", P99, 1.0),
    ("memory of a socket with 1 subscription", "idle 3000 in 1", MEMORY, 0.4),
    ("memory of a socket with 20 subscriptions", "idle 2000 in 20", MEMORY, 0.4),
    ("sockets come one after the other: CPU/connect", "idle 3000 in 1", PER_CONNECT, 1.0),
)
"""What it is, the case, the value, and how much of Centrifugo's it may be."""


def _live_goals(measured: Measured, prefix: str, ours: str, theirs: str) -> Iterator[Goal]:
    def ratio(case: str, value: str) -> float | None:
        return _quotient(measured.median(ours, case, value), measured.median(theirs, case, value))

    for name, case, value, limit in LIVE_GOALS:
        yield Goal(f"{prefix}{name}", f"<= {limit} x Centrifugo", ratio(case, value), limit)
    for case in ("talk 100 x 5", "talk 20 x 25"):
        yield Goal(
            f"{prefix}{case}: messages/s",
            ">= 1.4 x Centrifugo",
            ratio(case, THROUGHPUT),
            1.4,
            is_least=True,
        )
    cost = ratio("storm 10000", PER_CONNECT)
    yield Goal(
        f"{prefix}10,000 clients return: connects/s a core",
        ">= 1.0 x Centrifugo",
        _quotient(1.0, cost),
        1.0,
        is_least=True,
    )


def _quotient(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other
