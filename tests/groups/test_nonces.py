"""Messages that are sent until they are acknowledged, whatever breaks: each is stored once.

What a daemon has for appending, a client of Redis and the store over it, stands for the daemon: two
of them, each behind a proxy. Speakers send each message with a nonce to either, and again to either
when they have waited a moment in vain, or at once. Meanwhile connections break, what was sent comes
late, Redis is killed, and daemons are.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio
from conftest import redis_servers
from faults import MortalRedis, Proxy

from fastimd.base import codec
from fastimd.base.errors import BadParameter, KeyUnusable, StoreUnavailable
from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.groups.store import Store
from fastimd.groups.store.keyspace import nonces_key
from fastimd.redis.address import Address
from fastimd.redis.appender import Appender
from fastimd.redis.client import Client
from fastimd.redis.clock import RedisClock

GROUPS = ("1", "2")
SPEAKERS = 6
MESSAGES = 25
"""How many messages a speaker has for each group."""
BROKEN_USER = "broken"
"""A user whose nonces in the first group are of another type."""

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[MortalRedis]:
    server = MortalRedis(redis_servers()[0], tmp_path / "redis")
    yield server
    server.close()


@pytest.fixture
def proxies(redis: MortalRedis) -> Iterator[list[Proxy]]:
    made = [Proxy(redis.port) for _ in range(2)]
    yield made
    for proxy in made:
        proxy.close()


def list_entries(redis: MortalRedis, group: str) -> list[bytes]:
    """What is stored in a group."""
    return list(redis.ask("LRANGE", f"gml:{group}", 0, -1))


class Outlet:
    """What of a daemon appends, and the same of the next one when that is killed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._scope = trio.CancelScope()
        self._make()

    def _make(self) -> None:
        config, metrics, clock = Config(), Metrics(), RedisClock()
        self.client = Client(Address(self._url), Appender(config, metrics, clock), clock, metrics)
        self.store = Store(self.client, config, metrics)

    async def run(self) -> None:
        """Run one after the other."""
        while True:
            with trio.CancelScope() as self._scope:
                await self.client.run()
            self._make()

    def kill(self) -> None:
        """End it: whoever waits for its answers gets none."""
        self._scope.cancel()

    def cut(self) -> None:
        """Break its connection under what is under way."""
        connection = self.client._connection
        if connection is not None:
            connection.fail("cut by the test")


@dataclass
class Said:
    """A message, and what each try was told."""

    group: str
    user: str
    nonce: str
    info: str
    given: set[int | None] = field(default_factory=set)
    failures: list[Exception] = field(default_factory=list)
    tries: int = 0

    def send(self, outlet: Outlet) -> trio.Event:
        """Try once; the event is set when that was answered."""
        answered = trio.Event()

        def on_told(failure: Exception | None, ts: int | None) -> None:
            if failure is None:
                self.given.add(ts)
            else:
                self.failures.append(failure)
            answered.set()

        self.tries += 1
        outlet.store.messages.append_told(
            self.group, self.user, self.info, on_told, nonce=self.nonce
        )
        return answered


class Talk:
    """Two outlets, and what is said at them."""

    def __init__(self, redis: MortalRedis, proxies: list[Proxy], rng: random.Random) -> None:
        self.redis = redis
        self.proxies = proxies
        self.outlets = [Outlet(proxy.url) for proxy in proxies]
        self.rng = rng
        self.said: list[Said] = []
        self.plain: Counter[str] = Counter()

    async def run(self, harms: list[Harm]) -> None:
        """Say everything while harm is done, and see it over."""
        async with trio.open_nursery() as around:
            for outlet in self.outlets:
                around.start_soon(outlet.run)
            async with trio.open_nursery() as harming:
                harming.start_soon(self._harm, harms)
                async with trio.open_nursery() as speaking:
                    for number in range(SPEAKERS):
                        speaking.start_soon(self._speak, f"user {number}")
                    speaking.start_soon(self._speak_in_vain)
                harming.cancel_scope.cancel()
            for proxy in self.proxies:
                proxy.resume()
            for outlet in self.outlets:
                await outlet.client.appender.wait_all_answered()
            await trio.sleep(0.1)  # what a killed one has sent may still be on its way
            around.cancel_scope.cancel()

    async def _harm(self, harms: list[Harm]) -> None:
        while True:
            await trio.sleep(self.rng.uniform(0, 0.08))
            await self.rng.choice(harms)(self)

    async def _speak(self, user: str) -> None:
        for number in range(MESSAGES):
            async with trio.open_nursery() as nursery:
                for group in GROUPS:
                    said = Said(group, user, f"{number}", f"{user} says {number}")
                    self.said.append(said)
                    nursery.start_soon(self._insist, said)
                plain = f"{user} says {number} plainly"
                self.plain[plain] += 0
                self.rng.choice(self.outlets).store.messages.append(
                    "1", user, plain, partial(self._note_plain, plain)
                )

    def _note_plain(self, text: str, failure: Exception | None) -> None:
        self.plain[text] += failure is None

    async def _insist(self, said: Said) -> None:
        """Send it until it is told."""
        while not said.given:
            answered = said.send(self.rng.choice(self.outlets))
            if self.rng.random() < 0.2:
                said.send(self.rng.choice(self.outlets))
            with trio.move_on_after(self.rng.uniform(0.005, 0.2)):
                await answered.wait()

    async def _speak_in_vain(self) -> None:
        for number in range(MESSAGES):
            said = Said("1", BROKEN_USER, f"{number}", f"in vain {number}")
            self.said.append(said)
            answered = said.send(self.rng.choice(self.outlets))
            with trio.move_on_after(0.1):
                await answered.wait()

    def check(self, stored: list[bytes]) -> None:
        """Each message is there once, with the ts that every try was told."""
        found: dict[tuple[str, str], list[int]] = {}
        for entry in stored:
            message = codec.decode_message(entry)
            found.setdefault((message.groupId, message.info), []).append(message.ts)
        for said in self.said:
            there = found.pop((said.group, said.info), [])
            if said.user == BROKEN_USER:
                assert (there, said.given) == ([], set())
                assert all(isinstance(each, KeyUnusable) for each in said.failures)
            else:
                assert len(there) == 1, (said, there)
                assert said.given == set(there), said
                assert all(isinstance(each, StoreUnavailable) for each in said.failures)
        for text, count in self.plain.items():
            there = found.pop(("1", text), [])
            assert count <= len(there) <= 1, (text, count, there)
        assert found == {}


Harm = Callable[[Talk], Awaitable[None]]


async def kill_connections(talk: Talk) -> None:
    """Redis closes the daemons' connections."""
    talk.redis.ask("CLIENT", "KILL", "TYPE", "normal")
    await trio.lowlevel.checkpoint()


async def cut(talk: Talk) -> None:
    """A daemon loses its connection, and with it the replies to what it has sent."""
    talk.rng.choice(talk.outlets).cut()
    await trio.lowlevel.checkpoint()


async def lose_answers(talk: Talk) -> None:
    """The same after what was sent was applied, for the most part."""
    number = talk.rng.randrange(2)
    talk.proxies[number].silence(answers_only=True)
    await trio.sleep(talk.rng.uniform(0, 0.05))
    talk.outlets[number].cut()
    talk.proxies[number].resume()


async def delay(talk: Talk) -> None:
    """What a daemon sends comes late, perhaps after it was killed, or over a broken connection."""
    number = talk.rng.randrange(2)
    talk.proxies[number].hold(questions=True)
    await trio.sleep(talk.rng.uniform(0, 0.1))
    talk.rng.choice((talk.outlets[number].kill, talk.outlets[number].cut, lambda: None))()
    await trio.sleep(talk.rng.uniform(0, 0.1))
    talk.proxies[number].resume()


async def kill_daemon(talk: Talk) -> None:
    """The next one knows nothing of what was under way."""
    talk.rng.choice(talk.outlets).kill()
    await trio.lowlevel.checkpoint()


async def restart_redis(talk: Talk) -> None:
    """It is killed, and comes back with all it has answered."""
    await trio.sleep(0.2)
    await trio.to_thread.run_sync(talk.redis.kill)
    await trio.to_thread.run_sync(talk.redis.start)


BREAKING: list[Harm] = [kill_connections, cut, lose_answers, delay, kill_daemon]


def test_no_two_users_in_groups_share_a_key() -> None:
    """Whatever signs their ids have: both can be read off the key again."""
    ids = ["1", "12", ":", "1:", ":1", "1:1", "1:1:1", "好", "好:1", "2:ab", "a b", "12:34:5"]
    keys = {nonces_key(group, user): (group, user) for group in ids for user in ids}
    assert len(keys) == len(ids) ** 2
    for key, both in keys.items():
        length, _, rest = key.removeprefix("fastimd:nonces:").partition(":")
        group, user = rest[: int(length)], rest[int(length) + 1 :]
        assert (group, user) == both


@pytest.mark.parametrize("nonce", ["x" * 65, "好" * 22, "x" * 10_000])
def test_a_nonce_that_is_too_long_is_refused(nonce: str) -> None:
    """Before anything is sent; who sent it is told which parameter it is."""
    messages = Outlet("redis://127.0.0.1:1/0").store.messages
    with pytest.raises(BadParameter) as refusal:
        messages.append_told("1", "3", "hi", lambda _failure, _ts: None, nonce=nonce)
    assert refusal.value.name == "nonce"
    assert messages.unanswered == 0


async def test_any_nonce_up_to_64_bytes_is_one(redis: MortalRedis) -> None:
    """Without one, messages are different ones, and get each a ts all the same."""
    outlet = Outlet(redis.url)
    nonces = ["x", "x" * 64, "好" * 21, "\0", "\r\n", "7", "0", "\ud800", "\udfff", " ", "x "]
    said = [Said("1", "3", nonce, "hi") for nonce in [*nonces, ""]]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.run)
        for _ in range(2):
            for answered in [each.send(outlet) for each in said]:
                await answered.wait()
        nursery.cancel_scope.cancel()
    stored = {codec.read_entry(each)[0] for each in list_entries(redis, "1")}
    given = [each.given for each in said]
    assert [len(each) for each in given] == [1] * len(nonces) + [2]
    assert set().union(*given) == stored
    assert len(stored) == len(said) + 1


async def test_tags_are_stored_with_the_message(redis: MortalRedis) -> None:
    """Whether its ts is told or not."""
    outlet, tags = Outlet(redis.url), {"color": "red", "ts": "1"}
    answers: list[object] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.run)
        messages = outlet.store.messages
        messages.append("1", "3", "hi", answers.append, tags=tags)
        messages.append_told("1", "3", "hi", lambda *told: answers.append(told), tags=tags)
        messages.append("1", "3", "hi", answers.append)
        await outlet.client.appender.wait_all_answered()
        nursery.cancel_scope.cancel()
    stored = [codec.decode_message(each) for each in list_entries(redis, "1")]
    assert [each.tags for each in stored] == [tags, tags, {}]
    assert answers == [None, (None, stored[1].ts), None]


@pytest.mark.parametrize("with_restarts", [False, True])
async def test_what_is_sent_until_it_is_acknowledged_is_stored_once(
    redis: MortalRedis, proxies: list[Proxy], with_restarts: bool
) -> None:
    """Every try that is told a ts is told the same, and what is stored is published once."""
    seed = random.randrange(10**9)
    talk = Talk(redis, proxies, random.Random(seed))
    redis.client.set(nonces_key("1", BROKEN_USER), "x")
    with redis.connect().pubsub() as channels:  # type: ignore[no-untyped-call]
        channels.subscribe(*(f"mq:{group}" for group in GROUPS))
        for _ in GROUPS:
            assert channels.get_message(timeout=5)["type"] == "subscribe"
        await talk.run(BREAKING + [restart_redis] * with_restarts)
        stored = [entry for group in GROUPS for entry in list_entries(redis, group)]
        published = (
            [] if with_restarts else [channels.get_message(timeout=5)["data"] for _ in stored]
        )
        assert with_restarts or channels.get_message(timeout=0.05) is None
    try:
        talk.check(stored)
        assert with_restarts or Counter(published) == Counter(stored)
    except AssertionError as failure:
        failure.add_note(f"the seed was {seed}")
        raise
    tries = sum(said.tries for said in talk.said)
    assert tries > len(talk.said), "nothing was sent twice"
