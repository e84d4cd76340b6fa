"""The log: JSON lines for machines, coloured lines on a terminal, and nothing of a client's raw."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
import trio
from clients import RawClient, request
from conftest import Daemon, StartDaemon, connect, receive, wait_for
from redis import Redis

from fastimd.log import configure, tell_left_out

LEVELS = {"debug", "info", "warning", "error", "critical"}
ESCAPE = "\x1b"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
EVIL = "\x1b]0;title\x07\x1b[31m\r\n\x9b31m\x7f\u2028\u202eend"
"""Text that would take over a terminal, or forge a line."""


async def test_json_lines_say_when_how_grave_and_what(start_daemon: StartDaemon) -> None:
    """Each line is one JSON object that begins with ts, level and event."""
    daemon = start_daemon()
    async with connect(daemon.chat_url(group="7", user="ann", token="s3cret-token")) as member:
        await receive(member)
    await trio.to_thread.run_sync(daemon.stop)
    lines = daemon.log_path.read_text().splitlines()
    parsed = [json.loads(line) for line in lines]
    for line in parsed:
        assert list(line)[:2] == ["ts", "level"]
        assert line["level"] in LEVELS
        assert line["event"]
        age = datetime.now(UTC) - datetime.fromisoformat(line["ts"])
        assert timedelta(0) <= age < timedelta(minutes=1)
    events = [line["event"] for line in parsed]
    assert events[0] == "daemon.starting"
    assert events[-1] == "daemon.stopped"
    assert "s3cret-token" not in "".join(lines)


async def test_a_socket_has_one_line_at_each_end(start_daemon: StartDaemon) -> None:
    """The lines share the connection's number, and the last one tells the whole story."""
    daemon = start_daemon()
    async with connect(daemon.chat_url(group="7", user="ann")) as member:
        await receive(member)
        for text in ("one", "two"):
            await member.send_message(text)
            await receive(member)
    await trio.to_thread.run_sync(wait_for, lambda: daemon.events("socket.closed"), daemon)
    (opened,), (closed,) = daemon.events("socket.opened"), daemon.events("socket.closed")
    assert opened["conn"] == closed["conn"]
    for line in (opened, closed):
        assert (line["kind"], line["group"], line["user"]) == ("chat", "7", "ann")
        assert line["client"] == "127.0.0.1"
    assert (closed["code"], closed["messages_in"], closed["messages_out"]) == (1000, 2, 3)
    assert 0 <= closed["seconds"] < 60


def test_the_level_is_obeyed(tmp_path: Path, redis_url: str) -> None:
    """Below the level nothing is written."""
    wait_for(lambda: client_count(redis_url) == 0)  # those of the last test's daemons go by and by
    with terminal(tmp_path, redis_url, log__level="error", log__format="json") as screen:
        wait_for(lambda: client_count(redis_url) >= 2)
        assert screen.end() == 0
    assert screen.shown == ""


def client_count(redis_url: str) -> int:
    """How many connections of daemons Redis has."""
    with Redis.from_url(redis_url) as client:
        return sum(each["name"] == "fastimd" for each in client.client_list())


async def close_with(daemon: Daemon, reason: str) -> None:
    async with connect(daemon.chat_url(user="evil")) as member:
        await receive(member)
        await member.aclose(1000, reason)


async def test_a_clients_text_is_escaped_in_json(start_daemon: StartDaemon) -> None:
    """A close reason full of control characters is one line, readable, and nothing but text."""
    daemon = start_daemon()
    await close_with(daemon, EVIL)
    await trio.to_thread.run_sync(wait_for, lambda: daemon.events("socket.closed"), daemon)
    text = daemon.log_path.read_text()
    assert not control_characters(text)
    (closed,) = daemon.events("socket.closed")
    assert closed["reason"] == EVIL, "an escape that JSON does not undo"


def control_characters(text: str) -> set[str]:
    """What a terminal or a log reader might obey, but for line feeds."""
    obeyed = {"Cc", "Cf", "Zl", "Zp"}
    return {each for each in text if unicodedata.category(each) in obeyed} - {"\n"}


class Terminal:
    """A daemon whose standard error is a terminal."""

    def __init__(self, folder: Path, redis_url: str, **settings: str) -> None:
        self._ours, theirs = pty.openpty()
        environment = {
            **{name: value for name, value in os.environ.items() if name != "NO_COLOR"},
            "TERM": "xterm-256color",
            "FASTIMD_SERVER__BIND": "127.0.0.1:0",
            "FASTIMD_ADMIN__BIND": "",
            "FASTIMD_REDIS__URL": redis_url,
            **{f"FASTIMD_{name.upper()}": value for name, value in settings.items()},
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fastimd", "serve"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=theirs,
        )
        os.close(theirs)
        self._shown = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def shown(self) -> str:
        return self._shown.decode()

    def wait_for(self, words: str) -> str:
        """Wait for a line with these words, and return it without its colours."""
        lines = wait_for(lambda: [line for line in self.plain.splitlines() if words in line])
        return str(lines[0])

    @property
    def plain(self) -> str:
        return COLOUR.sub("", self.shown)

    def end(self) -> int:
        if self._reader.is_alive():
            self.process.terminate()
        try:
            return self.process.wait(timeout=20)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 4096):
                self._shown += data
        except OSError:  # the daemon has ended
            os.close(self._ours)


@contextmanager
def terminal(folder: Path, redis_url: str, **settings: str) -> Iterator[Terminal]:
    shown = Terminal(folder, redis_url, **settings)
    try:
        yield shown
    finally:
        shown.end()


def test_on_a_terminal_the_log_is_coloured(tmp_path: Path, redis_url: str) -> None:
    """The format "auto" is for eyes there: a time, a level, an event and its fields."""
    with terminal(tmp_path, redis_url) as screen:
        line = screen.wait_for("daemon.serving")
    assert "info" in line
    assert re.search(r"page=.?http://127\.0\.0\.1:\d+/test/websocket", line)
    assert not line.startswith("{")
    assert COLOUR.search(screen.shown)


def test_json_may_be_asked_for_on_a_terminal(tmp_path: Path, redis_url: str) -> None:
    """The format "json" has no colours anywhere."""
    with terminal(tmp_path, redis_url, log__format="json") as screen:
        assert json.loads(screen.wait_for("daemon.serving"))["level"] == "info"
    assert ESCAPE not in screen.shown


async def test_a_clients_text_cannot_take_over_the_terminal(tmp_path: Path, redis_url: str) -> None:
    """No control character of a client reaches the screen, nor a line of its making."""
    with terminal(tmp_path, redis_url) as screen:
        line = await trio.to_thread.run_sync(screen.wait_for, "daemon.serving")
        address = re.search(r"http://([0-9.:]+)/", line)
        assert address is not None
        url = f"ws://{address[1]}/group/chat/1/evil/t"
        async with connect(url) as member:
            await receive(member)
            await member.aclose(1000, EVIL)
        await trio.to_thread.run_sync(screen.wait_for, "socket.closed")
    plain = screen.plain.replace("\r\n", "\n")
    assert not control_characters(plain)
    assert "end" in screen.wait_for("socket.closed")


def environment(redis_url: str, **settings: str) -> dict[str, str]:
    """That of a daemon whose standard error is not the fixture's file."""
    return {
        **os.environ,
        "FASTIMD_SERVER__BIND": "127.0.0.1:0",
        "FASTIMD_ADMIN__BIND": "",
        "FASTIMD_REDIS__URL": redis_url,
        **{f"FASTIMD_{name.upper()}": value for name, value in settings.items()},
    }


@contextmanager
def serving_to(
    path: Path, variables: dict[str, str], *, words: str = "daemon.serving"
) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that logs into a file, from the moment at which some words stand in it."""
    with path.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "fastimd"], cwd=path.parent, env=variables, stderr=file
        )
    try:
        wait_for(lambda: words in path.read_text())
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_log_file_has_no_colours(tmp_path: Path, redis_url: str, format: str) -> None:
    """Without a terminal there is nothing to colour."""
    path = tmp_path / "log"
    with serving_to(path, environment(redis_url, log__format=format)):
        text = path.read_text()
    assert ESCAPE not in text
    assert text.startswith("{") == (format == "json")


def journal_stream(path: Path) -> str:
    """What systemd would say of a stream that is this file."""
    path.touch()
    return f"{path.stat().st_dev}:{path.stat().st_ino}"


EVENTS_OF_A_START = {
    "daemon.starting": "<6>",
    "redis.unavailable": "<4>",
    "daemon.signal": "<6>",
    "daemon.stopped": "<6>",
}


@pytest.mark.parametrize("format", ["json", "console"])
def test_the_journal_gets_a_priority_with_each_line(tmp_path: Path, format: str) -> None:
    """The number of sd-daemon(3), before the lines of a traceback too."""
    path = tmp_path / "log"
    variables = environment("redis://127.0.0.1:1/0", log__format=format)
    variables["JOURNAL_STREAM"] = journal_stream(path)
    with serving_to(path, variables, words="redis.unavailable") as process:
        process.terminate()
        process.wait(20)
    lines = path.read_text().splitlines()
    told = {name: next(line[:3] for line in lines if name in line) for name in EVENTS_OF_A_START}
    assert told == EVENTS_OF_A_START


def test_only_the_journal_gets_priorities(tmp_path: Path, redis_url: str) -> None:
    """What systemd says of another stream, that of a parent for one, counts for nothing."""
    path = tmp_path / "log"
    variables = environment(redis_url, log__format="json")
    variables["JOURNAL_STREAM"] = journal_stream(tmp_path / "another")
    with serving_to(path, variables):
        assert path.read_text().startswith("{")


def test_the_journal_takes_a_wrong_setting_for_an_error(tmp_path: Path) -> None:
    """So ``journalctl -p err`` shows why a daemon does not start."""
    path = tmp_path / "log"
    stream = journal_stream(path)
    with path.open("wb") as file:
        process = subprocess.run(
            [sys.executable, "-m", "fastimd"],
            cwd=tmp_path,
            env={**os.environ, "JOURNAL_STREAM": stream, "FASTIMD_LOG__LEVEL": "loud"},
            stderr=file,
            check=False,
        )
    assert process.returncode == 78
    assert path.read_text().startswith("<3>fastimd: ")


def test_every_line_of_a_traceback_has_the_priority(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the journal each is an entry of its own."""
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    configure("console", "info")
    try:
        raise ValueError("one")
    except ValueError:
        structlog.get_logger("test").exception("it.broke")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) > 3
    assert {line[:3] for line in lines} == {"<3>"}


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, redis_url: str) -> None:
    """The reader of standard error has gone; sockets and HTTP are served on."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fastimd"],
        cwd=tmp_path,
        env=environment(redis_url, log__format="json"),
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        with process.stderr as log:
            line = next(line for line in log if b"daemon.serving" in line)
        address = json.loads(line)["page"].removeprefix("http://").partition("/")[0]
        for _ in range(2):
            with RawClient(address, "/group/chat/1/1/t") as member:
                member.next_text()
                member.say("still here")
                assert json.loads(member.next_text())["info"] == "still here"
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_a_path_that_is_no_text_can_be_logged(capfd: pytest.CaptureFixture[str]) -> None:
    """What Python makes of its bytes cannot be UTF-8; the line is written all the same."""
    configure("json", "info")
    structlog.get_logger("test").info("it.is", path=os.fsdecode(b"/a/\xff"))
    assert os.fsencode(json.loads(capfd.readouterr().err)["path"]) == b"/a/\xff"


def test_libraries_log_alike(capfd: pytest.CaptureFixture[str]) -> None:
    """From warnings upward, with their name; one that raises tells no variables."""
    configure("json", "info")
    library = logging.getLogger("some.library")
    library.info("nothing")
    library.warning("%s has %d", "it", 2)
    try:
        raise ValueError("one")
    except ValueError:
        library.exception("it broke")
    warned, broke = map(json.loads, capfd.readouterr().err.splitlines())
    assert (warned["level"], warned["event"]) == ("warning", "it has 2")
    assert (broke["level"], broke["event"]) == ("error", "it broke")
    assert warned["logger"] == broke["logger"] == "some.library"
    assert "ValueError: one" in broke["exception"]


def test_what_was_left_out_last_is_told(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though no other line of the kind comes: once its second is over, at its own level."""
    clock = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    configure("json", "info")
    log = structlog.get_logger("test")
    for _ in range(4):
        log.info("connection.refused", status=503)
        log.warning("a.trouble")
        log.error("b.trouble")
    log.warning("c.trouble")
    clock += 0.5
    tell_left_out(clock - 1)
    capfd.readouterr()
    clock += 0.5
    tell_left_out(clock - 1)
    tell_left_out(clock - 1)
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["event"], line["level"], line["of"], line["suppressed"]) for line in told] == [
        ("log.suppressed", "info", "connection.refused", 3),
        ("log.suppressed", "warning", "a.trouble", 3),
        ("log.suppressed", "error", "b.trouble", 3),
    ]
    log.warning("a.trouble")
    assert "suppressed" not in json.loads(capfd.readouterr().err)


def refused(daemon: Daemon, count: int) -> None:
    """Send so many requests that are none."""
    for _ in range(count):
        assert request(daemon, "get", "/").status == 400


def told_refusals(daemon: Daemon) -> int:
    """How many refusals the log tells: those written, and those counted."""
    written = daemon.events("connection.refused")
    counted = [*written, *daemon.events("log.suppressed")]
    return len(written) + sum(int(line.get("suppressed", 0)) for line in counted)


def test_a_daemon_tells_every_line_that_it_left_out(daemon: Daemon) -> None:
    """A storm of refusals: those written and those counted are all of them."""
    refused(daemon, 40)
    wait_for(lambda: told_refusals(daemon) == 40, daemon)


def test_the_end_of_a_daemon_tells_what_it_left_out(daemon: Daemon) -> None:
    """What is suppressed in its last second is counted, too."""
    refused(daemon, 5)
    daemon.stop()
    assert told_refusals(daemon) == 5


def test_each_kind_of_trouble_has_a_line_a_second(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next line of a kind counts those left out; what is no trouble is always written."""
    clock = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    configure("json", "info")
    log = structlog.get_logger("test")
    for _ in range(3):
        for number in range(5):
            log.warning("a.trouble", purpose="one", number=number)
            log.warning("a.trouble", purpose="two", number=number)
            log.info("no.trouble")
        log.error("b.trouble")
        clock += 1
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    told = [
        (line["event"], line.get("purpose"), line.get("number"), line.get("suppressed"))
        for line in lines
        if line["event"] != "no.trouble"
    ]
    later = [
        ("a.trouble", "one", 0, 4),
        ("a.trouble", "two", 0, 4),
        ("b.trouble", None, None, None),
    ]
    first = [("a.trouble", "one", 0, None), ("a.trouble", "two", 0, None), later[2]]
    assert told == first + later + later
    assert len(lines) - len(told) == 15


def test_a_traceback_shows_no_variables(capfd: pytest.CaptureFixture[str]) -> None:
    """On a terminal neither: one of them may be a token."""
    configure("console", "info")
    token = "f00d" * 8
    try:
        raise ValueError(len(token))
    except ValueError:
        structlog.get_logger("test").exception("it.broke")
    said = capfd.readouterr().err
    assert "ValueError" in said
    assert token not in said
