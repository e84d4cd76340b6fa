"""The policies of the groups with members on this daemon: read when a group opens, and followed."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

import trio

from ...base.errors import KeyUnusable, StoreUnavailable
from ...redis.clients import SentScript
from ..events import PolicyChange
from ..hearing import DEAF, SURE_SECONDS, Hearing
from ..store.policy import Policies as StoredPolicies
from ..subscription import Subscription
from .policy import Policy, Read

READ_AT_ONCE = 64
"""Policies that are read together after a connection broke."""
RETRY_SECONDS = 0.1


class Sent(NamedTuple):
    """A policy that Redis was asked for."""

    read: Read
    script: SentScript


class Policies:
    """Keeps the policies of open groups as Redis has them.

    ``on_read`` gets those that were read anew after something may have been missed.
    """

    def __init__(self, store: StoredPolicies) -> None:
        self.store = store
        self.on_read: Callable[[list[Policy]], object] = lambda _: None
        self._open: dict[str, Policy] = {}
        self._stale: dict[Policy, None] = {}
        self._has_stale = trio.Event()

    def open(self, group: str, subscription: Subscription) -> Policy:
        """The policy of a group whose first member has come."""
        policy = self._open[group] = Policy(group)
        policy.subscription = subscription
        subscription.on_heard = lambda: self._note_heard(policy)
        return policy

    def close(self, policy: Policy) -> None:
        """The last member has gone."""
        if self._open.get(policy.group) is policy:
            del self._open[policy.group]
            policy.subscription.on_heard = None
        self._stale.pop(policy, None)

    def find(self, group: str) -> Policy | None:
        """The policy of a group that has members here."""
        return self._open.get(group)

    async def current(self, group: str) -> Policy:
        """The policy of a group, whether it has members here or not; known for certain.

        Raises:
            StoreUnavailable, KeyUnusable: it cannot be read.
        """
        policy = self._open.get(group)
        return policy if policy is not None and policy.is_certain else await self.read(group)

    async def read(self, group: str) -> Policy:
        """The policy of a group as Redis has it now; errors as of ``current``."""
        policy = Policy(group)
        policy.take(await self.store.read(group))
        self._note_corrupt(policy)
        return policy

    def receive(self, change: PolicyChange) -> None:
        """Take a change that was heard."""
        policy = self._open.get(change.group)
        if policy is None:
            return
        if policy.read is not None:
            policy.read.changes.append(change)
        if policy.hearing.until > 0 and not policy.apply(change):
            self._distrust(policy)
        self._note_corrupt(policy)

    def send(self, policy: Policy) -> Sent | None:
        """Have a policy read before anything that is asked of Redis later.

        Returns:
            What ``take`` wants; None when it is known, or being read.
        """
        if policy.is_certain or policy.read is not None:
            return None
        read = policy.read = Read(policy.subscription.hearing)
        return Sent(read, self.store.send(policy.group))

    async def take(self, policy: Policy, sent: Sent | None) -> None:
        """Wait until a policy is known that was sent for.

        Raises:
            StoreUnavailable, KeyUnusable: it cannot be read.
        """
        if sent is not None:
            await self._take(policy, sent)
        await self._confirm(policy, monotonic() if sent is None else sent.read.sent_at)

    def give_up(self, policy: Policy, sent: Sent | None) -> None:
        """Do not wait for a policy that was sent for; others may."""
        if sent is not None:
            self._end(policy, sent.read)

    async def confirm(self, policy: Policy) -> None:
        """Have a policy as Redis has it now; all that ask at the same time share the answer.

        However long that takes: it is certain as of when it was asked for.

        Raises:
            StoreUnavailable, KeyUnusable: it cannot be read.
        """
        await self._confirm(policy, monotonic())

    async def _confirm(self, policy: Policy, asked_at: float) -> None:
        while policy.hearing.until <= asked_at:
            if (read := policy.read) is not None:
                await read.ended.wait()
                if read.failure is not None:
                    raise read.failure
            elif (sent := self.send(policy)) is not None:
                await self._take(policy, sent)

    async def run(self) -> None:
        """Read policies anew of which something may have been missed, until cancelled."""
        while True:
            await self._has_stale.wait()
            self._has_stale = trio.Event()
            while self._stale:
                count = min(len(self._stale), READ_AT_ONCE)
                some = [self._stale.popitem()[0] for _ in range(count)]
                if not await self._read_anew(some):
                    await trio.sleep(RETRY_SECONDS)

    async def _read_anew(self, policies: list[Policy]) -> bool:
        """Read policies together; those that could not be read wait again."""
        asked = [(policy, self.send(policy)) for policy in policies]
        known, is_away = [], False
        for policy, sent in asked:
            try:
                await self.take(policy, sent)
                known.append(policy)
            except StoreUnavailable:  # the connection says why
                is_away = True
                if self._open.get(policy.group) is policy:
                    self._stale[policy] = None
            except KeyUnusable:  # the log has said why; nobody may speak meanwhile
                pass
        self.on_read(known)
        return not is_away

    async def _take(self, policy: Policy, sent: Sent) -> None:
        try:
            fields = await self.store.take(policy.group, sent.script)
            if policy.read is sent.read:  # else the group is heard over another connection since
                self._install(policy, sent.read, fields)
        except (StoreUnavailable, KeyUnusable) as exc:
            sent.read.failure = exc
            raise
        finally:
            self._end(policy, sent.read)

    def _end(self, policy: Policy, read: Read) -> None:
        if policy.read is read:
            policy.read = None
        read.ended.set()

    def _install(self, policy: Policy, read: Read, fields: dict[str, str]) -> None:
        """Take what was read, and what was heard since it was sent for."""
        policy.take(fields)
        self._note_corrupt(policy)
        changes = iter(read.changes)
        for change in changes:
            if change.was == policy.version:
                policy.apply(change)
                break
        for change in changes:
            policy.apply(change)
        if read.changes and policy.version < read.changes[-1].version:
            return  # changes between are missing: once more
        policy.hearing = (
            read.hearing if read.hearing.is_sure else Hearing(read.sent_at + SURE_SECONDS)
        )

    def _note_corrupt(self, policy: Policy) -> None:
        for failure in policy.corrupt:
            self.store.note_corrupt(policy.group, failure)
        policy.corrupt.clear()

    def _note_heard(self, policy: Policy) -> None:
        """The group is heard over another connection now."""
        if policy.hearing is not DEAF or policy.read is not None:  # else nobody has asked yet
            policy.read = None
            self._distrust(policy)

    def _distrust(self, policy: Policy) -> None:
        policy.hearing = Hearing()
        self._stale[policy] = None
        self._has_stale.set()
