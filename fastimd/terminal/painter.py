"""Messages and notes as rows of a terminal.

Only a row of our own begins at the left margin: whatever a message says, its further rows are
indented. A name has no spaces in it, so that it ends where it ends.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from hashlib import sha256

from ..base.codec import Message
from .columns import columns, cut, fold
from .harmless import harmless

COLOURS: tuple[int, ...] = (
    *range(27, 32),
    *range(62, 67),
    *range(96, 100),
    *range(129, 134),
    *range(161, 166),
    196,
)
"""Of the 256 of xterm, those with a contrast of at least 3.9 both to black and to white."""
SERVER = "server"
"""Whose messages those without an author are."""
OWN_MARK = "*"
INDENT = 10
MOST_NAME_COLUMNS = 24

_BLANKS = str.maketrans(dict.fromkeys(" \u115f\u1160\u2800\u3164\uffa0", "␣"))
"""Characters that may be in an id and show nothing."""
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


class Painter:
    """Paints for one user's terminal.

    Args:
        user: whose messages are marked.
        has_colours: whether escape sequences for colours and weight may be used.
        encoding: the terminal's.
    """

    def __init__(self, user: str, *, has_colours: bool, encoding: str = "utf-8") -> None:
        self._user = user
        self._has_colours = has_colours
        self._encoding = encoding
        self._day = ""

    def message(self, message: Message, width: int) -> Iterator[str]:
        """The rows of a message, after one for its day if that is another than the last one's."""
        day, moment = day_and_time(message.ts)
        if day != self._day:
            self._day = day
            yield from self.note(f"-- {day} --", width)
        is_own = message.userId == self._user
        name = cut(self._name(message.userId or SERVER), MOST_NAME_COLUMNS)
        head = f"{moment:<5} {OWN_MARK if is_own else ' '} "
        colour = f"\x1b[38;5;{colour_of(message.userId)}m" + (_BOLD if is_own else "")
        if not message.userId:  # a user may be called so, too
            colour = _BOLD
        first = width - columns(head) - columns(name) - 2
        margin = _margin(width)
        texts = self._rows(message.info, first, width - len(margin))
        yield self._styled(_DIM, head) + self._styled(colour, name) + f": {next(texts)}"
        for row in texts:
            yield margin + row

    def note(self, text: str, width: int) -> Iterator[str]:
        """The rows of something that the client itself says."""
        margin = _margin(width)
        rows = fold(harmless(text, self._encoding), width, width - len(margin))
        yield self._styled(_DIM, next(rows))
        for row in rows:
            yield self._styled(_DIM, margin + row)

    def forget_day(self) -> None:
        """The next message shows its day again."""
        self._day = ""

    def _name(self, user: str) -> str:
        return harmless(user.translate(_BLANKS), self._encoding)

    def _rows(self, info: str, first: int, rest: int) -> Iterator[str]:
        for line in info.split("\n"):
            yield from fold(harmless(line.removesuffix("\r"), self._encoding), first, rest)
            first = rest

    def _styled(self, style: str, text: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._has_colours else text


def _margin(width: int) -> str:
    return " " * min(INDENT, width // 3)


def colour_of(user: str) -> int:
    """The colour of a user, the same everywhere."""
    return COLOURS[sha256(user.encode()).digest()[0] % len(COLOURS)]


def day_and_time(ts: int) -> tuple[str, str]:
    """The day and the minute of a ``ts``, by the clock of this machine."""
    try:
        moment = time.localtime(ts / 1000)
        return time.strftime("%Y-%m-%d", moment), time.strftime("%H:%M", moment)
    except (OverflowError, OSError, ValueError):
        return "no day", "--:--"  # a ts of any writer
