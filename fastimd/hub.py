"""Who is in which group here, and the fan-out to them.

Theory of operation: the relay hands messages in batches. The hub turns each into a frame once,
joins the frames of a group that came in one batch, and pushes the same bytes to every member.

An arriving member hears nothing until its greeting was read; frames that come meanwhile are kept
with their ``ts``. The greeting then says up to which ``ts`` the member knows everything, and until
the first frame newer than that goes by, it stands with the arrivals and frames are chosen for it.
So between the greeting and the first live message nothing is missing and nothing comes twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import structlog
import trio

from . import codec
from . import log as logs
from .config import Config
from .errors import StoreUnavailable
from .metrics import Metrics
from .outbox import Outbox
from .relay import OnMessage, Relay, Subscription
from .store import Store

MEMBERS_A_TURN = 256
"""Members served before other tasks get their turn; a group of no more is served in one turn."""
PIECE_BYTES = 65536
"""Frames of a batch are joined up to this length."""

log = structlog.get_logger("fastimd.hub")


class _Reading:
    """A greeting that is being read.

    ``result`` is its frame and ``last_ts``, or why there is none; None when its reader gave up.
    """

    __slots__ = ("ended", "result")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.result: tuple[bytes, int] | str | None = None


class _Group:
    __slots__ = (
        "arrivals",
        "delivered",
        "members",
        "name",
        "pending",
        "reading",
        "receive",
        "recent",
        "subscription",
    )

    receive: OnMessage
    subscription: Subscription

    def __init__(self, name: str) -> None:
        self.name = name
        # How many messages went to the members so far, and how many had when each became one.
        self.delivered = 0
        self.members: dict[Outbox, int] = {}
        # Where each arrival's greeting ended, None before it is read.
        self.arrivals: dict[Outbox, int | None] = {}
        self.recent: list[tuple[int, bytes]] = []
        self.pending: list[tuple[int, bytes]] = []
        self.reading: _Reading | None = None

    def admit(self, outbox: Outbox, greeting: bytes, last_ts: int) -> int:
        """Push a greeting and what came after it was read; returns how many bytes it was."""
        missed = [(ts, frame) for ts, frame in self.recent if ts > last_ts]
        first = greeting + b"".join([frame for _, frame in missed])
        outbox.push(first)
        outbox.messages += 1 + len(missed)
        if missed:
            last_ts = missed[-1][0]
        self.arrivals[outbox] = last_ts
        self._forget_recent()
        return len(first)

    def leave(self, outbox: Outbox) -> None:
        if outbox in self.members:
            outbox.messages += self.delivered - self.members.pop(outbox)
        self.arrivals.pop(outbox, None)
        self._forget_recent()

    def serve_arrivals(self, batch: list[tuple[int, bytes]], piece_bytes: int) -> tuple[int, int]:
        """Give the batch's newer frames to the arrivals; who got one is a member from now on.

        Returns:
            How many frames were given, and how many bytes.
        """
        given = size = 0
        for outbox, known in list(self.arrivals.items()):
            if known is None:
                continue
            frames = [frame for ts, frame in batch if ts > known]
            if frames:
                for piece in _pieces(frames, piece_bytes):
                    outbox.push(piece)
                    size += len(piece)
                outbox.messages += len(frames)
                given += len(frames)
                del self.arrivals[outbox]
                self.members[outbox] = self.delivered
        return given, size

    def count_hearers(self, ts: int) -> int:
        """How many a message at ``ts`` goes to, before it does."""
        known = self.arrivals.values()
        return len(self.members) + sum(each is not None and each < ts for each in known)

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
        self, name: str, outbox: Outbox, before: Callable[[], bytes] = lambda: b""
    ) -> AsyncIterator[None]:
        """Greet a socket, and let it hear the group until the block ends.

        Args:
            before: returns what is to be sent together with the greeting, before it.

        Raises:
            StoreUnavailable: the group's messages cannot be read now.
        """
        group = self._groups.get(name) or self._open(name)
        group.arrivals[outbox] = None
        try:
            await self._relay.wait_heard(group.subscription)
            frame, last_ts = await self._greeting(group)
            group.subscription.begin_at(last_ts)
            self._metrics.bytes_sent += group.admit(outbox, before() + frame, last_ts)
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

    async def _greeting(self, group: _Group) -> tuple[bytes, int]:
        """The frame of a greeting and its ``last_ts``; who comes while one is read shares it.

        What was said since that was read has come, or will, by the relay, and is kept for them.
        """
        while (reading := group.reading) is not None:
            await reading.ended.wait()
            if isinstance(reading.result, str):
                raise StoreUnavailable(reading.result)
            if reading.result is not None:
                return reading.result
        group.reading = reading = _Reading()
        try:
            payload, last_ts = await self._store.greeting(group.name)
            reading.result = codec.text_frame(payload), last_ts
            return reading.result
        except StoreUnavailable as exc:
            reading.result = str(exc)
            raise
        finally:
            group.reading = None
            reading.ended.set()

    def _open(self, name: str) -> _Group:
        group = self._groups[name] = _Group(name)
        group.receive = partial(self._receive, group)
        group.subscription = self._relay.listen(name, group.receive)
        return group

    def _leave(self, group: _Group, outbox: Outbox) -> None:
        group.leave(outbox)
        if not group.members and not group.arrivals:
            self._relay.unlisten(group.subscription, group.receive)
            del group.receive  # it leads back to the group: no garbage for the collector
            del self._groups[group.name]

    def _receive(self, group: _Group, ts: int, message: bytes) -> None:
        frame = codec.text_frame(message)
        if not group.pending:
            self._to_flush.append(group)
        group.pending.append((ts, frame))
        if None in group.arrivals.values():
            group.recent.append((ts, frame))

    async def _flush_group(self, group: _Group) -> None:
        batch, group.pending = group.pending, []
        piece_bytes = min(self._config.socket.outbox_bytes, PIECE_BYTES)
        members = tuple(group.members)
        hearers = [(ts, group.count_hearers(ts)) for ts, _ in batch] if logs.is_debug else []
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
            self._metrics.delivery_seconds.observe(self._store.age(batch[0][0]), deliveries)
        for ts, count in hearers:
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
