"""The Lua scripts, each in a file of its own that says its keys, arguments and reply."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script as Redis knows it. ``sha`` is the hex digest that EVALSHA takes."""

    name: str
    source: bytes
    sha: bytes


def _read(name: str) -> Script:
    folder = files(__name__)
    source = (folder / "entry.lua").read_bytes() + (folder / f"{name}.lua").read_bytes()
    # Redis names scripts by their SHA-1; it protects nothing.
    return Script(name, source, sha1(source, usedforsecurity=False).hexdigest().encode())


APPEND = _read("append")
SETTLE = _read("settle")
TAIL = _read("tail")
PEEK = _read("peek")
RANGE = _read("range")
NEXT = _read("next")
BEFORE = _read("before")
AFTER = _read("after")
SEEK = _read("seek")
RECALL = _read("recall")
JOIN = _read("join")
PURGE = _read("purge")
KICK = _read("kick")

ALL = (APPEND, SETTLE, TAIL, PEEK, RANGE, NEXT, BEFORE, AFTER, SEEK, RECALL, JOIN, PURGE, KICK)
