"""A person's terminal: the line that is typed, in the last rows, and what comes above it.

prompt_toolkit reads the keys and draws, on an asyncio loop in a thread of its own; what is entered
and what is shown cross over here. The terminal is put back however that thread ends.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
import termios
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOBase
from typing import TextIO, cast

import trio
from prompt_toolkit import PromptSession
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from .descriptors import write_all

LEAST_COLUMNS = 20
DEFAULT = Size(rows=24, columns=80)
"""Of a terminal that does not say."""

Complete = Callable[[str], tuple[str, list[str]]]
"""From a line, the word at its end and the words that it may become."""


FROZEN_SECONDS = 1.0
"""How long is waited at the end for a terminal that takes nothing."""


class TerminalGone(Exception):
    """Its window was closed, or its line was cut."""


class Prompt:
    """Standard input and output, which are a terminal.

    Args:
        label: what stands before the line.
        complete: what the key Tab does.
        last: the line that Ctrl-D enters.
    """

    def __init__(self, label: Callable[[], str], complete: Complete, last: str) -> None:
        self._entered, self.lines = trio.open_memory_channel[str](math.inf)
        """``lines`` are those that were entered."""
        self._loop: AbstractEventLoop | None = None
        self._being_written: set[trio.Event] = set()
        self._ended = trio.Event()
        # It asks the terminal nothing: a shell might get the answers.
        output = Vt100_Output(
            cast(TextIO, _Output()), _window, os.environ.get("TERM"), enable_cpr=False
        )
        self._session = PromptSession[None](
            lambda: [("", label())],
            completer=_Completer(complete),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            enable_suspend=True,
            erase_when_done=True,
            key_bindings=self._bindings(last),
            output=output,
            reserve_space_for_menu=0,
        )

    @property
    def width(self) -> int:
        """Its columns."""
        return _window().columns

    @property
    def text(self) -> str:
        """What is being typed."""
        return self._session.default_buffer.text

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Read lines until cancelled; started when the line is there.

        Raises:
            TerminalGone: there is nobody to type.
        """
        with _kept_mode():
            try:
                token = trio.lowlevel.current_trio_token()
                is_gone = await trio.to_thread.run_sync(
                    self._read_lines, token, task_status.started, abandon_on_cancel=True
                )
            finally:
                self._call(self._exit)
                # A window that is frozen, and takes nothing, must not keep the process.
                with trio.move_on_after(FROZEN_SECONDS, shield=True):
                    await self._ended.wait()
        self._loop = None
        for written in self._being_written:
            written.set()
        if is_gone:
            raise TerminalGone

    async def write(self, text: str) -> None:
        """Write whole rows above the line, until the terminal has them or has gone."""
        token, written = trio.lowlevel.current_trio_token(), trio.Event()

        def write() -> None:
            try:
                self._write(text)
            finally:
                token.run_sync_soon(written.set)

        if self._call(write):
            self._being_written.add(written)
            await written.wait()
            self._being_written.remove(written)

    def relabel(self) -> None:
        """Draw the line again, with what stands before it now."""
        self._call(self._session.app.invalidate)

    def redraw(self) -> None:
        """Draw the line again, as after a stop or in a window of another size."""
        self._call(self._redraw)

    def _call(self, function: Callable[[], object]) -> bool:
        """Have the thread call something; returns False when it is over."""
        if self._loop is None:
            return False
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # it has just ended
            return False
        return True

    # In the thread

    def _read_lines(self, token: trio.lowlevel.TrioToken, started: Callable[[], None]) -> bool:
        """Read until ``_exit``; returns whether nobody can type any more."""

        def begin() -> None:
            self._loop = get_running_loop()
            trio.from_thread.run_sync(started)

        self._session.default_buffer.accept_handler = self._accept
        try:
            self._session.prompt(pre_run=begin, set_exception_handler=False)
        except EOFError:
            return True
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            return True
        finally:
            token.run_sync_soon(self._ended.set)
        return False

    def _accept(self, buffer: Buffer) -> bool:
        self._enter(buffer.text)
        return False  # the line is emptied, and is remembered

    def _enter(self, line: str) -> None:
        # Bytes that the terminal's encoding has no characters for are most likely UTF-8.
        text = line.encode(errors="surrogateescape").decode(errors="replace")
        trio.from_thread.run_sync(self._entered.send_nowait, text)

    def _bindings(self, last: str) -> KeyBindings:
        bindings = KeyBindings()

        @bindings.add("c-c")
        def interrupt(_event: KeyPressEvent) -> None:
            signal.raise_signal(signal.SIGINT)

        @bindings.add("c-\\")
        def quit_at_once(_event: KeyPressEvent) -> None:
            signal.raise_signal(signal.SIGQUIT)

        @bindings.add("c-d", filter=Condition(lambda: not self._session.default_buffer.text))
        def enter_last(_event: KeyPressEvent) -> None:
            self._enter(last)

        return bindings

    def _write(self, text: str) -> None:
        # Not by ``run_in_terminal``: while that has the terminal, it echoes what is typed.
        output = self._session.output
        self._session.app.renderer.erase()
        output.disable_autowrap()  # a row that is wider than it counts must not begin another
        output.write_raw(text)
        output.enable_autowrap()
        output.flush()
        self._session.app.invalidate()

    def _redraw(self) -> None:
        # A shell has left its own mode. It is raw mode's outer block that puts it back in the end.
        self._session.input.raw_mode().__enter__()
        self._session.app.renderer.erase()
        self._session.app.invalidate()

    def _exit(self) -> None:
        if self._session.app.is_running and not self._session.app.is_done:
            self._session.app.exit()


def _window() -> Size:
    try:
        columns, rows = os.get_terminal_size(1)
    except OSError:  # it has gone
        columns, rows = 0, 0
    return Size(rows=rows or DEFAULT.rows, columns=max(LEAST_COLUMNS, columns or DEFAULT.columns))


@contextmanager
def _kept_mode() -> Iterator[None]:
    """Put the terminal's mode back, also when the thread cannot."""
    mode = termios.tcgetattr(0)
    try:
        yield
    finally:
        with suppress(termios.error):  # it has gone
            termios.tcsetattr(0, termios.TCSANOW, mode)


class _Output(TextIOBase):
    """Standard output without a buffer, whose lock a write to a frozen window would keep."""

    encoding = property(lambda self: sys.stdout.encoding)

    def fileno(self) -> int:
        return 1

    def write(self, text: str) -> int:
        write_all(1, text.encode(sys.stdout.encoding, "backslashreplace"))
        return len(text)


class _Completer(Completer):
    def __init__(self, complete: Complete) -> None:
        self._complete = complete

    def get_completions(
        self, document: Document, _complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        word, found = self._complete(document.text_before_cursor)
        for each in found:
            yield Completion(each, start_position=-len(word))
