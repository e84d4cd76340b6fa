"""The pub/sub relay: every message of the groups that somebody here listens to.

Theory of operation: one connection subscribes to the channels of those groups. Each group has a
``Subscription`` that remembers the newest message it handed on. When the connection breaks, the
next one subscribes to all of them again; what comes live is held back, group by group, until the
messages after that one were read from the group's list.

Which of the held messages were read as well is known for certain, whatever their ``ts``: after each
page the relay puts up a *fence*, a PING on its own connection. Redis answers in order. So when the
answer comes, everything that was published before the page was read has come too, and what stands
in the page is taken from what is held.

A message of somebody else may have a ``ts`` that is no measure of anything, years ahead. It is
shown like every other, but the relay does not go by it: see ``store.keyspace.AHEAD``.

What Redis refuses for one group (its key is no list, its channel must not be heard) is told to
those who listen to that group, and the relay forgets it: whoever comes later tries again.

A group that nobody listens to any more stays subscribed for a few seconds: a client that comes
back at once costs Redis nothing.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import islice
from typing import TypeAlias

import structlog
import trio
from redis import exceptions

from ..base import codec
from ..base import log as logs
from ..base.errors import KeyUnusable, StoreUnavailable
from ..base.metrics import Metrics
from ..redis.client import CALL_SECONDS, Reconnecting, connected_wire
from ..redis.refusal import key_unusable
from ..redis.wire import Address, Argument, NotNow, Reply, Wire
from .events import EVENTS_CHANNEL
from .store.history import Gap, History, Position
from .store.keyspace import STEP, channel_of

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
"""Gets ``ts``, which is 0 for a foreign message, and the message as plain JSON; must not wait."""
OnLost: TypeAlias = Callable[[], None]
"""Told that nothing more will come: Redis refuses what concerns the group. Must not wait."""

SUBSCRIBED_AT_ONCE = 1000
"""Channels in one command."""

log = structlog.get_logger("fastimd.relay")


class Subscription:
    """A group's channel, as this daemon hears it.

    ``last_ts`` is the newest ts that was handed on, ``last_entry`` the entry of the newest message
    that was, foreign or not; ``newest_ts`` is the newest ts that was handed on or read. While
    ``held`` is a list the gap after the last message is being repaired, and live messages wait
    there. ``overheld`` says that too many came: they were dropped, and the repair must go on to
    them.
    ``refusal`` says why Redis does not let the channel be heard.
    """

    __slots__ = (
        "channel",
        "confirmed",
        "group",
        "has_begun",
        "held",
        "idle_since",
        "last_entry",
        "last_ts",
        "listeners",
        "newest_ts",
        "overheld",
        "refusal",
    )

    def __init__(self, group: str) -> None:
        self.group = group
        self.channel = channel_of(group).encode()
        self.listeners: dict[OnMessage, OnLost] = {}
        self.confirmed = trio.Event()
        self.has_begun = False
        self.last_ts = 0
        self.last_entry = b""
        self.newest_ts = 0
        self.held: list[_Live] | None = None
        self.overheld = False
        self.idle_since = 0.0
        self.refusal: KeyUnusable | None = None

    def begin_at(self, position: Position) -> None:
        """Somebody has read the list up to there: a repair need not go further back.

        Only the first time, and before the first message was handed on: later, one that was read
        may still be on its way to the others.
        """
        if not (self.has_begun or self.last_entry):
            self.has_begun = True
            self.last_ts, self.last_entry = position
        self.newest_ts = max(self.newest_ts, position.ts)

    def receive(self, ts: int, message: bytes, entry: bytes) -> None:
        """Take a live message; ``ts`` is 0 when it is foreign, ``entry`` is what was published."""
        if self.held is None:
            self.hand_on(ts, message, entry)
            return
        if len(self.held) >= MAX_HELD:
            self.held.clear()
            self.overheld = True
        self.held.append((ts, message, entry))

    def hand_on(self, ts: int, message: bytes, entry: bytes) -> None:
        """Give a message to everybody who listens."""
        if ts > self.last_ts:
            self.last_ts = ts
            self.last_entry = entry
            if ts > self.newest_ts:
                self.newest_ts = ts
        elif not ts:
            self.last_entry = entry
        if logs.is_debug:
            log.debug("message.relayed", group=self.group, user=_user_of(message), message_ts=ts)
        for listener in self.listeners:
            listener(ts, message)

    def fill(self, messages: list[_Live], end: bytes, *, more: bool) -> None:
        """Hand on a page of the gap, and of what is held what came before its end.

        Everything that was published before the page was read must be held already.

        Args:
            end: the last entry of the page, though it may be no message.
            more: there are further pages.
        """
        read = Counter(message for _, message, _ in messages)
        held = deque[_Live]()
        for live in self.held or ():
            if read[live[1]]:
                read[live[1]] -= 1
            else:
                held.append(live)
        known = self.last_ts
        for ts, message, entry in messages:
            # What was published and stands in no list any more.
            while held and 0 < held[0][0] < ts:
                self.hand_on(*held.popleft())
            if not 0 < ts <= known:  # an entry out of order, which was handed on before
                self.hand_on(ts, message, entry)
        if end:
            self.last_entry = end
        self.held = list(held)
        if not more:
            self.held = None
            for live in held:
                self.hand_on(*live)


_Live: TypeAlias = tuple[int, bytes, bytes]


class _Ping:
    """A PING that was sent; who waits is told whether it was answered, or the connection broke."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: list[Callable[[bool], None]] = []

    def tell(self, *, answered: bool) -> None:
        for on_passed in self.waiting:
            on_passed(answered)


def _user_of(message: bytes) -> str | None:
    try:
        return codec.decode_message(message).userId
    except codec.CorruptEntry:  # who reads the ts alone does not see that
        return None


class Relay:
    """Messages from Redis to whoever listens here."""

    def __init__(self, address: Address, history: History, metrics: Metrics) -> None:
        self._address = address
        self._history = history
        self._metrics = metrics
        self._on_batch: Callable[[], Awaitable[None]]
        self._on_event: Callable[[bytes], None]
        self._on_gap: Callable[[], None]
        self._by_channel: dict[bytes, Subscription] = {}
        self._idle: dict[bytes, Subscription] = {}
        self._wire: Wire | None = None
        # What the connection was asked and has not answered yet, in order: channels to subscribe,
        # each command with those that are not confirmed yet; a PING; None for what is forgotten.
        self._asked: deque[deque[Subscription] | _Ping | None] = deque()
        # Those of them that more can be added to, for they have not been written yet.
        self._subscribing: deque[Subscription] | None = None
        self._ping: _Ping | None = None
        self._unhurried: dict[Subscription, Callable[[], None]] = {}
        # The latest ts that is not foreign by the clock, as it was when that was last asked; how
        # many messages the read has that is being taken, and the first one's ts.
        self._latest = 0
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

    def listen(self, group: str, listener: OnMessage, on_lost: OnLost) -> Subscription:
        """Listen to a group; ``wait_heard`` tells when every new message will be heard.

        After ``on_lost`` was called the subscription is worth nothing: listen anew, later.
        """
        subscription = self._by_channel.get(channel_of(group).encode())
        if subscription is None:
            subscription = Subscription(group)
            self._by_channel[subscription.channel] = subscription
            self._send_subscribe(subscription)
        self._idle.pop(subscription.channel, None)
        subscription.listeners[listener] = on_lost
        return subscription

    def unlisten(self, subscription: Subscription, listener: OnMessage) -> None:
        """Stop listening."""
        del subscription.listeners[listener]
        if not subscription.listeners and self._is_current(subscription):
            subscription.idle_since = trio.current_time()
            self._idle[subscription.channel] = subscription

    def newest_of(self, channel: bytes) -> int:
        """The newest ts that is known of the group with a channel, 0 when nobody listens."""
        subscription = self._by_channel.get(channel)
        return 0 if subscription is None else subscription.newest_ts

    async def hear_out(self) -> None:
        """Wait until what has been published so far was handed on, or never will be.

        That is, until the connection has brought it or broke, but no longer than for a call.
        """
        with trio.move_on_after(CALL_SECONDS):
            await self._fence()

    def when_passed(self, subscription: Subscription, on_passed: Callable[[], None]) -> None:
        """Have ``on_passed`` called when all that was published before has been handed on.

        That takes a second or two, and longer while the connection is away. Who asks anew is told
        instead of who asked before.
        """
        self._unhurried[subscription] = on_passed

    def reconnect(self) -> None:
        """Give the connection up: it may lead to a server that is no longer the right one."""
        self._scope.cancel()

    async def wait_heard(self, subscription: Subscription) -> None:
        """Wait until Redis has confirmed a subscription.

        Raises:
            StoreUnavailable: it did not within two seconds.
            KeyUnusable: it does not let the channel be heard.
        """
        if not subscription.confirmed.is_set():
            with trio.move_on_after(CALL_SECONDS):
                await subscription.confirmed.wait()
        if subscription.refusal is not None:
            raise subscription.refusal
        if subscription.confirmed.is_set():
            return
        raise StoreUnavailable(f"Redis is away ({self.last_error or 'no confirmation'})")

    async def run(self) -> None:
        """Keep the connection up and the gaps repaired, until cancelled.

        Raises:
            StartupError: Redis refuses the login.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_after)
            while True:
                try:
                    await self._serve_connection()
                except (exceptions.RedisError, OSError, trio.BrokenResourceError) as exc:
                    await self._reconnecting.wait_after(exc)

    async def _serve_connection(self) -> None:
        async with connected_wire(self._address) as wire:
            await wire.ask(("SUBSCRIBE", EVENTS_CHANNEL))
            failures: list[Exception] = []
            try:
                async with trio.open_nursery() as nursery:
                    self._scope = nursery.cancel_scope

                    async def guard(
                        serve: Callable[..., Awaitable[None]], *arguments: object
                    ) -> None:
                        try:
                            await serve(*arguments)
                        except (exceptions.RedisError, OSError, trio.BrokenResourceError) as exc:
                            failures.append(exc)
                            nursery.cancel_scope.cancel()

                    known = self._take_over(wire)
                    nursery.start_soon(guard, self._subscribe_again, known)
                    nursery.start_soon(guard, wire.run_writer)
                    nursery.start_soon(guard, wire.probe, self._probe)
                    nursery.start_soon(guard, self._read, wire, nursery)
            finally:
                self._let_go()
            if failures:
                raise failures[0]

    def _let_go(self) -> None:
        """The connection is gone; what it was asked will not be answered."""
        self._wire = None
        asked, self._asked = self._asked, deque()
        self._subscribing = self._ping = None
        for each in asked:
            if isinstance(each, _Ping):
                each.tell(answered=False)

    def _take_over(self, wire: Wire) -> list[Subscription]:
        """Put a connection to use; returns what was subscribed on the last one."""
        self._wire = wire
        known = list(self._by_channel.values())
        for subscription in known:
            if subscription.confirmed.is_set():
                subscription.held = []
                subscription.overheld = False
        self._on_gap()
        self._was_connected.set()
        self._reconnecting.connected()
        return known

    async def _subscribe_again(self, known: list[Subscription]) -> None:
        for number, subscription in enumerate(known, 1):
            if self._is_current(subscription):
                self._send_subscribe(subscription)
            if number % SUBSCRIBED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def _send_subscribe(self, subscription: Subscription) -> None:
        if self._wire is None:
            return
        if self._subscribing is None or len(self._subscribing) == SUBSCRIBED_AT_ONCE:
            self._subscribing = deque()
            self._asked.append(self._subscribing)
            self._wire.write_later(partial(self._subscribe_all, self._subscribing))
        self._subscribing.append(subscription)

    def _subscribe_all(self, batch: deque[Subscription]) -> tuple[Argument, ...]:
        """The command for those of one scheduler turn, as it leaves."""
        if self._subscribing is batch:
            self._subscribing = None
        return ("SUBSCRIBE", *[subscription.channel for subscription in batch])

    def _unsubscribe(self, channel: bytes) -> None:
        if self._wire is not None:
            self._subscribing = None  # what comes later must be written later
            self._asked.append(None)
            self._wire.write("UNSUBSCRIBE", channel)

    def _send_ping(self, on_passed: Callable[[bool], None]) -> None:
        """Have ``on_passed`` told when all that was published before was handed on, or was lost."""
        if self._wire is None:
            on_passed(False)
            return
        if self._ping is None:
            self._ping = _Ping()
            self._asked.append(self._ping)
            self._wire.write_later(self._ping_leaves)
        self._ping.waiting.append(on_passed)

    def _ping_leaves(self) -> tuple[Argument, ...]:
        self._ping = None
        return ("PING",)

    def _probe(self) -> None:
        assert self._wire is not None
        self._asked.append(None)
        self._wire.write("PING")

    async def _fence(self) -> None:
        """Wait until all that was published before was handed on; or the connection broke."""
        passed = trio.Event()
        self._send_ping(lambda _answered: passed.set())
        await passed.wait()

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
            self._metrics.relay_seconds.observe(self._history.age(self._heard_ts), self._heard)

    def _receive(self, reply: Reply, nursery: trio.Nursery, repairs: trio.CapacityLimiter) -> None:
        if isinstance(reply, Exception):
            self._take_refusal(reply)
        elif reply[0] == b"message":
            self._receive_message(reply[1], reply[2])
        elif reply[0] == b"subscribe":
            batch = self._asked[0]
            assert isinstance(batch, deque)
            subscription = batch.popleft()
            if not batch:
                self._asked.popleft()
            subscription.confirmed.set()
            if subscription.held is not None and self._is_current(subscription):
                nursery.start_soon(self._repair, subscription, repairs)
        else:  # "unsubscribe" or "pong"
            asked = self._asked.popleft()
            if isinstance(asked, _Ping):
                asked.tell(answered=True)

    def _take_refusal(self, refusal: Exception) -> None:
        asked = self._asked.popleft() if self._asked else None
        if isinstance(asked, deque):
            if not isinstance(refusal, exceptions.NoPermissionError):
                raise refusal
            if len(asked) == 1:
                self._refuse(asked[0], refusal)
                return
            for subscription in filter(self._is_current, asked):
                self._subscribing = None  # each alone, to see which it concerns
                self._send_subscribe(subscription)
            self._subscribing = None
        elif not isinstance(refusal, NotNow):
            raise refusal
        elif asked is not None:  # a sign of life all the same, and in its place
            asked.tell(answered=True)

    def _refuse(self, subscription: Subscription, refusal: Exception) -> None:
        """Redis does not let a group's channel be heard."""
        key = subscription.channel.decode()
        subscription.refusal = key_unusable(self._metrics, key, refusal)
        self._lose(subscription)
        subscription.confirmed.set()

    def _lose(self, subscription: Subscription) -> None:
        """Forget a subscription, and tell those who listen."""
        if self._is_current(subscription):
            del self._by_channel[subscription.channel]
            self._idle.pop(subscription.channel, None)
            if subscription.refusal is None:
                self._unsubscribe(subscription.channel)
        for on_lost in list(subscription.listeners.values()):
            on_lost()

    def _is_current(self, subscription: Subscription) -> bool:
        return self._by_channel.get(subscription.channel) is subscription

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
        if ts > self._latest:  # seldom: the bound was the moment's a while ago
            self._latest = self._history.latest()
            if ts > self._latest and ts > subscription.newest_ts + STEP:
                self._tell_foreign(subscription, ts)
                subscription.receive(0, message, payload)
                return
        if not self._heard:
            self._heard_ts = ts
        self._heard += 1
        subscription.receive(ts, message, payload)

    def _tell_foreign(self, subscription: Subscription, ts: int) -> None:
        self._metrics.foreign_ts += 1
        log.warning("relay.foreign_ts", group=subscription.group, message_ts=ts)

    async def _repair(self, subscription: Subscription, repairs: trio.CapacityLimiter) -> None:
        repaired = 0
        async with repairs:
            while subscription.held is not None and self._is_current(subscription):
                try:
                    gap = await self._history.after(
                        subscription.group, Position(subscription.last_ts, subscription.last_entry)
                    )
                except StoreUnavailable:
                    await trio.sleep(0.1)  # the other connection says why
                    continue
                except KeyUnusable:  # the log has said why
                    self._lose(subscription)
                    return
                await self._fence()
                repaired += self._fill(subscription, gap)
                await self._on_batch()
                await trio.sleep(REPAIR_PAUSE)
        self._metrics.gap_repairs += 1
        self._metrics.messages_repaired += repaired
        if repaired:
            log.info("relay.repaired", group=subscription.group, messages=repaired)

    def _fill(self, subscription: Subscription, gap: Gap) -> int:
        """Hand on a page of a gap; returns how many messages it had."""
        messages = []
        for ts, message, entry in gap.messages:
            is_foreign = ts > gap.latest and ts > subscription.newest_ts + STEP
            if is_foreign:
                self._tell_foreign(subscription, ts)
            messages.append((0 if is_foreign else ts, message, entry))
        subscription.overheld, overheld = False, subscription.overheld
        subscription.fill(messages, gap.end, more=gap.more or overheld)
        return len(messages)

    async def _look_after(self) -> None:
        while True:
            await trio.sleep(1)
            if self._unhurried:
                self._hurry()
            while self._drop_some_idle():
                await trio.lowlevel.checkpoint()

    def _hurry(self) -> None:
        waiting, self._unhurried = self._unhurried, {}
        self._send_ping(partial(self._tell_passed, waiting))

    def _drop_some_idle(self) -> bool:
        """Drop some that were idle for long enough; False when there are no more."""
        now = trio.current_time()
        first = list(islice(self._idle.items(), DROPPED_A_TURN))
        for channel, subscription in first:
            if now - subscription.idle_since < LINGER_SECONDS:
                return False  # they stand in the order in which they became idle
            del self._idle[channel]
            del self._by_channel[channel]
            self._unsubscribe(channel)
        return bool(first)

    def _tell_passed(self, waiting: dict[Subscription, Callable[[], None]], answered: bool) -> None:
        for subscription, on_passed in waiting.items():
            if answered and subscription.held is None:
                on_passed()
            elif self._is_current(subscription):  # what is missed now will be repaired
                self._unhurried.setdefault(subscription, on_passed)
