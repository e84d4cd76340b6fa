"""What a terminal sends, as keys: bytes in, strokes out, no I/O.

A paste comes in brackets (``ESC [ 200 ~``), so that its line ends are not taken for Enter.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

_PASTE_BEGINS = "\x1b[200~"
_PASTE_ENDS = "\x1b[201~"
_SEQUENCE = re.compile(r"\x1b(?:\[\[.|\[[0-?]*[ -/]*[@-~]|O.|[^\[O])", re.S)
_PLAIN = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")
_UNWANTED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_CONTROLS = {
    "\x01": "home",
    "\x02": "left",
    "\x04": "ctrl-d",
    "\x05": "end",
    "\x06": "right",
    "\x08": "backspace",
    "\x09": "tab",
    "\x0a": "enter",
    "\x0b": "ctrl-k",
    "\x0c": "ctrl-l",
    "\x0d": "enter",
    "\x0e": "down",
    "\x10": "up",
    "\x15": "ctrl-u",
    "\x17": "ctrl-w",
    "\x7f": "backspace",
}
_SEQUENCES = {
    **{f"\x1b{lead}{end}": name for lead in "[O" for end, name in {
        "A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end",
    }.items()},
    **{f"\x1b[{number}~": name for number, name in {
        1: "home", 3: "delete", 4: "end", 7: "home", 8: "end",
    }.items()},
    "\x1b[1;5C": "word right",
    "\x1b[1;5D": "word left",
    "\x1bf": "word right",
    "\x1bb": "word left",
    "\x1b\x7f": "ctrl-w",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Typed:
    """Printable text; a pasted one may have line ends and tabs."""

    text: str


@dataclass(frozen=True, slots=True)
class Key:
    """A key that is no text, by its name here."""

    name: str


Stroke: TypeAlias = Typed | Key


class KeyReader:
    """Makes strokes of bytes, however they are cut.

    Args:
        encoding: the terminal's.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        # Where Python knows of ASCII alone, a terminal that sends more sends UTF-8.
        is_ascii = codecs.lookup(encoding).name == "ascii"
        decoder = codecs.getincrementaldecoder("utf-8" if is_ascii else encoding)
        self._decode = decoder("replace").decode
        self._rest = ""

    @property
    def is_amid(self) -> bool:
        """A sequence has begun; it may also have been the key Escape."""
        return bool(self._rest) and not self._rest.startswith(_PASTE_BEGINS)

    def feed(self, data: bytes) -> list[Stroke]:
        """Take bytes; returns the strokes that are whole."""
        self._rest += self._decode(data)
        return list(self._take())

    def drop(self) -> None:
        """It was the key Escape, which means nothing here, or nothing known."""
        self._rest = ""

    def _take(self) -> Iterator[Stroke]:
        while self._rest:
            if self._rest.startswith(_PASTE_BEGINS):
                pasted, end, rest = self._rest[len(_PASTE_BEGINS) :].partition(_PASTE_ENDS)
                if not end:
                    return
                self._rest = rest
                yield Typed(_clean(pasted))
            elif self._rest[0] == "\x1b":
                sequence = _SEQUENCE.match(self._rest)
                if sequence is None:
                    return
                self._rest = self._rest[sequence.end() :]
                if sequence[0] in _SEQUENCES:
                    yield Key(_SEQUENCES[sequence[0]])
            elif plain := _PLAIN.match(self._rest):
                self._rest = self._rest[plain.end() :]
                yield Typed(plain[0])
            else:
                control, self._rest = self._rest[0], self._rest[1:]
                if control in _CONTROLS:
                    yield Key(_CONTROLS[control])


def _clean(pasted: str) -> str:
    lines = pasted.replace("\r\n", "\n").replace("\r", "\n")
    return _UNWANTED.sub("", lines)
