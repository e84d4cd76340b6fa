"""What is wrong with settings, gathered so that an operator sees all of it at once.

A value that may hold a password is never repeated.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable

NOT_SHOWN = "a value that is not shown, as it may hold a password"

_SHOWN = 60  # characters of a refused value in a report
_MAY_HOLD_PASSWORD = re.compile(r"@|password|rediss?(?:-sentinel|-cluster)?://", re.IGNORECASE)

Mistakes = defaultdict[str, list[str]]  # lines, by section; "file" if it cannot be read


class Mistaken(ValueError):
    """What is wrong with a value, in words that repeat nothing of it."""


def show(value: object) -> str:
    """A value as a report repeats it."""
    shown = repr(value)
    if _MAY_HOLD_PASSWORD.search(shown):
        return NOT_SHOWN
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."


def suggest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The name that was probably meant by a word that nobody knows, or all names."""
    names = list(known)
    nearest = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {prefix}{nearest[0]}?" if nearest else f"known are {', '.join(names)}"
