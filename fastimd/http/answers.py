"""Answers of the API: each is ``{"code":…,"msg":…,"data":…}``, also when something went wrong.

A long history goes out page by page, as it is read from Redis. Errors that a route raises become
answers here, with a status of HTTP where Fast-IM knew no ``code`` for them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import structlog
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from ..base import texts
from ..base.errors import (
    BadParameter,
    HookFailed,
    KeyUnusable,
    NotLoggedIn,
    PrivateGroup,
    Refused,
    Restrained,
    StoreUnavailable,
)
from ..groups.store.history import Pages

log = structlog.get_logger("fastimd.http")


def answer(code: int, msg: str, data: Any = None, *, status: int = 200) -> Response:
    """An answer; ``status`` is that of HTTP, ``code`` the one in the body."""
    body = msgspec.json.encode({"code": code, "msg": msg, "data": data})
    return Response(body, status=status, mimetype="application/json")


def answer_history(history: Pages) -> Response:
    """Messages as ``data``: at once where they are few, else as a stream."""
    if history.is_complete:
        return answer(200, texts.DONE, [message.decode() for message in history.messages])
    response = Response(_stream(history), mimetype="application/json")
    response.timeout = None  # it is read as fast as the client takes it; the stream has a deadline
    return response


async def _stream(history: Pages) -> AsyncIterator[bytes]:
    """The same answer as for a short history, page by page."""
    head, tail = msgspec.json.encode({"code": 200, "msg": texts.DONE, "data": [0]}).split(b"0]")
    separator = head
    while True:
        if history.messages:
            entries = [msgspec.json.encode(message.decode()) for message in history.messages]
            yield separator + b",".join(entries)
            separator = b","
        if history.is_complete:
            break
        await history.read_on()
    yield (b"]" if separator == b"," else head + b"]") + tail


def add_errors(app: QuartTrio) -> None:
    """Answer each exception that a route raises."""

    @app.errorhandler(NotLoggedIn)
    async def not_logged_in(_error: NotLoggedIn) -> Response:
        return answer(440, texts.LOGIN_REQUIRED)

    @app.errorhandler(PrivateGroup)
    async def private_group(_error: PrivateGroup) -> Response:
        return answer(403, texts.PRIVATE_GROUP)

    @app.errorhandler(Restrained)
    async def restrained(error: Restrained) -> Response:
        return answer(403, texts.restrained(error.why, str(error)))

    @app.errorhandler(Refused)
    async def refused(error: Refused) -> Response:
        return answer(403, str(error) or texts.NOT_ALLOWED)

    @app.errorhandler(HookFailed)
    async def hook_failed(_error: HookFailed) -> Response:  # the log has said why
        return answer(503, texts.HOOK_FAILED, status=503)

    @app.errorhandler(BadParameter)
    async def bad_parameter(error: BadParameter) -> Response:
        return answer(400, texts.bad_parameter(error.name, str(error)), status=400)

    @app.errorhandler(StoreUnavailable)
    async def unavailable(error: StoreUnavailable) -> Response:
        log.warning("http.store_unavailable", error=str(error))
        return answer(503, texts.STORE_AWAY, status=503)

    @app.errorhandler(KeyUnusable)
    async def unusable(error: KeyUnusable) -> Response:  # the log has said why
        return answer(500, texts.key_unusable(str(error)), status=500)

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        refusal = answer(status, texts.of_status(status, error.name), status=status)
        if error.get_response().headers.get("Allow"):
            refusal.headers["Allow"] = error.get_response().headers["Allow"]
        return refusal

    @app.errorhandler(Exception)
    async def crashed(error: Exception) -> Response:
        log.error("http.crashed", route=str(request.url_rule), exc_info=error)
        return answer(500, texts.INTERNAL_ERROR, status=500)
