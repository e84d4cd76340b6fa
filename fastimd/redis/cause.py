"""What is wrong with a connection to Redis, in words for the log.

What breaks a connection comes wrapped: Trio's exceptions often say nothing, and the one that does
is their cause, perhaps inside a group. ``cause_of`` finds it.
"""

from __future__ import annotations

import os
import socket
import ssl

import trio
from redis import exceptions

_NOT_TLS = frozenset(
    ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")
)
"""Reasons of OpenSSL when the other side speaks something else."""
_BYTES_OF_TLS = ("\\x15", "\\x16")
"""How hiredis shows the first byte of an alert or a handshake of TLS."""

# Verification codes of OpenSSL, x509_vfy.h.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = frozenset((62, 64))

NO_TLS = "the port may be one without TLS, which needs redis:// in redis.url"
TLS_WANTED = "the port may be one with TLS, which needs rediss:// in redis.url"
CERTIFICATE_WANTED = (
    "the server may want a certificate: ?ssl_certfile=/path&ssl_keyfile=/path in redis.url"
)


class Unreachable(OSError):
    """A connection cannot be opened; the text says why, and what to do if that can be known."""


def cause_of(failure: BaseException) -> str:
    """What is wrong, from the exception that knows most: never empty, one line, no password."""
    return _told(failure) or type(failure).__name__


def _told(failure: BaseException) -> str:
    if isinstance(failure, BaseExceptionGroup):
        told = dict.fromkeys(_told(each) for each in failure.exceptions)
        return ", ".join(filter(None, told))
    if isinstance(failure, trio.Cancelled | trio.TooSlowError):
        return ""  # who set the deadline says what was late
    return _known(failure) or _told_before(failure) or str(failure)


def _told_before(failure: BaseException) -> str:
    """What the exception says that led to this one."""
    before = failure.__cause__ or (None if failure.__suppress_context__ else failure.__context__)
    return "" if before is None else _told(before)


def _known(failure: BaseException) -> str:
    """What an exception says in which the cause itself stands; "" when it is no such."""
    match failure:
        case Unreachable():
            return str(failure)
        case exceptions.InvalidResponse():
            return _no_resp(str(failure))
        case exceptions.RedisError():
            return str(failure)
        case ssl.SSLCertVerificationError():
            return _not_trusted(failure)
        case ssl.SSLError():
            return _no_tls(failure)
        case socket.gaierror():
            return _lowered(failure.strerror or "")
        case OSError(errno=int(number)):
            return _lowered(os.strerror(number))
    return ""


def _not_trusted(failure: ssl.SSLCertVerificationError) -> str:
    why = failure.verify_message.rstrip(".")
    if failure.verify_code in (_NOT_YET_VALID, _EXPIRED):
        remedy = "the server needs a new one, or its clock or this machine's is wrong"
    elif failure.verify_code in _OTHER_NAME:
        remedy = "redis.url must name the host as the certificate does"
    else:
        remedy = "?ssl_ca_certs=/path in redis.url names the certificate of the CA"
    return f"certificate verify failed: {why}; {remedy}"


def _no_tls(failure: ssl.SSLError) -> str:
    reason = getattr(failure, "reason", None) or ""  # only OpenSSL's own have one
    words = reason.replace("_", " ").lower() or str(failure)
    if reason in _NOT_TLS:
        return f"TLS: {words}; {NO_TLS}"
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return f"TLS: {words}; {CERTIFICATE_WANTED}"
    return f"TLS: {words}"


def _no_resp(said: str) -> str:
    if any(f'"{first}"' in said for first in _BYTES_OF_TLS):
        return f"not RESP but TLS; {TLS_WANTED}"
    return f"not RESP: {said}"


def _lowered(words: str) -> str:
    return words[:1].lower() + words[1:]
