"""Events that a backend is told: signed, in the order of each group, until it has taken them."""

from __future__ import annotations

from typing import Any

from conftest import StartDaemon, connect, receive, wait_for
from test_webhooks import SECRET, Receiver, run_receiver


def messages(receiver: Receiver, group: str = "1") -> list[Any]:
    """The messages of a group that the receiver was told, in order."""
    return [
        each
        for asked in receiver.of("message")
        if asked.event["groupId"] == group
        for each in asked.event["messages"]
    ]


async def test_a_message_is_told(start_daemon: StartDaemon) -> None:
    with run_receiver() as (receiver, url):
        daemon = start_daemon(
            hooks__webhook_url=url, hooks__webhook_secret=SECRET, hooks__webhook_events="message"
        )
        async with connect(daemon.chat_url("1", "ann")) as member:
            await receive(member)
            await member.send_message("hi")
            said = await receive(member)
        wait_for(lambda: messages(receiver), daemon)
    assert messages(receiver) == [{"userId": "ann", "info": "hi", "ts": said["ts"]}]
