"""The load generator: what it reports is true, and it reports nothing that did not arrive."""

from __future__ import annotations

import json
import random
import re
import select
import signal
import socket
import socketserver
import statistics
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import trio
from chats import COMMAND, FAULTS, Group, bench, honest, result_of, served
from clients import kick, log_in, metrics
from conftest import Daemon, StartDaemon, redis_servers, run_daemon, run_redis, wait_for
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from fastimd.bench.dialect import (
    FASTIMD,
    PING,
    TEXT,
    Dialect,
    Texts,
    client_frame,
    find_frame,
)
from fastimd.bench.histogram import Histogram
from fastimd.bench.live import LIVE, LIVE_PROTOBUF
from fastimd.bench.transcript import Disorder, Transcript
from fastimd.websocket.frames import text_frame

# One run against a real daemon


@pytest.mark.parametrize("processes", [1, 2])
def test_burst(daemon: Daemon, redis: Redis, processes: int) -> None:
    """Everything that was said is stored, and was heard by every member."""
    result = result_of(
        *("burst", f"ws://{daemon.address}", "--pid", daemon.process.pid),
        *("--members", 20, "--seconds", 1, "--warm-up", 0.2, "--processes", processes),
    )
    (group,) = redis.keys("gml:bench-*")
    numbers = metrics(daemon)
    assert numbers["fastimd_deliveries_total"] == redis.llen(group) * 20
    assert 0 < result["messages"] <= redis.llen(group)
    assert result["messages_per_second"] == result["messages"] / result["seconds"]
    assert abs(result["deliveries"] - result["messages"] * 20) <= 16 * 20
    latency = result["latency"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["p999"]
    used = result["server"]
    assert 0 < used["cpu_seconds"] <= result["seconds"] + 0.1
    assert used["cpu_us_per_message"] == used["cpu_seconds"] / result["messages"] * 1e6
    assert 0 < used["kernel_share"] < 1
    assert used["resident_bytes"] > 2**20


def test_a_count_bounds_a_run(daemon: Daemon) -> None:
    """Whichever comes first, of count and time."""
    result = result_of(
        *("burst", f"ws://{daemon.address}", "--members", 2, "--messages", 200),
        *("--seconds", 50, "--warm-up", 0),
    )
    assert result["messages"] >= 200
    assert result["seconds"] < 40


def test_talk(daemon: Daemon, redis: Redis) -> None:
    """Everybody talks, on two daemons' addresses as on one."""
    where = f"ws://{daemon.address}"
    result = result_of(
        *("talk", where, where, "--groups", 3, "--members", 4, "--seconds", 1, "--warm-up", 0.2)
    )
    lists = redis.keys("gml:bench-*")
    assert len(lists) == 3
    for stored in lists:
        users = {json.loads(entry)["userId"] for entry in redis.lrange(stored, 0, -1)}
        assert len(users) == 4
    assert result["messages"] > 12


def test_talk_at_a_rate(daemon: Daemon) -> None:
    """So many messages a second, and no more."""
    result = result_of(
        *("talk", f"ws://{daemon.address}", "--groups", 2, "--rate", 100, "--seconds", 2)
    )
    assert 0.8 * 200 < result["messages"] <= 1.2 * 200


def test_idle(daemon: Daemon) -> None:
    """What sockets cost that only sit there."""
    pid = ("--pid", daemon.process.pid)
    result = result_of(
        *("idle", f"ws://{daemon.address}", *pid, "--groups", 10, "--members", 20, "--seconds", 1)
    )
    assert result["sockets"] == 200
    assert result["connects_per_second"] > 0
    assert 0 < result["server"]["bytes_per_socket"] < 2**20
    assert result["server"]["cpu_us_per_socket"] > 0


def test_storm(daemon: Daemon) -> None:
    """A thousand sockets drop, and come back at once; nobody is refused."""
    result = result_of("storm", f"ws://{daemon.address}", "--groups", 100, "--members", 10)
    assert metrics(daemon)["fastimd_sockets_opened_total"] == 2000
    assert result["connects_per_second"] == 1000 / result["seconds"]


def test_list(daemon: Daemon, redis_url: str) -> None:
    """Lists show what was said last in each of their groups."""
    result = result_of(
        *("list", f"ws://{daemon.address}", "--members", 10, "--groups", 20, "--groups-each", 4),
        *("--active", 8, "--rate", 5, "--seconds", 3, "--redis", redis_url),
    )
    assert result["deliveries"] > 0
    assert result["redis_commands_per_second"] > 0
    assert 0 < result["latency"]["p50"] < 5000


def test_a_table_for_people(daemon: Daemon) -> None:
    """Without --json."""
    done = bench("burst", f"ws://{daemon.address}", "--members", 2, "--seconds", 0.5)
    assert done.returncode == 0
    rows = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert rows["lost"].strip() == "0"
    assert rows["disorder"].strip() == "none"
    assert "/s)" in rows["deliveries"]


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="the machine has no ::1")
def test_an_address_of_ipv6(start_daemon: StartDaemon) -> None:
    """It is in brackets in the header Host, too."""
    daemon = start_daemon(server__bind="[::1]:0")
    result_of("burst", f"ws://{daemon.address}/", "--members", 2, "--seconds", 0.2)


# What it leaves


class Front:
    """A door in front of a daemon that has ``/user/leaveGroup``, or has none.

    The other routes and the sockets are the daemon's.
    """

    def __init__(self, daemon: Daemon, redis: Redis, *, can_leave: bool) -> None:
        host, _, port = daemon.address.rpartition(":")
        self._daemon = (host, int(port))
        self._redis = redis
        self._can_leave = can_leave

    def serve(self, client: socket.socket) -> None:
        """One connection."""
        with client, socket.create_connection(self._daemon) as daemon, suppress(OSError):
            while (head := self._head(client)) is not None:
                length = re.search(rb"content-length: (\d+)", head.lower())
                body = self._exactly(client, int(length[1]) if length else 0)
                if b"/user/leaveGroup" in head.partition(b"\r\n")[0]:
                    client.sendall(self._leave(head, body))
                    continue
                daemon.sendall(head + body)
                if b"upgrade: websocket" in head.lower():
                    self._splice(client, daemon)
                    return
                client.sendall(self._answer(daemon))

    def _leave(self, head: bytes, body: bytes) -> bytes:
        headers = dict(re.findall(r"(\w+): (.*)\r\n", head.decode()))
        group = parse_qs(body.decode())["groupId"][0]
        if not self._can_leave:
            status, answer = "404 Not Found", '{"code":404,"msg":"Not Found","data":null}'
        else:
            assert self._redis.get(f"login:{headers['userId']}") == headers["token"].encode()
            self._redis.srem(f"ugs:{headers['userId']}", group)
            status, answer = "200 OK", '{"code":200,"msg":"操作成功","data":null}'
        data = answer.encode()
        return f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data

    def _answer(self, daemon: socket.socket) -> bytes:
        head = self._head(daemon)
        assert head is not None
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length is not None
        return head + self._exactly(daemon, int(length[1]))

    def _head(self, stream: socket.socket) -> bytes | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = stream.recv(1)
            if not byte:
                return None
            head += byte
        return head

    def _exactly(self, stream: socket.socket, size: int) -> bytes:
        return stream.recv(size, socket.MSG_WAITALL) if size else b""

    def _splice(self, one: socket.socket, other: socket.socket) -> None:
        while True:
            for ready in select.select([one, other], [], [])[0]:
                data = ready.recv(65_536)
                if not data:
                    return
                (other if ready is one else one).sendall(data)


@contextmanager
def fronted(front: Front) -> Iterator[str]:
    """The address of a front."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            front.serve(self.request)

    class Door(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 512

    with Door(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


SHORT = ("--seconds", 0.3)
MODES: dict[str, tuple[object, ...]] = {
    "burst": ("--members", 5, "--warm-up", 0, *SHORT),
    "talk": ("--groups", 3, "--members", 2, "--warm-up", 0, *SHORT),
    "idle": ("--groups", 3, "--members", 2, *SHORT),
    "storm": ("--groups", 3, "--members", 2),
    "list": (
        *("--members", 4, "--groups", 6, "--groups-each", 3, "--active", 2, "--warm-up", 0),
        *SHORT,
    ),
}


def left_in(redis: Redis) -> dict[str, int]:
    """How many keys of each kind there are, but for those that live for a second."""
    kinds = Counter(key.partition(b":")[0].decode() for key in redis.scan_iter("*"))
    return {kind: count for kind, count in kinds.items() if kind != "fastimd"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("login_auth", ["false", "true"])
def test_a_run_leaves_nothing(
    start_daemon: StartDaemon, redis: Redis, mode: str, login_auth: str
) -> None:
    """Neither memberships nor messages nor logins, in each mode, and the others' stay."""
    daemon = start_daemon(group__login_auth=login_auth)
    redis.sadd("ugs:b0", "7")
    log_in(daemon, "b0")
    with fronted(Front(daemon, redis, can_leave=True)) as address:
        done = bench(mode, address, *MODES[mode], "--admin", daemon.admin.removeprefix("http://"))
    assert (done.returncode, done.stderr) == (0, "")
    assert left_in(redis) == {"ugs": 1, "login": 1}
    assert redis.smembers("ugs:b0") == {b"7"}


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
@pytest.mark.parametrize("moment", ["opening", "talking"])
def test_a_run_that_is_ended_leaves_nothing(
    daemon: Daemon, redis: Redis, number: str, status: int, moment: str
) -> None:
    """Whatever it was at."""
    with fronted(Front(daemon, redis, can_leave=True)) as address:
        arguments = ("talk", address, "--members", 40, "--groups", 5, "--seconds", 60)
        admin = daemon.admin.removeprefix("http://")
        running = subprocess.Popen(
            [*COMMAND, *map(str, arguments), "--admin", admin],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: redis.keys("gml:*" if moment == "talking" else "ugs:*"), daemon, 30)
        running.send_signal(getattr(signal, number))
        out, said = running.communicate(timeout=30)
    assert (running.returncode, out, said) == (status, "", "")
    assert left_in(redis) == {}


def test_a_run_that_breaks_off_leaves_nothing(daemon: Daemon, redis: Redis) -> None:
    """As its members are kicked out."""
    with fronted(Front(daemon, redis, can_leave=True)) as address:
        admin = daemon.admin.removeprefix("http://")
        arguments = (
            *("burst", address, "--members", 5, "--seconds", 60),
            *("--admin", admin, "--users", "tester"),
        )
        running = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True
        )
        wait_for(lambda: redis.keys("gml:*"), daemon, 30)
        trio.run(kick, daemon, "tester3")
        _, said = running.communicate(timeout=30)
    assert running.returncode == 3
    assert said == "fastimd bench: no result: closed by the server: 1008 kicked\n"
    assert left_in(redis) == {}


def test_what_remains_is_told(daemon: Daemon, redis: Redis) -> None:
    """Without ``/user/leaveGroup`` and without an admin address, with the way to delete it."""
    with fronted(Front(daemon, redis, can_leave=False)) as address:
        done = bench("burst", address, *MODES["burst"], "--admin", "")
    memberships, messages, logins = done.stderr.splitlines()
    assert done.returncode == 0
    assert "memberships remain (the server has no /user/leaveGroup)" in memberships
    assert messages.startswith("fastimd bench: messages remain (no admin address is given)")
    assert "login.token_ttl" in logins
    assert left_in(redis) == {"ugs": 5, "login": 5, "gml": 1}
    assert redis.ttl(redis.keys("gml:*")[0]) > 0
    assert all(redis.ttl(key) > 0 for key in redis.keys("login:*"))
    pattern = re.search(r"--pattern '(\S+)'", memberships)
    assert pattern is not None
    assert len(redis.keys(pattern[1])) == 5


@pytest.mark.parametrize("bind", ["127.0.0.1:1", "other"])
def test_another_daemon_deletes_nothing(
    start_daemon: StartDaemon, redis: Redis, tmp_path: Path, bind: str
) -> None:
    """At the admin address is nobody, or a daemon on another Redis: both are told."""
    daemon = start_daemon()
    with run_redis(redis_servers()[0], tmp_path) as url:
        other = run_daemon(tmp_path, url)
        admin = other.admin.removeprefix("http://") if bind == "other" else bind
        with fronted(Front(daemon, redis, can_leave=True)) as address:
            done = bench("talk", address, *MODES["talk"], "--admin", admin)
        assert other.stop() == 0
    assert done.returncode == 0
    reason = "does not know them" if bind == "other" else "no daemon answers at admin.bind"
    messages, logins = done.stderr.splitlines()
    assert messages.startswith("fastimd bench: messages remain (")
    assert logins.startswith("fastimd bench: logins remain (")
    assert reason in messages
    assert reason in logins
    assert left_in(redis) == {"login": 6, "gml": 3}


def test_a_daemon_that_dies_leaves_what_is_told(daemon: Daemon, redis: Redis) -> None:
    """The clean-up gives up at the first request that has no answer."""
    admin = daemon.admin.removeprefix("http://")
    arguments = ("talk", f"ws://{daemon.address}", "--seconds", 60, "--admin", admin)
    running = subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: redis.keys("gml:*"), daemon, 30)
    daemon.process.kill()
    daemon.expected_status = -signal.SIGKILL
    _, said = running.communicate(timeout=20)
    assert running.returncode == 3
    broken, memberships, messages, logins = said.splitlines()
    assert broken.startswith("fastimd bench: no result: ")
    assert "memberships remain (Connection refused)" in memberships
    assert "no daemon answers" in messages
    assert "no daemon answers" in logins


CHOOSY = """
def login(user_id, password):
    return {} if (user_id, password) in {(f"tester{n}", "s3cret") for n in range(3)} else None
"""


def test_a_login_hook_wants_its_users_and_their_password(
    start_daemon: StartDaemon, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With them the run is as ever; without, what it needs is told: status 3."""
    (tmp_path / "choosy.py").write_text(CHOOSY)
    (tmp_path / "password").write_text("s3cret\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    daemon = start_daemon(group__login_auth="true", login__hook="choosy:login")
    admin = ("--admin", daemon.admin.removeprefix("http://"))
    run = ("burst", "--members", 3, "--warm-up", 0, *SHORT, *admin)
    with fronted(Front(daemon, redis, can_leave=True)) as address:
        known = ("--users", "tester", "--password-file", tmp_path / "password")
        done = bench(*run, address, *known)
        assert (done.returncode, done.stderr) == (0, "")
        refused = bench(*run, address)
    assert refused.returncode == 3
    assert "1008 login required" in refused.stderr
    assert "give --users and --password-file" in refused.stderr
    assert left_in(redis) == {}


# What is wrong


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (("burst", "127.0.0.1:1"), "not an address like ws://HOST:PORT"),
        (("burst", "wss://127.0.0.1:1"), "TLS is not measured"),
        (("burst", "ws://127.0.0.1:1", "--members", "0"), "must be 1 or more, not 0"),
        (("burst", "ws://127.0.0.1:1", "--size", "10"), "must be 40 or more, not 10"),
        (("burst", "ws://127.0.0.1:1", "--seconds", "inf"), "must be 0.1 or more, not inf"),
        (("talk", "ws://nobody.invalid"), "nobody.invalid: "),
        (("talk", "ws://127.0.0.1:1", "--pid", "999999999"), "there is no process 999999999"),
        (("talk", "ws://127.0.0.1:1", "--admin", "9001"), "--admin 9001: neither HOST:PORT"),
        (("talk", "ws://127.0.0.1:1", "--users", " "), "--users: must be 1 to 128"),
        (
            ("talk", "ws://127.0.0.1:1", "--password-file", "/none"),
            "--password-file /none: No such",
        ),
        (("idle", "ws://127.0.0.1:1", "--groups", "10000000"), "open files; the limit is"),
        ((), "the following arguments are required: MODE"),
    ],
)
def test_mistakes_are_told(arguments: tuple[str, ...], mistake: str) -> None:
    """Status 2, and one line that says what is wrong."""
    done = bench(*arguments)
    assert done.returncode == 2
    assert mistake in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_a_server_that_is_not_there() -> None:
    """No result: status 3."""
    done = bench("talk", "ws://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (3, "")
    assert "Connection refused" in done.stderr


@pytest.mark.parametrize("fault", [honest, *FAULTS], ids=lambda fault: fault.__name__)
def test_no_speed_of_what_did_not_arrive(fault: Callable[[list[str], int], list[str]]) -> None:
    """A server that is not to be relied on has no speed, and the status is not 0."""
    with served(Group(fault)) as address:
        done = bench(
            *("burst", address, "--members", 5, "--in-flight", 8, "--at-once", 8, "--json"),
            # Long enough for the thirtieth message on any machine, or until many more were said.
            *("--warm-up", 0, "--seconds", 5, "--messages", 300),
        )
    if fault is honest:
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["deliveries_per_second"] > 0
        return
    assert done.returncode in (1, 3)
    if done.returncode == 1:
        result = json.loads(done.stdout)
        assert result["lost"] or result["disorder"]
        assert result["deliveries_per_second"] is None
        assert result["messages_per_second"] is None
        assert result["latency"] is None
    else:
        assert done.stderr.startswith("fastimd bench: no result: ")
        assert not done.stdout


# The transcript

TEXTS = Texts(FASTIMD, 64)


def message(sender: int, number: int, ts: int, texts: Texts = TEXTS) -> bytes:
    frame = texts.frame(sender, number, 1000 + number)
    found = find_frame(bytes((frame[0], frame[1] & 0x7F)) + frame[6:], 0)
    assert found is not None
    return text_frame(b'{"info":"%b","ts":%d}' % (frame[6:], ts))


STREAM = [message(n % 3, n // 3, 100 + n) for n in range(30)]


def no_pong(_payload: bytes) -> None:
    raise AssertionError("nobody pinged")


@given(st.data())
def test_members_that_hear_the_same_in_other_pieces(data: st.DataObject) -> None:
    """However what they hear is cut, and whatever pings come between, each hears all."""
    transcript = Transcript(TEXTS, FASTIMD)
    listeners = [transcript.listen() for _ in range(3)]
    pongs: list[bytes] = []
    streams = []
    for _ in listeners:
        frames = list(STREAM)
        for at in sorted(data.draw(st.lists(st.integers(0, 30), max_size=3)), reverse=True):
            frames.insert(at, bytes((0x80 | PING, 2)) + b"hi")
        whole = b"".join(frames)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
        streams.append([whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)])
    pings = sum(whole.count(b"\x89\x02hi") for whole in (b"".join(each) for each in streams))
    heard = [0, 0, 0]
    while any(streams):
        who = data.draw(st.sampled_from([n for n in range(3) if streams[n]]))
        listener = listeners[who]
        before = transcript.take(listener, streams[who].pop(0), pongs.append)
        assert before == heard[who]
        heard[who] = listener.heard
    assert heard == [30, 30, 30]
    assert transcript.messages == transcript.delivered == 30
    assert pongs == [b"hi"] * pings


@pytest.mark.parametrize(
    ("frames", "fault"),
    [
        ([message(0, 0, 1), message(0, 2, 2)], "lost: number 2 of sender 0 came for 1"),
        ([message(0, 1, 1)], "lost: number 1 of sender 0 came for 0"),
        ([message(0, 0, 1), message(0, 0, 2)], "doubled: number 0 of sender 0 came for 1"),
        ([message(0, 0, 2), message(0, 1, 2)], "position 2 after 2"),
        ([message(0, 0, 2), message(1, 0, 1)], "position 1 after 2"),
        ([message(0, 0, 1, Texts(FASTIMD, 64))], "a message that nobody sent in this run"),
        ([text_frame(b"hello")], "a message that nobody sent in this run"),
        ([b"\x01\x02hi"], "a frame begins with 0102"),
        ([client_frame(TEXT, b"hi")], "a frame begins with 8182"),
    ],
)
def test_disorder(frames: list[bytes], fault: str) -> None:
    """What was not said, or not so."""
    transcript = Transcript(TEXTS, FASTIMD)
    with pytest.raises(Disorder, match=fault.replace("'", ".")):
        transcript.take(transcript.listen(), b"".join(frames), no_pong)


def test_members_that_hear_otherwise() -> None:
    """One bit is enough, wherever it is."""
    for at in random.sample(range(len(STREAM[0])), 20):
        transcript = Transcript(TEXTS, FASTIMD)
        transcript.take(transcript.listen(), STREAM[0], no_pong)
        other = bytearray(STREAM[0] + STREAM[1])
        other[at] ^= 1
        listener = transcript.listen()
        with suppress(Disorder):
            transcript.take(listener, bytes(other), no_pong)
        assert listener.heard == 0  # what is left may be a frame that is not finished


def test_what_all_have_heard_is_forgotten() -> None:
    """A long run takes no more memory than a short one."""
    transcript = Transcript(TEXTS, FASTIMD)
    first, second = transcript.listen(), transcript.listen()
    for number in range(20_000):
        frame = message(0, number, number + 1)
        for listener in (first, second):
            assert transcript.take(listener, frame, no_pong) == number
            assert transcript.moment(number) == 1000 + number
            assert transcript.sender(number) == 0
    assert transcript.delivered == 20_000
    assert len(transcript._frames) < 10_000 * len(STREAM[0])


def test_a_dialect_wraps_what_is_said() -> None:
    """And texts are found in whatever is around them."""
    texts = Texts(Dialect(before=b'42["say","', after=b'"]'), 1000)
    frame = texts.frame(7, 8, 9)
    assert frame[:2] == bytes((0x81, 0xFE))
    assert len(frame) == 8 + 1000 + 12
    assert texts.read(frame) == (7, 8, 9)
    assert list(texts.read_all(frame + frame)) == [(7, 8, 9)] * 2
    assert texts.in_group("7").frame(7, 8, 9) == frame
    for dialect in (LIVE, LIVE_PROTOBUF):
        named = Texts(dialect, 64, texts.mark)
        frame = named.in_group("a-7").frame(7, 8, 9)
        assert b"a-7" in frame
        assert named.in_group("b").read(frame) == (7, 8, 9)
    with pytest.raises(ValueError, match="at least 40 bytes, not 39"):
        Texts(FASTIMD, 39)


@given(st.lists(st.integers(0, 10**11), min_size=1, max_size=200))
def test_quantiles(durations: list[int]) -> None:
    """To within two in a hundred, over eleven powers of ten."""
    half = len(durations) // 2
    histograms = [Histogram(), Histogram()]
    for duration in durations[:half]:
        histograms[0].add(duration)
    for duration in durations[half:]:
        histograms[1].add(duration)
    merged = Histogram().merge(histograms)
    ordered = sorted(durations)
    assert merged.quantile(1) * 1e6 == pytest.approx(ordered[-1], rel=0.02)
    assert merged.quantile(0) * 1e6 == pytest.approx(ordered[0], rel=0.02)
    middle = statistics.median_low(ordered)
    assert merged.quantile(0.5) * 1e6 == pytest.approx(middle, rel=0.02)
