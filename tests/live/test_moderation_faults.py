"""What moderators decide holds through kills of Redis, of daemons, and of connections."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from clients import closing, stored
from conftest import Daemon, Launch, connect, receive, redis_servers
from faults import MortalRedis, Proxy, StartDaemons, running_daemons
from members import member
from test_moderation import PUT_OUT, SECRET, moderator, says
from trio_websocket import ConnectionClosed, HandshakeError

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def mortal_redis(tmp_path: Path) -> Iterator[MortalRedis]:
    redis = MortalRedis(redis_servers()[0], tmp_path / "redis")
    yield redis
    redis.close()


@pytest.fixture
def proxy(mortal_redis: MortalRedis) -> Iterator[Proxy]:
    """Between a daemon and Redis."""
    proxy = Proxy(mortal_redis.port)
    yield proxy
    proxy.close()


@pytest.fixture
def start_daemons(tmp_path: Path, mortal_redis: MortalRedis) -> Iterator[StartDaemons]:
    """Daemons with tokens; they end before Redis does."""
    with running_daemons(tmp_path) as start:

        def start_some(redis_url: str, count: int = 2, **settings: Any) -> list[Daemon]:
            return start(redis_url, count, token__hmac_secret=SECRET, **settings)

        yield start_some


async def test_an_act_outlives_redis(
    mortal_redis: MortalRedis, start_daemons: StartDaemons
) -> None:
    """Killed as soon as it has answered; what is said meanwhile is judged when it is back."""
    one, other = start_daemons(mortal_redis.url)
    async with (
        moderator(one, "room") as boss,
        connect(other.chat_url("room", "3")) as muted,
        connect(other.chat_url("room", "4")) as free,
    ):
        await receive(muted)
        await receive(free)
        assert await boss.call("mute", channel="room", user="3", seconds=0) == {}
        mortal_redis.kill()
        await muted.send_message("not this")
        await free.send_message("but this")
        await trio.sleep(1)
        mortal_redis.start()
        assert (await receive(muted))["code"] == 403
        assert (await receive(free))["info"] == "but this"
        async with member(one, "3", "room") as again:
            assert await says(again, "nor this") == "103 muted"
    assert stored(mortal_redis.client, "room") == ["but this"]


async def test_an_act_outlives_the_daemon_that_was_asked(
    mortal_redis: MortalRedis, launch: Launch
) -> None:
    """Killed as soon as it has answered."""
    one, other = (launch(mortal_redis.url, token__hmac_secret=SECRET) for _ in range(2))
    async with member(other, "3", "room") as muted:
        async with moderator(one) as boss:
            assert await boss.call("mute", channel="room", user="3", seconds=0) == {}
            one.process.kill()
        await trio.sleep(1)
        assert await says(muted, "hi") == "103 muted"
    async with member(launch(mortal_redis.url), "3", "room") as muted:
        assert await says(muted, "hi") == "103 muted"


async def test_a_connection_that_is_dead_and_does_not_seem_so_lets_nobody_through(
    mortal_redis: MortalRedis, proxy: Proxy, start_daemons: StartDaemons
) -> None:
    """A second after the act nothing of the muted is stored, and the others may speak."""
    [one] = start_daemons(mortal_redis.url, 1)
    [other] = start_daemons(proxy.url, 1)
    async with (
        moderator(one) as boss,
        member(other, "3", "room") as muted,
        member(other, "4", "room") as free,
    ):
        assert await says(muted, "before") == ""
        proxy.hold(answers_of_listeners=True)
        await boss.call("mute", channel="room", user="3", seconds=0)
        await trio.sleep(1)
        assert await says(muted, "not this") == "103 muted"
        assert await says(free, "but this") == ""
        await boss.call("unmute", channel="room", user="3")
        await trio.sleep(1)
        assert await says(muted, "and this") == ""
        proxy.resume()
    assert stored(mortal_redis.client, "room") == ["before", "but this", "and this"]


async def test_who_is_banned_while_a_daemon_is_cut_off_is_put_out_later(
    mortal_redis: MortalRedis, proxy: Proxy, start_daemons: StartDaemons
) -> None:
    """On both wires, as soon as the daemon hears again."""
    [one] = start_daemons(mortal_redis.url, 1)
    [other] = start_daemons(proxy.url, 1)
    async with (
        moderator(one) as boss,
        member(other, "3", "room", "elsewhere") as live,
        connect(other.chat_url("room", "3")) as chat,
        member(other, "4", "room") as friend,
    ):
        await receive(chat)
        proxy.hold(answers_of_listeners=True)
        await boss.call("ban", channel="room", user="3", seconds=0, reason="spam")
        mortal_redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
        proxy.resume()
        assert (await live.push("unsubscribe"))["unsubscribe"]["code"] in (PUT_OUT, 2000)
        assert (await closing(chat))[0] == 1008
        assert await says(friend, "hi") == ""


async def test_silence_of_redis_holds_up_and_lets_nobody_through(
    mortal_redis: MortalRedis, proxy: Proxy, start_daemons: StartDaemons
) -> None:
    """What the muted say meanwhile is refused later, what others say is stored."""
    [one] = start_daemons(mortal_redis.url, 1)
    [other] = start_daemons(proxy.url, 1)
    async with (
        moderator(one) as boss,
        connect(other.chat_url("room", "3")) as muted,
        connect(other.chat_url("room", "4")) as free,
    ):
        await receive(muted)
        await receive(free)
        proxy.silence()
        await boss.call("mute", channel="room", user="3", seconds=0)
        await trio.sleep(1)
        await muted.send_message("not this")
        await free.send_message("but this")
        await trio.sleep(2)
        proxy.resume()
        assert (await receive(muted))["code"] == 403
        assert (await receive(free))["info"] == "but this"
    assert stored(mortal_redis.client, "room") == ["but this"]


# Anything


class Game:
    """Random acts and messages, with what must be stored of them, and what must not."""

    def __init__(self, redis: MortalRedis, launch: Launch, seed: int) -> None:
        self.redis = redis
        self.rng = random.Random(seed)
        self._launch = launch
        self.daemons = [self.launch(), self.launch()]
        self.restrained: dict[str, set[str]] = {user: set() for user in ("3", "4", "5")}
        self.changed_at = dict.fromkeys(self.restrained, -10.0)
        self.must: list[str] = []
        self.must_not: list[str] = []
        self.steps: list[str] = []

    def launch(self) -> Daemon:
        return self._launch(self.redis.url, token__hmac_secret=SECRET)

    async def act(self) -> None:
        """Do something to somebody, again until it is answered."""
        user = self.rng.choice(list(self.restrained))
        method = self.rng.choice(["mute", "unmute", "ban", "unban"])
        self.changed_at[user] = time.monotonic() + 60  # meanwhile nothing is certain
        body = {"channel": "room", "user": user}
        if method in ("mute", "ban"):
            body |= {"seconds": 0}  # type: ignore[dict-item]
        while True:
            try:
                async with moderator(self.rng.choice(self.daemons)) as boss:
                    if await boss.call(method, **body) == {}:
                        break
            except (AssertionError, OSError, HandshakeError, ConnectionClosed, KeyError):
                await trio.sleep(0.1)
        held = self.restrained[user]
        (held.discard if method.startswith("un") else held.add)(method.removeprefix("un"))
        self.changed_at[user] = time.monotonic()
        self.steps.append(f"{method} {user}")

    async def say(self, number: int) -> None:
        """Say something; whoever may is patient. Nothing is known if an act comes between."""
        user = self.rng.choice(list(self.restrained))
        text, changed_at = f"{number} of {user}", self.changed_at[user]
        is_settled = time.monotonic() - changed_at >= 1
        is_restrained = bool(self.restrained[user])
        self.steps.append(f"say {text}: {is_settled} {self.restrained[user]}")
        while self.changed_at[user] == changed_at:
            daemon = self.rng.choice(self.daemons)
            speak = self.rng.choice([self.speak_live, self.speak_chat])
            is_stored = False
            try:
                with trio.move_on_after(5):
                    is_stored = await speak(daemon, user, text)
            except (AssertionError, OSError, HandshakeError, ConnectionClosed):
                pass
            if is_stored or is_restrained or not is_settled:
                break
            await trio.sleep(0.1)
        if is_settled and self.changed_at[user] == changed_at:
            (self.must_not if is_restrained else self.must).append(text)

    async def speak_live(self, daemon: Daemon, user: str, text: str) -> bool:
        """Say something; whether it is stored."""
        async with member(daemon, user, "room") as client:
            sent = await client.call("send", channel="room", data=text, nonce=text)
            return sent is not None

    async def speak_chat(self, daemon: Daemon, user: str, text: str) -> bool:
        async with connect(daemon.chat_url("room", user)) as chat:
            said = await receive(chat)
            if "list" in said and any(each["info"] == text for each in said["list"]):
                return True
            await chat.send_message(text)
            while True:
                said = await receive(chat)
                if said.get("code") == 403:
                    return False
                if said.get("info") == text:
                    return True

    async def fault(self) -> None:
        kind = self.rng.choice(["redis", "daemon", "listeners"])
        self.steps.append(f"kill {kind}")
        if kind == "redis":
            self.redis.kill()
            await trio.sleep(0.3)
            await trio.to_thread.run_sync(self.redis.start)
        elif kind == "daemon":
            number = self.rng.randrange(2)
            self.daemons[number].process.kill()
            self.daemons[number] = await trio.to_thread.run_sync(self.launch)
        else:
            self.redis.ask("CLIENT", "KILL", "TYPE", "pubsub")


ENOUGH = 5
"""Messages that must be heard, and that must not, at least."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seed", range(2))
async def test_whatever_happens_the_restrained_are_not_heard_and_the_others_are(
    mortal_redis: MortalRedis, launch: Launch, seed: int
) -> None:
    """A second after the act, and as long as it holds; then again after it was lifted.

    Clients whose daemon is killed in the handshake leave their sockets to the garbage collector.
    """
    game = Game(mortal_redis, launch, seed)
    until = time.monotonic() + 25
    number = 0
    # A slow machine gets less done, so it goes on until there is enough to see.
    while time.monotonic() < until or min(len(game.must), len(game.must_not)) <= ENOUGH:
        async with trio.open_nursery() as nursery:
            if game.rng.random() < 0.2:
                nursery.start_soon(game.fault)
            for _ in range(game.rng.randrange(1, 4)):
                number += 1
                nursery.start_soon(game.say, number)
            if game.rng.random() < 0.4:
                nursery.start_soon(game.act)
        if game.rng.random() < 0.5:
            await trio.sleep(1)
    listed = stored(mortal_redis.client, "room")
    told = "\n".join(game.steps)
    assert not set(listed) & set(game.must_not), told
    assert set(game.must) <= set(listed), told
    gc.collect()  # those sockets, while that is no failure
