"""What the pub/sub connection was asked and has not answered yet.

Redis answers in order, so a queue of what was asked is all the bookkeeping there is. The
subscriptions of one scheduler turn leave as one command, which is answered channel by channel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from redis import exceptions

from ..redis.wire import Argument, NotNow, Wire
from .subscription import Subscription

SUBSCRIBED_AT_ONCE = 1000
"""Channels in one command."""


class _Ping:
    """A PING that was sent; who waits is told whether it was answered, or the connection broke."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: list[Callable[[bool], None]] = []

    def tell(self, *, answered: bool) -> None:
        for on_passed in self.waiting:
            on_passed(answered)


class Questions:
    """Asks the connection that there is; without one nothing is asked."""

    def __init__(self) -> None:
        self._wire: Wire | None = None
        # Channels to subscribe, each command with those that are not confirmed yet; a PING; None
        # for what is forgotten.
        self._asked: deque[deque[Subscription] | _Ping | None] = deque()
        # Those of them that more can be added to, for they have not been written yet.
        self._subscribing: deque[Subscription] | None = None
        self._ping: _Ping | None = None

    def take_over(self, wire: Wire) -> None:
        """Ask this connection from now on."""
        self._wire = wire

    def let_go(self) -> None:
        """The connection is gone; what it was asked will not be answered."""
        self._wire = None
        asked, self._asked = self._asked, deque()
        self._subscribing = self._ping = None
        for each in asked:
            if isinstance(each, _Ping):
                each.tell(answered=False)

    def subscribe(self, subscription: Subscription) -> None:
        """Ask for a channel."""
        if self._wire is None:
            return
        if self._subscribing is None or len(self._subscribing) == SUBSCRIBED_AT_ONCE:
            self._subscribing = deque()
            self._asked.append(self._subscribing)
            self._wire.write_later(partial(self._subscribe_all, self._subscribing))
        self._subscribing.append(subscription)

    def subscribe_alone(self, subscription: Subscription) -> None:
        """Ask for a channel with a command of its own."""
        self._subscribing = None
        self.subscribe(subscription)
        self._subscribing = None

    def unsubscribe(self, channel: bytes) -> None:
        """Ask for no more of a channel."""
        if self._wire is not None:
            self._subscribing = None  # what comes later must be written later
            self._asked.append(None)
            self._wire.write("UNSUBSCRIBE", channel)

    def ping(self, on_passed: Callable[[bool], None]) -> None:
        """Have ``on_passed`` told when all that was published before was handed on, or was lost."""
        if self._wire is None:
            on_passed(False)
            return
        if self._ping is None:
            self._ping = _Ping()
            self._asked.append(self._ping)
            self._wire.write_later(self._ping_leaves)
        self._ping.waiting.append(on_passed)

    def probe(self) -> None:
        """Ask for a sign of life."""
        assert self._wire is not None
        self._asked.append(None)
        self._wire.write("PING")

    def take_confirmation(self) -> Subscription:
        """A channel is subscribed: whose it is."""
        batch = self._asked[0]
        assert isinstance(batch, deque)
        subscription = batch.popleft()
        if not batch:
            self._asked.popleft()
        return subscription

    def take_pong(self) -> None:
        """A PING or an UNSUBSCRIBE was answered."""
        asked = self._asked.popleft()
        if isinstance(asked, _Ping):
            asked.tell(answered=True)

    def take_refusal(self, refusal: Exception) -> list[Subscription]:
        """Redis refuses what it was asked: returns those whose channels it does not let be heard.

        Raises:
            Exception: the refusal, when it makes the connection useless.
        """
        asked = self._asked.popleft() if self._asked else None
        if isinstance(asked, deque):
            if isinstance(refusal, exceptions.NoPermissionError):
                return list(asked)
            raise refusal
        if not isinstance(refusal, NotNow):
            raise refusal
        if asked is not None:  # a sign of life all the same, and in its place
            asked.tell(answered=True)
        return []

    def _subscribe_all(self, batch: deque[Subscription]) -> tuple[Argument, ...]:
        """The command for those of one scheduler turn, as it leaves."""
        if self._subscribing is batch:
            self._subscribing = None
        return ("SUBSCRIBE", *[subscription.channel for subscription in batch])

    def _ping_leaves(self) -> tuple[Argument, ...]:
        self._ping = None
        return ("PING",)
