"""Where groups stand, through a daemon's store on a real Redis; the cases are in ``test_lives``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import trio
from redis import Redis

from fastimd.base import codec
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config, GroupMessage, Live, Socket
from fastimd.groups.store import Store
from fastimd.groups.store.stand import LEAST_LIFE_SECONDS
from fastimd.redis.address import Address
from fastimd.redis.appender import Appender
from fastimd.redis.client import Client
from fastimd.redis.clock import RedisClock

LIFE = "fastimd:life:1"


class House:
    """What a daemon has for its groups."""

    def __init__(self, url: str, config: Config) -> None:
        metrics, clock = Metrics(), RedisClock()
        self.client = Client(Address(url), Appender(config, metrics, clock), clock, metrics)
        self.store = Store(self.client, config, metrics)
        self.stands = self.store.stands

    async def say(self, *infos: str) -> list[int]:
        """Messages; returns their ts."""
        given: list[int] = []
        for info in infos:
            told = trio.Event()

            def on_told(failure: Exception | None, ts: int | None, told: trio.Event = told) -> None:
                assert failure is None
                assert ts is not None
                given.append(ts)
                told.set()

            self.store.messages.append_told("1", "3", info, on_told)
            await told.wait()
        return given


@pytest.fixture
async def house(redis_url: str) -> AsyncIterator[House]:
    config = Config(
        live=Live(recover_limit=3),
        socket=Socket(outbox_bytes=65_536),
        group_message=GroupMessage(timeout=100_000),
    )
    house = House(redis_url, config)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.client.run)
        await house.client.wait_connected()
        yield house
        nursery.cancel_scope.cancel()


async def test_who_comes_back_is_given_what_it_missed(house: House, redis: Redis) -> None:
    """Messages with their ts, deletions as events; the position says where the live ones begin."""
    empty = await house.stands.read("1")
    assert (empty.position[:2], empty.is_recovered, empty.messages) == ((0, b""), False, [])
    said = await house.say("a", "b", "c")
    stand = await house.stands.read("1", empty.epoch, 0)
    assert stand.is_recovered
    assert [ts for ts, _ in stand.messages] == said
    assert [codec.decode_message(text).info for _, text in stand.messages] == ["a", "b", "c"]
    assert stand.position[:2] == (said[-1], redis.lindex("gml:1", -1))
    assert await house.store.messages.recall("1", "3", said[1]) == "done"
    assert await house.store.messages.purge("1") == 2
    stand = await house.stands.read("1", empty.epoch, said[0])
    assert (stand.is_recovered, stand.messages, stand.position.entry) == (True, [], b"")
    recall, purge = map(json.loads, sorted(stand.removals, key=len))
    if "until" in recall:
        recall, purge = purge, recall
    assert recall == {"group": "1", "user": "3", "ts": said[1]}
    assert purge.pop("until") >= said[-1]
    assert purge == {"group": "1", "user": "", "ts": 0}


async def test_what_is_caught_up_with_is_what_the_settings_allow(house: House) -> None:
    """By live.recover_limit and by socket.outbox_bytes."""
    epoch = (await house.stands.read("1")).epoch
    said = await house.say("a", "b", "c", "d")
    assert [
        (await house.stands.read("1", epoch, since)).is_recovered for since in (0, said[0])
    ] == [False, True]
    (long,) = await house.say("x" * 65_500)
    assert (await house.stands.read("1", epoch, long)).is_recovered
    assert not (await house.stands.read("1", epoch, said[-1])).is_recovered
    page = await house.stands.history("1", epoch, said[-1], 9, reverse=False)
    assert [ts for ts, _ in page.messages] == [long]
    page = await house.stands.history("1", epoch, None, 9, reverse=False)
    assert [ts for ts, _ in page.messages] == said, "a page is no longer than an outbox"


async def test_a_foreign_message_has_no_offset(house: House, redis: Redis) -> None:
    """It is given with what was missed, and is no position."""
    epoch = (await house.stands.read("1")).epoch
    (said,) = await house.say("a")
    far = said + 10**10
    redis.rpush("gml:1", codec.message_prefix("1", "4", "x") + b"%d}" % far, b"no message")
    stand = await house.stands.read("1", epoch, said)
    foreign = codec.message_prefix("1", "4", "x") + b"%d}" % far
    assert stand.messages == [(0, foreign)]
    assert stand.foreign == {foreign}
    assert stand.position[:2] == (said, b"no message")
    page = await house.stands.history("1", epoch, None, 9, reverse=True)
    assert ([ts for ts, _ in page.messages], page.offset, page.is_of_epoch) == (
        [0, said],
        said,
        True,
    )


async def test_each_life_has_a_name_of_its_own_and_is_kept(
    house: House, redis: Redis, redis_url: str
) -> None:
    """On every daemon; twice as long as messages are, or a day."""
    other = House(redis_url, Config(group_message=GroupMessage(timeout=60)))
    epochs = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.client.run)
        await other.client.wait_connected()
        for each, seconds in ((house, 200_000), (other, LEAST_LIFE_SECONDS)) * 2:
            redis.delete(LIFE)
            epochs += [(await each.stands.read("1")).epoch]
            assert seconds - 5 <= redis.ttl(LIFE) <= seconds
            assert (await other.stands.read("1")).epoch == epochs[-1]
            page = await house.stands.history("1", "another", None, 9, reverse=False)
            assert (page.epoch, page.is_of_epoch) == (epochs[-1], False)
        nursery.cancel_scope.cancel()
    assert len(set(epochs)) == 4
