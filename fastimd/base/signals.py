"""Signals as exceptions, for commands that have something to put back before they end.

Or as a plain end, while there is nothing yet. The daemon has its own way with them: it drains.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

EXIT_SIGNAL = 128
"""What the number of a signal is added to, as shells do."""


@contextmanager
def interrupt_kills() -> Iterator[None]:
    """Ctrl-C ends the process there and then, without a traceback: while modules are loaded."""
    is_heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if is_heeded:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def signals_raised(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """A signal unwinds with ``SystemExit`` and its status, so that what is open is put back.

    One that is ignored, as under ``nohup``, stays so.
    """
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _unwind) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unwind(number: int, _: object) -> None:
    raise SystemExit(EXIT_SIGNAL + number)
