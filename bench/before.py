"""This tree beside an earlier commit: the seed's wire or the live wire, in turn, for some rounds.

Prints the CPU time of each for the same work and the ratio, as medians over the rounds. The runs of
a round follow each other, so the load of the machine cancels out. Both servers stay up, so a round
is short and there can be many. The last column is the 95 % confidence interval of the ratio. With
HEAD for the commit, any difference from 1 is noise, or what several workers cost, or a cluster of
three masters.

    python bench/before.py COMMIT [--wire live] [--workers 2] [--cluster]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from io import BytesIO
from math import comb
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from servers import BenchCluster, BenchRedis, Fastimd, NotStarted

from fastimd.bench.dialect import FASTIMD
from fastimd.bench.live import LIVE, LIVE_PROTOBUF
from fastimd.bench.report import Result
from fastimd.bench.run import Failed, run
from fastimd.bench.spec import Spec

ROOT = Path(__file__).parent.parent
SETTLE = 0.5
FEWEST = 6
"""Rounds whose lowest and highest ratio enclose the true median with 95 % confidence."""

CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "burst 100": ("burst", {"members": 100}, "cpu_us_per_delivery"),
    "burst 1000": ("burst", {"members": 1000}, "cpu_us_per_delivery"),
    "in step 1000": ("burst", {"members": 1000, "in_flight": 8}, "cpu_us_per_delivery"),
    "talk 100 x 5": ("talk", {"groups": 100, "members": 5, "in_flight": 1}, "cpu_us_per_message"),
    "talk 20 x 25": ("talk", {"groups": 20, "members": 25, "in_flight": 1}, "cpu_us_per_message"),
    "idle 3000": ("idle", {"groups": 300, "members": 10, "opening": 1}, "cpu_us_per_socket"),
    "storm 10000": ("storm", {"groups": 1000, "members": 10}, "cpu_us_per_socket"),
}
"""Mode, options and what is compared. ``idle`` opens its sockets one after the other; ``in step``
sends as many messages as are written at once, and the next when all have come, so that batches are
of one size however busy a server is."""
WIRES = {dialect.name: dialect for dialect in (FASTIMD, LIVE, LIVE_PROTOBUF)}


class Tree(Fastimd):
    """fastimd as it is in a folder, whatever is installed."""

    tree: Path

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "PYTHONPATH": str(self.tree)}

    def find_version(self) -> str:
        asked = (sys.executable, "-c", "import fastimd; print(fastimd.__file__)")
        environment = {**os.environ, **self.environment()}
        said = subprocess.run(
            asked, cwd=self.folder, env=environment, check=True, capture_output=True, text=True
        ).stdout
        if not said.startswith(f"{self.tree}{os.sep}"):
            raise NotStarted(f"it runs {said.strip()}, not {self.tree}")
        return super().find_version()


class Now(Tree):
    """This tree, which may have a Redis of its own."""

    tree = ROOT
    cluster: BenchCluster | None = None

    def __init__(self, folder: Path, redis: BenchRedis) -> None:
        super().__init__(folder, self.cluster or redis)


class Before(Tree):
    """An earlier commit."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commit", metavar="COMMIT", help="what this tree is compared with")
    parser.add_argument("--rounds", type=int, default=20, help="how often each is measured")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each is measured")
    parser.add_argument("--only", default="", help="cases whose names have this in them")
    parser.add_argument("--wire", choices=WIRES, default=FASTIMD.name, help="what is spoken")
    parser.add_argument(
        "--cluster", action="store_true", help="this tree runs on a Redis Cluster of three masters"
    )
    parser.add_argument("--workers", type=int, default=1, help="how many this tree runs")
    arguments = parser.parse_args()
    Now.workers = arguments.workers
    Tree.dialect = WIRES[arguments.wire]
    if arguments.rounds < FEWEST:
        parser.error(f"--rounds: at least {FEWEST}, or nothing is known with 95 % confidence")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        redis = stack.enter_context(BenchRedis(folder))
        Now.cluster = stack.enter_context(BenchCluster(folder)) if arguments.cluster else None
        Before.tree = _check_out(arguments.commit, folder / "before")
        print(f"{'':<14}{'before':>10}{'now':>10}{'now/before':>12}  95 % confidence,", end="")
        print(f" us of CPU, {redis.version}")
        for case in filter(lambda case: arguments.only in case, CASES):
            used = _measure_in_turn(case, folder, redis, arguments)
            before, now = (median(column) for column in zip(*used, strict=True))
            low, ratio, high = median_within(now / before for before, now in used)
            print(f"{case:<14}{before:>10.2f}{now:>10.2f}{ratio:>12.3f}", end="")
            print(f"  {low:.3f} to {high:.3f}", flush=True)
    return 0


def _check_out(commit: str, folder: Path) -> Path:
    packed = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit], check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _measure_in_turn(
    case: str, folder: Path, redis: BenchRedis, arguments: argparse.Namespace
) -> list[tuple[float, float]]:
    """The CPU that each of the two used, round by round."""
    used: list[tuple[float, float]] = []
    try:
        with ExitStack() as servers:
            running: dict[type[Tree], Tree] = {}
            for kind in (Before, Now):
                own = folder / kind.__name__
                own.mkdir(exist_ok=True)
                running[kind] = servers.enter_context(kind(own, redis))
            for number in range(arguments.rounds):
                # Each begins as often as the other.
                order = (Before, Now) if number % 2 else (Now, Before)
                found = {kind: _measure(running[kind], case, arguments) for kind in order}
                used.append((found[Before], found[Now]))
    except (Failed, NotStarted) as exc:
        sys.exit(f"{case}: {exc}")
    finally:
        for each in filter(None, (redis, Now.cluster)):
            each.flush()
    return used


def _measure(server: Tree, case: str, arguments: argparse.Namespace) -> float:
    mode, options, what = CASES[case]
    spec = Spec(
        mode,
        (server.address,),
        server.dialect,
        seconds=arguments.seconds,
        warm_up=min(2.0, arguments.seconds / 2),
        settle=SETTLE,
        **options,
    )
    result: Result = run(spec, pids=server.pids)
    if not result.is_sound or result.server is None:
        sys.exit(f"{type(server).__name__}, {case}: {result.as_table()}")
    return float(getattr(result.server, what))


def median_within(values: Iterable[float]) -> tuple[float, float, float]:
    """The median, between the two values that enclose it with at least 95 % confidence.

    Of ``count`` values, ``k`` or fewer lie below the true median as often as a coin falls.
    """
    ordered = sorted(values)
    count, below, outside = len(ordered), 0, 1
    while 2 * (outside + comb(count, below + 1)) <= 0.05 * 2**count:
        below += 1
        outside += comb(count, below)
    return ordered[below], median(ordered), ordered[count - 1 - below]


if __name__ == "__main__":
    sys.exit(main())
