"""A first measurement: the daemon's CPU per message and per delivery, memory per idle socket.

Starts one daemon with an embedded Redis on free ports of loopback and drives it with raw sockets
from one epoll loop. Prints a table; ``make bench`` runs it. Numbers of two machines, or of two
runs on a busy one, cannot be compared; ratios within a run can.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
TEXT = b"x" * 64
IN_FLIGHT = 16
TALKED_AT_ONCE = 8


class Server:
    """A daemon of our own and what it costs."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {
            "FASTIMD_SERVER__BIND": "127.0.0.1:0",
            "FASTIMD_ADMIN__BIND": "",
            "FASTIMD_REDIS__DATA_DIR": str(folder / "data"),
            "FASTIMD_LOG__FORMAT": "json",
        }
        self._log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fastimd"], cwd=folder, env=environment, stderr=self._log
        )
        self.address = self._wait_address(folder / "log")

    def cpu_seconds(self) -> float:
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / TICKS

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait()
        self._log.close()
        if status != 0:
            raise SystemExit(f"the daemon ended with status {status}")

    def _wait_address(self, log: Path) -> tuple[str, int]:
        for _ in range(1000):
            for line in log.read_text().splitlines():
                event = json.loads(line)
                if event["event"] == "daemon.serving":
                    host, _, port = event["page"].split("/")[2].rpartition(":")
                    return host, int(port)
            time.sleep(0.02)
        raise SystemExit("the daemon did not start")


class Member:
    """A raw WebSocket client; ``received`` counts the messages after the greeting."""

    def __init__(self, address: tuple[str, int], group: str, user: str) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /group/chat/{group}/{user}/t HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.socket.recv(65536)
        self.buffer = self.buffer.partition(b"\r\n\r\n")[2]
        self.received = -1  # the greeting comes first
        self.newest = 0
        self.take(b"")
        while self.received < 0:
            self.take(self.socket.recv(65536))
        self.socket.setblocking(False)

    def say(self, times: int) -> None:
        mask = bytes(4)
        self.socket.sendall((bytes((0x81, 0x80 | len(TEXT))) + mask + TEXT) * times)

    def take(self, data: bytes) -> int:
        """Take bytes; return how many frames they completed. Disorder is an error."""
        self.buffer += data
        at = frames = 0
        while len(self.buffer) - at >= 2:
            size, start = self.buffer[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(self.buffer[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, start = int.from_bytes(self.buffer[at + 2 : at + 10], "big"), at + 10
            if len(self.buffer) < start + size:
                break
            opcode, payload = self.buffer[at] & 0x0F, self.buffer[start : start + size]
            at = start + size
            if opcode == 1:
                self._check(payload)
                frames += 1
            elif opcode == 8:
                code, reason = int.from_bytes(payload[:2], "big"), payload[2:].decode()
                raise SystemExit(f"closed by the daemon: {code} {reason}")
        self.buffer = self.buffer[at:]
        return frames

    def _check(self, payload: bytes) -> None:
        self.received += 1
        if self.received:
            ts = int(payload[payload.rindex(b":") + 1 : -1])
            if ts <= self.newest:
                raise SystemExit(f"disorder: {ts} after {self.newest}")
            self.newest = ts


def run_burst(server: Server, group: str, size: int, messages: int) -> tuple[float, float]:
    """One talker, ``size`` members, 16 in flight; CPU seconds and wall seconds."""
    members = [Member(server.address, group, str(number)) for number in range(size)]
    talker = members[0]
    selector = selectors.EpollSelector()
    for member in members:
        selector.register(member.socket, selectors.EVENT_READ, member)
    cpu, wall = server.cpu_seconds(), time.monotonic()
    said = received = 0
    while received < messages * size:
        while said < messages and said + TALKED_AT_ONCE - received // size <= IN_FLIGHT:
            talker.say(TALKED_AT_ONCE)
            said += TALKED_AT_ONCE
        ready = selector.select(10)
        if not ready:
            raise SystemExit(f"lost: {messages * size - received} deliveries did not come")
        for key, _ in ready:
            received += key.data.take(key.data.socket.recv(262144))
    cpu, wall = server.cpu_seconds() - cpu, time.monotonic() - wall
    for member in members:
        member.socket.close()
    selector.close()
    return cpu, wall


def run_idle(server: Server, sockets: int) -> float:
    """Bytes of the daemon's memory that an idle socket in a group of ten takes."""
    before = server.resident_bytes()
    members = [Member(server.address, f"i{n // 10}", str(n)) for n in range(sockets)]
    time.sleep(1)
    used = (server.resident_bytes() - before) / sockets
    for member in members:
        member.socket.close()
    return used


def measure(server: Server) -> None:
    """Measure and print."""
    print("| measured | CPU/message | CPU/delivery | deliveries/s |\n|---|---|---|---|")
    run_burst(server, "warm", 10, 2000)
    for size, messages in ((1, 16000), (100, 8000), (1000, 1600)):
        cpu, wall = run_burst(server, f"b{size}", size, messages)
        print(
            f"| burst to {size} | {cpu / messages * 1e6:.1f} µs "
            f"| {cpu / messages / size * 1e6:.2f} µs | {messages * size / wall:,.0f} |"
        )
    print(f"\nmemory per idle socket: {run_idle(server, 2000) / 1024:.1f} KB (2,000 sockets)")


def main() -> None:
    """Start a daemon, measure it and stop it."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            measure(server)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
