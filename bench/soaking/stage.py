"""A soak's servers and people together, and what is done to all but Redis."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

import trio

from fastimd.bench.dialect import PONG, TEXT, client_frame

from .books import Books
from .daemons import Daemon
from .harm import Harm
from .live_person import LivePerson
from .people import BROKEN, Person, SeedPerson, opening
from .redises import Form
from .wires import JSON, PROTOBUF

DAEMONS = 2
MEMBERS_A_GROUP = 5
LIVE_GROUPS = 2
"""How many groups a client of the live wire is in."""
SPARED = 1
"""The daemon of which only the second worker is ended, so that the rest grows old."""
CROWD = 60
SLOW_BYTES = 32_768
SLOW_SECONDS = 60.0
SLOW_MESSAGES = 400
SLOW_PAUSE_SECONDS = 0.01


class Stage:
    """All of it, as long as the ``with`` block.

    Args:
        members: places of people in groups; half of them are taken on each wire.
        messages: how many are said a second, in all.
    """

    def __init__(self, folder: Path, form: Form, seed: str, members: int, messages: float) -> None:
        self.form = form
        self.books = Books()
        self.slow: Counter[str] = Counter()
        self.daemons = [Daemon(folder, number, form) for number in range(DAEMONS)]
        self.groups = [f"group-{number}" for number in range(max(1, members // MEMBERS_A_GROUP))]
        self.people = self._invite(seed, members, members / messages)
        self._crowds = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            for daemon in self.daemons:
                self._stack.enter_context(daemon)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def places(self) -> list[tuple[str, int]]:
        """Where the daemons are."""
        return [("127.0.0.1", daemon.port) for daemon in self.daemons]

    def processes(self) -> dict[str, int]:
        """All processes, by what they are."""
        found = self.form.processes()
        for daemon in self.daemons:
            found |= daemon.processes()
        return found

    @property
    def harms(self) -> list[Harm]:
        """What can be done to daemons and clients."""
        return [
            Harm("worker killed", "workers", partial(self._end_worker, signal.SIGKILL)),
            Harm("worker asked to stop", "workers", partial(self._end_worker, signal.SIGTERM)),
            Harm("parent killed", "workers", self._kill_parent),
            Harm("daemon drained", "workers", self._drain),
            Harm("reloaded", "reload", self._reload),
            Harm("clients cut off", "cut", self._cut_off),
            Harm("a crowd comes and goes", "crowd", self._crowd),
            Harm("a client does not read", "slow", self._be_slow),
        ]

    def _invite(self, seed: str, members: int, pause: float) -> list[Person]:
        """Half of the places to the wire of Fast-IM, a quarter to each encoding of the other."""
        groups = self.groups
        rest = (self.places, self.books, seed, pause)
        people: list[Person] = [
            SeedPerson(number, [groups[number % len(groups)]], *rest)
            for number in range(members // 2)
        ]
        for each in range((members - len(people)) // LIVE_GROUPS):
            number = len(people)
            at = each * LIVE_GROUPS
            mine = list(dict.fromkeys(groups[(at + n) % len(groups)] for n in range(LIVE_GROUPS)))
            encoding = (JSON, PROTOBUF)[each % 2]
            pause_of_two = (*rest[:3], pause / len(mine))
            people.append(LivePerson(number, mine, *pause_of_two, encoding=encoding))
        return people

    # Daemons

    async def _end_worker(self, number: signal.Signals, rng: random.Random) -> None:
        daemon = rng.choice(self.daemons)
        worker = daemon.workers if daemon.number == SPARED else rng.randint(1, daemon.workers)
        await daemon.end_worker(worker, number)

    async def _kill_parent(self, rng: random.Random) -> None:
        await self._mortal(rng).kill_parent()

    async def _drain(self, rng: random.Random) -> None:
        await self._mortal(rng).drain()

    async def _reload(self, rng: random.Random) -> None:
        rng.choice(self.daemons).send_signal(signal.SIGHUP)

    def _mortal(self, rng: random.Random) -> Daemon:
        return rng.choice([daemon for daemon in self.daemons if daemon.number != SPARED])

    # Clients

    async def _cut_off(self, rng: random.Random) -> None:
        gone = rng.sample(self.people, max(1, len(self.people) // rng.choice((3, 10, 50))))
        for person in gone:
            await person.cut_off()
        for person in gone:
            await trio.sleep(rng.choice((0.0, 0.0, 0.2)))
            person.come_back()

    async def _crowd(self, rng: random.Random) -> None:
        """Many connect at once; some say nothing, some just come in, and all go at once."""
        self._crowds += 1
        async with trio.open_nursery() as nursery:
            for number in range(CROWD):
                user = f"crowd-{self._crowds}-{number}"
                seconds = rng.choice((0.0, 0.1, 1.0))
                group = rng.choice(self.groups) if rng.random() < 0.7 else ""
                place = rng.choice(self.places)
                nursery.start_soon(_pass_by, place, group, user, seconds)

    async def _be_slow(self, rng: random.Random) -> None:
        """Say much, and read nothing of it until one is cut off."""
        self._crowds += 1
        group = f"slow-{self._crowds}"
        is_cut_off = await _say_and_read_nothing(rng.choice(self.places), group)
        self.slow["cut off" if is_cut_off else "not cut off"] += 1
        await trio.to_thread.run_sync(self.form.forget, group)


async def _pass_by(place: tuple[str, int], group: str, user: str, seconds: float) -> None:
    with contextlib.suppress(*BROKEN):
        async with await trio.open_tcp_stream(*place) as stream:
            if group:
                await stream.send_all(opening(f"/group/chat/{group}/{user}/soak"))
            await trio.sleep(seconds)


async def _say_and_read_nothing(place: tuple[str, int], group: str) -> bool:
    """Whether the daemon has ended the connection in time."""
    with trio.move_on_after(SLOW_SECONDS):
        try:
            async with await trio.open_tcp_stream(*place) as stream:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await stream.send_all(opening(f"/group/chat/{group}/{group}/soak"))
                frame = client_frame(TEXT, b"x" * SLOW_BYTES)
                for _ in range(SLOW_MESSAGES):
                    await stream.send_all(frame)
                    await trio.sleep(SLOW_PAUSE_SECONDS)
                while True:  # a connection that was ended says so to one who writes
                    await trio.sleep(SLOW_PAUSE_SECONDS * 50)
                    await stream.send_all(client_frame(PONG, b""))
        except BROKEN:
            return True
    return False
