"""One group with members on this daemon: who they are, and what waits for them."""

from __future__ import annotations

from collections.abc import Callable

from ..websocket.outbox import Outbox
from .audience import Arrival, Audience, Batch, Dialect, Greeting
from .moderation.policy import Policy
from .pieces import messages_of, pieces_of
from .subscription import OnLost, OnMessage, Subscription


class Group:
    """What the hub has of a group; ``receive`` and ``lose`` are what its relay calls."""

    __slots__ = (
        "audiences",
        "delivered",
        "fences",
        "is_fenced",
        "lose",
        "name",
        "on_lost",
        "pending",
        "policy",
        "receive",
        "received",
        "recent",
        "subscription",
    )

    receive: OnMessage
    lose: OnLost
    subscription: Subscription
    policy: Policy

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
