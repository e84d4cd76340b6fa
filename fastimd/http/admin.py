"""The operator's app on the admin address: metrics, health, the desk and the console.

No web page may use the desk, whatever a browser can be made to send: a request needs a header that
a page can set only after a preflight, which is refused, and must name the address by number, so
that no name can be made to lead here (DNS rebinding).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from ipaddress import ip_address
from typing import TypeVar

import msgspec
import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import (
    BadRequest,
    Forbidden,
    HTTPException,
    UnsupportedMediaType,
)

from ..base.errors import BadParameter, KeyUnusable, StoreUnavailable
from ..base.metrics import Metrics
from ..groups.moderation.acts import OPERATOR, Moderation, NoSuchMessage
from ..groups.moderation.methods import METHODS, Method
from .console import add_console
from .desk import Desk
from .forms import COMMAND_HEADER, DESK, Kicked, LoggedOut, Outcome, Purged, Said

MAX_BODY_BYTES = 128 * 1024 * 1024
"""The longest text that ``group_message.max_bytes`` can allow, each byte of it as \\u00XX."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]*)?")

_Body = TypeVar("_Body")

log = structlog.get_logger("fastimd.http")


Expose = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Answers a scrape: from its ``Accept`` the body and its content type."""


def create_admin_app(
    metrics: Metrics, desk: Desk, moderation: Moderation, names: Sequence[str] = ()
) -> QuartTrio:
    """The app of one daemon.

    Args:
        names: hosts that a request to the desk may name, beside ``localhost`` and addresses.
    """
    registry = CollectorRegistry()
    registry.register(metrics)
    ProcessCollector(registry=registry)

    async def expose(accept: str) -> tuple[bytes, str]:
        return expose_registry(registry, accept)

    def add(app: QuartTrio) -> None:
        _add_desk(app, desk=desk)
        _add_moderation(app, moderation)

    return create_app_around(expose, desk.reasons_not_ready, add, names)


def expose_registry(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """What a scrape with this ``Accept`` gets: body and content type."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def create_app_around(
    expose: Expose,
    reasons_not_ready: Callable[[], list[str]],
    add_desk: Callable[[QuartTrio], None],
    names: Sequence[str],
) -> QuartTrio:
    """The app of whatever has metrics, may be not ready, and has a desk."""
    app = QuartTrio("fastimd.http", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES

    @app.get("/metrics")
    async def show_metrics() -> Response:
        body, content_type = await expose(request.headers.get("Accept", ""))
        return Response(body, content_type=content_type)

    @app.get("/health/live")
    async def live() -> Response:
        return as_json({"live": True}, 200)

    @app.get("/health/ready")
    async def ready() -> Response:
        reasons = reasons_not_ready()
        return as_json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    _guard_desk(app, frozenset(("localhost", *names)))
    add_desk(app)
    add_console(app)
    _add_errors(app)
    return app


def _guard_desk(app: QuartTrio, names: frozenset[str]) -> None:
    @app.before_request
    async def refuse_web_pages() -> None:
        if not request.path.startswith(DESK):
            return
        if COMMAND_HEADER not in request.headers:
            raise Forbidden(f"the header {COMMAND_HEADER} is required")
        if not is_trusted_host(request.headers.get("Host", ""), names):
            raise Forbidden("the header Host must be localhost or an IP address")


def _add_desk(app: QuartTrio, *, desk: Desk) -> None:
    @app.get(f"{DESK}status")
    async def show_status() -> Response:
        return as_json(desk.status(), 200)

    @app.get(f"{DESK}group")
    async def show_group() -> Response:
        last = request.args.get("last", type=int, default=-1)
        return as_json(await desk.group(request.args.get("group", ""), last), 200)

    @app.post(f"{DESK}say")
    async def say() -> Response:
        await desk.say(await _body(Said))
        return as_json(Outcome(1), 200)

    @app.post(f"{DESK}kick")
    async def kick() -> Response:
        return as_json(Outcome(await desk.kick(await _body(Kicked))), 200)

    @app.post(f"{DESK}purge")
    async def purge() -> Response:
        return as_json(Outcome(await desk.purge(await _body(Purged))), 200)

    @app.post(f"{DESK}log-out")
    async def log_out() -> Response:
        return as_json(Outcome(await desk.log_out(await _body(LoggedOut))), 200)


def _add_moderation(app: QuartTrio, moderation: Moderation) -> None:
    def add(name: str, method: Method) -> None:
        @app.post(f"{DESK}{name}", endpoint=name)
        async def call() -> Response:
            body = await _body(method.body)
            return as_json(await method.call(moderation, OPERATOR, body), 200)

    for name, method in METHODS.items():
        add(name, method)


def _add_errors(app: QuartTrio) -> None:
    @app.errorhandler(BadParameter)
    async def bad_parameter(error: BadParameter) -> Response:
        return as_json({"error": str(error)}, 400)

    @app.errorhandler(NoSuchMessage)
    async def no_such_message(error: NoSuchMessage) -> Response:
        return as_json({"error": str(error)}, 404)

    @app.errorhandler(StoreUnavailable)
    async def unavailable(error: StoreUnavailable) -> Response:
        return as_json({"error": str(error)}, 503)

    @app.errorhandler(KeyUnusable)
    async def unusable(error: KeyUnusable) -> Response:
        return as_json({"error": str(error)}, 500)

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        return as_json({"error": error.description or error.name}, error.code or 500)

    @app.errorhandler(Exception)
    async def crashed(error: Exception) -> Response:
        log.error("http.crashed", route=str(request.url_rule), exc_info=error)
        return as_json({"error": "internal error, see the daemon's log"}, 500)


def is_trusted_host(host: str, names: Collection[str]) -> bool:
    """Whether a request names the address by a number, or by one of these names."""
    match = _HOST.fullmatch(host.lower())
    if match is None:
        return False
    try:
        return match[1] in names or bool(ip_address(match[1].strip("[]")))
    except ValueError:
        return False


async def _body(kind: type[_Body]) -> _Body:
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("the body must be application/json")
    data = await request.get_data(as_text=False)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError) as exc:
        raise BadRequest(f"the body is not what is asked for: {exc}") from exc


def as_json(body: object, status: int) -> Response:
    """A body of JSON."""
    return Response(msgspec.json.encode(body), status=status, mimetype="application/json")
