"""What is handed out: a wheel and the sources, always the same bytes, and whole.

pip fetches what the wheel needs. Where it can fetch nothing this is skipped, unless
``FASTIMD_TEST_PACKAGE=required`` says that it must work.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import venv
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import Daemon, wait_for

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "systemd" / "README.md").read_text()
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"
SECONDS = 240

pytestmark = [pytest.mark.timeout(SECONDS), pytest.mark.xdist_group("package")]


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Run a command that knows nothing of the tree it was built from."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FASTIMD_", "PYTHON"))
    }
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Failed(Exception):
    """A command has failed; the message has what it printed."""


def build(folder: Path) -> tuple[Path, Path]:
    """The wheel and the sources."""
    run(sys.executable, "-m", "build", "--outdir", folder, SOURCE_DATE_EPOCH="1700000000")
    (wheel,), (sources,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sources


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    try:
        return build(tmp_path_factory.mktemp("dist"))
    except Failed as exc:
        if os.environ.get("FASTIMD_TEST_PACKAGE") == "required":
            raise
        if "No matching distribution" not in str(exc):
            raise
        pytest.skip("pip can fetch nothing here")


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of commands of a virtual environment that has the wheel, and no more."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS, f"{built[0]}[embedded]")
    return folder / "bin"


@pytest.fixture
def daemon(installed: Path, tmp_path: Path) -> Iterator[Daemon]:
    log_path = tmp_path / "log"
    with log_path.open("wb") as log_file:
        process = subprocess.Popen(
            [installed / "fastimd"],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "FASTIMD_SERVER__BIND": "127.0.0.1:0",
                "FASTIMD_ADMIN__BIND": "127.0.0.1:0",
                "FASTIMD_REDIS__DATA_DIR": str(tmp_path / "data"),
                "FASTIMD_LOG__FORMAT": "json",
            },
            stderr=log_file,
            stdin=subprocess.DEVNULL,
        )
    daemon = Daemon(process, log_path)
    serving = wait_for(lambda: daemon.events("daemon.serving"), daemon, 30)[0]
    daemon.address = serving["page"].removeprefix("http://").partition("/")[0]
    yield daemon
    assert daemon.stop() == 0


def test_an_installed_wheel_serves(daemon: Daemon) -> None:
    """It has its page, its scripts and its own Redis, in an environment that was empty."""
    parts = [
        f"test/static/{part.name}"
        for part in (ROOT / "fastimd/page").iterdir()
        if part.suffix != ".py" and part.is_file()
    ]
    for path in ("test/websocket", *parts, "openapi.json"):
        with urllib.request.urlopen(f"{daemon.http}/{path}", timeout=10) as answer:
            assert answer.status == 200
    login = urllib.request.Request(f"{daemon.http}/user/login", b"userId=1&password=x")
    with urllib.request.urlopen(login, timeout=10) as answer:
        assert b'"code":200' in answer.read()


def test_an_installed_wheel_checks_settings(installed: Path, tmp_path: Path) -> None:
    """``fastimd check`` takes the example file, and names what is wrong with another."""
    shutil.copy(ROOT / "fastimd.toml", tmp_path)
    assert "is valid" in run(installed / "fastimd", "check", cwd=tmp_path)
    (tmp_path / "fastimd.toml").write_text("[server]\nbnd = 1\n")
    with pytest.raises(Failed, match=r"did you mean server\.bind"):
        run(installed / "fastimd", "check", cwd=tmp_path)


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("systemd-sysusers"),
    reason="an installation is root's to make, with systemd's tools",
)
def test_the_documented_lines_install_a_service(installed: Path, tmp_path: Path) -> None:
    """Those of systemd/README.md after pip, under another root: units, user and settings."""
    lines = re.search(r"^```sh\npython3 -m venv /opt/fastimd\n(.*?)^```", DOCUMENT, re.M | re.S)
    assert lines is not None
    pip, *others = lines[1].splitlines()
    assert pip.startswith("/opt/fastimd/bin/pip install -c constraints.txt ")
    assert len(others) == 3, "five lines in all"
    commands = "\n".join(others)
    for old, new in (
        ("/opt/fastimd/", f"{installed.parent}/"),
        ("fastimd /etc", f"fastimd {tmp_path}/etc"),
        ("systemd-sysusers ", f"systemd-sysusers --root={tmp_path} "),
        ("systemd-tmpfiles ", f"systemd-tmpfiles --root={tmp_path} "),
        (" && systemctl daemon-reload", ""),
        ("enable --now", f"--root={tmp_path} enable"),
    ):
        assert commands.count(old) == 1, old
        commands = commands.replace(old, new)
    (tmp_path / "etc").mkdir()
    run("sh", "-ec", commands)
    assert "fastimd:" in (tmp_path / "etc" / "passwd").read_text()
    settings = tmp_path / "etc" / "fastimd" / "fastimd.toml"
    assert settings.read_bytes() == (ROOT / "fastimd.toml").read_bytes()
    system = tmp_path / "etc" / "systemd" / "system"
    for wanted in (
        "sockets.target.wants/fastimd.socket",
        "multi-user.target.wants/fastimd.service",
    ):
        assert (system / wanted).is_symlink()
    units = {path.name for path in system.iterdir() if path.is_file()}
    assert units == {
        path.name
        for path in (ROOT / "systemd").iterdir()
        if path.suffix in {".service", ".socket", ".target"}
    }


def test_the_sources_are_whole(built: tuple[Path, Path]) -> None:
    """Whoever unpacks them can build, test and operate it."""
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = run("git", "ls-files").splitlines() if (ROOT / ".git").exists() else []
    assert {"Makefile", "systemd/fastimd.service", "tests/conftest.py"} <= names
    assert set(tracked) <= names


def test_the_same_sources_make_the_same_bytes(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Whoever builds it again can compare."""
    again = build(tmp_path)
    assert [sha256(path.read_bytes()).digest() for path in built] == [
        sha256(path.read_bytes()).digest() for path in again
    ]
