"""Messages whose senders may speak, or not: that is not known while Redis is away.

They wait as long as messages may wait for Redis, and count among those.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import trio

from ...base.errors import KeyUnusable, StoreUnavailable
from ...base.settings import Config
from ...redis.room import Room
from .policies import READ_AT_ONCE, Policies
from .policy import Policy

RETRY_SECONDS = 0.1

OnKnown: TypeAlias = Callable[[Exception | None], None]
"""Told that a policy is known now, with None, or why it will not be; must not wait."""


class _Message(NamedTuple):
    deadline: float
    size: int
    on_known: OnKnown


class Waiting:
    """The messages that wait, by the policy of their group."""

    def __init__(self, policies: Policies, room: Room, config: Config) -> None:
        self._policies = policies
        self._room = room
        self._config = config
        self._messages: dict[Policy, deque[_Message]] = {}
        self._has_some = trio.Event()

    def hold(self, policy: Policy, size: int, on_known: OnKnown) -> None:
        """Have a message of so many bytes wait until a policy is known.

        Raises:
            StoreUnavailable: too much waits for Redis already.
        """
        settings = self._config.redis
        self._room.keep(size)
        message = _Message(trio.current_time() + settings.hold_seconds, size, on_known)
        self._messages.setdefault(policy, deque()).append(message)
        self._has_some.set()

    async def run(self) -> None:
        """Read the policies, and tell who waits, until cancelled."""
        while True:
            await self._has_some.wait()
            self._has_some = trio.Event()
            while self._messages:
                first = min(each[0].deadline for each in self._messages.values())
                with trio.move_on_at(first):
                    for policy in list(self._messages)[:READ_AT_ONCE]:
                        if not await self._settle(policy):
                            break  # the next ones need not wait as long for the same
                self._give_up_overdue()
                if self._messages:
                    await trio.sleep(RETRY_SECONDS)

    async def _settle(self, policy: Policy) -> bool:
        failure = None
        try:
            await self._policies.confirm(policy)
        except StoreUnavailable:
            return False
        except KeyUnusable as exc:
            failure = exc
        for message in self._messages.pop(policy, ()):
            self._tell(message, failure)
        return True

    def _give_up_overdue(self) -> None:
        now = trio.current_time()
        for policy, messages in list(self._messages.items()):
            while messages and messages[0].deadline <= now:
                seconds = self._config.redis.hold_seconds
                failure = StoreUnavailable(f"Redis was away for {seconds:g} s")
                self._tell(messages.popleft(), failure)
            if not messages:
                del self._messages[policy]

    def _tell(self, message: _Message, failure: Exception | None) -> None:
        self._room.let_go(message.size)
        message.on_known(failure)
