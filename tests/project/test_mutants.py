"""The mutation tester: what it changes, and that the excused mutants are still there."""

from __future__ import annotations

import pytest
from mutants.__main__ import all_mutants, stale_excuses
from mutants.lua_changes import lua_mutants
from mutants.python_changes import python_mutants
from mutants.trial import ROOT, core_files, own_tests, quick_tests

PYTHON = {
    "if a < b: pass": ["if a <= b: pass", "if a >= b: pass"],
    "if 0 <= a < b: pass": [
        "if 0 < a < b: pass",
        "if 0 <= a <= b: pass",
        "if 1 <= a < b: pass",
        "if not (0 <= a < b): pass",
    ],
    "if a is None: pass": ["if a is not None: pass"],
    "if a and not (b): pass": [
        "if a and (b): pass",
        "if a or not (b): pass",
        "if not (a and not (b)): pass",
    ],
    "while a: pass": ["while not (a): pass"],
    "while True: pass": [],
    "a.b = c": ["pass"],
    "a.b += c": ["a.b -= c", "pass"],
    "a = b + 1": ["a = b + 2", "a = b - 1"],
    "a = (b) - (c)": ["a = (b) + (c)"],
    "a = True": ["a = False"],
    "a(b)": ["pass"],
    "await a(b)": ["pass"],
    "raise a": ["pass"],
    "del a[b]": ["pass"],
    "log.info(1)": [],
    "assert a < b": [],
    "LIMIT = 256 * 1024": [],
    "a: int = 5": [],
    "if logs.is_debug: a.b = c": [],
    '"text"': [],
}
LUA = {
    "if a < b then": ["if a <= b then", "if a >= b then"],
    "if a == 1 and b then": [
        "if a == 1 or b then",
        "if a == 2 and b then",
        "if a ~= 1 and b then",
        "if not (a == 1 and b) then",
    ],
    "if not a then": ["if a then"],
    "if a then": ["if not (a) then"],
    "a = b + c": ["", "a = b - c"],
    "local a = f(-1)": ["local a = f(-2)"],
    "redis.call('SET', KEYS[1], ARGV[2])": [""],
    "  return a": [""],
    "  break": [""],
    "a = 'b < 1'  -- c < 2": ["-- c < 2"],
}


@pytest.mark.parametrize("source", PYTHON)
def test_each_change_of_python_is_one_place(source: str) -> None:
    """A table of lines, and what becomes of them."""
    assert sorted(mutant.after for mutant in python_mutants("x.py", source.encode())) == sorted(
        PYTHON[source]
    )


@pytest.mark.parametrize("source", LUA)
def test_each_change_of_lua_is_one_place(source: str) -> None:
    """Strings and comments are left as they are."""
    assert sorted(mutant.after for mutant in lua_mutants("x.lua", source.encode())) == sorted(
        LUA[source]
    )


def test_a_mutant_differs_in_nothing_but_its_change() -> None:
    """All else is byte for byte the file, and Python can still read it."""
    for mutant in all_mutants(core_files()):
        source = (ROOT / mutant.file).read_bytes()
        changed = mutant.applied_to(source)
        assert changed != source
        assert changed.startswith(source[: mutant.start])
        assert changed.endswith(source[mutant.end :])
        if mutant.file.endswith(".py"):
            compile(changed, mutant.file, "exec")


def test_the_core_and_its_tests_are_there() -> None:
    """Each part has mutants, and tests of its own."""
    files = core_files()
    plain = {"fastimd/redis/scripts/policy.lua"}  # one command, in which nothing can be changed
    assert {mutant.file for mutant in all_mutants(files)} == set(files) - plain
    for test in [*quick_tests(), *(test for file in files for test in own_tests(file))]:
        assert (ROOT / test).is_file()


def test_every_excused_mutant_is_one() -> None:
    """What ``excused.toml`` names is in the code of today."""
    assert stale_excuses() == []
