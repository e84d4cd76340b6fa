"""What messages come over: the relay of one Redis, or of a cluster."""

from __future__ import annotations

from typing import TypeAlias

from ..base.metrics import Metrics
from ..redis.clients import RedisClient
from ..redis.cluster.client import ClusterClient
from .relay import Relay
from .sharded import ShardedRelay
from .store.history import History

GroupRelay: TypeAlias = Relay | ShardedRelay


def make_relay(client: RedisClient, history: History, metrics: Metrics) -> GroupRelay:
    """The relay that belongs to a client."""
    if isinstance(client, ClusterClient):
        return ShardedRelay(client.masters, history, metrics)
    relay = Relay(client.address, history, metrics)
    client.on_moved = relay.reconnect
    return relay
