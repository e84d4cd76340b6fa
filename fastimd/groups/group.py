"""One group with members on this daemon: who they are, and what waits for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..websocket.outbox import Outbox
from .audience import Arrival, Audience, Batch, Dialect, Greeting
from .budget import Budget
from .gap import NO_GAP, Gap, thin
from .moderation.policy import Policy
from .pieces import messages_of, pieces_of
from .subscription import OnLost, OnMessage, Subscription

Helping: TypeAlias = tuple[Dialect, tuple[Outbox, ...], Batch]
"""Members that speak a dialect, and what all of them are given."""


class Group:
    """What the hub has of a group; ``receive`` and ``lose`` are what its relay calls."""

    __slots__ = (
        "audiences",
        "budget",
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
        # Only where messages may be left out of what is delivered.
        self.budget: Budget | None = None

    @property
    def members(self) -> int:
        """How many there are, without the arrivals."""
        return sum(len(audience.members) for audience in self.audiences)

    @property
    def hearers(self) -> int:
        """How many there are with the arrivals."""
        return len(self.on_lost)

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
        undecided = 0  # of what came since: a budget may leave it out, in the flush
        if self.budget is not None:
            undecided = min(len(self.pending), len(self.recent))
        arrival = Arrival(greeting, self.received - undecided, self.fences + 1)
        missed = self._recent_of(arrival, len(self.recent) - undecided)
        frames = audience.dialect.encode(self.name, missed) if missed else []
        first = b"".join([opening, greeting.data, *frames])
        if first:
            outbox.push(first)
        outbox.messages += bool(greeting.data) + messages_of(missed)
        audience.arrivals[outbox] = arrival
        self._forget_recent()
        return len(first)

    def _recent_of(self, arrival: Arrival, count: int) -> Batch:
        """What an arrival lacks of the first ``count`` recent messages, without those left out."""
        recent = self.recent[:count]
        if self.budget is None or not self.budget.left_out:
            return [(ts, message) for ts, message in recent if arrival.lacks(ts, message)]
        missed, passes = [], []
        for number, (ts, message) in enumerate(recent, self.received - len(self.recent)):
            if arrival.lacks(ts, message):
                missed.append((ts, message))
                passes.append(number not in self.budget.left_out)
        missed, arrival.gap = thin(missed, passes, NO_GAP)
        return missed

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
                    self._promote(audience, outbox, arrival)
        return later

    def leave(self, audience: Audience, outbox: Outbox) -> bool:
        """Let a member or arrival go; False when nobody is left."""
        if outbox in audience.members:
            outbox.messages += self.delivered - audience.members.pop(outbox)
        audience.arrivals.pop(outbox, None)
        self.on_lost.pop(outbox, None)
        if self.budget is not None:
            self.budget.late.pop(outbox, None)
        self._forget_recent()
        if not audience.members and not audience.arrivals:
            self.audiences.remove(audience)
        return bool(self.audiences)

    def note_left_out(self, batch: Batch, passes: Sequence[bool]) -> None:
        """Remember for those who are being greeted what is left out of a batch that is served."""
        assert self.budget is not None
        first_recent = self.received - len(self.recent)
        for number, passed in enumerate(passes, self._number_of(batch)):
            if not passed and number >= first_recent:
                self.budget.left_out.add(number)

    def helpings(self, batch: Batch, passes: Sequence[bool] | None) -> list[Helping]:
        """What the members of now are given of a batch within the group's budget.

        Those who miss the same are given the same, with the gaps in it. It may be nothing.

        Args:
            passes: of each message whether it is given; None when all are.
        """
        budget = self.budget
        assert budget is not None
        tells_all = budget.tells_all
        given, budget.gap = thin(batch, passes, budget.gap, tells_all=tells_all)
        late, budget.late = budget.late, {}
        helpings: list[Helping] = []
        for audience in self.audiences:
            apart = [outbox for outbox in late if outbox in audience.members]
            outboxes = tuple(audience.members)
            if apart:
                outboxes = tuple(each for each in outboxes if each not in late)
            helpings.append((audience.dialect, outboxes, given))
            by_gap: dict[Gap, list[Outbox]] = {}
            for outbox in apart:
                by_gap.setdefault(late[outbox], []).append(outbox)
            for gap, those in by_gap.items():
                theirs, untold = thin(batch, passes, gap, tells_all=tells_all)
                helpings.append((audience.dialect, tuple(those), theirs))
                for outbox in those:
                    budget.note_member(outbox, untold)
        return helpings

    def serve_arrivals(
        self, audience: Audience, batch: Batch, passes: Sequence[bool] | None, piece_bytes: int
    ) -> tuple[int, int]:
        """Give the newer part of the batch to the arrivals that lack it, after ``helpings``.

        One that knows enough is a member from now on.

        Returns:
            How many messages were given, and how many bytes.
        """
        given = size = 0
        first = self._number_of(batch)
        for outbox, arrival in list(audience.arrivals.items()):
            if arrival is None:
                continue
            numbers, is_settled = arrival.choose(batch, first)
            chosen = [batch[number] for number in numbers]
            if self.budget is not None:
                passing = None if passes is None else [passes[number] for number in numbers]
                chosen, arrival.gap = thin(
                    chosen, passing, arrival.gap, tells_all=self.budget.tells_all
                )
            if chosen:
                for piece in pieces_of(audience.dialect.encode(self.name, chosen), piece_bytes):
                    outbox.push(piece)
                    size += len(piece)
                outbox.messages += messages_of(chosen)
                given += messages_of(chosen)
            if is_settled:
                self._promote(audience, outbox, arrival)
        return given, size

    def is_arriving_untold(self) -> bool:
        """Somebody among the arrivals misses something, and is not told yet."""
        return any(
            arrival is not None and arrival.gap.missed
            for audience in self.audiences
            for arrival in audience.arrivals.values()
        )

    def count_hearers(self, batch: Batch) -> list[int]:
        """How many each message of a batch goes to, before it does."""
        first = self._number_of(batch)
        heard = [self.members] * len(batch)
        for audience in self.audiences:
            for arrival in audience.arrivals.values():
                if arrival is not None:
                    chosen = arrival.choose(batch, first)[0]
                    for index in chosen:
                        heard[index] += 1
        return heard

    def _promote(self, audience: Audience, outbox: Outbox, arrival: Arrival) -> None:
        audience.promote(outbox, self.delivered)
        if self.budget is not None and audience.dialect.resumes:
            self.budget.note_member(outbox, arrival.gap)

    def _number_of(self, batch: Batch) -> int:
        """The number of the first message of a batch that is served now."""
        return self.received - len(self.pending) - len(batch)

    def _forget_recent(self) -> None:
        if self.recent and not self._is_greeting():
            self.recent.clear()
            if self.budget is not None:
                self.budget.left_out.clear()

    def _is_greeting(self) -> bool:
        """Somebody waits for a greeting that is being read."""
        for audience in self.audiences:  # noqa: SIM110 - asked at each message, and any() costs more
            if None in audience.arrivals.values():
                return True
        return False
