"""Documents that stay the same while the daemon runs, such as the routes as OpenAPI 3.1.

Each has an ``ETag``; who has it already gets a 304.
"""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files

from quart import Response, request
from quart_trio import QuartTrio


def add_document(app: QuartTrio) -> None:
    """Serve ``openapi.json``, which lies beside this file, as it is."""
    document = (files("fastimd.http") / "openapi.json").read_bytes()

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return await send_document(document, "application/json")


async def send_document(body: bytes, media_type: str) -> Response:
    """The answer to this request: a document, or that it has not changed."""
    response = Response(body, mimetype=media_type)
    response.set_etag(sha256(body).hexdigest()[:32])
    response.headers["Cache-Control"] = "no-cache"
    return await response.make_conditional(request)
