"""``[redis]``: which Redis, and how much may wait while it takes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from msgspec import Meta

from ..errors import ConfigError
from .cluster_url import is_cluster_url, read_cluster_url
from .mistakes import Mistaken, suggest
from .section import AFTER_RESTART, About, Section
from .sentinel_url import SENTINEL_OPTIONS, is_sentinel_url, read_sentinel_url

_TLS_OPTIONS = (
    *("ssl_ca_certs", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password"),
    *("ssl_check_hostname", "ssl_cert_reqs"),
)
_REDIS_OPTIONS = frozenset(("db", "username", "password", *_TLS_OPTIONS))
# What redis-py knows beside these and fastimd has its own way with: others may share the URL.
_IDLE_OPTIONS = frozenset(
    (
        *("protocol", "timeout", "socket_timeout", "socket_connect_timeout", "socket_keepalive"),
        *("retry_on_timeout", "health_check_interval", "max_connections", "client_name"),
        *("decode_responses", "encoding"),
    )
)


def _check_url(value: str) -> None:
    """Refuse what redis-py would refuse later, or silently read as another server or database."""
    if value == "embedded":
        return
    if is_sentinel_url(value) or is_cluster_url(value):
        (read_sentinel_url if is_sentinel_url(value) else read_cluster_url)(value)
        query = value.partition("?")[2]
    else:
        query = _check_server(value)
    if query:
        _check_options(query, value.partition("://")[0])


def _check_server(value: str) -> str:
    """Check the URL of one server; returns its options."""
    parts = urlsplit(value)
    if value.startswith("unix://"):
        understood = parts.hostname is None and len(parts.path) > 1
    else:
        understood = value.startswith(("redis://", "rediss://")) and parts.port != 0
        understood = understood and re.fullmatch(r"/?[0-9]*", parts.path) is not None
    if not understood:
        raise Mistaken("not a URL of Redis")
    return parts.query


def _check_options(query: str, scheme: str) -> None:
    """Refuse options that would mean nothing: misspelled ones, and those of TLS without TLS."""
    options = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    given = dict(options)
    known = _REDIS_OPTIONS | _IDLE_OPTIONS
    if scheme.endswith("-sentinel"):
        known |= set(SENTINEL_OPTIONS)
    if unknown := sorted(given.keys() - known):
        raise Mistaken(f"an option that is unknown, {suggest(unknown[0], sorted(known))}")
    if len(given) < len(options):
        raise Mistaken("an option that is given twice")
    if any(not value for value in given.values()):
        raise Mistaken("an option without a value")
    if not scheme.startswith("rediss") and given.keys() & set(_TLS_OPTIONS):
        raise Mistaken("an option of TLS without TLS")
    if re.fullmatch("[0-9]+", given.get("db", "0"), re.ASCII) is None:
        raise Mistaken("not a database")
    if given.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        raise Mistaken("not a value of ssl_cert_reqs")
    if "sentinel_username" in given and "sentinel_password" not in given:
        raise Mistaken("sentinel_username without sentinel_password")


class Redis(Section, frozen=True):
    """The Redis that holds all state."""

    url: Annotated[
        str,
        Meta(
            description='"embedded", "redis://[[user]:password@]host[:port][/database]",'
            ' "redis-sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/database]",'
            ' "redis-cluster://[[user]:password@]host[:port][,host[:port]...]",'
            " the same with rediss://, rediss-sentinel:// and rediss-cluster:// (TLS), or"
            ' "unix:///path/to/socket"; reserved characters in a password are percent-encoded;'
            ' behind "?", divided by "&", may stand db, username, password, with sentinels '
            + ", ".join(SENTINEL_OPTIONS)
            + ", and with TLS "
            + ", ".join(_TLS_OPTIONS),
        ),
        About(
            '"embedded" starts a private redis-server or valkey-server and keeps it running; a URL'
            " names your own Redis or Valkey. TLS options follow the URL, as in"
            ' "rediss://host?ssl_ca_certs=/path/to/ca.pem". In redis-sentinel:// the hosts are'
            " sentinels, which the daemon asks for the master of the service; user and password"
            " are those of the master. In redis-cluster:// they are some nodes of a Redis Cluster.",
            check=_check_url,
            holds=AFTER_RESTART,
            is_secret=True,
        ),
    ] = "embedded"
    data_dir: Annotated[
        str,
        Meta(
            description='the path of a directory; "" = $STATE_DIRECTORY, else'
            " $XDG_STATE_HOME/fastimd, else ~/.local/state/fastimd"
        ),
        About(
            "Where the embedded Redis keeps its files. systemd sets $STATE_DIRECTORY.",
            holds=AFTER_RESTART,
        ),
    ] = ""
    hold_bytes: Annotated[
        int,
        Meta(ge=0, le=2**40, description="bytes, from 0 (nothing) to 1099511627776 (1 TiB)"),
        About(
            "How much may wait in the daemon while Redis accepts no messages. If a message does"
            " not fit, its sender's socket is closed.",
        ),
    ] = 4_194_304
    hold_seconds: Annotated[
        float,
        Meta(ge=0, le=86_400, description="seconds, from 0 (not at all) to 86400 (a day)"),
        About(
            "How long a message may wait while Redis accepts none; then its sender's socket is"
            " closed. Kicks are remembered for the same time, for daemons that are cut off from"
            " Redis.",
        ),
    ] = 10.0


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Where the embedded Redis keeps its files when ``redis.data_dir`` is "".

    systemd sets $STATE_DIRECTORY, a list with colons, for a unit with StateDirectory=; a relative
    $XDG_STATE_HOME is ignored, as the XDG Base Directory Specification asks.

    Raises:
        ConfigError: there is no home directory to put it in.
    """
    if state_directory := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(state_directory)
    state_home = Path(environ.get("XDG_STATE_HOME", ""))
    if state_home.is_absolute():
        return state_home / "fastimd"
    try:
        home = Path(environ.get("HOME") or Path.home())
    except RuntimeError as error:
        mistake = "redis.data_dir: not given, and there is no home directory to use instead"
        raise ConfigError([mistake]) from error
    return home / ".local/state/fastimd"
