"""Calls that are repeated until they are answered, whatever breaks: each message is said once."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from calling import SETTINGS, ApiFailed, Backend, backend
from conftest import Launch, ShareDaemon, StartDaemon, redis_servers, wait_for
from faults import MortalRedis, Proxy
from redis import Redis

BACKENDS, MESSAGES = 4, 60
GROUPS = ("match-1", "match-2", "dialog#mara,tom")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[MortalRedis]:
    server = MortalRedis(redis_servers()[0], tmp_path / "redis")
    yield server
    server.close()


@pytest.fixture
def proxy(mortal: MortalRedis) -> Iterator[Proxy]:
    made = Proxy(mortal.port)
    yield made
    made.close()


def cut(proxy: Proxy) -> None:
    """Break every connection through a proxy."""
    for link in list(proxy._links):
        link.close()


def entries(redis: Redis, group: str) -> dict[str, list[int]]:
    """The ts of each text of a group: more than one where it is stored more than once."""
    found: dict[str, list[int]] = {}
    for entry in redis.lrange(f"gml:{group}", 0, -1):
        message = json.loads(entry)
        found.setdefault(message["info"], []).append(message["ts"])
    return found


def say_until_answered(
    rng: random.Random, callers: list[Backend], body: dict[str, Any], tries: Counter[str]
) -> int:
    """Publish, to one daemon or another, until one answers with the offset."""
    while True:
        try:
            return int(rng.choice(callers).call("publish", body)["offset"])
        except (OSError, HTTPException) as exc:
            tries[type(exc).__name__] += 1
        except ApiFailed as exc:
            if exc.code != 100:
                raise
            tries[exc.message] += 1
        time.sleep(0.02)


def wait_many(given: Sized, many: int, speaking: Sequence[Future[None]]) -> None:
    """Wait until so many messages have been said, or a speaker has failed."""

    def is_over() -> bool:
        for each in speaking:
            if each.done():
                each.result()
        return len(given) >= many

    wait_for(is_over, seconds=60)


def test_a_storm_of_retries_says_each_message_once(
    launch: Launch, mortal: MortalRedis, proxy: Proxy
) -> None:
    """Redis is killed, connections to it break, and every answered offset is the message's ts."""
    daemons = [launch(url, **SETTINGS) for url in (mortal.url, proxy.url)]
    callers = [
        Backend(backend(daemon).address, backend(daemon).headers, seconds=seconds)
        for daemon in daemons
        for seconds in (0.3, 12)
    ]
    given: dict[tuple[str, str], int] = {}
    tries: Counter[str] = Counter()

    def speak(number: int) -> None:
        rng = random.Random(number)
        for message in range(MESSAGES):
            group, text = rng.choice(GROUPS), f"{number}-{message}"
            body = {
                "channel": group,
                "data": text,
                "idempotency_key": rng.choice((text, text * 40)),
                "user": rng.choice(("", "mara")),
            }
            given[group, text] = say_until_answered(rng, callers, body, tries)
            time.sleep(rng.random() / 50)
            if rng.random() < 0.2:  # the answer was lost on the way, or so the backend believes
                again = say_until_answered(rng, callers, body, tries)
                assert again == given[group, text]

    with ThreadPoolExecutor(BACKENDS) as threads:
        speaking = [threads.submit(speak, number) for number in range(BACKENDS)]
        for quarter in (1, 2, 3):
            wait_many(given, quarter * BACKENDS * MESSAGES // 4, speaking)
            mortal.kill()
            cut(proxy)
            time.sleep(0.3)
            mortal.start()
            time.sleep(0.2)
            cut(proxy)
        for each in speaking:
            each.result()
    assert tries
    stored = {
        (group, text): ts
        for group in GROUPS
        for text, ts in entries(mortal.connect(), group).items()
    }
    assert stored == {said: [offset] for said, offset in given.items()}


@pytest.mark.parametrize("harm", ["cut", "silence"])
def test_a_broadcast_that_is_cut_off_is_repeated(
    launch: Launch, mortal: MortalRedis, proxy: Proxy, harm: str
) -> None:
    """With the same key it is said where it was not, and nowhere twice."""
    daemon = launch(proxy.url, **SETTINGS)
    game = backend(daemon)
    names = [f"g{number}" for number in range(2000)]
    body = {"channels": names, "data": "goal", "idempotency_key": "the goal of the 7th minute"}
    first: list[Any] = []

    def broadcast() -> None:
        first.append(game.call("broadcast", body)["responses"])

    calling = threading.Thread(target=broadcast)
    if harm == "silence":
        proxy.silence(answers_only=True)
    calling.start()
    redis = mortal.connect()
    wait_for(lambda: redis.keys("gml:g*"), daemon)
    cut(proxy)
    calling.join()
    known = {
        name: reply["result"]["offset"]
        for name, reply in zip(names, first[0], strict=True)
        if "result" in reply
    }
    replies = wait_for(lambda: whole(game, body), daemon)
    offsets = [reply["result"]["offset"] for reply in replies]
    for name, offset in zip(names, offsets, strict=True):
        assert entries(redis, name) == {"goal": [offset]}
        assert known.get(name, offset) in (offset, 0)


def whole(caller: Backend, body: dict[str, Any]) -> list[Any] | None:
    """What became of a broadcast, if it is known of each message."""
    replies: list[Any] = caller.call("broadcast", body)["responses"]
    return replies if all("result" in reply for reply in replies) else None


def test_two_thousand_keys_of_a_group_are_remembered(
    share_daemon: ShareDaemon, redis: Redis
) -> None:
    """Members have a thousand each; backends share more, in whosever name they speak."""
    game = backend(share_daemon(**SETTINGS))
    commands = [
        {
            "publish": {
                "channel": "match-1",
                "data": f"{number}",
                "idempotency_key": f"key {number}",
                "user": ("", "mara", "tom")[number % 3],
            }
        }
        for number in range(2000)
    ]
    first = game.call("batch", commands=commands, parallel=True)
    assert game.call("batch", commands=commands, parallel=True) == first
    assert len({reply["publish"]["offset"] for reply in first}) == 2000
    assert redis.llen("gml:match-1") == 2000


def test_a_key_counts_in_its_group_and_for_backends_alone(
    start_daemon: StartDaemon, redis: Redis
) -> None:
    """On all daemons; what it is repeated with does not matter, nor how long it is."""
    here, there = (backend(start_daemon(**SETTINGS)) for _ in "12")
    for key in ("k", "k" * 64, "k" * 65, "字" * 500, "\n", " "):
        said = [
            caller.call("publish", channel=group, data=text, idempotency_key=key, user=user)
            for caller, group, text, user in (
                (here, "match-1", "a", ""),
                (there, "match-1", "b", "mara"),
                (here, "match-2", "c", ""),
            )
        ]
        assert said[0] == said[1] != said[2], key
    assert redis.llen("gml:match-1") == 6
    one, two = (here.call("publish", channel="match-1", data="same") for _ in "12")
    assert one != two
    offsets = here.call(
        "broadcast", channels=["match-3", "match-3"], data="x", idempotency_key="k"
    )["responses"]
    assert offsets[0] == offsets[1]
    assert redis.llen("gml:match-3") == 1


def test_a_call_while_redis_is_away_is_answered_in_time(
    launch: Launch, mortal: MortalRedis
) -> None:
    """With error 100, which says whether the message may be stored."""
    daemon = launch(mortal.url, **SETTINGS)
    game = backend(daemon)
    assert game.call("publish", channel="match-1", data="x")
    mortal.pause()
    try:
        for name, body in (
            ("publish", {"channel": "match-1", "data": "y", "idempotency_key": "k"}),
            ("history", {"channel": "match-1", "limit": 1}),
        ):
            began = time.monotonic()
            answer = game.send(name, body)
            assert time.monotonic() - began < 11
            assert answer.json["error"]["code"] == 100
            if name == "publish":
                assert "may be" in answer.json["error"]["message"]
    finally:
        mortal.resume()
    again = wait_for(lambda: _answered(game), daemon)
    assert entries(mortal.connect(), "match-1")["y"] == [again]


def _answered(game: Backend) -> int | None:
    body = {"channel": "match-1", "data": "y", "idempotency_key": "k"}
    reply = game.send("publish", body).json
    return int(reply["result"]["offset"]) if "result" in reply else None
