"""Escapes of JSON: clients write the same text with more or fewer of them."""

from __future__ import annotations

import re

import msgspec

_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\."
)


def unescape(text: str) -> str:
    """JSON with all signs as themselves that it may say so, as most clients write it."""
    return _ESCAPE.sub(_as_sign, text) if "\\u" in text else text


def without_halves(text: str) -> str:
    """JSON with U+FFFD for each half of a surrogate pair, as of an emoji that was cut."""
    return _ESCAPE.sub(_as_whole, text)


def _as_sign(found: re.Match[str]) -> str:
    escape = found[0]
    if escape[1] != "u":
        return escape
    sign = msgspec.json.decode(f'"{escape}"', type=str)
    return escape if sign < " " or sign in '"\\' else sign


def _as_whole(found: re.Match[str]) -> str:
    escape = found[0]
    is_half = len(escape) == 6 and escape[2] in "dD" and escape[3] in "89abcdefABCDEF"
    return "\\ufffd" if is_half else escape
