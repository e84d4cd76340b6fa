"""Tells those concerned what moderators have done: each dialect in words of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import trio

from ...base.errors import KeyUnusable, StoreUnavailable
from ..events import MODERATION, PolicyChange
from ..store.members import Members
from ..store.policy import Policies as StoredPolicies
from .policies import Policies
from .policy import Policy

RETRY_SECONDS = 0.1

OnAct: TypeAlias = Callable[[PolicyChange], object]
"""Gets an act that concerns one user; must not wait."""


class Announcer:
    """Hands on acts that were announced, when what is in memory is as they made it.

    Args:
        users_of: the users with sockets here, by group, of some groups.
        tell_group: has all members of a group told, behind the messages so far; returns whether
            there are any.
    """

    def __init__(
        self,
        policies: Policies,
        store: StoredPolicies,
        members: Members,
        users_of: Callable[[set[str]], dict[str, set[str]]],
        tell_group: Callable[[str, bytes], bool],
    ) -> None:
        self._policies = policies
        self._store = store
        self._members = members
        self._users_of = users_of
        self._tell_group = tell_group
        self._listeners: list[OnAct] = []
        self._banned: dict[tuple[str, str], None] = {}
        self._has_banned = trio.Event()
        policies.on_read = self._put_out_banned

    def listen(self, listener: OnAct) -> None:
        """Have a dialect told from now on."""
        self._listeners.append(listener)

    def receive(self, change: PolicyChange, payload: bytes) -> bool:
        """Take an act that was heard; returns whether members of the group are to be told."""
        self._policies.receive(change)
        if self._policies.find(change.group) is None:
            return False
        if not change.user:
            return self._tell_group(change.group, payload)
        self._tell(change)
        return False

    def _put_out_banned(self, policies: list[Policy]) -> None:
        """Something may have been missed of these: who is banned by now may still be there."""
        banning = {policy.group: policy for policy in policies if policy.bans}
        if not banning:
            return
        for group, users in self._users_of(set(banning)).items():
            policy = banning[group]
            for user in users & policy.bans.keys():
                ban = policy.bans[user]
                if not ban.until or not self._store.has_passed(ban.until):
                    self._tell(
                        PolicyChange(
                            group,
                            MODERATION,
                            "ban",
                            user,
                            reason=ban.reason,
                            by=ban.by,
                            until=ban.until,
                        )
                    )

    async def run(self) -> None:
        """See that the banned are no members, until cancelled.

        Who bans ends the membership, but a socket that was on its way in may have begun it again.
        """
        while True:
            await self._has_banned.wait()
            self._has_banned = trio.Event()
            while self._banned:
                banned = next(iter(self._banned))
                try:
                    await self._members.leave(*banned)
                except StoreUnavailable:  # the connection says why
                    await trio.sleep(RETRY_SECONDS)
                    continue
                except KeyUnusable:  # the log has said why
                    pass
                self._banned.pop(banned, None)

    def _tell(self, change: PolicyChange) -> None:
        for listener in self._listeners:
            listener(change)
        banned = change.group, change.user
        if change.act == "ban":
            self._banned[banned] = None
            self._has_banned.set()
        elif change.act == "unban":
            self._banned.pop(banned, None)
