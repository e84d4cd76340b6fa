"""What Redis has really done, in its order: read from its append-only file.

The file has every write, also of messages that are gone since, and outlives a kill. So it tells
what was said in a group, what became of it, and what was stored twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Fate = Literal["there", "recalled", "purged", "trimmed", "lost"]


@dataclass(eq=False)
class Said:
    """A message, and what became of it: it was ``lost`` if nobody asked for that."""

    ts: int
    user: str
    text: str
    entry: bytes
    fate: Fate = "there"


@dataclass
class Past:
    """What was done in a group: what was said, and the deletions that are told.

    ``recalled`` has their ts, ``purged`` up to which ts each purge reached. ``flushes`` is how
    often all of it was lost with everything else.
    """

    said: list[Said] = field(default_factory=list)
    recalled: set[int] = field(default_factory=set)
    purged: list[int] = field(default_factory=list)
    flushes: int = 0

    @property
    def listed(self) -> list[Said]:
        """What must be in the list now."""
        return [said for said in self.said if said.fate == "there"]

    def end(self, ended: list[Said], fate: Fate) -> None:
        """Note what became of messages."""
        for said in ended:
            said.fate = fate


class Ledger:
    """All groups' pasts."""

    def __init__(self, folder: Path) -> None:
        self.pasts: dict[str, Past] = {}
        for file in sorted(folder.glob("**/*.aof"), key=lambda file: (file.stat().st_mtime, file)):
            for name, *arguments in _commands(file.read_bytes()):
                self._take(name.upper().decode(), arguments)

    def of(self, group: str) -> Past:
        """The past of a group."""
        return self.pasts.setdefault(group, Past())

    def count(self, group: str, text: str) -> int:
        """How often a text was stored."""
        return sum(said.text == text for said in self.of(group).said)

    def _take(self, name: str, arguments: list[bytes]) -> None:
        if name in ("FLUSHALL", "FLUSHDB"):
            for past in self.pasts.values():
                past.flushes += 1
                past.end(past.listed, "lost")
            return
        if not arguments:  # MULTI and EXEC
            return
        kind, _, group = arguments[0].decode().rpartition(":")
        if kind == "gml":
            self._take_list(self.of(group), name, arguments)
        elif kind == "fastimd:removals" and name == "ZADD":
            event = json.loads(arguments[2])
            past = self.of(group)
            if "until" in event:
                past.purged.append(event["until"])
            else:
                past.recalled.add(event["ts"])

    def _take_list(self, past: Past, name: str, arguments: list[bytes]) -> None:
        listed = past.listed
        if name == "RPUSH":
            for entry in arguments[1:]:
                read = json.loads(entry)
                past.said.append(Said(read["ts"], read["userId"], read["info"], entry))
        elif name == "LTRIM":
            past.end(listed[: int(arguments[1])], "trimmed")
        elif name == "LREM":
            past.end([said for said in listed if said.entry == arguments[2]], "recalled")
        elif name == "UNLINK":  # as purges do
            past.end(listed, "purged")
        elif name == "DEL":
            past.end(listed, "lost")
        else:
            assert name in ("EXPIRE", "PEXPIRE", "PEXPIREAT"), name


def _commands(file: bytes) -> Iterator[list[bytes]]:
    at = 0

    def number(mark: bytes) -> int:
        nonlocal at
        end = file.index(b"\r\n", at)
        assert file[at : at + 1] == mark, file[at : at + 40]
        value, at = int(file[at + 1 : end]), end + 2
        return value

    while at < len(file):
        words = []
        for _ in range(number(b"*")):
            size = number(b"$")
            words.append(file[at : at + size])
            at += size + 2
        yield words
