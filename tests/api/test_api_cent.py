"""``cent``, Centrifugo's library for backends in Python, calls every method that both have."""

from __future__ import annotations

import asyncio
from typing import Any

import cent
import pytest
from calling import SECRETS, SETTINGS
from clients import RawClient
from conftest import Daemon, ShareDaemon, wait_for

GROUP = "match-1"


@pytest.fixture
def daemon(share_daemon: ShareDaemon) -> Daemon:
    return share_daemon(**SETTINGS)


def test_cent_calls_every_method(daemon: Daemon) -> None:
    """Each result has what the library reads from it."""
    with (
        cent.Client(f"{daemon.http}/api", SECRETS["game"]) as client,
        RawClient(daemon.address, f"/group/chat/{GROUP}/bo/t") as bo,
    ):
        bo.next_text()
        said = client.publish(
            cent.PublishRequest(channel=GROUP, data={"goal": 1}, tags={"kind": "goal"})
        )
        assert said.offset is not None
        again = [
            client.publish(cent.PublishRequest(channel=GROUP, data="x", idempotency_key="k"))
            for _ in "12"
        ]
        assert again[0] == again[1]
        everywhere = client.broadcast(cent.BroadcastRequest(channels=[GROUP, ""], data="hi"))
        assert everywhere.responses[0].result is not None
        assert everywhere.responses[0].result.offset is not None
        assert everywhere.responses[1].error is not None
        assert everywhere.responses[1].error.code == 107

        history = client.history(cent.HistoryRequest(channel=GROUP, limit=10))
        assert [each.data for each in history.publications] == [{"goal": 1}, "x", "hi"]
        assert history.publications[0].offset == said.offset
        since = cent.StreamPosition(offset=said.offset, epoch=history.epoch)
        later = client.history(cent.HistoryRequest(channel=GROUP, limit=1, since=since))
        assert [each.data for each in later.publications] == ["x"]

        def stats() -> tuple[int, int]:
            told = client.presence_stats(cent.PresenceStatsRequest(channel=GROUP))
            return told.num_clients, told.num_users

        wait_for(lambda: stats() == (1, 1), daemon)
        here = client.presence(cent.PresenceRequest(channel=GROUP)).presence
        assert [each.user for each in here.values()] == ["bo"]
        assert list(here) == [each.client for each in here.values()]
        assert (
            client.channels(cent.ChannelsRequest(pattern="match*")).channels[GROUP].num_clients == 1
        )
        [node] = client.info(cent.InfoRequest()).nodes
        assert (node.num_clients, node.num_users) == (1, 1)

        client.unsubscribe(cent.UnsubscribeRequest(channel=GROUP, user="nobody"))
        client.disconnect(
            cent.DisconnectRequest(user="bo", disconnect=cent.Disconnect(code=4001, reason="over"))
        )
        assert [bo.next_text() for _ in range(3)]
        frame = bo.next_frame()
        assert frame is not None
        assert frame.closing == (4001, "over")
        client.history_remove(cent.HistoryRemoveRequest(channel=GROUP))
        assert client.history(cent.HistoryRequest(channel=GROUP, limit=9)).publications == []


def test_cent_sends_batches(daemon: Daemon) -> None:
    """Each reply is read as that of its method."""
    with cent.Client(f"{daemon.http}/api", SECRETS["game"]) as client:
        for parallel in (False, True):
            requests: list[Any] = [
                cent.PublishRequest(channel=GROUP, data="x"),
                cent.PresenceStatsRequest(channel=GROUP),
                cent.InfoRequest(),
            ]
            told = client.batch(cent.BatchRequest(requests=requests, parallel=parallel))
            said, stats, info = told.replies
            assert isinstance(said, cent.PublishResult)
            assert said.offset is not None
            assert isinstance(stats, cent.PresenceStatsResult)
            assert stats.num_clients == 0
            assert isinstance(info, cent.InfoResult)
            assert len(info.nodes) == 1


def test_cent_raises_what_goes_wrong(daemon: Daemon) -> None:
    """Errors of a call, and of the key."""
    with cent.Client(f"{daemon.http}/api", SECRETS["game"]) as client:
        cases: list[tuple[Any, int]] = [
            (cent.PublishRequest(channel="", data="x"), 107),
            (cent.PublishRequest(channel=GROUP, data=5), 107),
            (cent.PublishRequest(channel=GROUP, data="x", skip_history=True), 108),
            (cent.SubscribeRequest(user="bo", channel=GROUP), 108),
            (cent.RefreshRequest(user="bo"), 108),
            (
                cent.HistoryRequest(
                    channel=GROUP, since=cent.StreamPosition(offset=1, epoch="another")
                ),
                112,
            ),
        ]
        for request, code in cases:
            with pytest.raises(cent.CentApiResponseError) as failed:
                client._send(request)
            assert failed.value.code == code
        with pytest.raises(cent.CentTransportError) as unknown:
            client.user_topic_list(cent.UserTopicListRequest())
        assert unknown.value.status_code == 404
    with (
        cent.Client(f"{daemon.http}/api", "wrong") as client,
        pytest.raises(cent.CentUnauthorizedError),
    ):
        client.info(cent.InfoRequest())


def test_cent_calls_for_asyncio(daemon: Daemon) -> None:
    """Many at once, on the connections that the library keeps."""

    async def main() -> list[int]:
        client = cent.AsyncClient(f"{daemon.http}/api", SECRETS["game"])
        try:
            said = await asyncio.gather(
                *(
                    client.publish(cent.PublishRequest(channel=GROUP, data=f"{number}"))
                    for number in range(200)
                )
            )
        finally:
            await client.close()
        return [each.offset or 0 for each in said]

    assert len(set(asyncio.run(main()))) == 200
