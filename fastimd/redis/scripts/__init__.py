"""The Lua scripts, each in a file of its own that says its keys, arguments and reply."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script as Redis knows it. ``sha`` is the hex digest that EVALSHA takes."""

    name: str
    source: bytes
    sha: bytes

    @property
    def sharded(self) -> Script:
        """The same for a cluster, where groups' channels are sharded."""
        return _sharded(self)


_CLOCK, _ENTRY, _FLOOR, _SEARCH, _PAGE = "clock", "entry", "floor", "search", "page"
_LIFE, _REMOVAL, _INDEX, _TELLING = "life", "removal", "index", "telling"
_ALL_OF_A_LIST = (_CLOCK, _ENTRY, _FLOOR, _SEARCH)


_PLAIN, _SHARDED = b"local PUBLISH = 'PUBLISH'\n", b"local PUBLISH = 'SPUBLISH'\n"
"""How a group's channel is told."""


def _read(name: str, *parts: str, tells_group: bool = False) -> Script:
    """A script behind the parts that it uses: Redis makes their functions anew at each call."""
    folder = files(__name__)
    source = b"".join((folder / f"{each}.lua").read_bytes() for each in (*parts, name))
    return _named(name, _PLAIN + source if tells_group else source)


def _named(name: str, source: bytes) -> Script:
    # Redis names scripts by their SHA-1; it protects nothing.
    return Script(name, source, sha1(source, usedforsecurity=False).hexdigest().encode())


@cache
def _sharded(script: Script) -> Script:
    return _named(script.name, script.source.replace(_PLAIN, _SHARDED))


APPEND = _read("append", _CLOCK, _ENTRY, _FLOOR, _LIFE, tells_group=True)
SETTLE = _read("settle", _CLOCK)
TAIL = _read("tail", _CLOCK, _ENTRY, _FLOOR)
PEEK = _read("peek", _CLOCK, _ENTRY, _FLOOR)
RANGE = _read("range", _PAGE)
NEXT = _read("next", *_ALL_OF_A_LIST)
BEFORE = _read("before", *_ALL_OF_A_LIST, _PAGE)
AFTER = _read("after", *_ALL_OF_A_LIST, _LIFE, _REMOVAL)
STAND = _read("stand", *_ALL_OF_A_LIST, _LIFE, _REMOVAL)
HISTORY = _read("history", *_ALL_OF_A_LIST, _LIFE)
SEEK = _read("seek", *_ALL_OF_A_LIST)
RECALL = _read("recall", *_ALL_OF_A_LIST, _LIFE, _REMOVAL, tells_group=True)
DELETE = _read("delete", *_ALL_OF_A_LIST, _LIFE, _REMOVAL, tells_group=True)
DELETE_OF = _read("delete_of", *_ALL_OF_A_LIST, _LIFE, _REMOVAL, tells_group=True)
REPORT = _read("report", *_ALL_OF_A_LIST)
POLICY = _read("policy")
MODERATE = _read("moderate", _CLOCK, tells_group=True)
SLOW = _read("slow", _CLOCK)
JOIN = _read("join")
LEAVE = _read("leave")
MARK = _read("mark")
MARKS = _read("marks", _CLOCK)
UNREAD = _read("unread", _CLOCK, _ENTRY, _SEARCH)
PURGE = _read("purge", _CLOCK, _ENTRY, _FLOOR, _LIFE, _REMOVAL, tells_group=True)
KICK = _read("kick", _CLOCK)
PRESENT = _read("present", _CLOCK, _INDEX)
RENEW = _read("renew", _CLOCK)
TELL = _read("tell", _CLOCK, _INDEX)
LEDGER = _read("ledger", _CLOCK)
DAEMONS = _read("daemons", _CLOCK)
NOTE = _read("note", _CLOCK, _ENTRY, _FLOOR, _TELLING)
PUSH = _read("push", _CLOCK, _ENTRY, _FLOOR)
TAKE = _read("take", *_ALL_OF_A_LIST, _TELLING)
GIVE = _read("give")
REGISTER = _read("register", _CLOCK)
UNREGISTER = _read("unregister")
SWEEP = _read("sweep", _CLOCK)

ALL = (
    *(APPEND, SETTLE),
    *(TAIL, PEEK, RANGE, NEXT, BEFORE, AFTER, SEEK, STAND, HISTORY),
    *(RECALL, PURGE, DELETE, DELETE_OF),
    *(REPORT, POLICY, MODERATE, SLOW),
    *(JOIN, LEAVE, KICK),
    *(MARK, MARKS, UNREAD),
    *(PRESENT, RENEW, TELL),
    *(LEDGER, DAEMONS),
    *(NOTE, PUSH, TAKE, GIVE),
    *(REGISTER, UNREGISTER, SWEEP),
)
