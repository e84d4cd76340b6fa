"""RESULTS.md and its plots, and LIVE.md."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from goals import PER_DELIVERY, Goals, check_goals, check_live_goals
from results import Measured, machine

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "fastimd"  # the same numbers make the same file

from matplotlib import pyplot as plt  # noqa: E402


@dataclass(frozen=True)
class Plot:
    """A value of the servers over a row of cases.

    Args:
        case: the name of the cases; ``{}`` stands for what is on the axis below.
        points: what is on that axis.
        value: of a result, such as ``server.cpu_us_per_message``.
        scale: what the value is multiplied with.
    """

    file: str
    title: str
    case: str
    points: tuple[int, ...]
    across: str
    value: str
    up: str
    scale: float = 1.0
    is_log_across: bool = True
    is_log_up: bool = True


PLOTS = (
    Plot(
        "cost.svg",
        "CPU per delivery by the size of the group",
        "burst {}",
        (10, 100, 1000, 5000, 10_000),
        "members of the group",
        PER_DELIVERY,
        "CPU/delivery, µs",
    ),
    Plot(
        "throughput.svg",
        "Throughput by the number of groups of five, everybody talks",
        "talk {} x 5",
        (1, 10, 100, 1000),
        "groups",
        "messages_per_second",
        "messages/s",
    ),
    Plot(
        "latency.svg",
        "Latency by load, 100 groups of five",
        "{} % of the peak",
        (10, 25, 50, 75, 90),
        "load, % of the server's own peak",
        "latency.p99",
        "p99 from sending to hearing, ms",
        is_log_across=False,
    ),
    Plot(
        "memory.svg",
        "Memory by the number of idle sockets",
        "idle {}",
        (1000, 5000, 10_000),
        "sockets",
        "server.resident_bytes",
        "resident memory, MiB",
        scale=2**-20,
        is_log_across=False,
        is_log_up=False,
    ),
)


def write_results(measured: Measured, path: Path) -> None:
    """Write everything that was measured on the seed's wire."""
    goals = check_goals(measured)
    path.write_text("\n".join(_document("Results", measured, goals, _plots(measured, path.parent))))


def write_live(measured: Measured, path: Path) -> None:
    """Write everything that was measured on the live wire."""
    goals = check_live_goals(measured)
    path.write_text("\n".join(_document("Results on the live wire", measured, goals, ())))


def _document(title: str, measured: Measured, goals: Goals, plots: Iterable[str]) -> Iterator[str]:
    yield from (f"# {title}", "")
    yield (
        f"Measured by `{measured.command}` in {measured.seconds / 60:.0f} minutes on {machine()}, "
        f"Python {platform.python_version()}. One process of each server, one Redis, one client; "
        "medians over the rounds. CPU is that of the server alone. On a machine that others use, "
        "compare ratios."
    )
    yield from ("", *(f"- {version}" for version in measured.versions), "")
    yield from ("## Goals", goals.table(), "", *plots)
    yield from ("## All", measured.table(), "")


def _plots(measured: Measured, folder: Path) -> Iterator[str]:
    for plot in PLOTS:
        _draw(plot, measured, folder / plot.file)
        yield from (f"## {plot.title}", "", f"![{plot.title}]({plot.file})", "")


def _draw(plot: Plot, measured: Measured, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4))
    for server in dict.fromkeys(server for server, _ in measured.results):
        points = [
            (point, value * plot.scale)
            for point in plot.points
            if (value := measured.median(server, plot.case.format(point), plot.value)) is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=server)
    axes.set(xlabel=plot.across, ylabel=plot.up)
    if plot.is_log_across:
        axes.set_xscale("log")
    if plot.is_log_up:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
