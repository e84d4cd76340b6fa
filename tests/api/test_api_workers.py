"""The API with several workers: their parent's admin address hands calls on to one of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from calling import SETTINGS, admin_of, backend, line_to, request_of
from conftest import Daemon, ShareDaemon, wait_for
from test_api_methods import EXAMPLES, GROUP, check_answer

from fastimd.api.server import MAX_BODY_BYTES

SAY = {"channel": GROUP, "data": "x"}


@pytest.fixture
def whole(share_daemon: ShareDaemon) -> Daemon:
    return share_daemon(server__workers="2", **SETTINGS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_calls_are_handed_on(whole: Daemon, name: str) -> None:
    """With the answer as the worker gave it."""
    game = backend(whole, admin=True)
    body = dict(EXAMPLES[name].body)
    if "ts" in body:
        body["ts"] = game.call("publish", SAY)["offset"]
    answer = game.send(name, body)
    assert answer.status == 200
    assert ("error" in answer.json) == (name == "drain")  # there is no such daemon
    check_answer(name, 200, answer.json)
    wait_for(lambda: [e for e in whole.events("api.call") if e["method"] == name], whole)


REFUSED: list[tuple[str, bytes, dict[str, str], int]] = [
    ("publish", b"{}", {}, 200),
    ("publish", b"no json", {}, 400),
    ("no_such", b"{}", {}, 404),
    ("", b"{}", {}, 404),
    ("publish", b"{}", {"X-API-Key": "wrong"}, 401),
    ("publish", b"{}", {"X-Centrifugo-Error-Mode": "transport"}, 400),
    ("publish", b" " * (MAX_BODY_BYTES + 1), {}, 413),
]


@pytest.mark.parametrize(("name", "body", "headers", "status"), REFUSED)
def test_errors_are_those_of_a_daemon(
    whole: Daemon, share_daemon: ShareDaemon, name: str, body: bytes, headers: Any, status: int
) -> None:
    """Status and body are those of a daemon without workers."""
    single = share_daemon(**SETTINGS)
    answers = [backend(daemon, admin=True).send(name, body, headers) for daemon in (whole, single)]
    assert [answer.status for answer in answers] == [status, status]
    assert answers[0].json == answers[1].json
    assert answers[0].headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_other_verbs_are_refused_as_by_a_daemon(
    whole: Daemon, share_daemon: ShareDaemon, verb: str
) -> None:
    """Without a call."""
    single = share_daemon(**SETTINGS)
    answers = [
        backend(daemon, admin=True).send("publish", b"", verb=verb) for daemon in (whole, single)
    ]
    assert [answer.status for answer in answers] == [405, 405]
    assert answers[0].headers["Allow"] == answers[1].headers["Allow"] == "POST"
    assert answers[0].body == answers[1].body


def test_the_description_is_handed_on(whole: Daemon) -> None:
    """From the admin address of the whole."""
    answer = backend(whole, admin=True).send("openapi.json", b"", verb="GET")
    assert (answer.status, answer.json["openapi"]) == (200, "3.1.0")


def test_a_worker_logs_the_id_that_the_answer_has(whole: Daemon) -> None:
    """So that the line of a call can be found."""
    answer = backend(whole, admin=True).send("publish", SAY)
    [line] = wait_for(lambda: whole.events("api.call"), whole)
    assert line["request_id"] == answer.headers["X-Request-Id"]
    assert "worker" in line


def test_requests_follow_each_other_on_a_connection(whole: Daemon) -> None:
    """Calls and scrapes, one behind the other."""
    scrape = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with line_to(admin_of(whole)) as line:
        for _ in range(3):
            line.say(request_of("publish", SAY) + scrape)
            assert line.hear().json["result"]["offset"] > 0
            assert json.loads(line.hear().body) == {"live": True}
