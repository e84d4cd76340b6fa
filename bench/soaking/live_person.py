"""A member of several groups on the live wire, who comes back to where it was.

It publishes, and is told whether the message is stored; or it calls ``send`` with a nonce, again
and again until it is told so, over as many connections as that takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from fastimd.bench.dialect import Position

from .counts import Stretch
from .people import AT_ONCE, Person, now_ms
from .wires import JSON, Encoding, Publication, Push, Reply, Subscribed

SEND_SHARE = 0.4
"""How much of what it says has a nonce."""
ANSWER_SECONDS = 12.0
"""After that no answer is awaited: the reply of Redis was lost."""
NONCE_SECONDS = 280.0
"""How long a nonce is good for, and a little less."""
RETRY_SECONDS = 0.2
TEMPORARY, DENIED = 100, 103
RESUBSCRIBE = 2500
"""The first code with which a subscription ends so that clients subscribe again."""


@dataclass(eq=False)
class Saying:
    """A message that is to be stored.

    ``asked`` is when it was last sent; ``began`` when first.
    """

    group: str
    message: int
    text: str
    has_nonce: bool
    began: float
    asked: float = 0.0


@dataclass(eq=False)
class _Seat:
    """A group as this client knows it."""

    position: Position = field(default_factory=Position)
    stretch: Stretch | None = None
    is_in: bool = False


class LivePerson(Person):
    """A client of the live wire."""

    def __init__(
        self, number: int, groups: Sequence[str], *rest: Any, encoding: Encoding = JSON
    ) -> None:
        super().__init__(number, groups, *rest)
        self.opcode = encoding.opcode
        self._encoding = encoding
        self._seats = {group: _Seat() for group in groups}
        self._ids = itertools.count(1)
        self._asked: dict[int, Saying | str] = {}  # a saying, or the group that it enters
        self._again: list[Saying] = []

    @property
    def target(self) -> str:
        return self._encoding.path

    @property
    def is_in(self) -> bool:
        return all(seat.is_in for seat in self._seats.values())

    @property
    def is_waiting(self) -> bool:
        return bool(self._again or self._sayings())

    def stretch(self, group: str) -> Stretch | None:
        seat = self._seats[group]
        return seat.stretch if seat.is_in else None

    async def _begin(self) -> None:
        number = next(self._ids)
        self._asked[number] = ""
        await self._send(self._encoding.connect(number, self.name))

    async def _take(self, payload: bytes) -> None:
        for reply in self._encoding.replies(payload):
            if reply.push is not None:
                await self._take_push(reply.push)
            elif reply.id:
                await self._take_answer(reply)
            else:
                await self._send(self._encoding.pong)

    async def _take_push(self, push: Push) -> None:
        if push.pub is not None:
            self._hear_publication(push.channel, push.pub)
        elif push.unsubscribe is not None:
            self._seats[push.channel].is_in = False
            if push.unsubscribe.code < RESUBSCRIBE:
                self._books.surprises[f"unsubscribed {push.unsubscribe.code}"] += 1
            self._books.closes[f"unsubscribed {push.unsubscribe.code}"] += 1
            await self._enter(push.channel)

    def _hear_publication(self, group: str, publication: Publication) -> None:
        seat = self._seats[group]
        assert seat.stretch is not None
        self._books.hear(seat.stretch, publication.offset, publication.data)
        seat.position = Position(seat.position.epoch, publication.offset)

    async def _take_answer(self, reply: Reply) -> None:
        about = self._asked.pop(reply.id, None)
        if isinstance(about, Saying):
            self._take_fate(about, reply)
        elif about and reply.subscribe is not None:
            self._take_seat(about, reply.subscribe)
        elif about == "" and reply.error is None:
            for group in self.groups:
                await self._enter(group)
        elif reply.error is not None and about is not None:
            if not reply.error.temporary:
                self._books.surprises[f"subscribe {reply.error.code} {reply.error.message}"] += 1
            await trio.sleep(RETRY_SECONDS)
            await (self._enter(about) if about else self._begin())

    async def _enter(self, group: str) -> None:
        number = next(self._ids)
        self._asked[number] = group
        await self._send(self._encoding.subscribe(number, group, self._seats[group].position))

    def _take_seat(self, group: str, found: Subscribed) -> None:
        seat = self._seats[group]
        if seat.position.epoch:
            self._books.returns["recovered" if found.recovered else "not recovered"] += 1
        if not found.recovered or seat.stretch is None:
            seat.stretch = Stretch(self.name, found.offset)
            self._books.stretches[group].append(seat.stretch)
        seat.position = Position(found.epoch, found.offset)
        seat.is_in = True
        for publication in found.publications:
            self._hear_publication(group, publication)

    def _take_fate(self, saying: Saying, reply: Reply) -> None:
        spoken = self._books.spoken[saying.group]
        error = reply.error
        if error is None:
            spoken.acknowledged[saying.message] = now_ms()
        elif saying.has_nonce and (error.temporary or error.code == DENIED):
            self._again.append(saying)
        else:
            spoken.refused.append(saying.message)
            if error.code not in (TEMPORARY, DENIED):
                self._books.surprises[f"publish {error.code} {error.message}"] += 1

    async def _say(self, *, is_silent: bool) -> None:
        self._give_up()
        if self._again:
            await self._ask(self._again.pop(0))
        elif not is_silent and len(self._sayings()) < AT_ONCE:
            group = self._random.choice(self.groups)
            has_nonce = self._random.random() < SEND_SHARE
            message, text = self._next_message()
            await self._ask(Saying(group, message, text, has_nonce, trio.current_time()))

    async def _ask(self, saying: Saying) -> None:
        if not self._seats[saying.group].is_in:
            if saying.has_nonce:
                self._again.append(saying)
            return
        number = next(self._ids)
        self._asked[number] = saying
        saying.asked = trio.current_time()
        publish = (number, saying.group, saying.text)
        if saying.has_nonce:
            nonce = str(saying.message)
            await self._send(self._encoding.send(*publish, nonce))
        else:
            await self._send(self._encoding.publish(*publish))

    def _give_up(self) -> None:
        """Await no more what has not been answered for long."""
        late = trio.current_time() - ANSWER_SECONDS
        for number, saying in self._sayings().items():
            if saying.asked < late:
                del self._asked[number]
                self._leave_open(saying)
        for saying in self._again[:]:
            if saying.began < trio.current_time() - NONCE_SECONDS:
                self._again.remove(saying)
                self._books.spoken[saying.group].unknown.append(saying.message)

    def _leave_open(self, saying: Saying) -> None:
        if saying.has_nonce:
            self._again.append(saying)
        else:
            self._books.spoken[saying.group].unknown.append(saying.message)

    def _sayings(self) -> dict[int, Saying]:
        return {
            number: saying for number, saying in self._asked.items() if isinstance(saying, Saying)
        }

    def settle(self) -> None:
        """All is over: of what is not answered now nothing is known."""
        for saying in (*self._sayings().values(), *self._again):
            self._books.spoken[saying.group].unknown.append(saying.message)

    def _forget(self) -> None:
        for seat in self._seats.values():
            seat.is_in = False
        for saying in self._sayings().values():
            self._leave_open(saying)
        self._asked.clear()
