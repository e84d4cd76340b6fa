"""A moderator with the published SDKs: what it decides, and how others' SDKs tell them of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import jwt
import pytest
from conftest import Daemon, ShareDaemon
from sdks import BUILD_SECONDS, Client, Driver, Refused, command_of, running

pytestmark = pytest.mark.timeout(60 + BUILD_SECONDS)

SECRET = "a secret of at least thirty-two bytes"
DENIED, TOO_MANY = 103, 111
PUT_OUT, BANNED = 2103, 3507


def token(user: str, *groups: str) -> str:
    """A token that makes a user the moderator of some groups."""
    claims = {"sub": user, "role": "moderator", "groups": list(groups)}
    return jwt.encode(claims, SECRET, algorithm="HS256")


@pytest.fixture(params=["node-json", "node-protobuf", "python-json"])
async def driver(request: pytest.FixtureRequest) -> AsyncIterator[Driver]:
    """A running driver of one SDK."""
    async with running(command_of(request.param)) as started:
        yield started


@pytest.fixture
def daemons(share_daemon: ShareDaemon) -> list[Daemon]:
    """Two on one Redis."""
    return [share_daemon(number, token__hmac_secret=SECRET) for number in (1, 2)]


async def enter(client: Client, daemon: Daemon, *groups: str, as_moderator: bool = False) -> Client:
    """Connect a client by its name, and have it subscribe."""
    url = f"ws://{daemon.address}/connection/websocket"
    if as_moderator:
        await client.connect(url, token=token(client.name, "room"))
    else:
        await client.connect(url, user=client.name)
    for group in groups:
        await client.subscribe(group)
    return client


async def test_a_moderator_mutes_slows_deletes_and_bans(
    driver: Driver, daemons: list[Daemon]
) -> None:
    """Somebody on another daemon, whose SDK says it in its own words; others hear on."""
    one, other = daemons
    boss = await enter(driver.client("boss"), one, "room", as_moderator=True)
    mara = await enter(driver.client("mara"), other, "room", "elsewhere")
    tom = await enter(driver.client("tom"), other, "room")

    async def act(method: str, **body: object) -> object:
        return (await boss.ask("rpc", method=method, data={"channel": "room", **body}))["data"]

    async def says(client: Client, text: str) -> Refused | None:
        try:
            await client.publish("room", text)
        except Refused as refusal:
            return refusal
        return None

    assert await says(mara, "first") is None
    assert await act("mute", user="mara", seconds=600, reason="spam") == {}
    told = await mara.next("publication", channel="room", tags={"event": "moderation"})
    assert (told["data"]["act"], told["data"]["by"], told["offset"]) == ("mute", "boss", 0)
    muted = await says(mara, "not this")
    assert muted is not None
    assert (muted.code, muted.temporary) == (DENIED, False)
    assert "muted until 2" in muted.message
    assert await says(tom, "but this") is None
    await act("unmute", user="mara")
    await act("slow_mode", seconds=60)
    await mara.next(
        "publication", channel="room", data={"act": "slow_mode", "seconds": 60, "by": "boss"}
    )
    assert await says(mara, "second") is None
    slowed = await says(mara, "third")
    assert slowed is not None
    assert (slowed.code, slowed.temporary) == (TOO_MANY, True)

    assert await act("delete_messages_of", user="mara") == {"deleted": 2}
    purge = await tom.next("publication", channel="room", tags={"event": "purge"})
    assert purge["data"]["user"] == "mara"
    history = await tom.ask("history", channel="room", limit=10)
    assert [each["data"] for each in history["publications"]] == ["but this"]

    await act("ban", user="mara", seconds=0, reason="enough")
    ended = await mara.next("unsubscribed", channel="room")
    assert (ended["code"], ended["reason"]) == (PUT_OUT, "banned: enough")
    await act("ban", user="tom", seconds=0)
    gone = await tom.next("disconnected")
    assert (gone["code"], gone["reason"]) == (BANNED, "banned")
    await mara.publish("elsewhere", "still here")
    await mara.do(
        "subscribe", channel="room", recoverable=False, token="", refresh="", joinLeave=False
    )
    error = await mara.next("unsubscribed", channel="room")
    assert (error["code"], error["reason"]) == (DENIED, "banned: enough")
