"""One change of one file, and how people and ``excused.toml`` name it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

Name: TypeAlias = tuple[str, str, str, str, int]


@dataclass(frozen=True)
class Mutant:
    """The bytes from ``start`` to ``end`` of a file become ``text``.

    ``scope`` is the function around it, "" at the top. ``before`` and ``after`` are the lines that
    it touches, as one line each: they name the change also when it stands elsewhere by now.
    ``occurrence`` says which one of several that are alike in all that.
    """

    file: str
    line: int
    start: int
    end: int
    text: str
    scope: str
    before: str
    after: str
    occurrence: int = 1

    @property
    def name(self) -> Name:
        """What ``excused.toml`` knows it by."""
        return self.file, self.scope, self.before, self.after, self.occurrence

    def applied_to(self, source: bytes) -> bytes:
        """The source with the change."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def make_mutant(file: str, source: bytes, start: int, end: int, text: str, scope: str) -> Mutant:
    """A change of the bytes from ``start`` to ``end``."""
    first = source.rfind(b"\n", 0, start) + 1
    last = source.find(b"\n", end)
    last = len(source) if last < 0 else last
    after = source[first:start] + text.encode() + source[end:last]
    return Mutant(
        file,
        source.count(b"\n", 0, start) + 1,
        start,
        end,
        text,
        scope,
        before=" ".join(source[first:last].decode().split()),
        after=" ".join(after.decode().split()),
    )


def numbered(mutants: Iterable[Mutant]) -> list[Mutant]:
    """Mutants with their occurrence among those that are alike."""
    seen: Counter[Name] = Counter()
    found = []
    for mutant in mutants:
        seen[mutant.name] += 1
        found.append(replace(mutant, occurrence=seen[mutant.name]))
    return found
