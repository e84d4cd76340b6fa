"""A person at a terminal: ``fastimd chat`` on a real pty, and the screen that its output draws."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import pyte
from conftest import wait_for

PASSWORD = "123456"
SCREEN_SECONDS = 20.0
COLUMNS, ROWS = 80, 24


class Person:
    """Somebody who types, and reads the screen.

    Args:
        command: what runs at the terminal.
        environment: beside that of the tests.
        columns: the width of the terminal.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        columns: int = COLUMNS,
    ) -> None:
        self._own, terminal = pty.openpty()
        self._screen = pyte.HistoryScreen(columns, ROWS, history=5000)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.raw = b""
        """All that was written to the terminal."""
        self._set_size(columns)
        self.mode_before: list[Any] = termios.tcgetattr(terminal)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],  # it becomes that command, with a terminal of its own
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={
                **os.environ,
                "TERM": "xterm-256color",
                "PYTHONWARNINGS": "error",
                **(environment or {}),
            },
        )
        self._terminal = terminal
        self._is_open = True
        self._stop, self._stop_send = os.pipe()
        self._reader = threading.Thread(target=self._read, name="screen", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, failure: BaseException | None, __: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._close()
        if failure is not None:
            failure.add_note("\n".join(["the screen:", *self.lines]))

    @property
    def lines(self) -> list[str]:
        """The rows of the screen that have something, and those that have scrolled out above."""
        with self._lock:
            width = self._screen.columns
            scrolled = [
                "".join(row[column].data for column in range(width))
                for row in self._screen.history.top
            ]
            rows = [*scrolled, *self._screen.display]
        return [row.rstrip() for row in rows if row.strip()]

    @property
    def input_row(self) -> tuple[str, int]:
        """The row with the cursor, and the cursor's column."""
        with self._lock:
            cursor = self._screen.cursor
            return self._screen.display[cursor.y].rstrip(), cursor.x

    @property
    def text(self) -> str:
        """All rows."""
        return "\n".join(self.lines)

    @property
    def mode(self) -> list[Any]:
        """The modes of the terminal."""
        return termios.tcgetattr(self._terminal)

    def set_mode(self, mode: list[Any]) -> None:
        """Change the modes of the terminal, as a shell does."""
        termios.tcsetattr(self._terminal, termios.TCSANOW, mode)

    def type(self, text: str | bytes) -> None:
        """Press keys."""
        data = text.encode() if isinstance(text, str) else text
        while data:
            data = data[os.write(self._own, data) :]

    def enter(self, text: str) -> None:
        """Type a line."""
        self.type(f"{text}\r")

    def sees(self, *texts: str) -> None:
        """Wait until all of these are on the screen."""
        wait_for(lambda: all(text in self.text for text in texts), seconds=SCREEN_SECONDS)

    def sees_typed(self, row: str, column: int | None = None) -> None:
        """Wait until the last row is this one, with the cursor in a column of it."""
        at = len(row) if column is None else column
        wait_for(lambda: self.input_row == (row, at), seconds=SCREEN_SECONDS)

    def resize(self, columns: int) -> None:
        """Make the window narrower or wider."""
        with self._lock:
            self._screen.resize(columns=columns)
        self._set_size(columns)

    def freeze_window(self) -> None:
        """What is written stays where it is, until nothing more has room."""
        self._stop_reading()

    def close_window(self) -> None:
        """The terminal is gone, for all who have it."""
        self._close()

    def wait(self) -> int:
        """The exit status."""
        return self.process.wait(timeout=SCREEN_SECONDS)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._stop_reading()  # a terminal that is read is not closed
            for descriptor in (self._stop, self._terminal, self._own):
                os.close(descriptor)

    def _stop_reading(self) -> None:
        if self._reader.is_alive():
            os.close(self._stop_send)
            self._reader.join()

    def _set_size(self, columns: int) -> None:
        fcntl.ioctl(self._own, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))

    def _read(self) -> None:
        while True:
            readable, _, _ = select.select([self._own, self._stop], [], [])
            if self._own not in readable:
                return
            data = os.read(self._own, 65536)
            with self._lock:
                self.raw += data
                self._stream.feed(data)


def chatting(*arguments: str) -> list[str]:
    """The command line of a chat."""
    return [sys.executable, "-m", "fastimd", "chat", *arguments]
