"""``redis-sentinel://``: what such a URL says, and what is wrong with one that says nothing."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastimd.base.errors import ConfigError
from fastimd.base.settings import is_sentinel_url, load, read_sentinel_url
from fastimd.base.settings.mistakes import NOT_SHOWN
from fastimd.redis.sentinel import Service

SECRET = "s3cret"


def refused(url: str) -> str:
    """The only mistake of settings with this URL, as an operator reads it."""
    with pytest.raises(ConfigError) as caught:
        load(None, {"FASTIMD_REDIS__URL": url})
    [mistake] = caught.value.mistakes
    return mistake


@pytest.mark.parametrize(
    ("url", "sentinels", "service", "server", "shown"),
    [
        (
            "redis-sentinel://one/chat",
            (("one", 26379),),
            "chat",
            "redis://localhost/",
            "redis-sentinel://one:26379/chat/0",
        ),
        (
            f"redis-sentinel://mara:{SECRET}@one:5000,10.0.0.2,[::1]:7,[fe80::2]/my-chat.1/3",
            (("one", 5000), ("10.0.0.2", 26379), ("::1", 7), ("fe80::2", 26379)),
            "my-chat.1",
            f"redis://mara:{SECRET}@localhost/3",
            "redis-sentinel://one:5000,10.0.0.2:26379,[::1]:7,[fe80::2]:26379/my-chat.1/3",
        ),
        (
            f"rediss-sentinel://:p%40{SECRET}@one/chat/?db=2&ssl_ca_certs=/ca.pem"
            f"&sentinel_username=watch&sentinel_password={SECRET}",
            (("one", 26379),),
            "chat",
            f"rediss://:p%40{SECRET}@localhost/?db=2&ssl_ca_certs=%2Fca.pem",
            "rediss-sentinel://one:26379/chat/2",
        ),
    ],
)
def test_what_a_url_says(
    url: str, sentinels: tuple[tuple[str, int], ...], service: str, server: str, shown: str
) -> None:
    """Where the sentinels are, and how to log in to the master; what is shown has no secret."""
    found = read_sentinel_url(url)
    assert found[:4] == (sentinels, service, server, shown)
    assert SECRET not in found.shown
    assert load(None, {"FASTIMD_REDIS__URL": url}).redis.url == url


def test_the_password_of_the_sentinels_is_their_own() -> None:
    """Percent-encoded as everything in a URL; without one there is none."""
    url = "redis-sentinel://:a@one/chat?sentinel_username=b&sentinel_password=c%26%2F"
    assert read_sentinel_url(url)[4:] == ("b", "c&/")
    assert read_sentinel_url("redis-sentinel://:a@one/chat")[4:] == (None, None)


def test_what_is_shown_and_logged_has_no_password() -> None:
    """The service's own texts."""
    service = Service(f"redis-sentinel://:{SECRET}@one/chat/1?sentinel_password={SECRET}")
    assert service.shown_url == "redis-sentinel://one:26379/chat/1"
    assert str(service) == "nowhere yet, master of chat"
    service.close()


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("", "no host of a sentinel"),
        ("/chat", "no host of a sentinel"),
        (f":{SECRET}@/chat", "no host of a sentinel"),
        ("one", "no service: /SERVICE follows the hosts"),
        ("one/", "no service: /SERVICE follows the hosts"),
        ("one//1", "no service: /SERVICE follows the hosts"),
        ("one/my%20chat", "a service's name has letters, digits and .-_ only"),
        ("one,/chat", "an empty or malformed host of a sentinel"),
        (",one/chat", "an empty or malformed host of a sentinel"),
        ("one two/chat", "an empty or malformed host of a sentinel"),
        ("-one/chat", "an empty or malformed host of a sentinel"),
        ("one,one:26379/chat", "a sentinel is named twice"),
        ("one:port/chat", "the port of a sentinel is not a number"),
        ("one:/chat", "the port of a sentinel is not a number"),
        ("one:-1/chat", "the port of a sentinel is not a number"),
        ("one:0/chat", "the port of a sentinel is not between 1 and 65535"),
        ("one:65536/chat", "the port of a sentinel is not between 1 and 65535"),
        ("::1/chat", "not a host: an IPv6 address stands in brackets"),
        ("[::1/chat", "not a host: an IPv6 address stands in brackets"),
        ("[::1]26379/chat", "not a host: an IPv6 address stands in brackets"),
        ("[one]/chat", "what stands in brackets is no IPv6 address"),
        ("one/chat/first", "the database is not a number"),
        ("one/chat/0/1", "the database is not a number"),
        (f":a/{SECRET}@one/chat", '"/" and "@" in a password are written %2F and %40'),
        (f":a#{SECRET}@one/chat", '"#" in a password is written %23'),
        ("one/chat?db=x", "not a database"),
        ("one/chat?db=1&db=2", "an option that is given twice"),
        ("one/chat?password=", "an option without a value"),
        (
            f"one/chat?sentinel_pasword={SECRET}",
            "an option that is unknown, did you mean sentinel_password?",
        ),
        ("one/chat?sentinel_username=x", "sentinel_username without sentinel_password"),
        ("one/chat?ssl_ca_certs=/ca.pem", "an option of TLS without TLS"),
    ],
)
def test_a_wrong_url_is_told_why_and_not_shown(rest: str, why: str) -> None:
    """With and without TLS, where that makes no difference."""
    for scheme in ("redis-sentinel", "rediss-sentinel"):
        if scheme == "redis-sentinel" or "TLS" not in why:
            mistake = refused(f"{scheme}://{rest}")
            assert f"redis.url: got {NOT_SHOWN} ({why});" in mistake
            assert SECRET not in mistake


@pytest.mark.parametrize(
    "url",
    [
        "redis://one?sentinel_password=x",
        "redis-sentinels://one/chat",
        "redis-sentinel:one/chat",
        "REDIS-SENTINEL://one/chat",
    ],
)
def test_what_is_no_such_url_is_none(url: str) -> None:
    """Options of sentinels need sentinels, and the scheme is as it is written."""
    assert not is_sentinel_url(url)
    assert refused(url)


@given(rest=st.text(alphabet=string.ascii_letters[:4] + ":/@,[]?#&=%0159.-", max_size=40))
@example(rest="a:[@]/b?c")
def test_any_text_is_read_or_refused(rest: str) -> None:
    """What the settings let through a daemon can begin with."""
    environment: dict[str, Any] = {"FASTIMD_REDIS__URL": f"redis-sentinel://{rest}"}
    try:
        url = load(None, environment).redis.url
    except ConfigError:
        return
    Service(url).close()
