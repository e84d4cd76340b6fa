"""A person's terminal: key by key, with one row at the bottom that stays ours.

While it is open the terminal neither echoes nor gathers lines, puts pastes in brackets, and does
not wrap: a row that is longer than was counted loses its end instead of beginning another one at
the left margin. It is put back however the block ends, and while the process is stopped.

Reading waits until the kernel has something. Writing may block for as long as a window is frozen,
so a thread does it. The descriptors are shared with the shell and stay as they are.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import trio

from .descriptors import write_all

READ_BYTES = 4096
LEAST_COLUMNS = 20
DEFAULT_COLUMNS = 80
HELD_SECONDS = 1.0
"""How long is waited at the end for a terminal that takes nothing."""

_BEGIN = "\x1b[?2004h\x1b[?7l"
_END = "\x1b[?7h\x1b[?2004l"
_CLEAR_ROW = "\r\x1b[K"
_CLEAR_SCREEN = "\x1b[H\x1b[2J"


class TerminalGone(Exception):
    """Its window was closed, or its line was cut."""


class Terminal:
    """Standard input and output, which are a terminal.

    Args:
        encoding: of what is written.
    """

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self._input, self._output = 0, 1
        self._saved: list[Any] = []

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Take the terminal over.

        Raises:
            TerminalGone: there is none.
        """
        with _told():
            self._saved = termios.tcgetattr(self._input)
        try:
            self._take_over()
            yield
        finally:
            self._give_back()

    @property
    def width(self) -> int:
        """Its columns."""
        try:
            found = os.get_terminal_size(self._output).columns
        except OSError:
            found = 0
        return max(LEAST_COLUMNS, found or DEFAULT_COLUMNS)

    async def read(self) -> bytes:
        """Wait for keys.

        Raises:
            TerminalGone: there is nobody to press any.
        """
        await trio.lowlevel.wait_readable(self._input)
        with _told():
            if data := os.read(self._input, READ_BYTES):
                return data
        raise TerminalGone

    async def write(self, text: str) -> None:
        """Write all of it; nothing, when the terminal has gone: who reads keys is told."""
        await trio.to_thread.run_sync(self._write, text, abandon_on_cancel=True)

    def stop(self) -> None:
        """Stop as Ctrl-Z does, and go on when the shell says so; without a shell, go on."""
        self._give_back()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self.resume()

    def resume(self) -> None:
        """Take the terminal over again: the shell may have had it."""
        with suppress(TerminalGone):
            self._take_over()

    def _take_over(self) -> None:
        with _told():
            mode = termios.tcgetattr(self._input)
        mode[0] &= ~termios.IXON
        mode[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        _set_mode(self._input, mode)
        self._write(_BEGIN)

    def _give_back(self) -> None:
        # One that takes nothing, as a frozen window does, must not keep the process.
        if select.select([], [self._output], [], HELD_SECONDS)[1]:
            self._write(_CLEAR_ROW + _END)
        with suppress(TerminalGone):
            _set_mode(self._input, self._saved)

    def _write(self, text: str) -> None:
        data = text.encode(self.encoding, "backslashreplace")
        with suppress(TerminalGone), _told():
            write_all(self._output, data)


def row(text: str, cursor: int) -> str:
    """What draws the last row anew, with the cursor in a column of it."""
    return f"{_CLEAR_ROW}{text}\r" + (f"\x1b[{cursor}C" if cursor else "")


def above(rows: list[str]) -> str:
    """What writes rows where the last row is, which has to be drawn again below."""
    return _CLEAR_ROW + "".join(f"{each}\n" for each in rows)


def clear() -> str:
    """What empties the screen."""
    return _CLEAR_SCREEN


def _set_mode(descriptor: int, mode: list[Any]) -> None:
    while True:
        try:
            with _told():
                termios.tcsetattr(descriptor, termios.TCSANOW, mode)
            return
        except termios.error as exc:
            if exc.args[0] != errno.EINTR:  # it was stopped in the background
                raise


@contextmanager
def _told() -> Iterator[None]:
    """The end of a terminal as an error of its own."""
    try:
        yield
    except (OSError, termios.error) as exc:
        if exc.args[0] in (errno.EIO, errno.ENOTTY, errno.ENXIO):
            raise TerminalGone from exc
        raise
