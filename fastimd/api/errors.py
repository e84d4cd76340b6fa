"""The errors that answer a call.

Their codes are those of Centrifugo's server API, and where it has none, of its client protocol.
"""

from __future__ import annotations

from http import HTTPStatus

import msgspec

INTERNAL = 100
PERMISSION_DENIED = 103
METHOD_NOT_FOUND = 104
LIMIT_EXCEEDED = 106
BAD_REQUEST = 107
NOT_AVAILABLE = 108
UNRECOVERABLE_POSITION = 112
NOT_FOUND = 404
"""Ours, in the range that the protocol leaves to applications."""

_STATUS = {
    INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    METHOD_NOT_FOUND: HTTPStatus.NOT_FOUND,
    LIMIT_EXCEEDED: HTTPStatus.BAD_REQUEST,
    BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    NOT_AVAILABLE: HTTPStatus.BAD_REQUEST,
    UNRECOVERABLE_POSITION: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    NOT_FOUND: HTTPStatus.NOT_FOUND,
}


class Error(msgspec.Struct):
    """Why a call was not done."""

    code: int
    message: str


class ApiError(Exception):
    """A call gets an error for its answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.error = Error(code, message)


def bad_request(what: str) -> ApiError:
    """A body that cannot be meant, and what is wrong with it."""
    return ApiError(BAD_REQUEST, f"bad request: {what}")


def status_of(code: int) -> HTTPStatus:
    """The status of HTTP for clients that want errors to have one."""
    return _STATUS[code]
