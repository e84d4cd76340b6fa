"""fastimd beside its peers: one machine, one Redis, one client, in turn, for several rounds.

Prints a table of medians and one of what is to be reached, as ratios within this run. The time of
CPU that a process has used is told by the kernel, and on a machine that others use too it grows
with their load; ratios are of runs that stand side by side, so much of that cancels out.

    python bench/compare.py            a few minutes
    python bench/compare.py --full     every size, more rounds; writes RESULTS.md and its plots
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from document import write_results
from goals import check_goals
from history import measure_history
from results import Measured
from servers import (
    KINDS,
    BenchRedis,
    Centrifugo,
    Fastimd,
    Nchan,
    NotStarted,
    SendLoop,
    Server,
)

from fastimd.bench.report import Result
from fastimd.bench.run import Failed, run
from fastimd.bench.spec import Spec

SETTLE = 0.5
LIST_USERS = 5000
LIST_GROUPS = 10_000


@dataclass(frozen=True)
class Case:
    """One measurement.

    Args:
        only: the servers that it is about; all if there are none.
        is_long: whether it is part of the full run alone.
    """

    name: str
    mode: str
    spec: dict[str, Any]
    only: tuple[type[Server], ...] = ()
    is_long: bool = False

    def concerns(self, server: type[Server]) -> bool:
        """Whether it is about a server."""
        return server in self.only if self.only else server is not SendLoop


PRODUCTS = (Fastimd, Nchan, Centrifugo)
"""Those that people run, beside peers that were written by hand for this."""

PEAK = "talk 100 x 5"
"""Its throughput is the peak, of which other cases take a share."""

CASES = (
    Case("burst 10", "burst", {"members": 10}, PRODUCTS, is_long=True),
    Case("burst 100", "burst", {"members": 100}),
    Case("burst 1000", "burst", {"members": 1000}),
    Case("burst 5000", "burst", {"members": 5000}, PRODUCTS),
    Case("burst 10000", "burst", {"members": 10_000}, PRODUCTS, is_long=True),
    Case(PEAK, "talk", {"groups": 100, "members": 5, "in_flight": 1}),
    Case("talk 20 x 25", "talk", {"groups": 20, "members": 25, "in_flight": 1}),
    *(
        Case(
            f"talk {n} x 5",
            "talk",
            {"groups": n, "members": 5, "in_flight": 1},
            PRODUCTS,
            is_long=True,
        )
        for n in (1, 10, 1000)
    ),
    Case(
        "one at a time to 1000",
        "burst",
        {"members": 1000, "in_flight": 1, "at_once": 1},
        (Fastimd, SendLoop),
    ),
    *(
        Case(
            f"{share} % of the peak", "talk", {"groups": 100, "members": 5}, PRODUCTS, is_long=True
        )
        for share in (10, 25, 75, 90)
    ),
    Case("50 % of the peak", "talk", {"groups": 100, "members": 5}),
    # So slowly that each message goes its way alone: many in one group would be written together.
    Case("1 group", "talk", {"groups": 1, "members": 1, "rate": 400.0}, (Fastimd,)),
    Case("10000 groups", "talk", {"groups": 10_000, "members": 1, "rate": 400.0}, (Fastimd,)),
    Case("idle 1000", "idle", {"groups": 100, "members": 10}, PRODUCTS, is_long=True),
    Case("idle 5000", "idle", {"groups": 500, "members": 10}),
    Case("idle 10000", "idle", {"groups": 1000, "members": 10}, PRODUCTS, is_long=True),
    Case("storm 10000", "storm", {"groups": 1000, "members": 10}, PRODUCTS),
)

LISTS = {
    f"lists, {active} active": {
        "members": LIST_USERS,
        "groups": LIST_GROUPS,
        "groups_each": 20,
        "active": active,
        "rate": 1.0,
        "joined": True,
    }
    for active in (0, 100)
}


def main() -> int:
    """Measure, print, and perhaps write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="every size, more rounds; writes")
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    parser.add_argument("--seconds", type=float, help="how long each is measured")
    parser.add_argument("--only", default="", help="cases whose names have this in them")
    parser.add_argument("--servers", default="", help="names of servers, joined by commas")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (3 if arguments.full else 2)
    seconds = arguments.seconds or 3.0
    cases = [
        case
        for case in CASES
        if arguments.only in case.name and (arguments.full or not case.is_long)
    ]
    kinds = [kind for kind in KINDS if not arguments.servers or kind.name in arguments.servers]
    measured = Measured(command=" ".join(["python", *sys.argv]))
    began = time.monotonic()
    with TemporaryDirectory() as folder, BenchRedis(Path(folder)) as redis:
        measured.versions.append(redis.version)
        bench = _Bench(Path(folder), redis, cases, arguments.only, seconds, measured)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for kind in kinds:
                bench.measure(kind, is_first=number == 0)
    measured.seconds = time.monotonic() - began
    print(measured.table())
    print(check_goals(measured).table())
    if arguments.full and not arguments.only:
        write_results(measured, Path(__file__).with_name("RESULTS.md"))
    return 0


class _Bench:
    def __init__(
        self,
        folder: Path,
        redis: BenchRedis,
        cases: list[Case],
        only: str,
        seconds: float,
        measured: Measured,
    ) -> None:
        self._folder = folder
        self._redis = redis
        self._cases = cases
        self._only = only
        self._seconds = seconds
        self._measured = measured
        self._missing: set[type[Server]] = set()

    def measure(self, kind: type[Server], *, is_first: bool) -> None:
        """One round of one server; what needs no rounds is measured in the first."""
        cases = [case for case in self._cases if case.concerns(kind)]
        with_extras = kind is Fastimd and is_first
        if not (cases or with_extras) or kind in self._missing:
            return
        if missing := kind.missing():
            self._missing.add(kind)
            self._measured.missing[kind.name] = missing
            return
        peak = 0.0
        for case in cases:
            spec = case.spec
            if case.name.endswith("% of the peak"):
                if not peak:
                    continue
                spec = spec | {"rate": peak * int(case.name.split()[0]) / 100}
            result = self._run(kind, case.name, case.mode, spec)
            if case.name == PEAK and result is not None:
                peak = result.messages_per_second or 0.0
        if with_extras:
            self._measure_lists()
            self._measure_history()

    def _measure_history(self) -> None:
        if self._only in "history":
            with Fastimd(self._folder, self._redis) as server, self._redis.client() as client:
                self._measured.history.update(measure_history(server, client))
            self._redis.flush()

    def _measure_lists(self) -> None:
        for name, spec in LISTS.items():
            if self._only not in name:
                continue
            self._join_groups("lists")
            self._run(Fastimd, name, "list", spec | {"run": "lists"})

    def _join_groups(self, run_name: str) -> None:
        """What 5,000 users would do by 100,000 requests."""
        spec = Spec("list", (), run=run_name, members=LIST_USERS, groups=LIST_GROUPS)
        with self._redis.client() as client, client.pipeline(transaction=False) as pipeline:
            for place in spec.places(0):
                groups = [spec.group(group) for group in spec.groups_of(place.number)]
                pipeline.sadd(f"ugs:{place.user}", *groups)
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
        fault = result.disorder or f"{result.lost} lost, {result.refused} refused {result.reason}"
        self._measured.failures.append(f"{kind.name}, {name}: {fault}")
        return None


if __name__ == "__main__":
    sys.exit(main())
