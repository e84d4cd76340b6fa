"""ledger.lua and daemons.lua on every real redis-server of the machine, beside a model of them."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest
from ledger_model import KEPT, LEASE, LedgerModel
from redis import Redis
from structlog.testing import capture_logs

from fastimd.base.metrics import Metrics
from fastimd.groups.store.keyspace import Keyspace
from fastimd.groups.store.ledgers import Ledgers, Noted, make_id
from fastimd.redis import scripts
from fastimd.redis.scripts import Script

EVERY_REDIS = True


class Sent:
    """A script that was run at once."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def reply(self) -> Any:
        return self.answer


class Client:
    """In place of the daemon's client, over redis-py; ``lease`` is in milliseconds."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.lease = int(LEASE)

    def send_script(self, script: Script, keys: tuple[str, ...], *arguments: Any) -> Sent:
        if script is scripts.LEDGER:
            arguments = (*arguments[:2], self.lease, *arguments[3:])
        found: Any = self._redis.eval(script.source, len(keys), *keys, *arguments)  # type: ignore[arg-type]
        return Sent(found)

    async def call(self, *command: Any) -> Any:
        """Not as redis-py reads the reply, but as Redis sends it."""
        found: Any = cast(Any, self._redis).execute_command(*command)
        if command[0] == "HSCAN":
            cursor, pairs = found
            return cursor, [each for pair in pairs.items() for each in pair]
        return found


class House:
    """The ledgers in Redis, beside the model."""

    def __init__(self, redis: Redis) -> None:
        self.client = Client(redis)
        self.ledgers = Ledgers(Keyspace(self.client, Metrics()))  # type: ignore[arg-type]
        self.model = LedgerModel()

    async def keep(self, daemon: str, holder: str, *changes: Any, takes: bool = False) -> Any:
        """In both; they tell the same."""
        begun, over = changes or ((), ())
        how = {"takes": True} if takes else {}
        told = await self.ledgers.keep(daemon, holder, begun, over, **how)
        assert told == self.model.keep(daemon, holder, begun, over, 0, takes=takes)
        return told

    async def read(self, daemon: str) -> list[Noted]:
        """All visits of a ledger."""
        cursor, found = await self.ledgers.read(daemon, 0)
        while cursor:
            cursor, some = await self.ledgers.read(daemon, cursor)
            found += some
        return found


@pytest.mark.parametrize("seed", range(6))
async def test_ledgers_are_as_in_the_model(redis: Redis, seed: int) -> None:
    """Random visits of two daemons, kept by holders that take them from each other."""
    dice = random.Random(seed)
    house = House(redis)
    for step in range(100):
        daemon, holder = f"d{dice.randint(0, 1)}", f"h{dice.randint(0, 2)}"
        begun = [Noted(f"{step}-{n}", 'a "{}" \u00e9', "u") for n in range(dice.randint(0, 3))]
        kept = house.model.ledgers.get(daemon)
        there = sorted(kept.visits) if kept else []
        over = dice.sample(there, dice.randint(0, min(2, len(there))))
        is_last = dice.random() < 0.2
        house.client.lease = -2 if is_last else int(LEASE)
        told = await house.keep(daemon, holder, begun, over, takes=dice.random() < 0.5)
        if told is not None and is_last:
            house.model.ledgers[daemon].ends = -1
        kept = house.model.ledgers[daemon]
        assert sorted(await house.read(daemon)) == sorted(kept.visits.values())


async def test_a_large_ledger_is_read_whole(redis: Redis) -> None:
    """Also while what was read is deleted."""
    house = House(redis)
    expected = [Noted(f"{number:032x}", "g", f"u{number}") for number in range(3000)]
    for at in range(0, len(expected), 500):
        await house.keep("d", "h", expected[at : at + 500], ())
    found: set[Noted] = set()
    cursor = -1
    while cursor:
        cursor, some = await house.ledgers.read("d", max(cursor, 0))
        assert len(some) < len(expected)
        found.update(some)
        await house.keep("d", "h", (), [each.connection_id for each in some])
    assert found == set(expected)
    assert await house.read("d") == []


async def test_a_ledger_lives_a_day_longer_than_its_holder(redis: Redis) -> None:
    house = House(redis)
    await house.keep("d", "h", [Noted("c", "g", "u")], ())
    assert KEPT < redis.pttl("fastimd:visits:d") <= KEPT + LEASE
    await house.ledgers.list(["d"])
    assert KEPT / 2 < redis.pttl("fastimd:daemons") <= KEPT
    await house.ledgers.close("d")
    assert redis.keys() == []


async def test_daemons_are_listed_and_forgotten(redis: Redis) -> None:
    """By the clock of Redis; one that was there a day ago is no more."""
    house = House(redis)
    first = await house.ledgers.list(["a", "b"])
    second = await house.ledgers.list(["b"])
    assert first.keys() == second.keys() == {"a", "b"}
    assert second["a"] == first["a"] <= second["b"]
    redis.zadd("fastimd:daemons", {"a": first["a"] - KEPT})
    assert (await house.ledgers.list([])).keys() == {"b"}
    await house.ledgers.unlist("b")
    assert redis.keys() == []


async def test_what_others_wrote_is_left_out(redis: Redis) -> None:
    """Of a ledger, with a log line; what says nothing of a holder is nobody's."""
    house = House(redis)
    redis.hset("fastimd:visits:d", mapping={"": "x", "c": "[1]", b"\xff": '["g","u"]'})
    with capture_logs() as logs:
        assert await house.read("d") == []
    assert [line["key"] for line in logs] == ["fastimd:visits:d"] * 2
    assert await house.ledgers.keep("d", "h", [Noted("e", "g", "u")]) == 3
    assert await house.read("d") == [Noted("e", "g", "u")]


async def test_daemons_that_others_wrote_are_left_out(redis: Redis) -> None:
    """With a log line."""
    house = House(redis)
    redis.zadd("fastimd:daemons", cast(Any, {b"\xff": 2**50, "e": "inf", "f": 2**50}))
    with capture_logs() as logs:
        assert (await house.ledgers.list(["d"])).keys() == {"d", "f"}
    assert [line["key"] for line in logs] == ["fastimd:daemons"] * 2


async def test_a_ledger_that_is_ours_has_nothing_to_complain_of(redis: Redis) -> None:
    house = House(redis)
    await house.keep("d", "h", [Noted("c", "g", "u")], ())
    with capture_logs() as logs:
        assert await house.read("d") == [Noted("c", "g", "u")]
    assert logs == []


def test_ids_of_daemons_differ() -> None:
    assert make_id() != make_id()
