"""RESULTS.md and its plots."""

from __future__ import annotations

import platform
from pathlib import Path

import matplotlib as mpl
from goals import check_goals
from results import Measured, machine

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "fastimd"  # the same numbers make the same file

from matplotlib import pyplot as plt  # noqa: E402

SIZES = (10, 100, 1000, 5000, 10_000)


def write_results(measured: Measured, path: Path) -> None:
    """Write everything that was measured."""
    _plot_sizes(measured, path.with_name("cost.svg"))
    lines = [
        "# Results",
        "",
        f"Measured by `{measured.command}` in {measured.seconds / 60:.0f} minutes on {machine()}, "
        f"Python {platform.python_version()}. One process of each server, one Redis, one client; "
        "medians over the rounds. CPU is that of the server alone. On a machine that others use, "
        "compare ratios.",
        "",
        *(f"- {version}" for version in measured.versions),
        "",
        "## What is to be reached",
        check_goals(measured).table(),
        "",
        "## CPU per delivery by the size of the group",
        "",
        "![CPU per delivery by the size of the group](cost.svg)",
        "",
        "## All",
        measured.table(),
        "",
    ]
    path.write_text("\n".join(lines))


def _plot_sizes(measured: Measured, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4))
    servers = dict.fromkeys(server for server, _ in measured.results)
    for server in servers:
        points = [
            (size, cost)
            for size in SIZES
            if (cost := measured.median(server, f"burst {size}", "server.cpu_us_per_delivery"))
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=server)
    axes.set(xscale="log", yscale="log", xlabel="members of the group", ylabel="CPU/delivery, µs")
    axes.legend()
    axes.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
