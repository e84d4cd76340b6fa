"""The measurements of a comparison, as tables and as a document with plots."""

from __future__ import annotations

import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from servers import Server

from fastimd.bench.report import Result

COLUMNS = (
    *("server", "messages/s", "deliveries/s", "CPU/message", "CPU/delivery", "in the kernel"),
    *("p50", "p99"),
)


@dataclass
class Measured:
    """All results, by server and case, one of each round."""

    command: str
    seconds: float = 0.0
    versions: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    results: dict[tuple[str, str], list[Result]] = field(default_factory=lambda: defaultdict(list))
    history: dict[str, float] = field(default_factory=dict)

    def knows(self, server: Server) -> bool:
        """Whether its version is noted."""
        return any(version.startswith(f"{server.name}: ") for version in self.versions)

    def add(self, server: str, case: str, result: Result) -> None:
        """Note a result."""
        self.results[server, case].append(result)

    def median(self, server: str, case: str, value: str) -> float | None:
        """The median over the rounds of a value, such as ``server.cpu_us_per_message``."""
        found = [_value(result, value) for result in self.results.get((server, case), ())]
        numbers = [number for number in found if number is not None]
        return statistics.median(numbers) if numbers else None

    def cases(self) -> list[str]:
        """The cases that were measured, in their order."""
        return list(dict.fromkeys(case for _, case in self.results))

    def servers(self, case: str) -> list[str]:
        """Who was measured in a case."""
        return [server for server, name in self.results if name == case]

    def has(self, server: str) -> bool:
        """Whether there is a result of a server."""
        return any(name == server for name, _ in self.results)

    def table(self) -> str:
        """Every case and server, medians."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for case in self.cases():
            rows = [self._row(server, case) for server in self.servers(case)]
            yield f"\n{case}"
            yield from aligned(list(_useful([list(COLUMNS) + list(MORE), *rows])))
        for server, reason in self.missing.items():
            yield f"\nnot measured: {server}: {reason}"
        for failure in self.failures:
            yield f"\nno result: {failure}"
        for name, value in self.history.items():
            yield f"\n{name}: p99 {value:.2f} ms"

    def _row(self, server: str, case: str) -> list[str]:
        def show(value: str, form: str, scale: float = 1.0) -> str:
            number = self.median(server, case, value)
            return "" if number is None else form.format(number * scale)

        return [
            server,
            show("messages_per_second", "{:,.0f}"),
            show("deliveries_per_second", "{:,.0f}"),
            show("server.cpu_us_per_message", "{:.1f} us"),
            show("server.cpu_us_per_delivery", "{:.2f} us"),
            show("server.kernel_share", "{:.0f} %", 100),
            show("latency.p50", "{:.1f} ms"),
            show("latency.p99", "{:.1f} ms"),
            show("connects_per_second", "{:,.0f}"),
            show("server.cpu_us_per_socket", "{:.0f} us"),
            show("server.bytes_per_socket", "{:.1f} KiB", 1 / 1024),
            show("redis_commands_per_second", "{:,.0f}"),
        ]


MORE = ("connects/s", "CPU/connect", "memory/socket", "Redis commands/s")


def _value(result: Result, path: str) -> float | None:
    value: object = result
    for name in path.split("."):
        value = getattr(value, name, None)
    return value if isinstance(value, int | float) else None


def _useful(rows: list[list[str]]) -> Iterator[list[str]]:
    """The rows without the columns that are empty but for their heads."""
    used = [any(row[n] for row in rows[1:]) for n in range(len(rows[0]))]
    for row in rows:
        yield [cell for cell, is_used in zip(row, used, strict=True) if is_used]


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows as a Markdown table, in columns that a terminal shows well too."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def three_digits(value: float) -> str:
    """A number as exactly as it is known."""
    return f"{float(f'{value:.3g}'):,.{max(0, 3 - len(str(int(abs(value)))))}f}"


def machine() -> str:
    """What it was measured on."""
    cpus = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = cpus[0] if cpus else platform.machine()
    return f"{os.cpu_count()} x {model}, {memory:.0f} GiB, Linux {platform.release()}"
