"""``make test ARGS=…``: two runs, of which each may find nothing to do, but not both.

And wherever it is called, its tests have the same signals.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SECONDS = 180
TESTS = {
    "beside": "def test_beside():\n    assert True\n",
    "alone": "import pytest\n\n@pytest.mark.alone\ndef test_alone():\n    assert True\n",
    "broken_beside": "def test_broken():\n    assert False\n",
    "broken_alone": "import pytest\n\n@pytest.mark.alone\ndef test_broken():\n    assert False\n",
}

pytestmark = pytest.mark.timeout(SECONDS)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One with tests of its own, which pass unless they are broken."""
    (tmp_path / "tests").mkdir()
    for name in ("Makefile", "pyproject.toml", "tests/conftest.py", "tests/warm.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name, text in TESTS.items():
        (tmp_path / "tests" / f"test_{name}.py").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "passed", "succeeds"),
    [
        ("tests/test_beside.py", 1, True),
        ("tests/test_alone.py", 1, True),
        ("tests/test_beside.py tests/test_alone.py", 2, True),
        ("-k nothing_has_this_name", 0, False),
        ("-m alone tests/test_alone.py", 1, True),
        ("tests/test_beside.py tests/test_broken_beside.py", 1, False),
        ("tests/test_beside.py tests/test_broken_alone.py", 1, False),
    ],
)
def test_a_selection_fails_only_where_it_should(
    checkout: Path, arguments: str, passed: int, succeeds: bool
) -> None:
    """One without tests of one kind is no failure; one without any test is, as is a failed test."""
    done = subprocess.run(
        [
            *("make", "test", "--assume-old=.venv/test", f"BIN={Path(sys.executable).parent}"),
            f"ARGS=-n 1 -p no:cacheprovider {arguments}",
        ],
        cwd=checkout,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
    assert sum(map(int, re.findall(r"(\d+) passed", done.stdout))) == passed


def test_signals_that_the_caller_ignores_are_heeded(checkout: Path) -> None:
    """As in the background of a script, or under nohup: what the tests start must obey them."""
    (checkout / "tests" / "test_signals.py").write_text(
        "import signal, subprocess, sys\n\n"
        "def test_signals():\n"
        "    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):\n"
        "        with subprocess.Popen(['sleep', '60']) as sleeping:\n"
        "            sleeping.send_signal(number)\n"
        "            assert sleeping.wait(20) == -number\n"
    )
    run = f"{sys.executable} -m pytest -n 0 -p no:cacheprovider tests/test_signals.py"
    subprocess.run(
        ["sh", "-c", f"trap '' HUP INT QUIT; exec {run}"],
        cwd=checkout,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        timeout=SECONDS,
        check=True,
    )
