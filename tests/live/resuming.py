"""Clients that come back to where they were, as an SDK does, on daemons that may be killed.

A ``Guest`` keeps the epoch and the offset of each group, and goes from one daemon to the other
whenever its connection ends. What it has heard it keeps in *stretches*: one ends where a daemon
says ``recovered: false``. ``judge`` holds that against what Redis has really done.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import trio
from clients import BINARY, CLOSE, TEXT, client_frame, opening, take_frames
from conftest import Daemon, run_daemon
from faults import MortalRedis
from ledger import Ledger, Past
from raw import PATH, QUERIES, Message, Wire, decode, encode

WAIT_SECONDS = 30.0
"""How long anything may take that must happen: a loaded machine is slow."""
PAUSE_SECONDS = 0.04
"""Between two messages of one who talks."""
WORDS = 5
LEAP_MS = 1000
"""By how much the ts of a list that was lost goes on ahead: LEAP of clock.lua."""
LAST_WORD = "the last word"
BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


def now_ms() -> int:
    """The clock of this machine, which is that of its Redis, too."""
    return int(time.time() * 1000)


Answer = Callable[[Message | None], None]


@dataclass(eq=False)
class Stretch:
    """What a guest has heard of a group since nothing was certain: after ``since``, from ``began``.

    ``recalled`` and ``purged`` are what it was told to be gone.
    """

    since: int
    began: int
    heard: dict[int, str] = field(default_factory=dict)
    recalled: set[int] = field(default_factory=set)
    purged: int = 0

    def knows_gone(self, ts: int) -> bool:
        """It was told that a message is gone."""
        return ts in self.recalled or ts <= self.purged


class Place:
    """A group as a guest knows it. ``returns`` are the words ``recovered`` with which it came."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.epoch = ""
        self.offset = 0
        self.is_in = False
        self.returns: list[bool] = []
        self.stretches: list[Stretch] = []
        self.offsets: list[int] = []

    @property
    def now(self) -> Stretch:
        return self.stretches[-1]

    def request(self) -> Message:
        """How to come in, or back."""
        known = {"recover": True, "epoch": self.epoch, "offset": self.offset} if self.epoch else {}
        return {"subscribe": {"channel": self.group, **known}}

    def begin(self, result: Message) -> None:
        """Take the answer to that."""
        if self.epoch:
            assert result.get("was_recovering"), result
            self.returns.append(result.get("recovered", False))
        self.is_in = True
        if not result.get("recovered"):
            self.stretches.append(Stretch(result.get("offset", 0), now_ms()))
            assert not result.get("publications"), result
        self.epoch, self.offset = result["epoch"], result.get("offset", 0)
        for publication in result.get("publications", ()):
            self.hear(publication)

    def hear(self, publication: Message) -> None:
        """Take a message, or a word of what is gone."""
        data = publication["data"]
        event = publication.get("tags", {}).get("event")
        if event == "recall":
            self.now.recalled.add(data["ts"])
        elif event == "purge":
            self.now.purged = max(self.now.purged, data["ts"])
        else:
            self.offset = publication["offset"]
            self.offsets.append(self.offset)
            self.now.heard[self.offset] = data


class Guest:
    """A client that talks and comes back.

    Several may be of one ``user``. ``stored``, ``refused`` and ``unknown`` are the texts that it
    has published, by their fate: refused with the temporary error 100, or without an answer as the
    connection ended.
    """

    def __init__(
        self, name: str, wire: Wire, stage: Stage, groups: Sequence[str], at: int, user: str = ""
    ) -> None:
        self.name = name
        self.user = user or name
        self.wire: Wire = wire
        self.places = {group: Place(group) for group in groups}
        self.stored: list[tuple[str, str]] = []
        self.refused: list[tuple[str, str]] = []
        self.unknown: list[tuple[str, str]] = []
        self.at = at
        self._stage = stage
        self._may_connect = trio.Event()
        self._may_connect.set()
        self._stream: trio.SocketStream | None = None
        self._is_connected = False
        self._asked: dict[int, Answer] = {}
        self._numbers = count(1)
        self._texts = count(1)
        self._sending = trio.StrictFIFOLock()

    @property
    def is_in(self) -> bool:
        """It hears all its groups."""
        return all(place.is_in for place in self.places.values())

    async def run(self) -> None:
        """Be connected, to one daemon or the other, until cancelled."""
        while True:
            await self._may_connect.wait()
            host, port = self._stage.daemons[self.at].address.split(":")
            with contextlib.suppress(*BROKEN):
                self._stream = await trio.open_tcp_stream(host, int(port))
                async with self._stream, trio.open_nursery() as nursery:
                    with contextlib.suppress(*BROKEN):
                        await self._serve(self._stream, nursery)
                    self._forget()
                    nursery.cancel_scope.cancel()
            self.at = 1 - self.at
            await trio.sleep(0.02)

    async def leave(self) -> None:
        """Cut the connection, and stay away."""
        self._may_connect = trio.Event()
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)

    def come_back(self, at: int | None = None) -> None:
        """Connect again, to another daemon if none is named."""
        self.at = self.at if at is None else at
        self._may_connect.set()

    async def ask(self, command: Message) -> Message | None:
        """The answer to a command, or None as the connection has ended."""
        if not self._is_connected:
            await trio.lowlevel.checkpoint()
            return None
        answers: list[Message | None] = []
        answered = trio.Event()

        def take(answer: Message | None) -> None:
            answers.append(answer)
            answered.set()

        await self._send(command, take)
        await answered.wait()
        return answers[0]

    def next_text(self) -> str:
        """A text that nobody has said before."""
        return f"{self.name} {next(self._texts)}"

    async def publish(self, group: str, text: str = "") -> Message | None:
        """Say something, unique without a text; returns the answer."""
        text = text or self.next_text()
        answer = await self.ask({"publish": {"channel": group, "data": text}})
        if answer is None:
            self.unknown.append((group, text))
        elif "publish" in answer:
            self.stored.append((group, text))
        elif answer["error"]["code"] == 100:
            assert answer["error"]["temporary"], answer
            self.refused.append((group, text))
        else:  # it is on its way into the group again
            assert answer["error"]["code"] == 103, answer
        return answer

    async def call(self, method: str, **data: Any) -> Message | None:
        """Call a method of the daemon; returns the answer."""
        return await self.ask({"rpc": {"method": method, "data": data}})

    async def talk(self, pause: float) -> None:
        """Say something in each group in turn, until cancelled."""
        while True:
            for group, place in self.places.items():
                if place.is_in:
                    await self.publish(group)
                await trio.sleep(pause)

    async def _serve(self, stream: trio.SocketStream, nursery: trio.Nursery) -> None:
        await stream.send_all(opening(f"{PATH}{QUERIES.get(self.wire, '')}"))
        buffer = bytearray()
        while b"\r\n\r\n" not in buffer:
            await self._receive(stream, buffer)
        head, _, buffer = buffer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head

        def take_connected(answer: Message | None) -> None:
            if answer is not None:
                assert "connect" in answer, answer
                self._is_connected = True
                for place in self.places.values():
                    nursery.start_soon(self._enter, place)

        connect = {"connect": {"data": {"userId": self.user}}}
        nursery.start_soon(self._send, connect, take_connected)
        while True:
            for frame in take_frames(buffer):
                if frame.opcode == CLOSE:
                    assert frame.closing[0] < 3500, frame.closing
                    return
                payload = frame.payload.decode() if frame.opcode == TEXT else frame.payload
                for reply in decode(self.wire, payload):
                    self._take(reply, nursery)
            await self._receive(stream, buffer)

    async def _receive(self, stream: trio.SocketStream, buffer: bytearray) -> None:
        data = await stream.receive_some(65536)
        if not data:
            raise trio.BrokenResourceError("the connection has ended")
        buffer += data

    async def _enter(self, place: Place) -> None:
        is_answered = False
        while not is_answered:
            answered = trio.Event()

            def take(answer: Message | None, answered: trio.Event = answered) -> None:
                nonlocal is_answered
                answered.set()
                if answer is not None and "subscribe" in answer:
                    is_answered = True
                    place.begin(answer["subscribe"])
                elif answer is not None:
                    assert answer["error"].get("temporary"), answer

            await self._send(place.request(), take)
            await answered.wait()
            if not is_answered:
                await trio.sleep(0.05)

    def _take(self, reply: Message, nursery: trio.Nursery) -> None:
        if not reply:
            nursery.start_soon(self._send_frame, {})  # a ping
        elif "push" not in reply:
            self._asked.pop(reply["id"])(reply)
        elif "pub" in reply["push"]:
            self.places[reply["push"]["channel"]].hear(reply["push"]["pub"])
        else:
            assert reply["push"]["unsubscribe"]["code"] >= 2500, reply
            place = self.places[reply["push"]["channel"]]
            place.is_in = False
            nursery.start_soon(self._enter, place)

    async def _send(self, command: Message, take: Answer) -> None:
        number = next(self._numbers)
        self._asked[number] = take
        if not await self._send_frame({"id": number, **command}):
            unasked = self._asked.pop(number, None)
            if unasked is not None:
                unasked(None)

    async def _send_frame(self, command: Message) -> bool:
        stream = self._stream
        payload = encode(self.wire, [command])
        opcode, payload = (
            (TEXT, payload.encode()) if isinstance(payload, str) else (BINARY, payload)
        )
        async with self._sending:
            try:
                assert stream is not None
                await stream.send_all(client_frame(opcode, payload))
            except BROKEN:
                return False
        return True

    def _forget(self) -> None:
        """The connection has ended: nothing that was asked will be answered."""
        self._is_connected = False
        for place in self.places.values():
            place.is_in = False
        asked, self._asked = self._asked, {}
        for take in asked.values():
            take(None)


class Stage:
    """A Redis, two daemons on it, and what is done to them."""

    def __init__(self, folder: Path, server: str, **settings: Any) -> None:
        self._folder = folder
        self._settings = settings
        self.redis = MortalRedis(server, folder / "redis")
        try:
            with ThreadPoolExecutor() as pool:
                starting = [pool.submit(self._start) for _ in range(2)]
            self.daemons = [each.result() for each in starting]
        except BaseException:
            self.redis.close()
            raise
        self._all = list(self.daemons)
        # When each recall and purge was asked for, by group, with the ts, and 0 for a purge.
        self.asked: list[tuple[int, str, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self.daemons:
            daemon.process.kill()
            daemon.process.wait()
        self.redis.close()

    def _start(self) -> Daemon:
        return run_daemon(self._folder, self.redis.url, **self._settings)

    async def kill_daemon(self, number: int) -> None:
        """SIGKILL, and another one in its place."""
        self.daemons[number].process.kill()
        self.daemons[number].process.wait()
        self.daemons[number] = await trio.to_thread.run_sync(self._start)
        self._all.append(self.daemons[number])

    async def kill_worker(self, number: int, worker: int) -> None:
        """SIGKILL to one process of a daemon, which starts another in its place."""
        daemon = self.daemons[number]
        started = [line for line in daemon.events("worker.started") if line["worker"] == worker]
        os.kill(started[-1]["pid"], signal.SIGKILL)

        def is_back() -> bool:
            serving = daemon.events("daemon.serving")
            return len([each for each in serving if each.get("worker") == worker]) > len(started)

        await until(is_back, lambda: f"worker {worker} of daemon {number} is not back")

    async def kill_redis(self, away: float) -> None:
        """SIGKILL, and the same again after a while."""
        self.redis.kill()
        await trio.sleep(away)
        await trio.to_thread.run_sync(self.redis.start)

    def ask(self, *command: str | int) -> Any:
        """The reply to a command of Redis."""
        with self.redis.connect() as client:
            return client.execute_command(*command)

    async def purge(self, group: str, at: int = 0) -> None:
        """Ask a daemon to delete all messages of a group; it may be away."""
        asking = Request(
            f"{self.daemons[at].admin}/operate/purge",
            json.dumps({"group": group}).encode(),
            {"Fastimd-Command": "1", "Content-Type": "application/json"},
        )
        self.asked.append((now_ms(), group, 0))

        def send() -> None:
            with contextlib.suppress(HTTPError, OSError), urlopen(asking, timeout=10) as answer:
                answer.read()

        await trio.to_thread.run_sync(send)

    async def recall(self, guest: Guest, group: str, ts: int) -> Message | None:
        """Let a guest take back what it has said; what is gone already is not gone again."""
        asked = now_ms(), group, ts
        self.asked.append(asked)
        answer = await guest.call("recall", channel=group, ts=ts)
        if answer is not None and "error" in answer:
            self.asked.remove(asked)
        return answer

    def began(self, group: str, ts: int, *, is_purge: bool) -> int:
        """When a deletion was asked for, at the latest."""
        return max(
            moment
            for moment, of, recalled in self.asked
            if of == group and (moment <= ts if is_purge else recalled == ts)
        )

    def check_logs(self) -> None:
        """No daemon's log has a crash."""
        for daemon in self._all:
            assert not [line for line in daemon.lines if "exception" in line], daemon.log_path

    def ledger(self) -> Ledger:
        """What Redis has really done; its list must be what comes of that.

        Redis may write its file some seconds late, where the disk is slow.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            ledger = Ledger(self.redis.folder)
            wrong = [
                group
                for group, past in ledger.pasts.items()
                if [said.entry for said in past.listed] != self.ask("LRANGE", f"gml:{group}", 0, -1)
            ]
            if not wrong:
                return ledger
            assert time.monotonic() < deadline, wrong
            time.sleep(0.2)


async def seed_talk(stage: Stage, user: str, group: str, at: int) -> None:
    """A client of Fast-IM's wire: says something again and again, on a daemon that may die."""
    texts = count(1)

    async def hear(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        with contextlib.suppress(*BROKEN):
            while await stream.receive_some(65536):
                pass
        scope.cancel()

    while True:
        host, port = stage.daemons[at].address.split(":")
        with contextlib.suppress(*BROKEN):
            stream = await trio.open_tcp_stream(host, int(port))
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(hear, stream, nursery.cancel_scope)
                with contextlib.suppress(*BROKEN):
                    await stream.send_all(opening(f"/group/chat/{group}/{user}/t"))
                    while True:
                        text = f"{user} {next(texts)}"
                        await stream.send_all(client_frame(TEXT, text.encode()))
                        await trio.sleep(PAUSE_SECONDS)
        await trio.sleep(0.1)


async def until(condition: Callable[[], object], what: Callable[[], object]) -> None:
    """Wait until something holds; ``what`` tells how it is if it does not."""
    with trio.move_on_after(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - of what other processes do
            await trio.sleep(0.01)
        return
    raise AssertionError(f"not in time: {what()}")


async def be_in(*guests: Guest) -> None:
    """Wait until guests hear all their groups."""
    await until(
        lambda: all(guest.is_in for guest in guests),
        lambda: f"{[guest.name for guest in guests if not guest.is_in]} are not in",
    )


async def insist(guest: Guest, method: str, **data: Any) -> Any:
    """Call a method until it is done; returns its result."""
    while True:
        answer = await guest.call(method, **data)
        if answer is not None and "rpc" in answer:
            return answer["rpc"]["data"]
        if answer is not None:
            error = answer["error"]
            assert error.get("temporary") or error["code"] in (103, 404), error
            if error["code"] == 404:  # it was done, and the answer was lost
                return None
        await trio.sleep(0.1)


async def settle(guests: Sequence[Guest]) -> None:
    """Let all come back, and hear the last that is gone and the last that is said.

    In this order: in a gap what is gone is told first, and the messages before it may still come.
    """
    for guest in guests:
        guest.come_back()
    for group in {group for guest in guests for group in guest.places}:
        there = [guest for guest in guests if group in guest.places]
        for _ in range(WORDS):  # one who comes anew just then hears none of it
            await be_in(*there)
            ts = (await insist(there[0], "send", channel=group, data=LAST_WORD))["ts"]
            await insist(there[0], "recall", channel=group, ts=ts)
            said = (await insist(there[0], "send", channel=group, data=LAST_WORD))["ts"]
            with trio.move_on_after(WAIT_SECONDS / WORDS):
                while not all(  # noqa: ASYNC110
                    ts in guest.places[group].now.recalled and said in guest.places[group].now.heard
                    for guest in there
                ):
                    await trio.sleep(0.01)
                break
        else:
            raise AssertionError(f"the last word of {group} is not heard")


@asynccontextmanager
async def company(
    stage: Stage, group: str, number: int = 4, user: str = ""
) -> AsyncIterator[list[Guest]]:
    """Guests of two groups, and people of Fast-IM's wire, who talk until the end; then judge.

    The groups are ``group`` and ``group-2``. Guests 0 and 2 begin at daemon 0, 0 and 1 speak JSON.
    """
    groups = (group, f"{group}-2")
    wires: list[Wire] = ["json", "json", "protobuf", "protobuf"]
    guests = [
        Guest(f"{group}-guest-{each}", wires[each % 4], stage, groups, each % 2, user)
        for each in range(number)
    ]
    async with trio.open_nursery() as nursery:
        for guest in guests:
            nursery.start_soon(guest.run)
        await be_in(*guests)
        async with trio.open_nursery() as talking:
            for guest in guests:
                talking.start_soon(guest.talk, PAUSE_SECONDS)
            for at, name in enumerate(groups):
                user = f"{group}-seed-{at}"
                talking.start_soon(seed_talk, stage, user, name, at)
            yield guests
            talking.cancel_scope.cancel()
        await settle(guests)
        nursery.cancel_scope.cancel()
    judge(stage, guests)


def judge(stage: Stage, guests: Sequence[Guest]) -> Ledger:
    """Every promise, of what the guests have heard and said."""
    stage.check_logs()
    ledger = stage.ledger()
    for guest in guests:
        for group, place in guest.places.items():
            _judge_place(stage, ledger.of(group), guest.name, place)
        for group, text in guest.stored:
            assert ledger.count(group, text), f"{text} was acknowledged, and is not stored"
        for group, text in guest.refused:
            assert not ledger.count(group, text), f"{text} was refused, and is stored"
    for group in {group for guest in guests for group in guest.places}:
        past = ledger.of(group)
        # A flush takes what Redis remembers of a message whose answer was lost on its way.
        most = 1 + past.flushes
        texts = Counter(said.text for said in past.said if said.text != LAST_WORD)
        twice = [text for text, times in texts.items() if times > most]
        assert not twice, f"stored more than once in {group}: {twice}"
    return ledger


def _judge_place(stage: Stage, past: Past, name: str, place: Place) -> None:
    where = f"{name} in {place.group}"
    if not past.flushes:
        wrong = [pair for pair in pairwise(place.offsets) if pair[0] >= pair[1]]
        assert not wrong, f"{where} heard offsets out of order: {wrong[:5]}"
    by_ts = {said.ts: said for said in past.said}
    for stretch in place.stretches:
        is_last = stretch is place.now
        assert list(stretch.heard) == sorted(stretch.heard), f"{where} heard out of order"
        for ts, text in stretch.heard.items():
            assert by_ts[ts].text == text, f"{where} heard {text} at {ts}: {by_ts[ts]}"
        end = max(stretch.heard, default=stretch.since)
        for said in past.said:
            # What was gone before it came is none of its, nor, in an empty group, what had been
            # there; and after a lost list a ts is ahead of the clock.
            began = stretch.began + LEAP_MS if said.fate != "there" else stretch.since
            if said.ts <= max(stretch.since, began) or said.ts in stretch.heard:
                continue
            if said.ts > end:  # in the last stretch behind the last word, which all have heard
                known = True
            elif is_last:
                known = said.fate != "there" and stretch.knows_gone(said.ts)
            else:
                known = said.fate != "there"
            assert known, f"{where} did not hear {said}, and was not told: {_tell(place)}"
    _judge_deletions(stage, past, where, place)


def _judge_deletions(stage: Stage, past: Past, where: str, place: Place) -> None:
    """It heard of everything that was deleted since it last could be certain of nothing.

    A recall may have been asked for again later: once told is enough.
    """
    now, group = place.now, place.group
    for ts in past.recalled & {ts for _, name, ts in stage.asked if name == group}:
        is_later = stage.began(group, ts, is_purge=False) > now.began
        told = any(each.knows_gone(ts) for each in place.stretches) or not is_later
        assert told, f"{where} did not hear that {ts} was recalled: {_tell(place)}"
    for until_ts in past.purged:
        is_later = stage.began(group, until_ts, is_purge=True) > now.began
        told = now.purged >= until_ts or not is_later
        assert told, f"{where} did not hear of the purge until {until_ts}: {_tell(place)}"


def _tell(place: Place) -> str:
    stretches = [
        f"since {each.since} to {max(each.heard, default=0)}, recalled {sorted(each.recalled)[-9:]}"
        f", purged {each.purged}"
        for each in place.stretches
    ]
    return f"returns {place.returns[-20:]}, {'; '.join(stretches[-3:])}"
