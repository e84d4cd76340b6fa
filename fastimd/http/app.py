"""The quart-trio app: the seed's routes and the test page.

Every answer of the seed's routes is ``{"code":…,"msg":…,"data":…}``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.resources import files
from io import BytesIO
from typing import Any, NoReturn

import msgspec
import structlog
import trio
from quart import Response, request
from quart_cors import cors
from quart_trio import QuartTrio
from quart_trio.formparser import TrioFormDataParser
from quart_trio.wrappers import TrioRequest
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge

from ..base.codec import check_id
from ..base.errors import (
    BadParameter,
    HookFailed,
    KeyUnusable,
    NotLoggedIn,
    Refused,
    StoreUnavailable,
)
from ..base.metrics import Metrics
from ..base.settings import Config
from ..groups.access import Access
from ..groups.store import Store
from ..groups.store.history import Pages
from ..hooks import Action
from ..hooks.runner import HookRunner
from ..redis.client import CALL_SECONDS
from .document import add_document, send_document

MAX_BODY_BYTES = 1024 * 1024
BODY_SECONDS = 30
MAX_TS = 2**53 - 1

_DONE = "操作成功"
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' ws: wss: http: https:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_PAGE_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}

log = structlog.get_logger("fastimd.http")

Handler = Callable[[], Awaitable[Response]]


class _FormParser(TrioFormDataParser):
    """Keeps uploaded files, which no route wants, in memory: a body is short, and a disk is not."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(stream_factory=lambda *_: BytesIO(), **settings)


class _Request(TrioRequest):
    form_data_parser_class = _FormParser


def create_app(
    config: Config, store: Store, access: Access, hooks: HookRunner, metrics: Metrics
) -> QuartTrio:
    """The app; it is served by hypercorn behind the door."""
    app = QuartTrio("fastimd.http", static_folder=None)
    app.url_map.merge_slashes = False  # another path is 404, not a redirect to what a Host says
    app.request_class = _Request
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY_BYTES  # of one field: the body is the only limit
    app.config["BODY_TIMEOUT"] = BODY_SECONDS
    cors(app, expose_headers=[])
    _add_errors(app)
    _add_routes(app, store, access, hooks)
    _add_page(app)
    add_document(app)

    @app.before_request
    async def allow_origins() -> None:
        app.config["QUART_CORS_ALLOW_ORIGIN"] = list(config.server.allowed_origins)

    @app.before_request
    async def refuse_large_bodies() -> None:
        # By its length, at once; Quart looks only where a form is read.
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise RequestEntityTooLarge

    @app.after_request
    async def count(response: Response) -> Response:
        # The rule, never the path: a path may hold a token.
        route = request.url_rule.rule if request.url_rule is not None else "none"
        metrics.count_request(route, response.status_code)
        log.info("http.request", method=request.method, route=route, status=response.status_code)
        return response

    return app


def _add_routes(app: QuartTrio, store: Store, access: Access, hooks: HookRunner) -> None:
    def allowed(action: Action) -> Callable[[Callable[[str], Awaitable[Response]]], Handler]:
        def decorate(handler: Callable[[str], Awaitable[Response]]) -> Handler:
            @wraps(handler)
            async def check() -> Response:
                user, token = _header("userId"), _header("token")
                if not user or not token:
                    raise NotLoggedIn
                # Ids are judged before anybody is asked anything.
                check_id("userId", user)
                given = await request.values
                for name in ("groupId", "userId"):
                    if name in given:
                        check_id(name, given[name])
                if access.asks_hook:  # outside, as it has a deadline of its own
                    group = "" if action == "groups" else await _group()
                    await access.check(user, token, action, group)
                with _answer_in_time():
                    if not access.asks_hook:
                        await access.check(user, token, action)
                    return await handler(user)

            return check

        return decorate

    @app.post("/user/login")
    async def login() -> Response:
        user = check_id("userId", await _text("userId"))
        try:
            user_info = await hooks.login(user, await _text("password"))
        except Refused as refused:
            return _answer(100, str(refused) or "登录失败")
        return _answer(200, await store.logins.log_in(user), user_info)

    @app.post("/user/joinGroup")
    @allowed("join")
    async def join_group(user: str) -> Response:
        match await store.members.join(await _group(), user):
            case "joined":
                return _answer(200, _DONE)
            case "full":
                return _answer(100, "加入的群组过多 (too many groups)")
            case _:
                return _answer(100, "操作失败")

    @app.post("/user/listGroup")
    @allowed("groups")
    async def list_group(user: str) -> Response:
        return _answer(200, _DONE, await store.members.groups_of(user))

    @app.post("/group/listMessage")
    @allowed("history")
    async def list_message(_user: str) -> Response:
        given = await request.values
        if "startPage" not in given and "ts" in given:
            return await _before(store)
        group = await _group()
        start, stop = await _integer("startPage"), await _integer("endPage")
        return _history(await store.history.range(group, start, stop))

    @app.post("/group/listOldMessage")
    @allowed("history")
    async def list_old_message(_user: str) -> Response:
        return await _before(store)

    @app.post("/group/delMessage")
    @allowed("recall")
    async def delete_message(user: str) -> Response:
        group, ts = await _group(), await _integer("ts", least=0)
        match await store.messages.recall(group, user, ts):
            case "done":
                return _answer(200, "撤回消息成功")
            case "old":
                return _answer(100, "无法撤回消息")
            case _:
                return _answer(100, "消息不存在")


def _add_page(app: QuartTrio) -> None:
    page = {
        file.name: file.read_bytes()
        for file in files("fastimd.page").iterdir()
        if file.name.rpartition(".")[2] in _PAGE_TYPES
    }

    async def send(name: str) -> Response:
        if name not in page:
            raise NotFound
        response = await send_document(page[name], _PAGE_TYPES[name.rpartition(".")[2]])
        response.headers["Content-Security-Policy"] = _PAGE_POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @app.get("/test/websocket")
    async def test_page() -> Response:
        return await send("websocket.html")

    @app.get("/test/static/<name>")
    async def test_page_part(name: str) -> Response:
        return await send(name)


def _add_errors(app: QuartTrio) -> None:
    @app.errorhandler(NotLoggedIn)
    async def not_logged_in(_error: NotLoggedIn) -> Response:
        return _answer(440, "请登录后访问")

    @app.errorhandler(Refused)
    async def refused(error: Refused) -> Response:
        return _answer(403, str(error) or "没有权限")

    @app.errorhandler(HookFailed)
    async def hook_failed(_error: HookFailed) -> Response:  # the log has said why
        return _answer(503, "暂时无法服务 (try again)", status=503)

    @app.errorhandler(BadParameter)
    async def bad_parameter(error: BadParameter) -> Response:
        return _answer(400, str(error), status=400)

    @app.errorhandler(StoreUnavailable)
    async def unavailable(error: StoreUnavailable) -> Response:
        log.warning("http.store_unavailable", error=str(error))
        return _answer(503, "暂时无法服务 (Redis is away, try again)", status=503)

    @app.errorhandler(KeyUnusable)
    async def unusable(error: KeyUnusable) -> Response:  # the log has said why
        return _answer(500, f"数据异常 ({error})", status=500)

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        answer = _answer(status, error.name, status=status)
        if error.get_response().headers.get("Allow"):
            answer.headers["Allow"] = error.get_response().headers["Allow"]
        return answer

    @app.errorhandler(Exception)
    async def crashed(error: Exception) -> Response:
        log.error("http.crashed", route=str(request.url_rule), exc_info=error)
        return _answer(500, "internal error", status=500)


def _answer(code: int, msg: str, data: Any = None, *, status: int = 200) -> Response:
    body = msgspec.json.encode({"code": code, "msg": msg, "data": data})
    return Response(body, status=status, mimetype="application/json")


@contextmanager
def _answer_in_time() -> Iterator[None]:
    with trio.move_on_after(CALL_SECONDS) as scope:
        yield
    if scope.cancelled_caught:
        raise StoreUnavailable(f"no answer within {CALL_SECONDS:g} s")


def _history(history: Pages) -> Response:
    if history.is_complete:
        return _answer(200, _DONE, [message.decode() for message in history.messages])
    response = Response(_stream(history), mimetype="application/json")
    response.timeout = None  # it is read as fast as the client takes it; the stream has a deadline
    return response


async def _stream(history: Pages) -> AsyncIterator[bytes]:
    """The same answer as for a short history, page by page."""
    head, tail = msgspec.json.encode({"code": 200, "msg": _DONE, "data": [0]}).split(b"0]")
    separator = head
    while True:
        if history.messages:
            texts = [msgspec.json.encode(message.decode()) for message in history.messages]
            yield separator + b",".join(texts)
            separator = b","
        if history.is_complete:
            break
        await history.read_on()
    yield (b"]" if separator == b"," else head + b"]") + tail


async def _before(store: Store) -> Response:
    group = await _group()
    user = check_id("userId", await _text("userId"))
    ts, count = await _integer("ts", least=0), await _integer("count", least=0)
    return _history(await store.history.before(group, user, ts, count))


async def _group() -> str:
    return check_id("groupId", await _text("groupId"))


async def _text(name: str) -> str:
    value: str | None = (await request.values).get(name)
    if value is None or value == "":
        _missing(name)
    return value


async def _integer(name: str, *, least: int = -MAX_TS) -> int:
    value = await _text(name)
    try:
        number = int(value) if value.isascii() and "_" not in value else None
    except ValueError:
        number = None
    if number is None or not least <= number <= MAX_TS:
        raise BadParameter(name, f"must be a whole number from {least} to {MAX_TS}")
    return number


def _missing(name: str) -> NoReturn:
    raise BadParameter(name, "is required (multipart/form-data or x-www-form-urlencoded)")


def _header(name: str) -> str:
    """A request header; ids of any script travel as UTF-8."""
    try:
        return request.headers.get(name, "").encode("latin-1").decode()
    except UnicodeError:
        raise BadParameter(name, "must be UTF-8") from None
