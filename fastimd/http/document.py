"""The routes as OpenAPI 3.1, for clients' tools: ``openapi.json`` beside this file, as it is."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files

from quart import Response, request
from quart_trio import QuartTrio


def add_document(app: QuartTrio) -> None:
    """Serve it at ``/openapi.json``; who has it already gets a 304."""
    document = (files("fastimd.http") / "openapi.json").read_bytes()
    etag = sha256(document).hexdigest()[:32]

    @app.get("/openapi.json")
    async def openapi() -> Response:
        response = Response(document, mimetype="application/json")
        response.set_etag(etag)
        response.headers["Cache-Control"] = "no-cache"
        return await response.make_conditional(request)
