"""The line that a person types: strokes in, a line and a view of it out, no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice

from wcwidth import grapheme_boundary_before, iter_graphemes

from .columns import columns
from .harmless import harmless
from .keys import Key, Stroke, Typed

MOST_REMEMBERED = 200
LINE_END = "⏎"

_WORD = re.compile(r"\s*\S*")


class Editor:
    """A line with a cursor in it, and the lines before it.

    Args:
        encoding: the terminal's.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        self.before = ""
        """What stands before the cursor."""
        self.after = ""
        self._encoding = encoding
        self._remembered: list[str] = []
        self._at = 0
        self._draft = ""
        self._keys: dict[str, Callable[[], None]] = {
            "left": lambda: self._go(self._left()),
            "right": lambda: self._go(self._right()),
            "word left": lambda: self._go(self._word_left()),
            "word right": lambda: self._go(self._word_right()),
            "home": lambda: self._go(0),
            "end": lambda: self._go(len(self.text)),
            "backspace": lambda: self._keep(self.before[: self._left()], self.after),
            "delete": self._delete,
            "ctrl-d": self._delete,
            "ctrl-u": lambda: self._keep("", self.after),
            "ctrl-w": lambda: self._keep(self.before[: self._word_left()], self.after),
            "ctrl-k": lambda: self._keep(self.before, ""),
            "up": lambda: self._recall(self._at - 1),
            "down": lambda: self._recall(self._at + 1),
        }

    @property
    def text(self) -> str:
        """The whole line."""
        return self.before + self.after

    def press(self, stroke: Stroke) -> None:
        """Do what a key does to the line."""
        if isinstance(stroke, Typed):
            self.before += stroke.text
        elif isinstance(stroke, Key) and stroke.name in self._keys:
            self._keys[stroke.name]()

    def replace(self, text: str) -> None:
        """Put another line in place, the cursor at its end."""
        self._keep(text, "")

    def take(self) -> str:
        """The line; it is remembered, and the next one begins."""
        line = self.text
        if line and line not in self._remembered[-1:]:
            self._remembered = [*self._remembered, line][-MOST_REMEMBERED:]
        self._at = len(self._remembered)
        self.replace("")
        return line

    def view(self, room: int) -> tuple[str, int]:
        """What to show of the line in a row of ``room`` columns, and the cursor's column in it."""
        left = self._shown_to_the_left(room - 1)
        at = columns(left)
        right = ""
        for grapheme in islice(iter_graphemes(self.after), room):
            shown = self._shown(grapheme)
            if at + columns(right + shown) >= room:
                break
            right += shown
        return left + right, at

    def _shown_to_the_left(self, room: int) -> str:
        """The end of what is before the cursor; a part of the row is kept for what is behind."""
        kept = room - min(room // 4, columns(self._shown(self.after[: room // 4])))
        left, end = "", len(self.before)
        while end:
            start = grapheme_boundary_before(self.before, end)
            shown = self._shown(self.before[start:end])
            if columns(shown + left) > kept:
                break
            left, end = shown + left, start
        return left

    def _shown(self, text: str) -> str:
        return harmless(text.replace("\n", LINE_END), self._encoding)

    def _keep(self, before: str, after: str) -> None:
        self.before, self.after = before, after

    def _go(self, at: int) -> None:
        text = self.text
        self._keep(text[:at], text[at:])

    def _left(self) -> int:
        return grapheme_boundary_before(self.before, len(self.before)) if self.before else 0

    def _right(self) -> int:
        return len(self.before) + len(next(iter_graphemes(self.after), ""))

    def _word_left(self) -> int:
        words = self.before.rstrip()
        return max(words.rfind(" "), words.rfind("\n")) + 1

    def _word_right(self) -> int:
        word = _WORD.match(self.after)
        return len(self.before) + (word.end() if word else 0)

    def _delete(self) -> None:
        self._keep(self.before, self.after[self._right() - len(self.before) :])

    def _recall(self, at: int) -> None:
        if not 0 <= at <= len(self._remembered):
            return
        if self._at == len(self._remembered):
            self._draft = self.text
        self._at = at
        self.replace(self._draft if at == len(self._remembered) else self._remembered[at])
