"""Who is to be told when all that was published to a group before has been handed on.

Nobody is in a hurry: all that has come within a second or two is asked with one PING.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from .pubsub import Questions
from .subscription import Subscription

OnPassed: TypeAlias = Callable[[], None]


class Passings:
    """Those who wait at one relay.

    Args:
        is_current: whether a subscription is still that of its group here.

    ``on_stray`` gets a subscription that is not here any more, with who waits.
    """

    def __init__(self, questions: Questions, is_current: Callable[[Subscription], bool]) -> None:
        self._questions = questions
        self._is_current = is_current
        self._waiting: dict[Subscription, OnPassed] = {}
        self.on_stray: Callable[[Subscription, OnPassed], None] = lambda *_: None

    def add(self, subscription: Subscription, on_passed: OnPassed) -> None:
        """Have ``on_passed`` told, instead of who was to be told of the same before."""
        self._waiting[subscription] = on_passed

    def take(self, subscription: Subscription) -> OnPassed | None:
        """Who waits for a subscription that goes elsewhere, if anybody does."""
        return self._waiting.pop(subscription, None)

    def ask(self) -> None:
        """Ask for all that wait; to be called every second."""
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            self._questions.ping(partial(self._tell, waiting))

    def _tell(self, waiting: dict[Subscription, OnPassed], answered: bool) -> None:
        for subscription, on_passed in waiting.items():
            if answered and subscription.held is None:
                on_passed()
            elif self._is_current(subscription):  # what is missed now will be repaired
                self._waiting.setdefault(subscription, on_passed)
            else:
                self.on_stray(subscription, on_passed)
