"""The OpenAPI description of the API, made from its methods."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from .. import __version__
from .bodies import Batch
from .errors import Error
from .methods import METHODS

_SCHEMAS = "#/components/schemas/{name}"


@cache
def describe_api() -> bytes:
    """The description, as JSON."""
    return msgspec.json.encode(_document())


def _document() -> dict[str, Any]:
    kinds = {each for method in METHODS.values() for each in (method.body, method.result)}
    ordered = sorted(kinds | {Batch, Error}, key=lambda kind: kind.__name__)
    found, schemas = msgspec.json.schema_components(ordered, ref_template=_SCHEMAS)
    schema_of = dict(zip(ordered, found, strict=True))
    paths = {
        f"/api/{name}": _path(
            name,
            method.act.__doc__ or "",
            schema_of[method.body],
            {"result": schema_of[method.result]},
        )
        for name, method in METHODS.items()
    }
    replies = {"type": "array", "items": {"type": "object"}}
    paths["/api/batch"] = _path(
        "batch", Batch.__doc__ or "", schema_of[Batch], {"replies": replies}
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fastimd server API",
            "version": __version__,
            "description": "What a backend says, does and asks: docs/API.md.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{"key": []}],
    }


def _path(
    name: str, doc: str, body: dict[str, Any], answered: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    error = {"error": {"$ref": "#/components/schemas/Error"}}
    shown = {
        "oneOf": [
            {"type": "object", "properties": each, "required": list(each)}
            for each in (answered, error)
        ]
    }
    summary, _, more = doc.strip().partition("\n\n")
    refused = {
        status: {"description": words, "content": _json({"type": "object", "properties": error})}
        for status, words in (
            ("400", "The body is not JSON."),
            ("401", "No key, or a wrong one."),
            ("413", "The body is too long."),
            ("429", "Too many wrong keys from this address."),
        )
    }
    return {
        "post": {
            "operationId": name,
            "summary": " ".join(summary.split()),
            "description": " ".join(more.split()),
            "requestBody": {"required": True, "content": _json(body)},
            "responses": {
                "200": {"description": "It was done, or why not.", "content": _json(shown)},
                **refused,
            },
        }
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
