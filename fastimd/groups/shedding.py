"""The budgets of a daemon's groups: who has one, what it leaves out, and when that is told.

Most groups never come near their budget, and have no ``Budget``. The relay hands on at most
``BATCHES_A_SECOND`` batches in a second; so a group whose batch would stay within the budget even
if that many came like it needs no counting. The first batch beyond that gives it a budget, which
it keeps until the bucket is full again and everything has been told.
"""

from __future__ import annotations

import structlog
import trio

from ..base.metrics import Metrics
from .audience import Batch
from .budget import BATCHES_A_SECOND, Budget, Rounds
from .group import Group, Helping

LOOK_SECONDS = 0.25
"""Seconds from one look at what is not told yet to the next."""

UNTOLD_SECONDS = 0.5
"""How long a gap waits for a message that it can be told with."""

QUIET_SECONDS = 5.0
"""A group that has left out nothing for so long is over its budget no more."""

log = structlog.get_logger("fastimd.hub")


class Shedding:
    """What is left out of live deliveries on this daemon.

    While there are ``budgets``, or a rate is set, each flush is a round that begins and ends here.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._rounds = Rounds()
        self._rate = 0
        self._served: list[Budget] = []
        self.budgets: dict[Group, Budget] = {}
        self._some_have_one = trio.Event()

    def begin_round(self, groups: list[Group], rate: int) -> None:
        """Say what the groups that are about to be served may have.

        Args:
            rate: deliveries a second of each group; 0 for any number.
        """
        self._rate = rate
        now = trio.current_time()
        wanted = 0.0
        self._served = []
        for group in groups:
            cost = group.hearers
            if group.budget is None:
                if not rate or cost * len(group.pending) * BATCHES_A_SECOND <= rate:
                    continue
                group.budget = self.budgets[group] = Budget()
                self._some_have_one.set()
            room = group.budget.fill(rate, cost, now)
            wanted += min(room, cost * len(group.pending))
            self._served.append(group.budget)
        share = self._rounds.share(wanted) if rate else 1.0
        for budget in self._served:
            budget.share = share

    def end_round(self, deliveries: int, seconds: float) -> None:
        """The round has had so many deliveries, and has taken so long."""
        self._rounds.note(deliveries, seconds)
        for budget in self._served:
            budget.tells_all = False

    def serve(self, group: Group, batch: Batch) -> tuple[list[bool] | None, list[Helping]]:
        """Choose from a batch of a group that has a budget.

        Returns:
            Of each message whether it is delivered, None when all are; and what members are given.
        """
        budget = group.budget
        assert budget is not None
        passes = budget.choose(batch)
        if passes is not None:
            if group.recent:
                group.note_left_out(batch, passes)
            self._count(group, budget, passes.count(False))
        helpings = group.helpings(batch, passes)
        if any(helping for _, _, helping in helpings):
            is_told = not (budget.gap.missed or budget.late)
            budget.untold_since = None if is_told else trio.current_time()
        return passes, helpings

    def _count(self, group: Group, budget: Budget, left_out: int) -> None:
        now = trio.current_time()
        if budget.shedding_since is None:
            budget.shedding_since = now
            log.info(
                "room.shedding",
                group=group.name,
                members=budget.cost,
                max_deliveries_per_second=self._rate,
            )
        budget.shed_at = now
        if budget.untold_since is None:
            budget.untold_since = now
        budget.messages += left_out
        budget.deliveries += left_out * budget.cost
        self._metrics.messages_shed += left_out
        self._metrics.deliveries_shed += left_out * budget.cost

    async def wait_some(self) -> None:
        """Wait until a group has a budget."""
        await self._some_have_one.wait()

    def due(self) -> list[Group]:
        """The groups whose members have waited long enough for a gap: the next flush tells it."""
        now = trio.current_time()
        due = []
        for group, budget in self.budgets.items():
            # None: those who were members then have been told, and others have come since.
            since = budget.untold_since
            is_due = bool(budget.late) if since is None else now - since >= UNTOLD_SECONDS
            if is_due and group.audiences:
                budget.tells_all = True
                budget.take(budget.cost)
                due.append(group)
        return due

    def let_go(self) -> None:
        """Forget the budgets that are as good as new, and say which groups are within theirs."""
        now = trio.current_time()
        for group, budget in list(self.budgets.items()):
            is_quiet = now - budget.shed_at >= QUIET_SECONDS or not group.audiences
            if budget.shedding_since is not None and is_quiet:
                log.info(
                    "room.shed",
                    group=group.name,
                    messages=budget.messages,
                    deliveries=budget.deliveries,
                    seconds=round(budget.shed_at - budget.shedding_since, 3),
                )
                budget.shedding_since = None
                budget.messages = budget.deliveries = 0
            if not group.audiences or self._is_as_new(group, budget, now):
                group.budget = None
                del self.budgets[group]
        if not self.budgets:
            self._some_have_one = trio.Event()

    def _is_as_new(self, group: Group, budget: Budget, now: float) -> bool:
        if budget.shedding_since is not None or budget.untold_since is not None:
            return False
        if budget.left_out or budget.late or group.is_arriving_untold():
            return False
        budget.fill(self._rate, budget.cost, now)
        return budget.is_full
