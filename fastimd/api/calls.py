"""A call, from the name of a method and a body to an answer: rights, bounds, errors, counts."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import structlog
import trio

from ..base.errors import BadParameter, KeyUnusable, Refused, StoreUnavailable
from ..base.metrics import Metrics
from ..groups.moderation.acts import NoSuchMessage
from . import CALL_SECONDS
from .bodies import Batch
from .errors import (
    INTERNAL,
    METHOD_NOT_FOUND,
    NOT_AVAILABLE,
    NOT_FOUND,
    PERMISSION_DENIED,
    ApiError,
    Error,
    bad_request,
)
from .keys import Caller
from .methods import BOUNDED, METHODS, NOT_SERVED, Method
from .service import Service

PARALLEL = 64
"""Commands of a batch that are done side by side."""

log = structlog.get_logger("fastimd.api")

_encode = msgspec.json.encode


class Answer(NamedTuple):
    """What is answered: a result, as JSON, or an error. ``is_malformed`` when there was no call."""

    result: bytes
    error: Error | None = None
    is_malformed: bool = False

    @property
    def body(self) -> bytes:
        """The JSON of the answer."""
        if self.error is not None:
            return b'{"error":%b}' % _encode(self.error)
        return b'{"result":%b}' % self.result


class Calls:
    """Does what is called, within its time."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics
        self._log = log.bind()

    async def call(self, caller: Caller, name: str, body: bytes) -> Answer:
        """Do a call, or say why not; writes a line to the log."""
        log = self._log  # bound once: each call has a line
        began = trio.current_time()
        if name in BOUNDED:
            answer = await self._answer(caller, name, body)
        else:
            answer = _NOT_IN_TIME
            with trio.move_on_after(CALL_SECONDS):
                if name == "batch":
                    answer = await self._batch(caller, body)
                else:
                    answer = await self._answer(caller, name, body)
        seconds = trio.current_time() - began
        code = answer.error.code if answer.error else 0
        known = name if name in METHODS or name == "batch" else "unknown"
        self._metrics.count_api_call(known, caller.name, code, seconds)
        log.info(
            "api.call",
            method=known,
            key=caller.name,
            code=code,
            error=answer.error.message if answer.error else None,
            seconds=round(seconds, 4),
        )
        return answer

    async def _batch(self, caller: Caller, body: bytes) -> Answer:
        try:
            batch = _DECODERS[Batch].decode(body)
        except (ValueError, RecursionError) as exc:
            return _malformed(exc)
        replies: list[bytes] = [b""] * len(batch.commands)

        async def do(number: int, command: dict[str, msgspec.Raw]) -> None:
            replies[number] = await self._command(caller, command)

        if batch.parallel:
            places = trio.CapacityLimiter(PARALLEL)

            async def do_in_turn(number: int, command: dict[str, msgspec.Raw]) -> None:
                async with places:
                    await do(number, command)

            async with trio.open_nursery() as nursery:
                for number, command in enumerate(batch.commands):
                    nursery.start_soon(do_in_turn, number, command)
        else:
            for number, command in enumerate(batch.commands):
                await do(number, command)
        return Answer(b"[%b]" % b",".join(replies))

    async def _command(self, caller: Caller, command: dict[str, msgspec.Raw]) -> bytes:
        if len(command) != 1:
            return Answer(b"", bad_request("a command has one field, its method").error).body
        [(name, body)] = command.items()
        answer = await self._answer(caller, name, bytes(body))
        if answer.error is not None:
            return answer.body
        return b"{%b:%b}" % (_encode(name), answer.result)

    async def _answer(self, caller: Caller, name: str, body: bytes) -> Answer:
        method = METHODS.get(name)
        if method is None:
            if name in NOT_SERVED:
                return Answer(b"", Error(NOT_AVAILABLE, f"not available: {name}"))
            return Answer(b"", Error(METHOD_NOT_FOUND, "method not found"))
        try:
            given = _DECODERS[method.body].decode(body or b"{}")
        except (ValueError, RecursionError) as exc:
            return _malformed(exc)
        try:
            _check_rights(caller, name, method, given)
            asked = caller if method.is_open else self._service
            return Answer(_encode(await method.act(asked, given)))
        except Exception as exc:
            error = _error_of(exc)
            if error is None:
                log.error("api.crashed", method=name, exc_info=exc)
                error = Error(INTERNAL, "internal server error: see the daemon's log")
            return Answer(b"", error)


def _check_rights(caller: Caller, name: str, method: Method, body: Any) -> None:
    if method.is_open:
        return
    if not caller.may_call(name):
        raise ApiError(PERMISSION_DENIED, f"permission denied: the key may not call {name}")
    if method.spans:
        if not caller.has_all_groups:
            raise ApiError(
                PERMISSION_DENIED, f"permission denied: {name} needs a key for all groups"
            )
        return
    for group in getattr(body, "channels", None) or [body.channel]:
        if not caller.may_touch(group):
            raise ApiError(PERMISSION_DENIED, "permission denied: the key is not for this group")


def _error_of(failure: Exception) -> Error | None:
    """What is answered to a failure; None for one that nobody has foreseen."""
    match failure:
        case ApiError():
            return failure.error
        case BadParameter():
            return bad_request(str(failure)).error
        case NoSuchMessage():
            return Error(NOT_FOUND, str(failure))
        case Refused():
            return Error(PERMISSION_DENIED, f"permission denied: {failure}")
        case StoreUnavailable() | KeyUnusable():
            return Error(INTERNAL, str(failure))
    return None


def _malformed(failure: Exception) -> Answer:
    is_json = isinstance(failure, msgspec.ValidationError)
    return Answer(b"", bad_request(str(failure)).error, is_malformed=not is_json)


_DECODERS = {
    kind: msgspec.json.Decoder(kind)
    for kind in (Batch, *(method.body for method in METHODS.values()))
}


_NOT_IN_TIME = Answer(
    b"", Error(INTERNAL, f"not done within {CALL_SECONDS:g} s: it may be done, or not")
)
