"""How the group sockets of a server are spoken with, and what is said there."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import quote

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA

NO_TOKEN = "bench"  # noqa: S105 - no secret
"""Stands in a path where the server gave none: without ``login_auth`` anything will do."""
MIN_TEXT_BYTES = 40
"""The shortest text that holds what a message carries."""

Found: TypeAlias = tuple[int, int, int] | None
"""Opcode, start and end of what is said; None if it is cut."""

_TS = re.compile(rb":(\d+)}$")


@dataclass(frozen=True)
class Position:
    """How far a group has come, as the live wire tells it."""

    epoch: str = ""
    offset: int = 0


@dataclass(frozen=True)
class Visit:
    """Who comes to which groups with one socket.

    Args:
        token: of the user's login; empty if there is none.
        since: where the client stands in the groups, if it was there before.
        positions: gets where they stand now.
    """

    groups: tuple[str, ...]
    user: str
    token: str = ""
    since: Mapping[str, Position] = field(default_factory=dict)
    positions: dict[str, Position] = field(default_factory=dict)


class Greeting:
    """What one client says first, and what it awaits before the first message of its groups.

    Args:
        awaited: how many frames.
        hello: the payloads that it sends.
    """

    def __init__(self, awaited: int, hello: tuple[bytes, ...] = ()) -> None:
        self.awaited = awaited
        self.hello = hello

    def take(self, _payload: bytes) -> bytes:
        """A frame has come; returns the payload that answers it, empty if there is none.

        Raises:
            ConnectionError: it refuses what the client sent.
            ValueError: it cannot be read.
        """
        self.awaited -= 1
        return b""


@dataclass(frozen=True)
class Dialect:
    """A server's sockets.

    Args:
        path: of a member's socket; ``{group}`` and ``{user}`` stand for the ids, ``{token}`` for
            what the user got at the login.
        greetings: messages that come before the first one of the group.
        hello: text frames that a client sends first.
        before: what stands before a text that is said.
        after: what stands behind it.
        has_ts: whether each message ends with a ``ts`` that increases within its group.
    """

    path: str = "/group/chat/{group}/{user}/{token}"
    greetings: int = 1
    hello: tuple[bytes, ...] = ()
    before: bytes = b""
    after: bytes = b""
    has_ts: bool = True

    @property
    def name(self) -> str:
        """What ``--wire`` calls it."""
        return "fast-im"

    @property
    def opcode(self) -> int:
        """Of the frames that clients send."""
        return TEXT

    @property
    def is_live(self) -> bool:
        """Whether a socket is in several groups, and gets an answer to what it says."""
        return False

    def target(self, visit: Visit) -> str:
        """The request target of a member's handshake."""
        group = visit.groups[0] if visit.groups else ""
        named = {"group": group, "user": visit.user, "token": visit.token or NO_TOKEN}
        return self.path.format(**{name: quote(text, safe="") for name, text in named.items()})

    def greeting(self, _visit: Visit) -> Greeting:
        """What a member says and awaits first."""
        return Greeting(self.greetings, self.hello)

    def around(self, _group: str, _size: int) -> tuple[bytes, bytes]:
        """What stands before and behind a text of ``size`` bytes that is said in a group."""
        return self.before, self.after

    def find(self, data: bytes, at: int) -> Found:
        """The message at ``at`` in what a member gets; ValueError if it cannot be."""
        return find_frame(data, at)

    def position(self, payload: bytes) -> int | None:
        """What increases from message to message of a group; None if this one has nothing."""
        found = _TS.search(payload)
        return None if found is None else int(found[1])


FASTIMD = Dialect()
GROUP_LIST = Dialect(path="/group/list/{user}/{token}")


class Texts:
    """The texts of one run: found in whatever a server wraps them in, and told from all others.

    Args:
        size: bytes of a text.
        mark: what they begin with; by default a new one.
        group: where they are said.

    Raises:
        ValueError: ``size`` is too small for what a text carries.
    """

    def __init__(self, dialect: Dialect, size: int, mark: bytes = b"", group: str = "") -> None:
        if size < MIN_TEXT_BYTES:
            raise ValueError(f"a text has at least {MIN_TEXT_BYTES} bytes, not {size}")
        self.mark = mark or b"~" + secrets.token_hex(3).encode()
        self._dialect, self._size = dialect, size
        self._frame_start, self._frame_end = self._frame_around(group)

    def in_group(self, group: str) -> Texts:
        """Those that are said in one group."""
        return Texts(self._dialect, self._size, self.mark, group)

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

    def _frame_around(self, group: str) -> tuple[bytes, bytes]:
        filler = b"." * (self._size - len(self.mark) - 30)
        before, after = self._dialect.around(group, self._size)
        head = client_frame_head(self._dialect.opcode, len(before) + self._size + len(after))
        return head + before + self.mark, filler + after


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


def find_frame(data: bytes, at: int) -> Found:
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
