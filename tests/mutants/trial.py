"""Trying mutants: each in a copy of the tree that only this worker changes.

The copy comes first on ``PYTHONPATH``, so that the tests and the daemons that they start import it.
A file that is broken altogether shows that they do: its tests must fail. The mutant must then make
the same tests fail, or run longer than they may.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .mutant import Mutant

ROOT = Path(__file__).parent.parent.parent
_PRESENCE = ("redis/test_presence_scripts.py", "groups/test_presence.py")
_MODERATION = ("redis/test_moderation_scripts.py", "groups/test_acts.py", "live/test_moderation.py")
_VISITS = ("groups/test_burials.py", "redis/test_ledger_scripts.py")
FIRST = {
    "fastimd/groups/audience.py": ("groups/test_hub_relay.py",),
    "fastimd/groups/budget.py": ("groups/test_budget.py",),
    "fastimd/groups/gap.py": ("groups/test_budget.py",),
    "fastimd/groups/group.py": ("groups/test_hub_relay.py",),
    "fastimd/groups/hearing.py": ("groups/test_policies.py", "groups/test_relay.py"),
    "fastimd/groups/hub.py": ("groups/test_hub_relay.py",),
    "fastimd/groups/lingering.py": ("groups/test_relay.py",),
    **{
        f"fastimd/groups/moderation/{name}.py": (*_MODERATION[1:], "groups/test_policies.py")
        for name in ("acts", "announcer", "bodies", "methods")
    },
    **{
        f"fastimd/groups/moderation/{name}.py": ("groups/test_policies.py", *_MODERATION[1:])
        for name in ("judge", "policies", "policy", "restraint", "waiting")
    },
    "fastimd/groups/passings.py": ("groups/test_relay.py",),
    "fastimd/groups/pieces.py": ("groups/test_hub_relay.py",),
    **{
        f"fastimd/groups/presence/{name}.py": _PRESENCE[1:]
        for name in ("presence", "roster", "typing")
    },
    "fastimd/groups/pubsub.py": ("groups/test_relay.py",),
    "fastimd/groups/relay.py": ("groups/test_relay.py", "groups/test_hub_relay.py"),
    "fastimd/groups/repair.py": ("groups/test_relay.py",),
    "fastimd/groups/shedding.py": ("groups/test_budget.py", "live/test_shedding.py"),
    "fastimd/groups/store/ledgers.py": ("redis/test_ledger_scripts.py", "groups/test_burials.py"),
    "fastimd/groups/store/marks.py": ("live/test_inbox.py",),
    "fastimd/groups/store/policy.py": ("live/test_moderation.py", "groups/test_policies.py"),
    "fastimd/groups/store/presence.py": _PRESENCE,
    "fastimd/groups/store/removals.py": ("live/test_moderation.py",),
    "fastimd/groups/store/reports.py": ("live/test_moderation.py",),
    "fastimd/groups/subscription.py": ("groups/test_hub_relay.py", "groups/test_relay.py"),
    "fastimd/groups/visits/burials.py": _VISITS,
    "fastimd/groups/visits/ledger.py": _VISITS,
    "fastimd/live/inbox.py": ("live/test_inbox.py",),
    "fastimd/live/moderating.py": ("live/test_moderation.py",),
    "fastimd/redis/appender.py": ("redis/test_appender.py",),
    "fastimd/redis/batch.py": ("redis/test_appender.py",),
    "fastimd/redis/nonces.py": ("redis/test_appender.py",),
    "fastimd/redis/room.py": ("redis/test_appender.py",),
    "fastimd/redis/scripts": ("redis/test_scripts.py",),
    **{
        f"fastimd/redis/scripts/{name}.lua": tests
        for names, tests in (
            ("history life stand", ("redis/test_lives.py",)),
            ("removal", ("redis/test_lives.py", "redis/test_moderation_scripts.py")),
            ("index present renew tell", _PRESENCE[:1]),
            ("delete delete_of moderate policy report slow", _MODERATION[:1]),
            ("mark marks unread", ("redis/test_marks.py",)),
            ("leave", ("redis/test_scripts.py", "redis/test_marks.py")),
            ("daemons ledger", _VISITS[1:]),
        )
        for name in names.split()
    },
    "fastimd/websocket/frames.py": ("websocket/test_frames.py",),
    "fastimd/websocket/outbox.py": ("websocket/test_outbox.py",),
}
"""The core, and the tests of each part: they run before the rest of the quick suite, and need not
be of it."""

DAEMONS = "start_daemon"
"""A test file with this name in it starts daemons, which import everything."""
SECONDS_A_TEST = 25
SECONDS = 240
"""For all the tests that a mutant meets; what takes longer hangs."""
MEMORY_BYTES = 8 << 30
"""A mutant that never ends must not take the machine's memory."""
BROKEN = {".py": b"raise SystemError('broken by the mutation tester')\n", ".lua": b"broken\n"}


class WrongTree(Exception):
    """The tests do not run the code that is changed, or fail without a change."""


def core_files() -> list[str]:
    """Every file that is changed."""
    return sorted(
        {
            str(path.relative_to(ROOT))
            for name in FIRST
            for path in ([ROOT / name] if Path(name).suffix else (ROOT / name).glob("*.lua"))
        }
    )


def own_tests(file: str) -> list[str]:
    """The test files of a part of the core."""
    key = file if file in FIRST else str(Path(file).parent)
    return [f"tests/{name}" for name in FIRST[key]]


def quick_tests() -> list[str]:
    """The test files of ``make quick``."""
    done = subprocess.run(
        [
            "make",
            "--silent",
            "--no-print-directory",
            "--eval=quick-tests: ; @echo $(QUICK)",
            "quick-tests",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


class Tree:
    """A copy of the tree in which one file at a time is changed."""

    def __init__(self, folder: Path, quick: Sequence[str]) -> None:
        self._folder = folder / "tree"
        kept = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "node_modules")
        shutil.copytree(ROOT, self._folder, ignore=kept, symlinks=True)
        shutil.copytree(ROOT / ".ci", self._folder / ".ci")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PY")},
            "PYTHONPATH": str(self._folder),
        }
        self._tests = {test: self._loads(test) for test in quick}
        self._sound = set(quick)

    def tests_of(self, file: str) -> list[str]:
        """The test files that can notice a change of a file: its own, then all that import it."""
        is_script = file.endswith(".lua")
        first = own_tests(file)
        wanted = "fastimd.redis.scripts" if is_script else file[:-3].replace("/", ".")
        reached = [test for test, loaded in self._tests.items() if wanted in loaded]
        return [*first, *(test for test in reached if test not in first)]

    def verify_unchanged(self) -> None:
        """See that no test fails by itself: each mutant would count as caught."""
        if not self._pass(list(self._tests)):
            raise WrongTree("the quick suite fails without a change")

    def verify(self, file: str) -> None:
        """See that the tests of a file pass, and run this copy of it."""
        own = own_tests(file)
        untried = [test for test in own if test not in self._sound]
        if untried and not self._pass(untried):
            raise WrongTree(f"the tests of {file} fail without a change: {', '.join(untried)}")
        self._sound.update(untried)
        first = own[0]
        source = (self._folder / file).read_bytes()
        try:
            self._write(file, BROKEN[Path(file).suffix] + source)
            if self._pass([first]):
                raise WrongTree(
                    f"{first} passes though {file} is broken: it runs none of it, or another one"
                )
        finally:
            self._write(file, source)

    def is_caught(self, mutant: Mutant) -> bool:
        """Whether a test fails when a file is changed so."""
        source = (self._folder / mutant.file).read_bytes()
        first, *rest = self.tests_of(mutant.file)
        try:
            self._write(mutant.file, mutant.applied_to(source))
            return not (self._pass([first]) and (not rest or self._pass(rest)))
        finally:
            self._write(mutant.file, source)

    def _write(self, file: str, source: bytes) -> None:
        """Change a file. Its compiled form goes by size and second: too coarse for this."""
        path = self._folder / file
        path.write_bytes(source)
        if path.suffix == ".py":
            Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)

    def _pass(self, tests: Sequence[str]) -> bool:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "-p", "no:cacheprovider"),
                *("--alone", "aside", f"--timeout={SECONDS_A_TEST}", *tests),
            ],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_bound_memory,
        )
        try:
            return process.wait(SECONDS) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            _end(process)

    def _loads(self, test: str) -> frozenset[str]:
        """The modules that a test file brings in; of one that starts daemons, all of the core."""
        path = self._folder / test
        if DAEMONS in path.read_text() or "daemon: Daemon" in path.read_text():
            return frozenset(
                [*(file[:-3].replace("/", ".") for file in core_files()), "fastimd.redis.scripts"]
            )
        load = (
            "import runpy, sys; from pathlib import Path; import fastimd;"
            "sys.path[:0] = [sys.argv[2], sys.argv[3]]; runpy.run_path(sys.argv[1]);"
            "print(fastimd.__file__, *sys.modules)"
        )
        done = subprocess.run(
            [
                *(sys.executable, "-c", load),
                *(str(path), str(self._folder / "tests"), str(path.parent)),
            ],
            cwd=self._folder.parent,
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        )
        origin, *modules = done.stdout.split()
        if not Path(origin).is_relative_to(self._folder):
            raise WrongTree(f"{test} imports {origin}, not the copy in {self._folder}")
        return frozenset(modules)


def _bound_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what the tests have started and left, daemons and servers of Redis."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
    for _ in range(100):  # until the last of them is gone
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
