"""The operator's app on the admin address: metrics and health, nothing else."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from quart import Response, request
from quart_trio import QuartTrio

from ..metrics import Metrics


def create_admin_app(metrics: Metrics, reasons_not_ready: Callable[[], list[str]]) -> QuartTrio:
    """The app; ``reasons_not_ready`` is empty when the daemon can serve."""
    app = QuartTrio("fastimd.http", static_folder=None)
    registry = CollectorRegistry()
    registry.register(metrics)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry), content_type=content_type)

    @app.get("/health/live")
    async def live() -> Response:
        return _json({"live": True}, 200)

    @app.get("/health/ready")
    async def ready() -> Response:
        reasons = reasons_not_ready()
        return _json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    return app


def _json(body: object, status: int) -> Response:
    return Response(msgspec.json.encode(body), status=status, mimetype="application/json")
