"""What the bill says of presence: its leases, and the looks that are measured for it."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import pytest
from bill import Leases, Part, Prices, beside, bill, spread
from looks import measure_looks
from servers import BenchRedis

from fastimd.groups.presence.presence import LOOK_EVERY, RENEW_SECONDS
from fastimd.groups.store.presence import MAX_OTHERS

PRICE = replace(
    Prices(**dict.fromkeys((each.name for each in fields(Prices)), 0.0)),
    lease=30e-6,
    look=8e-7,
    again=90e-6,
    redis_lease=22e-6,
    redis_look=25e-7,
    redis_again=85e-6,
    channel=200.0,
    member=300.0,
    lease_in=330.0,
    lease_out=35.0,
    lease_commands=9.0,
    look_in=77.0,
    look_out=23.0,
)


def test_leases_by_hand() -> None:
    """Of 56 groups of two, half are on both of two daemons, and the others on one."""
    found = bill(PRICE, [Part(56, 2, 0.0)], 2)
    leases, looks_at_another = (28 * 2 + 28) / 7, 28 * 2 / 28
    assert found.leases == pytest.approx(leases)
    assert found.cpu == pytest.approx(leases * 30e-6 + looks_at_another * 8e-7)
    assert found.lease_cpu == pytest.approx(leases * 22e-6 + looks_at_another * 25e-7)
    assert found.redis_cpu == pytest.approx(found.lease_cpu)
    assert found.redis_memory == pytest.approx((28 * 2 + 28) * 200 + 112 * 300)
    # Each look names the other daemon, which is not always there.
    assert found.redis_in == pytest.approx(leases * 330 + leases / 4 * 77)
    assert found.redis_out == pytest.approx(leases * 35 + looks_at_another * 23)
    assert found.commands == pytest.approx(leases * 9)


def test_leases_whose_looks_are_asked_again() -> None:
    """Groups of 50 on 41 daemons are on 29 of them each, and hardly two on the same."""
    part = Part(1, 50, 0.0)
    leases = Leases.of([part], 41)
    looks = spread(50, 41) / RENEW_SECONDS / LOOK_EVERY
    assert leases.again == pytest.approx(looks, rel=1e-3)
    assert leases.told == pytest.approx(2 * leases.others, rel=1e-3)
    found = bill(PRICE, [part], 41)
    others = looks * beside(50, 41)
    lease_cpu = leases.renewed * 22e-6 + others * 25e-7 + looks * 85e-6
    assert found.lease_cpu == pytest.approx(lease_cpu, rel=1e-3)
    cpu = leases.renewed * 30e-6 + others * 8e-7 + looks * 90e-6
    assert found.cpu == pytest.approx(cpu, rel=1e-3)
    assert found.redis_in == pytest.approx(leases.renewed * 330 + 2 * others * 77, rel=1e-3)
    assert found.redis_out == pytest.approx(leases.renewed * 35 + 2 * others * 23, rel=1e-3)


@pytest.mark.parametrize("members", [1, 2, 3, 5])
@pytest.mark.parametrize("daemons", [1, 2, 3, 4])
def test_how_many_others_a_daemon_finds_in_a_group(members: int, daemons: int) -> None:
    """On average over all ways to spread the members, and over the daemons that have some."""
    ways = [len(set(way)) for way in product(range(daemons), repeat=members)]
    expected = sum(here * (here - 1) for here in ways) / sum(ways)
    assert beside(members, daemons) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("members", "daemons", "share"),
    [(1, 100, 0), (10, 1, 0), (10, 1 + MAX_OTHERS, 0), (10, 200, 1), (50, 41, 1), (10**5, 100, 0)],
)
def test_when_a_look_is_asked_again(members: int, daemons: int, share: float) -> None:
    """When a daemon cannot have all the others in mind, and does not meet the same everywhere."""
    leases = Leases.of([Part(280, members, 0.0)], daemons)
    expected = share * leases.renewed / LOOK_EVERY
    assert leases.again == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert leases.named >= leases.told * (1 - 1e-6)


def test_looks_are_asked_again_where_the_bill_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never among those that have each other in mind; else most of them, once."""
    monkeypatch.setattr("looks.LOOKS", 1)
    with BenchRedis(tmp_path) as redis:
        looks = measure_looks(redis)
    assert looks.alone.scripts == looks.beside.scripts == 1.0
    assert 1.9 < looks.again.scripts < 2.0
    assert looks.alone.redis_in < looks.beside.redis_in < looks.again.redis_in
