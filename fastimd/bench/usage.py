"""What servers use of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .links import Unusable


@dataclass(frozen=True)
class Usage:
    """What some processes have used: seconds of CPU since they began, bytes of memory now."""

    cpu_seconds: float = 0.0
    resident_bytes: int = 0

    @classmethod
    def of(cls, pids: Iterable[int]) -> Usage:
        """Look at processes; their children are others.

        Raises:
            Unusable: one of them is not there.
        """
        used = cls()
        for pid in pids:
            try:
                used = cls(
                    used.cpu_seconds + _cpu_seconds(pid), used.resident_bytes + _resident_bytes(pid)
                )
            except (FileNotFoundError, ProcessLookupError):
                raise Unusable(f"there is no process {pid}") from None
        return used


def _cpu_seconds(pid: int) -> float:
    # Finer than the ticks of /proc/PID/stat, but only of the threads that live.
    used = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            used += int((thread / "schedstat").read_text().split()[0])
    return used / 1e9


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
