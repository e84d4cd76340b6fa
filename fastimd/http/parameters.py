"""What a request gives: parameters of the form or the query string, and header fields.

Each is judged as it is read. What is missing or malformed is a ``BadParameter`` that names it.
"""

from __future__ import annotations

from typing import NoReturn

from quart import request

from ..base.codec import check_id
from ..base.errors import BadParameter

MAX_TS = 2**53 - 1
"""The largest whole number that every JSON parser reads exactly."""


async def read_group() -> str:
    """The parameter ``groupId``."""
    return check_id("groupId", await read_text("groupId"))


async def read_text(name: str) -> str:
    """A parameter that is there and not empty."""
    value: str | None = (await request.values).get(name)
    if value is None or value == "":
        _missing(name)
    return value


async def read_integer(name: str, *, least: int = -MAX_TS) -> int:
    """A parameter that is a whole number from ``least`` to ``MAX_TS``."""
    value = await read_text(name)
    try:
        number = int(value) if value.isascii() and "_" not in value else None
    except ValueError:
        number = None
    if number is None or not least <= number <= MAX_TS:
        raise BadParameter(name, f"must be a whole number from {least} to {MAX_TS}")
    return number


def _missing(name: str) -> NoReturn:
    raise BadParameter(name, "is required, as multipart/form-data or x-www-form-urlencoded")


def read_header(name: str) -> str:
    """A request header; ids of any script travel as UTF-8."""
    try:
        return request.headers.get(name, "").encode("latin-1").decode()
    except UnicodeError:
        raise BadParameter(name, "must be UTF-8") from None
