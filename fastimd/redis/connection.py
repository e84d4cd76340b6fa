"""One pipelined command connection.

Every command goes out at once, whoever sends it; Redis answers in the same order, so a FIFO of
callbacks is all the bookkeeping there is. A callback gets the reply, or an exception instance:
Redis's refusal, or ``ConnectionError`` when the connection broke before the reply came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import outcome
import trio
from redis import exceptions

from .cause import cause_of
from .clock import RedisClock
from .replies import USELESS_CONNECTION, Reply
from .scripts import Script
from .wire import Argument, Wire

LOOK_SECONDS = 0.1
"""How often is looked for calls that have waited too long."""

OnReply: TypeAlias = Callable[[Reply], None]


class Connection:
    """A command connection that is open.

    Args:
        patience: seconds in which a call is answered; then it fails with ``TimeoutError``.
        clock: learns the time of Redis from each probe.

    Resource handling: ``run`` owns the wire; the connection can be used while it runs.

    ``is_demoted`` tells that the server has refused to be spoken with.
    """

    def __init__(self, wire: Wire, patience: float, clock: RedisClock) -> None:
        self._wire = wire
        self._patience = patience
        self._clock = clock
        self._waiting: deque[OnReply] = deque()
        self._calls: deque[Call] = deque()  # of them those that wait for no longer than that
        self._next_look = trio.current_time()
        self._broken: exceptions.ConnectionError | None = None
        self._scope = trio.CancelScope()
        self.is_demoted = False

    def submit(self, on_reply: OnReply, *command: Argument) -> None:
        """Send a command; ``on_reply`` is called once, later, from the reader's task."""
        if self._broken is not None:
            on_reply(self._broken)
            return
        self._waiting.append(on_reply)
        self._wire.write(*command)

    def submit_later(
        self, on_reply: OnReply, make_command: Callable[[], tuple[Argument, ...]]
    ) -> None:
        """Send what ``make_command`` returns when this scheduler turn's commands are written."""
        if self._broken is not None:
            on_reply(self._broken)
            return
        self._waiting.append(on_reply)
        self._wire.write_later(make_command)

    def send(self, *command: Argument) -> Call:
        """Send a command whose reply is waited for later."""
        call = Call(self._next_look)
        self._calls.append(call)
        self.submit(call, *command)
        return call

    async def call(self, *command: Argument) -> Reply:
        """Send a command and wait for its reply; raises as ``Call.reply`` does."""
        return await self.send(*command).reply()

    async def call_many(self, commands: Sequence[tuple[Argument, ...]]) -> list[Reply]:
        """Send commands together and wait for all replies, with one switch of tasks.

        Returns:
            The reply to each, in order; an exception instance where there is none.

        Raises:
            TimeoutError: they were not all there in time.
            redis.exceptions.ConnectionError: the connection is broken already.
        """
        if self._broken is not None or not commands:
            await trio.lowlevel.checkpoint()
            if self._broken is not None:
                raise exceptions.ConnectionError(str(self._broken))
            return []
        call = Call(self._next_look)
        self._calls.append(call)
        replies: list[Reply] = []

        def take_last(reply: Reply) -> None:
            replies.append(reply)
            call(replies)

        self._waiting.extend([replies.append] * (len(commands) - 1))
        self._waiting.append(take_last)
        self._wire.write_many(commands)
        await call.reply()
        return replies

    async def run_script(
        self, script: Script, keys: tuple[Argument, ...], *arguments: Argument
    ) -> Reply:
        """Run a script by its digest, or by its source when Redis has forgotten it."""
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except exceptions.NoScriptError:
            return await self.call("EVAL", script.source, len(keys), *keys, *arguments)

    def fail(self, reason: str) -> None:
        """Give the connection up: ``run`` ends and everything unanswered fails."""
        self._broken = self._broken or exceptions.ConnectionError(reason)
        self._scope.cancel()

    async def run(self) -> None:
        """Serve the connection until it breaks.

        Raises:
            redis.exceptions.ConnectionError: always, with the reason, unless cancelled.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for serve in (self._wire.run_writer, self._read, self._probe, self._watch):
                        nursery.start_soon(self._fail_when_broken, serve)
        finally:
            self.fail("the connection is closed")
            self._fail_waiting()
            await self._wire.aclose()
        assert self._broken is not None
        raise self._broken

    async def _fail_when_broken(self, serve: Callable[[], object]) -> None:
        try:
            await serve()  # type: ignore[misc]
        except (
            trio.BrokenResourceError,
            trio.ClosedResourceError,
            exceptions.InvalidResponse,
            OSError,
        ) as exc:
            self.fail(cause_of(exc))

    async def _read(self) -> None:
        while True:
            for reply in await self._wire.read():
                if isinstance(reply, USELESS_CONNECTION):
                    self.is_demoted = True
                    self.fail(str(reply))
                self._waiting.popleft()(reply)

    async def _probe(self) -> None:
        self._ask_time()
        await self._wire.probe(self._ping)

    def _ping(self) -> None:
        # Any answer is a sign of life, a refusal too. TIME alone would not do: a server answers it
        # that refuses to be spoken with.
        self.submit(lambda _reply: None, "PING")
        self._ask_time()

    def _ask_time(self) -> None:
        self.submit(partial(self._take_time, self._clock.now()), "TIME")

    def _take_time(self, asked_at: float, reply: Reply) -> None:
        if not isinstance(reply, Exception):
            self._clock.learn(asked_at, seconds_of(reply))

    async def _watch(self) -> None:
        # One look for all calls: a deadline of its own for each costs more than the call.
        while True:
            # Calls are as old as the look after them: a clock for each would cost more.
            self._next_look = trio.current_time() + LOOK_SECONDS
            await trio.sleep_until(self._next_look)
            overdue = trio.current_time() - self._patience
            while self._calls and (self._calls[0].is_done or self._calls[0].since <= overdue):
                self._calls.popleft().give_up(self._patience)

    def _fail_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for on_reply in waiting:
            on_reply(exceptions.ConnectionError(str(self._broken)))


def seconds_of(time: list[bytes]) -> float:
    """The reply to TIME as seconds since the epoch."""
    seconds, microseconds = time
    return int(seconds) + int(microseconds) / 1e6


class Call:
    """A command that was sent at ``since``. Calling it delivers the reply; only the first counts.

    The reply is kept only until somebody takes it.
    """

    __slots__ = ("_reply", "_task", "since")

    def __init__(self, since: float) -> None:
        self._reply: outcome.Outcome[Reply] | None = None
        self._task: trio.lowlevel.Task | None = None
        self.since = since

    @property
    def is_done(self) -> bool:
        """It needs no reply, or has it."""
        return self._reply is not None

    def __call__(self, reply: Reply) -> None:
        if self._reply is not None:
            return
        self._reply = outcome.Error(reply) if isinstance(reply, Exception) else outcome.Value(reply)
        if self._task is not None:
            trio.lowlevel.reschedule(self._task, self._take())

    async def reply(self) -> Reply:
        """Wait for the reply, once.

        Raises:
            TimeoutError: there was none in time.
            redis.exceptions.ConnectionError: the connection broke first.
            redis.exceptions.RedisError: Redis refused the command.
        """
        if self._reply is not None:
            reply = self._take()
            if isinstance(reply, outcome.Error):
                await trio.lowlevel.checkpoint()  # a caller that tries again lets others run
            return reply.unwrap()
        self._task = trio.lowlevel.current_task()
        return await trio.lowlevel.wait_task_rescheduled(self._abort)

    def give_up(self, seconds: float) -> None:
        """Wait no longer."""
        self(TimeoutError(f"no answer within {seconds:g} s"))

    def _take(self) -> outcome.Outcome[Reply]:
        reply, self._reply, self._task = self._reply, _TAKEN, None
        assert reply is not None
        return reply

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._reply, self._task = _TAKEN, None
        return trio.lowlevel.Abort.SUCCEEDED


_TAKEN: outcome.Outcome[Reply] = outcome.Value(None)
