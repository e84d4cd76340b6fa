"""What the processes of a run tell each other while it goes on: numbers in shared memory."""

from __future__ import annotations

import mmap
from enum import IntEnum


class Phase(IntEnum):
    """What a run is doing; only the coordinator sets it."""

    OPENING = 0
    WARMING = 1
    MEASURED = 2
    DRAINING = 3
    OVER = 4


class Counter(IntEnum):
    """What each process counts."""

    OPEN = 0
    SAID = 1
    HEARD = 2
    DONE = 3
    ANSWERED = 4


class Board:
    """Numbers that every process reads; each writes its own. To be made before they are forked."""

    def __init__(self, processes: int) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 8 * (1 + processes * len(Counter)))).cast("q")
        self._processes = processes

    @property
    def phase(self) -> Phase:
        """What the run is doing."""
        return Phase(self._numbers[0])

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._numbers[0] = phase

    def set(self, process: int, counter: Counter, value: int) -> None:
        """Tell a number."""
        self._numbers[1 + process * len(Counter) + counter] = value

    def add(self, process: int, counter: Counter, value: int = 1) -> None:
        """Count further."""
        self._numbers[1 + process * len(Counter) + counter] += value

    def total(self, counter: Counter) -> int:
        """What all processes count together."""
        return sum(self._numbers[1 + counter :: len(Counter)])
