"""Appends whose reply was lost, found again by what their sender called them."""

from __future__ import annotations

from collections.abc import Iterable

from redis import exceptions

from ..base.metrics import Metrics
from .batch import Append
from .connection import Connection
from .refusal import key_unusable
from .replies import USELESS_CONNECTION, NotNow

LOOKED_UP_AT_ONCE = 1000
"""How many nonces Redis is asked for at once: others have their turn in between."""

_NO_ANSWER = (exceptions.ConnectionError, NotNow, *USELESS_CONNECTION)
"""What says nothing of a key: another time, or another server, may tell."""


async def find_by_nonces(
    connection: Connection, appends: Iterable[Append], prefix: str, metrics: Metrics
) -> None:
    """Find the ``ts`` of those that have a nonce, and were applied.

    Args:
        prefix: stands before the key of a nonce.

    Raises:
        redis.exceptions.RedisError: Redis does not answer, or cannot now.
    """
    found = [
        (append.told, append.told.nonce) for append in appends if append.told and append.told.nonce
    ]
    for start in range(0, len(found), LOOKED_UP_AT_ONCE):
        part = found[start : start + LOOKED_UP_AT_ONCE]
        replies = await connection.call_many(
            [("ZSCORE", prefix + nonce.key, nonce.text) for _, nonce in part]
        )
        for (told, nonce), reply in zip(part, replies, strict=True):
            if isinstance(reply, _NO_ANSWER):
                raise reply
            if isinstance(reply, Exception):
                key_unusable(metrics, nonce.key, reply)
            elif reply is not None:
                told.ts = int(float(reply))
