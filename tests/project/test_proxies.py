"""Proxies as systemd/README.md configures them: TLS, sockets, addresses and ids of requests."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest
from clients import TEXT, client_frame, opening, take_frames
from conftest import Daemon, StartDaemon, make_certificate, wait_for

DOCUMENT = Path(__file__).parent.parent.parent / "systemd" / "README.md"
HOST = "chat.example.org"
CLIENT = "127.0.0.2"
"""Another address of this machine: what the proxy must pass on."""


def configuration(language: str) -> str:
    """The document's block in that language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S)
    return str(found)


def put(text: str, changes: dict[str, str]) -> str:
    """The text with each of these, which must be there, replaced."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the document's example"
        text = text.replace(old, new)
    return text


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Place:
    """Where a proxy runs: the ports that stand for 80 and 443, and the file of its certificate."""

    folder: Path
    plain: int
    secure: int
    certificate: Path


def nginx(place: Place, daemon: Daemon) -> list[str]:
    live = "/etc/letsencrypt/live/chat.example.org"
    servers = put(
        configuration("nginx"),
        {
            "listen 80;": f"listen 127.0.0.1:{place.plain};",
            "listen 443 ssl;": f"listen 127.0.0.1:{place.secure} ssl;",
            f"{live}/fullchain.pem": str(place.certificate),
            f"{live}/privkey.pem": str(place.certificate),
            "127.0.0.1:9000": daemon.address,
        },
    )
    kept_here = "".join(
        f"{name}_temp_path {place.folder};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = place.folder / "nginx.conf"
    path.write_text(
        f"daemon off;\nmaster_process off;\npid {place.folder}/pid;\nerror_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{kept_here}{servers}}}\n"
    )
    return ["nginx", "-c", str(path), "-e", "stderr"]


def caddy(place: Place, daemon: Daemon) -> list[str]:
    tls = "tls /path/fullchain.pem /path/privkey.pem"
    assert f"`{tls}`" in DOCUMENT.read_text()
    own = tls.replace("/path/fullchain.pem /path/privkey.pem", f"{place.certificate} " * 2)
    site = put(
        configuration("caddy"),
        {
            "chat.example.org {": f"chat.example.org {{\nbind 127.0.0.1\n{own}",
            "127.0.0.1:9000": daemon.address,
        },
    )
    path = place.folder / "Caddyfile"
    ports = f"http_port {place.plain}\nhttps_port {place.secure}"
    path.write_text(f"{{\nadmin off\n{ports}\n}}\n{site}")
    return ["caddy", "run", "--config", str(path)]


def haproxy(place: Place, daemon: Daemon) -> list[str]:
    path = place.folder / "haproxy.cfg"
    path.write_text(
        put(
            configuration("haproxy"),
            {
                "bind :80": f"bind 127.0.0.1:{place.plain}",
                "bind :443": f"bind 127.0.0.1:{place.secure}",
                "/etc/haproxy/chat.example.org.pem": str(place.certificate),
                "127.0.0.1:9000": daemon.address,
                "port 9001": f"port {daemon.admin.rpartition(':')[2]}",
            },
        )
    )
    return ["haproxy", "-db", "-f", str(path)]


@contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    """A proxy that serves; skipped without it, unless it must be there."""
    executable = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin")
    if executable is None:
        if os.environ.get("FASTIMD_TEST_PROXIES") == "required":
            pytest.fail(f"no {command[0]} on this machine, and FASTIMD_TEST_PROXIES=required")
        pytest.skip(f"needs {command[0]}")
    log = folder / "proxy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [executable, *command[1:]],
            cwd=folder,
            env=os.environ | {"HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:

        def serves() -> bool:
            assert process.poll() is None, log.read_text()
            with closing(socket.socket()) as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(serves)
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    certificate = make_certificate(tmp_path / "certificate.pem", f"DNS:{HOST}")
    return Place(tmp_path, free_port(), free_port(), certificate)


def connect_secure(place: Place) -> ssl.SSLSocket:
    """A client that trusts this certificate, for this name, and no other."""
    context = ssl.create_default_context(cafile=str(place.certificate))
    plain = socket.create_connection(("127.0.0.1", place.secure), 20, source_address=(CLIENT, 0))
    try:
        return context.wrap_socket(plain, server_hostname=HOST)
    except BaseException:
        plain.close()
        raise


@pytest.mark.parametrize("proxy", [nginx, caddy, haproxy], ids=lambda proxy: proxy.__name__)
def test_a_proxy_passes_sockets_addresses_and_ids(
    start_daemon: StartDaemon, place: Place, proxy: Callable[[Place, Daemon], list[str]]
) -> None:
    """A member talks by TLS, and the log has the member's own address and the proxy's id."""
    daemon = start_daemon(server__trusted_proxies="127.0.0.1")
    with running(proxy(place, daemon), place.folder, place.secure):
        with closing(connect_secure(place)) as client:
            assert client.version() in ("TLSv1.2", "TLSv1.3")
            request = opening("/group/chat/1/1/t").replace(b"Host: x", f"Host: {HOST}".encode())
            client.sendall(request)
            answer = receive_until(client, b"", lambda data: b'"list"' in data)
            head, _, rest = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            client.sendall(client_frame(TEXT, b"hello"))
            heard = receive_until(client, rest, lambda data: b"hello" in data)
            assert len(take_frames(bytearray(heard))) == 2
        assert where_plain_leads(place).startswith(f"https://{HOST}")
    (opened,) = wait_for(lambda: daemon.events("socket.opened"), daemon)
    assert opened["client"] == CLIENT
    (given,) = re.findall(rb"^x-request-id: (\S+)\r?$", head, re.M | re.I)
    assert len(given) >= 32, "that is an id of the daemon, not of the proxy"
    assert opened["request_id"] == given.decode()


def where_plain_leads(place: Place) -> str:
    """Whither a client is sent that comes without TLS."""
    connection = HTTPConnection("127.0.0.1", place.plain, timeout=20)
    with closing(connection):
        connection.request("GET", "/test/websocket", headers={"Host": HOST})
        answer = connection.getresponse()
        assert answer.status in (301, 308)
        return str(answer.headers["Location"])


def receive_until(stream: socket.socket, data: bytes, enough: Callable[[bytes], bool]) -> bytes:
    while not enough(data):
        more = stream.recv(65536)
        assert more, data
        data += more
    return data
