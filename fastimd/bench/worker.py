"""What the processes of a run have in common, and those whose sockets only sit there."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .board import Board, Counter, Phase
from .dialect import Dialect, Position, Texts, Visit
from .histogram import Histogram
from .links import Crowd, Link, Openings, Plan, QuietSocket, Unusable, allow_files, resolve
from .live import Live, ReplyReader
from .spec import Place, Spec
from .transcript import Disorder

TURN_SECONDS = 0.02
"""How soon a process sees that the phase has changed."""


def check(spec: Spec) -> None:
    """See whether a run can be, before anybody is asked anything.

    Raises:
        Unusable: it cannot.
    """
    if spec.groups_each > spec.groups:
        raise Unusable(f"{spec.groups_each} groups each of {spec.groups} groups")
    if spec.groups_each > 1 and spec.mode != "list" and not spec.dialect.is_live:
        raise Unusable("only on the live wire is a socket in several groups")
    allow_files(files_of(spec))
    resolve(spec.addresses)


def files_of(spec: Spec) -> int:
    """How many sockets a process of the run may have open."""
    return spec.sockets_a_process + spec.active + spec.opening


@dataclass
class Tally:
    """What a process has to say in the end.

    Args:
        latencies: from sending to hearing, ns.
        lasts: how many messages each list's group had said, and how many sockets show which.
    """

    openings: Openings = field(default_factory=Openings)
    latencies: Histogram = field(default_factory=Histogram)
    cpu_seconds: float = 0.0
    disorder: str = ""
    said: dict[int, int] = field(default_factory=dict)
    shown: dict[tuple[int, int], int] = field(default_factory=dict)


class Worker:
    """One process's part of a run.

    Raises:
        Unusable: the run cannot be.
    """

    def __init__(self, spec: Spec, process: int, board: Board, mark: bytes) -> None:
        allow_files(files_of(spec))
        self.spec = spec
        self.process = process
        self.board = board
        self.tally = Tally()
        self.crowd = Crowd(spec.addresses)
        self.texts = Texts(spec.dialect, spec.size, mark)
        self.places = list(spec.places(process))
        self.answers = 0
        self.positions: dict[str, Position] = {}
        """Where the groups stand, as far as sockets of this process have been told."""

    def work(self) -> Tally:
        """Do it.

        Raises:
            OSError: a socket was lost, or closed by the server.
        """
        try:
            self.run()
        except Disorder as exc:
            self.tally.disorder = str(exc)
        finally:
            self.crowd.close()
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.tally.cpu_seconds = used.ru_utime + used.ru_stime
        return self.tally

    def run(self) -> None:
        """Open the sockets and do what the mode asks, phase by phase."""
        raise NotImplementedError

    def open(self, plans: Iterable[Plan], at_once: int = 0) -> None:
        """Open sockets.

        Raises:
            ConnectionError: one was refused, and the mode is not there to count that.
        """
        self.tally.openings = self.crowd.open(plans, at_once or self.spec.opening)
        if self.tally.openings.refused and self.spec.mode != "storm":
            raise ConnectionError(self.tally.openings.reason)

    def plan(
        self,
        groups: tuple[str, ...],
        user: str,
        on_open: Callable[[Link], None],
        on_data: Callable[[bytes], None],
        *,
        dialect: Dialect | None = None,
        since: Mapping[str, Position] | None = None,
    ) -> Plan:
        """A socket of a user, with the token if there is one.

        Args:
            on_data: gets what comes: frames, or pushes on the live wire.
            since: where the user stands in groups that it returns to.
        """
        token = self.spec.tokens.get(user, "")
        visit = Visit(groups, user, token, since or {}, self.positions)
        dialect = dialect or self.spec.dialect
        if isinstance(dialect, Live):
            reader = ReplyReader(dialect.encoding, on_open, on_data, self._count_answers)
            on_open, on_data = reader.enter, reader.take
        return Plan(dialect, visit, on_open, on_data)

    def _count_answers(self, count: int) -> None:
        self.answers += count

    def count_open(self, _link: Link) -> None:
        """Tell the others that one more is open."""
        self.board.add(self.process, Counter.OPEN)

    def wait_for(self, phase: Phase) -> None:
        """Let the sockets live until a phase begins."""
        while self.board.phase < phase:
            self.crowd.turn(TURN_SECONDS)


class Sitters(Worker):
    """Sockets that say nothing: ``idle`` and ``storm``."""

    def run(self) -> None:
        """Open them, and in a storm drop them all and open them again, all at once."""
        self.open(self._plans({}))
        self.wait_for(Phase.MEASURED)
        if self.spec.mode == "storm":
            self.crowd.close()
            self.open(self._plans(self.positions.copy()), at_once=len(self.places))
            self.board.set(self.process, Counter.DONE, 1)
        self.wait_for(Phase.OVER)

    def _plans(self, since: Mapping[str, Position]) -> Iterable[Plan]:
        for place in self.places:
            yield self._quiet_plan(place, since)

    def _quiet_plan(self, place: Place, since: Mapping[str, Position]) -> Plan:
        """A socket that only answers pings."""
        quiet = QuietSocket()

        def enter(link: Link) -> None:
            quiet.enter(link)
            self.count_open(link)

        take = _hear_nothing if self.spec.dialect.is_live else quiet.take
        return self.plan(place.groups, place.user, enter, take, since=since)


def _hear_nothing(_pushes: bytes) -> None:
    """Pushes for a socket that only sits there; their reader has answered the pings."""
