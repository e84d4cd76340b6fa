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

An append may have a nonce, by which Redis remembers its ``ts`` for a while. What comes with the
same one meanwhile is not stored again, and has that ``ts``. It also tells the ``ts`` of an append
whose reply was lost.

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

import structlog
import trio
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff

from ..base.errors import FateUnknown, StoreUnavailable
from ..base.metrics import Metrics
from ..base.settings import Config
from .batch import BATCH_MESSAGES, Append, Batch, OnAppended, Place, Told
from .clock import RedisClock
from .connection import Connection
from .nonces import find_by_nonces
from .refusal import key_unusable
from .replies import USELESS_CONNECTION, NotNow, Reply
from .room import Room
from .scripts import APPEND, SETTLE, Script
from .wire import Argument

MARK_SECONDS = 3600
"""How long an applied mark outlives the last append of its daemon."""

LOOK_SECONDS = 0.25
"""How often is looked for what has waited too long."""

log = structlog.get_logger("fastimd.redis")


class Appender:
    """A queue of appends that Redis has not answered yet; the daemon's only one, or one of a slot.

    Args:
        config: how much may wait while Redis takes nothing, and how long; how long a list may be,
            and how long it lives after its last message.
        room: shared with other queues.
        prefix: stands before each key and channel but that of a list.
        script: appends to lists.

    ``heard`` tells the newest ``ts`` that is known of the group with a channel, or 0. ``hear_out``
    waits until what was published before was heard, or never will be.

    ``on_held`` is called when appends begin to be held.

    ``refusal`` is what Redis refused the last append with, while it does; else None.
    """

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        clock: RedisClock,
        room: Room | None = None,
        prefix: str = "",
        script: Script = APPEND,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self.heard: Callable[[bytes], int] = lambda _channel: 0
        self.hear_out: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.room = room or Room(config)
        self._prefix = prefix
        self._script = script
        self._mark_key = f"{prefix}fastimd:applied:{secrets.token_hex(8)}"
        self._sequence = 0
        self._epoch = 0
        self._unanswered: deque[Append] = deque()
        self._unanswered_bytes = 0
        # The connection that there is, and whether appends go out over it or are held.
        self._connection: Connection | None = None
        self._batch: Batch | None = None
        self._singly_to = 0
        self._is_held = True
        self._held_since = -math.inf
        self._unsettled = trio.Event()
        self.on_held: Callable[[], None] = self._ask_settling
        self._settling = trio.Lock()
        self.refusal: str | None = None

    @property
    def unanswered(self) -> int:
        """How many appends wait for an answer."""
        return len(self._unanswered)

    async def wait_all_answered(self) -> None:
        """Wait until the fate of every append is known."""
        while self._unanswered:
            await self.room.wait_answer()

    @property
    def has_room(self) -> bool:
        """More may be appended now; while not, Redis takes messages, but slower than they come."""
        return self.room.is_there

    async def wait_room(self) -> None:
        """Wait until there is room."""
        while not self.has_room:
            await self.room.wait_answer()

    def append(
        self,
        place: Place,
        prefix: bytes,
        on_appended: OnAppended | Told,
        within: float = math.inf,
    ) -> None:
        """Queue one append.

        Args:
            prefix: the message's JSON up to and including ``"ts":``.
            on_appended: called once with None when the message is in Redis, else with the reason;
                ``StoreUnavailable`` when its fate stays unknown or there is no room.
                A ``Told`` is told the ``ts`` too, and may have a nonce.
            within: seconds in which it must have left for Redis; else it is taken back.
        """
        size = len(prefix)
        most = self._config.redis.hold_bytes
        if self._is_held:
            if self.room.held + size > most:
                on_appended(StoreUnavailable(f"{most} bytes wait for Redis already"))
                return
            self.room.held += size
        begun = None if self._is_held else self._batch
        since = trio.current_time() if begun is None else begun.since
        self._sequence += 1
        append = Append(self._sequence, place, prefix, on_appended, within, since)
        self._unanswered.append(append)
        self._unanswered_bytes += size
        self.room.bytes += size
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
            nursery.start_soon(self._keep_expiring)
            while True:
                await self._unsettled.wait()
                self._unsettled = trio.Event()
                await self.settle_again()

    def _ask_settling(self) -> None:
        self._unsettled.set()

    async def settle_again(self) -> None:
        """Settle as often as it needs, unless the connection is gone."""
        backoff = ExponentialWithJitterBackoff(base=0.02, cap=1.0)
        failures = 0
        while self._is_held and (connection := self._connection) is not None:
            try:
                async with self._settling:
                    if self._is_held and self._connection is connection:
                        await self._settle(connection)
            except (exceptions.RedisError, TimeoutError) as exc:
                if self._connection is connection:
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
            applied_ones = [each for each in self._unanswered if each.sequence <= applied]
            await find_by_nonces(connection, applied_ones, self._prefix, self._metrics)
        except NotNow as exc:
            self._refuse(exc)
            return
        if not was_there and self._sequence:
            await self.hear_out()
        if self._connection is not connection:  # the next one settles
            raise exceptions.ConnectionError("the connection is gone")
        while self._unanswered and self._unanswered[0].sequence <= applied:
            self._finish(None)
        self.refusal = None
        self._release()
        self._sequence = applied
        for append in tuple(self._unanswered):
            self._sequence += 1
            append.sequence = self._sequence  # there may be gaps, of what was taken back
            self._send(append)

    def _send(self, append: Append) -> None:
        """Put an append into the batch that leaves in this scheduler turn."""
        batch = self._batch
        is_full = batch is not None and (
            len(batch.appends) >= BATCH_MESSAGES or batch.bytes_left < append.size
        )
        if batch is None or is_full or append.sequence <= self._singly_to:
            assert self._connection is not None
            batch = self._batch = Batch(self._connection, append.since)
            self._connection.submit_later(
                partial(self._take_reply, batch), partial(self._close_batch, batch)
            )
        append.was_sent = True
        batch.appends.append(append)
        batch.bytes_left -= append.size
        if append.told is not None:
            batch.is_told = True

    def _close_batch(self, batch: Batch) -> tuple[Argument, ...]:
        """The command of a batch, as it leaves."""
        if self._batch is batch:
            self._batch = None
        by_place: dict[Place, list[bytes]] = {}
        for append in batch.appends:
            by_place.setdefault(append.place, []).append(append.prefix)
        settings, prefix = self._config.group_message, self._prefix
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
            keys += (place.list_key, prefix + place.floor_key, prefix + place.life_key)
            heard = self.heard(place.channel)
            arguments += (prefix.encode() + place.channel, heard, len(prefixes), *prefixes)
        if batch.is_told:
            batch.ask_each_ts(by_place, keys, arguments, prefix)
        return ("EVALSHA", self._script.sha, len(keys), *keys, *arguments)

    def _take_reply(self, batch: Batch, reply: Reply) -> None:
        if self._batch is batch:
            self._batch = None
        if self._connection not in (None, batch.connection):
            return  # what became of it is found out over the one that there is now
        if not isinstance(reply, Exception):
            self._held_since = -math.inf
            if isinstance(reply, list):
                given, *refused = reply
                if refused:
                    key, refusal = refused
                    key_unusable(self._metrics, key.decode(), refusal.decode())
                if batch.is_told:
                    batch.take_each_ts(given)
            count = len(batch.appends)
            if not self._is_next(batch):
                # A server that is being left has answered what was waited for no longer.
                assert self._connection is not batch.connection
                first = self._unanswered[0].sequence if self._unanswered else math.inf
                count = sum(append.sequence >= first for append in batch.appends)
            if count:
                self._finish(None, count)
        elif isinstance(reply, exceptions.NoScriptError):
            batch.connection.fail(str(reply))  # the next one loads the scripts
        elif isinstance(reply, (exceptions.ConnectionError, *USELESS_CONNECTION)):
            pass  # they stay here for the next connection
        elif isinstance(reply, NotNow):
            self._refuse(reply)
        elif str(reply).startswith("UNSETTLED") or not self._is_next(batch):
            self._hold()
        elif len(batch.appends) > 1:
            self._singly_to = batch.appends[-1].sequence
            self._hold()
        else:
            self._finish(key_unusable(self._metrics, batch.appends[0].key_refused(reply), reply))

    def _is_next(self, batch: Batch) -> bool:
        """Nothing before a batch is unanswered: a missing permission is told before all else."""
        return bool(self._unanswered) and self._unanswered[0] is batch.appends[0]

    def _refuse(self, refusal: NotNow) -> None:
        self.note_refusal(refusal)
        self._hold()

    def note_refusal(self, refusal: NotNow) -> None:
        """Redis takes nothing now."""
        self.refusal = str(refusal)
        log.warning("redis.refused", error=self.refusal, held=len(self._unanswered))

    def _hold(self) -> None:
        """Send nothing until what is in flight was settled."""
        if not self._is_held:
            self._is_held = True
            self.room.held += self._unanswered_bytes
        if self._held_since == -math.inf:
            self._held_since = trio.current_time()
        self.on_held()
        self.room.tell_answered()

    def _release(self) -> None:
        if self._is_held:
            self._is_held = False
            self.room.held -= self._unanswered_bytes

    async def _keep_expiring(self) -> None:
        while True:
            await trio.sleep(LOOK_SECONDS)
            self.expire()

    def expire(self) -> None:
        """Fail what waits too long while nothing leaves."""
        if not self._is_held:
            return
        self._take_back_late()
        patience = self._config.redis.hold_seconds
        oldest = trio.current_time() - patience
        while self._unanswered and max(self._unanswered[0].since, self._held_since) < oldest:
            away = f"Redis took no message for {patience:g} s"
            is_unknown = self._unanswered[0].was_sent
            self._finish((FateUnknown if is_unknown else StoreUnavailable)(away))

    def _take_back_late(self) -> None:
        """Fail what has not left for Redis within its time."""
        now = trio.current_time()
        late = [
            append
            for append in self._unanswered
            if not append.was_sent and now - append.since > append.within
        ]
        if not late:
            return
        gone = set(late)
        self._unanswered = deque(each for each in self._unanswered if each not in gone)
        self._forget(sum(append.size for append in late))
        for append in late:
            append.on_appended(StoreUnavailable(f"Redis took it not within {append.within:g} s"))
        self.room.tell_answered()

    def _finish(self, failure: Exception | None, count: int = 1) -> None:
        """Tell the fate of the oldest appends; those that are stored together count as one age."""
        if failure is None:
            age = trio.current_time() - self._unanswered[0].since
            self._metrics.append_seconds.observe(age, count)
        size = 0
        try:
            for _ in range(count):
                append = self._unanswered.popleft()
                size += append.size
                append.on_appended(failure)
        finally:
            self._forget(size)
        self.room.tell_answered()

    def _forget(self, size: int) -> None:
        self._unanswered_bytes -= size
        self.room.bytes -= size
        if self._is_held:
            self.room.held -= size
