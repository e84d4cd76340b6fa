"""The daemons of a soak: each of two workers, and started again whatever ended it."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio
from servers import Fastimd, Store

from .waiting import wait_until

DRAIN_SECONDS = 2
OUTBOX_BYTES = 262_144
"""Little, so that who does not read is soon cut off."""
EXPECTED = frozenset(("worker.died",))
"""Lines at error that a killed worker explains."""


class Daemon(Fastimd):
    """A daemon whose log is kept over its lives.

    Args:
        number: of the daemon.
        redis: which runs already.
    """

    workers = 2

    def __init__(self, folder: Path, number: int, redis: Store) -> None:
        super().__init__(folder, redis)
        self.number = number
        self._lives = 0

    def environment(self) -> Mapping[str, str]:
        return {
            **super().environment(),
            "FASTIMD_SERVER__DRAIN_SECONDS": str(DRAIN_SECONDS),
            "FASTIMD_SOCKET__OUTBOX_BYTES": str(OUTBOX_BYTES),
            "FASTIMD_GROUP_MESSAGE__MAX_LENGTH": "0",
        }

    def wait_ready(self) -> None:
        self.wait_for("event daemon.serving", self._serves)

    def worker_pids(self) -> dict[int, int]:
        """The processes of the workers that live."""
        started: dict[int, int] = {}
        for line in self.log_lines():
            if '"worker.started"' in line:  # the log of an hour is long
                event = json.loads(line)
                started[event["worker"]] = event["pid"]
        return {worker: pid for worker, pid in started.items() if _is_alive(pid)}

    def processes(self) -> dict[str, int]:
        """All of them, by what they are."""
        workers = {
            f"daemon {self.number}, worker {worker}": pid
            for worker, pid in sorted(self.worker_pids().items())
        }
        return {f"daemon {self.number}, parent": self.pid, **workers}

    async def start_again(self) -> None:
        """After its end."""
        self._lives += 1
        (self.folder / "log").rename(self.folder / f"log-{self._lives}")
        self.launch()
        await trio.to_thread.run_sync(self.wait_ready)

    async def kill_parent(self) -> None:
        """SIGKILL to the parent, whose workers end with it, and start again."""
        workers = self.worker_pids()
        await trio.to_thread.run_sync(self.kill)
        await wait_until(lambda: not any(map(_is_alive, workers.values())), "end of the workers")
        await self.start_again()

    async def drain(self) -> None:
        """SIGTERM, and start again at the end."""
        self.send_signal(signal.SIGTERM)
        assert self._process is not None
        process = self._process
        await wait_until(lambda: process.poll() is not None, "end of a daemon that drains")
        await self.start_again()

    async def end_worker(self, worker: int, number: signal.Signals) -> None:
        """A signal to one worker, which ends it; the parent starts another in its place."""
        pid = self.worker_pids().get(worker)
        if pid is None:
            return
        os.kill(pid, number)
        await wait_until(lambda: not _is_alive(pid), f"end of worker {worker}")

    def log_complaints(self) -> Counter[str]:
        """The lines at error or worse of all lives that no harm explains."""
        return Counter(
            _word_of(line)
            for file in sorted(self.folder.glob("log*"))
            for line in file.read_text(errors="replace").splitlines()
            if _is_complaint(line)
        )


def _read(line: str) -> dict[str, Any]:
    with suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict):
            return event
    return {}


def _is_complaint(line: str) -> bool:
    event = _read(line)
    if not event:
        return bool(line.strip())
    return event.get("level") in ("error", "critical") and event["event"] not in EXPECTED


def _word_of(line: str) -> str:
    event = _read(line)
    told = {name: event[name] for name in ("event", "task", "error", "reason") if name in event}
    return " ".join(str(value)[:100] for value in told.values()) or line[:200]


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
