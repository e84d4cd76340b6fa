"""The relay of a cluster: one of each master, for the channels of the slots that it has.

Channels are sharded: each lies in the slot of its group's list, and its messages are told by the
master of the slot alone. When the slot moves, the subscription goes to the relay of another master,
which repairs what was missed between, as after a broken connection. What became of messages is told
on their group's channel too, for nothing else would keep the order. The rare events that concern
users go through the whole cluster, and are heard at whichever node answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Any

import trio

from ..base.errors import StoreUnavailable
from ..base.metrics import Metrics
from ..redis.cluster.masters import AnyMaster, Masters, Node
from ..redis.cluster.slots import slot_of, tag_of
from ..redis.replies import Redirected
from .announcements import Announcements
from .passings import OnPassed
from .pubsub import SHARDED
from .relay import Relay
from .store.history import History
from .store.keyspace import channel_of, messages_key
from .subscription import OnLost, OnMessage, Subscription

LOOK_SECONDS = 0.02
"""How often is looked at the start whether all masters are heard."""


class ShardedRelay:
    """To the rooms above a ``Relay``."""

    def __init__(self, masters: Masters, history: History, metrics: Metrics) -> None:
        self._masters = masters
        self._history = history
        self._metrics = metrics
        self._events = Relay(AnyMaster(masters), history, metrics)
        self._relays: dict[Node, Relay] = {}
        self._scopes: dict[Node, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._hand_to: dict[str, Any] = {}
        masters.on_spread.append(self._spread)

    def hand_to(
        self, *, on_batch: Callable[[], Awaitable[None]], announcements: Announcements
    ) -> None:
        """Say who is told, before the relay runs; as ``Relay.hand_to``."""
        self._hand_to = {"on_batch": on_batch, "announcements": announcements}
        self._events.hand_to(on_batch=on_batch, announcements=announcements)
        self._spread(())

    async def wait_connected(self) -> None:
        """Wait until every master is heard for the first time."""
        while self.last_error is not None:  # noqa: ASYNC110 - masters may come and go meanwhile
            await trio.sleep(LOOK_SECONDS)

    @property
    def subscriptions(self) -> int:
        """How many groups' channels are subscribed."""
        return sum(relay.subscriptions for relay in self._relays.values())

    @property
    def last_error(self) -> str | None:
        """Why there is no connection to some master; None while there is one to each."""
        relays = (self._events, *self._relays.values())
        return next((each.last_error for each in relays if each.last_error), None)

    @property
    def outage(self) -> str | None:
        """Why nothing is heard; None while one master is."""
        is_heard = any(relay.last_error is None for relay in self._relays.values())
        return None if is_heard else self.last_error

    def listen(self, group: str, listener: OnMessage, on_lost: OnLost) -> Subscription:
        """Listen to a group; as ``Relay.listen``."""
        channel = _channel_of(group)
        subscription = self._relay_of(channel).listen(group, listener, on_lost, channel)
        subscription.slot = slot_of(channel)
        return subscription

    def unlisten(self, subscription: Subscription, listener: OnMessage) -> None:
        """Stop listening."""
        self._relay_of(subscription.channel).unlisten(subscription, listener)

    def newest_of(self, channel: bytes) -> int:
        """The newest ts that is known of the group with a channel, 0 when nobody listens."""
        tagged = _channel_of(channel.removeprefix(b"mq:").decode(errors="surrogatepass"))
        node = self._masters.of_slot(slot_of(tagged))
        return 0 if node is None else self._relay_at(node).newest_of(tagged)

    async def hear_out(self) -> None:
        """Wait until what has been published so far was handed on, or never will be."""
        async with trio.open_nursery() as nursery:
            for relay in self._relays.values():
                nursery.start_soon(relay.hear_out)

    def when_passed(self, subscription: Subscription, on_passed: Callable[[], None]) -> None:
        """Have ``on_passed`` called when all that was published before has been handed on."""
        self._relay_of(subscription.channel).when_passed(subscription, on_passed)

    async def wait_heard(self, subscription: Subscription) -> None:
        """Wait until Redis has confirmed a subscription; as ``Relay.wait_heard``."""
        await self._relay_of(subscription.channel).wait_heard(subscription)

    async def run(self) -> None:
        """Keep the connections up and the gaps repaired, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._events.run)
            for node, relay in self._relays.items():
                self._nursery.start_soon(_run_within, self._scopes[node], relay)
            await trio.sleep_forever()

    def _relay_of(self, channel: bytes) -> Relay:
        node = self._masters.of_slot(slot_of(channel))
        if node is None:
            raise StoreUnavailable("the cluster has no master for this yet")
        return self._relay_at(node)

    def _relay_at(self, node: Node) -> Relay:
        relay = self._relays.get(node)
        if relay is None:
            relay = self._relays[node] = Relay(
                node.place, self._history, self._metrics, words=SHARDED
            )
            relay.hand_to(**self._hand_to)
            relay.on_moved = self._note_moved
            relay.passings.on_stray = self._note_stray
            scope = self._scopes[node] = trio.CancelScope()
            if self._nursery is not None:
                self._nursery.start_soon(_run_within, scope, relay)
        return relay

    def _note_moved(self, subscription: Subscription, where: Exception | None) -> None:
        """A master does not tell a channel any more, and may say who does."""
        if isinstance(where, Redirected):
            self._masters.note_moved(where)
            return
        self._masters.look()
        # Whoever is asked says where it is.
        relay = self._relay_of(subscription.channel)
        relay.adopt(subscription, relay.release(subscription))

    def _note_stray(self, subscription: Subscription, on_passed: OnPassed) -> None:
        """It was asked at a master that has the slot no more."""
        relay = self._relay_of(subscription.channel)
        if relay.is_current(subscription):
            relay.when_passed(subscription, on_passed)

    def _spread(self, slots: Iterable[int]) -> None:
        """Let the subscriptions of slots be heard at the masters that have them by now."""
        moved = set(slots)
        for node in self._masters.nodes:
            self._relay_at(node)
        for node, relay in list(self._relays.items()):
            for subscription in relay.all_subscriptions():
                if subscription.slot not in moved:
                    continue
                master = self._masters.of_slot(subscription.slot)
                if master is not None and master is not node:
                    self._relay_at(master).adopt(subscription, relay.release(subscription))
            if node not in self._masters.nodes and not relay.subscriptions:
                del self._relays[node]
                self._scopes.pop(node).cancel()


async def _run_within(scope: trio.CancelScope, relay: Relay) -> None:
    with scope:
        await relay.run()


@lru_cache(maxsize=16_384)
def _channel_of(group: str) -> bytes:
    """The sharded channel of a group: in the slot of its list."""
    return f"{tag_of(slot_of(messages_key(group)))}{channel_of(group)}".encode()
