"""The daemon under systemd: the notify protocol, and the unit file."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from clients import RawClient
from conftest import StartDaemon, run_daemon, wait_for

from fastimd.base import settings as config
from fastimd.base import systemd

FOLDER = Path(__file__).parent.parent.parent / "systemd"
UNIT = FOLDER / "fastimd.service"
INSTANCE = FOLDER / "fastimd@.service"
UNITS = sorted(
    path for path in FOLDER.iterdir() if path.suffix in {".service", ".socket", ".target"}
)


def test_systemd_is_told_when_the_daemon_serves_and_stops(
    start_daemon: StartDaemon, notify_socket: socket.socket
) -> None:
    """READY=1 once the port is open, STOPPING=1 at the signal; besides nothing but a status."""
    daemon = start_daemon()
    while (told := notify_socket.recv(1000)).startswith(b"STATUS="):
        pass
    assert told == b"READY=1\nMAINPID=%d" % daemon.process.pid
    host, _, port = daemon.address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=5).close()
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.stop() == 0
    assert told_besides_status(notify_socket) == [b"STOPPING=1"]


def told_besides_status(notify_socket: socket.socket) -> list[bytes]:
    """What else has been told so far."""
    notify_socket.setblocking(False)
    told = []
    with contextlib.suppress(BlockingIOError):
        while True:
            told.append(notify_socket.recv(1000))
    return [each for each in told if not each.startswith(b"STATUS=")]


def test_ready_is_not_said_before_redis_answers(
    tmp_path: Path, notify_socket: socket.socket
) -> None:
    """A daemon that waits for Redis is not ready yet, and never says so if it ends before."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        daemon = run_daemon(tmp_path, url, wait_serving=False)
        try:
            wait_for(lambda: daemon.events("redis.unavailable"), daemon)
            assert daemon.stop() == 0
        finally:
            daemon.process.kill()
            daemon.process.wait()
    assert told_besides_status(notify_socket) == []


def test_an_abstract_notify_socket_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that begins with @ is one without a file."""
    name = f"fastimd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert systemd.notify("READY=1") is True
        assert receiver.recv(100) == b"READY=1"


def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket, no notice, no error."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert systemd.notify("READY=1") is False


def read_unit() -> ConfigParser:
    unit = ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    assert unit.read(UNIT)
    return unit


def test_the_unit_fits_the_daemon() -> None:
    """What the unit promises to systemd is what the daemon does."""
    service = read_unit()["Service"]
    assert service["Type"] == "notify"
    assert service["RestartPreventExitStatus"] == "78"
    assert service["StateDirectory"] == "fastimd"
    redis_stop_seconds = 10
    drain_seconds = config.Server().drain_seconds
    assert float(service["TimeoutStopSec"]) > drain_seconds + redis_stop_seconds
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} == set(service["RestrictAddressFamilies"].split())


def tool(name: str) -> str:
    """Where a program is; without it the test is skipped, or fails where it must not be."""
    found = shutil.which(name)
    if found is None:
        required = os.environ.get("FASTIMD_TEST_SYSTEMD") == "required"
        assert not required, f"{name} is required and not installed"
        pytest.skip(f"{name} is not installed")
    return found


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """systemd-analyze has nothing to say about them but that an old systemd is old."""
    assert {unit.name for unit in UNITS} == {
        *("fastimd.service", "fastimd.socket"),
        *("fastimd@.service", "fastimd@.socket", "fastimd.target"),
    }
    for unit in UNITS:
        text = unit.read_text()
        executed = text.count("ExecStart=/opt/fastimd/bin/fastimd ")
        assert executed == (unit.suffix == ".service")
        (tmp_path / unit.name).write_text(text.replace("/opt/fastimd/bin/fastimd", sys.executable))
    verified = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    said = verified.stderr.splitlines()
    if systemd_version() < 254:
        unknown = re.compile(r"Unknown key (name )?'Restart(Steps|MaxDelaySec)' .*, ignoring\.$")
        said = [line for line in said if not unknown.search(line)]
    assert (verified.returncode, verified.stdout, said) == (0, "", [])


def systemd_version() -> int:
    """The first number of ``systemctl --version``."""
    said = subprocess.run(
        [tool("systemd-analyze"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    return int(said.split()[1])


@pytest.mark.parametrize("unit", [UNIT, INSTANCE], ids=lambda unit: unit.name)
def test_the_units_are_hardened(unit: Path) -> None:
    """What systemd-analyze calls the exposure, from 0 to 10, is at most 1.5."""
    judged = subprocess.run(
        [tool("systemd-analyze"), "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=True,
    )
    exposure = re.search(r"exposure level for fastimd\S*.service: ([0-9.]+)", judged.stdout)
    assert exposure is not None
    assert float(exposure[1]) <= 1.5


def directives(unit: Path) -> list[str]:
    return [line for line in unit.read_text().splitlines() if line and not line.startswith("#")]


def test_an_instance_is_the_daemon_with_an_admin_port_and_a_queue_of_its_own() -> None:
    """The two service units are the same but for that."""
    one, several = directives(UNIT), directives(INSTANCE)
    assert set(one) - set(several) == {
        "Description=fastimd, a group-chat daemon",
        "WantedBy=multi-user.target",
    }
    assert [line for line in several if line not in one] == [
        "Description=fastimd, a group-chat daemon, one of several: the one with admin port %i",
        "PartOf=fastimd.target",
        "Environment=FASTIMD_ADMIN__BIND=127.0.0.1:%i",
        "Sockets=fastimd@%i.socket",
        "WantedBy=fastimd.target",
    ]
    assert (FOLDER / "fastimd@.socket").read_text().count("\nReusePort=yes\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="files of other users are root's to make")
def test_the_settings_are_for_the_daemon_alone(tmp_path: Path) -> None:
    """The snippets make the user, and keep others from the settings."""
    for kind in ("sysusers", "tmpfiles"):
        folder = tmp_path / "etc" / f"{kind}.d"
        folder.mkdir(parents=True)
        shutil.copy(FOLDER / f"fastimd.{kind}", folder / "fastimd.conf")
    settings = tmp_path / "etc" / "fastimd" / "fastimd.toml"
    settings.parent.mkdir()
    settings.touch(0o644)
    for command in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
        subprocess.run(
            [tool(command[0]), *command[1:], f"--root={tmp_path}", "fastimd.conf"], check=True
        )
    users = (tmp_path / "etc" / "passwd").read_text()
    assert (
        user := re.search(r"^fastimd:x:(\d+):(\d+):.*:/var/lib/fastimd:.*nologin$", users, re.M)
    )
    for path, mode in ((settings.parent, 0o750), (settings, 0o640)):
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (0, int(user[2]))
        assert stat.S_IMODE(found.st_mode) == mode


SERVICE = re.compile(r"fastimd(@\d+)?(\.service)?")
PAGES = {
    path: path.read_text()
    for folder in (".", "docs", "bench", "examples", "examples/migrate", "systemd")
    for path in sorted((FOLDER.parent / folder).iterdir())
    if path.suffix in {".md", ".py"}
}


def test_what_stops_a_daemon_stops_its_socket() -> None:
    """Else the next client starts it again; a target takes the sockets of its instances along."""
    commands = [
        names.split()
        for text in PAGES.values()
        for names in re.findall(r"systemctl (?:stop|disable --now) ([^`#\n&]+)", text)
        if "fastimd" in names
    ]
    assert len(commands) > 5
    for names in commands:
        services = {name.removesuffix(".service") for name in names if SERVICE.fullmatch(name)}
        sockets = {name.removesuffix(".socket") for name in names if name.endswith(".socket")}
        assert services <= sockets, names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_section_that_has_a_daemon_stopped_names_the_socket(page: Path) -> None:
    """Wherever you are told to stop it, you are told of the port that systemd keeps open."""
    for section in re.split(r"^#+ ", PAGES[page], flags=re.M):
        if re.search(r"\b[Ss]top (?:the|every|each|your|all) (?:daemons?|fastimd)\b", section):
            assert "fastimd.socket" in section, section[:60]


def calls_in(name: str) -> set[str]:
    """The system calls of one of systemd's groups, such as ``@system-service``."""
    listed = subprocess.run(
        [tool("systemd-analyze"), "syscall-filter", name],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")[1:]
    calls: set[str] = set()
    for word in (line.strip() for line in listed):
        if word.startswith("@"):
            calls |= calls_in(word)
        elif word and not word.startswith("#"):
            calls.add(word)
    return calls


def test_the_daemon_keeps_within_the_units_calls(tmp_path: Path, redis_url: str) -> None:
    """From start to stop, with its Redis: no refused call, no memory to write and execute."""
    filters = [
        line.partition("=")[2] for line in UNIT.read_text().splitlines() if "CallFilter=" in line
    ]
    assert [each.split() for each in filters] == [
        ["@system-service"],
        ["~@privileged", "@resources"],
    ]
    allowed = calls_in("@system-service") - calls_in("@privileged") - calls_in("@resources")
    trace = tmp_path / "trace"
    daemon = run_daemon(
        tmp_path,
        "embedded",
        wait_serving=True,
        launcher=[tool("strace"), "-f", "-qq", "-o", str(trace)],
        redis__data_dir=str(tmp_path / "data"),
    )
    with RawClient(daemon.address, "/group/chat/1/1/t") as client:
        client.next_text()
        client.say("hello")
        assert "hello" in client.next_text()
    (pid,) = (line["pid"] for line in daemon.events("daemon.starting"))
    os.kill(pid, signal.SIGTERM)
    assert daemon.process.wait(30) == 0
    lines = trace.read_text().splitlines()
    made = {match[1] for line in lines if (match := re.match(r"[0-9]+ +([a-z_0-9]+)\(", line))}
    assert {"accept4", "epoll_wait", "execve"} <= made
    assert made <= allowed
    assert not [line for line in lines if "PROT_WRITE|PROT_EXEC" in line]
