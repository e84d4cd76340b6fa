"""What a soak found, as tables, and whether that is well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .books import Books
from .counts import PROMISES, Counts
from .harm import Dealer
from .health import Health

NUMBERS = ("said", "stored", "heard", "unknown", "refused")
ALLOWED = ("lost_to_fail_over", "gone_in_fail_over")


@dataclass
class Report:
    """All that is told at the end."""

    seconds: float
    counts: Counts
    books: Books
    health: Health
    dealer: Dealer
    slow: Counter[str]
    complaints: Counter[str]

    @property
    def failures(self) -> list[str]:
        """What is wrong, a line each."""
        found = [f"{often} {_words(name)}" for name, often in self.counts.broken.items()]
        found += self.health.grown()
        found += [f"unexpected: {what} ({often})" for what, often in self.books.surprises.items()]
        found += [f"failed: {what} ({often})" for what, often in self.dealer.failed.items()]
        found += [f"logged: {what} ({often})" for what, often in self.complaints.items()]
        return found

    @property
    def status(self) -> int:
        """For the shell."""
        return 1 if self.failures else 0

    def table(self) -> str:
        """Everything, as Markdown."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        counts = self.counts
        yield f"\n{self.seconds / 60:.1f} minutes, {sum(self.dealer.done.values())} faults\n"
        shown = (*NUMBERS, *PROMISES, *ALLOWED)
        yield from _table(
            ("messages", ""), ((_words(name), getattr(counts, name)) for name in shown)
        )
        yield from _table(("fault", "times"), self.dealer.done.items())
        for name, counter in (
            ("returns on the live wire", self.books.returns),
            ("ends of connections", self.books.closes),
            ("clients that do not read", self.slow),
        ):
            yield from _table((name, "times"), counter.most_common())
        yield from _table(
            (
                *("process", "MB at first", "MB at the end", "ratio", "MB at most"),
                *("files at first", "files at the end", "lives"),
            ),
            self._growths(),
        )
        yield from counts.examples
        yield from self.failures or ["All promises were kept."]

    def _growths(self) -> Iterator[tuple[object, ...]]:
        for name, growth in self.health.growths.items():
            first, last, most = growth.first, growth.last, growth.most
            ratio = f"{last.memory / first.memory:.2f}" if first.memory else ""
            memory = [f"{each.memory / 1e6:.1f}" for each in (first, last)]
            most_memory = f"{most.memory / 1e6:.1f}"
            yield name, *memory, ratio, most_memory, first.files, last.files, len(growth.pids)


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    head = list(head)
    yield f"| {' | '.join(map(str, head))} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
    yield ""


def _words(name: str) -> str:
    return name.replace("_", " ")
