"""Clients of the live wire come back, whatever happened meanwhile: ``recovered`` never lies.

What was acknowledged is in Redis once. Who comes back with ``recovered: true`` has heard all that
was said and is still there, once and in order, and of everything that is gone. Each test does one
harm while guests on two daemons talk; the last one does them at random::

    FASTIMD_RESUME_SECONDS=60 FASTIMD_RESUME_SEED=1 pytest tests/live/test_resume.py -k random
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
from conftest import name_of_server, redis_and_valkey
from resuming import Guest, Stage, be_in, company, judge, now_ms, until

from fastimd.live.speaking import POLICY_SECONDS

SECONDS = float(os.environ.get("FASTIMD_RESUME_SECONDS", "6"))
SEED = os.environ.get("FASTIMD_RESUME_SEED") or str(random.randrange(10**9))
MAX_LENGTH = 40
PAGE = 200
"""How many messages a repair reads at once."""
AWAY_SECONDS = 5.0
"""Longer than a message may wait for Redis, shorter than an answer may be awaited."""


@pytest.fixture(scope="module", params=redis_and_valkey(), ids=name_of_server)
def server(request: pytest.FixtureRequest) -> str:
    """The executable of the Redis."""
    executable: str = request.param
    return executable


@pytest.fixture(scope="module")
def stage(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Two daemons on a Redis, for all tests: each has groups of its own."""
    with Stage(tmp_path_factory.mktemp("stage"), server) as stage:
        yield stage


@pytest.fixture(scope="module")
def short(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The same with short lists."""
    folder = tmp_path_factory.mktemp("short")
    with Stage(folder, server, group_message__max_length=str(MAX_LENGTH)) as stage:
        yield stage


def returns(*guests: Guest) -> set[bool]:
    """The words with which guests were let in again."""
    return {word for guest in guests for place in guest.places.values() for word in place.returns}


async def hear(guest: Guest, more: int) -> None:
    """Wait until a guest has heard so many more messages in each group."""
    heard = {group: len(place.offsets) for group, place in guest.places.items()}
    await until(
        lambda: all(
            len(place.offsets) >= heard[group] + more for group, place in guest.places.items()
        ),
        lambda: f"{guest.name} hears nothing",
    )


async def hear_of(guest: Guest, group: str, ts: int) -> None:
    """Wait until a guest has heard a message."""
    place = guest.places[group]
    await until(lambda: ts in place.now.heard, lambda: f"{guest.name} does not hear {ts}")


async def say(guest: Guest, group: str) -> int:
    """Say something; returns its ts."""
    answer = await guest.call("send", channel=group, data=guest.next_text())
    assert answer is not None
    return int(answer["rpc"]["data"]["ts"])


async def test_who_is_cut_off_goes_on_at_the_other_daemon(stage: Stage) -> None:
    """Again and again, at once and after a while."""
    async with company(stage, "cut") as guests:
        for number in range(8):
            guest = guests[number % len(guests)]
            await guest.leave()
            await trio.sleep(0.1 * (number % 3))
            guest.come_back()
            await be_in(guest)
            await hear(guest, 2)
    assert returns(*guests) == {True}


async def test_a_killed_daemon_costs_nobody_a_message(stage: Stage) -> None:
    """Its guests go on at the other one, and whoever was away comes to the new one."""
    async with company(stage, "killed") as guests:
        await hear(guests[0], 5)
        await guests[1].leave()
        await stage.kill_daemon(0)
        guests[1].come_back(0)
        await be_in(*guests)
        await hear(guests[1], 5)
    assert returns(*guests) == {True}


async def test_a_killed_worker_costs_nobody_a_message(server: str, tmp_path: Path) -> None:
    """Its guests go on at the others of the same daemon, and at the one that takes its place."""
    with Stage(tmp_path, server, server__workers="2") as stage:
        async with company(stage, "worker", 6) as guests:
            for number, worker in ((0, 1), (1, 2), (0, 2)):
                await hear(guests[0], 5)
                await guests[1].leave()
                await stage.kill_worker(number, worker)
                guests[1].come_back(number)
                await be_in(*guests)
            await hear(guests[1], 5)
    assert returns(*guests) == {True}


async def test_a_killed_redis_costs_nobody_a_message(stage: Stage) -> None:
    """It has written everything down; guests come back before and after its return."""
    async with company(stage, "redis") as guests:
        for away in (0.0, 0.5):
            await hear(guests[0], 5)
            await guests[1].leave()
            await guests[2].leave()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stage.kill_redis, away)
                await trio.sleep(away / 2)
                guests[2].come_back()
            guests[1].come_back()
            await be_in(*guests)
    assert returns(*guests) == {True}


async def test_after_a_flush_nothing_is_certain(stage: Stage) -> None:
    """Who was away is told so, as is who heard on, when it comes back; then it is well again."""
    async with company(stage, "flush") as guests:
        await hear(guests[0], 5)
        await guests[1].leave()
        stage.ask("FLUSHALL")
        guests[1].come_back()
        await be_in(guests[1])
        await hear(guests[0], 5)
        assert returns(guests[1]) == {False}
        for words in ([False], [False, True]):
            await guests[0].leave()
            guests[0].come_back()
            await be_in(guests[0])
            assert [place.returns for place in guests[0].places.values()] == [words, words]


async def test_what_is_lost_before_it_was_heard_is_nothing_certain(stage: Stage) -> None:
    """All of it, while no channel is heard; also where one of Fast-IM's wire was there first."""
    async with company(stage, "unheard") as guests:
        await guests[0].leave()
        await guests[2].leave()
        await stage.kill_daemon(0)
        heard = guests[1].places["unheard"].now.heard
        before = len(heard)
        await until(
            lambda: any(
                text.startswith("unheard-seed-0") for text in list(heard.values())[before:]
            ),
            lambda: "nobody of Fast-IM's wire is at daemon 0",
        )
        guests[0].come_back(0)
        await hear(guests[0], 5)
        message = {"groupId": "unheard", "userId": "nobody", "info": "lost", "ts": now_ms()}
        with stage.redis.connect() as client, client.pipeline(transaction=True) as at_once:
            at_once.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            at_once.rpush("gml:unheard", json.dumps(message, separators=(",", ":")))
            at_once.flushall()
            at_once.execute()
        await until(
            lambda: guests[0].places["unheard"].returns[-1:] == [False],
            lambda: "who missed something was not told",
        )


async def test_a_list_that_is_lost_is_nothing_certain(stage: Stage) -> None:
    """As Redis evicts it; other groups have lost nothing."""
    async with company(stage, "evicted") as guests:
        await hear(guests[0], 5)
        await guests[0].leave()
        stage.ask("DEL", "gml:evicted")
        await hear(guests[1], 5)
        guests[0].come_back()
        await be_in(guests[0])
    assert [place.returns[0] for place in guests[0].places.values()] == [False, True]


async def test_a_purge_in_the_time_away_is_told(stage: Stage) -> None:
    """Nothing is missing without that word: recovered, though the list is empty, or is again."""
    async with company(stage, "purged") as guests:
        for more in (0, 5):
            await hear(guests[0], 5)
            await guests[0].leave()
            await guests[3].leave()
            await hear(guests[1], 5)
            await stage.purge("purged", at=1)
            guests[3].come_back()
            await hear(guests[1], more)
            guests[0].come_back()
            await be_in(guests[0], guests[3])
    assert returns(*guests) == {True}
    assert all(guest.places["purged"].now.purged for guest in guests)
    assert not any(guest.places["purged-2"].now.purged for guest in guests)


async def test_recalls_in_the_time_away_are_told(stage: Stage) -> None:
    """Of what the guest has heard, at last the newest that it knows, and of what it has not."""
    async with company(stage, "recalled") as guests:
        for _ in range(3):
            heard = await say(guests[1], "recalled")
            await hear(guests[0], 2)
            newest = await say(guests[1], "recalled")
            await hear_of(guests[0], "recalled", newest)
            await guests[0].leave()
            missed = await say(guests[1], "recalled")
            for ts in (heard, newest, missed):
                await stage.recall(guests[1], "recalled", ts)
            await hear(guests[1], 3)
            guests[0].come_back()
            await be_in(guests[0])
            await hear(guests[0], 1)
            assert {heard, newest, missed} <= guests[0].places["recalled"].now.recalled
    assert returns(*guests) == {True}


async def test_recalls_while_the_relay_is_away_are_told(stage: Stage) -> None:
    """Its connection breaks again and again, and guests go from one daemon to the other."""
    async with company(stage, "relay") as guests:
        for number in range(10):
            taken_back = [await say(guests[1], group) for group in guests[1].places]
            if number % 3 == 0:
                await guests[0].leave()
            for group, ts in zip(guests[1].places, taken_back, strict=True):
                stage.ask("CLIENT", "KILL", "TYPE", "pubsub")
                await stage.recall(guests[1], group, ts)
            guests[0].come_back()
            await be_in(guests[0])
    assert returns(*guests) == {True}


async def test_a_recall_before_a_long_gap_is_told(stage: Stage) -> None:
    """More was said since than the relay reads at once."""
    async with company(stage, "gap") as guests:
        ts = await say(guests[1], "gap")
        await hear(guests[0], 2)
        stopped = stage.daemons[0].process
        stopped.send_signal(signal.SIGSTOP)
        try:
            stage.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await stage.recall(guests[1], "gap", ts)
            async with trio.open_nursery() as nursery:
                for _ in range(PAGE + 100):
                    nursery.start_soon(guests[1].publish, "gap")
        finally:
            stopped.send_signal(signal.SIGCONT)
    assert ts in guests[0].places["gap"].now.recalled


async def test_what_was_trimmed_in_the_time_away_is_not_passed_over(short: Stage) -> None:
    """Up to there guests are recovered."""
    async with company(short, "trimmed") as guests:
        for more, word in ((5, True), (MAX_LENGTH + 5, False)):
            await hear(guests[0], 2)
            await guests[0].leave()
            await hear(guests[1], more)
            guests[0].come_back()
            await be_in(guests[0])
            assert [place.returns[-1] for place in guests[0].places.values()] == [word] * 2


async def test_what_was_trimmed_is_not_forgotten_when_the_rest_is_recalled(short: Stage) -> None:
    """Then the list is empty as after a purge, but nobody was told of the oldest."""
    alone = Guest("alone", "json", short, ["alone"], 0)
    speaker = Guest("speaker", "protobuf", short, ["alone"], 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alone.run)
        nursery.start_soon(speaker.run)
        await be_in(alone, speaker)
        await hear_of(alone, "alone", await say(speaker, "alone"))
        await alone.leave()
        said = [await say(speaker, "alone") for _ in range(MAX_LENGTH + 1)]
        for ts in said[1:]:
            assert "rpc" in (await short.recall(speaker, "alone", ts) or {})
        await say(speaker, "alone")
        alone.come_back()
        await be_in(alone)
        nursery.cancel_scope.cancel()
    assert returns(alone) == {False}


@pytest.mark.parametrize("harm", ["trimmed", "lost"])
async def test_what_is_gone_before_the_relay_is_back_is_told(harm: str, short: Stage) -> None:
    """Its members are told to come again, and then that nothing is certain."""
    group = f"behind-{harm}"
    async with company(short, group) as guests:
        await hear(guests[0], 2)
        stopped = short.daemons[0].process
        stopped.send_signal(signal.SIGSTOP)
        try:
            short.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await guests[1].publish(group)
            if harm == "lost":
                short.ask("DEL", f"gml:{group}")
            else:
                for _ in range(MAX_LENGTH):
                    await guests[1].publish(group)
        finally:
            stopped.send_signal(signal.SIGCONT)
    assert returns(guests[0], guests[2]) == {False}


async def test_one_nonce_is_one_message(stage: Stage) -> None:
    """Sent again over broken connections and both daemons, whatever was answered: one ts."""
    async with company(stage, "nonce", user="ann") as guests:
        told: dict[str, set[int]] = {f"nonce {number}": set() for number in range(30)}

        async def repeat(guest: Guest, rng: random.Random) -> None:
            for nonce, answers in told.items():
                for _ in range(3):
                    answer = await guest.call("send", channel="nonce", data=nonce, nonce=nonce)
                    if answer is not None and "rpc" in answer:
                        answers.add(answer["rpc"]["data"]["ts"])
                    await trio.sleep(rng.uniform(0, 0.03))

        async def cut() -> None:
            for number in range(12):
                await guests[number % 4].leave()
                guests[number % 4].come_back()
                await trio.sleep(0.1)
                if number == 6:
                    await stage.kill_redis(0.1)

        async with trio.open_nursery() as nursery:
            for number, guest in enumerate(guests):
                nursery.start_soon(repeat, guest, random.Random(number))
            nursery.start_soon(cut)
    ledger = judge(stage, guests)
    assert sum(len(answers) for answers in told.values()) >= len(told) / 2
    for nonce, answers in told.items():
        assert len(answers) <= 1, f"{nonce} got {answers}"
        assert ledger.count("nonce", nonce) == 1


async def test_what_redis_did_not_take_in_time_is_refused_and_not_stored(stage: Stage) -> None:
    """The error is temporary, and comes before the client gives up.

    Sooner where it was not known any more whether the guest may speak.
    """
    async with company(stage, "late") as guests:
        await hear(guests[0], 5)
        pid = stage.redis.process.pid
        waited: list[float] = []

        async def say_too_late(guest: Guest) -> None:
            """What a guest was saying at the kill may be stored: this is certain not to be."""
            began = trio.current_time()
            answer = await guest.publish("late")
            waited.append(trio.current_time() - began)
            assert answer is not None
            assert answer["error"]["code"] == 100

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.kill_redis, AWAY_SECONDS)
            await trio.sleep(0.3)
            for guest in guests:
                nursery.start_soon(say_too_late, guest)
        assert stage.redis.process.pid != pid
        await hear(guests[0], 5)
    assert len(waited) == len(guests)
    assert 0.8 * POLICY_SECONDS < min(waited) <= max(waited) < AWAY_SECONDS
    assert returns(*guests) <= {True}


Harm = Callable[[Stage, list[Guest], random.Random], Awaitable[None]]
GROUPS = ("random", "random-2")


async def _cut(_stage: Stage, guests: list[Guest], rng: random.Random) -> None:
    some = rng.sample(guests, rng.randint(1, len(guests)))
    for guest in some:
        await guest.leave()
    await trio.sleep(rng.choice((0, 0.05, 0.5)))
    for guest in some:
        guest.come_back()


async def _kill_daemon(stage: Stage, _guests: list[Guest], rng: random.Random) -> None:
    await stage.kill_daemon(rng.randrange(2))


async def _kill_redis(stage: Stage, _guests: list[Guest], rng: random.Random) -> None:
    await stage.kill_redis(rng.choice((0, 0.3, 1)))


async def _flush(stage: Stage, _guests: list[Guest], _rng: random.Random) -> None:
    stage.ask("FLUSHALL")


async def _purge(stage: Stage, _guests: list[Guest], rng: random.Random) -> None:
    await stage.purge(rng.choice(GROUPS), rng.randrange(2))


async def _evict(stage: Stage, _guests: list[Guest], rng: random.Random) -> None:
    stage.ask("DEL", f"gml:{rng.choice(GROUPS)}")


async def _break_relay(stage: Stage, _guests: list[Guest], _rng: random.Random) -> None:
    stage.ask("CLIENT", "KILL", "TYPE", "pubsub")


async def _recall(stage: Stage, guests: list[Guest], rng: random.Random) -> None:
    """Some of the last own messages of somebody, and often from behind the relay's back."""
    guest, group = rng.choice(guests), rng.choice(GROUPS)
    heard = guest.places[group].now.heard if guest.places[group].stretches else {}
    own = [ts for ts, text in heard.items() if text.startswith(f"{guest.name} ")][-10:]
    is_broken = rng.random() < 0.5
    for ts in rng.sample(own, min(len(own), rng.randint(1, 4))):
        if is_broken:
            await _break_relay(stage, guests, rng)
        await stage.recall(guest, group, ts)


HARMS: dict[Harm, int] = {
    _cut: 8,
    _recall: 8,
    _break_relay: 3,
    _purge: 2,
    _evict: 1,
    _flush: 1,
    _kill_daemon: 1,
    _kill_redis: 1,
}
"""How often each is done, by and by."""


async def _do_harm(stage: Stage, guests: list[Guest], rng: random.Random, done: list[str]) -> None:
    with trio.move_on_after(SECONDS):
        while True:
            harm = rng.choices(list(HARMS), list(HARMS.values()))[0]
            with trio.CancelScope(shield=True):
                done.append(harm.__name__.strip("_"))
                await harm(stage, guests, rng)
            await trio.sleep(rng.choice((0, 0.05, 0.3)))


@pytest.mark.timeout(SECONDS + 120)
async def test_recovered_never_lies_whatever_is_done_at_random(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All harms, and short lists."""
    done: list[str] = []
    with Stage(tmp_path, server, group_message__max_length=str(MAX_LENGTH)) as stage:
        try:
            async with company(stage, GROUPS[0], 6) as guests:
                await _do_harm(stage, guests, random.Random(SEED), done)
        except BaseException as exc:
            exc.add_note(f"seed {SEED}: {' '.join(done)}")
            raise
        finally:
            with capsys.disabled():
                print(f"\nresume: seed {SEED}: {' '.join(done)}")
    assert done
    assert any(place.returns for guest in guests for place in guest.places.values())
