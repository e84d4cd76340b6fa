"""Rare events between daemons: who is told of which."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from fastimd.groups.events import Event, Events, PolicyChange

RECALL = b'{"group":"1","user":"3","ts":5}'
PURGE = b'{"group":"1","user":"","ts":0,"until":9}'
JOIN = b'{"group":"1","user":"3"}'
LEAVE = b'{"group":"1","user":"3","leave":true}'
ACT = b'{"group":"1","kind":"moderation","act":"mute","user":"3","changes":[["m:3",""]]}'
KICK = b'{"group":"1","user":"3","kick":true}'
QUESTION = b'{"group":"","user":"","kind":"survey","survey":"x","inbox":"i"}'
MUTED = PolicyChange("1", "moderation", "mute", "3", changes=[("m:3", "")])

TOLD: dict[bytes, list[object]] = {
    RECALL: [("change", Event("1", "3", 5)), ("removal", "1", RECALL)],
    PURGE: [("change", Event("1", "", 0, until=9)), ("removal", "1", PURGE)],
    JOIN: [("change", Event("1", "3"))],
    LEAVE: [("leave", "3", "1"), ("change", Event("1", "3", leave=True))],
    KICK: [("kick", Event("1", "3", kick=True))],
    ACT: [("policy", MUTED, ACT)],
    QUESTION: [("question", QUESTION)],
    b'{"group":"1","user":"","kind":"of a newer daemon"}': [],
    b"no event": [],
    b'{"group":1}': [],
}


@pytest.mark.parametrize("is_anybody_there", [False, True])
@pytest.mark.parametrize("payload", TOLD)
def test_each_event_reaches_those_whom_it_concerns(payload: bytes, is_anybody_there: bool) -> None:
    """A deletion goes to the members as it came, and the relay hears whether there are any."""
    told: list[object] = []

    def on_removal(group: str, event: bytes) -> bool:
        told.append(("removal", group, event))
        return is_anybody_there

    def on_policy(change: PolicyChange, event: bytes) -> bool:
        told.append(("policy", change, event))
        return is_anybody_there

    events = Events(
        on_change=lambda event: told.append(("change", event)),
        on_removal=on_removal,
        on_leave=lambda user, group: told.append(("leave", user, group)),
        on_kick=lambda event: told.append(("kick", event)),
        on_policy=on_policy,
        on_question=lambda payload: told.append(("question", payload)),
    )
    with capture_logs() as lines:
        is_to_be_flushed = events.receive(payload)
    assert told == TOLD[payload]
    assert is_to_be_flushed is (is_anybody_there and payload in (RECALL, PURGE, ACT))
    is_known = bool(told) or b"newer" in payload
    assert [line["event"] for line in lines] == ([] if is_known else ["poller.unknown_event"])
