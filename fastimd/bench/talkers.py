"""Members of groups who check what they hear, and talkers among them: ``burst`` and ``talk``."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable

from .board import Board, Counter, Phase
from .links import Link
from .spec import Place, Spec
from .transcript import Transcript
from .worker import TURN_SECONDS, Worker

SAMPLED = 16
"""Members of a process whose latencies are noted: noting costs more than hearing."""
POLL_SECONDS = 0.001
"""How soon a talker sees what members in other processes have heard."""


class _Member:
    """A socket that checks what it hears, and says something when it is its turn."""

    __slots__ = (
        "_awaits_own",
        "_group",
        "_is_sampled",
        "_link",
        "_listener",
        "_number",
        "_sender",
        "_talk",
    )

    def __init__(self, talk: Talkers, sender: int, group: Transcript, *, is_sampled: bool) -> None:
        self._talk = talk
        self._sender = sender
        self._group = group
        self._is_sampled = is_sampled
        self._awaits_own = talk.spec.mode == "talk" and not talk.spec.rate
        self._listener = group.listen()
        self._number = 0
        self._link: Link

    def enter(self, link: Link) -> None:
        self._link = link
        self._talk.count_open(link)

    def say(self, times: int, moment: int) -> None:
        first, self._number = self._number, self._number + times
        frame = self._group.texts.frame
        said = [frame(self._sender, number, moment) for number in range(first, self._number)]
        self._link.send(b"".join(said))

    def take(self, data: bytes) -> None:
        talk, group, listener = self._talk, self._group, self._listener
        before = group.take(listener, data, self._link.pong)
        after = listener.heard
        talk.heard += after - before
        if self._is_sampled:
            now = time.monotonic_ns()
            for index in range(before, after):
                talk.note(now, group.moment(index))
        if self._awaits_own:
            for index in range(before, after):
                if group.sender(index) == self._sender:
                    talk.say(self._sender)


class Talkers(Worker):
    """Members that hear everything, and talkers among them."""

    def __init__(self, spec: Spec, process: int, board: Board, mark: bytes) -> None:
        super().__init__(spec, process, board, mark)
        self.heard = 0
        self._said = 0
        self._measured_from = 0
        self._may_talk = False
        self._groups: dict[str, Transcript] = {}
        every = max(1, len(self.places) // SAMPLED)
        self._members = {
            place.number: _Member(self, place.number, self._group(place), is_sampled=n % every == 0)
            for n, place in enumerate(self.places)
        }

    def run(self) -> None:
        """Open the members' sockets, and let them talk until the run is over."""
        self.open(
            self.plan(place.groups, place.user, member.enter, member.take)
            for place, member in zip(self.places, self._members.values(), strict=True)
        )
        self.wait_for(Phase.WARMING)
        self._may_talk = True
        talk = self._talk()
        while (phase := self.board.phase) < Phase.OVER:
            if phase >= Phase.DRAINING and self._may_talk:
                self._may_talk = False
                self.board.set(self.process, Counter.SAID, self._said)
                self.board.set(self.process, Counter.DONE, 1)
            if phase >= Phase.MEASURED and not self._measured_from:
                self._measured_from = time.monotonic_ns()
            wait = talk() if self._may_talk else TURN_SECONDS
            self.board.set(self.process, Counter.SAID, self._said)
            self.crowd.turn(wait)
            self.board.set(self.process, Counter.HEARD, self.heard)
            self.board.set(self.process, Counter.ANSWERED, self.answers)

    def note(self, now: int, sent_at: int) -> None:
        """Note how long a message of the measured time took."""
        if 0 < self._measured_from <= sent_at:
            self.tally.latencies.add(now - sent_at)

    def say(self, sender: int, moment: int = 0, *, times: int = 1) -> None:
        """Let a member say something, unless talking is over."""
        if self._may_talk:
            self._members[sender].say(times, moment or time.monotonic_ns())
            self._said += times

    def _group(self, place: Place) -> Transcript:
        group = self._groups.get(place.group)
        if group is None:
            group = Transcript(self.texts.in_group(place.group), self.spec.dialect)
            self._groups[place.group] = group
        return group

    def _talk(self) -> Callable[[], float]:
        """What makes the members talk: called in each turn, it returns how long that may wait."""
        spec = self.spec
        senders = [place.number for place in self.places if spec.mode == "talk" or not place.number]
        if not senders:
            return lambda: TURN_SECONDS
        if spec.rate:
            share = len(senders) / (spec.sockets if spec.mode == "talk" else 1)
            return Schedule(spec.rate * share, senders, self.say).turn
        if spec.mode == "burst":
            return self._burst
        for sender in senders * spec.in_flight:
            self.say(sender)
        return lambda: TURN_SECONDS

    def _burst(self) -> float:
        spec = self.spec
        heard = self.heard if spec.processes == 1 else self.board.total(Counter.HEARD)
        while self._said + spec.at_once - heard // spec.members <= spec.in_flight:
            self.say(0, times=spec.at_once)
        return TURN_SECONDS if spec.processes == 1 else POLL_SECONDS


class Schedule:
    """Talk at a rate, whatever comes back: a message is dated to when it was due."""

    def __init__(
        self, rate: float, senders: Iterable[int], say: Callable[[int, int], None]
    ) -> None:
        self._step = round(1e9 / rate)
        self._senders = itertools.cycle(senders)
        self._say = say
        self._due = time.monotonic_ns()

    def turn(self) -> float:
        """Say what is due; returns the seconds until more is, or a turn's."""
        now = time.monotonic_ns()
        while self._due <= now:
            self._say(next(self._senders), self._due)
            self._due += self._step
        return min(TURN_SECONDS, (self._due - now) / 1e9)
