"""The pub/sub relay: every message of the groups that somebody here listens to.

Theory of operation: one connection subscribes to the channels of those groups. Each group has a
``Subscription`` that remembers the ``ts`` of the newest message it handed on. When the connection
breaks, the next one subscribes to all of them again; what comes live is held back, group by group,
until the messages after that ``ts`` were read from the group's list. As ``ts`` is unique and
increasing within a group, nothing is missed and nothing comes twice.

A group that nobody listens to any more stays subscribed for a few seconds: a client that comes
back at once costs Redis nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import TypeAlias

import structlog
import trio
from redis import exceptions

from . import codec
from . import log as logs
from .errors import StoreUnavailable
from .metrics import Metrics
from .redis.client import CALL_SECONDS, Reconnecting, connected_wire
from .redis.wire import Address, NotNow, Reply, Wire
from .store import EVENTS_CHANNEL, Store, channel_of

LINGER_SECONDS = 5.0
DROPPED_A_TURN = 256
"""Channels that are dropped before other tasks get their turn."""
REPAIRS_AT_ONCE = 32
REPAIR_PAUSE = 0.005
"""Seconds between two pages of a repair, in which the members' connections can take the first."""
GATHER_SECONDS = 0.001
GATHER_SHARE = 0.5
"""How soon after a batch the next one may be handed on: after a moment, or after this share of the
time that handing it on took. A message that comes alone is handed on at once; where many come, a
write to a member carries several, and a write costs more than what is written."""
MAX_HELD = 1000
"""Live messages of a group that wait for its repair; more are left to be read from the list."""

OnMessage: TypeAlias = Callable[[int, bytes], None]
"""Gets ``ts`` and the message as plain JSON; must not wait."""

log = structlog.get_logger("fastimd.relay")


class Subscription:
    """A group's channel, as this daemon hears it.

    ``last_ts`` is the newest message handed on, milliseconds since the epoch. While ``held`` is a
    list the gap after it is being repaired, and live messages wait there. ``overheld`` says that
    too many came: they were dropped, and the repair must go on to them.
    """

    __slots__ = (
        "confirmed",
        "group",
        "held",
        "idle_since",
        "last_ts",
        "listeners",
        "overheld",
        "repaired_to",
    )

    def __init__(self, group: str) -> None:
        self.group = group
        self.listeners: list[OnMessage] = []
        self.confirmed = trio.Event()
        self.last_ts = 0
        self.repaired_to = 0
        self.held: list[tuple[int, bytes]] | None = None
        self.overheld = False
        self.idle_since = 0.0

    def begin_at(self, ts: int) -> None:
        """Somebody has read the list up to ``ts``: a repair need not go further back.

        Only before the first message was handed on: later, one that was read may still be on its
        way to the others.
        """
        self.last_ts = self.last_ts or ts

    def receive(self, ts: int, message: bytes) -> None:
        """Take a live message."""
        if self.held is not None:
            if len(self.held) >= MAX_HELD:
                self.held.clear()
                self.overheld = True
            self.held.append((ts, message))
        elif ts > self.repaired_to:
            self.repaired_to = 0
            self.hand_on(ts, message)

    def hand_on(self, ts: int, message: bytes) -> None:
        """Give a message to everybody who listens."""
        self.last_ts = max(self.last_ts, ts)
        if logs.is_debug:
            log.debug("message.relayed", group=self.group, user=_user_of(message), message_ts=ts)
        for listener in self.listeners:
            listener(ts, message)

    def finish_repair(self) -> None:
        """The gap is filled: let the held messages through, without those that were in it."""
        held, self.held = self.held or [], None
        self.repaired_to = self.last_ts
        for ts, message in held:
            self.receive(ts, message)


def _user_of(message: bytes) -> str | None:
    try:
        return codec.decode_message(message).userId
    except codec.CorruptEntry:  # who reads the ts alone does not see that
        return None


class Relay:
    """Messages from Redis to whoever listens here."""

    def __init__(self, address: Address, store: Store, metrics: Metrics) -> None:
        self._address = address
        self._store = store
        self._metrics = metrics
        self._on_batch: Callable[[], Awaitable[None]]
        self._on_event: Callable[[bytes], None]
        self._on_gap: Callable[[], None]
        self._by_channel: dict[bytes, Subscription] = {}
        self._idle: dict[bytes, Subscription] = {}
        self._awaiting: deque[Subscription] = deque()
        self._wire: Wire | None = None
        # How many messages the read has that is being taken, and the first one's ts.
        self._heard = 0
        self._heard_ts = 0
        self._was_connected = trio.Event()
        self._scope = trio.CancelScope()
        self._reconnecting = Reconnecting("messages", address, metrics)

    def hand_to(
        self,
        *,
        on_batch: Callable[[], Awaitable[None]],
        on_event: Callable[[bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        """Say who is told, before the relay runs.

        Args:
            on_batch: awaited after each batch of messages was handed on; while it runs no more
                are read, so that a busy daemon leaves the rest with Redis.
            on_event: gets the payload of our own channel of rare events.
            on_gap: called after each reconnection, when rare events may have been missed.
        """
        self._on_batch = on_batch
        self._on_event = on_event
        self._on_gap = on_gap

    async def wait_connected(self) -> None:
        """Wait until the relay hears Redis for the first time."""
        await self._was_connected.wait()

    @property
    def subscriptions(self) -> int:
        """How many groups' channels are subscribed."""
        return len(self._by_channel)

    @property
    def last_error(self) -> str | None:
        """Why there is no connection; None while there is one."""
        return self._reconnecting.last_error

    def listen(self, group: str, listener: OnMessage) -> Subscription:
        """Listen to a group; ``wait_heard`` tells when every new message will be heard."""
        channel = channel_of(group).encode()
        subscription = self._by_channel.get(channel)
        if subscription is None:
            subscription = self._by_channel[channel] = Subscription(group)
            self._send_subscribe(subscription)
        self._idle.pop(channel, None)
        subscription.listeners.append(listener)
        return subscription

    def unlisten(self, subscription: Subscription, listener: OnMessage) -> None:
        """Stop listening."""
        subscription.listeners.remove(listener)
        if not subscription.listeners:
            subscription.idle_since = trio.current_time()
            self._idle[channel_of(subscription.group).encode()] = subscription

    def reconnect(self) -> None:
        """Give the connection up: it may lead to a server that is no longer the right one."""
        self._scope.cancel()

    async def wait_heard(self, subscription: Subscription) -> None:
        """Wait until Redis has confirmed a subscription.

        Raises:
            StoreUnavailable: it did not within two seconds.
        """
        if subscription.confirmed.is_set():
            return
        with trio.move_on_after(CALL_SECONDS):
            await subscription.confirmed.wait()
            return
        raise StoreUnavailable(f"Redis is away ({self.last_error or 'no confirmation'})")

    async def run(self) -> None:
        """Keep the connection up and the gaps repaired, until cancelled.

        Raises:
            StartupError: Redis refuses the login.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drop_idle)
            while True:
                try:
                    await self._serve_connection()
                except (exceptions.RedisError, OSError, trio.BrokenResourceError) as exc:
                    await self._reconnecting.wait_after(exc)

    async def _serve_connection(self) -> None:
        async with connected_wire(self._address) as wire:
            await wire.ask(("SUBSCRIBE", EVENTS_CHANNEL))
            failures: list[Exception] = []
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope

                async def guard(serve: Callable[..., Awaitable[None]], *arguments: object) -> None:
                    try:
                        await serve(*arguments)
                    except (exceptions.RedisError, OSError, trio.BrokenResourceError) as exc:
                        failures.append(exc)
                        nursery.cancel_scope.cancel()

                self._take_over(wire)
                nursery.start_soon(guard, wire.run_writer)
                nursery.start_soon(guard, wire.probe, lambda: wire.write("PING"))
                nursery.start_soon(guard, self._read, wire, nursery)
            self._wire = None
            if failures:
                raise failures[0]

    def _take_over(self, wire: Wire) -> None:
        self._wire = wire
        self._awaiting.clear()
        for subscription in self._by_channel.values():
            if subscription.confirmed.is_set():
                subscription.held = []
            self._send_subscribe(subscription)
        self._on_gap()
        self._was_connected.set()
        self._reconnecting.connected()

    def _send_subscribe(self, subscription: Subscription) -> None:
        if self._wire is not None:
            self._awaiting.append(subscription)
            self._wire.write("SUBSCRIBE", channel_of(subscription.group))

    async def _read(self, wire: Wire, nursery: trio.Nursery) -> None:
        repairs = trio.CapacityLimiter(REPAIRS_AT_ONCE)
        next_at = -math.inf
        while True:
            self._receive_all(await wire.read(), nursery, repairs)
            with trio.move_on_at(next_at):
                while trio.current_time() < next_at:
                    self._receive_all(await wire.read(), nursery, repairs)
            began = trio.current_time()
            await self._on_batch()
            ended = trio.current_time()
            next_at = ended + max(GATHER_SECONDS, (ended - began) * GATHER_SHARE)

    def _receive_all(
        self, replies: list[Reply], nursery: trio.Nursery, repairs: trio.CapacityLimiter
    ) -> None:
        """Take what one read brought; its messages count as old as the first of them."""
        self._heard = 0
        for reply in replies:
            self._receive(reply, nursery, repairs)
        if self._heard:
            self._metrics.relay_seconds.observe(self._store.age(self._heard_ts), self._heard)

    def _receive(self, reply: Reply, nursery: trio.Nursery, repairs: trio.CapacityLimiter) -> None:
        if isinstance(reply, NotNow) and not self._awaiting:
            return  # to a PING: a sign of life all the same
        if isinstance(reply, Exception):
            raise reply
        kind, channel, payload = reply if len(reply) == 3 else (*reply, None)
        if kind == b"message":
            self._receive_message(channel, payload)
        elif kind == b"subscribe":
            subscription = self._awaiting.popleft()
            subscription.confirmed.set()
            if subscription.held is not None:
                nursery.start_soon(self._repair, subscription, repairs)

    def _receive_message(self, channel: bytes, payload: bytes) -> None:
        subscription = self._by_channel.get(channel)
        if subscription is None:
            if channel == EVENTS_CHANNEL.encode():
                self._on_event(payload)
            return
        try:
            ts, message = codec.read_entry(payload)
        except codec.CorruptEntry as exc:
            self._metrics.corrupt_entries += 1
            log.warning("relay.corrupt_message", group=subscription.group, error=str(exc))
            return
        if not self._heard:
            self._heard_ts = ts
        self._heard += 1
        subscription.receive(ts, message)

    async def _repair(self, subscription: Subscription, repairs: trio.CapacityLimiter) -> None:
        repaired = 0
        async with repairs:
            while True:
                try:
                    gap = await self._store.after(subscription.group, subscription.last_ts)
                except StoreUnavailable:
                    await trio.sleep(0.1)  # the other connection says why
                    continue
                for ts, message in gap.messages:
                    subscription.hand_on(ts, message)
                repaired += len(gap.messages)
                await self._on_batch()
                if not (gap.more and gap.messages) and not subscription.overheld:
                    break
                subscription.overheld = False
                await trio.sleep(REPAIR_PAUSE)
            subscription.finish_repair()
            await self._on_batch()
        self._metrics.gap_repairs += 1
        self._metrics.messages_repaired += repaired
        if repaired:
            log.info("relay.repaired", group=subscription.group, messages=repaired)

    async def _drop_idle(self) -> None:
        while True:
            await trio.sleep(1)
            while self._drop_some_idle():
                await trio.lowlevel.checkpoint()

    def _drop_some_idle(self) -> bool:
        """Drop some that were idle for long enough; False when there are no more."""
        now = trio.current_time()
        first = list(islice(self._idle.items(), DROPPED_A_TURN))
        for channel, subscription in first:
            if now - subscription.idle_since < LINGER_SECONDS:
                return False  # they stand in the order in which they became idle
            del self._idle[channel]
            del self._by_channel[channel]
            if self._wire is not None:
                self._wire.write("UNSUBSCRIBE", channel)
        return bool(first)
