"""SIGHUP: what an operator changes in the file holds for the running daemon."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import trio
from clients import TEXT, RawClient, client_frame, dial, log_in, opening, post, request
from conftest import Daemon, StartDaemon, connect, receive, wait_for

from fastimd.base.settings import FIXED, Config, adopt, settings

Configure = Callable[..., Path]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """Write the settings file; sections are ``section={key: value}``."""
    path = tmp_path / "fastimd.toml"

    def write(**sections: dict[str, Any]) -> Path:
        lines = []
        for section, keys in sections.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        path.write_text("\n".join(lines))
        return path

    return write


def reload(daemon: Daemon, event: str = "config.reloaded") -> dict[str, Any]:
    """Send SIGHUP, and return what the daemon says of it."""
    before = len(daemon.events(event))
    daemon.process.send_signal(signal.SIGHUP)
    line: dict[str, Any] = wait_for(lambda: daemon.events(event)[before:], daemon)[0]
    return line


def status_of(daemon: Daemon, path: str, *headers: str) -> int:
    """The status of an opening handshake."""
    head = opening(path).replace(
        b"\r\n\r\n", "".join(f"\r\n{h}" for h in headers).encode() + b"\r\n\r\n"
    )
    with closing(dial(daemon.address)) as stream:
        stream.sendall(head)
        return int(stream.recv(65536).split()[1])


def test_what_changed_is_told(start_daemon: StartDaemon, configure: Configure) -> None:
    """By name, and apart from that what needs a restart; the rest is left as it is."""
    daemon = start_daemon(configure(group_message={"list_num": 3}))
    configure(
        group_message={"list_num": 4},
        log={"level": "debug"},
        login={"hook": "os:getcwd", "token_ttl": 60},
    )
    line = reload(daemon)
    assert line["changed"] == ["group_message.list_num", "login.token_ttl", "log.level"]
    assert line["for_restart"] == ["login.hook"]
    line = reload(daemon)
    assert (line["changed"], line["for_restart"]) == ([], ["login.hook"])
    assert log_in(daemon)


def test_a_bad_file_changes_nothing(start_daemon: StartDaemon, configure: Configure) -> None:
    """Every mistake is told, and the good half of the file is not taken over either."""
    daemon = start_daemon(configure(server={"allowed_origins": ["https://a.example"]}))
    path = configure(server={"allowed_origins": ["*"], "bnd": 1}, log={"level": "loud"})
    line = reload(daemon, "config.refused")
    assert line["level"] == "error"
    assert [mistake.partition(": ")[0] for mistake in line["mistakes"]] == [str(path)] * 2
    assert "server.bnd" in line["mistakes"][0]
    assert "loud" in line["mistakes"][1]
    assert status_of(daemon, "/group/chat/1/1/t", "Origin: https://b.example") == 403
    path.unlink()
    time.sleep(1.1)  # the log tells each kind of trouble once a second
    assert "cannot be read" in reload(daemon, "config.refused")["mistakes"][0]
    configure(server={"allowed_origins": ["*"]})
    reload(daemon)
    assert status_of(daemon, "/group/chat/1/1/t", "Origin: https://b.example") == 101


def test_origins(start_daemon: StartDaemon, configure: Configure) -> None:
    """On sockets and over HTTP."""

    def allowed(origin: str) -> tuple[bool, bool]:
        answer = request(
            daemon, "POST", "/user/login", body=b"userId=1&password=1", headers={"Origin": origin}
        )
        status = status_of(daemon, "/group/chat/1/1/t", f"Origin: {origin}")
        return status == 101, answer.headers["Access-Control-Allow-Origin"] is not None

    daemon = start_daemon(configure(server={"allowed_origins": ["https://a.example"]}))
    assert [allowed(f"https://{host}.example") for host in "ab"] == [(True,) * 2, (False,) * 2]
    configure(server={"allowed_origins": ["https://b.example"]})
    reload(daemon)
    assert [allowed(f"https://{host}.example") for host in "ab"] == [(False,) * 2, (True,) * 2]


def test_the_level_of_the_log(start_daemon: StartDaemon, configure: Configure) -> None:
    """Up and down again, whoever has logged before."""
    daemon = start_daemon(configure())

    def is_told() -> bool:
        before = len(daemon.events("http.request"))
        log_in(daemon)  # its line is written before the answer is
        return len(daemon.events("http.request")) > before

    assert is_told()
    for level, expected in (("error", False), ("info", True), ("warning", False), ("debug", True)):
        configure(log={"level": level})
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(lambda expected=expected: is_told() == expected)  # type: ignore[misc]
    assert [line["changed"] for line in daemon.events("config.reloaded")] == [["log.level"]] * 2


def test_limits_of_connections(start_daemon: StartDaemon, configure: Configure) -> None:
    """Those that are open count, and stay."""
    daemon = start_daemon(configure())
    with ExitStack() as stack:
        first = [
            stack.enter_context(RawClient(daemon.address, f"/group/chat/1/{n}/t")) for n in range(3)
        ]
        configure(server={"max_connections_per_ip": 3})
        reload(daemon)
        assert status_of(daemon, "/group/chat/1/9/t") == 429
        configure(server={"max_connections": 3})
        reload(daemon)
        assert status_of(daemon, "/group/chat/1/9/t") == 503
        configure()
        reload(daemon)
        assert status_of(daemon, "/group/chat/1/9/t") == 101
        for client in first:
            client.say("still there?")
            while "still there?" not in client.next_text():
                pass


def test_the_pace_of_open_sockets(start_daemon: StartDaemon, configure: Configure) -> None:
    """A limit that comes meets the sockets that are there; when it goes they run free."""
    daemon = start_daemon(configure())
    with RawClient(daemon.address, "/group/chat/1/1/t") as client:

        def seconds(messages: int) -> float:
            began = time.monotonic()
            client.stream.sendall(client_frame(TEXT, b"hi") * messages)
            for _ in range(messages):
                client.next_text()
            return time.monotonic() - began

        assert '"list"' in client.next_text()
        seconds(30)
        configure(socket={"max_messages_per_second": 10, "message_burst": 1})
        reload(daemon)
        assert seconds(11) >= 0.9
        configure(socket={"max_messages_per_second": 20, "message_burst": 1})
        reload(daemon)
        assert seconds(21) >= 0.9
        configure()
        reload(daemon)
        client.stream.sendall(client_frame(TEXT, b"hi") * 2000)
        for _ in range(2000):
            client.next_text()


def test_trusted_proxies(start_daemon: StartDaemon, configure: Configure) -> None:
    """The client's address is taken from a proxy that is trusted from now on."""
    daemon = start_daemon(configure())

    def client() -> str:
        request(daemon, "GET", "/test/websocket", headers={"X-Forwarded-For": "203.0.113.9"})
        return str(wait_for(lambda: daemon.events("http.request"))[-1]["client"])

    assert client() == "127.0.0.1"
    configure(server={"trusted_proxies": ["127.0.0.0/8"]})
    reload(daemon)
    wait_for(lambda: client() == "203.0.113.9")


async def test_what_a_group_is_like(start_daemon: StartDaemon, configure: Configure) -> None:
    """Greetings, tokens and recalls go by the settings of the moment."""
    daemon = start_daemon(configure())
    async with connect(daemon.chat_url()) as member:
        await receive(member)
        for text in ("a", "b", "c"):
            await member.send_message(text)
            said = await receive(member)
    configure(group_message={"list_num": 2, "recall_time_limit": 0}, group={"auto_join": False})
    reload(daemon)
    async with connect(daemon.chat_url()) as member:
        assert [message["info"] for message in (await receive(member))["list"]] == ["b", "c"]
    await trio.sleep(0.01)
    recalled = post(daemon, "/group/delMessage", {"groupId": "1", "ts": said["ts"]}, log_in(daemon))
    assert recalled.json["msg"] == "无法撤回消息"
    configure(group={"max_joined": 1})
    reload(daemon)
    headers = log_in(daemon)
    assert (
        "too many groups" in post(daemon, "/user/joinGroup", {"groupId": "2"}, headers).json["msg"]
    )
    configure(group={"login_auth": True})
    reload(daemon)
    async with connect(daemon.chat_url(token="wrong")) as member:
        assert await receive(member) == 440


def test_systemd_is_told(
    start_daemon: StartDaemon, configure: Configure, notify_socket: socket.socket
) -> None:
    """RELOADING with the moment, then READY, also when the file is refused."""

    def next_told(word: bytes) -> bytes:
        while word not in (told := notify_socket.recv(1000)):
            pass
        return told

    daemon = start_daemon(configure())
    next_told(b"READY=1")
    for sections in ({}, {"nothing": {"like": "this"}}):
        configure(**sections)
        before = time.monotonic_ns() // 1000
        daemon.process.send_signal(signal.SIGHUP)
        _, _, moment = next_told(b"RELOADING=1").partition(b"MONOTONIC_USEC=")
        assert before <= int(moment) <= time.monotonic_ns() // 1000
        next_told(b"READY=1")


def test_every_other_setting_can_change() -> None:
    """What is not fixed is taken over, and what is fixed is not."""
    known = {f"{setting.section}.{setting.key}" for setting in settings()}
    assert known >= FIXED
    ours, theirs = Config(), Config()
    for setting in settings():
        section = getattr(theirs, setting.section)
        values = {name: getattr(section, name) for name in section.__struct_fields__}
        values[setting.key] = ("another", setting.default)
        setattr(theirs, setting.section, type(section)(**values))
    changes = adopt(ours, theirs)
    assert set(changes.for_restart) == FIXED
    assert set(changes.adopted) == known - FIXED
    for setting in settings():
        value = getattr(getattr(ours, setting.section), setting.key)
        is_fixed = f"{setting.section}.{setting.key}" in FIXED
        assert (value == setting.default) == is_fixed
