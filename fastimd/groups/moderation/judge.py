"""Judges who may be in a group and speak there, by its policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from ...base.errors import Restrained, StoreUnavailable
from ...base.metrics import Metrics
from ..store.policy import Policies as StoredPolicies
from ..store.policy import Sentence
from . import restraint
from .policies import Policies
from .policy import Policy
from .waiting import Waiting

RETRY_SECONDS = 0.1


class Judge:
    """Lets through who may, or raises ``Restrained``.

    A user who is exempt holds the role of a moderator: nothing that moderators have decided keeps
    it from speaking, and of the bans only one of an operator keeps it out. ``waiting`` are messages
    of which it is not known whether they may be said.
    """

    def __init__(
        self, store: StoredPolicies, policies: Policies, waiting: Waiting, metrics: Metrics
    ) -> None:
        self.waiting = waiting
        self._store = store
        self._policies = policies
        self._metrics = metrics

    def check_entry(self, policy: Policy, user: str, *, is_exempt: bool = False) -> None:
        """Let a user into a group whose policy was read, or raise."""
        ban = policy.bans.get(user)
        if ban is not None and self._holds(ban) and not (is_exempt and ban.by):
            raise restraint.banned(ban)

    def check_known(self, policy: Policy, user: str, *, is_exempt: bool = False) -> None:
        """The same of one that may not have been read yet: then nothing is said of it."""
        if policy.is_certain:
            self.check_entry(policy, user, is_exempt=is_exempt)

    async def check_group(self, group: str, user: str) -> None:
        """The same of a group that may have no members here: Redis is asked then.

        Raises:
            StoreUnavailable, KeyUnusable: it cannot be read.
        """
        self.check_entry(await self._policies.current(group), user)

    async def check_joined(self, group: str, user: str) -> None:
        """The same of a user who has just become a member: a ban may have come between.

        Raises:
            StoreUnavailable, KeyUnusable: it cannot be read.
        """
        self.check_entry(await self._policies.read(group), user)

    async def check_message(
        self,
        policy: Policy,
        user: str,
        *,
        is_exempt: bool = False,
        within: float,
        takes_turn: bool = True,
        nonce: str = "",
    ) -> None:
        """Let a user say something, or raise.

        Args:
            within: seconds in which the policy must be known.
            takes_turn: in slow mode this is the user's turn.
            nonce: what the user calls the message: if it is the last one, it is said again.

        Raises:
            Restrained: the user may not.
            StoreUnavailable, KeyUnusable: it cannot be told.
        """
        if not policy.is_certain:
            await self._confirm(policy, within)
        if policy.lets(user):
            return
        with self._counting():
            self._check(policy, user, is_exempt=is_exempt)
            if not policy.slow or not takes_turn or is_exempt or user in policy.moderators:
                return
            wait = await self._store.take_turn(policy.group, user, policy.slow, nonce)
            if wait > 0:
                raise restraint.too_soon(wait)

    def check_held(self, policy: Policy, user: str) -> None:
        """Let a user say what waited until the policy was known, or raise ``Restrained``.

        Where there is slow mode by now, it is nobody's turn.
        """
        if policy.lets(user):
            return
        with self._counting():
            self._check(policy, user, is_exempt=False)
            if policy.slow and user not in policy.moderators:
                raise restraint.too_soon(policy.slow * 1000)

    def _check(self, policy: Policy, user: str, *, is_exempt: bool) -> None:
        self.check_entry(policy, user, is_exempt=is_exempt)
        if is_exempt or user in policy.moderators:
            return
        mute = policy.mutes.get(user)
        if mute is not None and self._holds(mute):
            raise restraint.muted(mute)
        if policy.mute_all:
            raise restraint.only_moderators()

    @contextmanager
    def _counting(self) -> Iterator[None]:
        try:
            yield
        except Restrained as refusal:
            self._metrics.count_restrained(refusal.why)
            raise

    def _holds(self, sentence: Sentence) -> bool:
        return not sentence.until or not self._store.has_passed(sentence.until)

    async def _confirm(self, policy: Policy, within: float) -> None:
        deadline = trio.current_time() + within
        while True:
            try:
                with trio.move_on_at(deadline):
                    await self._policies.confirm(policy)
                    return
                raise StoreUnavailable("whether the user may speak is not known in time")
            except StoreUnavailable:
                if trio.current_time() + RETRY_SECONDS > deadline:
                    raise
            await trio.sleep(RETRY_SECONDS)
