"""What the pub/sub connection was asked and has not answered yet.

Redis answers in order, so a queue of what was asked is all the bookkeeping there is. The
subscriptions of one scheduler turn leave as one command, which is answered channel by channel.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import trio
from redis import exceptions

from ..redis.replies import NotNow, Redirected
from ..redis.wire import Argument, Wire
from .hearing import DEAF, HEAR_SECONDS, Hearing
from .subscription import Subscription

SUBSCRIBED_AT_ONCE = 1000
"""Channels that are subscribed before other tasks get their turn."""


class Words(NamedTuple):
    """How channels are asked for, and what comes of it; ``at_once`` in one command."""

    subscribe: str
    unsubscribe: str
    message: bytes
    subscribed: bytes
    unsubscribed: bytes
    at_once: int


PLAIN = Words("SUBSCRIBE", "UNSUBSCRIBE", b"message", b"subscribe", b"unsubscribe", 1000)
SHARDED = Words("SSUBSCRIBE", "SUNSUBSCRIBE", b"smessage", b"ssubscribe", b"sunsubscribe", 1)
"""Of channels that lie in a slot: those of one command must lie in the same."""


class _Ping:
    """A PING that was sent; who waits is told whether it was answered, or the connection broke."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: list[Callable[[bool], None]] = []

    def tell(self, *, answered: bool) -> None:
        for on_passed in self.waiting:
            on_passed(answered)


class Questions:
    """Asks the connection that there is; without one nothing is asked.

    ``hearing`` is that of this connection.
    """

    def __init__(self, words: Words = PLAIN) -> None:
        self._words = words
        self._wire: Wire | None = None
        self.hearing = DEAF
        # Channels to subscribe, each command with those that are not confirmed yet; a PING; a
        # channel to unsubscribe; None for what is forgotten.
        self._asked: deque[deque[Subscription] | _Ping | bytes | None] = deque()
        # Those of them that more can be added to, for they have not been written yet.
        self._subscribing: deque[Subscription] | None = None
        self._ping: _Ping | None = None
        # How many answers each subscription waits for.
        self._unanswered: Counter[Subscription] = Counter()

    def take_over(self, wire: Wire) -> None:
        """Ask this connection from now on."""
        self._wire = wire
        self.hearing = Hearing()

    def let_go(self) -> None:
        """The connection is gone; what it was asked will not be answered."""
        self._wire = None
        self.hearing.end()
        asked, self._asked = self._asked, deque()
        self._subscribing = self._ping = None
        self._unanswered.clear()
        for each in asked:
            if isinstance(each, _Ping):
                each.tell(answered=False)

    def subscribe(self, subscription: Subscription) -> None:
        """Ask for a channel."""
        if self._wire is None:
            return
        if self._subscribing is None or len(self._subscribing) == self._words.at_once:
            self._subscribing = deque()
            self._asked.append(self._subscribing)
            self._wire.write_later(partial(self._subscribe_all, self._subscribing))
        self._subscribing.append(subscription)
        self._unanswered[subscription] += 1

    def subscribe_alone(self, subscription: Subscription) -> None:
        """Ask for a channel with a command of its own."""
        self._subscribing = None
        self.subscribe(subscription)
        self._subscribing = None

    def unsubscribe(self, channel: bytes) -> None:
        """Ask for no more of a channel."""
        if self._wire is not None:
            self._subscribing = None  # what comes later must be written later
            self._asked.append(channel)
            self._wire.write(self._words.unsubscribe, channel)

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

    async def keep_hearing(self) -> None:
        """Make sure, again and again, that what is published is heard; until cancelled."""
        while True:
            self.ping(self.hearing.begin())
            await trio.sleep(HEAR_SECONDS)

    def probe(self) -> None:
        """Ask for a sign of life."""
        assert self._wire is not None
        self._asked.append(None)
        self._wire.write("PING")

    def take_confirmation(self) -> Subscription | None:
        """A channel is subscribed: whose it is, or None if that has asked again since.

        It was elsewhere meanwhile, and what was told before is worth nothing.
        """
        batch = self._asked[0]
        assert isinstance(batch, deque)
        subscription = batch.popleft()
        if not batch:
            self._asked.popleft()
        return subscription if self._is_answered(subscription) else None

    def _is_answered(self, subscription: Subscription) -> bool:
        """Take one answer for a subscription; whether it waits for no other."""
        self._unanswered[subscription] -= 1
        if self._unanswered[subscription]:
            return False
        del self._unanswered[subscription]
        return True

    def has_unsubscribed(self, channel: bytes) -> bool:
        """Whether that a channel is not subscribed any more is the next answer."""
        return bool(self._asked) and self._asked[0] == channel

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
            if isinstance(refusal, (exceptions.NoPermissionError, Redirected)):
                for subscription in asked:
                    self._is_answered(subscription)
                return list(asked)
            raise refusal
        if not isinstance(refusal, NotNow):
            raise refusal
        if isinstance(asked, _Ping):  # a sign of life all the same, and in its place
            asked.tell(answered=True)
        return []

    def _subscribe_all(self, batch: deque[Subscription]) -> tuple[Argument, ...]:
        """The command for those of one scheduler turn, as it leaves."""
        if self._subscribing is batch:
            self._subscribing = None
        return (self._words.subscribe, *[subscription.channel for subscription in batch])

    def _ping_leaves(self) -> tuple[Argument, ...]:
        self._ping = None
        return ("PING",)
