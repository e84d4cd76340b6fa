"""What signals do: stop the daemon, or have it read its settings again."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable

import structlog
import trio

log = structlog.get_logger("fastimd.daemon")


class Stop:
    """The first signal drains the daemon once it serves, and ends it before; so does a second.

    ``at_once`` says that a person at a terminal waits: no need to spread the sockets.

    Args:
        is_worker: only its parent can hurry it, by SIGKILL. What is sent to every process of the
            daemon reaches a worker twice.
    """

    def __init__(self, everything: trio.CancelScope, *, is_worker: bool = False) -> None:
        self._everything = everything
        self._is_worker = is_worker
        self.serving = trio.Event()
        self.reload: Callable[[], None] = _nothing_to_reload
        self.at_once = False
        self.asked = trio.Event()

    def drain(self) -> bool:
        """Drain, as at the first signal; returns False before the daemon serves."""
        if not self.serving.is_set():
            return False
        log.info("daemon.drain_asked")
        self.asked.set()
        return True

    async def wait_signals(self, signals: AsyncIterator[int]) -> None:
        """Do what each signal asks, until cancelled."""
        async for number in signals:
            log.info("daemon.signal", signal=signal.Signals(number).name)
            if number == signal.SIGHUP:
                if not self.asked.is_set():
                    self.reload()
                continue
            if self.asked.is_set() and self._is_worker:
                continue
            if not self.serving.is_set() or self.asked.is_set():
                self._everything.cancel()
            self.at_once = number == signal.SIGINT
            self.asked.set()


def _nothing_to_reload() -> None:
    """The settings have only just been read."""
