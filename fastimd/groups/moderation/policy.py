"""A group's policy, as a daemon with members of the group has it in memory.

Theory of operation: whoever changes a policy tells every daemon, over the connection that brings
the group's messages. So what is in memory is true as long as that connection is known to bring
everything (``hearing.py``), and a message needs no question to Redis. When it is not known, the
policy is read from Redis before anybody may speak, and that holds for less than a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic

import trio

from ...base.codec import read_json
from ...base.errors import FastimdError
from ..events import PolicyChange
from ..hearing import DEAF, Hearing
from ..store.policy import BAN, MODERATOR, MUTE, MUTE_ALL, SLOW, Sentence, version_of
from ..subscription import Subscription


class Policy:
    """What the moderators of a group have decided.

    ``bans`` and ``mutes`` are by user, and may be over. ``restrained`` are the users of both, and
    when it ``restrains_all`` there is slow mode, of ``slow`` seconds, or only moderators may write
    (``mute_all``). ``corrupt`` says what is wrong with fields that cannot be read. ``hearing`` says
    how long all of this is certain; ``read`` is the answer of Redis that is waited for. One that is
    followed has the ``subscription`` of its group.
    """

    __slots__ = (
        "bans",
        "corrupt",
        "group",
        "hearing",
        "moderators",
        "mute_all",
        "mutes",
        "read",
        "restrained",
        "restrains_all",
        "slow",
        "subscription",
        "version",
    )

    subscription: Subscription

    def __init__(self, group: str) -> None:
        self.group = group
        self.hearing: Hearing = DEAF
        self.read: Read | None = None
        self.take({})

    def take(self, fields: Mapping[str, str]) -> None:
        """Take what Redis has."""
        self.version = version_of(dict(fields))
        self.bans: dict[str, Sentence] = {}
        self.mutes: dict[str, Sentence] = {}
        self.moderators: set[str] = set()
        self.restrained: set[str] = set()
        self.slow = 0
        self.mute_all = False
        self.corrupt: list[Exception] = []
        for field, value in fields.items():
            self._set(field, value)
        self.restrains_all = self.mute_all or self.slow > 0

    def apply(self, change: PolicyChange) -> bool:
        """Take a change that was heard; False when others before it are missing."""
        if change.was != self.version:
            return 0 < change.version <= self.version  # it is known already
        for field, value in change.changes:
            self._set(field, value)
        self.version = change.version
        self.restrains_all = self.mute_all or self.slow > 0
        return True

    @property
    def is_certain(self) -> bool:
        """It is as Redis has it, but for less than a second."""
        return self.hearing.is_sure

    def lets(self, user: str) -> bool:
        """A user may speak now, for certain: else it must be looked at more closely."""
        return (
            monotonic() < self.hearing.until
            and not self.restrains_all
            and user not in self.restrained
        )

    def _set(self, field: str, value: str) -> None:
        if field == SLOW:
            self.slow = int(value) if value.isdecimal() else 0
        elif field == MUTE_ALL:
            self.mute_all = bool(value)
        elif field.startswith(MODERATOR):
            user = field.removeprefix(MODERATOR)
            (self.moderators.add if value else self.moderators.discard)(user)
        elif field.startswith((BAN, MUTE)):
            self._set_sentence(field[: len(BAN)], field[len(BAN) :], value)

    def _set_sentence(self, kind: str, user: str, value: str) -> None:
        sentences = self.bans if kind == BAN else self.mutes
        sentences.pop(user, None)
        if value:
            try:
                sentences[user] = read_json(value, Sentence)
            except ValueError as exc:
                self.corrupt.append(exc)
                sentences[user] = Sentence(0)  # meant to keep somebody out, so it does
        if user in self.bans or user in self.mutes:
            self.restrained.add(user)
        else:
            self.restrained.discard(user)


class Read:
    """A policy that is being read; ``changes`` are those that were heard meanwhile.

    ``failure`` says why it could not be, once it has ``ended``.
    """

    __slots__ = ("changes", "ended", "failure", "hearing", "sent_at")

    def __init__(self, hearing: Hearing) -> None:
        self.hearing = hearing
        self.sent_at = monotonic()
        self.changes: list[PolicyChange] = []
        self.ended = trio.Event()
        self.failure: FastimdError | None = None
