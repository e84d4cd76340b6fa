"""The physical limit: who says something to this server has it sent to every socket by a bare loop.

It checks, keeps and publishes nothing, knows one group, and does nothing else meanwhile.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from base64 import b64encode
from hashlib import sha1

_ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)
_KEY = b"sec-websocket-key:"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def main() -> None:
    """Serve until killed."""
    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=4096)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    members: dict[int, socket.socket] = {}
    print(f"version: Python {sys.version.split()[0]}", flush=True)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == listener.fileno():
                member, _ = listener.accept()
                member.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _shake_hands(member)
                member.setblocking(False)
                members[member.fileno()] = member
                poll.register(member, select.EPOLLIN)
                continue
            data = members[descriptor].recv(65536) if descriptor in members else b""
            if not data:
                members.pop(descriptor).close()
                continue
            frames = _answers(data)
            for member in members.values():
                member.send(frames)


def _shake_hands(member: socket.socket) -> None:
    head = b""
    while b"\r\n\r\n" not in head and (data := member.recv(65536)):
        head += data
    fields = [line for line in head.split(b"\r\n") if line.lower().startswith(_KEY)]
    key = fields[0].partition(b":")[2].strip()
    digest = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
    member.send(_ANSWER % digest)


def _unmasked(mask: bytes, text: bytes) -> bytes:
    if mask == bytes(4):
        return text
    return bytes(byte ^ mask[n % 4] for n, byte in enumerate(text))


def _answers(data: bytes) -> bytes:
    """A client's texts as messages of a group; its frames are whole and short."""
    frames = []
    while data:
        size = data[1] & 0x7F
        text, data = _unmasked(data[2:6], data[6 : 6 + size]), data[6 + size :]
        message = b'{"groupId":"bench","userId":"b0","info":"%b","ts":%d}' % (
            text,
            time.time_ns(),
        )
        frames.append(bytes((0x81, 126)) + len(message).to_bytes(2, "big") + message)
    return b"".join(frames)


main()
