"""The quart-trio app: its limits, its CORS, and the count of what it answers.

The routes are Fast-IM's, the test page and the description of the routes; each has a room beside
this one.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import structlog
from quart import Response, request
from quart_cors import cors
from quart_trio import QuartTrio
from quart_trio.formparser import TrioFormDataParser
from quart_trio.wrappers import TrioRequest
from werkzeug.exceptions import RequestEntityTooLarge

from ..base.metrics import Metrics
from ..base.settings import Config
from ..groups.access import Access
from ..groups.moderation.judge import Judge
from ..groups.store import Store
from ..hooks.runner import HookRunner
from .answers import add_errors
from .document import add_document
from .groups import add_groups
from .guard import Guard
from .page import add_page
from .users import add_users

MAX_BODY_BYTES = 1024 * 1024
BODY_SECONDS = 30

log = structlog.get_logger("fastimd.http")


class _FormParser(TrioFormDataParser):
    """Keeps uploaded files, which no route wants, in memory: a body is short, and a disk is not."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(stream_factory=lambda *_: BytesIO(), **settings)


class _Request(TrioRequest):
    form_data_parser_class = _FormParser


def create_app(
    config: Config,
    store: Store,
    access: Access,
    judge: Judge,
    hooks: HookRunner,
    metrics: Metrics,
) -> QuartTrio:
    """The app; it is served by hypercorn behind the door."""
    app = QuartTrio("fastimd.http", static_folder=None)
    app.url_map.merge_slashes = False  # another path is 404, not a redirect to what a Host says
    app.request_class = _Request
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY_BYTES  # of one field: the body is the only limit
    app.config["BODY_TIMEOUT"] = BODY_SECONDS
    cors(app, expose_headers=[])
    guard = Guard(access, judge)
    add_errors(app)
    add_users(app, store, guard, judge, hooks)
    add_groups(app, store, guard)
    add_page(app)
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
