"""fastimd beside its peers: one machine, one Redis, one client, in turn, for several rounds.

Prints a table of medians and one of the goals, as ratios within this run. CPU times are those of
the kernel. On a shared machine they grow with the load of others; the runs of a ratio follow each
other, so most of that cancels out.

    python bench/compare.py            a few minutes
    python bench/compare.py --full     every size, more rounds; writes RESULTS.md and its plots
    python bench/compare.py --live     the live wire, beside Centrifugo; with --full, Protobuf too
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cases import CASES, LISTS, LIVE_CASES, PEAK, Case
from document import write_live, write_results
from goals import check_goals, check_live_goals
from history import measure_history
from results import Measured
from servers import (
    KINDS,
    LIVE_KINDS,
    PROTOBUF_KINDS,
    BenchRedis,
    Fastimd,
    NotStarted,
    Server,
)

from fastimd.bench.report import Result
from fastimd.bench.run import Failed, run
from fastimd.bench.spec import Spec

SETTLE = 0.5


def main() -> int:
    """Measure, print, and perhaps write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="every size, more rounds; writes")
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    parser.add_argument("--seconds", type=float, help="how long each is measured")
    parser.add_argument("--only", default="", help="cases whose names have this in them")
    parser.add_argument("--servers", default="", help="names of servers, joined by commas")
    parser.add_argument("--live", action="store_true", help="the live wire, beside Centrifugo")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (3 if arguments.full else 2)
    all_cases = LIVE_CASES if arguments.live else CASES
    cases = [
        case
        for case in all_cases
        if arguments.only in case.name and (arguments.full or not case.is_long)
    ]
    kinds = _kinds(arguments)
    if not kinds:
        parser.error(f"--servers: nobody here is called {arguments.servers!r}")
    names = [case.name for case in all_cases] + ([] if arguments.live else ["history", *LISTS])
    if not any(arguments.only in name for name in names):
        parser.error(f"--only: no case is called so; there are {', '.join(names)}")
    measured = Measured(command=" ".join(["python", *sys.argv]))
    began = time.monotonic()
    with TemporaryDirectory() as folder, BenchRedis(Path(folder)) as redis:
        measured.versions.append(redis.version)
        bench = _Bench(Path(folder), redis, arguments.seconds or 3.0, measured)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            # Each begins as often as the other.
            bench.measure(cases, kinds[::-1] if number % 2 else kinds)
        if Fastimd in kinds:
            bench.measure_extras(arguments.only)
    measured.seconds = time.monotonic() - began
    print(measured.table())
    print((check_live_goals if arguments.live else check_goals)(measured).table())
    if arguments.full and not arguments.only:
        write, name = (write_live, "LIVE.md") if arguments.live else (write_results, "RESULTS.md")
        write(measured, Path(__file__).with_name(name))
    return 0


def _kinds(arguments: argparse.Namespace) -> list[type[Server]]:
    kinds = KINDS
    if arguments.live:
        with_protobuf = arguments.full or arguments.servers
        kinds = LIVE_KINDS + (PROTOBUF_KINDS if with_protobuf else ())
    return [kind for kind in kinds if not arguments.servers or kind.name in arguments.servers]


class _Bench:
    def __init__(self, folder: Path, redis: BenchRedis, seconds: float, measured: Measured) -> None:
        self._folder = folder
        self._redis = redis
        self._seconds = seconds
        self._measured = measured
        self._missing: set[type[Server]] = set()

    def measure(self, cases: list[Case], kinds: list[type[Server]]) -> None:
        """One round: each case on each server, one right after the other."""
        peaks: dict[type[Server], float] = {}
        for case in cases:
            for kind in kinds:
                if case.concerns(kind) and self._is_there(kind):
                    self._measure(case, kind, peaks)

    def measure_extras(self, only: str) -> None:
        """What needs no rounds."""
        self._measure_lists(only)
        self._measure_history(only)

    def _is_there(self, kind: type[Server]) -> bool:
        if kind not in self._missing and (missing := kind.missing()):
            self._missing.add(kind)
            self._measured.missing[kind.name] = missing
        return kind not in self._missing

    def _measure(self, case: Case, kind: type[Server], peaks: dict[type[Server], float]) -> None:
        spec = case.spec
        if case.name.endswith("% of the peak"):
            if not peaks.get(kind):
                return
            spec = spec | {"rate": peaks[kind] * int(case.name.split()[0]) / 100}
        result = self._run(kind, case.name, case.mode, spec)
        if case.name == PEAK and result is not None:
            peaks[kind] = result.messages_per_second or 0.0

    def _measure_history(self, only: str) -> None:
        if only in "history":
            with Fastimd(self._folder, self._redis) as server, self._redis.client() as client:
                self._measured.history.update(measure_history(server, self._redis, client))
            self._redis.flush()

    def _measure_lists(self, only: str) -> None:
        for name, spec in LISTS.items():
            if only not in name:
                continue
            options = spec | {"run": "lists"}
            self._join_groups(options)
            self._run(Fastimd, name, "list", options)

    def _join_groups(self, options: dict[str, Any]) -> None:
        """What 5,000 users would do by 100,000 requests."""
        spec = Spec("list", (), **options)
        with self._redis.client() as client, client.pipeline(transaction=False) as pipeline:
            for place in spec.places(0):
                pipeline.sadd(f"ugs:{place.user}", *place.groups)
            pipeline.execute()

    def _run(
        self, kind: type[Server], name: str, mode: str, options: dict[str, Any]
    ) -> Result | None:
        """A run on a server that was just started, and a Redis that is empty but for lists."""
        print(f"  {kind.name}: {name}", file=sys.stderr)
        try:
            with kind(self._folder, self._redis) as server, self._redis.client() as client:
                if not self._measured.knows(server):
                    self._measured.versions.append(f"{server.name}: {server.version}")
                spec = Spec(
                    mode,
                    (server.address,),
                    server.dialect,
                    seconds=self._seconds,
                    warm_up=min(2.0, self._seconds / 2),
                    settle=SETTLE,
                    **options,
                )
                redis = client if mode == "list" else None
                result = run(spec, pids=server.pids, redis=redis)
        except (Failed, NotStarted) as exc:
            self._measured.failures.append(f"{kind.name}, {name}: {exc}")
            return None
        finally:
            self._redis.flush()
        if result.is_sound:
            self._measured.add(kind.name, name, result)
            return result
        fault = result.disorder or (
            f"{result.lost} lost, {result.unanswered} not acknowledged, "
            f"{result.refused} refused {result.reason}"
        )
        self._measured.failures.append(f"{kind.name}, {name}: {fault}")
        return None


if __name__ == "__main__":
    sys.exit(main())
