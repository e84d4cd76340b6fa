"""What a run leaves in the servers' Redis, and taking it away again, however the run ended.

Memberships end over the wire. Messages and logins expire; they go at once where an operator's
address of the servers is known. What remains is told, with the way to delete it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol

from ..base.errors import FastimdError
from .accounts import Accounts, NoAnswer, NoRoute, OnProgress, Trouble, for_each
from .spec import Spec

SETTLE_SECONDS = 1.0
"""How long a server may take to let in whom it was about to when a run broke off."""

_BROKEN_OFF = "the clean-up was broken off"
_FOREIGN = "the daemon at the admin address does not know them"


class Operator(Protocol):
    """Who may do at the servers what clients cannot.

    Error handling: ``FastimdError`` when it is not done, in one line.
    """

    def purge(self, group: str) -> int:
        """Delete the messages of a group; returns how many there were."""

    def log_out(self, user: str, token: str) -> int:
        """End a login; returns how many ended: none where the token is not the user's."""


class Traces:
    """What one run leaves.

    Args:
        operator: None where there is none.
    """

    def __init__(
        self, spec: Spec, accounts: Accounts, operator: Operator | None, progress: OnProgress
    ) -> None:
        self._spec = spec
        self._accounts = accounts
        self._operator = operator
        self._progress = progress
        self._memberships = self._messages = self._logins = _BROKEN_OFF  # why they remain, or ""

    def remove(self, *, is_settled: bool) -> None:
        """Take away what can be.

        Args:
            is_settled: whether the servers have finished what the sockets asked for.
        """
        if not is_settled:
            time.sleep(SETTLE_SECONDS)
        self._leave_groups()
        self._messages = self._messages if self._spec.groups_talked_in() else ""
        self._logins = self._logins if self._accounts.tokens else ""
        try:
            why = "no admin address is given"
            if self._operator is not None:
                self._ask(self._operator)
                return
        except FastimdError as exc:
            why = str(exc)
        self._messages, self._logins = self._messages and why, self._logins and why

    def remaining(self) -> Iterator[str]:
        """What remains, a line each."""
        spec = self._spec
        users, groups = f"{spec.users}N", f"{spec.group_prefix}N"
        if self._memberships:
            yield (
                f"memberships remain ({self._memberships}): the sets ugs:{users} in Redis have the"
                f" groups {groups}; {self._deletion()}"
            )
        if self._messages:
            yield (
                f"messages remain ({self._messages}): the lists gml:{groups} in Redis expire"
                " group_message.timeout seconds after their last message;"
                " fastimd purge GROUP deletes one at once"
            )
        if self._logins:
            yield (
                f"logins remain ({self._logins}): the keys login:{users} in Redis expire"
                " login.token_ttl seconds after their last use"
            )

    def _deletion(self) -> str:
        if self._spec.users != self._spec.group_prefix:
            return "SREM takes one out"  # the users may be in groups of their own, too
        pattern = f"'ugs:{self._spec.users}*'"
        return (
            f"redis-cli -u URL --scan --pattern {pattern} | xargs redis-cli -u URL DEL deletes them"
        )

    def _leave_groups(self) -> None:
        accounts, refusals = self._accounts, list[str]()
        if not accounts.tokens:
            self._memberships = f"nobody can log in: {accounts.trouble}"
            return

        def leave(membership: tuple[str, str]) -> None:
            try:
                accounts.leave(*membership)
            except (NoRoute, NoAnswer):
                raise
            except Trouble as exc:
                refusals.append(str(exc))

        try:
            for_each(self._spec.memberships(), leave, "leaving groups", self._progress)
        except (NoRoute, NoAnswer) as exc:
            self._memberships = str(exc)
            return
        self._memberships = f"{len(refusals)} of them: {refusals[0]}" if refusals else ""

    def _ask(self, operator: Operator) -> None:
        """End logins and delete messages; another daemon than the servers' knows neither."""
        logins, purged = list(self._accounts.tokens.items()), list[int]()
        if logins:
            if not operator.log_out(*logins[0]):
                self._logins, self._messages = _FOREIGN, self._messages and _FOREIGN
                return
            for_each(
                logins[1:], lambda login: operator.log_out(*login), "logging out", self._progress
            )
            self._logins = ""
        for_each(
            self._spec.groups_talked_in(),
            lambda group: purged.append(operator.purge(group)),
            "deleting messages",
            self._progress,
        )
        self._messages = self._messages and ("" if logins or sum(purged) else _FOREIGN)
