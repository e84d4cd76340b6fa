"""Appends that are neither lost nor doubled.

Theory of operation: appends carry sequence numbers and leave in order over one connection; those of
one scheduler turn leave as one batch, which Redis applies whole or not at all. The append script
applies a batch only if the *applied mark* in Redis names the append before it, and then moves the
mark. So what Redis has applied is always an unbroken beginning of what was sent, and the mark says
how long it is.

When a connection breaks, or Redis refuses an append for now (out of memory, failing disk…), the
appends without a good reply stay here, in order. Then the settle script is run, on the next
connection or after a pause: it raises the epoch, so that whatever an old connection may still
deliver is refused, and returns the mark. Appends up to it were applied, and only their reply was
lost; the others were not, and are sent again. Until that has worked, new appends wait in the same
queue, bounded by bytes and by age.

A refusal that concerns one append alone (its list is no list) refuses its whole batch. Then those
of the batch are sent one by one, so that it meets the right one.

Lists and clocks can be lost: by a fail-over, a FLUSHALL, an eviction. So with the appends goes what
the daemon knows itself: the latest time that Redis has shown, and the newest ``ts`` of each group
that was heard. When the mark is lost, much else may be; then what was published before is heard out
before anything is sent again.
"""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import structlog
import trio
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff

from ..base import log as logs
from ..base.errors import StoreUnavailable
from ..base.metrics import Metrics
from ..base.settings import Config
from .clock import RedisClock
from .connection import Connection
from .refusal import key_unusable
from .scripts import APPEND, SETTLE
from .wire import USELESS_CONNECTION, Argument, NotNow, Reply

MARK_SECONDS = 3600
"""How long an applied mark outlives the last append of its daemon."""

BATCH_MESSAGES = 128
BATCH_BYTES = 256 * 1024
"""What one batch may hold: Redis does nothing else meanwhile."""

_LOOK_SECONDS = 0.25

OnAppended: TypeAlias = Callable[[Exception | None], None]

log = structlog.get_logger("fastimd.redis")


class Place(NamedTuple):
    """Where a group's messages go: the keys of its list and its ts floor, and its channel."""

    list_key: str
    floor_key: str
    channel: bytes


class _Append:
    __slots__ = ("on_appended", "place", "prefix", "sequence", "since")

    def __init__(self, sequence: int, place: Place, prefix: bytes, on_appended: OnAppended) -> None:
        self.sequence = sequence
        self.place = place
        self.prefix = prefix
        self.since = trio.current_time()
        self.on_appended = on_appended

    @property
    def size(self) -> int:
        return len(self.prefix)


class _Batch:
    """Appends that leave together; it takes more until it is sent or full.

    Debug lines tell the ``ts`` of each message, and Redis answers with that of a batch's last one.
    """

    __slots__ = ("appends", "bytes_left", "connection", "most")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.appends: list[_Append] = []
        self.most = 1 if logs.is_debug else BATCH_MESSAGES
        self.bytes_left = BATCH_BYTES


class Appender:
    """The daemon's queue of appends that Redis has not answered yet.

    Args:
        config: how much may wait while Redis takes nothing, and how long; how long a list may be,
            and how long it lives after its last message.

    ``heard`` tells the newest ``ts`` that is known of the group with a channel, or 0. ``hear_out``
    waits until what was published before was heard, or never will be.

    ``refusal`` is what Redis refused the last append with, while it does; else None. ``last_ts`` is
    the ``ts`` of the message that is told to be in Redis now, if that is known; else None.
    """

    def __init__(self, config: Config, metrics: Metrics, clock: RedisClock) -> None:
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self.heard: Callable[[bytes], int] = lambda _channel: 0
        self.hear_out: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self._mark_key = f"fastimd:applied:{secrets.token_hex(8)}"
        self._sequence = 0
        self._epoch = 0
        self._unanswered: deque[_Append] = deque()
        self._unanswered_bytes = 0
        # The connection that there is, and whether appends go out over it or are held.
        self._connection: Connection | None = None
        self._batch: _Batch | None = None
        self._singly_to = 0
        self._is_held = True
        self._held_since = -math.inf
        self._unsettled = trio.Event()
        self._settling = trio.Lock()
        self._answered: trio.Event | None = None
        self.refusal: str | None = None
        self.last_ts: int | None = None

    @property
    def unanswered(self) -> int:
        """How many appends wait for an answer."""
        return len(self._unanswered)

    async def wait_all_answered(self) -> None:
        """Wait until the fate of every append is known."""
        while self._unanswered:
            await self._wait_answer()

    @property
    def has_room(self) -> bool:
        """More may be appended now; while not, Redis takes messages, but slower than they come."""
        return self._unanswered_bytes <= self._config.redis.hold_bytes or self._is_held

    async def wait_room(self) -> None:
        """Wait until there is room."""
        while not self.has_room:
            await self._wait_answer()

    def append(self, place: Place, prefix: bytes, on_appended: OnAppended) -> None:
        """Queue one append.

        Args:
            prefix: the message's JSON up to and including ``"ts":``.
            on_appended: called once with None when the message is in Redis, else with the reason;
                ``StoreUnavailable`` when its fate stays unknown or there is no room.
        """
        size = len(prefix)
        most = self._config.redis.hold_bytes
        if self._is_held and self._unanswered_bytes + size > most:
            on_appended(StoreUnavailable(f"{most} bytes wait for Redis already"))
            return
        self._sequence += 1
        append = _Append(self._sequence, place, prefix, on_appended)
        self._unanswered.append(append)
        self._unanswered_bytes += size
        if not self._is_held:
            self._send(append)

    async def attach(self, connection: Connection) -> None:
        """Settle what the last connection left, then append over this one.

        Raises:
            redis.exceptions.RedisError: the connection broke.
            TimeoutError: Redis does not answer.
        """
        self._connection = connection
        async with self._settling:
            await self._settle(connection)

    def detach(self) -> None:
        """The connection is gone: hold what comes, and what has no answer."""
        self._connection = None
        self._hold()

    async def run(self) -> None:
        """Settle again after refusals, and fail what waits too long, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._expire)
            while True:
                await self._unsettled.wait()
                self._unsettled = trio.Event()
                await self._settle_again()

    async def _settle_again(self) -> None:
        backoff = ExponentialWithJitterBackoff(base=0.02, cap=1.0)
        failures = 0
        while self._is_held and (connection := self._connection) is not None:
            try:
                async with self._settling:
                    if self._is_held and self._connection is connection:
                        await self._settle(connection)
            except (exceptions.RedisError, TimeoutError) as exc:
                connection.fail(str(exc))
                return
            failures += 1
            await trio.sleep(backoff.compute(failures))

    async def _settle(self, connection: Connection) -> None:
        """Find out what was applied and send the rest, unless Redis still refuses."""
        self._epoch += 1
        known = self._unanswered[0].sequence - 1 if self._unanswered else self._sequence
        try:
            applied, was_there = await connection.run_script(
                SETTLE, (self._mark_key,), self._epoch, known, MARK_SECONDS
            )
        except NotNow as exc:
            self._refuse(str(exc))
            return
        if not was_there and self._sequence:
            await self.hear_out()
            if self._connection is not connection:
                raise exceptions.ConnectionError("the connection is gone")
        self.last_ts = None
        while self._unanswered and self._unanswered[0].sequence <= applied:
            self._finish(None)
        self.refusal = None
        self._is_held = False
        for append in tuple(self._unanswered):
            self._send(append)

    def _send(self, append: _Append) -> None:
        """Put an append into the batch that leaves in this scheduler turn."""
        batch = self._batch
        is_full = batch is not None and (
            len(batch.appends) >= batch.most or batch.bytes_left < append.size
        )
        if batch is None or is_full or append.sequence <= self._singly_to:
            assert self._connection is not None
            batch = self._batch = _Batch(self._connection)
            self._connection.submit_later(
                partial(self._take_reply, batch), partial(self._close_batch, batch)
            )
        batch.appends.append(append)
        batch.bytes_left -= append.size

    def _close_batch(self, batch: _Batch) -> tuple[Argument, ...]:
        """The command of a batch, as it leaves."""
        if self._batch is batch:
            self._batch = None
        by_place: dict[Place, list[bytes]] = {}
        for append in batch.appends:
            by_place.setdefault(append.place, []).append(append.prefix)
        settings = self._config.group_message
        keys: list[Argument] = [self._mark_key]
        arguments: list[Argument] = [
            self._epoch,
            batch.appends[0].sequence,
            batch.appends[-1].sequence,
            MARK_SECONDS,
            settings.timeout,
            settings.max_length,
            self._clock.latest_shown(),
        ]
        for place, prefixes in by_place.items():
            keys += (place.list_key, place.floor_key)
            heard = self.heard(place.channel)
            arguments += (place.channel, heard, len(prefixes), *prefixes)
        return ("EVALSHA", APPEND.sha, len(keys), *keys, *arguments)

    def _take_reply(self, batch: _Batch, reply: Reply) -> None:
        if self._batch is batch:
            self._batch = None
        if not isinstance(reply, Exception):
            assert self._unanswered[0] is batch.appends[0]
            self._held_since = -math.inf
            if isinstance(reply, list):
                reply, channel, refusal = reply
                key_unusable(self._metrics, channel.decode(), refusal.decode())
            self.last_ts = reply if len(batch.appends) == 1 else None
            self._finish(None, len(batch.appends))
        elif isinstance(reply, exceptions.NoScriptError):
            batch.connection.fail(str(reply))  # the next one loads the scripts
        elif isinstance(reply, (exceptions.ConnectionError, *USELESS_CONNECTION)):
            pass  # they stay here for the next connection
        elif isinstance(reply, NotNow):
            self._refuse(str(reply))
        elif str(reply).startswith("UNSETTLED") or not self._is_next(batch):
            self._hold()
        elif len(batch.appends) > 1:
            self._singly_to = batch.appends[-1].sequence
            self._hold()
        else:
            self._finish(key_unusable(self._metrics, batch.appends[0].place.list_key, reply))

    def _is_next(self, batch: _Batch) -> bool:
        """Nothing before a batch is unanswered: a missing permission is told before all else."""
        return bool(self._unanswered) and self._unanswered[0] is batch.appends[0]

    def _refuse(self, refusal: str) -> None:
        self.refusal = refusal
        log.warning("redis.refused", error=refusal, held=len(self._unanswered))
        self._hold()

    def _hold(self) -> None:
        """Send nothing until what is in flight was settled."""
        self._is_held = True
        if self._held_since == -math.inf:
            self._held_since = trio.current_time()
        self._unsettled.set()
        self._tell_answered()

    async def _expire(self) -> None:
        while True:
            await trio.sleep(_LOOK_SECONDS)
            patience = self._config.redis.hold_seconds
            oldest = trio.current_time() - patience
            while (
                self._is_held
                and self._unanswered
                and max(self._unanswered[0].since, self._held_since) < oldest
            ):
                away = f"Redis took no message for {patience:g} s"
                self._finish(StoreUnavailable(away))

    def _finish(self, failure: Exception | None, count: int = 1) -> None:
        """Tell the fate of the oldest appends; those that are stored together count as one age."""
        if failure is None:
            age = trio.current_time() - self._unanswered[0].since
            self._metrics.append_seconds.observe(age, count)
        for _ in range(count):
            append = self._unanswered.popleft()
            self._unanswered_bytes -= append.size
            append.on_appended(failure)
        self._tell_answered()

    async def _wait_answer(self) -> None:
        if self._answered is None:
            self._answered = trio.Event()
        await self._answered.wait()

    def _tell_answered(self) -> None:
        if self._answered is not None:
            self._answered.set()
            self._answered = None
