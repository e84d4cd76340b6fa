"""Who is in which group here, and the fan-out to them.

Theory of operation: the relay hands messages in batches. The hub has each batch of a group encoded
once for each dialect that its members speak, joins the frames, and pushes the same bytes to every
member. How an arriving member comes to hear everything once is told in ``audience.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import compress

import structlog
import trio

from ..base import log as logs
from ..base.metrics import Metrics
from ..base.settings import Config
from ..websocket.outbox import Outbox
from .audience import Audience, Dialect, Greeting, Since
from .group import Group
from .moderation.policies import Policies
from .moderation.policy import Policy
from .pieces import PIECE_BYTES, messages_of, pieces_of
from .relays import GroupRelay
from .shedding import LOOK_SECONDS, Shedding
from .store.history import History
from .subscription import MISSED, NOTICE

MEMBERS_A_TURN = 256
"""Members served before other tasks get their turn; a group of no more is served in one turn."""

log = structlog.get_logger("fastimd.hub")


class Membership:
    """A socket's place in a group, from ``Hub.enter`` to ``leave``."""

    __slots__ = ("_audience", "_greeting", "_group", "_hub", "_outbox")

    def __init__(self, hub: Hub, group: Group, audience: Audience, outbox: Outbox) -> None:
        self._hub = hub
        self._group = group
        self._audience = audience
        self._outbox = outbox
        self._greeting: Greeting | None = None

    @property
    def policy(self) -> Policy:
        """What the group's moderators have decided; read with the greeting."""
        return self._group.policy

    async def read_greeting(self, since: Since | None = None) -> Greeting:
        """Read what the socket gets first; what is said from here on is kept for it.

        Args:
            since: up to where the client knows the group, if it is to go on from there.

        Raises:
            StoreUnavailable: the group's messages cannot be read now.
            KeyUnusable: Redis refuses what concerns the group.
        """
        self._greeting = await self._hub.read_greeting(self._group, self._audience, since)
        return self._greeting

    def begin(self, before: bytes = b"") -> None:
        """Send the greeting, which was read, behind ``before``: the socket hears the group now."""
        greeting, self._greeting = self._greeting, None
        assert greeting is not None
        self._hub.admit(self._group, self._audience, self._outbox, before, greeting)

    def leave(self) -> None:
        """Hear nothing more."""
        self._hub.leave(self._group, self._audience, self._outbox)


class Hub:
    """The groups with members on this daemon.

    Args:
        config: ``socket.outbox_bytes``, what may wait for a member; no longer piece is pushed than
            this, but for a single frame. ``room.max_deliveries_per_second``, what a group may have.
    """

    def __init__(
        self,
        relay: GroupRelay,
        history: History,
        metrics: Metrics,
        config: Config,
        policies: Policies,
    ) -> None:
        self._config = config
        self._relay = relay
        self._history = history
        self._metrics = metrics
        self._policies = policies
        self._groups: dict[str, Group] = {}
        self._to_flush: list[Group] = []
        self._flushing = trio.Lock()
        self._shedding = Shedding(metrics)
        self._served = 0  # since other tasks had their turn

    @property
    def groups(self) -> int:
        """How many groups have members here."""
        return len(self._groups)

    def activity(self) -> Iterator[tuple[str, int, int]]:
        """Each group with how many hear it here, and how many messages came so far."""
        for group in self._groups.values():
            yield group.name, group.hearers, group.received

    def enter(
        self,
        name: str,
        outbox: Outbox,
        dialect: Dialect,
        on_lost: Callable[[str], object],
    ) -> Membership:
        """Let a socket into a group, where it hears nothing before its greeting.

        Args:
            dialect: what the socket speaks; one object for all that speak it.
            on_lost: called with the group when the socket will hear nothing more, as Redis refuses
                what concerns it; or, where the dialect ``resumes``, when messages are missing that
                no list has any more.
        """
        group = self._groups.get(name) or self._open(name)
        audience = group.audience(dialect)
        audience.arrivals[outbox] = None
        group.on_lost[outbox] = on_lost
        return Membership(self, group, audience, outbox)

    async def read_greeting(
        self, group: Group, audience: Audience, since: Since | None
    ) -> Greeting:
        """Wait until a group is heard, and read what somebody who has come gets first."""
        await self._relay.wait_heard(group.subscription)
        sent = self._policies.send(group.policy)
        try:
            greeting = await audience.greeting(group.name, since)
        except BaseException:
            self._policies.give_up(group.policy, sent)
            raise
        await self._policies.take(group.policy, sent)
        return greeting

    def admit(
        self, group: Group, audience: Audience, outbox: Outbox, before: bytes, greeting: Greeting
    ) -> None:
        """Greet somebody who has come: from now on it hears the group."""
        group.subscription.begin_at(greeting.position)
        self._metrics.bytes_sent += group.admit(audience, outbox, before, greeting)
        self._put_up_fence(group)

    def leave(self, group: Group, audience: Audience, outbox: Outbox) -> None:
        """Let a member go, and the group with the last one."""
        if not group.leave(audience, outbox):
            self._relay.unlisten(group.subscription, group.receive)
            self._policies.close(group.policy)
            del group.receive, group.lose  # they lead back to the group: no garbage is left
            if self._groups.get(group.name) is group:
                del self._groups[group.name]

    def notice(self, name: str, event: bytes) -> bool:
        """Tell the members of a group what became of messages, behind those that have come.

        Returns:
            Whether there are any.
        """
        group = self._groups.get(name)
        if group is not None:
            group.subscription.notice(event)
        return group is not None

    async def flush(self) -> None:
        """Push what has come since the last flush to the members."""
        if self._flushing.locked():  # a gap's repair and the relay's reader both flush
            await self._flushing.acquire()
        else:
            self._flushing.acquire_nowait()
        try:
            # What was taken must reach everybody, though the connection it came over may break.
            with trio.CancelScope(shield=True):
                groups, self._to_flush = self._to_flush, []
                most = self._config.room.max_deliveries_per_second
                if most or self._shedding.budgets:
                    await self._flush_within(groups, most)
                else:
                    await self._flush_groups(groups)
        finally:
            self._flushing.release()

    async def tell_gaps(self) -> None:
        """Tell members of what was left out, where no message follows it, until cancelled."""
        while True:
            await self._shedding.wait_some()
            await trio.sleep(LOOK_SECONDS)
            due = self._shedding.due()
            self._to_flush.extend([group for group in due if not group.pending])
            if due:
                await self.flush()
            self._shedding.let_go()

    async def _flush_within(self, groups: list[Group], most: int) -> None:
        """Flush within the budgets of the groups, and as much as the machine can do."""
        began, before = trio.current_time(), self._metrics.deliveries
        self._shedding.begin_round(groups, most)
        await self._flush_groups(groups)
        self._shedding.end_round(self._metrics.deliveries - before, trio.current_time() - began)

    async def _flush_groups(self, groups: list[Group]) -> None:
        for group in groups:
            in_one_turn = min(group.members, MEMBERS_A_TURN)
            if self._served + in_one_turn > MEMBERS_A_TURN:
                await self._yield_turn()
            await self._flush_group(group)

    def _open(self, name: str) -> Group:
        group = self._groups[name] = Group(name)
        group.receive = partial(self._receive, group)
        group.lose = partial(self._lose, group)
        group.subscription = self._relay.listen(name, group.receive, group.lose)
        group.policy = self._policies.open(name, group.subscription)
        return group

    def _put_up_fence(self, group: Group) -> None:
        """Have the arrivals of now settled when all that was published before has gone by."""
        if not group.is_fenced:
            group.is_fenced = True
            group.fences += 1
            self._relay.when_passed(group.subscription, partial(self._settle, group))

    def _settle(self, group: Group) -> None:
        group.is_fenced = False
        if group.settle():
            self._put_up_fence(group)

    def _lose(self, group: Group) -> None:
        """The group will hear nothing more: who comes from now on begins anew."""
        if self._groups.get(group.name) is group:
            del self._groups[group.name]
        for on_lost in list(group.on_lost.values()):
            on_lost(group.name)

    def _receive(self, group: Group, ts: int, message: bytes) -> None:
        if ts == MISSED:
            for outbox in group.resuming():
                group.on_lost[outbox](group.name)
            return
        if not group.pending:
            self._to_flush.append(group)
        group.receive_message(ts, message)

    async def _flush_group(self, group: Group) -> None:
        batch, group.pending = group.pending, []
        piece_bytes = min(self._config.socket.outbox_bytes, PIECE_BYTES)
        hearers = group.count_hearers(batch) if logs.is_debug else []
        messages = messages_of(batch)
        deliveries = size = 0
        # Who is a member now gets its helping, whatever becomes of the arrivals meanwhile.
        if group.budget is None:
            passes = None
            helpings = [(each.dialect, tuple(each.members), batch) for each in group.audiences]
        else:
            passes, helpings = self._shedding.serve(group, batch)
            messages -= passes.count(False) if passes else 0
        group.delivered += messages
        for audience in tuple(group.audiences):
            if audience.arrivals:
                given, bytes_given = group.serve_arrivals(audience, batch, passes, piece_bytes)
                deliveries += given
                size += bytes_given
        for dialect, outboxes, helping in helpings:
            if outboxes and helping:
                pieces = pieces_of(dialect.encode(group.name, helping), piece_bytes)
                await self._push(outboxes, pieces)
                deliveries += len(outboxes) * messages
                size += len(outboxes) * sum(map(len, pieces))
        self._metrics.deliveries += deliveries
        self._metrics.bytes_sent += size
        if deliveries:
            heard = batch if passes is None else compress(batch, passes)
            oldest = next((ts for ts, _ in heard if ts > 0), 0)
            if oldest:  # else all is foreign, or a notice
                self._metrics.delivery_seconds.observe(self._history.age(oldest), deliveries)
        for number, ((ts, _), count) in enumerate(zip(batch, hearers, strict=False)):
            if ts != NOTICE and (passes is None or passes[number]):
                log.debug("message.delivered", group=group.name, message_ts=ts, members=count)

    async def _push(self, outboxes: tuple[Outbox, ...], pieces: list[bytes]) -> None:
        for outbox in outboxes:
            if self._served == MEMBERS_A_TURN:
                await self._yield_turn()
            self._served += 1
            for piece in pieces:
                outbox.push(piece)

    async def _yield_turn(self) -> None:
        self._served = 0
        await trio.lowlevel.checkpoint()
