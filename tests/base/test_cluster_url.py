"""``redis-cluster://``: what such a URL says, and what is wrong with one that says nothing."""

from __future__ import annotations

import pytest

from fastimd.base.errors import ConfigError
from fastimd.base.settings import is_cluster_url, is_sentinel_url, load, read_cluster_url
from fastimd.redis.cluster.seeds import Seeds

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("url", "nodes", "server", "shown"),
    [
        (
            "redis-cluster://one",
            (("one", 6379),),
            "redis://localhost",
            "redis-cluster://one:6379",
        ),
        (
            f"redis-cluster://mara:{SECRET}@one:7000,10.0.0.2,[::1]:7/0",
            (("one", 7000), ("10.0.0.2", 6379), ("::1", 7)),
            f"redis://mara:{SECRET}@localhost",
            "redis-cluster://one:7000,10.0.0.2:6379,[::1]:7",
        ),
        (
            f"rediss-cluster://:p%40{SECRET}@one?ssl_check_hostname=false&db=0",
            (("one", 6379),),
            f"rediss://:p%40{SECRET}@localhost?ssl_check_hostname=false&db=0",
            "rediss-cluster://one:6379",
        ),
    ],
)
def test_what_a_url_says(
    url: str, nodes: tuple[tuple[str, int], ...], server: str, shown: str
) -> None:
    """Where some nodes are, and how to log in to all; what is shown has no secret."""
    assert read_cluster_url(url) == (nodes, server, shown)
    assert SECRET not in shown
    assert load(None, {"FASTIMD_REDIS__URL": url}).redis.url == url
    seeds = Seeds(url)
    assert seeds.shown_url == shown
    assert str(seeds) == shown.partition("://")[2].replace("[::1]:7", "::1:7")


def test_what_is_no_such_url() -> None:
    """Others are read as what they are."""
    for url in ("redis://one", "redis-sentinel://one/chat", "embedded", "unix:///a"):
        assert not is_cluster_url(url)
    assert not is_sentinel_url("redis-cluster://one")


@pytest.mark.parametrize(
    ("rest", "mistake"),
    [
        ("", "no host of a node"),
        (f":{SECRET}@", "no host of a node"),
        ("one,", "an empty or malformed host of a node"),
        ("one,one", "a node is named twice"),
        ("one:0", "the port of a node is not between 1 and 65535"),
        ("one:x", "the port of a node is not a number"),
        ("::1", "not a host: an IPv6 address stands in brackets"),
        ("one/1", "a cluster has one database, 0"),
        ("one?db=2", "a cluster has one database, 0"),
        ("one/chat", "a cluster has one database, 0"),
        (f"mara:{SECRET}/x@one", '"/" and "@" in a password are written %2F and %40'),
        (f":{SECRET}#@one", '"#" in a password is written %23'),
        ("one?ssl_ca_certs=/a", "an option of TLS without TLS"),
        ("one?sentinel_password=x", "an option that is unknown"),
        ("one?colour=red", "an option that is unknown"),
    ],
)
def test_a_mistake_is_told(rest: str, mistake: str) -> None:
    """In words, and without the password."""
    with pytest.raises(ConfigError) as caught:
        load(None, {"FASTIMD_REDIS__URL": f"redis-cluster://{rest}"})
    [told] = caught.value.mistakes
    assert mistake in told
    assert SECRET not in told
