"""Members on two daemons talk while a seeded schedule harms Redis, and what each must have heard.

A schedule has two groups of its own, whose members talk all the while, and some *segments*. In a
segment harms come one upon the other, some of them at once. Then a *calm*: nobody says more, and
everybody who is connected must hear the last word of everybody. So what was said in a segment was
stored and delivered in it, or never will be, and it can be judged by what was done in it:

* A message whose sender has heard it was heard by all who were connected, unless its list was lost
  in the segment while a daemon did not hear Redis: then it may be in no place to be read again.
* A sender who is still connected has heard all it said, with the same exception.
* ``ts`` increases at each connection, unless the list was lost while a daemon was deaf, or twice
  within a moment: what it had not heard it cannot know.
* Nothing is heard twice, unless the marks of what was applied were lost while an answer was: then
  nobody can know whether a message is stored.
* Who came in the segment, and no list was lost in it, hears on from its greeting as others do.
* A socket that was greeted is closed only with 1013, and only when its list was no list, or with
  the first exception.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import trio
from conftest import Daemon, redis_servers, run_daemon
from faults import CRASHES, Member, Message, MortalRedis, Proxy, WallClock
from redis import exceptions

FOREIGN = "foreign"
"""The user of what no member has said."""
EACH = 3
"""How many members a group has on each daemon, at most."""
CALM_SECONDS = 20.0
"""How long it may take until all have heard the last words."""
NEAR_MS = 61_000
CLOCK_SECONDS = 8
LOOK_BACK = 0.1
"""Seconds in which what has come to a daemon is read by it, also while its connection breaks."""
AT_ONCE = 0.5
"""Of what is said between two losses so soon after each other a daemon may know nothing, when it
sends what comes after the second: it is on its way to it, and that may have been held back."""
GAPS = (0.0, 0.0, 0.0, 0.002, 0.01, 0.05, 0.2)
"""Seconds between two harms."""


class Broken(AssertionError):
    """A promise was broken."""


# Members


class Ear(Member):
    """One connection of a member."""

    def __init__(self, daemon: Daemon, user: str, group: Group) -> None:
        super().__init__(daemon, user, group.name)
        self.is_of = group
        self.greeted_at = math.inf
        self.segment = group.segment
        self.closed_in: Segment | None = None
        self.segments: list[Segment] = []
        self.judged = 0
        self._number = itertools.count()

    @property
    def is_open(self) -> bool:
        """Greeted, and not closed."""
        return self.greeting is not None and self.closed is None

    async def listen_on(self) -> None:
        """Hear everything until either side closes."""
        try:
            await self._connect(_Greeted(self))
        except trio.ClosedResourceError:
            pass  # dropped
        except (OSError, AssertionError):
            pass  # the daemon may have crashed: the schedule looks
        except (ValueError, KeyError) as exc:
            raise Broken(f"a frame that is none of the protocol's, at {self.user}: {exc}") from exc
        if self.closed is None and not self._leaving:
            self._end(1006, "no connection")

    async def talk_on(self) -> None:
        """Talk as long as the socket is open and everybody may."""
        while self.closed is None:
            await self.is_of.may_talk.wait()
            if len(self.unseen) >= 6:
                await trio.sleep(0.005)
                continue
            if self.is_open and self.is_of.may_talk.is_set():
                await self.say_next(f"{id(self):x} {next(self._number)}")
            await trio.sleep(random.uniform(0.002, 0.02))

    async def drop(self) -> None:
        """End the connection without a word."""
        self._leaving = True
        self.closed = (0, "left")
        await trio.aclose_forcefully(self._stream)

    async def say_next(self, text: str) -> None:
        """Say something that nobody has said before."""
        whole = f"{self.user} says {text}"
        self.is_of.segment.said[whole] = self
        with contextlib.suppress(OSError):
            await self.say(whole)

    def _hear(self, message: Message) -> None:
        self.segments.append(self.is_of.segment)
        super()._hear(message)

    def _end(self, code: int, reason: str) -> None:
        if self.closed is None:  # what follows a close frame says less
            super()._end(code, reason)
            self.closed_in = self.is_of.segment


class _Greeted(trio.TaskStatus[None]):
    """Notes when a connection was greeted."""

    def __init__(self, ear: Ear) -> None:
        self._ear = ear

    def started(self, value: None = None) -> None:
        self._ear.greeted_at = time.monotonic()


class Speaker:
    """A member who connects again whenever its socket was closed."""

    def __init__(self, daemon: Daemon, user: str, group: Group) -> None:
        self._daemon = daemon
        self._user = user
        self._group = group
        self.ears: list[Ear] = []

    @property
    def ear(self) -> Ear:
        return self.ears[-1]

    async def live(self) -> None:
        """Talk and hear, until cancelled."""
        while True:
            self.ears.append(Ear(self._daemon, self._user, self._group))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.ear.talk_on)
                await self.ear.listen_on()
                nursery.cancel_scope.cancel()
            await trio.sleep(random.uniform(0.02, 0.1))


@dataclass(eq=False)
class Segment:
    """What was said in a group, and what was done meanwhile.

    ``lost_at`` and ``deaf_at`` are when the list was lost last, and when a daemon was deaf last.
    ``may_disorder`` says that the list was lost while a daemon could not know its newest ``ts``,
    ``was_rough`` that something broke which who comes may notice.
    """

    begun: float = field(default_factory=time.monotonic)
    said: dict[str, Ear] = field(default_factory=dict)
    lost_at: float = -math.inf
    was_no_list: bool = False
    deaf_at: float = -math.inf
    may_disorder: bool = False
    lost_answers: bool = False
    lost_marks: bool = False
    was_rough: bool = False

    def note_lost(self) -> None:
        """The list is lost now."""
        before, self.lost_at = self.lost_at, time.monotonic()
        self.may_disorder |= self.deaf_at > -math.inf or self.lost_at - before < AT_ONCE

    def note_deaf(self) -> None:
        """A daemon does not hear Redis, or hears it late."""
        self.deaf_at = time.monotonic()
        self.may_disorder |= self.deaf_at - self.lost_at < LOOK_BACK

    @property
    def may_miss(self) -> bool:
        """A message may have been lost before a daemon could hear it."""
        return self.lost_at > -math.inf and self.deaf_at > -math.inf

    @property
    def may_double(self) -> bool:
        """A message may have been stored twice."""
        return self.lost_answers and self.lost_marks


class Group:
    """A group of a schedule: its members, and what they must have heard."""

    def __init__(self, name: str, daemons: Sequence[Daemon], each: int) -> None:
        self.name = name
        self.segments = [Segment()]
        self.may_talk = trio.Event()
        self.speakers = [
            Speaker(daemon, f"{name}-{number}-{place}", self)
            for number in range(each)
            for place, daemon in enumerate(daemons)
        ]

    @property
    def key(self) -> str:
        return f"gml:{self.name}"

    @property
    def segment(self) -> Segment:
        return self.segments[-1]

    def let_talk(self) -> None:
        """Let everybody talk, in a new segment."""
        self.segments.append(Segment())
        self.may_talk.set()

    async def calm_down(self) -> None:
        """Let nobody begin a text; wait until all have heard the last words of all."""
        self.may_talk = trio.Event()
        words = itertools.count()
        with trio.move_on_after(CALM_SECONDS):
            while True:
                ears = [speaker.ears[-1] for speaker in self.speakers if speaker.ears]
                if len(ears) == len(self.speakers) and all(ear.is_open for ear in ears):
                    word = f"the last word, {len(self.segments)}-{next(words)}"
                    for ear in ears:
                        await ear.say_next(word)
                    texts = {f"{ear.user} says {word}" for ear in ears}
                    while all(ear.is_open for ear in ears):
                        if all(texts <= {each.info for each in ear.heard[-200:]} for ear in ears):
                            return
                        await trio.sleep(0.003)
                await trio.sleep(0.01)
        raise Broken("not all hear the last words:\n" + "\n".join(self._states()))

    def judge(self) -> int:
        """Judge the segment after which it is calm; returns how many deliveries were judged."""
        segment = self.segment
        deliveries = 0
        echoed = {text: ear for text, ear in segment.said.items() if text not in ear.unseen}
        for ear in (ear for speaker in self.speakers for ear in speaker.ears):
            deliveries += self._judge_heard(ear, segment)
            if ear.closed_in is segment:
                self._judge_close(ear, segment)
            # Who came after a disorder may be taken to know what it does not.
            knows_less = segment.may_disorder and ear.greeted_at > segment.begun
            if ear.is_open and not segment.may_miss and not knows_less:
                self._judge_missing(ear, echoed)
            if ear.is_open and ear.greeted_at > segment.begun and segment.lost_at == -math.inf:
                self._judge_arrival(ear, segment)
            ear.unseen.clear()
        return deliveries

    def _judge_heard(self, ear: Ear, segment: Segment) -> int:
        start, ear.judged = ear.judged, len(ear.heard)
        texts = Counter(each.info for each in ear.heard if each.user != FOREIGN)
        if not segment.may_double:
            twice = [text for text, count in texts.items() if count > 1 and text in segment.said]
            self._demand(not twice, ear, "heard twice", twice)
        greeted = [each for each in ear.greeting or () if each.user != FOREIGN]
        last = greeted[-1:] + [each for each in ear.heard[:start] if each.user != FOREIGN]
        latest = (time.time() + CLOCK_SECONDS) * 1000 + NEAR_MS
        for message in ear.heard[start:]:
            if message.user == FOREIGN:
                continue
            self._demand(type(message.ts) is int, ear, "its ts is no integer", message)
            self._demand(message.ts < latest, ear, "its ts is far ahead of the clock", message)
            if last and not segment.may_disorder:
                pair = (last[-1], message)
                self._demand(last[-1].ts < message.ts, ear, "ts does not increase", pair)
            last.append(message)
        return len(ear.heard) - start

    def _judge_close(self, ear: Ear, segment: Segment) -> None:
        assert ear.closed is not None
        self._demand(ear.closed[0] == 1013, ear, "closed", ear.closed)
        if ear.greeting is not None:
            reason = segment.was_no_list or segment.may_miss
        else:
            reason = segment.was_no_list or segment.was_rough or segment.deaf_at > -math.inf
        self._demand(reason, ear, "closed without a reason", ear.closed)

    def _judge_missing(self, ear: Ear, echoed: dict[str, Ear]) -> None:
        unseen = [text for text in ear.unseen if text in ear.is_of.segment.said]
        self._demand(not unseen, ear, "said, and neither heard nor told", unseen)
        heard = {each.info for each in ear.heard}
        missing = [
            text
            for text, sender in echoed.items()
            if sender.said[text] > ear.greeted_at and text not in heard
        ]
        self._demand(not missing, ear, "not heard, though its sender has", missing)

    def _judge_arrival(self, ear: Ear, segment: Segment) -> None:
        """Who came hears on from its greeting as another does who was there before."""
        others = [
            other
            for other in (speaker.ears[-1] for speaker in self.speakers)
            if other.is_open and other.greeted_at <= segment.begun
        ]
        known = [each.info for each in ear.greeting or () if each.user != FOREIGN]
        if not others or not known:
            return
        heard = [each.info for each in others[0].heard if each.user != FOREIGN]
        if known[-1] in heard:
            expected = heard[heard.index(known[-1]) + 1 :]
            found = [each.info for each in ear.heard if each.user != FOREIGN]
            missing = [text for text in expected if text not in found]
            self._demand(found == expected, ear, "not heard after the greeting", missing)

    def _demand(self, holds: object, ear: Ear, what: str, details: object) -> None:
        if not holds:
            shown = str(details[:5] if isinstance(details, list) else details)
            raise Broken(f"{what}, at {ear.user}: {shown}")

    def _states(self) -> Iterator[str]:
        for speaker in self.speakers:
            ear = speaker.ear
            yield (
                f"{ear.user}: greeted {ear.greeting is not None}, heard {len(ear.heard)}, said"
                f" {len(ear.said)}, unseen {len(ear.unseen)}, closed {ear.closed},"
                f" connections {len(speaker.ears)}"
            )


# The world


class World:
    """A Redis under a clock of its own, and two daemons, each behind a proxy."""

    def __init__(self, folder: Path) -> None:
        self._stack = contextlib.ExitStack()
        self.clock = WallClock(folder / "clock")
        self.redis = MortalRedis(redis_servers()[0], folder / "redis", self.clock.environment)
        self._stack.callback(self.redis.close)
        self.proxies = [Proxy(self.redis.port) for _ in range(2)]
        for proxy in self.proxies:
            self._stack.callback(proxy.close)
        self.daemons: list[Daemon] = []
        for proxy in self.proxies:
            self.daemons.append(run_daemon(folder, proxy.url))
        self._read_to = [0 for _ in self.daemons]
        self.restarting = trio.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self.daemons:
            daemon.process.kill()
            daemon.process.wait()
        self._stack.close()

    def attempt(self, *command: str | int | bytes) -> Any:
        """The reply to a command, or the exception with which it failed.

        The connection may have been killed since the last one: then once again.
        """
        for is_last in (False, True):
            try:
                return self.redis.client.execute_command(*command)  # type: ignore[no-untyped-call]
            except (exceptions.RedisError, OSError) as exc:
                if is_last or isinstance(exc, exceptions.ResponseError):
                    return exc
        raise AssertionError

    def tell(self) -> str:
        """Where the daemons' logs are, and the last warnings in them."""
        lines = []
        for daemon in self.daemons:
            loud = [line for line in daemon.lines if line["level"] not in ("debug", "info")]
            lines.append(f"  {daemon.log_path}")
            lines += [f"    {json.dumps(line)[:300]}" for line in loud[-5:]]
        return "\n".join(lines)

    def check_daemons(self) -> None:
        """The daemons run, and their logs have no crash."""
        for number, daemon in enumerate(self.daemons):
            with daemon.log_path.open() as log:
                log.seek(self._read_to[number])
                new = log.read()
                self._read_to[number] = log.tell()
            marks = ('"exception"', "Traceback (most", *(f'"event":"{each}"' for each in CRASHES))
            ended = daemon.process.poll()
            if ended is not None or any(mark in new for mark in marks):
                raise Broken(f"a daemon crashed (status {ended}):\n{new[-6000:]}")


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    while True:
        if condition():
            return
        await trio.sleep(0.01)


# Harms

Harm = Callable[["Schedule", random.Random], Awaitable[None]]
HARMS: dict[str, Harm] = {}
DEAFENING = ("kill listeners", "restart", "restart empty", "lag")
"""Harms by which a daemon does not hear Redis, or hears it late."""


def harm(name: str) -> Callable[[Harm], Harm]:
    def add(function: Harm) -> Harm:
        HARMS[name] = function
        return function

    return add


class Schedule:
    """Some segments of harms, while the members of two groups talk."""

    def __init__(self, world: World, seed: str, without: Sequence[str] = ()) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self._begun = time.monotonic()
        number = seed.partition("/")[2]
        each = self.rng.randint(2, EACH)
        self.group = Group(f"main-{number}", world.daemons, each)
        self.other = Group(f"side-{number}", world.daemons, 1)
        self.groups = (self.group, self.other)
        self.harms = 0
        self.deliveries = 0
        self._without = without
        self._events: list[tuple[float, str]] = []

    def tell(self) -> str:
        """What was done, and when."""
        return "\n".join(f"  {moment:7.3f} s  {event}" for moment, event in self._events)

    async def run(self) -> None:
        """Run it.

        Raises:
            Broken: a promise was broken.
        """
        async with trio.open_nursery() as nursery:
            for speaker in itertools.chain(*(group.speakers for group in self.groups)):
                nursery.start_soon(speaker.live)
            await self._calm()
            for _ in range(self.rng.randint(1, 3)):
                for group in self.groups:
                    group.let_talk()
                await trio.sleep(self.rng.uniform(0, 0.1))
                await self._run_segment()
                await self._calm()
            nursery.cancel_scope.cancel()
        for group in self.groups:
            self.world.attempt("DEL", group.key, f"moved-{group.key}")

    def note(self, event: str) -> None:
        self._events.append((time.monotonic() - self._begun, event))

    async def _calm(self) -> None:
        async with trio.open_nursery() as watching:
            watching.start_soon(self._watch)
            async with trio.open_nursery() as nursery:
                for group in self.groups:
                    nursery.start_soon(group.calm_down)
            watching.cancel_scope.cancel()
        self.note("calm")
        self.world.check_daemons()
        for group in self.groups:
            self.deliveries += group.judge()

    async def _watch(self) -> None:
        """A crash ends the schedule at once."""
        while True:
            await trio.sleep(0.1)
            self.world.check_daemons()

    async def _run_segment(self) -> None:
        names = [name for name in HARMS if name not in self._without]
        if self.rng.random() < 0.5:  # what is never excused needs its turn
            names = [name for name in names if name not in DEAFENING]
        async with trio.open_nursery() as nursery:
            for _ in range(self.rng.randint(1, 5)):
                name = self.rng.choice(names)
                self.note(name)
                self.harms += 1
                # One of its own: when others draw depends on what they meet.
                nursery.start_soon(HARMS[name], self, random.Random(self.rng.random()))
                await trio.sleep(self.rng.choice(GAPS))

    def lost(self, *groups: Group) -> None:
        for group in groups:
            group.segment.note_lost()

    def all_segments(self) -> Iterator[Segment]:
        for group in self.groups:
            yield group.segment

    def foreign(self, ts: object) -> str:
        """A message that no member has said."""
        fields = {"groupId": self.group.name, "userId": FOREIGN, "info": "from elsewhere"}
        return json.dumps(fields, separators=(",", ":"))[:-1] + f',"ts":{ts}}}'

    def far(self, rng: random.Random) -> int:
        """A ts with which no clock agrees."""
        years = int(time.time() * 1000) + 10 * 365 * 24 * 3_600_000
        return rng.choice((years, 2**53 - 1, int(time.time() * 1000) + 600_000))

    def near(self) -> int | None:
        """A ts that a long burst would reach; None when Redis does not say its time."""
        reply = self.world.attempt("TIME")
        if isinstance(reply, Exception):
            return None
        return int(reply[0]) * 1000 + 20_000

    def garbage(self, rng: random.Random) -> bytes:
        """What is no message."""
        return rng.choice(
            (
                b"",
                b"garbage \xff",
                b"[" * 3000,
                b'{"ts":1e400}',
                *(
                    self.foreign(ts).encode()
                    for ts in (2**53, 2**63, "9" * 400, '{"a":1}', "1.5", '"1"', "null")
                ),
            )
        )


@harm("flush all")
async def flush_all(schedule: Schedule, rng: random.Random) -> None:
    """Everything is lost."""
    schedule.lost(*schedule.groups)
    for segment in schedule.all_segments():
        segment.lost_marks = True
    schedule.world.attempt("FLUSHALL")


@harm("delete")
async def delete(schedule: Schedule, rng: random.Random) -> None:
    schedule.lost(schedule.group)
    schedule.world.attempt("DEL", schedule.group.key)


@harm("delete with floor")
async def delete_with_floor(schedule: Schedule, rng: random.Random) -> None:
    schedule.lost(schedule.group)
    floor = f"fastimd:floor:{schedule.group.name}"
    schedule.world.attempt("UNLINK", schedule.group.key, floor)


@harm("rename")
async def rename(schedule: Schedule, rng: random.Random) -> None:
    schedule.lost(schedule.group)
    schedule.world.attempt("RENAME", schedule.group.key, f"moved-{schedule.group.key}")


@harm("expire")
async def expire(schedule: Schedule, rng: random.Random) -> None:
    """Unless our next message comes first."""
    schedule.lost(schedule.group)
    schedule.world.attempt("PEXPIRE", schedule.group.key, 1)


@harm("string")
async def string(schedule: Schedule, rng: random.Random) -> None:
    """The list becomes a string for a while."""
    key = schedule.group.key
    schedule.lost(schedule.group)
    schedule.group.segment.was_no_list = True
    schedule.world.attempt("SET", key, "x")
    await trio.sleep(rng.uniform(0, 0.15))
    await until(lambda: not isinstance(schedule.world.attempt("DEL", key), Exception))
    schedule.note("string deleted")
    schedule.lost(schedule.group)


@harm("kill listeners")
async def kill_listeners(schedule: Schedule, rng: random.Random) -> None:
    for segment in schedule.all_segments():
        segment.note_deaf()
    schedule.world.attempt("CLIENT", "KILL", "TYPE", "pubsub")


@harm("kill commands")
async def kill_commands(schedule: Schedule, rng: random.Random) -> None:
    for segment in schedule.all_segments():
        segment.lost_answers = segment.was_rough = True
    schedule.world.attempt("CLIENT", "KILL", "TYPE", "normal")


@harm("restart")
async def restart(schedule: Schedule, rng: random.Random) -> None:
    """Redis is killed, and comes back with another clock."""
    await _restart(schedule, rng, is_empty=False)


@harm("restart empty")
async def restart_empty(schedule: Schedule, rng: random.Random) -> None:
    """The same, and everything is lost."""
    await _restart(schedule, rng, is_empty=True)


async def _restart(schedule: Schedule, rng: random.Random, *, is_empty: bool) -> None:
    world = schedule.world
    async with world.restarting:
        if is_empty:
            schedule.lost(*schedule.groups)
        for segment in schedule.all_segments():
            # What was said before the end has come to each daemon before it notices the end.
            segment.deaf_at = time.monotonic()
            segment.lost_answers = segment.was_rough = True
            segment.lost_marks |= is_empty
        world.redis.kill()
        if is_empty:
            world.redis.wipe()
        ahead = rng.uniform(-CLOCK_SECONDS, CLOCK_SECONDS)
        world.clock.move(ahead)
        await trio.sleep(rng.choice((0, 0, 0.1, 0.3)))
        world.redis.start(wait=False)
        await until(lambda: world.redis.refusal() is None)
        schedule.note(f"started, clock {ahead:+.3f} s")


@harm("clock")
async def move_clock(schedule: Schedule, rng: random.Random) -> None:
    ahead = rng.uniform(-CLOCK_SECONDS, CLOCK_SECONDS)
    schedule.note(f"clock {ahead:+.3f} s")
    schedule.world.clock.move(ahead)


@harm("lag")
async def lag(schedule: Schedule, rng: random.Random) -> None:
    """One daemon hears everything late."""
    proxy = rng.choice(schedule.world.proxies)
    for segment in schedule.all_segments():
        segment.note_deaf()
    proxy.hold(answers_of_listeners=True)
    await trio.sleep(rng.uniform(0, 0.2))
    for segment in schedule.all_segments():
        segment.note_deaf()
    proxy.resume()


@harm("slow")
async def slow(schedule: Schedule, rng: random.Random) -> None:
    """What one daemon sends comes late."""
    proxy = rng.choice(schedule.world.proxies)
    for segment in schedule.all_segments():
        segment.was_rough = True
    proxy.hold(questions=True)
    await trio.sleep(rng.uniform(0, 0.2))
    proxy.resume()


@harm("come and go")
async def come_and_go(schedule: Schedule, rng: random.Random) -> None:
    """One member after another drops its connection, and comes again."""
    for _ in range(rng.randint(1, 5)):
        speaker = rng.choice(schedule.group.speakers)
        ear = speaker.ears[-1]
        if ear.is_open:
            await ear.drop()
        await trio.sleep(rng.uniform(0, 0.05))


@harm("publish far")
async def publish_far(schedule: Schedule, rng: random.Random) -> None:
    text = schedule.foreign(schedule.far(rng))
    schedule.world.attempt("PUBLISH", f"mq:{schedule.group.name}", text)


@harm("publish garbage")
async def publish_garbage(schedule: Schedule, rng: random.Random) -> None:
    schedule.world.attempt("PUBLISH", f"mq:{schedule.group.name}", schedule.garbage(rng))


@harm("push far")
async def push_far(schedule: Schedule, rng: random.Random) -> None:
    end = rng.choice(("RPUSH", "LPUSH"))
    schedule.world.attempt(end, schedule.group.key, schedule.foreign(schedule.far(rng)))


@harm("push near")
async def push_near(schedule: Schedule, rng: random.Random) -> None:
    """``ts`` goes ahead of the clock, as in a burst."""
    ts = schedule.near()
    if ts is not None:
        schedule.world.attempt("RPUSH", schedule.group.key, schedule.foreign(ts))


@harm("push garbage")
async def push_garbage(schedule: Schedule, rng: random.Random) -> None:
    schedule.world.attempt("RPUSH", schedule.group.key, schedule.garbage(rng))


@harm("insert far")
async def insert_far(schedule: Schedule, rng: random.Random) -> None:
    """A foreign entry amid the list."""
    key = schedule.group.key
    length = schedule.world.attempt("LLEN", key)
    if isinstance(length, int) and length:
        pivot = schedule.world.attempt("LINDEX", key, length // 2)
        if isinstance(pivot, bytes):
            entry = schedule.foreign(schedule.far(rng))
            schedule.world.attempt("LINSERT", key, "BEFORE", pivot, entry)


# Many schedules


@dataclass
class Tally:
    """What was tried, and what broke: each schedule that did, with its story."""

    schedules: int = 0
    harms: int = 0
    deliveries: int = 0
    broken: list[str] = field(default_factory=list)


async def run_schedules(
    folder: Path,
    *,
    seed: int,
    first: int,
    seconds: float,
    most_broken: int = 1,
    without: Sequence[str] = (),
) -> Tally:
    """Run schedules on one world until the time is over, or so many of them broke something."""
    tally = Tally()
    until = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        world: World | None = None
        for number in itertools.count(first):
            if time.monotonic() > until or len(tally.broken) >= most_broken:
                return tally
            if world is None:
                home = folder / f"world-{number}"
                home.mkdir()
                world = stack.enter_context(World(home))
            schedule = Schedule(world, f"{seed}/{number}", without)
            try:
                await schedule.run()
            except* Broken as broken:
                reason = _first(broken)
                story = f"{schedule.tell()}\n{world.tell()}"
                tally.broken.append(f"{seed}/{number}: {reason}\n{story}")
                stack.close()
                world = None
            except* Exception as failure:
                failure.add_note(f"in the schedule {seed}/{number}\n{schedule.tell()}")
                raise
            tally.schedules += 1
            tally.harms += schedule.harms
            tally.deliveries += schedule.deliveries
            if world is not None:
                for proxy in world.proxies:
                    proxy.forget_ended()
    raise AssertionError


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The first exception of a group of groups."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
