"""What a client says and asks just before it goes."""

from __future__ import annotations

import json
import socket

import pytest
from clients import CLOSE, TEXT, RawClient, client_frame
from conftest import ShareDaemon, wait_for
from redis import Redis


@pytest.mark.parametrize("ending", [client_frame(CLOSE, b"\x03\xe8"), b""], ids=["close", "end"])
def test_commands_before_the_end_are_done(
    share_daemon: ShareDaemon, redis: Redis, ending: bytes
) -> None:
    """They may come in one packet with the close, as of one who reads, writes and goes."""
    with RawClient(share_daemon().address, "/connection/websocket") as client:
        client.say('{"id":1,"connect":{"data":{"userId":"ann"}}}')
        client.say('{"id":2,"subscribe":{"channel":"last"}}')
        while '"id":2' not in client.next_text():
            pass
        commands = [
            {"id": 3, "publish": {"channel": "last", "data": "one"}},
            {"id": 4, "rpc": {"method": "send", "data": {"channel": "last", "data": "two"}}},
            {"id": 5, "rpc": {"method": "read", "data": {"channel": "last", "ts": 2**50}}},
            {"id": 6, "publish": {"channel": "last", "data": "three"}},
        ]
        frames = [client_frame(TEXT, json.dumps(each).encode()) for each in commands]
        client.stream.sendall(b"".join([*frames, ending]))
        client.stream.shutdown(socket.SHUT_WR)
        wait_for(lambda: redis.llen("gml:last") == 3)
        assert redis.zscore("fastimd:read:ann", "last") is not None
