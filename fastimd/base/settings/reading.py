"""From a file and the environment to a ``Config``, or to the report of all mistakes in them."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..errors import ConfigError
from .config import BUILT_IN, SECTIONS, SETTINGS, Config, Setting, settings
from .consistency import check_api, check_pings, check_token, check_webhook
from .mistakes import NOT_SHOWN, Mistaken, Mistakes, show, suggest

SEARCH_PATHS = (Path("fastimd.toml"), Path("/etc/fastimd/fastimd.toml"))
"""Where settings are looked for when no file is named; the first that exists is taken."""

_PREFIX = "FASTIMD_"
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class _Given(NamedTuple):
    """A value for a known setting, and where it stands."""

    setting: Setting
    value: Any
    where: str
    is_text: bool  # from the environment, where everything is text


def _read_file(path: Path | None, mistakes: Mistakes) -> tuple[str, dict[str, Any]]:
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


def _parse_toml(source: str, data: bytes, mistakes: Mistakes) -> dict[str, Any]:
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


def _find_section(section: str, where: str, mistakes: Mistakes) -> Mapping[str, Setting] | None:
    """The keys of the section; a name nobody knows is a mistake."""
    if section not in SETTINGS:
        advice = suggest(section, SETTINGS)
        mistakes[section].append(f"{where}: unknown section {show(section)}, {advice}")
    return SETTINGS.get(section)


def _find_key(section: str, key: str, where: str, mistakes: Mistakes) -> Setting | None:
    """The setting of that name; a name nobody knows is a mistake."""
    keys = SETTINGS[section]
    if key not in keys:
        elsewhere = [other.name for other in settings() if other.key == key]
        advice = f"did you mean {' or '.join(elsewhere)}?"
        if not elsewhere:
            advice = suggest(key, keys, prefix=f"{section}.")
        mistakes[section].append(f"{where}: unknown key {show(f'{section}.{key}')}, {advice}")
    return keys.get(key)


def _from_file(source: str, tables: Mapping[str, Any], mistakes: Mistakes) -> Iterator[_Given]:
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


def _from_environment(environ: Mapping[str, str], mistakes: Mistakes) -> Iterator[_Given]:
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


def _accept(given: _Given, mistakes: Mistakes) -> Any:
    """The value in the setting's type; if it is refused, a mistake and the default."""
    setting, value, where, is_text = given
    refused = value
    try:
        typed = _from_text(value, setting.default) if is_text else value
        accepted = msgspec.convert(typed, setting.type, strict=True)
        for refused in accepted if isinstance(accepted, tuple) else (accepted,):
            setting.about.check(refused)
    except (msgspec.ValidationError, ValueError) as exc:
        shown = NOT_SHOWN if setting.about.is_secret else show(refused)
        why = f" ({exc})" if isinstance(exc, Mistaken) else ""
        line = f"{where}: {setting.name}: got {shown}{why}; accepted: {setting.description}"
        mistakes[setting.section].append(line)
        return setting.default
    return accepted


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
    mistakes: Mistakes = defaultdict(list)
    source, tables = _read_file(path, mistakes)
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    ping_places: dict[str, str] = {}
    for given in (*_from_file(source, tables, mistakes), *_from_environment(environ, mistakes)):
        section, key = given.setting.section, given.setting.key
        values[section][key] = _accept(given, mistakes)
        if key.startswith("ping_"):
            ping_places[key] = given.where
    sections: dict[str, Any] = {
        section: struct(**values[section]) for section, struct in SECTIONS.items()
    }
    config = Config(**sections, source=source)
    check_pings(config.socket, dict.fromkeys(ping_places.values()), mistakes)
    check_webhook(config, mistakes)
    check_token(config, mistakes)
    check_api(config, mistakes)
    if lines := [line for section in mistakes.values() for line in section]:
        raise ConfigError(lines)
    return config
