"""Structured logs: an event and its fields, JSON lines or coloured lines on standard error.

A line is made as bytes and written at once, with one call. On the journal's stream it begins with
its priority. ``is_debug`` says whether debug lines are written: where many messages go by it is
asked first, as it costs less than a logger that drops what it is given.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

import msgspec
import structlog
import trio
from structlog.typing import EventDict, Processor

from . import recent

# What JSON leaves as it is and a terminal or an editor may obey: C1 controls, line separators and
# marks of direction.
_OBEYED = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_STDERR = 2
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
"""Of sd-daemon(3)."""

_LEVELS = {name.lower(): number for name, number in logging.getLevelNamesMapping().items()}
_LEVELS["exception"] = logging.ERROR
_least = logging.INFO
is_debug = False
"""Debug lines are written."""

_LIMIT_SECONDS = 1.0
_LIMITED_LEVELS = frozenset(("warning", "error", "exception"))
_ALSO_LIMITED = frozenset(("connection.refused",))
_NEVER_LIMITED = frozenset(("log.suppressed", "worker.died"))

_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound", default=MappingProxyType({}))

log = structlog.get_logger("fastimd.log")


def configure(log_format: str, level: str) -> None:
    """Set up the logs of the process, the libraries' included.

    Args:
        log_format: ``json``, ``console``, or ``auto`` (console on a terminal, JSON elsewhere).
        level: the least level that is written.
    """
    on_terminal = sys.stderr.isatty()
    console = log_format == "console" or (log_format == "auto" and on_terminal)
    render: list[Processor] = (
        [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=False, key="ts"),
            _console_renderer(colors=on_terminal),
            _encode_text,
        ]
        if console
        else [structlog.processors.format_exc_info, _render_json]
    )
    _limit.clear()
    recent.forget()
    structlog.configure(
        processors=[
            _add_bound,
            recent.remember,  # before lines are left out: it counts them
            _limit,
            *render,
            *([_put_priority] if _is_journal() else []),
        ],
        wrapper_class=_Logger,
        logger_factory=lambda *_names: _LINES,
        cache_logger_on_first_use=True,
    )
    logging.getLogger().handlers = [_LibraryHandler()]
    set_level(level)


def set_level(level: str) -> None:
    """Change the least level that is written; loggers that were used already obey too."""
    global _least, is_debug
    _least = _LEVELS[level]
    is_debug = _least <= logging.DEBUG
    logging.getLogger().setLevel(max(_least, logging.WARNING))


def bind(**fields: Any) -> None:
    """Have each line of this task have these fields too, and of the tasks that it starts."""
    _bound.set({**_bound.get(), **fields})


def bound() -> Mapping[str, Any]:
    """The fields that each line of this task has."""
    return _bound.get()


def print_mistake(text: str) -> None:
    """Tell, in one line for people, why the process cannot do what it was started for."""
    line = f"fastimd: {text}".encode(errors="backslashreplace")
    line = _put_priority(None, "error", line) if _is_journal() else line
    _LINES.msg(line)


async def keep_telling() -> None:
    """Tell how many lines were left out of each kind of trouble that has ended, until cancelled."""
    while True:
        await trio.sleep(_LIMIT_SECONDS)
        tell_left_out(time.monotonic() - _LIMIT_SECONDS)


def tell_left_out(before: float = float("inf")) -> None:
    """Tell how many lines were left out since a line of their kind, if it came before a moment."""
    for (of, purpose, status, key), kind in _limit.take_left_out(before):
        count = kind.left_out
        if kind.level == "info":
            log.info(
                "log.suppressed", of=of, purpose=purpose, status=status, key=key, suppressed=count
            )
        elif kind.level == "warning":
            log.warning(
                "log.suppressed", of=of, purpose=purpose, status=status, key=key, suppressed=count
            )
        else:
            log.error(
                "log.suppressed", of=of, purpose=purpose, status=status, key=key, suppressed=count
            )


class _Logger(structlog.BoundLoggerBase):
    """Makes a line by a shorter way than structlog's own: each connection has two."""

    def debug(self, event: str, **fields: Any) -> None:
        self._tell("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._tell("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._tell("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._tell("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        fields.setdefault("exc_info", True)
        self._tell("error", event, fields)

    def critical(self, event: str, **fields: Any) -> None:
        self._tell("critical", event, fields)

    def _tell(self, method: str, event: str, fields: Any) -> None:
        if _LEVELS[method] < _least:
            return
        fields["event"] = event
        try:
            for process in self._processors:
                fields = process(self._logger, method, fields)
        except structlog.DropEvent:
            return
        self._logger.msg(fields)


class _Lines:
    """Writes lines whole, whichever thread they come from.

    A line that cannot be written is lost, and nothing else goes wrong.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def msg(self, line: bytes) -> None:
        line += b"\n"
        try:
            with self._lock:
                written = os.write(_STDERR, line)
                while written < len(line):
                    written += os.write(_STDERR, line[written:])
        except OSError:
            pass


_LINES = _Lines()


class _LibraryHandler(logging.Handler):
    """Passes on what libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if record.levelno >= logging.CRITICAL:
                write = log.critical
            else:
                write = log.error if record.levelno >= logging.ERROR else log.warning
            write(record.getMessage(), logger=record.name, exc_info=record.exc_info)
        except Exception:
            self.handleError(record)


def _add_bound(_logger: Any, _method: str, event: EventDict) -> EventDict:
    bound = _bound.get()
    if bound.keys().isdisjoint(event):
        event.update(bound)
    else:
        for name, value in bound.items():
            event.setdefault(name, value)
    return event


class _Kind:
    """Lines of one kind since one of them was written. ``written_at`` is by ``time.monotonic``."""

    __slots__ = ("left_out", "level", "written_at")

    def __init__(self, level: str, written_at: float) -> None:
        self.level = level
        self.written_at = written_at
        self.left_out = 0


_Key: TypeAlias = tuple[str, str | None, int | None, str | None]
"""Event, purpose, status and key of Redis."""


class _Limit:
    """Lets each kind of trouble be written once a second.

    The next line of the kind counts those left out. When none comes, ``take_left_out`` does.
    """

    def __init__(self) -> None:
        self._kinds: dict[_Key, _Kind] = {}

    def __call__(self, _logger: Any, method: str, event: EventDict) -> EventDict:
        name = event["event"]
        if (method not in _LIMITED_LEVELS and name not in _ALSO_LIMITED) or name in _NEVER_LIMITED:
            return event
        key = (name, event.get("purpose"), event.get("status"), event.get("key"))
        now = time.monotonic()
        last = self._kinds.get(key)
        if last is not None and now - last.written_at < _LIMIT_SECONDS:
            last.left_out += 1
            raise structlog.DropEvent
        self._kinds[key] = _Kind(method, now)
        if last is not None and last.left_out:
            event["suppressed"] = last.left_out
        return event

    def take_left_out(self, before: float) -> Iterator[tuple[_Key, _Kind]]:
        """Forget the kinds last written before a moment; those of which lines were left out."""
        for key, kind in list(self._kinds.items()):
            if kind.written_at <= before:
                del self._kinds[key]
                if kind.left_out:
                    yield key, kind

    def clear(self) -> None:
        """Forget everything."""
        self._kinds.clear()


_limit = _Limit()


def _console_renderer(*, colors: bool) -> Processor:
    # The default renderer may print the variables of a traceback, tokens among them.
    return structlog.dev.ConsoleRenderer(
        colors=colors, timestamp_key="ts", exception_formatter=structlog.dev.plain_traceback
    )


def _encode_text(_logger: Any, _method: str, text: Any) -> bytes:
    return str(text).encode(errors="backslashreplace")


_encode_json = msgspec.json.Encoder(enc_hook=repr).encode


def _render_json(_logger: Any, method: str, event: EventDict) -> bytes:
    level = "error" if method == "exception" else method
    ordered = {"ts": _utc(time.time_ns()), "level": level, **event}
    try:
        line = _encode_json(ordered)
    except UnicodeEncodeError:  # the path of a file may be no text
        line = json.dumps(ordered, default=repr).encode()
    if line.isascii() and b"\x7f" not in line:
        return line
    return _OBEYED.sub(_escape, line.decode()).encode()


def _utc(now: int) -> str:
    """A moment in nanoseconds since the epoch, in the form of ISO 8601."""
    seconds, rest = divmod(now, 1_000_000_000)
    return f"{_utc_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=2)
def _utc_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _escape(character: re.Match[str]) -> str:
    return f"\\u{ord(character[0]):04x}"


def _is_journal() -> bool:
    """Standard error is what systemd has connected with the journal, systemd.exec(5)."""
    try:
        status = os.fstat(_STDERR)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _put_priority(_logger: Any, method: str, line: Any) -> bytes:
    prefix = b"<%d>" % _PRIORITIES[method]
    return prefix + bytes(line).replace(b"\n", b"\n" + prefix)
