"""``on_moderation`` and ``on_report``: told what has happened, in its order; nothing waits."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from conftest import Daemon, StartDaemon, wait_for
from test_webhooks import SECRET, run_receiver
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.sync.client import connect

from fastimd.base.metrics import Metrics
from fastimd.base.settings import Config
from fastimd.hooks import ModerationAct, ReportedMessage, tellings
from fastimd.hooks.runner import HookRunner
from fastimd.hooks.tellings import Tellings
from fastimd.http.forms import COMMAND_HEADER

HANDLER = """
import dataclasses, json, os

def note(what):
    with open(os.environ["NOTES"], "a") as notes:
        print(json.dumps(dataclasses.asdict(what)), file=notes)

def on_moderation(act):
    note(act)
    if act.act == "unmute":
        raise RuntimeError("no")

def on_report(report):
    note(report)
"""


def do(daemon: Daemon, method: str, **body: object) -> None:
    answer = httpx.post(
        f"{daemon.admin}/operate/{method}", json=body, headers={COMMAND_HEADER: "1"}
    )
    assert answer.status_code == 200, answer.text


def report_own(daemon: Daemon, user: str, reason: str) -> int:
    """Have a user say something in group 7 and report it, twice; returns its ts."""
    with connect(f"ws://{daemon.address}/connection/websocket", proxy=None) as link:

        def ask(number: int, **command: object) -> Any:
            link.send(json.dumps({"id": number, **command}))
            while True:
                for line in str(link.recv(10)).splitlines():
                    if (reply := json.loads(line)).get("id") == number:
                        return reply

        ask(1, connect={"data": {"userId": user}})
        ask(2, subscribe={"channel": "7"})
        said = ask(3, rpc={"method": "send", "data": {"channel": "7", "data": "hi"}})
        ts: int = said["rpc"]["data"]["ts"]
        body = {"channel": "7", "ts": ts, "reason": reason}
        for number in (4, 5):
            assert ask(number, rpc={"method": "report", "data": body})["rpc"]["data"] == {}
        return ts


def test_a_handler_is_told_of_acts(
    start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it does: a failure is logged, and the act is done."""
    (tmp_path / "handler_of_acts.py").write_text(HANDLER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    daemon = start_daemon(hooks__handler="handler_of_acts")
    do(daemon, "mute", channel="7", user="3", seconds=60, reason="spam")
    do(daemon, "unmute", channel="7", user="3")
    wait_for(partial(daemon.events, "hook.failed"), daemon)
    ts = report_own(daemon, "3", "mine is rude")

    def notes() -> list[Any]:
        return [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]

    wait_for(lambda: len(notes()) == 3, daemon)
    told = notes()
    nothing = {"moderator_id": "", "seconds": 0, "reason": "", "ts": 0, "count": 0}
    about = {"group_id": "7", "user_id": "3"}
    assert told == [
        {**nothing, **about, "act": "mute", "seconds": 60, "reason": "spam"},
        {**nothing, **about, "act": "unmute"},
        {**about, "ts": ts, "reporter_id": "3", "reason": "mine is rude"},
    ]


def test_a_webhook_is_told_of_acts(start_daemon: StartDaemon) -> None:
    """As JSON, with every field."""
    with run_receiver() as (receiver, url):
        daemon = start_daemon(
            hooks__webhook_url=url,
            hooks__webhook_secret=SECRET,
            hooks__webhook_events="on_moderation,on_report",
        )
        do(daemon, "slow_mode", channel="7", seconds=5)
        do(daemon, "delete_messages_of", channel="7", user="3")
        ts = report_own(daemon, "ann", "rude")
        wait_for(lambda: len(receiver.asked) == 3, daemon)
    nothing: dict[str, Any] = {
        "type": "on_moderation",
        "groupId": "7",
        "moderatorId": "",
        "userId": "",
        "seconds": 0,
        "reason": "",
        "ts": 0,
        "count": 0,
    }
    assert [each.event for each in receiver.asked] == [
        {**nothing, "act": "slow_mode", "seconds": 5},
        {**nothing, "act": "delete_messages_of", "userId": "3"},
        {
            "type": "on_report",
            "groupId": "7",
            "ts": ts,
            "userId": "ann",
            "reporterId": "ann",
            "reason": "rude",
        },
    ]


async def test_what_concerns_a_group_is_told_in_order_and_not_without_bound(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow hook holds up its own; what finds no place is counted."""
    told: list[object] = []
    may_go_on = trio.Event()

    async def on_moderation(act: ModerationAct) -> None:
        await may_go_on.wait()
        told.append(act)

    async def on_report(report: ReportedMessage) -> None:
        told.append(report)

    metrics = Metrics()
    hooks: dict[str, Any] = {"on_moderation": on_moderation, "on_report": on_report}
    telling = Tellings(HookRunner(hooks, Config(), metrics), metrics)
    monkeypatch.setattr(tellings, "MAX_WAITING", 5)
    nursery.start_soon(telling.run)
    what: list[Any] = [ModerationAct("1", "ban", "", str(n)) for n in range(4)]
    what.append(ReportedMessage("1", 5, "3", "4", "rude"))
    for each in what:
        name = "on_report" if isinstance(each, ReportedMessage) else "on_moderation"
        await telling.tell(name, each)
    await wait_all_tasks_blocked()
    assert (telling.waiting, told) == (5, [])
    await telling.tell("on_report", what[-1])
    assert metrics.tellings_dropped == 1
    may_go_on.set()
    await telling.wait_all_told()
    assert told == what
