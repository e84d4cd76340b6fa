"""One run: its processes, its phases, and what came of it."""

from __future__ import annotations

import multiprocessing
import secrets
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import cast

from redis import Redis

from .accounts import OnProgress
from .board import Board, Counter, Phase
from .dialect import Texts
from .histogram import Histogram
from .links import Unusable
from .lists import Lists
from .report import Latency, Result, Server
from .spec import Spec
from .talkers import Talkers
from .usage import Usage
from .worker import Sitters, Tally, Worker

PATIENCE = 10.0
"""Seconds in which something must come while something is still to come."""
QUIET_SECONDS = 3.0
"""How long no push may come before the lists are held to show the last messages."""
LOOK_SECONDS = 0.02

_WORKERS: dict[str, type[Worker]] = {
    "burst": Talkers,
    "talk": Talkers,
    "idle": Sitters,
    "storm": Sitters,
    "list": Lists,
}


_TOLD = (Counter.OPEN, Counter.SAID, Counter.HEARD)

_PARAMETERS = {
    "burst": ("wire", "members", "in_flight", "at_once", "rate", "size", "processes"),
    "talk": ("wire", "groups", "members", "in_flight", "rate", "size", "processes"),
    "idle": ("wire", "groups", "members", "groups_each", "processes"),
    "storm": ("wire", "groups", "members", "groups_each", "processes"),
    "list": ("members", "groups", "groups_each", "active", "rate", "size", "processes"),
}
"""What a result repeats of its spec."""


class Failed(Exception):
    """The run broke off."""


def run(
    spec: Spec,
    *,
    pids: Sequence[int] = (),
    redis: Redis | None = None,
    progress: OnProgress = lambda _line: None,
) -> Result:
    """Do a run.

    Args:
        pids: the servers' processes, whose use of the machine is told.
        redis: the servers' Redis, whose commands are counted.
        progress: gets a line now and then.

    Raises:
        Unusable: it cannot be done with these addresses and limits.
        Failed: it broke off.
    """
    return _Run(replace(spec, run=spec.run or secrets.token_hex(4)), pids, redis, progress).do()


class _Run:
    def __init__(
        self, spec: Spec, pids: Sequence[int], redis: Redis | None, progress: OnProgress
    ) -> None:
        self._spec = spec
        self._pids = pids
        self._redis = redis
        self._progress = progress
        self._board = Board(spec.processes)
        self._processes: list[BaseProcess] = []
        self._ends: list[Connection] = []
        self._told_at = 0.0

    def do(self) -> Result:
        before = Usage.of(self._pids)
        self._fork()
        try:
            began = time.monotonic()
            self._wait_for("open", lambda: self._count(Counter.OPEN) >= self._spec.sockets)
            opening_seconds = time.monotonic() - began
            opened = Usage.of(self._pids)
            if self._spec.mode == "idle":
                result = self._sit(before, opened, opening_seconds)
            elif self._spec.mode == "storm":
                result = self._storm()
            else:
                result = self._talk()
            self._board.phase = Phase.OVER
            return self._conclude(result, self._collect())
        finally:
            for process in self._processes:
                process.kill()
                process.join()

    # Modes

    def _talk(self) -> Result:
        spec, board = self._spec, self._board
        self._pause(spec.settle, "settling")
        board.phase = Phase.WARMING
        self._pause(spec.warm_up, "warming up")
        said, heard = self._count(Counter.SAID), self._count(Counter.HEARD)
        used, commands = Usage.of(self._pids), self._commands()
        began = time.monotonic()
        board.phase = Phase.MEASURED
        self._wait_until(
            began + spec.seconds,
            lambda: 0 < spec.messages <= self._count(Counter.SAID) - said,
        )
        now_said, now_heard = self._count(Counter.SAID), self._count(Counter.HEARD)
        used_now, commands_now = Usage.of(self._pids), self._commands()
        seconds = time.monotonic() - began
        board.phase = Phase.DRAINING
        result = self._result(seconds, now_said - said, now_heard - heard)
        result.messages_per_second = result.messages / seconds
        result.deliveries_per_second = result.deliveries / seconds
        result.server = self._server(used, used_now, result)
        if commands is not None and commands_now is not None:
            result.redis_commands_per_second = (commands_now - commands) / seconds
        if spec.mode == "list":
            self._wait_quiet()
        else:
            result.lost = self._wait_heard()
            result.unanswered = self._wait_answered()
        return result

    def _sit(self, before: Usage, opened: Usage, opening_seconds: float) -> Result:
        spec = self._spec
        self._board.phase = Phase.MEASURED
        used, began = Usage.of(self._pids), time.monotonic()
        self._pause(spec.seconds, "idle")
        result = self._result(time.monotonic() - began)
        result.connects_per_second = spec.sockets / opening_seconds
        if self._pids:
            used_now = Usage.of(self._pids)
            result.server = Server(
                used_now.cpu_seconds - used.cpu_seconds,
                used_now.resident_bytes,
                used_now.kernel_share_since(used),
                cpu_us_per_socket=(opened.cpu_seconds - before.cpu_seconds) / spec.sockets * 1e6,
                bytes_per_socket=(opened.resident_bytes - before.resident_bytes) / spec.sockets,
            )
        return result

    def _storm(self) -> Result:
        spec = self._spec
        used, began = Usage.of(self._pids), time.monotonic()
        self._board.phase = Phase.MEASURED
        self._wait_for("back", lambda: self._count(Counter.DONE) == spec.processes)
        result = self._result(time.monotonic() - began)
        result.connects_per_second = spec.sockets / result.seconds
        if self._pids:
            used_now = Usage.of(self._pids)
            cpu = used_now.cpu_seconds - used.cpu_seconds
            result.server = Server(
                cpu,
                used_now.resident_bytes,
                used_now.kernel_share_since(used),
                cpu_us_per_socket=cpu / spec.sockets * 1e6,
            )
        return result

    # Phases

    def _fork(self) -> None:
        context = multiprocessing.get_context("fork")
        mark = Texts(self._spec.dialect, self._spec.size).mark
        for number in range(self._spec.processes):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_work, args=(self._spec, number, self._board, mark, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._ends.append(ours)

    def _count(self, counter: Counter) -> int:
        return self._board.total(counter)

    def _commands(self) -> int | None:
        if self._redis is None:
            return None
        stats: dict[str, int] = self._redis.info("stats")
        return stats["total_commands_processed"]

    def _look(self, what: str) -> None:
        """Wait a moment, tell of the progress, and see whether every process is still there."""
        for end in wait(self._ends, LOOK_SECONDS):
            told = self._receive(cast(Connection, end))
            raise Failed(told.disorder or "a process ended too early")
        now = time.monotonic()
        if now - self._told_at >= 1:
            self._told_at = now
            counts = ", ".join(f"{c.name.lower()} {self._count(c):,}" for c in _TOLD)
            self._progress(f"{what}: {counts}")

    def _wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait as long as sockets are opened, one after another."""
        state = -1
        since = time.monotonic()
        while not condition():
            self._look(what)
            now = sum(self._count(counter) for counter in Counter)
            if now != state:
                state, since = now, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise Failed(f"nothing happened for {PATIENCE:g} s ({what})")

    def _wait_until(self, deadline: float, condition: Callable[[], bool]) -> None:
        while time.monotonic() < deadline and not condition():
            self._look("measuring")

    def _pause(self, seconds: float, what: str) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._look(what)

    def _wait_heard(self) -> int:
        """Wait for what is on its way; how many deliveries did not come."""
        self._wait_for("the last words", lambda: self._count(Counter.DONE) == self._spec.processes)
        heard, since = -1, time.monotonic()
        while True:
            awaited = self._count(Counter.SAID) * self._spec.members
            now = self._count(Counter.HEARD)
            if now != heard:
                heard, since = now, time.monotonic()
            if now == awaited or time.monotonic() - since > PATIENCE:
                return awaited - now
            self._look("waiting for the last")

    def _wait_answered(self) -> int:
        """Wait for the last answers; how many messages got none, where they get one."""
        if not self._spec.dialect.is_live:
            return 0
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self._unanswered():
            self._look("waiting for the last answers")
        return self._unanswered()

    def _unanswered(self) -> int:
        return self._count(Counter.SAID) - self._count(Counter.ANSWERED)

    def _wait_quiet(self) -> None:
        """Wait until no more pushes come."""
        heard, since = -1, time.monotonic()
        while time.monotonic() - since < QUIET_SECONDS:
            now = self._count(Counter.HEARD)
            if now != heard:
                heard, since = now, time.monotonic()
            self._look("waiting for the last")

    # Results

    def _collect(self) -> list[Tally]:
        return [self._receive(end) for end in self._ends]

    def _receive(self, end: Connection) -> Tally:
        try:
            told = end.recv()
        except EOFError:
            raise Failed("a process of the load generator ended") from None
        if isinstance(told, Unusable | Failed):
            raise told
        assert isinstance(told, Tally)
        return told

    def _result(self, seconds: float, messages: int = 0, deliveries: int = 0) -> Result:
        spec = self._spec
        names = _PARAMETERS[spec.mode]
        return Result(
            spec.mode,
            spec.sockets,
            seconds,
            messages,
            deliveries,
            parameters={name: getattr(spec, name) for name in names},
        )

    def _server(self, before: Usage, after: Usage, result: Result) -> Server | None:
        if not self._pids:
            return None
        cpu = after.cpu_seconds - before.cpu_seconds
        return Server(
            cpu,
            after.resident_bytes,
            after.kernel_share_since(before),
            cpu_us_per_message=cpu / result.messages * 1e6 if result.messages else None,
            cpu_us_per_delivery=cpu / result.deliveries * 1e6 if result.deliveries else None,
        )

    def _conclude(self, result: Result, tallies: list[Tally]) -> Result:
        sitting = self._spec.mode in ("idle", "storm")
        result.latency = Latency.of(
            Histogram().merge(
                tally.openings.took if sitting else tally.latencies for tally in tallies
            )
        )
        result.refused = sum(tally.openings.refused for tally in tallies)
        result.reason = next((t.openings.reason for t in tallies if t.openings.reason), "")
        result.disorder = next((tally.disorder for tally in tallies if tally.disorder), "")
        result.client_cpu_seconds = sum(tally.cpu_seconds for tally in tallies)
        if self._spec.mode == "list":
            result.lost = _lists_behind(tallies)
        if not result.is_sound:
            result.withdraw_speeds()
        return result


def _lists_behind(tallies: list[Tally]) -> int:
    """How many times a list does not show what was said last in one of its groups."""
    said = {group: count for tally in tallies for group, count in tally.said.items()}
    return sum(
        sockets
        for tally in tallies
        for (group, newest), sockets in tally.shown.items()
        if newest != said.get(group, 0) - 1
    )


def _work(spec: Spec, process: int, board: Board, mark: bytes, end: Connection) -> None:
    """What a process does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the one who started us ends us
    told: object
    try:
        told = _WORKERS[spec.mode](spec, process, board, mark).work()
    except Unusable as exc:
        told = exc
    except OSError as exc:
        told = Failed(str(exc))
    end.send(told)
