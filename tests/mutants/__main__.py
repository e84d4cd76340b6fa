"""``make mutants``: how many small faults in the core its tests notice.

Those are the tests of the part that is changed, and then the quick suite.

Each mutant is the tree with one change: a comparison moved or turned, a condition negated, ``and``
for ``or``, a number or a flag changed, a plus for a minus, a statement taken out. One that every
test passes has survived. Those in ``excused.toml`` change nothing that a test could see, each with
its reason, and are not tried.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .lua_changes import lua_mutants
from .mutant import Mutant, Name, numbered
from .python_changes import python_mutants
from .trial import ROOT, Tree, WrongTree, core_files, quick_tests

EXCUSED = Path(__file__).parent / "excused.toml"
ENOUGH = 0.9
SAMPLE = 150


def all_mutants(files: Sequence[str]) -> list[Mutant]:
    """Every mutant of some files."""
    found: list[Mutant] = []
    for file in files:
        make = python_mutants if file.endswith(".py") else lua_mutants
        found += numbered(make(file, (ROOT / file).read_bytes()))
    return found


def excuses() -> dict[Name, str]:
    """The reason of each mutant that no test can notice, by the mutant's name."""
    table = tomllib.loads(EXCUSED.read_text())
    return {
        (
            each["file"],
            each["scope"],
            each["before"],
            each["after"],
            each.get("occurrence", 1),
        ): each["reason"]
        for each in table["excused"]
    }


def stale_excuses() -> list[Name]:
    """Names in ``excused.toml`` of mutants that there are no more."""
    names = {mutant.name for mutant in all_mutants(core_files())}
    return [name for name in excuses() if name not in names]


def main() -> int:
    arguments = _arguments()
    known = core_files()
    files = [file for file in known if not arguments.file or Path(file) in arguments.file]
    if strange := [str(path) for path in arguments.file if str(path) not in known]:
        print(f"not of the core: {', '.join(strange)}; that is\n  " + "\n  ".join(known))
        return 2
    excused = excuses()
    chosen = [mutant for mutant in all_mutants(files) if mutant.name not in excused]
    total = len(chosen)
    if not (arguments.all or arguments.file) or arguments.sample is not None:
        chooser = random.Random(arguments.seed)
        chosen = chooser.sample(chosen, min(arguments.sample or SAMPLE, total))
        print(f"{len(chosen)} of {total} mutants, ARGS='--seed {arguments.seed}'", flush=True)
    try:
        survivors = _try_all(chosen, arguments.jobs)
    except WrongTree as exc:
        print(exc)
        return 2
    return _report(chosen, survivors)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants ARGS=…", description=__doc__)
    parser.add_argument("file", nargs="*", type=Path, help="all mutants of these files alone")
    parser.add_argument("--all", action="store_true", help="all mutants, not a sample")
    parser.add_argument("--sample", type=int, help=f"how many are drawn; else {SAMPLE}")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the drawing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="workers at once")
    return parser.parse_args()


def _try_all(mutants: Sequence[Mutant], jobs: int) -> list[Mutant]:
    """Try mutants, and print each that survives; returns those."""
    survivors: list[Mutant] = []
    trees: dict[int, Tree] = {}
    began, done = time.monotonic(), 0
    quick = quick_tests()
    with tempfile.TemporaryDirectory(prefix="fastimd-mutants-") as folder:
        opening = threading.Lock()

        def tree() -> Tree:
            """That of this worker."""
            number = threading.get_ident()
            with opening:
                if number not in trees:
                    trees[number] = Tree(Path(folder) / str(len(trees)), quick)
                return trees[number]

        def attempt(mutant: Mutant) -> bool:
            return tree().is_caught(mutant)

        with ThreadPoolExecutor(jobs) as workers:
            files = {mutant.file: None for mutant in mutants}
            workers.submit(lambda: tree().verify_unchanged()).result()
            list(workers.map(lambda file: tree().verify(file), files))
            for mutant, is_caught in zip(mutants, workers.map(attempt, mutants), strict=True):
                done += 1
                if not is_caught:
                    survivors.append(mutant)
                    print(_described(mutant), flush=True)
                elif done % 50 == 0:
                    spent = time.monotonic() - began
                    print(f"  {done} of {len(mutants)} in {spent:.0f} s", flush=True)
    return survivors


def _described(mutant: Mutant) -> str:
    place = f"{mutant.file}:{mutant.line}"
    return f"{place} {mutant.scope}\n    - {mutant.before}\n    + {mutant.after}"


def _report(mutants: Sequence[Mutant], survivors: Sequence[Mutant]) -> int:
    """Print the score of each file and of all; returns the exit status."""
    tried = Counter(mutant.file for mutant in mutants)
    lived = Counter(mutant.file for mutant in survivors)
    for file in sorted(tried):
        print(_score(file, tried[file], lived[file]))
    print(_score("in all", len(mutants), len(survivors)))
    stale = stale_excuses()
    for name in stale:
        print("excused.toml names a mutant that there is no more:", *name, sep="\n    ")
    caught = len(mutants) - len(survivors)
    return int(bool(stale) or caught < ENOUGH * len(mutants))


def _score(name: str, tried: int, lived: int) -> str:
    return f"{name:40} {tried - lived:4} of {tried:4} caught, {(tried - lived) / tried:7.1%}"


if __name__ == "__main__":
    sys.exit(main())
