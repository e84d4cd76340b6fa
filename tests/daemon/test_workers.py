"""Several workers behind one address: they are one daemon, whatever becomes of one of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from clients import CLOSE, TEXT, RawClient, dial, log_in, metrics, opening, stored
from conftest import Daemon, Launch, StartDaemon, environment_of, run_fastimd, wait_for
from redis import Redis
from test_activation import passing


@pytest.fixture
def launch(launch: Launch) -> Launch:
    """Start two workers on a Redis that may end as they like."""

    def start(redis_url: str, *, wait_serving: bool = True, **settings: str) -> Daemon:
        return launch(redis_url, wait_serving=wait_serving, **{"server__workers": "2", **settings})

    return start


def pids(daemon: Daemon) -> dict[int, int]:
    """The last process of each worker."""
    return {line["worker"]: line["pid"] for line in daemon.events("worker.started")}


def is_alive(pid: int) -> bool:
    """A process that has ended is none, though nobody may have waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def served(daemon: Daemon, worker: int) -> int:
    """How often a worker has begun to serve."""
    return len([line for line in daemon.events("daemon.serving") if line.get("worker") == worker])


def kill(daemon: Daemon, worker: int, number: int = signal.SIGKILL) -> None:
    """Kill a worker, and wait until another process of it serves."""
    before = served(daemon, worker)
    os.kill(pids(daemon)[worker], number)
    wait_back(daemon, worker, before + 1)


def wait_back(daemon: Daemon, worker: int, times: int) -> None:
    """Wait until a worker serves for the so manieth time, and its parent knows."""
    wait_for(lambda: served(daemon, worker) == times, daemon, 20)
    wait_for(lambda: status(daemon)["workers"][worker - 1]["reasons"] == [], daemon)


def ask(daemon: Daemon, path: str) -> Any:
    """The answer of the admin address, whatever its status."""
    asking = urllib.request.Request(f"{daemon.admin}{path}", headers={"Fastimd-Command": "1"})
    try:
        with urllib.request.urlopen(asking, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as exc:
        with exc:
            return json.load(exc)


def status(daemon: Daemon) -> Any:
    return ask(daemon, "/operate/status")


def connections(daemon: Daemon) -> list[int]:
    """Of each worker."""
    return [worker["connections"] for worker in status(daemon)["workers"]]


def join(daemon: Daemon, user: str, group: str = "1") -> RawClient:
    """A member that has had its greeting."""
    client = RawClient(daemon.address, f"/group/chat/{group}/{user}/t")
    assert '"list"' in client.next_text()
    return client


def place_of(daemon: Daemon, user: str) -> int:
    """The worker that a user's socket is at."""
    (line,) = wait_for(
        lambda: [line for line in daemon.events("socket.opened") if line["user"] == user]
    )
    return int(line["worker"])


# One address


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    """Two workers."""
    return start_daemon(server__workers="2")


def test_each_connection_goes_to_the_worker_with_the_fewest(daemon: Daemon) -> None:
    """Few and long ones too, and whoever goes makes room for the next."""
    with ExitStack() as stack:
        clients = [stack.enter_context(join(daemon, str(number))) for number in range(11)]
        wait_for(lambda: sorted(connections(daemon)) == [5, 6], daemon)
        at_first = [client for number, client in enumerate(clients) if not number % 2]
        for client in at_first[:4]:
            client.stream.close()
        wait_for(lambda: sorted(connections(daemon)) == [2, 5], daemon)
        for number in range(20, 24):
            stack.enter_context(join(daemon, str(number)))
        wait_for(lambda: sorted(connections(daemon)) == [5, 6], daemon)


def test_a_group_is_one_group(daemon: Daemon, redis: Redis) -> None:
    """Members at every worker hear each other, once and in order."""
    with ExitStack() as stack:
        clients = [stack.enter_context(join(daemon, str(number))) for number in range(4)]
        assert {place_of(daemon, str(number)) for number in range(4)} == {1, 2}
        for turn in range(20):
            clients[turn % 4].say(f"word {turn}")
            heard = [json.loads(client.next_text())["info"] for client in clients]
            assert heard == [f"word {turn}"] * 4
    assert stored(redis) == [f"word {turn}" for turn in range(20)]


def test_http_goes_on_at_any_worker(daemon: Daemon) -> None:
    """A login that one gave is known to the other."""
    for number in range(4):
        log_in(daemon, str(number))
    with closing(dial(daemon.address)) as stream:
        stream.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert stream.recv(65536).startswith(b"HTTP/1.1 404 ")


def test_the_client_has_its_own_address(start_daemon: StartDaemon) -> None:
    """Though another process has accepted it; so a limit by address holds at each worker."""
    daemon = start_daemon(server__workers="2", server__max_connections_per_ip="2")
    with ExitStack() as stack:
        for number in range(4):
            stack.enter_context(join(daemon, str(number)))
        with closing(dial(daemon.address)) as stream:
            stream.sendall(opening("/group/chat/1/5/t"))
            assert stream.recv(65536).startswith(b"HTTP/1.1 429 ")
    assert {line["client"] for line in daemon.events("socket.opened")} == {"127.0.0.1"}


def test_workers_share_the_limit_of_connections(start_daemon: StartDaemon) -> None:
    """Equally, rounded up."""
    daemon = start_daemon(server__workers="2", server__max_connections="3")
    with ExitStack() as stack:
        for number in range(4):
            stack.enter_context(join(daemon, str(number)))
        with closing(dial(daemon.address)) as stream:
            stream.sendall(opening("/group/chat/1/5/t"))
            assert stream.recv(65536).startswith(b"HTTP/1.1 503 ")


def test_a_socket_of_systemd_is_shared(start_daemon: StartDaemon) -> None:
    """And who comes while nobody serves waits in it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        early = dial(address)
        early.sendall(opening("/group/chat/1/early/t"))
        daemon = start_daemon(launcher=passing(listener), server__workers="2")
        assert daemon.address == address
        with closing(early), join(daemon, "late"):
            assert early.recv(65536).startswith(b"HTTP/1.1 101 ")
            assert place_of(daemon, "early") != place_of(daemon, "late")


def test_one_worker_a_core(launch: Launch, redis_url: str) -> None:
    """0 is as many as the process may use; with one of them there is no parent."""
    daemon = launch(redis_url, server__workers="0")
    cores = len(os.sched_getaffinity(0))
    assert len(pids(daemon)) == (cores if cores > 1 else 0)


# The end of a worker


def test_a_killed_worker_is_back_and_nobody_else_notices(daemon: Daemon) -> None:
    """The members of the other hear on, new ones come at once."""
    with ExitStack() as stack:
        members = {name: stack.enter_context(join(daemon, name)) for name in ("a", "b")}
        lost, kept = sorted(members, key=lambda name: place_of(daemon, name))
        os.kill(pids(daemon)[1], signal.SIGKILL)
        assert members[lost].stream.recv(10) == b""
        with join(daemon, "new") as new:  # who comes now is served by the other
            new.say("still here")
            for client in (new, members[kept]):
                assert json.loads(client.next_text())["info"] == "still here"
        wait_back(daemon, 1, 2)
        (died,) = daemon.events("worker.died")
        assert (died["worker"], died["status"], died["restart_in"]) == (1, -9, 0.0)
        stack.enter_context(join(daemon, lost))
        wait_for(lambda: connections(daemon) == [1, 1], daemon)
    assert served(daemon, 2) == 1


def test_a_worker_that_dies_again_and_again_is_slowed_down(daemon: Daemon) -> None:
    """Each pause is longer, and said; the other serves on, and the whole is ready."""
    for _ in range(3):
        kill(daemon, 2)
        assert ask(daemon, "/health/ready") == {"ready": True, "reasons": []}
    died = daemon.events("worker.died")
    assert [line["restart_in"] for line in died] == [0.0, 1.0, 2.0]
    assert [line["short_lives"] for line in died] == [1, 2, 3]
    assert [worker["restarts"] for worker in status(daemon)["workers"]] == [0, 3]


def test_a_worker_that_is_asked_to_stop_drains_and_is_back(daemon: Daemon) -> None:
    """An operator can renew one worker alone."""
    with join(daemon, "a") as a, join(daemon, "b") as b:
        at_first, other = (a, b) if place_of(daemon, "a") == 1 else (b, a)
        kill(daemon, 1, signal.SIGTERM)
        frame = at_first.next_frame()
        assert frame is not None
        assert frame.closing[0] == 1001
        assert daemon.events("worker.died")[0]["status"] == 0
        other.say("on")
        assert json.loads(other.next_text())["info"] == "on"


def test_a_worker_that_stands_still_is_ended(
    plant: Callable[[str], None], launch: Launch, redis_url: str
) -> None:
    """The parent waits for a sign of life as systemd would."""
    plant(
        """
        import importlib.util, sys
        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name != "fastimd.daemon.workers.parent":
                    return None
                sys.meta_path.remove(self)
                from fastimd.daemon.workers import worker
                worker.SILENT_SECONDS = 8
                return None
        sys.meta_path.insert(0, Finder())
        """
    )
    daemon = launch(redis_url)
    os.kill(pids(daemon)[1], signal.SIGSTOP)
    wait_for(lambda: served(daemon, 1) == 2, daemon, 20)
    assert daemon.events("worker.silent")[0]["worker"] == 1
    assert daemon.events("worker.died")[0]["status"] in (-signal.SIGABRT, -signal.SIGKILL)
    assert len(daemon.events("worker.silent")) == 1


def test_who_comes_while_no_worker_serves_waits(daemon: Daemon) -> None:
    """All may die at once."""
    for pid in pids(daemon).values():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(daemon.events("worker.died")) == 2, daemon)
    with join(daemon, "patient") as client:
        client.say("there")
        assert json.loads(client.next_text())["info"] == "there"


# The end of all


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_is_one_drain(launch: Launch, redis_url: str, number: int) -> None:
    """Every socket is told to go, and nobody comes meanwhile; nothing of the daemon stays."""
    daemon = launch(redis_url, server__drain_seconds="3")
    with ExitStack() as stack:
        clients = [stack.enter_context(join(daemon, str(each))) for each in range(10)]
        daemon.process.send_signal(number)
        wait_for(lambda: len(daemon.events("daemon.draining")) == 2, daemon)
        with pytest.raises(ConnectionRefusedError):
            dial(daemon.address)
        for client in clients:
            frame = client.next_frame()
            assert frame is not None
            assert frame.closing[0] == 1001
            client.answer(frame)
        assert daemon.process.wait(20) == 0
    assert daemon.lines[-1]["event"] == "daemon.stopped"
    assert "worker" not in daemon.lines[-1]
    assert [line["status"] for line in daemon.events("worker.ended")] == [0, 0]
    assert not daemon.events("worker.died")


def test_a_second_signal_ends_the_drain(launch: Launch, redis_url: str) -> None:
    """At once, as with one process."""
    daemon = launch(redis_url, server__drain_seconds="60")
    with join(daemon, "a"), join(daemon, "b"):
        daemon.process.send_signal(signal.SIGTERM)
        wait_for(lambda: len(daemon.events("daemon.draining")) == 2, daemon)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(20) == 0
    assert not any(map(is_alive, pids(daemon).values()))


def test_a_signal_to_every_process_is_one_drain(launch: Launch, redis_url: str) -> None:
    """``pkill`` and ``systemctl kill`` reach the workers, and so does the parent."""
    daemon = launch(redis_url, server__drain_seconds="2")
    with join(daemon, "a") as a, join(daemon, "b") as b:
        for pid in (*pids(daemon).values(), daemon.process.pid):
            os.kill(pid, signal.SIGTERM)
        for client in (a, b):
            frame = client.next_frame()
            assert frame is not None
            assert frame.opcode == CLOSE
            client.answer(frame)
        assert daemon.process.wait(20) == 0


def test_a_killed_parent_leaves_no_orphan(launch: Launch, tmp_path: Path) -> None:
    """Neither workers nor its Redis."""
    daemon = launch("embedded", redis__data_dir=str(tmp_path / "data"))
    redis_pid = int(next(iter(_children(daemon) - set(pids(daemon).values()))))
    with join(daemon, "a") as client:
        daemon.process.kill()
        daemon.process.wait()
        everybody = [*pids(daemon).values(), redis_pid]
        wait_for(lambda: not any(map(is_alive, everybody)))
        assert client.stream.recv(10) == b""


def _children(daemon: Daemon) -> set[int]:
    pid = daemon.process.pid
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_nothing_is_left_in_the_file_system(
    launch: Launch, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sockets by which the parent asks its workers go with it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    daemon = launch(redis_url)
    (private,) = folder.iterdir()
    assert private.stat().st_mode & 0o077 == 0
    assert daemon.stop() == 0
    assert not list(folder.iterdir())


# What cannot be started


def test_what_no_worker_can_do_ends_the_daemon(launch: Launch, redis_url: str) -> None:
    """With the status and the one line that a single process would have."""
    daemon = launch(redis_url, wait_serving=False, hooks__handler="no_such_module")
    assert daemon.process.wait(20) == 78
    said = daemon.log_path.read_text()
    assert said.count("hooks.handler") == 1, said
    assert not daemon.events("worker.died")


def test_an_address_that_is_taken(launch: Launch, redis_url: str) -> None:
    """It is no secret which."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = launch(redis_url, wait_serving=False, server__bind=bind)
        assert daemon.process.wait(20) == 78
    assert f"server.bind: cannot listen on {bind}: Address already in use" in (
        daemon.log_path.read_text()
    )


def test_a_worker_that_crashes_first_ends_the_daemon(
    launch: Launch, redis_url: str, plant: Callable[[str], None]
) -> None:
    """There is nothing to be had by trying again."""
    plant("import os, signal\nif os.environ.get('FASTIMD_WORKER'): os._exit(3)")
    daemon = launch(redis_url, wait_serving=False)
    assert daemon.process.wait(20) == 1
    assert daemon.events("worker.ended")[0]["status"] == 3


def test_another_worker_that_crashes_first_is_started_again(
    launch: Launch, redis_url: str, plant: Callable[[str], None], tmp_path: Path
) -> None:
    """The first has shown that it can be done."""
    mark = tmp_path / "crashed"
    plant(
        f"""
        import json, os, pathlib
        link = os.environ.get("FASTIMD_WORKER")
        mark = pathlib.Path({str(mark)!r})
        if link and json.loads(link)["number"] == 2 and not mark.exists():
            mark.touch()
            os._exit(3)
        """
    )
    daemon = launch(redis_url)
    assert [line["status"] for line in daemon.events("worker.died")] == [3]
    assert served(daemon, 2) == 1


def test_a_signal_while_the_first_worker_starts(launch: Launch) -> None:
    """There is nobody to drain; the others are not started any more."""
    daemon = launch("redis://127.0.0.1:1/0", wait_serving=False)
    wait_for(lambda: daemon.events("redis.unavailable"), daemon, 20)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(20) == 0
    assert list(pids(daemon)) == [1]
    assert not daemon.events("worker.died")


def test_a_worker_runs_the_code_of_its_parent(tmp_path: Path, redis_url: str) -> None:
    """Whatever lies in the directory in which the daemon was started."""
    (tmp_path / "fastimd").mkdir()
    (tmp_path / "fastimd" / "__init__.py").write_text("raise SystemExit(99)")
    settings = {
        "server__workers": "2",
        "server__bind": "127.0.0.1:0",
        "redis__url": redis_url,
        "log__format": "json",
    }
    log_path = tmp_path / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("fastimd"), "serve"],
            cwd=tmp_path,
            env=environment_of(settings | {"admin__bind": ""}),
            stderr=log,
        )
    daemon = Daemon(process, log_path)
    try:
        wait_for(lambda: len(daemon.events("daemon.serving")) == 3, daemon, 20)
    finally:
        process.kill()
        process.wait()


# One Redis for all


def test_the_embedded_redis_is_the_parents(launch: Launch, tmp_path: Path) -> None:
    """One for all workers, started again when it dies, ended last."""
    daemon = launch("embedded", redis__data_dir=str(tmp_path / "data"))
    (redis_pid,) = _children(daemon) - set(pids(daemon).values())
    with join(daemon, "a") as a, join(daemon, "b") as b:
        os.kill(redis_pid, signal.SIGKILL)
        wait_for(lambda: len(daemon.events("redis.connected")) == 8, daemon, 20)
        a.say("after")
        for client in (a, b):
            assert json.loads(client.next_text())["info"] == "after"
    assert daemon.stop() == 0
    assert len(daemon.events("redis.ready")) >= 1


# Settings and systemd


def test_a_reload_harms_no_worker_that_just_starts(launch: Launch, redis_url: str) -> None:
    """It would end on the signal; it gets it when it can take it."""
    daemon = launch(redis_url, wait_serving=False)
    wait_for(lambda: pids(daemon), daemon)
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: served(daemon, 1) and served(daemon, 2), daemon)
    wait_for(lambda: len(daemon.events("config.reloaded")) >= 2, daemon)
    os.kill(pids(daemon)[2], signal.SIGKILL)
    wait_for(lambda: len(daemon.events("worker.started")) == 3, daemon)
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: served(daemon, 2) == 2, daemon)
    assert len(daemon.events("worker.died")) == 1


def test_a_reload_reaches_every_worker(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """A mistake is told once, and reaches none."""
    path = tmp_path / "fastimd.toml"
    path.write_text("[group_message]\nmax_bytes = 100\n")
    daemon = start_daemon(path, server__workers="2")
    path.write_text("[group_message]\nmax_bytes = -1\n")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: daemon.events("config.refused"), daemon)
    path.write_text("[group_message]\nmax_bytes = 10\n")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(daemon.events("config.reloaded")) == 3, daemon)
    assert len(daemon.events("config.refused")) == 1
    with join(daemon, "a") as a, join(daemon, "b") as b:
        for client in (a, b):
            client.send(TEXT, b"x" * 11)
            frame = client.next_frame()
            assert frame is not None
            assert frame.closing[0] == 1009


@pytest.fixture
def told(notify_socket: socket.socket) -> Iterator[list[bytes]]:
    """All that systemd is told, read at once as it does."""
    told: list[bytes] = []
    ended = threading.Event()
    notify_socket.settimeout(0.2)

    def read() -> None:
        while not ended.is_set():
            with suppress(TimeoutError):
                told.append(notify_socket.recv(1000))

    reader = threading.Thread(target=read)
    reader.start()
    yield told
    ended.set()
    reader.join()


def test_what_systemd_is_told_is_of_the_whole(
    start_daemon: StartDaemon, told: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ready when all serve; the workers themselves tell it nothing."""

    def wait_told(*words: bytes) -> None:
        """Wait for a telling that has these words, behind the last that was waited for."""

        def find() -> int:
            has_all = (all(word in each for word in words) for each in told)
            return next((at for at, found in enumerate(has_all, 1) if found), 0)

        del told[: wait_for(find, seconds=20)]

    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    daemon = start_daemon(server__workers="2")
    wait_told(b"READY=1", f"MAINPID={daemon.process.pid}\n".encode().strip())
    with join(daemon, "a"), join(daemon, "b"):
        wait_told(b"WATCHDOG=1", b"2 of 2 workers serve, 2 sockets")
        os.kill(pids(daemon)[1], signal.SIGKILL)
        wait_told(b"1 of 2 workers serve, 1 sockets")
        wait_told(b"2 of 2 workers serve, 1 sockets")
        daemon.process.send_signal(signal.SIGHUP)
        wait_told(b"RELOADING=1")
        wait_told(b"READY=1")
    daemon.process.send_signal(signal.SIGTERM)
    wait_told(b"STOPPING=1")


# The admin address


def test_counters_are_of_the_whole_and_never_fall(daemon: Daemon) -> None:
    """Not even when the worker dies that had counted."""
    with join(daemon, "a") as a, join(daemon, "b") as b:
        for client in (a, b):
            client.say("x")
            wait_for(lambda: metrics(daemon)["fastimd_messages_received_total"] >= 1, daemon)
        for client in (a, b):
            client.next_text()
            client.next_text()
        counted = metrics(daemon)
        assert counted["fastimd_messages_received_total"] == 2
        assert counted["fastimd_deliveries_total"] == 4
        assert counted["fastimd_sockets"] == 2
        assert counted["fastimd_append_seconds_count"] == 2
        assert counted['fastimd_redis_up{purpose="messages"}'] == 1
        assert counted['fastimd_worker_up{worker="2"}'] == 1
        assert [counted[f'fastimd_worker_connections{{worker="{n}"}}'] for n in (1, 2)] == [1, 1]
        cpu = counted["process_cpu_seconds_total"]
        kill(daemon, 1)
        counted = metrics(daemon)
        assert counted["fastimd_messages_received_total"] == 2
        assert counted["fastimd_append_seconds_count"] == 2
        assert counted['fastimd_append_seconds_bucket{le="+Inf"}'] == 2
        assert counted["fastimd_sockets"] == 1
        assert counted["process_cpu_seconds_total"] >= cpu
        assert counted['fastimd_worker_restarts_total{worker="1"}'] == 1
        builds = [name for name in counted if name.startswith("fastimd_build_info")]
        assert [counted[name] for name in builds] == [1]


def test_the_operator_speaks_with_the_whole(daemon: Daemon, redis: Redis) -> None:
    """Each command, wherever it is carried out."""
    admin = daemon.admin.removeprefix("http://")
    with join(daemon, "a") as a, join(daemon, "b") as b:
        said = run_fastimd("say", "1", "hear ye", "--as", "op", admin__bind=admin)
        assert said.returncode == 0, said.stderr
        for client in (a, b):
            assert json.loads(client.next_text())["info"] == "hear ye"
        group = json.loads(run_fastimd("group", "1", "--json", admin__bind=admin).stdout)
        assert group["members"] == {"a": 1, "b": 1}
        assert [message["info"] for message in group["last"]] == ["hear ye"]
        shown = run_fastimd("status", admin__bind=admin).stdout
        assert "worker 1  pid" in shown
        assert "sockets   2 (2 chat, 0 list, 0 live), 2 groups" in shown
        kicked = run_fastimd("kick", "b", admin__bind=admin)
        assert kicked.stdout == "daemons told: 2\n"
        frame = b.next_frame()
        assert frame is not None
        assert frame.opcode == CLOSE
    purged = run_fastimd("purge", "1", "--yes", admin__bind=admin)
    assert purged.stdout == "messages deleted: 1\n"
    refused = run_fastimd("kick", "", admin__bind=admin)
    assert (refused.returncode, refused.stderr) == (
        1,
        "fastimd: user: must be 1 to 128 printable characters\n",
    )
    assert stored(redis) == []


def test_what_a_worker_was_told_is_not_told_another(daemon: Daemon, redis: Redis) -> None:
    """One that stands still may have done it; it does it late, and nobody does it twice."""
    admin = daemon.admin.removeprefix("http://")
    stopped = pids(daemon)[1]
    os.kill(stopped, signal.SIGSTOP)
    try:
        said = run_fastimd("say", "1", "once", "--as", "op", admin__bind=admin)
        assert said.returncode == 1
        assert "worker 1 does not answer: it may have been done, or not" in said.stderr
        whole = status(daemon)
        assert [worker["reasons"] for worker in whole["workers"]] == [
            ["gives no sign of life"],
            [],
        ]
        assert ask(daemon, "/health/ready")["ready"]
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert daemon.events("worker.no_answer")[0]["worker"] == 1
    wait_for(lambda: status(daemon)["workers"][0]["reasons"] == [], daemon)
    again = run_fastimd("say", "1", "twice", "--as", "op", admin__bind=admin)
    assert again.returncode == 0, again.stderr
    assert stored(redis) in (["once", "twice"], ["twice"])


def test_a_worker_that_hangs_shows_where(daemon: Daemon) -> None:
    """Whoever ends it, be it its parent or systemd, sends SIGABRT first."""
    kill(daemon, 1, signal.SIGABRT)
    assert daemon.events("worker.died")[0]["status"] == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in daemon.log_path.read_text()


def test_a_web_page_may_not_use_it(daemon: Daemon) -> None:
    """As with one process."""
    for path in ("/operate/status", "/operate/kick"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{daemon.admin}{path}", timeout=10)
        with refused.value as answer:
            assert answer.code == 403


def test_ready_while_one_serves(daemon: Daemon, redis: Redis) -> None:
    """And with the reasons of each when none does."""
    for pid in pids(daemon).values():
        os.kill(pid, signal.SIGSTOP)
    try:
        assert ask(daemon, "/health/live") == {"live": True}
    finally:
        for pid in pids(daemon).values():
            os.kill(pid, signal.SIGCONT)
    for pid in pids(daemon).values():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(daemon.events("worker.died")) == 2, daemon)
    answer = ask(daemon, "/health/ready")
    assert answer["ready"] is False
    assert {reason.partition(":")[0] for reason in answer["reasons"]} == {"worker 1", "worker 2"}
    wait_for(lambda: ask(daemon, "/health/ready")["ready"], daemon, 20)


def test_each_line_says_of_which_worker_it_is(daemon: Daemon) -> None:
    """But those of the parent, and those about a worker."""
    with join(daemon, "a"):
        opened = wait_for(lambda: daemon.events("socket.opened"))
    assert opened[0]["worker"] in (1, 2)
    starting = daemon.events("daemon.starting")
    assert ["worker" in line for line in starting] == [False, True, True]
    assert starting[0]["workers"] == 2


def test_a_worker_answers_for_itself(daemon: Daemon) -> None:
    """At a unix socket that its line names."""
    bind = next(
        line["admin"] for line in daemon.events("daemon.serving") if line.get("worker") == 2
    )
    shown = json.loads(run_fastimd("status", "--json", admin__bind=bind).stdout)
    assert shown["pid"] == pids(daemon)[2]
    assert time.monotonic() > shown["uptime_seconds"]
