"""Why a hook failed, in words that are fit for a log.

What an exception says may repeat what the client sent: a password, a token, a message. Where it
does, its text is left out, and the traceback, which has no values, must do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from traceback import format_tb
from urllib.parse import quote

_TELLING = 4
"""Shorter texts are part of many others by chance."""
_LEFT_OUT = "(what it says is left out: it repeats what the client sent)"


def describe(failure: BaseException, private: Sequence[str]) -> str:
    """The exception's name and what it says.

    Args:
        private: what must not be shown.
    """
    try:
        text = str(failure)
        said = [text, *(each for each in failure.args if isinstance(each, str))]
    except Exception:  # the class is the application's
        return type(failure).__name__
    if not text:
        return type(failure).__name__
    shown = _LEFT_OUT if any(_repeats(each, private) for each in said) else text
    return f"{type(failure).__name__}: {shown}"


def trace(failure: BaseException, private: Sequence[str]) -> str:
    """The traceback of an exception and of those that led to it, the first one first."""
    return "".join(_lines(failure, private, set())).rstrip("\n")


def _lines(failure: BaseException, private: Sequence[str], seen: set[int]) -> Iterator[str]:
    if id(failure) in seen:
        return
    seen.add(id(failure))
    before = failure.__cause__ or (None if failure.__suppress_context__ else failure.__context__)
    if before is not None:
        yield from _lines(before, private, seen)
    if isinstance(failure, BaseExceptionGroup):
        for each in failure.exceptions:
            yield from _lines(each, private, seen)
    yield from format_tb(failure.__traceback__)
    yield f"{describe(failure, private)}\n"


def _repeats(said: str, private: Sequence[str]) -> bool:
    return any(
        said == spelling or _is_part(spelling, said) or _is_part(said, spelling)
        for secret in private
        for spelling in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret))
        if spelling
    )


def _is_part(part: str, whole: str) -> bool:
    return len(part) >= _TELLING and part in whole
