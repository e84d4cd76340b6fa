"""The bill: its arithmetic, the prices that are read off the runs, and what is printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from bill import (
    USE,
    Bill,
    Part,
    Prices,
    bill,
    cheapest,
    off_by,
    spread,
)
from cost import LOADS, SIZES, USES, price_table, room_table, use_table
from hypothesis import given, settings
from hypothesis import strategies as st
from meter import COUNTED, Sample
from mixed import BUSY, CHECK, Checked, check_table
from prices import (
    BATCH,
    DAEMONS,
    FEW,
    LISTENERS,
    NARROW,
    OFTEN,
    READINGS,
    SOCKETS,
    SUBSCRIPTIONS,
    WIDE,
    Crowd,
    Round,
    columns,
    medians,
    prices,
)
from results import three_digits

from fastimd.groups.presence.presence import RENEW_SECONDS
from fastimd.groups.relay import GATHER_SECONDS

ROOT = Path(__file__).parents[2]
NAMES = [each.name for each in fields(Prices)]
NOTHING = Prices(**dict.fromkeys(NAMES, 0.0))
PRICE = Prices(
    idle=5e-3,
    append=150e-6,
    turn=130e-6,
    relay=12e-6,
    write=7e-6,
    carried=1e-7,
    ping=20e-6,
    connect=280e-6,
    lease=30e-6,
    redis_idle=5e-4,
    redis_batch=80e-6,
    redis_message=8e-6,
    redis_subscriber=4e-6,
    redis_lease=22e-6,
    daemon=6e7,
    socket=7e3,
    group=4e3,
    subscription=500.0,
    stored=142.0,
    channel=200.0,
    member=300.0,
    sent=141.0,
    received=70.0,
    redis_in=430.0,
    redis_answer=14.0,
    redis_out=190.0,
    commands=7.0,
    lease_in=330.0,
    lease_out=35.0,
    lease_commands=9.0,
)
COSTS = [each.name for each in fields(Bill) if each.name != "daemons"]
DOCUMENT = (ROOT / "bench" / "COST.md").read_text()
SCALING = (ROOT / "docs" / "SCALING.md").read_text()

amounts = st.floats(0, 1e3)
some_prices = st.builds(Prices, **dict.fromkeys(NAMES, amounts))
some_parts = st.lists(
    st.builds(
        Part,
        groups=st.integers(1, 1000),
        members=st.integers(1, 1000),
        rate=st.floats(0, 1e4),
        budget=st.none() | st.floats(0, 1e4),
    ),
    min_size=1,
    max_size=4,
)


# The arithmetic


@pytest.mark.parametrize(
    ("members", "daemons", "expected"),
    [(1, 1, 1), (50, 1, 1), (1, 40, 1), (2, 2, 1.5), (10**6, 40, 40), (10, 10**6, 10)],
)
def test_a_group_is_on_as_many_daemons_as_chance_has_it(
    members: int, daemons: int, expected: float
) -> None:
    """One member is on one; many are on all; few of many daemons are all apart."""
    assert spread(members, daemons) == pytest.approx(expected, rel=1e-4)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_group_is_on_no_more_daemons_than_there_are(members: int, daemons: int) -> None:
    """Nor on more than it has members."""
    assert 1 - 1e-6 <= spread(members, daemons) <= min(members, daemons) * (1 + 1e-6)


def test_a_bill_by_hand() -> None:
    """Two groups of ten on one daemon, each with three messages a second."""
    found = bill(PRICE, [Part(2, 10, 3.0)], 1)
    pings, leases = 20 / 25, 2 / 7
    spoken = 6 * (150e-6 + 130e-6 + 12e-6) + 60 * (7e-6 + 1e-7)
    assert found.cpu == pytest.approx(5e-3 + spoken + pings * 20e-6 + leases * 30e-6)
    assert found.memory == pytest.approx(6e7 + 20 * 7e3 + 2 * 4e3)
    assert found.sent == pytest.approx(60 * 141 + (60 + 6) * 52 + pings * 106)
    assert found.received == pytest.approx(6 * 70 + (60 + 6) * 52 + pings * 110)
    assert (found.leases, found.lease_cpu) == pytest.approx((leases, leases * 22e-6))
    assert found.redis_cpu == pytest.approx(5e-4 + 6 * (80e-6 + 8e-6 + 4e-6) + leases * 22e-6)
    assert found.redis_memory == pytest.approx(2 * 200 + 20 * 300)
    assert found.redis_in == pytest.approx(6 * 430 + leases * 330)
    assert found.redis_out == pytest.approx(6 * (14 + 190) + leases * 35)
    assert (found.commands, found.stored) == pytest.approx((6 * 7 + leases * 9, 6 * 142))
    assert found.masters == 1


def test_each_daemon_with_members_of_a_group_renews_a_lease_there() -> None:
    """Of 56 groups of two, half are on both of two daemons, and the others on one."""
    found = bill(replace(PRICE, idle=0.0, redis_idle=0.0, ping=0.0), [Part(56, 2, 0.0)], 2)
    renewals = (28 * 2 + 28) / 7
    assert found.leases == pytest.approx(renewals)
    assert found.cpu == pytest.approx(renewals * 30e-6)
    assert found.redis_cpu == found.lease_cpu == pytest.approx(renewals * 22e-6)
    assert found.redis_memory == pytest.approx((28 * 2 + 28) * 200 + 112 * 300)
    assert found.redis_in == pytest.approx(renewals * 330)
    assert found.redis_out == pytest.approx(renewals * 35)
    assert found.commands == pytest.approx(renewals * 9)


@settings(max_examples=30)
@given(some_prices, some_prices, some_parts, st.integers(1, 100))
def test_a_bill_is_the_sum_of_its_prices(
    one: Prices, other: Prices, parts: list[Part], daemons: int
) -> None:
    """Nothing is counted twice, and no price depends on another."""
    both = Prices(**{name: getattr(one, name) + getattr(other, name) for name in NAMES})
    bills = [bill(each, parts, daemons) for each in (one, other, both, NOTHING)]
    for name in COSTS:
        first, second, together, headers = (getattr(each, name) for each in bills)
        assert together + headers == pytest.approx(first + second, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"connect", "subscription"}))
def test_every_price_is_in_the_bill(name: str) -> None:
    """But for those of which no use has any: nobody connects, no socket is in more groups."""
    found = bill(replace(NOTHING, **{name: 1.0}), [Part(10, 10, 1.0)], 2)
    headers = bill(NOTHING, [Part(10, 10, 1.0)], 2)
    assert any(getattr(found, each) > getattr(headers, each) for each in COSTS)


@given(some_parts, st.integers(1, 100))
def test_a_daemon_reads_the_relay_no_oftener_than_it_gathers(
    parts: list[Part], daemons: int
) -> None:
    """However much comes, and never for fewer than all messages."""
    turns = bill(replace(NOTHING, turn=1.0), parts, daemons).cpu
    relays = bill(replace(NOTHING, relay=1.0), parts, daemons).cpu
    assert turns <= min(relays, daemons / GATHER_SECONDS) * (1 + 1e-9) + 1e-9


@given(st.floats(0, 1e4), st.floats(0, 1e4))
def test_a_budget_bounds_deliveries_and_nothing_else(rate: float, budget: float) -> None:
    """What is offered is stored all the same."""
    free, bound = Part(1, 100, rate), Part(1, 100, rate, budget)
    assert bound.deliveries == pytest.approx(100 * min(rate, budget))
    assert bound.messages == free.messages
    assert bound.deliveries <= free.deliveries


def test_gathered_messages_cost_fewer_writes() -> None:
    """As many deliveries."""
    free, gathered = Part(1, 100, 50.0), Part(1, 100, 50.0, most_writes=2.0)
    assert (free.writes, gathered.writes) == (5000, 200)
    assert gathered.deliveries == free.deliveries


@pytest.mark.parametrize("sockets", SIZES)
@pytest.mark.parametrize("use", USES, ids=lambda use: use.name.partition(":")[0])
def test_the_cheapest_bill_has_no_daemon_too_many(use: Any, sockets: int) -> None:
    """With one less, each would be too busy."""
    parts = use.parts(sockets)
    assert sum(part.sockets for part in parts) == sockets
    found = cheapest(PRICE, parts)
    assert found.cpu <= USE * found.daemons
    if found.daemons > 1:
        fewer = found.daemons - 1
        assert bill(PRICE, parts, fewer).cpu > USE * fewer


def test_what_no_number_of_daemons_can_do() -> None:
    """A daemon that is busy without clients."""
    with pytest.raises(ValueError, match="too busy"):
        cheapest(replace(PRICE, idle=0.7), [Part(1, 1, 1.0)])


# The prices


def sample(cpu: tuple[float, ...], redis: float, **numbers: float) -> Sample:
    """A second of a run; what is not named has not happened."""
    counted = {name: numbers.pop(name, 0.0) for name in COUNTED}
    return Sample(cpu, redis, counted, **numbers)


def round_of(price: Prices) -> Round:
    """What would be measured if these were the prices, at 100 messages or batches a second."""
    delivery, pace = price.write + price.carried, 100.0
    heard = price.turn + price.relay
    redis_idle = DAEMONS * price.redis_idle
    redis = price.redis_batch + price.redis_message + price.redis_subscriber

    def talk(members: int, daemons: int = 1, listeners: int = 0) -> Sample:
        each = price.idle + pace * (heard + members / daemons * delivery)
        out = price.redis_answer + (1 + listeners) * price.redis_out
        return sample(
            (each + pace * price.append, *([each] * (daemons - 1))),
            redis_idle + pace * (redis + listeners * price.redis_subscriber),
            messages_received=pace,
            deliveries=pace * members,
            bytes_sent=pace * members * price.sent,
            bytes_received=pace * price.received,
            commands=pace * price.commands,
            redis_in=pace * price.redis_in,
            redis_out=pace * out,
        )

    def in_step(size: int, members: int) -> Sample:
        writes = members * (price.write + size * price.carried)
        own = price.append + price.turn + size * price.relay
        return sample(
            (price.idle + pace * (own + writes),),
            redis_idle
            + pace * (redis + (size - 1) * price.redis_message),  # a write to the subscriber
            messages_received=pace * size,
            deliveries=pace * size * members,
        )

    def read(messages: int) -> Sample:
        used = price.turn + messages * (price.relay + delivery)
        return sample((price.idle + pace * used,), 0.0, deliveries=pace * messages)

    steps = {
        f"{size} to {members}": in_step(size, members)
        for size in (1, BATCH)
        for members in (NARROW, WIDE)
    }
    samples = {
        "idle": sample((price.idle,) * DAEMONS, redis_idle),
        "alone": talk(1),
        "listened": talk(1, listeners=LISTENERS),
        "three": talk(DAEMONS, DAEMONS),
        "wide": talk(WIDE),
        **steps,
        **{f"read {messages}": read(messages) for messages in READINGS},
    }
    return Round(samples, crowds_of(price), price.daemon, price.stored)


def crowds_of(price: Prices) -> dict[str, Crowd]:
    """What silent sockets cost."""

    def crowd(groups: int, more: int = 0, pings: float = 0.0) -> Crowd:
        memory = SOCKETS * (price.socket + more * price.subscription) + groups * price.group
        redis_memory = groups * price.channel + SOCKETS * price.member
        leases = groups / RENEW_SECONDS
        silent = sample(
            (price.idle + pings * price.ping + leases * price.lease,),
            price.redis_idle + leases * price.redis_lease,
            commands=leases * price.lease_commands,
            redis_in=leases * price.lease_in,
            redis_out=leases * price.lease_out,
        )
        return Crowd(price.connect * SOCKETS, memory, redis_memory, silent)

    return {
        "one": crowd(FEW, pings=SOCKETS / OFTEN),
        "many": crowd(SOCKETS),
        "live": crowd(FEW),
        "wide": crowd(FEW, SUBSCRIPTIONS - 1),
    }


@settings(max_examples=30)
@given(st.builds(Prices, **dict.fromkeys(NAMES, st.floats(1e-6, 1e-3))))
def test_the_differences_of_the_runs_are_the_prices(price: Prices) -> None:
    """Whatever they are, each is found again."""
    assert asdict(prices(round_of(price))) == pytest.approx(asdict(price), rel=1e-3, abs=1e-9)


def test_a_price_is_the_median_of_the_rounds() -> None:
    """Each by itself, and the rounds are all there for the spread."""
    rounds = [replace(PRICE, append=value) for value in (3.0, 1.0, 2.0)]
    assert medians(rounds) == replace(PRICE, append=2.0)
    assert columns(rounds)["append"] == [3.0, 1.0, 2.0]


# What is printed


@pytest.mark.parametrize(
    ("measured", "is_off"), [(84, False), (83, True), (125, False), (126, True)]
)
def test_a_check_that_is_off_by_more_than_a_fifth_says_so(measured: float, is_off: bool) -> None:
    """Of what was measured, either way. A busier run may be off."""
    checked = Checked("CPU", 100, measured, "us", 1)
    assert checked.is_off == is_off
    for heading in LOADS:
        row = list(check_table(heading, LOADS[heading], [checked]))[-2]
        assert ("TOO MUCH" in row) == (is_off and heading == CHECK)
        assert f"{off_by(100, measured):+.0%}" in row


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.00"), (0.1234, "0.12"), (7.126, "7.13"), (61.74, "61.7"), (1558.2, "1,560")],
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    """That is what is known of them."""
    assert three_digits(value) == shown


def tables(text: str) -> Iterator[tuple[str, list[list[str]]]]:
    """The tables of a document: their heading and their cells."""
    for section in text.split("\n## ")[1:]:
        rows = re.findall(r"^\|(.*)\|$", section, re.M)
        yield (
            section.partition("\n")[0],
            [[cell.strip() for cell in row.split("|")] for row in rows if not row.startswith("-")],
        )


def labels(rows: list[list[str]]) -> list[str]:
    """The head of a table and the first cell of each row."""
    return [*rows[0], *(row[0] for row in rows[1:])]


def test_the_document_has_the_form_that_the_script_prints() -> None:
    """Each price, each use at each size, and each line; the numbers are of a run."""
    printed = [line for use in USES for line in use_table(PRICE, use)]
    printed += [*room_table(PRICE), *price_table(PRICE, columns([PRICE]))]
    written = dict(tables(DOCUMENT))
    for heading, rows in tables("\n" + "\n".join(printed)):
        assert labels(written[heading]) == labels(rows)


def test_the_document_is_of_a_run_whose_check_was_passed() -> None:
    """Figures that do not add up are not published."""
    assert "TOO MUCH" not in DOCUMENT
    written = dict(tables(DOCUMENT))
    assert labels(written[CHECK]) == labels(written[BUSY])
    for heading, parts in LOADS.items():
        head = list(check_table(heading, parts, []))[:3]
        assert "\n".join(head) in DOCUMENT


def test_each_figure_of_the_table_of_sizes_is_in_the_document() -> None:
    """docs/SCALING.md repeats some lines of bench/COST.md."""
    written = dict(tables(DOCUMENT))
    (rows,) = [rows for heading, rows in tables(SCALING) if heading == "Costs"]
    head, *sizes = rows
    assert len(sizes) == len(USES) * len(SIZES)
    by_name = {name.partition(":")[0]: cells for name, cells in written.items()}
    for use, sockets, *figures in sizes:
        cells = by_name[use]
        column = cells[0].index(f"{sockets} sockets")
        lines = {row[0]: row[column] for row in cells[1:]}
        assert figures == [lines[label] for label in head[2:]], (use, sockets)
