"""What the daemon says is wrong with a connection to Redis: each cause against something real."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest
import trio
from conftest import (
    Daemon,
    name_of_server,
    redis_servers,
    run_daemon,
    run_fastimd,
    server_with_tls,
    wait_for,
)
from faults import MortalRedis, Proxy, ask_admin, free_port, unavailable
from redis import Redis, exceptions

from fastimd.redis.address import Address
from fastimd.redis.cause import cause_of
from fastimd.redis.keeping import connected_wire

PURPOSES = ("commands", "messages")
SHUT = "the port may be one with TLS, which needs rediss:// in redis.url"
BARE = "the port may be one without TLS, which needs redis:// in redis.url"
ASKED = "the server may want a certificate: ?ssl_certfile=/path&ssl_keyfile=/path in redis.url"

Place: TypeAlias = Callable[[Path], contextlib.AbstractContextManager[str]]
"""Makes something that a URL leads to, with its files in a folder, and yields the URL."""


# What a URL may lead to


def certify(folder: Path, alternative: str, *, days: int = 1) -> Path:
    """A certificate that signed itself, with its key in the same file.

    Args:
        alternative: the name or address that it is for, ``DNS:…`` or ``IP:…``.
        days: how long it is good from now on; -1 for one that was.
    """
    key, request, certificate, path = (
        folder / f"{name}.pem" for name in ("key", "request", "crt", "both")
    )
    asked = ("-subj", "/CN=redis", "-addext", f"subjectAltName={alternative}", "-out", str(request))
    made = ("-signkey", str(key), "-days", str(days), "-out", str(certificate))
    for command in (
        ("req", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), *asked),
        ("x509", "-req", "-in", str(request), "-copy_extensions", "copyall", *made),
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    path.write_text(key.read_text() + certificate.read_text())
    return path


@contextmanager
def serving(
    folder: Path, *options: str, executable: str = "", tls: Path | None = None
) -> Iterator[int]:
    """A redis-server, with TLS perhaps; yields its port."""
    port = free_port()
    where = ["--port", str(port)]
    if tls is not None:
        where = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"]
        for option in ("--tls-cert-file", "--tls-key-file", "--tls-ca-cert-file"):
            where += [option, str(tls)]
    process = subprocess.Popen(
        [
            executable or (redis_servers()[0] if tls is None else server_with_tls()),
            *("--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *where, *options),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: process.poll() is not None or can_connect(port))
        yield port
    finally:
        process.kill()
        process.wait()


def can_connect(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


@contextmanager
def encrypted(
    folder: Path,
    *,
    alternative: str = "IP:127.0.0.1",
    days: int = 1,
    asks: bool = False,
    query: str = "",
) -> Iterator[str]:
    """A redis-server with TLS.

    Args:
        asks: it wants a certificate of its clients, too.
        query: behind the URL; ``{certificate}`` is the path of its certificate.
    """
    certificate = certify(folder, alternative, days=days)
    options = ("--tls-auth-clients", "yes") if asks else ()
    with serving(folder, *options, tls=certificate) as port:
        yield f"rediss://127.0.0.1:{port}{query.format(certificate=certificate)}"


@contextmanager
def encrypted_asked_plainly(folder: Path) -> Iterator[str]:
    with encrypted(folder) as url:
        yield url.replace("rediss:", "redis:")


@contextmanager
def plain(
    folder: Path, *options: str, scheme: str = "redis", login: str = "", path: str = ""
) -> Iterator[str]:
    """A redis-server without TLS."""
    with serving(folder, *options) as port:
        yield f"{scheme}://{login}127.0.0.1:{port}{path}"


@contextmanager
def full(folder: Path) -> Iterator[str]:
    """A redis-server that has all the clients it takes."""
    with serving(folder, "--maxclients", "1") as port:
        client = Redis(port=port, single_connection_client=True)
        wait_for(partial(pinged, client))
        yield f"redis://127.0.0.1:{port}"
        client.close()


def pinged(client: Redis) -> bool:
    with contextlib.suppress(Exception):
        return bool(client.ping())
    return False


@contextmanager
def answering(
    _folder: Path, take: Callable[[socket.socket], object], scheme: str = "redis"
) -> Iterator[str]:
    """A listener that does something with each connection."""
    taken: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                taken.append(connection)
                take(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in taken:
        connection.close()


def reset(connection: socket.socket) -> None:
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def say(text: bytes, connection: socket.socket) -> None:
    connection.recv(1000)
    connection.sendall(text)


def say_nothing(_connection: socket.socket) -> None:
    """Let the other side wait."""


@contextmanager
def crowded(_folder: Path) -> Iterator[str]:
    """A listener whose queue is full: the kernel answers nobody who comes."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            comer = waiting.enter_context(socket.socket())
            comer.setblocking(False)
            comer.connect_ex(listener.getsockname())
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def nowhere(_folder: Path, url: str) -> Iterator[str]:
    yield url.format(port=free_port())


CAUSES: dict[str, tuple[Place, str]] = {
    "untrusted": (
        encrypted,
        "certificate verify failed: self-signed certificate; "
        "?ssl_ca_certs=/path in redis.url names the certificate of the CA",
    ),
    "wrong CA": (
        partial(encrypted, query="?ssl_ca_certs=/etc/ssl/certs/ca-certificates.crt"),
        "certificate verify failed: self-signed certificate; ?ssl_ca_certs=/path",
    ),
    "of another host": (
        partial(encrypted, alternative="DNS:other.example", query="?ssl_ca_certs={certificate}"),
        "certificate verify failed: IP address mismatch, certificate is not valid for '127.0.0.1'; "
        "redis.url must name the host as the certificate does",
    ),
    "expired": (
        partial(encrypted, days=-1, query="?ssl_ca_certs={certificate}"),
        "certificate verify failed: certificate has expired; the server needs a new one",
    ),
    "wants a certificate": (
        partial(encrypted, asks=True, query="?ssl_ca_certs={certificate}"),
        ASKED,
    ),
    "TLS to a plain port": (partial(plain, scheme="rediss"), BARE),
    "TLS to what speaks something else": (
        partial(answering, take=partial(say, b"HTTP/1.1 400 Bad\r\n\r\n"), scheme="rediss"),
        f"TLS: wrong version number; {BARE}",
    ),
    "plain to a port with TLS": (encrypted_asked_plainly, SHUT),
    "plain to what answers with TLS": (
        partial(answering, take=partial(say, b"\x15\x03\x01\x00\x02\x02\x46")),
        f"not RESP but TLS; {SHUT}",
    ),
    "not RESP": (
        partial(answering, take=partial(say, b"HTTP/1.1 400 Bad\r\n\r\n")),
        'not RESP: Protocol error, got "H" as reply type byte',
    ),
    "no such host": (
        partial(nowhere, url="redis://no-such-host.invalid"),
        "the host name no-such-host.invalid: ",
    ),
    "not a host name": (
        partial(nowhere, url=f"redis://{'a' * 64}.example"),
        f"the host name {'a' * 64}.example: ",
    ),
    "refused": (partial(nowhere, url="redis://127.0.0.1:{port}"), "connection refused"),
    "refused by each address": (
        partial(nowhere, url="redis://localhost:{port}"),
        "connection refused",
    ),
    "no such socket": (partial(nowhere, url="unix:///tmp/no/socket"), "no such file or directory"),
    "reset": (partial(answering, take=reset), "connection reset by peer"),
    "closed": (partial(answering, take=socket.socket.close), ""),
    "not taken": (crowded, "the connection was not taken within 5 s"),
    "silent": (partial(answering, take=say_nothing), "no answer within 5 s"),
    "silent to TLS": (
        partial(answering, take=say_nothing, scheme="rediss"),
        f"no TLS handshake within 5 s; {BARE}",
    ),
    "no such database": (
        partial(plain, path="/99"),
        "SELECT 99: ERR DB index is out of range",
    ),
    "no such user": (
        partial(plain, login=":s3cret@"),
        "AUTH: ERR AUTH <password> called without any password configured",
    ),
    "too many clients": (full, "ERR max number of clients reached"),
}
"""What the URL leads to, and what the log must say."""


@pytest.mark.parametrize("case", CAUSES)
def test_the_log_says_what_is_wrong(case: str, tmp_path: Path) -> None:
    """In each line, of both connections, and so does the operator's address; never the password."""
    place, told = CAUSES[case]
    folder = tmp_path / "place"
    folder.mkdir()
    with place(folder) as url:
        daemon = run_daemon(tmp_path, url, wait_serving=False)
        try:
            for purpose in PURPOSES:
                lines = wait_for(partial(unavailable, daemon, purpose), daemon, 15)
                assert told in lines[0]["error"], lines[0]["error"]
                assert lines[0]["error"]
                assert "\n" not in lines[0]["error"]
            assert "s3cret" not in daemon.log_path.read_text()
        finally:
            assert daemon.stop() == 0


def test_a_trusted_server_is_served(tmp_path: Path) -> None:
    """With its CA named; also one that wants a certificate, gets it, and has another name."""
    certificate = certify(tmp_path, "DNS:other.example")
    query = f"?ssl_ca_certs={certificate}&ssl_certfile={certificate}&ssl_check_hostname=no"
    with serving(tmp_path, "--tls-auth-clients", "yes", tls=certificate) as port:
        daemon = run_daemon(tmp_path, f"rediss://127.0.0.1:{port}/1{query}")
        assert {line["purpose"] for line in daemon.events("redis.connected")} == set(PURPOSES)
        assert daemon.stop() == 0


def test_the_cause_is_where_an_operator_looks(tmp_path: Path) -> None:
    """In ``fastimd status`` and ``/health/ready``, while it lasts."""
    told = CAUSES["untrusted"][1]
    with encrypted(tmp_path) as url:
        bind = f"127.0.0.1:{free_port()}"
        daemon = run_daemon(tmp_path, url, wait_serving=False, admin__bind=bind)
        daemon.admin = f"http://{bind}"
        try:
            for purpose in PURPOSES:
                wait_for(partial(unavailable, daemon, purpose), daemon)
            reasons = ask_admin(daemon, "/health/ready").json["reasons"]
            assert reasons[:2] == [f"redis: {told}", f"relay: {told}"]
            said = run_fastimd("status", admin__bind=bind).stdout
            assert f"commands {told}, messages {told}" in said
        finally:
            assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("ssl_ca_certs={folder}/none.pem", "ssl_ca_certs={folder}/none.pem: no such file"),
        ("ssl_ca_certs={folder}/empty.pem", "ssl_ca_certs={folder}/empty.pem: TLS: no certificate"),
        ("ssl_ca_data=none", "ssl_ca_data: "),
        ("ssl_certfile={folder}/none.pem", "ssl_certfile={folder}/none.pem, ssl_keyfile=: no such"),
        ("ssl_keyfile={folder}/both.pem", "ssl_certfile=, ssl_keyfile={folder}/both.pem: no such"),
        ("ssl_certfile={folder}/crt.pem", "ssl_certfile={folder}/crt.pem, ssl_keyfile=: TLS: "),
        ("ssl_certfile={folder}/locked.pem", "ssl_certfile={folder}/locked.pem, ssl_keyfile=: "),
        ("timeout=long", "Invalid value for 'timeout'"),
    ],
)
def test_a_certificate_that_cannot_be_used_ends_the_start(
    query: str, told: str, tmp_path: Path
) -> None:
    """It is an operator's mistake: one line that names the option, and status 78."""
    both = certify(tmp_path, "DNS:redis")
    (tmp_path / "empty.pem").write_text("")
    key = ("openssl", "pkey", "-in", str(tmp_path / "key.pem"), "-aes256", "-passout", "pass:x")
    locked = subprocess.run(key, check=True, capture_output=True, text=True).stdout
    (tmp_path / "locked.pem").write_text(locked + both.read_text().partition("-----END PRIV")[2])
    url = f"rediss://127.0.0.1:1?{query.format(folder=tmp_path)}"
    ended = run_fastimd("serve", redis__url=url, admin__bind="", log__format="json")
    assert ended.returncode == 78
    assert f"fastimd: redis.url: {told.format(folder=tmp_path)}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("login", [":wr0ng@", "nobody:wr0ng@", ""])
def test_a_wrong_password_ends_the_start(login: str, tmp_path: Path) -> None:
    """The first login; the line has what Redis says, and no password."""
    with plain(tmp_path, "--requirepass", "right", login=login) as url:
        ended = run_fastimd("serve", redis__url=url, admin__bind="", log__format="json")
    assert ended.returncode == 78
    assert f"refuses the login: {'WRONGPASS' if login else 'NOAUTH'} " in ended.stderr
    assert "wr0ng" not in ended.stderr


@contextmanager
def mortal(folder: Path, executable: str) -> Iterator[MortalRedis]:
    server = MortalRedis(executable, folder / "redis")
    try:
        yield server
    finally:
        server.close()


def test_a_password_that_has_changed_is_told(tmp_path: Path) -> None:
    """The daemon goes on: somebody may change it back."""
    with mortal(tmp_path, redis_servers()[0]) as server:
        daemon = run_daemon(tmp_path, server.url)
        server.ask("CONFIG", "SET", "requirepass", "other")
        server.ask("AUTH", "other")
        for kind in ("normal", "pubsub"):
            server.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        for purpose in PURPOSES:
            wait_for(partial(has_said, daemon_lines(daemon, purpose), "NOAUTH "), daemon)
        assert daemon.stop() == 0


def test_a_redis_that_ends_is_told(tmp_path: Path) -> None:
    """First that the connection was closed, then that nobody takes a new one."""
    with mortal(tmp_path, redis_servers()[0]) as server:
        daemon = run_daemon(tmp_path, server.url)
        server.kill()
        for purpose in PURPOSES:
            lines = daemon_lines(daemon, purpose)
            wait_for(partial(has_said, lines, "connection refused"), daemon)
            assert lines()[0] in ("closed by Redis", "connection reset by peer")
        assert daemon.stop() == 0


def test_a_port_that_has_answered_before_is_the_right_one(tmp_path: Path) -> None:
    """What takes connections for a Redis that is away closes them: nobody is sent after TLS."""
    with mortal(tmp_path, redis_servers()[0]) as server:
        proxy = Proxy(server.port)
        daemon = run_daemon(tmp_path, proxy.url)
        server.kill()
        for purpose in PURPOSES:
            lines = daemon_lines(daemon, purpose)
            wait_for(partial(has_lines, lines, 4), daemon)
            assert set(lines()) <= {"closed by Redis", "connection reset by peer", "broken pipe"}
        assert daemon.stop() == 0
        proxy.close()


def daemon_lines(daemon: Daemon, purpose: str) -> Callable[[], list[str]]:
    """What is wrong with a connection, line by line, so far."""
    return lambda: [line["error"] for line in unavailable(daemon, purpose)]


def has_lines(lines: Callable[[], list[str]], count: int) -> bool:
    return len(lines()) >= count


def has_said(lines: Callable[[], list[str]], text: str) -> bool:
    return any(text in line for line in lines())


MAY = ("on", ">s3cret", "~*", "&*", "+@all")

PERMISSIONS: dict[str, tuple[Sequence[str], str, tuple[str, ...]]] = {
    "subscribe": ((*MAY, "-subscribe"), "messages", ("SUBSCRIBE fastimd:events: NOPERM",)),
    "channel": (
        ("on", ">s3cret", "~*", "resetchannels", "&mq:*", "+@all"),
        "messages",
        ("SUBSCRIBE fastimd:events: NOPERM", "channel"),
    ),
    "script": ((*MAY, "-script"), "commands", ("SCRIPT LOAD: NOPERM", "'script")),
    "client": ((*MAY, "-client"), "commands", ("CLIENT SETNAME: NOPERM", "'client")),
    "select": ((*MAY, "-select"), "commands", ("SELECT 1: NOPERM", "'select'")),
    "evalsha": ((*MAY, "-evalsha"), "commands", ("fastimd:applied:*: NOPERM", "'evalsha'")),
    "keys": (
        ("on", ">s3cret", "~gml:*", "~ugs:*", "~login:*", "&*", "+@all"),
        "commands",
        ("fastimd:applied:*: NOPERM", "key"),
    ),
}
"""The rules of an ACL, the connection that notices, and what must be in its line."""


@pytest.mark.parametrize("case", PERMISSIONS)
@pytest.mark.parametrize("executable", redis_servers(), ids=name_of_server)
def test_a_missing_permission_names_the_command(executable: str, case: str, tmp_path: Path) -> None:
    """Whatever the version of Redis says of it."""
    rules, purpose, told = PERMISSIONS[case]
    with serving(tmp_path, executable=executable) as port:
        with Redis(port=port) as client:
            client.execute_command("ACL", "SETUSER", "chat", *rules)
        url = f"redis://chat:s3cret@127.0.0.1:{port}/1"
        daemon = run_daemon(tmp_path, url, wait_serving=False)
        try:
            error = wait_for(partial(unavailable, daemon, purpose), daemon)[0]["error"]
            assert all(part in error for part in told), error
            assert "s3cret" not in daemon.log_path.read_text()
        finally:
            assert daemon.stop() == 0


REFUSED = {
    (
        "LRANGE",
        "key",
        "0",
        "1",
    ): "WRONGTYPE Operation against a key holding the wrong kind of value",
    ("INCR", "key"): "ERR value is not an integer or out of range",
}
"""What a key that holds a text does not allow, and how Redis says so."""


@pytest.mark.parametrize("command", REFUSED, ids=lambda command: command[0])
@pytest.mark.parametrize("executable", redis_servers(), ids=name_of_server)
async def test_a_refusal_in_a_script_is_worded_as_outside(
    executable: str, command: tuple[str, ...], tmp_path: Path
) -> None:
    """Each version adds its own words about the script, and none of them is told."""
    script = f"return redis.call({', '.join(map(repr, command))})"
    with serving(tmp_path, executable=executable) as port:
        async with connected_wire(Address(f"redis://127.0.0.1:{port}/0")) as wire:
            await wire.ask(("SET", "key", "a text"))
            for asked in (command, ("EVAL", script, "0")):
                with pytest.raises(exceptions.ResponseError) as caught:
                    await wire.ask(asked)
                said = str(caught.value).removeprefix(f"{asked[0]} {asked[1]}: ")
                assert said.removeprefix("ERR ") == REFUSED[command].removeprefix("ERR ")


# The exceptions themselves


def raised(*links: BaseException) -> BaseException:
    """The first of exceptions, each caused by the next."""
    for failure, cause in itertools.pairwise(links):
        failure.__cause__ = cause
    return links[0]


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (OSError(), "OSError"),
        (trio.BrokenResourceError(), "BrokenResourceError"),
        (OSError("all failed"), "all failed"),
        (raised(ConnectionError(), trio.BrokenResourceError("it has gone")), "it has gone"),
        (
            raised(
                OSError("all failed"),
                ExceptionGroup(
                    "all",
                    [ConnectionRefusedError(111, "x"), OSError(101, "y"), OSError(111, "z")],
                ),
            ),
            "connection refused, network is unreachable",
        ),
        (raised(trio.BrokenResourceError(), BrokenPipeError(32, "x")), "broken pipe"),
        (raised(trio.BrokenResourceError(), ssl.SSLError(1, "why")), "TLS: why"),
        (raised(TimeoutError("late"), trio.TooSlowError()), "late"),
    ],
)
def test_the_exception_that_knows_most_is_asked(failure: BaseException, told: str) -> None:
    """Whatever it is wrapped in."""
    assert cause_of(failure) == told
