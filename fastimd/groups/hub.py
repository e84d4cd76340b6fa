"""Who is in which group here, and the fan-out to them.

Theory of operation: the relay hands messages in batches. The hub turns each into a frame once,
joins the frames of a group that came in one batch, and pushes the same bytes to every member.

An arriving member hears nothing until its greeting was read; frames that come meanwhile are kept
with their ``ts``. The greeting then says up to which ``ts`` the member knows everything. Until the
first frame newer than that goes by, or everything has that was published before the greeting was
read, it stands with the arrivals, and frames are chosen for it. So between the greeting and the
first live message nothing is missing and nothing comes twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import structlog
import trio

from ..base import codec
from ..base import log as logs
from ..base.errors import KeyUnusable, StoreUnavailable
from ..base.metrics import Metrics
from ..base.settings import Config
from ..websocket.outbox import Outbox
from .relay import OnLost, OnMessage, Relay, Subscription
from .store import Position, Store

MEMBERS_A_TURN = 256
"""Members served before other tasks get their turn; a group of no more is served in one turn."""
PIECE_BYTES = 65536
"""Frames of a batch are joined up to this length."""

log = structlog.get_logger("fastimd.hub")


class _Greeting(NamedTuple):
    """``frame`` is pushed first; ``foreign`` are the frames of the foreign messages in it."""

    frame: bytes
    position: Position
    foreign: frozenset[bytes]


class _Reading:
    """A greeting that is being read.

    ``result`` is it, or why there is none; None when its reader gave up.
    """

    __slots__ = ("ended", "result")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.result: _Greeting | StoreUnavailable | KeyUnusable | None = None


class _Arrival:
    """A member that was greeted, before it hears everything.

    ``known`` is the ``ts`` up to which it knows everything, ``foreign`` the frames of the foreign
    messages that it knows. It has got what came before the message with the number ``since``;
    whatever comes from ``settled`` on is new to it, when that is known. ``fence`` is the number of
    the fence after which it is.
    """

    __slots__ = ("fence", "foreign", "known", "settled", "since")

    def __init__(self, greeting: _Greeting, since: int, fence: int) -> None:
        self.known = greeting.position.ts
        self.foreign = greeting.foreign
        self.since = since
        self.settled: int | None = None
        self.fence = fence

    def lacks(self, ts: int, frame: bytes) -> bool:
        """A message is not in the greeting; a ``ts`` of 0 is a foreign one's."""
        return ts > self.known if ts else frame not in self.foreign

    def choose(self, batch: list[tuple[int, bytes]], first: int) -> tuple[list[bytes], bool]:
        """Which frames it lacks of a batch whose first message has the number ``first``.

        Returns:
            Them, and whether all that come later are new to it.
        """
        is_settled = self.settled is not None
        frames = []
        for number, (ts, frame) in enumerate(batch, first):
            if number < self.since:
                continue
            if self.lacks(ts, frame) or (self.settled is not None and number >= self.settled):
                frames.append(frame)
                is_settled = is_settled or ts > 0
        return frames, is_settled


class _Group:
    __slots__ = (
        "arrivals",
        "delivered",
        "fences",
        "is_fenced",
        "lose",
        "members",
        "name",
        "on_lost",
        "pending",
        "reading",
        "receive",
        "received",
        "recent",
        "subscription",
    )

    receive: OnMessage
    lose: OnLost
    subscription: Subscription

    def __init__(self, name: str) -> None:
        self.name = name
        # How many messages came so far, how many went to the members, and how many had when each
        # became one.
        self.received = 0
        self.delivered = 0
        self.members: dict[Outbox, int] = {}
        # How many fences were asked for, and whether one is on its way.
        self.fences = 0
        self.is_fenced = False
        # Nothing before an arrival's greeting is read.
        self.arrivals: dict[Outbox, _Arrival | None] = {}
        # What is called when a member will hear nothing more.
        self.on_lost: dict[Outbox, Callable[[], None]] = {}
        self.recent: list[tuple[int, bytes]] = []
        self.pending: list[tuple[int, bytes]] = []
        self.reading: _Reading | None = None

    def admit(self, outbox: Outbox, opening: bytes, greeting: _Greeting) -> int:
        """Push a greeting and what came after it was read; returns how many bytes it was."""
        arrival = _Arrival(greeting, self.received, self.fences + 1)
        missed = [(ts, frame) for ts, frame in self.recent if arrival.lacks(ts, frame)]
        first = b"".join([opening, greeting.frame, *(frame for _, frame in missed)])
        outbox.push(first)
        outbox.messages += 1 + len(missed)
        self.arrivals[outbox] = arrival
        self._forget_recent()
        return len(first)

    def settle(self) -> bool:
        """The last fence has passed: what comes from now on is new to who was there before it.

        Returns:
            Whether somebody has come since and waits for the next one.
        """
        later = False
        for outbox, arrival in list(self.arrivals.items()):
            if arrival is None or arrival.settled is not None:
                continue
            if arrival.fence > self.fences:
                later = True
            elif self.pending:
                arrival.settled = self.received
            else:
                self._promote(outbox)
        return later

    def leave(self, outbox: Outbox) -> None:
        if outbox in self.members:
            outbox.messages += self.delivered - self.members.pop(outbox)
        self.arrivals.pop(outbox, None)
        self.on_lost.pop(outbox, None)
        self._forget_recent()

    def serve_arrivals(self, batch: list[tuple[int, bytes]], piece_bytes: int) -> tuple[int, int]:
        """Give the batch's newer frames to the arrivals; who knows enough is a member from now on.

        Returns:
            How many frames were given, and how many bytes.
        """
        given = size = 0
        first = self._number_of(batch)
        for outbox, arrival in list(self.arrivals.items()):
            if arrival is None:
                continue
            frames, is_settled = arrival.choose(batch, first)
            if frames:
                for piece in _pieces(frames, piece_bytes):
                    outbox.push(piece)
                    size += len(piece)
                outbox.messages += len(frames)
                given += len(frames)
            if is_settled:
                self._promote(outbox)
        return given, size

    def count_hearers(self, batch: list[tuple[int, bytes]]) -> list[int]:
        """How many each message of a batch goes to, before it does."""
        first = self._number_of(batch)
        heard = [len(self.members)] * len(batch)
        for arrival in self.arrivals.values():
            if arrival is not None:
                frames = arrival.choose(batch, first)[0]
                for index, (_, frame) in enumerate(batch):
                    heard[index] += frame in frames
        return heard

    def _number_of(self, batch: list[tuple[int, bytes]]) -> int:
        """The number of the first message of a batch that is served now."""
        return self.received - len(self.pending) - len(batch)

    def _promote(self, outbox: Outbox) -> None:
        del self.arrivals[outbox]
        self.members[outbox] = self.delivered

    def _forget_recent(self) -> None:
        if self.recent and None not in self.arrivals.values():
            self.recent.clear()


class Hub:
    """The groups with members on this daemon.

    Args:
        config: ``socket.outbox_bytes``, what may wait for a member; no longer piece is pushed than
            this, but for a single frame.
    """

    def __init__(self, relay: Relay, store: Store, metrics: Metrics, config: Config) -> None:
        self._config = config
        self._relay = relay
        self._store = store
        self._metrics = metrics
        self._groups: dict[str, _Group] = {}
        self._to_flush: list[_Group] = []
        self._flushing = trio.Lock()
        self._served = 0  # since other tasks had their turn

    @property
    def groups(self) -> int:
        """How many groups have members here."""
        return len(self._groups)

    @asynccontextmanager
    async def member(
        self,
        name: str,
        outbox: Outbox,
        on_lost: Callable[[], None],
        before: Callable[[], bytes] = lambda: b"",
    ) -> AsyncIterator[None]:
        """Greet a socket, and let it hear the group until the block ends.

        Args:
            on_lost: called when the socket will hear nothing more, as Redis refuses what concerns
                the group.
            before: returns what is to be sent together with the greeting, before it.

        Raises:
            StoreUnavailable: the group's messages cannot be read now.
            KeyUnusable: Redis refuses what concerns the group.
        """
        group = self._groups.get(name) or self._open(name)
        group.arrivals[outbox] = None
        group.on_lost[outbox] = on_lost
        try:
            await self._relay.wait_heard(group.subscription)
            greeting = await self._greeting(group)
            group.subscription.begin_at(greeting.position)
            self._metrics.bytes_sent += group.admit(outbox, before(), greeting)
            self._put_up_fence(group)
            yield
        finally:
            self._leave(group, outbox)

    async def flush(self) -> None:
        """Push what has come since the last flush to the members."""
        if self._flushing.locked():  # a gap's repair and the relay's reader both flush
            await self._flushing.acquire()
        else:
            self._flushing.acquire_nowait()
        try:
            # What was taken must reach everybody, though the connection it came over may break.
            with trio.CancelScope(shield=True):
                groups, self._to_flush = self._to_flush, []
                for group in groups:
                    in_one_turn = min(len(group.members), MEMBERS_A_TURN)
                    if self._served + in_one_turn > MEMBERS_A_TURN:
                        await self._yield_turn()
                    await self._flush_group(group)
        finally:
            self._flushing.release()

    async def _greeting(self, group: _Group) -> _Greeting:
        """A greeting; who comes while one is read shares it.

        What was said since that was read has come, or will, by the relay, and is kept for them.
        """
        while (reading := group.reading) is not None:
            await reading.ended.wait()
            if isinstance(reading.result, Exception):
                raise reading.result
            if reading.result is not None:
                return reading.result
        group.reading = reading = _Reading()
        try:
            payload, position, foreign = await self._store.greeting(group.name)
            if foreign:
                foreign = frozenset(map(codec.text_frame, foreign))
            reading.result = greeting = _Greeting(codec.text_frame(payload), position, foreign)
            return greeting
        except (StoreUnavailable, KeyUnusable) as exc:
            reading.result = exc
            raise
        finally:
            group.reading = None
            reading.ended.set()

    def _open(self, name: str) -> _Group:
        group = self._groups[name] = _Group(name)
        group.receive = partial(self._receive, group)
        group.lose = partial(self._lose, group)
        group.subscription = self._relay.listen(name, group.receive, group.lose)
        return group

    def _put_up_fence(self, group: _Group) -> None:
        """Have the arrivals of now settled when all that was published before has gone by."""
        if not group.is_fenced:
            group.is_fenced = True
            group.fences += 1
            self._relay.when_passed(group.subscription, partial(self._settle, group))

    def _settle(self, group: _Group) -> None:
        group.is_fenced = False
        if group.settle():
            self._put_up_fence(group)

    def _lose(self, group: _Group) -> None:
        """The group will hear nothing more: who comes from now on begins anew."""
        if self._groups.get(group.name) is group:
            del self._groups[group.name]
        for on_lost in list(group.on_lost.values()):
            on_lost()

    def _leave(self, group: _Group, outbox: Outbox) -> None:
        group.leave(outbox)
        if not group.members and not group.arrivals:
            self._relay.unlisten(group.subscription, group.receive)
            del group.receive, group.lose  # they lead back to the group: no garbage is left
            if self._groups.get(group.name) is group:
                del self._groups[group.name]

    def _receive(self, group: _Group, ts: int, message: bytes) -> None:
        frame = codec.text_frame(message)
        if not group.pending:
            self._to_flush.append(group)
        group.received += 1
        group.pending.append((ts, frame))
        if None in group.arrivals.values():
            group.recent.append((ts, frame))

    async def _flush_group(self, group: _Group) -> None:
        batch, group.pending = group.pending, []
        piece_bytes = min(self._config.socket.outbox_bytes, PIECE_BYTES)
        members = tuple(group.members)
        hearers = group.count_hearers(batch) if logs.is_debug else []
        group.delivered += len(batch)
        deliveries = size = 0
        if group.arrivals:
            deliveries, size = group.serve_arrivals(batch, piece_bytes)
        pieces = _pieces([frame for _, frame in batch], piece_bytes)
        for outbox in members:
            if self._served == MEMBERS_A_TURN:
                await self._yield_turn()
            self._served += 1
            for piece in pieces:
                outbox.push(piece)
        deliveries += len(members) * len(batch)
        self._metrics.deliveries += deliveries
        self._metrics.bytes_sent += size + len(members) * sum(map(len, pieces))
        if deliveries:
            oldest = batch[0][0]
            if oldest:  # else it is foreign
                self._metrics.delivery_seconds.observe(self._store.age(oldest), deliveries)
        for (ts, _), count in zip(batch, hearers, strict=False):
            log.debug("message.delivered", group=group.name, message_ts=ts, members=count)

    async def _yield_turn(self) -> None:
        self._served = 0
        await trio.lowlevel.checkpoint()


def _pieces(frames: list[bytes], most: int) -> list[bytes]:
    """Frames joined, and parted again where they become longer than ``most`` bytes."""
    joined = b"".join(frames)
    if len(joined) <= most:
        return [joined]
    pieces: list[list[bytes]] = []
    room = 0
    for frame in frames:
        if len(frame) > room:
            pieces.append([])
            room = most
        pieces[-1].append(frame)
        room -= len(frame)
    return [b"".join(piece) for piece in pieces]
