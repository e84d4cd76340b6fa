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
from ..base.errors import BadParameter
from ..groups.store.messages import NONCE_BYTES, Messages
from ..hooks.tags import check_tags
from ..live.publications import info_of
from .appends import Appends
from .bodies import Broadcast, BroadcastResult, Published, PublishReply
from .bodies import Publish as PublishBody
from .errors import LIMIT_EXCEEDED, NOT_AVAILABLE, ApiError, bad_request
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


async def _append(service: Service, groups: Sequence[str], said: _Said) -> list[PublishReply]:
    messages = service.domain.store.messages
    appends = service.appends.begin(len(groups))
    try:
        for number, group in enumerate(groups):
            if number % AT_ONCE == 0 and not (
                messages.has_room or await _finds_room(messages, appends)
            ):
                break
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
    finally:
        service.appends.end(appends)


async def _finds_room(messages: Messages, appends: Appends) -> bool:
    """Wait until Redis takes more, or the call has taken too long."""
    with trio.CancelScope() as scope:
        appends.on_given_up = scope.cancel
        await messages.wait_room()
    return not scope.cancel_called
