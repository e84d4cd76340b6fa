"""How the group sockets of a server are spoken with, and what is said there."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import quote

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA

NO_TOKEN = "bench"  # noqa: S105 - no secret
"""Stands in a path where the server gave none: without ``login_auth`` anything will do."""
MIN_TEXT_BYTES = 40
"""The shortest text that holds what a message carries."""
GROUP = b"@GROUP@"
"""Stands for the group's id in what a client sends."""


@dataclass(frozen=True)
class Lines:
    """A text frame that holds one message or more, a line each, and other lines among them.

    Args:
        answer: what a line begins with that answers a member; it is no message.
        refusal: what stands in an answer that refuses.
        ping: a line that is to be sent back.
    """

    answer: bytes
    refusal: bytes
    ping: bytes


@dataclass(frozen=True)
class Dialect:
    """A server's sockets.

    Args:
        path: of a member's socket; ``{group}`` and ``{user}`` stand for the ids, ``{token}`` for
            what the user got at the login.
        greetings: messages that come before the first one of the group.
        hello: text frames that a client sends first; ``@GROUP@`` stands for the group's id.
        before: what stands before a text that is said; ``@GROUP@`` stands for the group's id.
        after: what stands behind it.
        has_ts: whether each message ends with a ``ts`` that increases within its group.
        lines: how a text frame holds more than one message; None if it holds just one.
    """

    path: str = "/group/chat/{group}/{user}/{token}"
    greetings: int = 1
    hello: tuple[bytes, ...] = ()
    before: bytes = b""
    after: bytes = b""
    has_ts: bool = True
    lines: Lines | None = None

    def target(self, group: str, user: str, token: str = NO_TOKEN) -> str:
        """The request target of a member's handshake."""
        named = {"group": group, "user": user, "token": token}
        return self.path.format(**{name: quote(text, safe="") for name, text in named.items()})

    def hello_in(self, group: str) -> Iterator[bytes]:
        """The text frames that a client of a group sends first."""
        for text in self.hello:
            yield text.replace(GROUP, group.encode())

    def before_in(self, group: str) -> bytes:
        """The bytes before a text that is sent to a group."""
        return self.before.replace(GROUP, group.encode())

    def greetings_in(self, payload: bytes) -> int:
        """How much of the greeting a text frame holds.

        Raises:
            ConnectionError: it refuses what the client sent.
        """
        if self.lines is None:
            return 1
        if self.lines.refusal in payload:
            raise ConnectionError(f"refused: {payload[:200]!r}")
        return payload.count(b"\n") + 1


FASTIMD = Dialect()
GROUP_LIST = Dialect(path="/group/list/{user}/{token}")


class Texts:
    """The texts of one run: found in whatever a server wraps them in, and told from all others.

    Args:
        size: bytes of a text.
        mark: what they begin with; by default a new one.

    Raises:
        ValueError: ``size`` is too small for what a text carries.
    """

    def __init__(self, dialect: Dialect, size: int, mark: bytes = b"") -> None:
        if size < MIN_TEXT_BYTES:
            raise ValueError(f"a text has at least {MIN_TEXT_BYTES} bytes, not {size}")
        self.mark = mark or b"~" + secrets.token_hex(3).encode()
        self._dialect, self._size = dialect, size
        self._frame_start, self._frame_end = self._frame_around(dialect, size)

    def in_group(self, group: str) -> Texts:
        """Those that are said in a group: these, unless what is said names its group."""
        if GROUP not in self._dialect.before:
            return self
        dialect = replace(self._dialect, before=self._dialect.before_in(group))
        return Texts(dialect, self._size, self.mark)

    def frame(self, sender: int, number: int, moment: int) -> bytes:
        """A client's frame with a sender's ``number``th text, sent at ``moment`` (ns)."""
        return b"%b%06d%08d%016d%b" % (
            self._frame_start,
            sender,
            number,
            moment,
            self._frame_end,
        )

    def read(self, payload: bytes) -> tuple[int, int, int] | None:
        """Sender, number and moment of the text in a payload; None if there is no such text."""
        at = payload.find(self.mark) + len(self.mark)
        fields = payload[at : at + 30]
        if at < len(self.mark) or not (len(fields) == 30 and fields.isdigit()):
            return None
        return int(fields[:6]), int(fields[6:14]), int(fields[14:])

    def read_all(self, payload: bytes) -> Iterator[tuple[int, int, int]]:
        """Sender, number and moment of each text in a payload."""
        for fields in payload.split(self.mark)[1:]:
            yield int(fields[:6]), int(fields[6:14]), int(fields[14:30])

    def _frame_around(self, dialect: Dialect, size: int) -> tuple[bytes, bytes]:
        filler = b"." * (size - len(self.mark) - 30)
        length = len(dialect.before) + size + len(dialect.after)
        return (
            client_frame_head(TEXT, length) + dialect.before + self.mark,
            filler + dialect.after,
        )


def client_frame_head(opcode: int, length: int) -> bytes:
    """The head of a client's frame: masked, as it must be, with a key that changes nothing."""
    if length < 126:
        return bytes((0x80 | opcode, 0x80 | length)) + bytes(4)
    if length < 65536:
        return bytes((0x80 | opcode, 0xFE)) + length.to_bytes(2, "big") + bytes(4)
    return bytes((0x80 | opcode, 0xFF)) + length.to_bytes(8, "big") + bytes(4)


def client_frame(opcode: int, payload: bytes) -> bytes:
    """A client's frame."""
    return client_frame_head(opcode, len(payload)) + payload


def find_frame(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Opcode, start and end of the payload of the server's frame at ``at``; None if it is cut.

    Raises:
        ValueError: servers send no such frame.
    """
    if len(data) < at + 2:
        return None
    if data[at] & 0xF0 != 0x80 or data[at + 1] & 0x80:
        raise ValueError(f"a frame begins with {data[at : at + 2].hex()}")
    size, start = data[at + 1], at + 2
    if size >= 126:
        start += 2 if size == 126 else 8
        size = int.from_bytes(data[at + 2 : start], "big")
    if len(data) < start + size:
        return None
    return data[at] & 0x0F, start, start + size


def find_line(data: bytes, at: int) -> tuple[int, int, int] | None:
    """A text's opcode, and start and end of the line at ``at``; None if it is cut."""
    end = data.find(b"\n", at) + 1
    return (TEXT, at, end) if end else None
