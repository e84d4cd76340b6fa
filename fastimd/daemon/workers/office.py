"""The admin address of several workers: it asks each, and answers for the whole.

What changes something is handed on to one of them, for it holds on all daemons of a Redis.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus

import httpx
import msgspec
import structlog
import trio
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from quart import Response, request
from quart_trio import QuartTrio

from ... import __version__
from ...api import CALL_SECONDS, PATH
from ...api.errors import INTERNAL, Error
from ...base import log as logs
from ...base import recent
from ...base.asking import first_cause, make_local_client
from ...base.metrics import Metrics
from ...http.admin import as_json, create_app_around, expose_registry, is_trusted_host
from ...http.forms import (
    COMMAND_HEADER,
    DESK,
    Counters,
    GroupView,
    RedisState,
    Status,
    WorkerState,
)
from .sums import Families, Lives, Shown, add_up, read_families
from .worker import Worker

ANSWER_SECONDS = 3.0
ACT_SECONDS = 8.0
"""How long a worker may take to answer a question, or to do something: less than an operator's
command and a scrape wait."""
NOBODY = "no worker answers"
API_SECONDS = CALL_SECONDS + 2
_API_HEADERS = ("content-type", "x-api-key", "authorization", "x-centrifugo-error-mode")
_API_VERBS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_PASSED_BACK = ("Content-Type", "Allow", "Retry-After")

_COUNTERS = {
    "opened": "fastimd_sockets_opened",
    "closed": "fastimd_sockets_closed",
    "messages": "fastimd_messages_received",
    "deliveries": "fastimd_deliveries",
    "slow_closes": "fastimd_slow_closes",
    "flood_closes": "fastimd_flood_closes",
    "appends_failed": "fastimd_appends_failed",
    "connections_refused": "fastimd_connections_refused",
    "connections_crashed": "fastimd_connections_crashed",
}
"""The counters of a status, and the metric of each."""

log = structlog.get_logger("fastimd.worker")


class Office:
    """Asks the workers, and adds up what they say.

    Args:
        metrics: what the parent has counted itself.
        settings: where the settings come from.
        reasons_not_ready: of the whole.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        metrics: Metrics,
        settings: str,
        reasons_not_ready: Callable[[], list[str]],
    ) -> None:
        self._workers = workers
        self._settings = settings
        self._reasons_not_ready = reasons_not_ready
        self._own = CollectorRegistry()
        self._own.register(metrics)
        ProcessCollector(registry=self._own)
        self._lives = {worker.number: Lives() for worker in workers}
        self._began = trio.current_time()

    def create_app(self, names: Sequence[str], is_local: bool) -> QuartTrio:
        """The app.

        Args:
            names: as for ``create_admin_app``.
            is_local: only this machine can reach it.
        """

        def add(app: QuartTrio) -> None:
            self._add_desk(app)
            self._add_api(app, names, is_local=is_local)

        return create_app_around(self._expose, self._reasons_not_ready, add, names)

    def _add_api(self, app: QuartTrio, names: Sequence[str], *, is_local: bool) -> None:
        @app.route(PATH, methods=_API_VERBS, defaults={"_what": ""})
        @app.route(f"{PATH}<path:_what>", methods=_API_VERBS)
        async def call(_what: str) -> Response:
            given = request.headers
            headers = {name: given[name] for name in _API_HEADERS if name in given}
            host, hosts = given.get("Host", ""), ("localhost", *names)
            if COMMAND_HEADER in given and is_local and is_trusted_host(host, hosts):
                headers[COMMAND_HEADER] = "1"
            headers["X-Request-Id"] = logs.bound()["request_id"]
            return await self._hand_on(headers, API_SECONDS, _api_error)

    def _add_desk(self, app: QuartTrio) -> None:
        @app.get(f"{DESK}status")
        async def show_status() -> Response:
            return as_json(await self._status(), HTTPStatus.OK)

        @app.get(f"{DESK}group")
        async def show_group() -> Response:
            return await self._group()

        @app.route(f"{DESK}<path:_what>", methods=["GET", "POST"])
        async def hand_on(_what: str) -> Response:
            headers = {COMMAND_HEADER: "1", "content-type": request.headers.get("Content-Type", "")}
            return await self._hand_on(headers, ACT_SECONDS)

    async def _expose(self, accept: str) -> tuple[bytes, str]:
        families = await self._count()
        registry = CollectorRegistry()
        registry.register(Shown({**families, **families_of(self._workers)}))
        return expose_registry(registry, accept)

    async def _count(self) -> Families:
        """The metrics of the whole; of who does not answer, what it had counted before."""
        asked = {worker.number: worker.pid for worker in self._workers}
        scraped = await self._ask_all("/metrics")
        sources = [_families(generate_latest(self._own).decode())]
        for worker in self._workers:
            lives, said = self._lives[worker.number], scraped.get(worker.number)
            if said is None or said.is_error:
                sources.append(lives.counts())
            else:
                sources.append(lives.take(asked[worker.number], _families(said.text)))
        return add_up(sources)

    async def _status(self) -> Status:
        families: Families = {}

        async def count() -> None:
            families.update(await self._count())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            answers = await self._ask_all(f"{DESK}status")
        said = {
            number: msgspec.json.decode(each.content, type=Status)
            for number, each in answers.items()
            if not each.is_error
        }
        sockets: Counter[str] = Counter()
        for status in said.values():
            sockets.update(status.sockets)
        reasons = self._reasons_not_ready()
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime_seconds=round(trio.current_time() - self._began, 3),
            settings=self._settings,
            ready=not reasons,
            reasons=reasons,
            sockets=dict(sockets),
            groups=sum(status.groups for status in said.values()),
            outbox_bytes=sum(status.outbox_bytes for status in said.values()),
            redis=_redis_of([status.redis for status in said.values()]),
            counters=_counters_of(families),
            troubles=_troubles_of(said),
            workers=[_state_of(worker) for worker in self._workers],
        )

    async def _group(self) -> Response:
        """A group's members on all workers; what else there is to say of it, one says for all."""
        answers = list((await self._ask_all(_target())).values())
        refusals = [each for each in answers if each.is_error]
        if refusals or not answers:
            nobody = as_json({"error": NOBODY}, HTTPStatus.SERVICE_UNAVAILABLE)
            return _passed_on(refusals[0]) if refusals else nobody
        views = [msgspec.json.decode(each.content, type=GroupView) for each in answers]
        members: Counter[str] = Counter()
        for view in views:
            members.update(view.members)
        whole = msgspec.structs.replace(views[0], members=dict(sorted(members.items())))
        return as_json(whole, HTTPStatus.OK)

    async def _hand_on(
        self, headers: Mapping[str, str], seconds: float, error_of: Callable[[str], object] = str
    ) -> Response:
        """Have one worker do what the request asks; another, if it cannot be reached.

        Who was reached and does not answer may have done it, and nobody does it again.

        Args:
            error_of: what stands as the error in an answer of the parent's own.
        """
        body = await request.get_data(as_text=False)
        for worker in sorted(self._workers, key=_is_away):
            try:
                said = await _ask(worker, request.method, _target(), seconds, headers, content=body)
            except httpx.ConnectError:
                continue
            except (httpx.TransportError, trio.TooSlowError) as exc:
                _tell_silent(worker, exc)
                what = f"worker {worker.number} does not answer: it may have been done, or not"
                return as_json({"error": error_of(what)}, HTTPStatus.GATEWAY_TIMEOUT)
            return _passed_on(said)
        return as_json({"error": error_of(NOBODY)}, HTTPStatus.SERVICE_UNAVAILABLE)

    async def _ask_all(self, target: str) -> dict[int, httpx.Response]:
        """What each worker answers to a question; those that do not answer are left out."""
        answers: dict[int, httpx.Response] = {}

        async def ask(worker: Worker) -> None:
            try:
                answers[worker.number] = await _ask(
                    worker, "GET", target, ANSWER_SECONDS, {COMMAND_HEADER: "1"}
                )
            except (httpx.TransportError, trio.TooSlowError) as exc:
                _tell_silent(worker, exc)

        async with trio.open_nursery() as nursery:
            for worker in self._workers:
                nursery.start_soon(ask, worker)
        return dict(sorted(answers.items()))


async def _ask(
    worker: Worker,
    method: str,
    target: str,
    seconds: float,
    headers: Mapping[str, str],
    content: str | bytes = b"",
) -> httpx.Response:
    """The answer of a worker.

    Raises:
        httpx.ConnectError: it cannot be reached, and has not been asked.
        httpx.TransportError: it does not answer.
        trio.TooSlowError: it does not in time.
    """
    with trio.fail_after(seconds):
        async with make_local_client(worker.admin) as client:
            return await client.request(method, target, headers=headers, content=content)


def _tell_silent(worker: Worker, failure: Exception) -> None:
    if worker.report.takes:  # else it is no news
        cause = first_cause(failure)
        log.warning("worker.no_answer", worker=worker.number, error=repr(cause))


def families_of(workers: Iterable[Worker]) -> Families:
    """What there is to scrape of each worker."""
    labels = ["worker"]
    up = GaugeMetricFamily("fastimd_worker_up", "Whether a worker serves.", labels=labels)
    restarts = CounterMetricFamily(
        "fastimd_worker_restarts", "Workers started again after they had died.", labels=labels
    )
    connections = GaugeMetricFamily(
        "fastimd_worker_connections", "Open connections of a worker.", labels=labels
    )
    for worker in workers:
        number = [str(worker.number)]
        up.add_metric(number, worker.report.takes)
        restarts.add_metric(number, worker.restarts)
        connections.add_metric(number, worker.load)
    return read_families((up, restarts, connections))


def _families(scraped: str) -> Families:
    return read_families(text_string_to_metric_families(scraped))


def _target() -> str:
    """The path of the request, with its query."""
    query = request.query_string.decode()
    return f"{request.path}?{query}" if query else request.path


def _is_away(worker: Worker) -> bool:
    return not worker.report.takes


def _passed_on(said: httpx.Response) -> Response:
    headers = {name: said.headers[name] for name in _PASSED_BACK if name in said.headers}
    return Response(said.content, status=said.status_code, headers=headers)


def _api_error(what: str) -> Error:
    return Error(INTERNAL, what)


def _state_of(worker: Worker) -> WorkerState:
    report = worker.report
    return WorkerState(
        worker=worker.number,
        pid=worker.pid,
        restarts=worker.restarts,
        reasons=worker.reasons,
        connections=worker.load,
        sockets=report.sockets,
        groups=report.groups,
    )


def _redis_of(states: list[RedisState]) -> RedisState:
    if not states:
        return RedisState("unknown", "no worker answers", "no worker answers", 0)
    return RedisState(
        address=states[0].address,
        commands=next((each.commands for each in states if each.commands), None),
        messages=next((each.messages for each in states if each.messages), None),
        held=sum(each.held for each in states),
    )


def _counters_of(families: Families) -> Counters:
    return Counters(
        **{
            name: int(sum(families[family].samples.values())) if family in families else 0
            for name, family in _COUNTERS.items()
        }
    )


def _troubles_of(said: Mapping[int, Status]) -> list[recent.Trouble]:
    """The last troubles of all, the one that came last at the end."""
    of_workers = [
        msgspec.structs.replace(trouble, fields={**trouble.fields, "worker": str(number)})
        for number, status in said.items()
        for trouble in status.troubles
    ]
    return sorted((*recent.troubles(), *of_workers), key=lambda each: each.at)[-recent.KEPT :]
