"""What a person sees: the rows above the line that is typed, and what stands before that line."""

from __future__ import annotations

from ..base.codec import Message
from .columns import cut
from .harmless import harmless
from .painter import Painter
from .prompt import Complete, Prompt

MOST_PROMPT_COLUMNS = 16
MOST_TYPIST_COLUMNS = 12
MOST_SAID_COLUMNS = 50
"""What is shown of a text in a line of the client's own."""


class Screen:
    """What is shown above the line that is typed.

    Args:
        complete: what the key Tab does.
    """

    def __init__(self, painter: Painter, encoding: str, complete: Complete) -> None:
        self.group = ""
        self.typist = ""
        self.prompt = Prompt(self._label, complete, "/quit")
        self._painter = painter
        self._encoding = encoding

    async def show(self, messages: list[Message], *notes: str) -> None:
        """Show messages, and then what the client says."""
        width = self.prompt.width
        rows = [row for message in messages for row in self._painter.message(message, width)]
        rows += [row for note in notes for row in self._painter.note(note, width)]
        if rows:
            await self.prompt.write("".join(f"{row}\n" for row in rows))

    async def show_older(self, messages: list[Message]) -> None:
        """Show messages that are older than those before them on the screen."""
        self._painter.forget_day()
        await self.show(messages, "-- end of the older messages --")
        self._painter.forget_day()

    async def say(self, *notes: str) -> None:
        """Show what the client says."""
        await self.show([], *notes)

    def _label(self) -> str:
        label = cut(harmless(self.group, self._encoding), MOST_PROMPT_COLUMNS)
        if self.typist:
            name = cut(harmless(self.typist, self._encoding), MOST_TYPIST_COLUMNS)
            label += f" ({name} is typing)"
        return label + "> "

    def show_typist(self, user: str) -> None:
        """Show who is typing; nobody, with ""."""
        if user != self.typist:
            self.typist = user
            self.prompt.relabel()


def shortened(text: str) -> str:
    shown = harmless(text)
    start = cut(shown, MOST_SAID_COLUMNS)
    return start if start == shown else f"{start}..."
