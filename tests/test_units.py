"""The daemon under systemd: the notify protocol, and the unit file."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest
from conftest import StartDaemon, run_daemon, wait_for

from fastimd import config, systemd

UNIT = Path(__file__).parent.parent / "systemd" / "fastimd.service"


@pytest.fixture
def notify_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The other end of $NOTIFY_SOCKET."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(15)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield receiver


def test_systemd_is_told_when_the_daemon_serves_and_stops(
    start_daemon: StartDaemon, notify_socket: socket.socket
) -> None:
    """READY=1 once the port is open, STOPPING=1 at the signal, and nothing else."""
    daemon = start_daemon()
    assert notify_socket.recv(100) == b"READY=1"
    host, _, port = daemon.address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=5).close()
    daemon.process.send_signal(signal.SIGTERM)
    assert notify_socket.recv(100) == b"STOPPING=1"
    assert daemon.stop() == 0
    notify_socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        notify_socket.recv(100)


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
    notify_socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        notify_socket.recv(100)


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
    unit = ConfigParser(interpolation=None)
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


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """systemd-analyze finds nothing to say about it."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        required = os.environ.get("FASTIMD_TEST_SYSTEMD") == "required"
        assert not required, "systemd-analyze is required and not installed"
        pytest.skip("systemd-analyze is not installed")
    text = UNIT.read_text()
    assert text.count("ExecStart=/opt/fastimd/bin/fastimd ") == 1
    copy = tmp_path / "fastimd.service"
    copy.write_text(text.replace("/opt/fastimd/bin/fastimd", sys.executable))
    verified = subprocess.run(
        [analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
