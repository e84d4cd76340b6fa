"""A long run under load, with faults of every kind at random: what is lost, and what grows.

python bench/soak.py --minutes 60

Clients on both wires talk on two daemons of two workers each, while processes are killed, stopped
and started again, connections break, and clients come, go and do not read. At the end every message
that was acknowledged or heard is held against the lists in Redis, and the memory and the open
descriptors of each process against the first ten minutes. The exit status is 1 if a promise of
docs/PROMISES.md was broken, or a daemon has grown.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import trio
from soaking.cluster import ClusterRedis
from soaking.counts import Counts, judge
from soaking.harm import Dealer
from soaking.health import Health
from soaking.redises import Form, OneRedis
from soaking.report import Report
from soaking.sentinels import SentinelRedis
from soaking.stage import Stage

FORMS: dict[str, type[Form]] = {"one": OneRedis, "sentinel": SentinelRedis, "cluster": ClusterRedis}
LOOK_SECONDS = 5.0
FIRST_SECONDS = 600.0
"""The part of the run with which its end is compared, or a sixth of it if that is shorter."""
QUIET_SECONDS = 2.0
SETTLE_SECONDS = 60.0
"""How long everybody may take to come back and hear the last message."""


async def soak(stage: Stage, dealer: Dealer, seconds: float) -> Health:
    """Let all talk while harm is done; returns what the processes took."""
    began = trio.current_time()
    health = Health()
    first_until = began + min(FIRST_SECONDS, seconds / 6)

    async def look() -> None:
        while True:
            health.look(stage.processes(), is_first=trio.current_time() < first_until)
            await trio.sleep(min(LOOK_SECONDS, seconds / 30))

    async with trio.open_nursery() as nursery:
        for person in stage.people:
            nursery.start_soon(person.run)
        await settle(stage)
        nursery.start_soon(look)
        nursery.start_soon(tell_progress, stage, dealer, health, began)
        await dealer.run(began + seconds)
        for person in stage.people:
            person.is_silent = True
            person.come_back()
        await settle(stage)
        health.look(stage.processes(), is_first=False)
        for person in stage.people:
            person.settle()
            for group in person.groups:
                if (stretch := person.stretch(group)) is not None:
                    stretch.is_open = True
        nursery.cancel_scope.cancel()
    return health


async def settle(stage: Stage) -> None:
    """Wait until everybody is in, has got all answers and has heard the last message."""
    with trio.move_on_after(SETTLE_SECONDS):
        while not all(person.is_in and not person.is_waiting for person in stage.people):
            await trio.sleep(0.1)
        await trio.sleep(QUIET_SECONDS)  # what others said last may still be on its way
        return
    absent = [each.name for each in stage.people if not each.is_in]
    waiting = [each.name for each in stage.people if each.is_waiting]
    stage.books.surprises[f"not settled: {absent} are not in, {waiting} await answers"] += 1


async def tell_progress(stage: Stage, dealer: Dealer, health: Health, began: float) -> None:
    """A line on standard error each minute."""
    while True:
        await trio.sleep(60)
        minutes = round((trio.current_time() - began) / 60)
        memory = sum(growth.last.memory for growth in health.growths.values()) / 1e6
        print(
            f"minute {minutes}: {stage.books.said} said, {stage.books.heard} heard, "
            f"{sum(dealer.done.values())} faults, "
            f"{sum(person.is_in for person in stage.people)} of {len(stage.people)} clients in, "
            f"{memory:.0f} MB",
            file=sys.stderr,
            flush=True,
        )


def count(stage: Stage) -> Counts:
    """Hold everything against the lists."""
    counts = Counts()
    for group in stage.groups:
        stored = stage.form.read(group)
        books = stage.books
        spoken, stretches = books.spoken[group], books.stretches[group]
        counts.add(judge(group, stored, spoken, stretches, stage.form.fail_overs))
    return counts


def read_arguments(given: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60, help="how long (60)")
    parser.add_argument("--seed", help="of what is done, and said; by default a new one")
    parser.add_argument("--redis", choices=FORMS, default="one", help="its form (one)")
    parser.add_argument("--faults-per-minute", type=float, default=6, help="on average (6)")
    parser.add_argument("--members", type=int, default=200, help="places in groups (200)")
    parser.add_argument("--messages", type=float, default=300, help="said a second, in all (300)")
    parser.add_argument("--keep", type=Path, help="an empty folder for logs and data, which stay")
    return parser.parse_args(given)


def run(arguments: argparse.Namespace, folder: Path) -> int:
    """One soak; returns the exit status."""
    seed = arguments.seed or str(random.randrange(10**9))
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    with (
        FORMS[arguments.redis](folder) as form,
        Stage(folder, form, seed, arguments.members, arguments.messages) as stage,
    ):
        dealer = Dealer([*stage.harms, *form.harms], seed, arguments.faults_per_minute)
        health = trio.run(soak, stage, dealer, arguments.minutes * 60)
        report = Report(
            seconds=time.monotonic() - began,
            counts=count(stage),
            books=stage.books,
            health=health,
            dealer=dealer,
            slow=stage.slow,
            complaints=sum((daemon.log_complaints() for daemon in stage.daemons), start=Counter()),
        )
    print(report.table())
    return report.status


def main(given: Sequence[str]) -> int:
    """Run it in a folder of its own."""
    arguments = read_arguments(given)
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        return run(arguments, arguments.keep.resolve())
    with TemporaryDirectory(prefix="soak-") as name:
        return run(arguments, Path(name))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
