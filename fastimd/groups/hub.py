"""Who is in which group here, and the fan-out to them.

Theory of operation: the relay hands messages in batches. The hub has each batch of a group encoded
once for each dialect that its members speak, joins the frames, and pushes the same bytes to every
member. How an arriving member comes to hear everything once is told in ``audience.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import structlog
import trio

from ..base import log as logs
from ..base.metrics import Metrics
from ..base.settings import Config
from ..websocket.outbox import Outbox
from .audience import Arrival, Audience, Batch, Dialect, Greeting, Since
from .pieces import PIECE_BYTES, messages_of, pieces_of
from .relays import GroupRelay
from .store.history import History
from .subscription import MISSED, NOTICE, OnLost, OnMessage, Subscription

MEMBERS_A_TURN = 256
"""Members served before other tasks get their turn; a group of no more is served in one turn."""

log = structlog.get_logger("fastimd.hub")


class _Group:
    __slots__ = (
        "audiences",
        "delivered",
        "fences",
        "is_fenced",
        "lose",
        "name",
        "on_lost",
        "pending",
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
        # How many messages came so far, and how many went to the members.
        self.received = 0
        self.delivered = 0
        self.audiences: list[Audience] = []
        # How many fences were asked for, and whether one is on its way.
        self.fences = 0
        self.is_fenced = False
        # What is called when a member will hear nothing more.
        self.on_lost: dict[Outbox, Callable[[str], object]] = {}
        self.recent: Batch = []
        self.pending: Batch = []

    @property
    def members(self) -> int:
        """How many there are, without the arrivals."""
        return sum(len(audience.members) for audience in self.audiences)

    def audience(self, dialect: Dialect) -> Audience:
        """Those who speak a dialect."""
        for audience in self.audiences:
            if audience.dialect is dialect:
                return audience
        self.audiences.append(Audience(dialect))
        return self.audiences[-1]

    def resuming(self) -> list[Outbox]:
        """Those who come again when they have missed something."""
        return [
            outbox
            for audience in self.audiences
            if audience.dialect.resumes
            for outbox in (*audience.members, *audience.arrivals)
        ]

    def receive_message(self, ts: int, message: bytes) -> None:
        """Keep a message for the next flush, and for those whose greeting is being read."""
        self.received += 1
        self.pending.append((ts, message))
        if self._is_greeting():
            self.recent.append((ts, message))

    def admit(self, audience: Audience, outbox: Outbox, opening: bytes, greeting: Greeting) -> int:
        """Push a greeting and what came after it was read; returns how many bytes it was."""
        arrival = Arrival(greeting, self.received, self.fences + 1)
        missed = [(ts, message) for ts, message in self.recent if arrival.lacks(ts, message)]
        frames = audience.dialect.encode(self.name, missed) if missed else []
        first = b"".join([opening, greeting.data, *frames])
        if first:
            outbox.push(first)
        outbox.messages += bool(greeting.data) + messages_of(missed)
        audience.arrivals[outbox] = arrival
        self._forget_recent()
        return len(first)

    def settle(self) -> bool:
        """The last fence has passed: what comes from now on is new to who was there before it.

        Returns:
            Whether somebody has come since and waits for the next one.
        """
        later = False
        for audience in self.audiences:
            for outbox, arrival in list(audience.arrivals.items()):
                if arrival is None or arrival.settled is not None:
                    continue
                if arrival.fence > self.fences:
                    later = True
                elif self.pending:
                    arrival.settled = self.received
                else:
                    audience.promote(outbox, self.delivered)
        return later

    def leave(self, audience: Audience, outbox: Outbox) -> bool:
        """Let a member or arrival go; False when nobody is left."""
        if outbox in audience.members:
            outbox.messages += self.delivered - audience.members.pop(outbox)
        audience.arrivals.pop(outbox, None)
        self.on_lost.pop(outbox, None)
        self._forget_recent()
        if not audience.members and not audience.arrivals:
            self.audiences.remove(audience)
        return bool(self.audiences)

    def serve_arrivals(self, audience: Audience, batch: Batch, piece_bytes: int) -> tuple[int, int]:
        """Give the newer part of the batch to the arrivals that lack it.

        One that knows enough is a member from now on.

        Returns:
            How many messages were given, and how many bytes.
        """
        given = size = 0
        first = self._number_of(batch)
        for outbox, arrival in list(audience.arrivals.items()):
            if arrival is None:
                continue
            chosen, is_settled = arrival.choose(batch, first)
            if chosen:
                for piece in pieces_of(audience.dialect.encode(self.name, chosen), piece_bytes):
                    outbox.push(piece)
                    size += len(piece)
                outbox.messages += messages_of(chosen)
                given += messages_of(chosen)
            if is_settled:
                audience.promote(outbox, self.delivered)
        return given, size

    def count_hearers(self, batch: Batch) -> list[int]:
        """How many each message of a batch goes to, before it does."""
        first = self._number_of(batch)
        heard = [self.members] * len(batch)
        for audience in self.audiences:
            for arrival in audience.arrivals.values():
                if arrival is not None:
                    chosen = arrival.choose(batch, first)[0]
                    for index, message in enumerate(batch):
                        heard[index] += message in chosen
        return heard

    def _number_of(self, batch: Batch) -> int:
        """The number of the first message of a batch that is served now."""
        return self.received - len(self.pending) - len(batch)

    def _forget_recent(self) -> None:
        if self.recent and not self._is_greeting():
            self.recent.clear()

    def _is_greeting(self) -> bool:
        """Somebody waits for a greeting that is being read."""
        for audience in self.audiences:  # noqa: SIM110 - asked at each message, and any() costs more
            if None in audience.arrivals.values():
                return True
        return False


class Membership:
    """A socket's place in a group, from ``Hub.enter`` to ``leave``."""

    __slots__ = ("_audience", "_greeting", "_group", "_hub", "_outbox")

    def __init__(self, hub: Hub, group: _Group, audience: Audience, outbox: Outbox) -> None:
        self._hub = hub
        self._group = group
        self._audience = audience
        self._outbox = outbox
        self._greeting: Greeting | None = None

    async def read_greeting(self, since: Since | None = None) -> Greeting:
        """Read what the socket gets first; what is said from here on is kept for it.

        Args:
            since: up to where the client knows the group, if it is to go on from there.

        Raises:
            StoreUnavailable: the group's messages cannot be read now.
            KeyUnusable: Redis refuses what concerns the group.
        """
        self._greeting = await self._hub.read_greeting(self._group, self._audience, since)
        return self._greeting

    def begin(self, before: bytes = b"") -> None:
        """Send the greeting, which was read, behind ``before``: the socket hears the group now."""
        greeting, self._greeting = self._greeting, None
        assert greeting is not None
        self._hub.admit(self._group, self._audience, self._outbox, before, greeting)

    def leave(self) -> None:
        """Hear nothing more."""
        self._hub.leave(self._group, self._audience, self._outbox)


class Hub:
    """The groups with members on this daemon.

    Args:
        config: ``socket.outbox_bytes``, what may wait for a member; no longer piece is pushed than
            this, but for a single frame.
    """

    def __init__(
        self, relay: GroupRelay, history: History, metrics: Metrics, config: Config
    ) -> None:
        self._config = config
        self._relay = relay
        self._history = history
        self._metrics = metrics
        self._groups: dict[str, _Group] = {}
        self._to_flush: list[_Group] = []
        self._flushing = trio.Lock()
        self._served = 0  # since other tasks had their turn

    @property
    def groups(self) -> int:
        """How many groups have members here."""
        return len(self._groups)

    def enter(
        self,
        name: str,
        outbox: Outbox,
        dialect: Dialect,
        on_lost: Callable[[str], object],
    ) -> Membership:
        """Let a socket into a group, where it hears nothing before its greeting.

        Args:
            dialect: what the socket speaks; one object for all that speak it.
            on_lost: called with the group when the socket will hear nothing more, as Redis refuses
                what concerns it; or, where the dialect ``resumes``, when messages are missing that
                no list has any more.
        """
        group = self._groups.get(name) or self._open(name)
        audience = group.audience(dialect)
        audience.arrivals[outbox] = None
        group.on_lost[outbox] = on_lost
        return Membership(self, group, audience, outbox)

    async def read_greeting(
        self, group: _Group, audience: Audience, since: Since | None
    ) -> Greeting:
        """Wait until a group is heard, and read what somebody who has come gets first."""
        await self._relay.wait_heard(group.subscription)
        return await audience.greeting(group.name, since)

    def admit(
        self, group: _Group, audience: Audience, outbox: Outbox, before: bytes, greeting: Greeting
    ) -> None:
        """Greet somebody who has come: from now on it hears the group."""
        group.subscription.begin_at(greeting.position)
        self._metrics.bytes_sent += group.admit(audience, outbox, before, greeting)
        self._put_up_fence(group)

    def leave(self, group: _Group, audience: Audience, outbox: Outbox) -> None:
        """Let a member go, and the group with the last one."""
        if not group.leave(audience, outbox):
            self._relay.unlisten(group.subscription, group.receive)
            del group.receive, group.lose  # they lead back to the group: no garbage is left
            if self._groups.get(group.name) is group:
                del self._groups[group.name]

    def notice(self, name: str, event: bytes) -> bool:
        """Tell the members of a group what became of messages, behind those that have come.

        Returns:
            Whether there are any.
        """
        group = self._groups.get(name)
        if group is not None:
            group.subscription.notice(event)
        return group is not None

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
                    in_one_turn = min(group.members, MEMBERS_A_TURN)
                    if self._served + in_one_turn > MEMBERS_A_TURN:
                        await self._yield_turn()
                    await self._flush_group(group)
        finally:
            self._flushing.release()

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
            on_lost(group.name)

    def _receive(self, group: _Group, ts: int, message: bytes) -> None:
        if ts == MISSED:
            for outbox in group.resuming():
                group.on_lost[outbox](group.name)
            return
        if not group.pending:
            self._to_flush.append(group)
        group.receive_message(ts, message)

    async def _flush_group(self, group: _Group) -> None:
        batch, group.pending = group.pending, []
        piece_bytes = min(self._config.socket.outbox_bytes, PIECE_BYTES)
        hearers = group.count_hearers(batch) if logs.is_debug else []
        messages = messages_of(batch)
        group.delivered += messages
        deliveries = size = 0
        # Who is a member now gets the batch whole, whatever becomes of the arrivals meanwhile.
        members = [(audience, tuple(audience.members)) for audience in group.audiences]
        for audience, _ in members:
            if audience.arrivals:
                given, bytes_given = group.serve_arrivals(audience, batch, piece_bytes)
                deliveries += given
                size += bytes_given
        for audience, outboxes in members:
            if outboxes:
                pieces = pieces_of(audience.dialect.encode(group.name, batch), piece_bytes)
                await self._push(outboxes, pieces)
                deliveries += len(outboxes) * messages
                size += len(outboxes) * sum(map(len, pieces))
        self._metrics.deliveries += deliveries
        self._metrics.bytes_sent += size
        if deliveries:
            oldest = next((ts for ts, _ in batch if ts > 0), 0)
            if oldest:  # else all is foreign, or a notice
                self._metrics.delivery_seconds.observe(self._history.age(oldest), deliveries)
        for (ts, _), count in zip(batch, hearers, strict=False):
            if ts != NOTICE:
                log.debug("message.delivered", group=group.name, message_ts=ts, members=count)

    async def _push(self, outboxes: tuple[Outbox, ...], pieces: list[bytes]) -> None:
        for outbox in outboxes:
            if self._served == MEMBERS_A_TURN:
                await self._yield_turn()
            self._served += 1
            for piece in pieces:
                outbox.push(piece)

    async def _yield_turn(self) -> None:
        self._served = 0
        await trio.lowlevel.checkpoint()
