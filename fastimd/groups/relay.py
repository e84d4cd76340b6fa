"""The pub/sub relay: every message of the groups that somebody here listens to.

Theory of operation: one connection subscribes to the channels of those groups. Each group has a
``Subscription`` that remembers the newest message it handed on. When the connection breaks, the
next one subscribes to all of them again; what comes live is held back, group by group, until the
messages after that one were read from the group's list.

A message of somebody else may have a ``ts`` that is no measure of anything, years ahead. It is
shown like every other, but the relay does not go by it: see ``store.keyspace.AHEAD``.

What Redis refuses for one group (its key is no list, its channel must not be heard) is told to
those who listen to that group, and the relay forgets it: whoever comes later tries again.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import structlog
import trio
from redis import exceptions

from ..base import codec
from ..base.errors import StoreUnavailable
from ..base.metrics import Metrics
from ..redis.address import Server
from ..redis.keeping import CALL_SECONDS, Reconnecting, connected_wire
from ..redis.refusal import key_unusable
from ..redis.replies import Redirected, Reply
from ..redis.wire import Wire
from .announcements import Announcements
from .events import EVENT_BEGINS
from .lingering import Lingering
from .passings import OnPassed, Passings
from .pubsub import PLAIN, SHARDED, SUBSCRIBED_AT_ONCE, Questions, Words
from .repair import Repairs, tell_foreign
from .store.history import History
from .store.keyspace import STEP, channel_of
from .subscription import OnLost, OnMessage, Subscription

GATHER_SECONDS = 0.001
GATHER_SHARE = 0.5
"""How soon after a batch the next one may be handed on: after a moment, or after this share of the
time that handing it on took. A message that comes alone is handed on at once; where many come, a
write to a member carries several, and a write costs more than what is written."""
log = structlog.get_logger("fastimd.relay")


class Relay:
    """Messages from Redis to whoever listens here.

    ``on_moved`` is told of a subscription that a server of a cluster has no more.
    """

    def __init__(
        self,
        address: Server,
        history: History,
        metrics: Metrics,
        *,
        words: Words = PLAIN,
    ) -> None:
        self._address = address
        self._words = words
        self._history = history
        self._metrics = metrics
        self._on_batch: Callable[[], Awaitable[None]]
        self._announcements: Announcements
        self._by_channel: dict[bytes, Subscription] = {}
        self._idle = Lingering()
        self._questions = Questions(words)
        self.on_moved: Callable[[Subscription, Exception | None], None] = lambda *_: None
        self.passings = Passings(self._questions, self.is_current)
        # The latest ts that is not foreign by the clock, as it was when that was last asked; how
        # many messages the read has that is being taken, and the first one's ts.
        self._latest = self._heard = self._heard_ts = 0
        self._has_messages = False
        self._was_connected = trio.Event()
        self._scope = trio.CancelScope()
        self._reign: str | None = None
        self._repairs = Repairs(
            history,
            metrics,
            fence=self._fence,
            flush=lambda: self._on_batch(),
            is_current=self.is_current,
            lose=self._lose,
        )
        self._reconnecting = Reconnecting("messages", address, metrics)

    def hand_to(
        self,
        *,
        on_batch: Callable[[], Awaitable[None]],
        announcements: Announcements,
    ) -> None:
        """Say who is told, before the relay runs.

        Args:
            on_batch: awaited after each batch of messages was handed on; while it runs no more
                are read, so that a busy daemon leaves the rest with Redis.
            announcements: get what comes for no group.
        """
        self._on_batch = on_batch
        self._announcements = announcements

    async def wait_connected(self) -> None:
        """Wait until the relay hears Redis for the first time."""
        await self._was_connected.wait()

    @property
    def subscriptions(self) -> int:
        """How many groups' channels are subscribed."""
        return len(self._by_channel)

    def all_subscriptions(self) -> list[Subscription]:
        """Those of now."""
        return list(self._by_channel.values())

    @property
    def last_error(self) -> str | None:
        """Why there is no connection; None while there is one."""
        return self._reconnecting.last_error

    outage = last_error  # of one server all is out, or nothing

    def listen(
        self, group: str, listener: OnMessage, on_lost: OnLost, channel: bytes | None = None
    ) -> Subscription:
        """Listen to a group; ``wait_heard`` tells when every new message will be heard.

        After ``on_lost`` was called the subscription is worth nothing: listen anew, later.
        """
        channel = channel or channel_of(group).encode()
        subscription = self._by_channel.get(channel)
        if subscription is None:
            subscription = Subscription(group, channel)
            self._by_channel[subscription.channel] = subscription
            self._questions.subscribe(subscription)
        self._idle.remove(subscription)
        subscription.listeners[listener] = on_lost
        return subscription

    def unlisten(self, subscription: Subscription, listener: OnMessage) -> None:
        """Stop listening."""
        del subscription.listeners[listener]
        if not subscription.listeners and self.is_current(subscription):
            self._idle.add(subscription)

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

    def when_passed(self, subscription: Subscription, on_passed: OnPassed) -> None:
        """Have ``on_passed`` called when all that was published before has been handed on.

        That takes a second or two, and longer while the connection is away. Who asks anew is told
        instead of who asked before.
        """
        self.passings.add(subscription, on_passed)

    def release(self, subscription: Subscription) -> OnPassed | None:
        """Let go of a subscription that another server has by now; what ``adopt`` takes."""
        self._by_channel.pop(subscription.channel, None)
        self._idle.remove(subscription)
        return self.passings.take(subscription)

    def adopt(self, subscription: Subscription, on_passed: OnPassed | None) -> None:
        """Go on with a subscription of another relay; what was missed between is repaired."""
        self._by_channel[subscription.channel] = subscription
        if not subscription.listeners:
            self._idle.add(subscription)
        if on_passed is not None:
            self.passings.add(subscription, on_passed)
        subscription.move()
        self._questions.subscribe(subscription)

    def reconnect(self) -> None:
        """Give the connection up: it may lead to a server that is no longer the right one."""
        self._scope.cancel()

    def is_beside(self, reign: str) -> bool:
        """Whether there is a connection, and to another server than the one of that reign."""
        return self._reign not in (None, reign)

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
            if self._words is PLAIN:
                await self._announcements.open(wire, self._metrics)
            failures: list[Exception] = []
            try:
                async with trio.open_nursery() as nursery:
                    self._scope, self._reign = nursery.cancel_scope, wire.reign

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
                    nursery.start_soon(guard, wire.probe, self._questions.probe)
                    nursery.start_soon(self._questions.keep_hearing)
                    nursery.start_soon(guard, self._read, wire, nursery)
            finally:
                self._questions.let_go()
                self._reign = None
            if failures:
                raise failures[0]

    def _take_over(self, wire: Wire) -> list[Subscription]:
        """Put a connection to use; returns what was subscribed on the last one."""
        self._questions.take_over(wire)
        known = list(self._by_channel.values())
        for subscription in known:
            subscription.await_repair()
        self._announcements.on_gap()
        self._was_connected.set()
        self._reconnecting.connected()
        return known

    async def _subscribe_again(self, known: list[Subscription]) -> None:
        for number, subscription in enumerate(known, 1):
            if self.is_current(subscription):
                self._questions.subscribe(subscription)
            if number % SUBSCRIBED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    async def _fence(self) -> None:
        """Wait until all that was published before was handed on; or the connection broke."""
        passed = trio.Event()
        self._questions.ping(lambda _answered: passed.set())
        await passed.wait()

    async def _read(self, wire: Wire, nursery: trio.Nursery) -> None:
        next_at = -math.inf
        while True:
            if not self._receive_all(await wire.read(), nursery):
                continue
            with trio.move_on_at(next_at):
                while trio.current_time() < next_at:
                    self._receive_all(await wire.read(), nursery)
            began = trio.current_time()
            await self._on_batch()
            ended = trio.current_time()
            next_at = ended + max(GATHER_SECONDS, (ended - began) * GATHER_SHARE)

    def _receive_all(self, replies: list[Reply], nursery: trio.Nursery) -> bool:
        """Take what one read brought, as old as its first message; tell whether there was one."""
        self._heard = 0
        self._has_messages = False
        for reply in replies:
            self._receive(reply, nursery)
        if self._heard:
            self._metrics.relay_seconds.observe(self._history.age(self._heard_ts), self._heard)
        return self._has_messages

    def _receive(self, reply: Reply, nursery: trio.Nursery) -> None:
        if isinstance(reply, Exception):
            self._take_refusal(reply)
        elif reply[0] == self._words.message:
            self._receive_message(reply[1], reply[2])
        elif reply[0] == self._words.subscribed:
            if self._announcements.is_own(reply[1]):
                return
            subscription = self._questions.take_confirmation()
            if subscription is not None and self.is_current(subscription):  # else it is elsewhere
                subscription.confirm(self._questions.hearing)
                if subscription.held is not None:
                    nursery.start_soon(self._repairs.repair, subscription)
        elif reply[0] == self._words.unsubscribed and not self._questions.has_unsubscribed(
            reply[1]
        ):
            if (moved := self._by_channel.get(reply[1])) is not None:
                self.on_moved(moved, None)  # its slot has gone elsewhere
        else:  # "unsubscribe" or "pong"
            self._questions.take_pong()

    def _take_refusal(self, refusal: Exception) -> None:
        refused = self._questions.take_refusal(refusal)
        if isinstance(refusal, Redirected):
            for subscription in filter(self.is_current, refused):
                self.on_moved(subscription, refusal)
        elif len(refused) == 1:
            self._refuse(refused[0], refusal)
        else:
            for subscription in filter(self.is_current, refused):
                self._questions.subscribe_alone(subscription)  # to see which it concerns

    def _refuse(self, subscription: Subscription, refusal: Exception) -> None:
        """Redis does not let a group's channel be heard."""
        key = subscription.channel.decode()
        subscription.refusal = key_unusable(self._metrics, key, refusal)
        self._lose(subscription)
        subscription.confirmed.set()

    def _lose(self, subscription: Subscription) -> None:
        """Forget a subscription, and tell those who listen."""
        if self.is_current(subscription):
            del self._by_channel[subscription.channel]
            self._idle.remove(subscription)
            if subscription.refusal is None:
                self._questions.unsubscribe(subscription.channel)
        for on_lost in list(subscription.listeners.values()):
            on_lost()

    def is_current(self, subscription: Subscription) -> bool:
        """Whether it is that of its group here."""
        return self._by_channel.get(subscription.channel) is subscription

    def _receive_message(self, channel: bytes, payload: bytes) -> None:
        subscription = self._by_channel.get(channel)
        if subscription is None:
            self._has_messages |= self._announcements.receive(channel, payload)
            return
        self._has_messages = True
        try:
            ts, message = codec.read_entry(payload)
        except codec.CorruptEntry as exc:
            if self._words is SHARDED and payload.startswith(EVENT_BEGINS):
                self._has_messages |= self._announcements.on_event(payload)
                return
            self._metrics.corrupt_entries += 1
            log.warning("relay.corrupt_message", group=subscription.group, error=str(exc))
            return
        if ts > self._latest:  # seldom: the bound was the moment's a while ago
            self._latest = self._history.latest()
            if ts > self._latest and ts > subscription.newest_ts + STEP:
                tell_foreign(self._metrics, subscription.group, ts)
                subscription.receive(0, message, payload)
                return
        if not self._heard:
            self._heard_ts = ts
        self._heard += 1
        subscription.receive(ts, message, payload)

    async def _look_after(self) -> None:
        while True:
            await trio.sleep(1)
            self.passings.ask()
            while self._idle.drop_some(self._drop):
                await trio.lowlevel.checkpoint()

    def _drop(self, subscription: Subscription) -> None:
        del self._by_channel[subscription.channel]
        self._questions.unsubscribe(subscription.channel)
