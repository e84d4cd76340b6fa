"""The last different troubles: what is one, what is another, and what is remembered of each."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest
import structlog

from fastimd.base import recent
from fastimd.base.log import configure, tell_left_out

log = structlog.get_logger("test")


class Clock:
    """What ``time.time`` says; the log's own clock stands still, so that it leaves lines out."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(time, "time", lambda: clock.now)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    configure("json", "info")
    yield clock
    recent.forget()


def counts() -> dict[str, int]:
    return {trouble.event: trouble.count for trouble in recent.troubles()}


def test_lines_of_one_trouble_are_counted(clock: Clock) -> None:
    """With the moments of the first and the last, and the fields of the last."""
    for number in range(1, 51):
        log.warning("redis.unavailable", purpose="commands", error=f"no {number}", attempts=number)
        clock.now += 1
    (trouble,) = recent.troubles()
    assert trouble == recent.Trouble(
        at=1049.0,
        first_at=1000.0,
        count=50,
        level="warning",
        event="redis.unavailable",
        fields={"purpose": "commands", "error": "no 50", "attempts": "50"},
    )


def test_what_was_left_out_is_no_trouble_of_its_own(clock: Clock) -> None:
    """Its lines were counted when they were left out."""
    for _ in range(7):
        log.error("a.trouble")
        log.info("connection.refused", status=429)
    tell_left_out()
    assert counts() == {"a.trouble": 7}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"purpose": "commands"}, {"purpose": "messages"}),
        ({"status": 429}, {"status": 503}),
        ({"key": "gml:1"}, {"key": "gml:2"}),
        ({"task": "relay"}, {"task": "poller"}),
        ({"route": "/login"}, {"route": "/user/listGroup"}),
        ({"exc_info": ValueError("x")}, {"exc_info": TypeError("x")}),
    ],
)
@pytest.mark.usefixtures("clock")
def test_what_tells_troubles_apart(one: dict[str, object], other: dict[str, object]) -> None:
    """Two are remembered, each with its own count."""
    for fields in (one, other, one):
        log.error("a.trouble", error="varies", **fields)
    assert [trouble.count for trouble in recent.troubles()] == [1, 2]


@pytest.mark.usefixtures("clock")
def test_an_exception_under_way_tells_too() -> None:
    """``log.exception`` has its name, without its text."""
    for failure in (ValueError("a token"), KeyError("a token"), ValueError("a token")):
        try:
            raise failure
        except Exception:
            log.exception("it.broke")
    assert [(each.count, each.fields) for each in recent.troubles()] == [
        (1, {"exception": "KeyError"}),
        (2, {"exception": "ValueError"}),
    ]


@pytest.mark.usefixtures("clock")
def test_what_does_not_tell_troubles_apart() -> None:
    """A message that cannot be stored is one trouble, whatever its group; a library is one."""
    for number in range(50):
        log.warning("socket.append_failed", group=str(number), error=f"text {number}")
        logging.getLogger("some.library").warning("text %d", number)
    assert counts() == {"socket.append_failed": 50, "text 49": 50}


@pytest.mark.usefixtures("clock")
def test_many_troubles_of_one_event_leave_room_for_others() -> None:
    """The last five keys, and whatever there was before."""
    log.warning("login.open")
    for number in range(1000):
        log.warning("store.key_unusable", key=f"gml:{number}", error="WRONGTYPE")
    shown = [(each.event, each.fields.get("key")) for each in recent.troubles()]
    last = [("store.key_unusable", f"gml:{number}") for number in range(995, 1000)]
    assert shown == [("login.open", None), *last]


@pytest.mark.usefixtures("clock")
def test_so_many_are_remembered_and_no_more() -> None:
    """Those that came last; what comes again is not old. Long texts are cut."""
    log.warning("event.0")
    for number in range(1, 30):
        log.warning(f"event.{number}", error="x" * 100_000)
        log.warning("event.0")
    assert list(counts()) == [*(f"event.{number}" for number in range(11, 30)), "event.0"]
    assert counts()["event.0"] == 30
    assert max(len(each.fields.get("error", "")) for each in recent.troubles()) == 200
