"""How many columns a text takes on a terminal, and where it is broken.

Texts are harmless ones; what counts is the grapheme, for a terminal shows one in one place.
"""

from __future__ import annotations

from collections.abc import Iterator

from wcwidth import iter_graphemes, wcswidth


def columns(text: str) -> int:
    """How many columns a harmless text takes."""
    return sum(_columns_of(each) for each in iter_graphemes(text))


def _columns_of(grapheme: str) -> int:
    return max(0, wcswidth(grapheme))


def cut(text: str, room: int) -> str:
    """As much of a harmless text as fits."""
    return next(fold(text, room, room), "")


def fold(text: str, first: int, rest: int) -> Iterator[str]:
    """Rows of a harmless text, broken at spaces where there are some.

    Args:
        first: columns of the first row.
        rest: columns of all others, at least 2.
    """
    room, used, after_space = first, 0, 0
    row: list[str] = []
    for grapheme in iter_graphemes(text):
        width = _columns_of(grapheme)
        while used + width > room and (row or room < rest):
            end = after_space or len(row)
            yield "".join(row[:end])
            row, room, after_space = row[end:], rest, 0
            used = sum(map(_columns_of, row))
        row.append(grapheme)
        used += width
        if grapheme == " ":
            after_space = len(row)
    yield "".join(row)
