"""The operator's commands against running daemons, over TCP and over a unix socket."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from clients import closing, log_in, log_in_async, message, post_async
from clients import post as post_form
from conftest import (
    Daemon,
    ShareDaemon,
    StartDaemon,
    connect,
    environment_of,
    receive,
    redis_servers,
    run_daemon,
    run_fastimd,
    run_redis,
    wait_for,
)
from redis import Redis

from fastimd.base.settings import reading
from fastimd.http.desk import SAY_SECONDS
from fastimd.http.forms import COMMAND_HEADER
from fastimd.operate import settings as operate_settings
from fastimd.operate.client import ANSWER_SECONDS
from fastimd.operate.commands import EXIT_FAILED, EXIT_UNAVAILABLE
from fastimd.operate.screen import printable
from fastimd.redis.address import Address

EXIT_CONFIG = 78
OWNER_ONLY = 0o600
COMMANDS = (
    "serve",
    "check",
    "status",
    "group",
    "say",
    "kick",
    "purge",
    *("ban", "unban", "mute", "unmute", "slow", "mute-all", "moderator", "delete", "reports"),
    "chat",
    "bench",
    "completion",
)


@dataclass
class Post:
    """A daemon and how its operator reaches it."""

    daemon: Daemon
    bind: str

    def run(self, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command against the daemon, to its end."""
        return run_fastimd(*arguments, typed=typed, admin__bind=self.bind)

    async def command(self, *arguments: str, typed: str = "") -> str:
        """``run`` from a Trio task; what it printed, after it did what it should."""
        run = partial(self.run, *arguments, typed=typed)
        ended = await trio.to_thread.run_sync(run)
        assert ended.returncode == 0, ended
        return ended.stdout


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(params=["tcp", "unix"])
def bind(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An admin address of each kind."""
    return free_address() if request.param == "tcp" else f"unix:{tmp_path}/admin.sock"


@pytest.fixture
def own_post(start_daemon: StartDaemon, bind: str) -> Post:
    """A daemon of the test's own with an admin address of each kind."""
    return Post(start_daemon(admin__bind=bind), bind)


@pytest.fixture
def own_unix_post(start_daemon: StartDaemon, tmp_path: Path) -> Post:
    """A daemon of the test's own with a unix socket as its admin address."""
    bind = f"unix:{tmp_path}/admin.sock"
    return Post(start_daemon(admin__bind=bind), bind)


@pytest.fixture
def tcp_post(share_daemon: ShareDaemon) -> Post:
    """A shared daemon whose admin address is a port of its own."""
    daemon = share_daemon()
    return Post(daemon, daemon.admin.removeprefix("http://"))


@pytest.fixture
def unix_post(share_daemon: ShareDaemon, shared_folder: Path) -> Post:
    """A shared daemon with a unix socket as its admin address."""
    bind = f"unix:{shared_folder}/admin.sock"
    return Post(share_daemon(admin__bind=bind), bind)


@pytest.fixture(params=["tcp", "unix"])
def post(request: pytest.FixtureRequest, tcp_post: Post, unix_post: Post) -> Post:
    """A shared daemon with an admin address of each kind."""
    return tcp_post if request.param == "tcp" else unix_post


# Status


async def test_status_shows_the_daemon_on_one_screen(own_post: Post) -> None:
    """Version, sockets by kind, groups, Redis and rates; all of it over either kind of address."""
    async with connect(own_post.daemon.chat_url("7", "3")) as member:
        await receive(member)
        async with connect(own_post.daemon.list_url("3")) as watcher:
            await receive(watcher)
            shown = await own_post.command("status")
    assert f"pid {own_post.daemon.process.pid}, up " in shown
    assert "sockets   2 (1 chat, 1 list, 0 live), 1 groups" in shown
    assert "ready     yes" in shown
    assert "commands up, messages up, 0 held" in shown
    assert "messages in" in shown
    assert "0 slow closes" in shown
    assert len(shown.splitlines()) <= 24


async def test_status_tells_programs_the_rates(unix_post: Post) -> None:
    """``--json`` is one line with the counters and how fast they grow."""
    async with connect(unix_post.daemon.chat_url("7", "3")) as member:
        await receive(member)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, member)
            status = json.loads(await unix_post.command("status", "--json"))
            nursery.cancel_scope.cancel()
    assert status["sockets"] == {"chat": 1, "list": 0, "live": 0}
    assert status["ready"] is True
    assert status["rates"]["messages"] > 0
    assert status["rates"]["deliveries"] > 0
    assert status["counters"]["messages"] >= status["rates"]["messages"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://mara:s3cret@10.0.0.5/", "redis://10.0.0.5:6379/0"),
        ("redis://:s3cret@redis.example:7000/3", "redis://redis.example:7000/3"),
        ("redis://[::1]:6379/0?password=s3cret&db=2", "redis://[::1]:6379/2"),
        ("rediss://:s3cret@10.0.0.5?ssl_password=s3cret", "rediss://10.0.0.5:6379/0"),
        ("unix://mara:s3cret@/run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_the_status_shows_where_redis_is_and_no_password(url: str, shown: str) -> None:
    """Its URL, so that the scheme and the database are seen too."""
    assert Address(url).shown_url == shown


def test_the_status_shows_the_redis_of_the_daemon(unix_post: Post, redis_url: str) -> None:
    """As ``redis.url`` has it."""
    assert json.loads(unix_post.run("status", "--json").stdout)["redis"]["address"] == redis_url
    assert f"redis     {redis_url}: commands up" in unix_post.run("status").stdout


async def talk(member: Any) -> None:
    while True:
        await member.send_message("hello")
        await receive(member)


def test_status_watches_until_the_daemon_has_gone(own_unix_post: Post) -> None:
    """``--watch`` shows it again and again, and says when nobody answers any more."""
    watching = subprocess.Popen(
        [sys.executable, "-m", "fastimd", "status", "--watch", "--json"],
        env={**os.environ, "FASTIMD_ADMIN__BIND": own_unix_post.bind},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    lines = [json.loads(watching.stdout.readline()) for _ in range(2)]
    assert lines[1]["uptime_seconds"] > lines[0]["uptime_seconds"]
    assert own_unix_post.daemon.stop() == 0
    _, said = watching.communicate(timeout=20)
    assert watching.returncode == EXIT_UNAVAILABLE
    assert said.startswith(f"fastimd: no daemon answers at admin.bind {own_unix_post.bind}: ")


def test_status_shows_the_last_troubles(own_unix_post: Post, redis: Redis) -> None:
    """A warning of the log is in the status, with its fields."""
    redis.publish("fastimd:events", "foreign")
    wait_for(lambda: own_unix_post.daemon.events("poller.unknown_event"), own_unix_post.daemon)
    (trouble,) = json.loads(own_unix_post.run("status", "--json").stdout)["troubles"]
    assert (trouble["level"], trouble["event"]) == ("warning", "poller.unknown_event")
    assert "malformed" in trouble["fields"]["error"]
    assert "warning poller.unknown_event error=" in own_unix_post.run("status").stdout


def test_an_outage_leaves_the_other_troubles_in_the_status(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """It is a line for each of its events, which counts also what the log left out."""
    bind = f"unix:{tmp_path}/admin.sock"
    with run_redis(redis_servers()[0], tmp_path) as url:
        daemon = start_daemon(redis__url=url, admin__bind=bind)
        with Redis.from_url(url) as client:
            for _ in range(30):
                client.publish("fastimd:events", "foreign")
            wait_for(lambda: daemon.events("poller.unknown_event"), daemon)
        headers = log_in(daemon)
    wait_for(lambda: len(daemon.events("redis.unavailable")) > 4, daemon)
    with ThreadPoolExecutor(25) as pool:
        ask_groups = partial(post_form, daemon, "/user/listGroup", {}, headers)
        requests = [pool.submit(ask_groups) for _ in range(25)]
    assert {each.result().status for each in requests} == {503}
    told = json.loads(run_fastimd("status", "--json", admin__bind=bind).stdout)["troubles"]
    by_event = {trouble["event"]: trouble for trouble in told}
    assert len(told) == 4
    assert by_event["poller.unknown_event"]["count"] == 30
    assert by_event["http.store_unavailable"]["count"] == 25
    outage = [trouble for trouble in told if trouble["event"] == "redis.unavailable"]
    assert sorted(each["fields"]["purpose"] for each in outage) == ["commands", "messages"]
    for each in outage:
        assert each["count"] == int(each["fields"]["attempts"]) > 1
        assert each["first_at"] < each["at"]
    shown = run_fastimd("status", admin__bind=bind).stdout
    assert re.search(
        r"warning poller\.unknown_event \(30 times since [-0-9]+ [:0-9]+\) error=", shown
    )


def test_status_is_there_before_redis_is(tmp_path: Path) -> None:
    """A daemon that waits for Redis says so to its operator, and takes no orders."""
    bind = f"unix:{tmp_path}/admin.sock"
    url = f"redis://{free_address()}/0"
    daemon = run_daemon(tmp_path, url, wait_serving=False, admin__bind=bind)
    try:
        wait_for(lambda: daemon.events("redis.unavailable"), daemon)
        assert "ready     no: redis: " in run_fastimd("status", admin__bind=bind).stdout
        for command in (("say", "7", "x", "--as", "3"), ("kick", "3"), ("purge", "7", "--yes")):
            ended = run_fastimd(*command, admin__bind=bind)
            assert ended.returncode == EXIT_FAILED
            assert ended.stderr.startswith("fastimd: Redis is away (")
            assert ended.stderr.count("\n") == 1
    finally:
        assert daemon.stop() == 0


# Groups


async def test_group_shows_members_and_messages(post: Post, redis: Redis) -> None:
    """The members here, how many messages, how long they live, and the last of them."""
    redis.rpush("gml:7", *(message(ts, group="7", info=f"text {ts}") for ts in range(1, 31)))
    redis.expire("gml:7", 7200)
    async with connect(post.daemon.chat_url("7", "3")) as first:
        await receive(first)
        async with connect(post.daemon.chat_url("7", "3")) as second:
            await receive(second)
            shown = await post.command("group", "7", "--last", "2")
            whole = json.loads(await post.command("group", "7", "--last", "30", "--json"))
    assert "members   1 connected here: 3 (2 sockets)" in shown
    assert re.search(r"messages  30, expire in 1 h 59 min|messages  30, expire in 2 h", shown)
    assert [line.rpartition(" 1: ")[2] for line in shown.splitlines()[-2:]] == [
        "text 29",
        "text 30",
    ]
    assert whole["members"] == {"3": 2}
    assert [each["ts"] for each in whole["last"]] == list(range(1, 31))


def test_what_clients_wrote_cannot_command_the_terminal(unix_post: Post, redis: Redis) -> None:
    """Control characters of a message and marks of direction are shown as escapes."""
    redis.rpush("gml:7", message(1, group="7", info="\x1b[2J\u202e\x9b好"))
    shown = unix_post.run("group", "7").stdout
    assert "\\x1b[2J\\u202e\\x9b好" in shown
    assert shown.isascii() or "\x9b" not in shown
    assert unix_post.run("group", "7", "--json").stdout.isascii()
    assert printable("a\nb\x7f") == "a\\nb\\x7f"


def test_a_list_that_is_none_is_no_crash(unix_post: Post, redis: Redis) -> None:
    """Both commands name a key of another type, and say what Redis says."""
    redis.set("gml:7", "x")
    for command in (("group", "7"), ("purge", "7", "--yes")):
        ended = unix_post.run(*command)
        assert ended.returncode == EXIT_FAILED
        assert "gml:7" in ended.stderr
        assert ended.stderr.rstrip().endswith("a key holding the wrong kind of value")


# Orders


async def test_say_is_heard_as_a_members_message(post: Post) -> None:
    """What the operator says comes to the members, in the name given."""
    async with connect(post.daemon.chat_url("7", "3")) as member:
        await receive(member)
        assert await post.command("say", "7", "back at 五", "--as", "operator") == ""
        heard = await receive(member)
    assert (heard["userId"], heard["info"]) == ("operator", "back at 五")
    (said,) = post.daemon.events("operator.said")
    assert (said["group"], said["user"]) == ("7", "operator")


@pytest.mark.parametrize("with_group", [False, True])
async def test_kick_closes_the_users_sockets_on_every_daemon(
    unix_post: Post, share_daemon: ShareDaemon, redis: Redis, with_group: bool
) -> None:
    """1008 ``kicked``, on both daemons; another user, and with ``--group`` another group, stay."""
    here, there = unix_post.daemon, share_daemon()
    async with (
        connect(here.chat_url("7", "3")) as kicked_here,
        connect(there.chat_url("7", "3")) as kicked_there,
        connect(there.chat_url("8", "3")) as other_group,
        connect(there.list_url("3")) as watcher,
        connect(there.chat_url("7", "4")) as other_user,
    ):
        for socket_ in (kicked_here, kicked_there, other_group, watcher, other_user):
            await receive(socket_)
        option = ("--group", "7") if with_group else ()
        ((_, daemons),) = redis.pubsub_numsub("fastimd:events")
        told = f"daemons told: {daemons}\n"
        assert daemons >= 2
        assert await unix_post.command("kick", "3", *option) == told
        assert await closing(kicked_here) == (1008, "kicked")
        assert await closing(kicked_there) == (1008, "kicked")
        if with_group:
            await other_group.send_message("here")
            assert (await receive(other_group))["info"] == "here"
        else:
            assert await closing(other_group) == (1008, "kicked")
            assert await closing(watcher) == (1008, "kicked")
        await other_user.send_message("still here")
        assert (await receive(other_user))["info"] == "still here"
    (line,) = here.events("operator.kicked")
    assert (line["user"], line["daemons"]) == ("3", daemons)


async def test_purge_deletes_and_list_sockets_hear_of_it(
    unix_post: Post, share_daemon: ShareDaemon, redis: Redis
) -> None:
    """The list is gone, a list socket of another daemon shows it, and no ts is given twice."""
    ahead = (int(redis.time()[0]) + 30) * 1000
    redis.sadd("ugs:3", "ahead")
    redis.rpush("gml:ahead", message(1, group="ahead"), message(ahead, group="ahead", info="last"))
    there = share_daemon()
    async with connect(there.list_url("3")) as watcher:
        assert (await receive(watcher))[0]["total"] == 2
        assert await unix_post.command("purge", "ahead", typed="y\n") == "messages deleted: 2\n"
        assert await receive(watcher) == [{"newMessage": None, "total": 0}]
    assert not redis.exists("gml:ahead")
    await unix_post.command("say", "ahead", "anew", "--as", "3")
    assert json.loads(redis.lindex("gml:ahead", 0))["ts"] == ahead + 1  # type: ignore[arg-type]


@pytest.mark.parametrize("typed", ["", "\n", "n\n", "sure\n"])
def test_purge_asks_first(unix_post: Post, redis: Redis, typed: str) -> None:
    """Without a yes nothing is deleted."""
    redis.rpush("gml:7", message(1, group="7"))
    ended = unix_post.run("purge", "7", typed=typed)
    assert ended.returncode == EXIT_FAILED
    assert "Delete all messages of group 7? [y/N]" in ended.stderr
    assert redis.llen("gml:7") == 1


def test_an_order_that_is_wrong_is_refused_in_one_line(start_daemon: StartDaemon) -> None:
    """An id that is none and a text that is too long: status 1, and the reason."""
    bind = free_address()
    start_daemon(admin__bind=bind, group_message__max_bytes="10")
    for command, reason in (
        (("say", "7", "x" * 11, "--as", "3"), "text: must have at most 10 bytes"),
        (("say", "7", "x", "--as", ""), "user: must be 1 to 128 printable characters"),
        (("kick", "3", "--group", " "), "group: must be 1 to 128 printable characters"),
        (("purge", "", "--yes"), "group: must be 1 to 128 printable characters"),
        (("group", "7", "--last", "-1"), "last: must be a whole number from 0 to 1000"),
    ):
        ended = run_fastimd(*command, admin__bind=bind)
        assert (ended.returncode, ended.stderr) == (EXIT_FAILED, f"fastimd: {reason}\n")


def test_an_order_has_its_answer_before_the_command_gives_up() -> None:
    """The daemon's own deadline is the shorter one."""
    assert SAY_SECONDS < ANSWER_SECONDS


# Who may


def ask(
    post: Post, method: str, path: str, headers: dict[str, str], body: bytes | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One request to the admin address, with no header that is not given but Host."""
    host, _, port = post.bind.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


async def test_no_web_page_can_give_orders(tcp_post: Post) -> None:
    """Not with a form, not across origins, and not through a name that leads to this address."""
    order = json.dumps({"user": "3"}).encode()
    as_json = {"Content-Type": "application/json"}
    command = {COMMAND_HEADER: "1"}
    refused: list[tuple[int, dict[str, str]]] = [
        (403, as_json),
        (403, {"Content-Type": "text/plain"}),
        (415, {**command, "Content-Type": "text/plain"}),
        (403, {**command, **as_json, "Host": "evil.example"}),
        (403, {**command, **as_json, "Host": "127.0.0.1.evil.example:9001"}),
        (403, {**command, **as_json, "Host": "localhost.evil.example"}),
    ]
    async with connect(tcp_post.daemon.chat_url("7", "3")) as member:
        await receive(member)
        for status, headers in refused:
            answer = await trio.to_thread.run_sync(
                ask, tcp_post, "POST", "/operate/kick", headers, order
            )
            assert answer[0] == status, headers
        preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        _, given, _ = await trio.to_thread.run_sync(
            ask, tcp_post, "OPTIONS", "/operate/kick", preflight
        )
        assert not [name for name in given if name.lower().startswith("access-control")]
        assert (await trio.to_thread.run_sync(ask, tcp_post, "GET", "/operate/kick", command))[
            0
        ] == 405
        await member.send_message("still here")
        assert (await receive(member))["info"] == "still here"


@pytest.mark.parametrize("path", ["/operate/status", "/operate/group?group=7&last=1"])
def test_no_web_page_can_read_either(tcp_post: Post, path: str) -> None:
    """Questions need the header and a trusted Host as well."""
    command = {COMMAND_HEADER: "1"}
    assert ask(tcp_post, "GET", path, {})[0] == 403
    assert ask(tcp_post, "GET", path, {**command, "Host": "evil.example"})[0] == 403
    for host in ("localhost:9", "LOCALHOST", "[::1]:9001", "192.0.2.1"):
        assert ask(tcp_post, "GET", path, {**command, "Host": host})[0] == 200


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"user":3}', b'{"user":"\\ud800"}', b'{"user":"\xff"}']
)
def test_a_body_that_is_none_is_told(tcp_post: Post, body: bytes) -> None:
    """400 with what was expected."""
    headers = {COMMAND_HEADER: "1", "Content-Type": "application/json"}
    status, _, answer = ask(tcp_post, "POST", "/operate/kick", headers, body)
    assert status == 400
    assert json.loads(answer)["error"]


@pytest.mark.parametrize("path", ["status", "group", "say", "kick", "purge"])
async def test_the_public_port_knows_no_command(share_daemon: ShareDaemon, path: str) -> None:
    """404, logged in or not."""
    daemon = share_daemon()
    headers = {**await log_in_async(daemon), COMMAND_HEADER: "1"}
    answer = await post_async(daemon, f"/operate/{path}", {"groupId": "7"}, headers)
    assert answer.status == 404


# The admin address as a unix socket


def ask_unix(path: Path, target: str) -> bytes:
    """The whole answer to a GET over a unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(
            f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_health_and_metrics_over_a_unix_socket(own_unix_post: Post, tmp_path: Path) -> None:
    """The socket is its owner's alone, answers as a port does, and goes with the daemon."""
    path = tmp_path / "admin.sock"
    assert stat.S_IMODE(path.stat().st_mode) == OWNER_ONLY
    assert own_unix_post.daemon.admin == own_unix_post.bind
    assert ask_unix(path, "/health/live").endswith(b'\r\n\r\n{"live":true}')
    assert ask_unix(path, "/health/ready").endswith(b'\r\n\r\n{"ready":true,"reasons":[]}')
    assert b"\nfastimd_connections " in ask_unix(path, "/metrics")
    assert own_unix_post.daemon.stop() == 0
    assert not path.exists()


def test_a_stale_socket_file_is_replaced(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """What a killed daemon left behind does not keep the next from starting."""
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    start_daemon(admin__bind=f"unix:{path}")
    assert b'"live":true' in ask_unix(path, "/health/live")


@pytest.mark.parametrize("taken_by", ["daemon", "file", "directory", "missing"])
def test_a_path_that_is_taken_is_an_error(redis_url: str, tmp_path: Path, taken_by: str) -> None:
    """Status 78 and one line; what is there stays there."""
    path = tmp_path / "admin.sock"
    live = socket.socket(socket.AF_UNIX)
    with live:
        if taken_by == "daemon":
            live.bind(str(path))
            live.listen()
        elif taken_by == "file":
            path.write_text("mine")
        elif taken_by == "directory":
            path.mkdir()
        else:
            path = tmp_path / "nowhere" / "admin.sock"
        daemon = run_daemon(tmp_path, redis_url, wait_serving=False, admin__bind=f"unix:{path}")
        assert daemon.process.wait(timeout=20) == EXIT_CONFIG
        reason = "No such file or directory" if taken_by == "missing" else "Address already in use"
        said = daemon.log_path.read_text()
        assert f"fastimd: admin.bind: cannot listen on unix:{path}: {reason}\n" in said
        assert path.exists() == (taken_by != "missing")


# The command line


@pytest.mark.parametrize("command", ["status", "group", "say", "kick", "purge"])
def test_a_daemon_that_is_not_there_is_told(tmp_path: Path, bind: str, command: str) -> None:
    """Status 69 and one line that names the address, whatever the command."""
    ended = run_fastimd(command, *ORDERS[command], admin__bind=bind)
    reason = "No such file or directory" if bind.startswith("unix:") else "Connection refused"
    assert (ended.returncode, ended.stdout) == (EXIT_UNAVAILABLE, "")
    assert ended.stderr == f"fastimd: no daemon answers at admin.bind {bind}: {reason}\n"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n\r\nhello", b"SSH-2.0-x\r\n"])
async def test_a_stranger_at_the_address_is_told(answer: bytes) -> None:
    """Something else that listens there is no daemon: status 69, one line."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_tcp, partial(say_and_end, answer), 0, host="127.0.0.1")
        )
        bind = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        ended = await trio.to_thread.run_sync(partial(run_fastimd, "status", admin__bind=bind))
        nursery.cancel_scope.cancel()
    assert ended.returncode == EXIT_UNAVAILABLE
    assert ended.stderr.startswith(f"fastimd: no daemon answers at admin.bind {bind}: ")
    assert ended.stderr.count("\n") == 1


async def say_and_end(answer: bytes, stream: trio.SocketStream) -> None:
    await stream.receive_some()
    if answer:
        await stream.send_all(answer)
    await stream.send_eof()


@pytest.mark.parametrize(
    ("bind", "reason"),
    [("", "has no admin address"), ("127.0.0.1:0", "has port 0"), ("unix://x", "unix://x")],
)
def test_an_address_that_leads_nowhere_is_told(bind: str, reason: str) -> None:
    """Settings by which no daemon can be found: status 78."""
    ended = run_fastimd("status", admin__bind=bind)
    assert ended.returncode == EXIT_CONFIG
    assert reason in ended.stderr


def test_the_address_comes_from_the_daemons_own_file(unix_post: Post, tmp_path: Path) -> None:
    """``--config`` finds the daemon, before or after the command."""
    path = tmp_path / "settings.toml"
    path.write_text(f'[admin]\nbind = "{unix_post.bind}"\n')
    for arguments in (("status", "--config", str(path)), ("--config", str(path), "status")):
        ended = run_fastimd(*arguments, "--json")
        assert ended.returncode == 0, ended
        assert json.loads(ended.stdout)["pid"] == unix_post.daemon.process.pid


ORDERS = {
    "status": (),
    "group": ("7",),
    "say": ("7", "x", "--as", "3"),
    "kick": ("3",),
    "purge": ("7", "--yes"),
}
"""The commands to a running daemon, with arguments that do."""
ADMIN_FIRST = '[admin]\nbind = "BIND"\n'
BROKEN = {
    "a value": (ADMIN_FIRST + "[server]\ndrain_seconds = -1\n", "server.drain_seconds: got -1"),
    "a key": (ADMIN_FIRST + "[redis]\nurl_ = 1\n", "unknown key 'redis.url_'"),
    "a section": (ADMIN_FIRST + "[redys]\n", "unknown section 'redys'"),
    "no TOML behind": (ADMIN_FIRST + "[server]\nbind = \n", "not TOML: "),
    "no TOML before": ("bind =\n[server\n" + ADMIN_FIRST, "not TOML: "),
    "no UTF-8": (ADMIN_FIRST + "[log]\nlevel = '\udcff'\n", "not TOML: not UTF-8"),
    "pings": (ADMIN_FIRST + "[socket]\nping_timeout = 1\n", "socket.ping_timeout: got 1"),
}
"""Files with mistakes that leave ``admin.bind`` readable, and what is said of them."""


@pytest.mark.parametrize("mistake", BROKEN)
@pytest.mark.parametrize("command", ORDERS)
def test_commands_work_while_other_settings_are_wrong(
    unix_post: Post, tmp_path: Path, command: str, mistake: str
) -> None:
    """A warning names the mistake; the status is as without, and the order is carried out."""
    text, said = BROKEN[mistake]
    path = tmp_path / "settings.toml"
    path.write_bytes(text.replace("BIND", unix_post.bind).encode(errors="surrogateescape"))
    ended = run_fastimd(command, *ORDERS[command], "--config", str(path))
    assert ended.returncode == 0, ended
    assert ended.stderr.startswith("fastimd: warning: ")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_commands_take_the_address_of_the_environment(unix_post: Post, tmp_path: Path) -> None:
    """Whatever the file is, and though its own ``admin.bind`` is wrong."""
    path = tmp_path / "settings.toml"
    for content in ("[admin]\nbind = 7\n", "[admin\n", '[admin]\nbnd = ""\n'):
        path.write_text(content)
        ended = run_fastimd("status", "--config", str(path), admin__bind=unix_post.bind)
        assert ended.returncode == 0, ended
        assert ended.stderr.startswith("fastimd: warning: ")
    missing = run_fastimd("status", "--config", str(tmp_path / "no"), admin__bind=unix_post.bind)
    assert (missing.returncode, missing.stderr.count("\n")) == (0, 1)


@pytest.mark.parametrize("command", ORDERS)
@pytest.mark.parametrize(
    "section",
    ["bind = 7\n", 'bind = "9001"\n', 'bnd = "127.0.0.1:1"\n', 'bind = "x:1:2"\n[log]\nx\n'],
)
def test_an_admin_address_that_is_wrong_itself_is_told(
    tmp_path: Path, command: str, section: str
) -> None:
    """Status 78: it is not asked elsewhere."""
    path = tmp_path / "settings.toml"
    path.write_text(f"[admin]\n{section}")
    ended = run_fastimd(command, *ORDERS[command], "--config", str(path))
    assert (ended.returncode, ended.stdout) == (EXIT_CONFIG, "")
    assert ended.stderr.startswith("fastimd: warning: ")
    assert ended.stderr.splitlines()[-1].startswith("fastimd: admin.bind is wrong itself")


@pytest.mark.parametrize("command", ORDERS)
@pytest.mark.parametrize("content", [None, "[admin\n", "bind =\n"])
def test_without_an_address_only_questions_are_asked_at_the_default(
    tmp_path: Path, command: str, content: str | None
) -> None:
    """An order might change what another daemon has."""
    path = tmp_path / "settings.toml"
    if content is not None:
        path.write_text(content)
    ended = run_fastimd(command, *ORDERS[command], "--config", str(path))
    assert "admin.bind cannot be read" in ended.stderr
    if command in ("status", "group"):
        assert "asking at its default, 127.0.0.1:9001" in ended.stderr
    else:
        assert ended.returncode == EXIT_CONFIG
        assert "give FASTIMD_ADMIN__BIND=127.0.0.1:9001" in ended.stderr


def test_where_there_is_no_file_the_default_is_certain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the environment makes no address doubtful: orders are carried out there too."""
    for module in (reading, operate_settings):
        monkeypatch.setattr(module, "SEARCH_PATHS", (tmp_path / "none.toml",))
    found = operate_settings.find_admin(None, {"FASTIMD_SERVER__BIND": "nowhere"})
    assert (found.bind, found.is_assumed) == ("127.0.0.1:9001", False)
    assert any("server.bind" in mistake for mistake in found.mistakes)


# Output that nobody reads, and Ctrl-C

EXIT_UNREAD = 128 + signal.SIGPIPE
EXIT_INTERRUPTED = 128 + signal.SIGINT
PRINTING: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "help of a command": ("bench", "burst", "--help"),
    "version": ("--version",),
    "check": ("check",),
    "status": ("status",),
    "status in JSON": ("status", "--json"),
    "status again and again": ("status", "--watch"),
    "group": ("group", "7"),
    "group in JSON": ("group", "7", "--json"),
    "kick": ("kick", "3"),
    "purge": ("purge", "7", "--yes"),
    "moderator": ("moderator", "7"),
    "delete": ("delete", "7", "--of", "3"),
    "reports": ("reports", "7"),
    "completion": ("completion", "bash"),
    "bench": ("bench", "burst", "URL", "--members", "2", "--seconds", "0.1", "--admin", ""),
    "chat": ("chat", "URL", "7", "--user", "mara"),
}
"""What each command prints, but for those that print nothing."""


def start_fastimd(*arguments: str, stdout: Any, bind: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fastimd", *arguments],
        # Where it is set, argparse keeps from the caller that a help was not written.
        env=environment_of({"admin__bind": bind, "chat_password": "x"}) | {"PYTHONUNBUFFERED": ""},
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("printed", PRINTING)
def test_output_that_nobody_reads_ends_a_command_quietly(unix_post: Post, printed: str) -> None:
    """As SIGPIPE would; a chat ends well then, as its document says."""
    url = f"ws://{unix_post.daemon.address}"
    arguments = [url if each == "URL" else each for each in PRINTING[printed]]
    reading, writing = os.pipe()
    os.close(reading)
    with start_fastimd(*arguments, stdout=writing, bind=unix_post.bind) as running:
        os.close(writing)
        _, said = running.communicate(timeout=30)
    assert running.returncode == (0 if printed == "chat" else EXIT_UNREAD)
    left = [line for line in said.splitlines() if not line.startswith("fastimd bench: ")]
    assert not left  # the load generator says what stays in Redis
    if printed != "bench":
        assert not said


SILENT = {"serve", "say", "ban", "unban", "mute", "unmute", "slow", "mute-all"}


def test_a_table_of_what_is_printed_has_every_command() -> None:
    """One that is new is not forgotten."""
    assert {words[0] for words in PRINTING.values()} | SILENT >= set(COMMANDS)


def test_warnings_that_nobody_reads_are_no_traceback(unix_post: Post, tmp_path: Path) -> None:
    """As with ``2>&1 | head``: standard error is a pipe, too."""
    path = tmp_path / "settings.toml"
    path.write_text(f'[admin]\nbind = "{unix_post.bind}"\n[redys]\n')
    command = (
        f"{sys.executable} -m fastimd status --watch --config {path} 2>&1 | head -n 2;"
        " echo ${PIPESTATUS[0]}"
    )
    ended = subprocess.run(
        ["bash", "-c", command],
        env=environment_of({}),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    *shown, status = ended.stdout.splitlines()
    assert (len(shown), int(status), ended.stderr) == (2, EXIT_UNREAD, "")


WAITING: dict[str, tuple[str, ...]] = {
    **{command: (command, *arguments) for command, arguments in ORDERS.items()},
    "purge that asks": ("purge", "7"),
    "chat": ("chat", "URL", "7", "--user", "mara"),
    "bench": ("bench", "burst", "URL", "--admin", ""),
}


@pytest.mark.parametrize("waiting", WAITING)
def test_ctrl_c_ends_a_command_quietly(tmp_path: Path, waiting: str) -> None:
    """While it waits for an answer, or for a yes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        arguments = [f"ws://{where}" if each == "URL" else each for each in WAITING[waiting]]
        with start_fastimd(*arguments, stdout=subprocess.PIPE, bind=where) as running:
            assert running.stderr is not None
            if waiting == "purge that asks":
                assert running.stderr.read(6) == "Delete"
            else:
                silent.settimeout(20)
                asking, _ = silent.accept()
                with asking:
                    assert asking.recv(1)
                    running.send_signal(signal.SIGINT)
                    out, said = running.communicate(timeout=20)
            if waiting == "purge that asks":
                running.send_signal(signal.SIGINT)
                out, said = running.communicate(timeout=20)
    assert (running.returncode, out) == (EXIT_INTERRUPTED, "")
    assert "Traceback" not in said
    if waiting != "bench":
        assert not said.partition("[y/N] ")[2]


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("status", "fastimd.cli"),
        ("status", "fastimd.operate.commands"),
        ("status", "http.client"),
        ("chat", "fastimd.terminal.begin"),
        ("bench", "fastimd.bench.command"),
        ("serve", "fastimd.daemon.run"),
        ("serve", "fastimd.daemon.tree"),
    ],
)
def test_ctrl_c_while_the_program_is_loaded_is_no_traceback(
    plant: Callable[[str], None], command: str, module: str
) -> None:
    """In the first moments, which are the longest of a short command."""
    plant(f"""
        import os, signal, sys

        class CtrlC:
            def find_spec(self, name, path, target=None):
                if name == "{module}":
                    os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, CtrlC())
    """)
    url = f"ws://{free_address()}"
    arguments = {**WAITING, "serve": ("serve",)}[command]
    given = [url if each == "URL" else each for each in arguments]
    with start_fastimd(*given, stdout=subprocess.PIPE, bind=free_address()) as running:
        out, said = running.communicate(timeout=20)
    assert (running.returncode, out, said) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(command: str) -> None:
    """``--help`` ends with one."""
    ended = run_fastimd(command, "--help")
    assert ended.returncode == 0
    example = ended.stdout.rpartition("\n\n")[2]
    assert example.startswith(f"example: fastimd {command}")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_for_each_shell(shell: str) -> None:
    """It knows every command and its options."""
    ended = run_fastimd("completion", shell)
    assert (ended.returncode, ended.stderr) == (0, "")
    for word in (*COMMANDS, "watch", "last", "yes"):
        assert word in ended.stdout


def test_bash_completes_what_is_typed(tmp_path: Path) -> None:
    """A real bash offers the commands, and the options of one."""
    script = tmp_path / "completion"
    script.write_text(run_fastimd("completion", "bash").stdout)
    assert set(complete(script, "fastimd", "pu")) == {"purge"}
    assert "--watch" in complete(script, "fastimd", "status", "--w")


def complete(script: Path, *words: str) -> list[str]:
    """What bash offers when the last word is being typed."""
    typed = " ".join(f"'{word}'" for word in words)
    ended = subprocess.run(
        [
            "bash",
            "-c",
            f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1};"
            f" COMP_LINE='{' '.join(words)}';"
            " _shtab_fastimd; printf '%s\\n' \"${COMPREPLY[@]}\"",
        ],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return ended.stdout.split()
