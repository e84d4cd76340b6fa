"""Which Redis: one server, the master that sentinels name, or a cluster."""

from __future__ import annotations

from typing import TypeAlias

from ..base.metrics import Metrics
from ..base.settings import Config, is_cluster_url, is_sentinel_url
from .address import Address, Server
from .appender import Appender
from .client import Client, ScriptCall
from .clock import RedisClock
from .cluster.client import ClusterCall, ClusterClient
from .cluster.seeds import Seeds
from .sentinel import Service

RedisClient: TypeAlias = Client | ClusterClient
"""What commands and appends go over."""
SentScript: TypeAlias = ScriptCall | ClusterCall
"""A script that was sent."""


def make_client(url: str, config: Config, metrics: Metrics) -> RedisClient:
    """The client of a Redis.

    Raises:
        StartupError: a certificate or key that the URL names cannot be used.
    """
    clock = RedisClock()
    if is_cluster_url(url):
        return ClusterClient(Seeds(url), config, metrics, clock)
    server: Server = Service(url) if is_sentinel_url(url) else Address(url)
    return Client(server, Appender(config, metrics, clock), clock, metrics)
