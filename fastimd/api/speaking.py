"""Publish and broadcast: what a backend says."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from typing import NamedTuple

import msgspec
import trio

from ..base.codec import check_id
from ..base.errors import BadParameter, FateUnknown
from ..groups.store.messages import NONCE_BYTES
from ..hooks.tags import check_tags
from ..live.publications import info_of
from .bodies import Broadcast, BroadcastResult, Published, PublishReply
from .bodies import Publish as PublishBody
from .errors import INTERNAL, LIMIT_EXCEEDED, NOT_AVAILABLE, ApiError, Error, bad_request
from .service import Service

WITHIN_SECONDS = 8.0
"""How long Redis may take for a message: less than a call."""
AT_ONCE = 512
"""Messages of one broadcast that are handed on before others have their turn."""
PRIORITY = "priority"


class _Said(NamedTuple):
    """What is stored; ``nonce`` is what a repeated call is known by."""

    info: str
    user: str
    tags: dict[str, str]
    nonce: str


async def publish(service: Service, body: PublishBody) -> Published:
    """Say something in a group; answered when Redis has it."""
    [reply] = await _append(service, [body.channel], _judge(service, body))
    if reply.result is None:
        assert reply.error is not None
        raise ApiError(reply.error.code, reply.error.message)
    return reply.result


async def broadcast(service: Service, body: Broadcast) -> BroadcastResult:
    """Say the same in many groups; answered when it is known what became of each."""
    return BroadcastResult(await _append(service, body.channels, _judge(service, body)))


def _judge(service: Service, body: PublishBody | Broadcast) -> _Said:
    if body.skip_history:
        raise ApiError(NOT_AVAILABLE, "not available: skip_history, every message is stored")
    if body.version:
        raise ApiError(NOT_AVAILABLE, "not available: version")
    try:
        info = info_of(_data_of(body))
        tags = check_tags(body.tags)
        size = len(info.encode())
    except ValueError as exc:
        raise bad_request(str(exc)) from None
    most = service.domain.config.group_message.max_bytes
    if size > most:
        raise ApiError(LIMIT_EXCEEDED, f"limit exceeded: data has {size} bytes, more than {most}")
    if body.user:  # what the server says itself passes anyway
        tags.setdefault(PRIORITY, "high")
    nonce = body.idempotency_key
    if len(nonce.encode(errors="surrogatepass")) > NONCE_BYTES:
        nonce = sha256(nonce.encode(errors="surrogatepass")).hexdigest()
    return _Said(info, body.user, tags, nonce)


def _data_of(body: PublishBody | Broadcast) -> msgspec.Raw:
    if not body.b64data:
        if not bytes(body.data):
            raise ValueError("data: missing")
        return body.data
    try:
        return msgspec.Raw(b64decode(body.b64data, validate=True))
    except binascii.Error as exc:
        raise ValueError(f"b64data: {exc}") from None


class _Appends:
    """Messages of one call that are on their way, and what became of each."""

    def __init__(self, count: int) -> None:
        self.replies: list[PublishReply] = [_NO_REPLY] * count
        self._left = count
        self._all_told = trio.Event()

    def note(self, number: int, failure: Exception | None, ts: int | None) -> None:
        if failure is None:
            self.replies[number] = PublishReply(result=Published(ts or 0))
        else:
            self.replies[number] = PublishReply(error=_error_of(failure))
        self._left -= 1
        if not self._left:
            self._all_told.set()

    async def wait(self) -> list[PublishReply]:
        await self._all_told.wait()
        return self.replies


async def _append(service: Service, groups: Sequence[str], said: _Said) -> list[PublishReply]:
    messages = service.domain.store.messages
    appends = _Appends(len(groups))
    for number, group in enumerate(groups):
        if number % AT_ONCE == 0:
            await messages.wait_room()
        try:
            check_id("channel", group)
        except BadParameter as exc:
            appends.note(number, exc, None)
            continue
        messages.append_told(
            group,
            said.user,
            said.info,
            partial(appends.note, number),
            nonce=said.nonce,
            of_server=True,
            tags=said.tags,
            within=WITHIN_SECONDS,
        )
    return await appends.wait()


def _error_of(failure: Exception) -> Error:
    if isinstance(failure, BadParameter):
        return bad_request(str(failure)).error
    if isinstance(failure, FateUnknown):
        hint = "it may be stored: repeat the call with the same idempotency_key"
        return Error(INTERNAL, f"{failure}; {hint}")
    return Error(INTERNAL, f"not stored: {failure}")


_NO_REPLY = PublishReply()
