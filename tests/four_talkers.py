"""Four who talk on two daemons, two on each wire, while something is done to their Redis.

What must hold is what a client can see: no daemon ends and no socket is closed; what Redis has in
the end was heard by everybody, once and in order; what it has not was heard by all or by nobody,
and once; nothing that was refused is there; and ``recovered`` is no lie. How long nothing could be
said is measured, and told with what was lost.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Protocol, cast

import trio
from conftest import Daemon, run_daemon
from faults import Message, Talk, check_once, check_order, list_messages
from redis import Redis
from resuming import Guest, Stage, be_in, until

GROUP = "four"
SECONDS = 30.0
"""How long anything may take; a fail-over takes a tenth of it."""
PAUSE_SECONDS = 0.02
LATEST = 500
"""How many of the latest messages are looked at for one that has just been said."""


class Servers(Protocol):
    """A Redis of several servers."""

    url: str

    def client_of(self, group: str) -> Redis:
        """A client of the server that has a group."""


@dataclass
class House:
    """Two daemons on a Redis of several servers, and four who talk.

    ``away`` is a live client that is somewhere else meanwhile.
    """

    redis: Servers
    daemons: list[Daemon]
    talk: Talk
    live: list[Guest]
    away: Guest
    report: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)

    def texts(self) -> dict[str, list[Message]]:
        """What each of the four has heard since all of them were there."""
        began = max(guest.places[GROUP].now.since for guest in self.live)
        heard = {
            member.user: [message for message in member.heard if message.ts > began]
            for member in self.talk.members
        }
        for guest in self.live:
            stretch = guest.places[GROUP].now
            heard[guest.name] = [
                Message(ts, "", text) for ts, text in stretch.heard.items() if ts > began
            ]
        return heard

    def all_hear(self, texts: Iterable[str]) -> bool:
        """Whether all four have heard these texts, not long ago."""
        wanted = set(texts)
        return all(
            wanted <= {message.info for message in member.heard[-LATEST:]}
            for member in self.talk.members
        ) and all(
            wanted <= set(islice(reversed(guest.places[GROUP].now.heard.values()), LATEST))
            for guest in self.live
        )

    async def wait_further(self) -> float:
        """Wait until each of the four has heard something said from now on; returns the seconds."""
        began = time.monotonic()
        texts = {guest: guest.next_text() for guest in self.live}
        async with trio.open_nursery() as nursery:
            for guest, text in texts.items():
                nursery.start_soon(insist, guest, text)
            further = partial(self.talk.wait_further, began, seconds=SECONDS)
            nursery.start_soon(trio.to_thread.run_sync, further)
        await until(
            lambda: self.all_hear(texts.values()), lambda: f"{[*texts.values()]} are not heard"
        )
        return time.monotonic() - began


async def insist(guest: Guest, text: str) -> None:
    """Say a text until it is stored."""
    while "publish" not in (await guest.publish(GROUP, text) or {}):  # noqa: ASYNC110
        await trio.sleep(0.05)


@asynccontextmanager
async def house(folder: Path, redis: Servers) -> AsyncIterator[House]:
    """All that, talking; at the end what must hold is checked."""
    with ThreadPoolExecutor() as pool:
        daemons = list(pool.map(lambda _: run_daemon(folder, redis.url), range(2)))
    try:
        talk = Talk(daemons, each=1, group=GROUP, names="seed-")
        await trio.to_thread.run_sync(talk.__enter__)  # it is for plain threads
        try:
            async with _living(redis, daemons, talk) as rooms:
                yield rooms
        finally:
            await trio.to_thread.run_sync(talk.__exit__)
        check_ended(daemons)
    finally:
        for daemon in daemons:
            daemon.process.kill()
            daemon.process.wait()


@asynccontextmanager
async def _living(redis: Servers, daemons: list[Daemon], talk: Talk) -> AsyncIterator[House]:
    stage = cast(Stage, _Stage(daemons))
    live = [
        Guest("live-json", "json", stage, [GROUP], 0),
        Guest("live-protobuf", "protobuf", stage, [GROUP], 1),
    ]
    away = Guest("away", "json", stage, [GROUP], 1)
    rooms = House(redis, daemons, talk, live, away)
    async with trio.open_nursery() as nursery:
        for guest in (*live, away):
            nursery.start_soon(guest.run)
        await be_in(*live, away)
        async with trio.open_nursery() as talking:
            for guest in live:
                talking.start_soon(guest.talk, PAUSE_SECONDS)
            await rooms.wait_further()
            await away.leave()
            await trio.sleep(0.2)
            yield rooms
            talking.cancel_scope.cancel()
        await finish(rooms)
        nursery.cancel_scope.cancel()


@dataclass
class _Stage:
    """What a guest asks of a stage."""

    daemons: list[Daemon]


async def finish(rooms: House) -> None:
    """Let the last words be heard by all, also by who was away, and check everything."""
    await trio.to_thread.run_sync(rooms.talk.finish)
    rooms.away.come_back()
    await be_in(rooms.away)
    last = [f"the last word of {guest.name}" for guest in rooms.live]
    for guest, text in zip(rooms.live, last, strict=True):
        await insist(guest, text)
    await until(lambda: rooms.all_hear(last), lambda: "the last words are not heard")
    check_heard(rooms)
    await check_recovered(rooms)


def check_heard(rooms: House) -> None:
    """Everything that the four have heard, and what is stored."""
    began = max(guest.places[GROUP].now.since for guest in rooms.live)
    listed_messages = list_messages(rooms.redis.client_of(GROUP), GROUP)
    stored = [message for message in listed_messages if message.ts > began]
    listed = {message.info for message in stored}
    check_once([message.info for message in stored], "in the list")
    check_order(stored, "in the list")
    by_text: Counter[str] = Counter()
    twice = 0
    texts = rooms.texts()
    for name, heard in texts.items():
        check_order(heard, f"at {name}")
        times = Counter(message.info for message in heard)
        twice += sum(count - 1 for count in times.values())
        by_text.update(times.keys())
        missing = listed - times.keys()
        assert not missing, f"{name} did not hear {sorted(missing)}"
    rooms.lost = by_text.keys() - listed
    partly = sorted(text for text, count in by_text.items() if count < len(texts))
    moments = [message.ts for message in texts[rooms.talk.members[0].user]]
    silence = max(after - before for before, after in pairwise(moments)) / 1000
    rooms.report.append(f"nothing was heard for {silence:.2f} s")
    rooms.report.append(
        f"{len(stored)} stored, {len(rooms.lost)} heard and lost, {twice} heard twice"
    )
    assert not twice, rooms.report
    assert not partly, f"heard by some only: {partly}"
    rooms.talk.check_open()
    for member in rooms.talk.members:
        assert not member.unseen, f"{member.user} did not see {member.unseen}"
    for guest in rooms.live:
        assert len(guest.places[GROUP].stretches) == 1, f"{guest.name} was put out"
        assert not guest.unknown, f"{guest.name} got no answer: {guest.unknown}"
        acknowledged = {text for _, text in guest.stored}
        assert acknowledged <= by_text.keys(), "acknowledged, and heard by nobody"
        refused = {text for _, text in guest.refused} - acknowledged
        assert not refused & by_text.keys(), "refused, and heard"


async def check_recovered(rooms: House) -> None:
    """Who was away is told the truth: recovered is who has heard what the others have."""
    place = rooms.away.places[GROUP]
    heard_by_others = {
        (message.ts, message.info) for heard in rooms.texts().values() for message in heard
    }
    began = place.stretches[0].since
    for word in place.returns:
        heard = set(place.stretches[0].heard.items())
        missed = {each for each in heard_by_others if each[0] > began} - heard
        assert not word or not missed, f"told to have recovered without {sorted(missed)}"
    rooms.report.append(f"recovered {place.returns}")
    await rooms.away.leave()
    await insist(rooms.live[0], "while it was away again")
    rooms.away.come_back()
    await be_in(rooms.away)
    assert place.returns[-1] is True, "where no master has changed there is nothing to doubt"
    assert "while it was away again" in place.now.heard.values()


def check_ended(daemons: list[Daemon]) -> None:
    """No daemon had ended, and each ends as it should, without a crash in its log."""
    for daemon in daemons:
        assert daemon.process.poll() is None, daemon.log_path.read_text()[-4000:]
        assert daemon.stop() == 0
        assert not [line for line in daemon.lines if "exception" in line], daemon.log_path
