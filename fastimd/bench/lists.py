"""Group-list sockets, and talkers in the groups that they show: ``list``."""

from __future__ import annotations

import time
from collections import Counter as Count
from collections.abc import Iterable
from functools import partial

from .board import Board, Counter, Phase
from .dialect import GROUP_LIST
from .links import Link, Plan, QuietSocket
from .spec import Spec
from .talkers import Schedule
from .transcript import Disorder
from .worker import TURN_SECONDS, Worker


class _ListSocket(QuietSocket):
    """What it shows of each group must become what was said there last."""

    def __init__(self, lists: Lists, groups: Iterable[int]) -> None:
        super().__init__(self._take_push)
        self._lists = lists
        self.newest = dict.fromkeys(groups, -1)

    def enter(self, link: Link) -> None:
        super().enter(link)
        self._lists.count_open(link)

    def _take_push(self, payload: bytes) -> None:
        now = time.monotonic_ns()
        for group, number, moment in self._lists.texts.read_all(payload):
            newest = self.newest.get(group)
            if newest is None:
                raise Disorder(f"a push shows group {group}, which is not the user's")
            if number < newest:
                raise Disorder(f"a push shows number {number} of a group after {newest}")
            if number > newest:
                self.newest[group] = number
                self._lists.note(now, moment)
        self._lists.pushes += 1


class Lists(Worker):
    """The talker of group N is sender N."""

    def __init__(self, spec: Spec, process: int, board: Board, mark: bytes) -> None:
        super().__init__(spec, process, board, mark)
        self.pushes = 0
        self._measured_from = 0
        self._talkers: dict[int, Link] = {}
        self._said: Count[int] = Count()
        self._sockets = [
            _ListSocket(self, (g for g in spec.groups_of(place.number) if g < spec.active))
            for place in self.places
        ]

    def run(self) -> None:
        """Join the groups, open the lists, talk, and tell what was said and what was shown."""
        spec = self.spec
        active = range(self.process, spec.active, spec.processes)
        if not spec.joined:
            self.open(self._joins())
        self.open(self._talks(active))
        self.open(
            self.plan((), place.user, lists.enter, lists.take, dialect=GROUP_LIST)
            for place, lists in zip(self.places, self._sockets, strict=True)
        )
        self.wait_for(Phase.WARMING)
        schedule = Schedule(spec.rate * len(active), active, self._say) if active else None
        while (phase := self.board.phase) < Phase.OVER:
            if phase >= Phase.MEASURED and not self._measured_from:
                self._measured_from = time.monotonic_ns()
            may_talk = schedule is not None and phase < Phase.DRAINING
            self.crowd.turn(schedule.turn() if schedule is not None and may_talk else TURN_SECONDS)
            self.board.set(self.process, Counter.SAID, self._said.total())
            self.board.set(self.process, Counter.HEARD, self.pushes)
        self.tally.said = dict(self._said)
        self.tally.shown = dict(
            Count(shown for lists in self._sockets for shown in lists.newest.items())
        )

    def note(self, now: int, sent_at: int) -> None:
        """Note how long a message of the measured time took to be shown."""
        if 0 < self._measured_from <= sent_at:
            self.tally.latencies.add(now - sent_at)

    def _joins(self) -> Iterable[Plan]:
        # Who opens a group's socket has joined it, and may leave.
        for place in self.places:
            for group in place.groups:
                yield self.plan((group,), place.user, self.crowd.drop, _hear_nothing)

    def _talks(self, active: Iterable[int]) -> Iterable[Plan]:
        for group in active:
            quiet = QuietSocket()
            enter = partial(self._enter, quiet, group)
            talker = self.spec.user(self.spec.sockets)
            yield self.plan((self.spec.group(group),), talker, enter, quiet.take)

    def _enter(self, quiet: QuietSocket, group: int, link: Link) -> None:
        quiet.enter(link)
        self._talkers[group] = link

    def _say(self, group: int, moment: int) -> None:
        self._talkers[group].send(self.texts.frame(group, self._said[group], moment))
        self._said[group] += 1


def _hear_nothing(_data: bytes) -> None:
    """Bytes that came for who has left."""
