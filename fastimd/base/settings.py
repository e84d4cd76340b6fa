"""Settings: one frozen struct a section, filled from a TOML file and then from the environment.

A setting is declared once, as a field: its default is the built-in one, its type refuses bad
values, and the type's description is what an operator reads when a value is refused. Every value
is checked on its own, so that all mistakes are reported at once. A value that may hold a password
is never repeated in a report.
"""

from __future__ import annotations

import difflib
import ipaddress
import itertools
import os
import re
import tomllib
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Meta

from .errors import ConfigError

SEARCH_PATHS = (Path("fastimd.toml"), Path("/etc/fastimd/fastimd.toml"))
"""Where settings are looked for when no file is named; the first that exists is taken."""

FIXED = frozenset(
    (
        *("server.bind", "admin.bind", "redis.url", "redis.data_dir"),
        *("login.hook", "log.format"),
        *("hooks.handler", "hooks.webhook_url", "hooks.webhook_secret", "hooks.webhook_events"),
        *("hooks.webhook_retries", "hooks.webhook_connections"),
        *("hooks.login_timeout", "hooks.authorize_timeout", "hooks.message_timeout"),
        *("hooks.presence_timeout", "hooks.authorize_on_failure", "hooks.message_on_failure"),
    )
)
"""Settings that hold from the start of the daemon to its end."""

BUILT_IN = "built-in defaults"
"""``Config.source`` when no file was found."""

SECRET_PREFIX = "whsec_"  # noqa: S105 - of Standard Webhooks; what follows is the secret

_PREFIX = "FASTIMD_"
_SHOWN = 60  # characters of a refused value in a report
_NOT_SHOWN = "a value that is not shown, as it may hold a password"
_NEVER_SHOWN = frozenset(("redis.url", "hooks.webhook_url", "hooks.webhook_secret"))
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_MAY_HOLD_PASSWORD = re.compile(r"@|password|rediss?://", re.IGNORECASE)
_BIND = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>\w[\w.-]*)):(?P<port>[0-9]{1,5})", re.ASCII)
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
_UNIX_PATH_BYTES = 107  # sun_path of unix(7), less its end
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?")


def parse_bind(value: str) -> tuple[str, int]:
    """Read ``HOST:PORT`` or ``[v6]:PORT``; port 0 means one that is free.

    Returns:
        The host, without brackets, and the port.

    Raises:
        ValueError: it is neither.
    """
    match = _BIND.fullmatch(value)
    if match is None or int(match["port"]) > 65535:
        raise ValueError("neither HOST:PORT nor [v6]:PORT")
    host = match["host"]
    if host is None:
        host = str(ipaddress.IPv6Address(match["v6"]))
    elif host.replace(".", "").isdigit():
        host = str(ipaddress.IPv4Address(host))
    return host, int(match["port"])


def unix_path(bind: str) -> Path | None:
    """Read ``unix:/PATH``; None when it is another kind of address.

    Raises:
        ValueError: the path is none that a socket can have.
    """
    if not bind.startswith("unix:/"):
        return None
    path = bind.removeprefix("unix:")
    if path.startswith("//") or "\0" in path or len(os.fsencode(path)) > _UNIX_PATH_BYTES:
        raise ValueError("not the path of a socket")
    return Path(path)


def _check_admin_bind(value: str) -> None:
    if value and unix_path(value) is None:
        parse_bind(value)


def _check_origin(value: str) -> None:
    if value != "*" and (not _ORIGIN.fullmatch(value) or urlsplit(value).port == 0):
        raise ValueError("not an origin")


def _check_redis_url(value: str) -> None:
    """Refuse what redis-py would refuse later, or silently read as another server or database."""
    if value == "embedded":
        return
    parts = urlsplit(value)
    if value.startswith("unix://"):
        understood = parts.hostname is None and len(parts.path) > 1
    else:
        understood = value.startswith(("redis://", "rediss://")) and parts.port != 0
        understood = understood and re.fullmatch(r"/?[0-9]*", parts.path) is not None
    if not understood:
        raise ValueError("not a URL of Redis")
    if parts.query:
        _check_redis_options(parts.query, is_tls=value.startswith("rediss://"))


def _check_redis_options(query: str, *, is_tls: bool) -> None:
    """Refuse options that would mean nothing: misspelled ones, and those of TLS without TLS."""
    options = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    names = [name for name, _ in options]
    given = dict(options)
    if len(given) < len(names) or not given.keys() <= _REDIS_OPTIONS | _IDLE_OPTIONS:
        raise ValueError("an option that is unknown or given twice")
    if any(not value for value in given.values()):
        raise ValueError("an option without a value")
    if not is_tls and given.keys() & set(_TLS_OPTIONS):
        raise ValueError("an option of TLS without TLS")
    if re.fullmatch("[0-9]+", given.get("db", "0"), re.ASCII) is None:
        raise ValueError("not a database")
    if given.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        raise ValueError("not a value of ssl_cert_reqs")


def _check_webhook_url(value: str) -> None:
    if not value:
        return
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("not a URL of a receiver")
    if parts.fragment or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("not a URL of a receiver")
    import httpx  # here, because without webhooks nobody needs an HTTP client

    try:
        _ = httpx.URL(value).host  # it is read more strictly than by urlsplit
    except httpx.InvalidURL as exc:
        raise ValueError("not a URL of a receiver") from exc


def _check_webhook_secret(value: str) -> None:
    if not value:
        return
    if not value.startswith(SECRET_PREFIX):
        raise ValueError("not of the form of Standard Webhooks")
    key = b64decode(value.removeprefix(SECRET_PREFIX), validate=True)
    if not 24 <= len(key) <= 64:
        raise ValueError("not of a length that Standard Webhooks allows")


def _pass(value: object) -> None:
    """Check nothing beyond the type."""


def _checked(check: Callable[[str], object], description: str) -> Meta:
    """Constrain a string, or each string of a list, to what ``check`` passes."""
    return Meta(description=description, extra={"check": check})


_CENTURY = 3_153_600_000  # seconds; EXPIRE refuses lives that overflow its clock
_Life = Annotated[
    int, Meta(ge=1, le=_CENTURY, description="whole seconds, from 1 to 3153600000 (100 years)")
]
_Period = Annotated[
    float, Meta(gt=0, le=86_400, description="seconds, more than 0, at most 86400 (a day)")
]
_OnFailure = Annotated[Literal["refuse", "allow"], Meta(description='"refuse" or "allow"')]
_Count = Annotated[
    int, Meta(ge=0, le=2**32 - 1, description="a whole number, from 0 (no limit) to 4294967295")
]


def _show_section(section: str, struct: msgspec.Struct) -> str:
    """``repr`` of a section without what may hold a password."""
    shown = [
        f"{name}=<not shown>"
        if f"{section}.{name}" in _NEVER_SHOWN
        else f"{name}={getattr(struct, name)!r}"
        for name in struct.__struct_fields__
    ]
    return f"{type(struct).__name__}({', '.join(shown)})"


class Server(msgspec.Struct, frozen=True):
    """The public port."""

    bind: Annotated[
        str, _checked(parse_bind, '"HOST:PORT" or "[v6]:PORT", port 0 to 65535 (0 = a free one)')
    ] = "127.0.0.1:9000"
    allowed_origins: Annotated[
        tuple[str, ...],
        _checked(
            _check_origin,
            'a list of "*" (any) or origins as browsers send them, such as'
            ' "https://chat.example.org" or "http://localhost:8080": lower case, no path',
        ),
    ] = ("*",)
    max_connections: Annotated[
        int,
        Meta(ge=0, description="a whole number, 0 or more (0 = as many as the file limit allows)"),
    ] = 0
    max_connections_per_ip: Annotated[
        int, Meta(ge=0, description="a whole number, 0 or more (0 = no limit)")
    ] = 0
    trusted_proxies: Annotated[
        tuple[str, ...],
        _checked(
            ipaddress.ip_network,
            'a list of IP addresses or CIDR networks, such as "10.0.0.7" or "10.0.0.0/8"',
        ),
    ] = ()
    drain_seconds: Annotated[
        float, Meta(ge=0, le=86_400, description="seconds, from 0 (at once) to 86400 (a day)")
    ] = 10.0


class Redis(msgspec.Struct, frozen=True):
    """The Redis that holds all state. ``repr`` leaves out the URL, which may hold a password."""

    url: Annotated[
        str,
        _checked(
            _check_redis_url,
            '"embedded", "redis://[[user]:password@]host[:port][/database]", the same with'
            ' rediss:// (TLS), or "unix:///path/to/socket"; reserved characters in a password'
            ' are percent-encoded; behind "?", divided by "&", may stand db, username, password,'
            " and with rediss:// " + ", ".join(_TLS_OPTIONS),
        ),
    ] = "embedded"
    data_dir: Annotated[
        str,
        Meta(
            description='the path of a directory; "" = $STATE_DIRECTORY, else'
            " $XDG_STATE_HOME/fastimd, else ~/.local/state/fastimd"
        ),
    ] = ""
    hold_bytes: Annotated[
        int, Meta(ge=0, le=2**40, description="bytes, from 0 (nothing) to 1099511627776 (1 TiB)")
    ] = 4_194_304
    hold_seconds: Annotated[
        float, Meta(ge=0, le=86_400, description="seconds, from 0 (not at all) to 86400 (a day)")
    ] = 10.0

    def __repr__(self) -> str:
        return _show_section("redis", self)


class Group(msgspec.Struct, frozen=True):
    """Who may enter a group, and how many."""

    login_auth: Annotated[bool, Meta(description="true or false")] = False
    auto_join: Annotated[bool, Meta(description="true or false")] = True
    max_joined: _Count = 10_000


class GroupMessage(msgspec.Struct, frozen=True):
    """The messages of a group: how long, how many, how large."""

    timeout: _Life = 604_800
    list_num: Annotated[
        int, Meta(ge=0, le=10_000, description="a whole number of messages, from 0 to 10000")
    ] = 50
    recall_time_limit: Annotated[
        int, Meta(ge=0, le=_CENTURY, description="whole seconds, from 0 to 3153600000 (100 years)")
    ] = 120
    max_length: _Count = 100_000
    max_bytes: Annotated[
        int, Meta(ge=1, le=16_777_216, description="bytes, from 1 to 16777216 (16 MiB)")
    ] = 65_536


class GroupList(msgspec.Struct, frozen=True):
    """The list of a user's groups, as it is pushed to list sockets."""

    update_rate: _Period = 1.0


class Socket(msgspec.Struct, frozen=True):
    """What a WebSocket connection is held to."""

    ping_interval: _Period = 25.0
    ping_timeout: Annotated[
        float,
        Meta(
            gt=0, le=86_400, description="seconds, more than ping_interval, at most 86400 (a day)"
        ),
    ] = 60.0
    outbox_bytes: Annotated[int, Meta(ge=4096, description="bytes, 4096 or more")] = 1_048_576
    max_messages_per_second: Annotated[
        float,
        Meta(ge=0, le=1_000_000, description="a number, from 0 (no limit) to 1000000"),
    ] = 0.0
    message_burst: Annotated[
        int, Meta(ge=1, le=1_000_000, description="a whole number, from 1 to 1000000")
    ] = 20


class Login(msgspec.Struct, frozen=True):
    """Who may log in, and for how long."""

    hook: Annotated[
        str,
        Meta(
            pattern=r"^(?:[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*)?\Z",
            description='"" (everybody) or "package.module:callable"',
        ),
    ] = ""
    token_ttl: _Life = 86_400


class Hooks(msgspec.Struct, frozen=True):
    """What the application decides. ``repr`` leaves out the receiver's URL and the secret."""

    handler: Annotated[
        str,
        Meta(
            pattern=r"^(?:[^\W\d]\w*(?:\.[^\W\d]\w*)*(?::[^\W\d]\w*)?)?\Z",
            description='"" (none), "package.module" or "package.module:attribute"',
        ),
    ] = ""
    webhook_url: Annotated[
        str, _checked(_check_webhook_url, '"" (none), or an http:// or https:// URL')
    ] = ""
    webhook_secret: Annotated[
        str,
        _checked(
            _check_webhook_secret,
            '"" (none), or "whsec_" with 24 to 64 bytes in base64 behind it, such as'
            " `openssl rand -base64 32` prints",
        ),
    ] = ""
    webhook_events: Annotated[
        tuple[Literal["login", "authorize", "on_message", "on_join", "on_leave"], ...],
        Meta(
            description='a list of "login", "authorize", "on_message", "on_join" and "on_leave"',
        ),
    ] = ()
    webhook_retries: Annotated[
        int, Meta(ge=0, le=10, description="a whole number, from 0 to 10")
    ] = 2
    webhook_connections: Annotated[
        int, Meta(ge=2, le=10_000, description="a whole number, from 2 to 10000")
    ] = 32
    login_timeout: _Period = 5.0
    authorize_timeout: _Period = 5.0
    message_timeout: _Period = 5.0
    presence_timeout: _Period = 5.0
    authorize_on_failure: _OnFailure = "refuse"
    message_on_failure: _OnFailure = "refuse"

    def __repr__(self) -> str:
        return _show_section("hooks", self)


class Admin(msgspec.Struct, frozen=True):
    """The address of the operator: metrics, health and commands."""

    bind: Annotated[
        str,
        _checked(
            _check_admin_bind,
            '"" (off), "HOST:PORT" or "[v6]:PORT", port 0 to 65535 (0 = a free one), or'
            ' "unix:/path/to/socket", at most 107 bytes',
        ),
    ] = "127.0.0.1:9001"


class Log(msgspec.Struct, frozen=True):
    """What is logged to standard error, and how it looks."""

    format: Annotated[
        Literal["auto", "console", "json"], Meta(description='"auto", "console" or "json"')
    ] = "auto"
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description='"debug", "info", "warning" or "error"'),
    ] = "info"
    message_text: Annotated[bool, Meta(description="true or false")] = False


class Config(msgspec.Struct):
    """Every setting, and the file they came from (an absolute path, or ``BUILT_IN``).

    Its sections are replaced while the daemon runs (``adopt``): whoever works by a setting asks for
    it each time.
    """

    server: Server = Server()
    redis: Redis = Redis()
    group: Group = Group()
    group_message: GroupMessage = GroupMessage()
    group_list: GroupList = GroupList()
    socket: Socket = Socket()
    login: Login = Login()
    hooks: Hooks = Hooks()
    admin: Admin = Admin()
    log: Log = Log()
    source: str = BUILT_IN


class Setting(NamedTuple):
    """One key as data. ``description`` says what is accepted, with its unit."""

    section: str
    key: str
    default: Any
    description: str
    type: Any
    check: Callable[[Any], object]


class _Given(NamedTuple):
    """A value for a known setting, and where it stands."""

    setting: Setting
    value: Any
    where: str
    is_text: bool  # from the environment, where everything is text


_STRUCTS = {
    section.name: section.type
    for section in msgspec.structs.fields(Config)
    if section.name != "source"
}
_Mistakes = defaultdict[str, list[str]]  # lines, by section; "file" if it cannot be read


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the documentation."""
    for section, struct in _STRUCTS.items():
        for field in msgspec.structs.fields(struct):
            meta = field.type.__metadata__[0]
            check = (meta.extra or {}).get("check", _pass)
            yield Setting(section, field.name, field.default, meta.description, field.type, check)


_SETTINGS = {
    section: {setting.key: setting for setting in group}
    for section, group in itertools.groupby(settings(), key=lambda setting: setting.section)
}


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


def _read_file(path: Path | None, mistakes: _Mistakes) -> tuple[str, dict[str, Any]]:
    """The file's name and content; no content if none was named and none is found."""
    for candidate in SEARCH_PATHS if path is None else (path,):
        source = str(candidate.absolute())
        try:
            data = candidate.read_bytes()
        except OSError as error:
            if path is None and isinstance(error, FileNotFoundError):
                continue
            mistakes["file"].append(f"{source}: cannot be read: {error.strerror}")
            return source, {}
        return source, _parse_toml(source, data, mistakes)
    return BUILT_IN, {}


def _parse_toml(source: str, data: bytes, mistakes: _Mistakes) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        reason = f"not UTF-8 (at line {line})"
    except ValueError as error:
        end = f"at line {len(data.splitlines())}, the end of the document"
        reason = str(error).replace("at end of document", end)
    mistakes["file"].append(f"{source}: not TOML: {reason}")
    return {}


def _suggest(word: str, known: Iterable[str], prefix: str = "") -> str:
    names = list(known)
    nearest = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {prefix}{nearest[0]}?" if nearest else f"known are {', '.join(names)}"


def _find_section(section: str, where: str, mistakes: _Mistakes) -> Mapping[str, Setting] | None:
    """The keys of the section; a name nobody knows is a mistake."""
    if section not in _SETTINGS:
        advice = _suggest(section, _SETTINGS)
        mistakes[section].append(f"{where}: unknown section {_show(section)}, {advice}")
    return _SETTINGS.get(section)


def _find_key(section: str, key: str, where: str, mistakes: _Mistakes) -> Setting | None:
    """The setting of that name; a name nobody knows is a mistake."""
    keys = _SETTINGS[section]
    if key not in keys:
        elsewhere = [f"{other.section}.{key}" for other in settings() if other.key == key]
        advice = f"did you mean {' or '.join(elsewhere)}?"
        if not elsewhere:
            advice = _suggest(key, keys, prefix=f"{section}.")
        mistakes[section].append(f"{where}: unknown key {_show(f'{section}.{key}')}, {advice}")
    return keys.get(key)


def _from_file(source: str, tables: Mapping[str, Any], mistakes: _Mistakes) -> Iterator[_Given]:
    for section, table in tables.items():
        if _find_section(section, source, mistakes) is None:
            continue
        if not isinstance(table, dict):
            advice = f"not a section; accepted: [{section}] with its keys on the lines below"
            mistakes[section].append(f"{source}: {section}: {advice}")
            continue
        for key, value in table.items():
            if setting := _find_key(section, key, source, mistakes):
                yield _Given(setting, value, source, is_text=False)


def _from_environment(environ: Mapping[str, str], mistakes: _Mistakes) -> Iterator[_Given]:
    for variable in sorted(environ):
        section, separator, key = variable.removeprefix(_PREFIX).lower().partition("__")
        if not variable.startswith(_PREFIX) or not separator:
            continue
        where = f"environment variable {variable}"
        if _find_section(section, where, mistakes) is None:
            continue
        if setting := _find_key(section, key, where, mistakes):
            yield _Given(setting, environ[variable], where, is_text=True)


def _from_text(text: str, default: Any) -> Any:
    """Read text as the type of the default; text that is not of it comes back as it is."""
    try:
        match default:
            case bool():
                return _BOOLEANS[text.lower()]
            case int() | float():
                return type(default)(text)
            case tuple() if text.startswith("["):
                return tomllib.loads(f"list = {text}")["list"]
            case tuple():
                return [item.strip() for item in text.split(",") if item.strip()]
    except (KeyError, ValueError):
        pass
    return text


def _show(value: object) -> str:
    shown = repr(value)
    if _MAY_HOLD_PASSWORD.search(shown):
        return _NOT_SHOWN
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."


def _accept(given: _Given, mistakes: _Mistakes) -> Any:
    """The value in the setting's type; if it is refused, a mistake and the default."""
    setting, value, where, is_text = given
    refused = value
    try:
        typed = _from_text(value, setting.default) if is_text else value
        accepted = msgspec.convert(typed, setting.type, strict=True)
        for refused in accepted if isinstance(accepted, tuple) else (accepted,):
            setting.check(refused)
    except (msgspec.ValidationError, ValueError):
        name = f"{setting.section}.{setting.key}"
        shown = _NOT_SHOWN if name in _NEVER_SHOWN else _show(refused)
        line = f"{where}: {name}: got {shown}; accepted: {setting.description}"
        mistakes[setting.section].append(line)
        return setting.default
    return accepted


def _check_pings(socket: Socket, where: Iterable[str], mistakes: _Mistakes) -> None:
    """Silence may be held against a peer only after a ping it could have answered.

    Not asked while one of the two may be missing because of another mistake.
    """
    if {"file", "socket"} & mistakes.keys():
        return
    if socket.ping_timeout <= socket.ping_interval:
        mistakes["socket"].append(
            f"{', '.join(where)}: socket.ping_timeout: got {socket.ping_timeout:g};"
            f" accepted: seconds, more than socket.ping_interval ({socket.ping_interval:g})"
        )


def _check_webhook(config: Config, mistakes: _Mistakes) -> None:
    """A receiver needs a secret and events; events without a receiver would be asked of nobody.

    Not asked while one of them may be missing because of another mistake.
    """
    if {"file", "hooks", "login"} & mistakes.keys():
        return
    hooks = config.hooks
    if hooks.webhook_url and not hooks.webhook_secret:
        mistakes["hooks"].append(
            f"{config.source}: hooks.webhook_secret: not given; hooks.webhook_url needs it"
        )
    if bool(hooks.webhook_url) != bool(hooks.webhook_events):
        given, missing = "webhook_url", "webhook_events"
        if hooks.webhook_events:
            given, missing = missing, given
        mistakes["hooks"].append(
            f"{config.source}: hooks.{missing}: not given; hooks.{given} needs it"
        )
    if config.login.hook and "login" in hooks.webhook_events:
        mistakes["hooks"].append(
            f'{config.source}: hooks.webhook_events: has "login", and login.hook'
            f" ({config.login.hook!r}) is set too; take it out of one"
        )


class Changes(NamedTuple):
    """What differs in newly read settings, as ``section.key``: taken over, and for a restart."""

    adopted: list[str]
    for_restart: list[str]


def adopt(config: Config, new: Config) -> Changes:
    """Take over the settings that can change while the daemon runs."""
    changes = Changes([], [])
    for section, keys in _SETTINGS.items():
        ours, theirs = getattr(config, section), getattr(new, section)
        changed = [key for key in keys if getattr(ours, key) != getattr(theirs, key)]
        adopted = [key for key in changed if f"{section}.{key}" not in FIXED]
        changes.adopted.extend(f"{section}.{key}" for key in adopted)
        changes.for_restart.extend(f"{section}.{key}" for key in changed if key not in adopted)
        values = {key: getattr(theirs, key) for key in adopted}
        setattr(config, section, msgspec.structs.replace(ours, **values))
    return changes


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the settings: built-in defaults, then a file, then the environment.

    Args:
        path: the file; ``None`` looks in ``SEARCH_PATHS`` and is content with none.
        environ: ``FASTIMD_<SECTION>__<KEY>`` overrides a key, in upper or lower case after the
            prefix. A list is separated by commas or is a TOML array; a boolean is true, false,
            1, 0, yes or no.

    Raises:
        ConfigError: the file cannot be read or is not TOML; or any key, section or value is
            wrong, in which case it lists every mistake.
    """
    mistakes: _Mistakes = defaultdict(list)
    source, tables = _read_file(path, mistakes)
    values: dict[str, dict[str, Any]] = {section: {} for section in _STRUCTS}
    ping_places: dict[str, str] = {}
    for given in (*_from_file(source, tables, mistakes), *_from_environment(environ, mistakes)):
        section, key = given.setting.section, given.setting.key
        values[section][key] = _accept(given, mistakes)
        if key.startswith("ping_"):
            ping_places[key] = given.where
    config = Config(
        **{section: struct(**values[section]) for section, struct in _STRUCTS.items()},
        source=source,
    )
    _check_pings(config.socket, dict.fromkeys(ping_places.values()), mistakes)
    _check_webhook(config, mistakes)
    if lines := [line for section in mistakes.values() for line in section]:
        raise ConfigError(lines)
    return config
