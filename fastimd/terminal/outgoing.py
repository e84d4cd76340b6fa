"""What one user says: what waits to be sent, and what was sent and has not come back.

The server echoes a socket's messages in their order, so the first one of the same text is meant,
and those before it are through as well. The server may have changed a text; then a message of the
user that is none of these answers the first that has no answer. It could also be from another
device of the user, so the text is still looked for.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import trio


@dataclass(slots=True, eq=False)
class _Sent:
    text: str
    is_answered: bool = False


class Outgoing:
    """The texts of one conversation, in order."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._sent: deque[_Sent] = deque()
        self._moved = trio.lowlevel.ParkingLot()

    @property
    def count(self) -> int:
        """Texts that wait or have no answer."""
        return len(self._waiting) + len(self.unanswered)

    def say(self, text: str) -> None:
        """Take a text in."""
        self._waiting.append(text)
        self._moved.unpark_all()

    async def wait_next(self) -> str:
        """Wait until a text is to be sent, and look at it."""
        while not self._waiting:
            await self._moved.park()
        return self._waiting[0]

    def take_next(self) -> None:
        """The text that was looked at goes out; its fate is open from now on."""
        self._sent.append(_Sent(self._waiting.popleft()))

    def hear(self, text: str) -> None:
        """The user said this, by what comes from the server."""
        texts = [each.text for each in self._sent]
        if text in texts:
            for _ in range(texts.index(text) + 1):
                self._sent.popleft()
        else:
            for each in self._sent:
                if not each.is_answered:
                    each.is_answered = True
                    break
        self._moved.unpark_all()

    def decline(self, text: str) -> None:
        """The server says that it did not take this one."""
        same = [each for each in self._sent if each.text == text]
        if same:  # an earlier one may have been changed, and is answered
            self._sent.remove(min(same, key=lambda each: each.is_answered))
        self._moved.unpark_all()

    @property
    def unanswered(self) -> list[str]:
        """The texts that were sent and did not come back."""
        return [each.text for each in self._sent if not each.is_answered]

    def forget_sent(self) -> None:
        """Wait for none of those that were sent."""
        self._sent.clear()
        self._moved.unpark_all()

    def give_up(self) -> list[str]:
        """All texts that did not come back, sent or not; they are forgotten."""
        lost = [*self.unanswered, *self._waiting]
        self._waiting.clear()
        self.forget_sent()
        return lost

    async def wait_fewer(self, limit: int) -> None:
        """Wait until fewer than ``limit`` wait or have no answer."""
        while self.count >= limit:
            await self._moved.park()

    async def wait_settled(self, patience: float) -> bool:
        """Wait until all have come back; False when for ``patience`` seconds none did."""
        while count := self.count:
            with trio.move_on_after(patience):
                await self.wait_fewer(count)
            if self.count >= count:
                return False
        return True
