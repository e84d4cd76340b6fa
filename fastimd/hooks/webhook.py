"""The hooks over HTTP, for backends that are not Python: one signed POST a question or event.

Requests are signed as the Standard Webhooks specification 1.0 says (standardwebhooks.com). What is
asked again has the same ``webhook-id``, so that a receiver can tell it from a new question. What
comes back is bounded and judged strictly: an answer that is not understood is a failure, never a
yes.
"""

from __future__ import annotations

import hmac
import random
import secrets
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import httpx
import msgspec
import trio

from ..base.asking import first_cause, make_client, read_body
from ..base.codec import USER_INFO
from ..base.errors import HookFailed, Refused
from ..base.settings import SECRET_PREFIX, Config
from . import Action, Message

MAX_ANSWER_BYTES = 64 * 1024
FIRST_PAUSE = 0.1
"""Seconds before the first of the further attempts, at most; each later pause may be twice that."""

_AGAIN = frozenset((429, *range(500, 600)))

_Answer = TypeVar("_Answer", bound="_Verdict")


class _Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a receiver may answer; ``null`` is like a field that is not there."""

    allow: bool
    reason: str | None = None


class _LoginVerdict(_Verdict, frozen=True, forbid_unknown_fields=True):
    data: Any = None


class _MessageVerdict(_Verdict, frozen=True, forbid_unknown_fields=True):
    info: str | None = None
    tags: dict[str, str] | None = None


class Webhook:
    """A backend that is asked over HTTP; it has the methods of ``Handler`` that are questions.

    Error handling: ``Refused`` when it refuses with a reason; ``HookFailed`` when no good answer
    came from any of the attempts. How long it may take is the caller's to bound.

    Args:
        key: what requests are signed with.
        retries: how many further attempts there may be.
        connections: how many attempts may be under way; the others wait. They wait here, for the
            client's own queue loses a connection for good when who waits in it is cancelled.
    """

    def __init__(
        self, client: httpx.AsyncClient, url: str, key: bytes, retries: int, connections: int
    ) -> None:
        self._client = client
        self._places = trio.CapacityLimiter(connections)
        self._url = url
        self._key = key
        self._retries = retries

    async def login(self, user_id: str, password: str) -> Any:
        verdict = await self._ask("login", _LoginVerdict, userId=user_id, password=password)
        if _is_allowed(verdict):
            return USER_INFO if verdict.data is None else verdict.data
        return None

    async def authorize(self, user_id: str, token: str, action: Action, group_id: str) -> bool:
        return _is_allowed(
            await self._ask(
                "authorize",
                _Verdict,
                userId=user_id,
                token=token,
                action=action,
                groupId=group_id,
            )
        )

    async def on_message(self, message: Message) -> Message | None:
        verdict = await self._ask(
            "on_message",
            _MessageVerdict,
            groupId=message.group_id,
            userId=message.user_id,
            info=message.info,
        )
        if not _is_allowed(verdict):
            return None
        return replace(
            message,
            info=message.info if verdict.info is None else verdict.info,
            tags=message.tags if verdict.tags is None else verdict.tags,
        )

    async def send(self, message_id: str, body: bytes) -> None:
        """Send an event, once; any answer with a 2xx status takes it.

        Raises:
            HookFailed: it was not taken.
        """
        try:
            await self._attempt(message_id, body)
        except _NotNowError as exc:
            raise HookFailed(str(exc)) from None

    async def _ask(self, event: str, kind: type[_Answer], **fields: str) -> _Answer:
        body = await self._post(event, **fields)
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise HookFailed(f"its answer is not understood: {_what_is_wrong(exc)}") from None

    async def _post(self, event: str, **fields: str) -> bytes:
        """Ask until there is an answer, under one id; returns the answer's body."""
        body = msgspec.json.encode({"type": event, **fields})
        message_id = f"msg_{secrets.token_hex(16)}"
        for attempt in range(self._retries + 1):
            try:
                return await self._attempt(message_id, body)
            except _NotNowError as exc:
                pause = FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1)  # noqa: S311 - no secret
                in_time = trio.current_time() + pause < trio.current_effective_deadline()
                if attempt == self._retries or not in_time:
                    raise HookFailed(f"{exc} (attempts: {attempt + 1})") from None
            await trio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, message_id: str, body: bytes) -> bytes:
        headers = {
            "content-type": "application/json",
            **signed_headers(self._key, message_id, int(time.time()), body),
        }
        try:
            request = self._client.stream("POST", self._url, content=body, headers=headers)
            async with self._places, request as response:
                content = await read_body(response, MAX_ANSWER_BYTES)
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise _NotNowError(f"cannot connect: {first_cause(exc)}") from None
        except httpx.TransportError as exc:
            # Its text may repeat what came back, and that what was asked.
            raise _NotNowError(f"the connection broke: {type(exc).__name__}") from None
        if response.status_code in _AGAIN:
            raise _NotNowError(f"it answered {response.status_code}")
        if not response.is_success:
            raise HookFailed(f"it answered {response.status_code}")
        if content is None:
            raise HookFailed(f"its answer is longer than {MAX_ANSWER_BYTES} bytes")
        return content


class _NotNowError(Exception):
    """Another attempt may do."""


def _is_allowed(verdict: _Verdict) -> bool:
    if not verdict.allow and verdict.reason:
        raise Refused(verdict.reason)
    return verdict.allow


def _what_is_wrong(failure: Exception) -> str:
    """What msgspec finds wrong, without the names and values that the receiver chose."""
    text = str(failure)
    return "a field that has no meaning here" if "unknown field" in text else text


def signed_headers(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks; ``timestamp`` is seconds since the epoch."""
    content = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    signature = b64encode(hmac.digest(key, content, "sha256")).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }


@asynccontextmanager
async def open_webhook(config: Config) -> AsyncIterator[Webhook]:
    """The backend at ``hooks.webhook_url``, and the connections to it, until the block ends."""
    settings = config.hooks
    connections = settings.webhook_connections
    trust = ssl.create_default_context()  # by the authorities that the machine trusts
    async with make_client(trust, connections) as client:
        key = b64decode(settings.webhook_secret.removeprefix(SECRET_PREFIX))
        yield Webhook(client, settings.webhook_url, key, settings.webhook_retries, connections)
