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
    """What some processes have used: time of CPU since they began, bytes of memory now.

    The clock ticks are coarser than the seconds, but tell the kernel's part from the program's.
    """

    cpu_seconds: float = 0.0
    resident_bytes: int = 0
    program_ticks: int = 0
    kernel_ticks: int = 0

    @classmethod
    def of(cls, pids: Iterable[int]) -> Usage:
        """Look at processes; their children are others.

        Raises:
            Unusable: one of them is not there.
        """
        used = cls()
        for pid in pids:
            try:
                program, kernel = _ticks(pid)
                used = cls(
                    used.cpu_seconds + _cpu_seconds(pid),
                    used.resident_bytes + _resident_bytes(pid),
                    used.program_ticks + program,
                    used.kernel_ticks + kernel,
                )
            except (FileNotFoundError, ProcessLookupError):
                raise Unusable(f"there is no process {pid}") from None
        return used

    def kernel_share_since(self, before: Usage) -> float | None:
        """The part of the time since then that was spent in system calls; None of no time."""
        kernel = self.kernel_ticks - before.kernel_ticks
        ticks = kernel + self.program_ticks - before.program_ticks
        return kernel / ticks if ticks else None


def _ticks(pid: int) -> tuple[int, int]:
    # Behind the name, which may have spaces and parentheses in it: proc_pid_stat(5).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]), int(fields[12])


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
