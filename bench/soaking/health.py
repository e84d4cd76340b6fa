"""What the processes of a soak take: memory and descriptors, by what each process is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

GROWN_SHARE, GROWN_BYTES = 0.2, 10_000_000
"""A process has grown if it has grown by more than both."""
GROWN_FILES = 50
DATABASE = "Redis"
"""Its processes keep every message, and so grow as they must."""


@dataclass
class Taken:
    """What one process takes."""

    memory: int = 0
    files: int = 0


@dataclass
class Growth:
    """What the processes in one place took: at most in the first part of the run, and last."""

    first: Taken = field(default_factory=Taken)
    last: Taken = field(default_factory=Taken)
    most: Taken = field(default_factory=Taken)
    pids: set[int] = field(default_factory=set)


class Health:
    """Of all processes. ``growths`` is by what they are."""

    def __init__(self) -> None:
        self.growths: dict[str, Growth] = {}

    def look(self, processes: dict[str, int], *, is_first: bool) -> None:
        """Note what they take now."""
        for name, pid in processes.items():
            taken = _look(pid)
            if taken is None:
                continue
            growth = self.growths.setdefault(name, Growth())
            growth.pids.add(pid)
            growth.last = taken
            growth.most = _most(growth.most, taken)
            if is_first:
                growth.first = _most(growth.first, taken)

    def grown(self) -> Iterator[str]:
        """What is larger than it should be, a line each."""
        daemons = {name: each for name, each in self.growths.items() if DATABASE not in name}
        for name, growth in daemons.items():
            first, last = growth.first.memory, growth.last.memory
            if first and last - first > max(GROWN_BYTES, GROWN_SHARE * first):
                yield f"{name} has grown from {first / 1e6:.1f} to {last / 1e6:.1f} MB"
        first = sum(growth.first.files for growth in daemons.values())
        last = sum(growth.last.files for growth in daemons.values())
        if last - first > max(GROWN_FILES, GROWN_SHARE * first):
            yield f"the daemons had {first} descriptors open, and have {last}"


def _most(one: Taken, other: Taken) -> Taken:
    return Taken(max(one.memory, other.memory), max(one.files, other.files))


def _look(pid: int) -> Taken | None:
    with suppress(OSError, IndexError):  # it may end meanwhile
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return Taken(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{pid}/fd")))
    return None
