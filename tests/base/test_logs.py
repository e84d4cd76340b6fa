"""The log: JSON lines for machines, coloured lines on a terminal, and nothing of a client's raw."""

from __future__ import annotations

import http.client
import itertools
import json
import logging
import os
import pty
import re
import socket
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import structlog
import trio
from clients import (
    TEXT,
    Answer,
    RawClient,
    client_frame,
    dial,
    log_in,
    opening,
    post,
    request,
)
from conftest import (
    Daemon,
    StartDaemon,
    connect,
    receive,
    redis_servers,
    run_daemon,
    run_redis,
    wait_for,
)
from redis import Redis

from fastimd.base.log import configure, tell_left_out

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


def test_lines_of_many_threads_stay_whole() -> None:
    """An application's hooks run in threads, and a long line does not go out at one stroke."""
    program = """
        import threading
        import structlog
        from fastimd.base.log import configure

        configure("json", "info")
        log = structlog.get_logger()

        def write(letter):
            for number in range(20):
                log.info("line", number=number, text=letter * 200_000)

        threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(program)], check=True, stderr=subprocess.PIPE, timeout=30
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert sorted((line["text"][0], line["number"]) for line in lines) == [
        (letter, number) for letter in "abcd" for number in range(20)
    ]


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


class Clock:
    """What ``time.monotonic`` says."""

    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    configure("json", "info")
    return clock


def test_what_was_left_out_last_is_told(capfd: pytest.CaptureFixture[str], clock: Clock) -> None:
    """Though no other line of the kind comes: once its second is over, at its own level."""
    log = structlog.get_logger("test")
    for _ in range(4):
        log.info("connection.refused", status=503)
        log.warning("a.trouble")
        log.error("b.trouble")
    log.warning("c.trouble")
    clock.now += 0.5
    tell_left_out(clock.now - 1)
    capfd.readouterr()
    clock.now += 0.5
    tell_left_out(clock.now - 1)
    tell_left_out(clock.now - 1)
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
    capfd: pytest.CaptureFixture[str], clock: Clock
) -> None:
    """The next line of a kind counts those left out; what is no trouble is always written."""
    log = structlog.get_logger("test")
    for _ in range(3):
        for number in range(5):
            log.warning("a.trouble", purpose="one", number=number)
            log.warning("a.trouble", purpose="two", number=number)
            log.info("no.trouble")
        log.error("b.trouble")
        clock.now += 1
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


# The ids of connections and requests

MADE_ID = re.compile(r"[0-9a-f]{16}")


def answers_over(address: str, *requests: bytes, source: str = "127.0.0.1") -> list[Answer]:
    """Send requests over one connection, each after the answer to the one before."""
    host, _, port = address.rpartition(":")
    answers = []
    with socket.create_connection((host, int(port)), 10, (source, 0)) as stream:
        for each in requests:
            stream.sendall(each)
            response = http.client.HTTPResponse(stream)
            response.begin()
            answers.append(Answer(response.status, response.headers, response.read()))
    return answers


def get(path: str, *fields: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", "Host: x", *fields))
    return f"{head}\r\n".encode("latin-1")


PAGE = "/test/websocket"
ANSWERS = {
    "a page": (get(PAGE), 200, "http.request"),
    "an unknown path": (get("/nowhere"), 404, "http.request"),
    "a wrong method": (get("/user/login"), 405, "http.request"),
    "no token": (b"POST /user/listGroup HTTP/1.1\r\nHost: x\r\n\r\n", 200, "http.request"),
    "a malformed head": (b"get / HTTP/1.1\r\n\r\n", 400, "connection.refused"),
    "a long head": (get("/", f"A: {'a' * 17000}"), 431, "connection.refused"),
    "a handshake that is none": (get("/", "Upgrade: websocket"), 400, "connection.refused"),
    "a handshake": (opening("/group/list/1/t"), 101, "socket.opened"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_every_answer_names_its_request(daemon: Daemon, case: str) -> None:
    """Whoever gives it: the app, the door, a socket; and its log line has the same name."""
    data, status, event = ANSWERS[case]
    if status == 101:
        with dial(daemon.address) as stream:
            stream.sendall(data)
            head = stream.recv(65536).partition(b"\r\n\r\n")[0].decode()
        request_id = head.partition("X-Request-Id: ")[2].partition("\r\n")[0]
    else:
        (answer,) = answers_over(daemon.address, data)
        assert answer.status == status
        (request_id,) = answer.headers.get_all("X-Request-Id") or [""]
    assert MADE_ID.fullmatch(request_id)
    (line,) = wait_for(lambda: daemon.events(event), daemon)
    assert line["request_id"] == request_id


def test_what_hypercorn_answers_by_itself_is_named_too(daemon: Daemon) -> None:
    """A body whose chunks are malformed never reaches the app as a whole."""
    body = b"POST /user/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    (answer,) = answers_over(daemon.address, body)
    assert answer.status == 400
    assert MADE_ID.fullmatch(answer.headers["X-Request-Id"])


def test_the_admin_address_names_requests_too(daemon: Daemon) -> None:
    """Every answer is every answer."""
    address = daemon.admin.removeprefix("http://")
    for path in ("/metrics", "/health/live", "/nowhere", "/operate/status"):
        (answer,) = answers_over(address, get(path))
        assert MADE_ID.fullmatch(answer.headers["X-Request-Id"]), path


def test_requests_of_a_connection_share_its_number_only(daemon: Daemon) -> None:
    """Each has its own id; the lines of all have the connection's number."""
    answers = answers_over(daemon.address, *[get(PAGE)] * 3)
    lines = wait_for(lambda: daemon.events("http.request")[2:] and daemon.events("http.request"))
    ids = [answer.headers["X-Request-Id"] for answer in answers]
    assert [line["request_id"] for line in lines] == ids
    assert len(set(ids)) == 3
    assert len({line["conn"] for line in lines}) == 1


GIVEN_IDS = {
    "one of nginx": ("d41d8cd98f00b204e9800998ecf8427e", True),
    "a UUID": ("7f6c2b1e-50a1-4c5e-8a7e-0f7a3f1f9d10", True),
    "one of AWS": ("Root=1-67891233-abcdef012345678912345678", True),
    "the longest": ("x" * 128, True),
    "a longer one": ("x" * 129, False),
    "an empty one": ("", False),
    "a list": ("a,b", False),
    "a space": ("a b", False),
    "a quote": ('a"b', False),
    "a terminal's": ("a\x9b31m", False),
    "markup": ("<script>", False),
}


def test_a_trusted_proxy_names_requests(start_daemon: StartDaemon) -> None:
    """If it can stand in a log and in an answer; and nobody else does."""
    daemon = start_daemon(server__trusted_proxies="127.0.0.1/32")
    answered = []
    for case, (given, is_taken) in GIVEN_IDS.items():
        named = get(PAGE, f"X-Request-Id: {given}")
        first, unnamed, third = answers_over(daemon.address, named, get(PAGE), named)
        (foreign,) = answers_over(daemon.address, named, source="127.0.0.2")
        ids = [each.headers["X-Request-Id"] for each in (first, unnamed, third, foreign)]
        assert [each == given for each in ids] == [is_taken, False, is_taken, False], case
        assert all(each == given or MADE_ID.fullmatch(each) for each in ids), case
        answered += ids
    wait_for(lambda: len(daemon.events("http.request")) == len(answered), daemon)
    assert [line["request_id"] for line in daemon.events("http.request")] == answered


def test_two_given_names_are_none(start_daemon: StartDaemon) -> None:
    """A client's own beside that of the proxy would be believed otherwise."""
    daemon = start_daemon(server__trusted_proxies="127.0.0.1/32")
    (answer,) = answers_over(daemon.address, get(PAGE, "X-Request-Id: a", "X-Request-Id: b"))
    assert MADE_ID.fullmatch(answer.headers["X-Request-Id"])


def test_no_two_connections_have_one_number(daemon: Daemon) -> None:
    """Those of the admin address and of the public one are in the same log."""
    admin = daemon.admin.removeprefix("http://")
    for _ in range(3):
        answers_over(daemon.address, get(PAGE))
        answers_over(admin, get("/health/live"))
    wait_for(lambda: len(daemon.events("http.request")) == 3, daemon)
    numbers = [line["conn"] for line in daemon.events("http.request")]
    assert [after - before for before, after in itertools.pairwise(numbers)] == [2, 2]


def test_every_line_of_a_connection_has_its_number(daemon: Daemon, redis: Redis) -> None:
    """That of an append which failed, too, though another task writes it."""
    with RawClient(daemon.address, "/group/chat/7/ann/t") as member:
        member.next_text()
        redis.set("gml:7", "no list")
        member.say("lost")
        assert member.infos_to_the_end()[1] == (1013, "message refused")
    request(daemon, "GET", PAGE)
    wait_for(lambda: daemon.events("http.request") and daemon.events("socket.closed"), daemon)
    failed, opened = daemon.events("socket.append_failed")[0], daemon.events("socket.opened")[0]
    for field in ("conn", "client", "group", "request_id"):
        assert failed[field] == opened[field]
    of_connections = re.compile(r"(?:socket|http|connection)\.")
    assert all("conn" in line for line in daemon.lines if of_connections.match(line["event"]))


# Following one message

PATH_OF_A_MESSAGE = [f"message.{step}" for step in ("received", "appended", "relayed", "delivered")]


def steps(daemon: Daemon) -> list[dict[str, Any]]:
    return [line for line in daemon.lines if line["event"].startswith("message.")]


def test_a_message_can_be_followed(start_daemon: StartDaemon) -> None:
    """At debug: from the socket to Redis and to the outboxes of two daemons, by conn and ts."""
    here, there = start_daemon(log__level="debug"), start_daemon(log__level="debug")
    with (
        RawClient(here.address, "/group/chat/7/ann/t") as ann,
        RawClient(here.address, "/group/chat/7/bob/t") as bob,
        RawClient(there.address, "/group/chat/7/eve/t") as eve,
    ):
        members = (ann, bob, eve)
        for member in members:
            member.next_text()
        stamps = []
        for text in ("first", "second"):
            ann.say(text)
            stamps.append([json.loads(member.next_text())["ts"] for member in members])
    wait_for(lambda: len(steps(here)) == 8 and len(steps(there)) == 4, here)
    conn = next(line for line in here.events("socket.opened") if line["user"] == "ann")["conn"]
    for number, (ts, *others) in enumerate(stamps):
        assert others == [ts, ts]
        received, appended, relayed, delivered = (
            here.events(step)[number] for step in PATH_OF_A_MESSAGE
        )
        assert received["conn"] == appended["conn"] == conn
        assert received["user"] == appended["user"] == relayed["user"] == "ann"
        assert delivered["members"] == 2
        far = [line for line in steps(there) if line["message_ts"] == ts]
        assert [line["event"] for line in far] == PATH_OF_A_MESSAGE[2:]
        assert far[1]["members"] == 1
        told = (appended, relayed, delivered, *far)
        assert {(line["group"], line["message_ts"]) for line in told} == {("7", ts)}


def test_each_message_of_many_has_its_own_ts(start_daemon: StartDaemon, redis: Redis) -> None:
    """Though they come in one turn, of two groups: at debug none hides in a batch."""
    daemon = start_daemon(log__level="debug")
    with (
        RawClient(daemon.address, "/group/chat/7/ann/t") as ann,
        RawClient(daemon.address, "/group/chat/8/bob/t") as bob,
    ):
        for member in (ann, bob):
            member.next_text()
            member.stream.sendall(client_frame(TEXT, b"x") * 20)
        wait_for(lambda: len(daemon.events("message.delivered")) == 40, daemon)
    for group in "78":
        stored = [json.loads(entry)["ts"] for entry in redis.lrange(f"gml:{group}", 0, -1)]
        for step in PATH_OF_A_MESSAGE[1:]:
            lines = [line for line in daemon.events(step) if line["group"] == group]
            assert [line["message_ts"] for line in lines] == stored, step


def test_above_debug_messages_leave_no_line(daemon: Daemon) -> None:
    """Neither they nor their texts."""
    with RawClient(daemon.address, "/group/chat/7/ann/t") as member:
        member.next_text()
        member.say("a secret text")
        member.next_text()
    daemon.stop()
    assert steps(daemon) == []


@pytest.mark.parametrize("shown", [False, True])
def test_texts_are_logged_if_that_is_wanted(start_daemon: StartDaemon, shown: bool) -> None:
    """At debug, and not else; their length is always told."""
    daemon = start_daemon(log__level="debug", log__message_text=str(shown).lower())
    with RawClient(daemon.address, "/group/chat/7/ann/t") as member:
        member.next_text()
        member.say("a secret text")
        member.next_text()
    daemon.stop()
    (received,) = daemon.events("message.received")
    assert received["characters"] == len("a secret text")
    assert received["text"] == ("a secret text" if shown else None)
    assert daemon.log_path.read_text().count("a secret text") == shown


# What is never logged


def test_no_token_is_logged(start_daemon: StartDaemon, redis: Redis) -> None:
    """At debug, on good ways and on all kinds of wrong ones."""
    daemon = start_daemon(log__level="debug", group__login_auth="true")
    headers = log_in(daemon, "ann")
    token = headers["token"]
    with RawClient(daemon.address, f"/group/chat/7/ann/{token}") as member:
        member.next_text()
        member.say("hello")
        member.next_text()
        redis.set("gml:7", "no list")
        member.say("lost")
        member.infos_to_the_end()
    for path in (f"/group/chat/7/ann/{token}", f"/{token}", f"/user/listGroup?token={token}"):
        request(daemon, "GET", path)
        request(daemon, "POST", path, headers=headers)
    for data in (
        opening(f"/group/chat/7/%ff/{token}"),
        opening(f"/group/chit/7/ann/{token}"),
        get("/", f"Upgrade: {token}"),
        get("/", f"token: {token}\x00"),
        f"get /{token} HTTP/1.1\r\n\r\n".encode(),
    ):
        answers_over(daemon.address, data)
    for key in ("gml:7", "ugs:ann", "login:ann"):
        redis.delete(key)
        redis.lpush(key, "x") if key != "gml:7" else redis.set(key, "x")
        for path in ("/user/listGroup", "/user/joinGroup", "/group/listMessage"):
            fields = {"groupId": "7", "startPage": 0, "endPage": -1}
            post(daemon, path, fields, headers)
    daemon.stop()
    assert token not in daemon.log_path.read_text()
    assert {line["key"] for line in daemon.events("store.key_unusable")} >= {"gml:7", "ugs:ann"}
    assert not daemon.events("http.crashed")


def test_what_redis_says_of_a_command_it_does_not_know(tmp_path: Path) -> None:
    """It repeats the arguments, here the password of AUTH; the log does not."""
    with run_redis(redis_servers()[0], tmp_path, "--rename-command", "AUTH", "") as url:
        with_password = url.replace("redis://", "redis://:an0ther-s3cret@")
        daemon = run_daemon(tmp_path, with_password, wait_serving=False)
        wait_for(lambda: "unknown command" in daemon.log_path.read_text())
        daemon.stop()
    assert "s3cret" not in daemon.log_path.read_text()
