"""Text of other people for a terminal: nothing in it is obeyed.

What is not a character to be seen is shown as an escape: controls, and the formats that turn the
direction of writing. The two joiners stay, for emoji and for the scripts that need them.
"""

from __future__ import annotations

import unicodedata

MOST_MARKS = 8
"""Combining marks on one character; more would be painted over the lines around it."""

_JOINERS = "\u200c\u200d"
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_MARKS = {"Mn", "Me"}
_TAB = "    "


def harmless(text: str, encoding: str = "utf-8") -> str:
    """``text`` on one line, with escapes for what a terminal might obey or cannot show."""
    shown = []
    marks = 0
    for each in text:
        category = unicodedata.category(each)
        marks = marks + 1 if category in _MARKS else 0
        if each == "\t":
            shown.append(_TAB)
        elif category in _HIDDEN and each not in _JOINERS:
            shown.append(each.encode("unicode_escape").decode())
        elif marks <= MOST_MARKS:
            shown.append(each)
    return "".join(shown).encode(encoding, "backslashreplace").decode(encoding)
