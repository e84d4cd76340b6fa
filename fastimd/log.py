"""Structured logs: an event and its fields, JSON lines or coloured lines on standard error."""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Any

import msgspec
import structlog
from structlog.typing import Processor

from . import recent

# What JSON leaves as it is and a terminal or an editor may obey: C1 controls, line separators and
# marks of direction.
_OBEYED = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


_LEVELS = {name.lower(): number for name, number in logging.getLevelNamesMapping().items()}
_LEVELS["exception"] = logging.ERROR
_least = logging.INFO

_LIMIT_SECONDS = 1.0
_LIMITED_LEVELS = frozenset(("warning", "error", "exception"))
_ALSO_LIMITED = frozenset(("connection.refused",))


def configure(log_format: str, level: str) -> None:
    """Set up the logs of the process, the libraries' included.

    Args:
        log_format: ``json``, ``console``, or ``auto`` (console on a terminal, JSON elsewhere).
        level: the least level that is written.
    """
    on_terminal = sys.stderr.isatty()
    console = log_format == "console" or (log_format == "auto" and on_terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        recent.remember,
        structlog.processors.TimeStamper(fmt="iso", utc=not console, key="ts"),
    ]
    render: list[Processor] = (
        [_console_renderer(colors=on_terminal)]
        if console
        else [structlog.processors.format_exc_info, _render_json]
    )
    structlog.configure(
        processors=[_drop_lesser, _Limit(), *shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _adopt_library_logs(shared, render)
    set_level(level)


def set_level(level: str) -> None:
    """Change the least level that is written; loggers that were used already obey too."""
    global _least
    _least = _LEVELS[level]
    logging.getLogger().setLevel(max(_least, logging.WARNING))


def _drop_lesser(
    _logger: Any, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if _LEVELS[method] < _least:
        raise structlog.DropEvent
    return event


class _Limit:
    """Lets each kind of trouble be written once a second; the next line counts those left out."""

    def __init__(self) -> None:
        self._written_at: dict[object, float] = {}
        self._left_out: dict[object, int] = {}

    def __call__(
        self, _logger: Any, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        if method not in _LIMITED_LEVELS and event["event"] not in _ALSO_LIMITED:
            return event
        kind = (event["event"], event.get("purpose"), event.get("status"))
        now = time.monotonic()
        if now - self._written_at.get(kind, -_LIMIT_SECONDS) < _LIMIT_SECONDS:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            raise structlog.DropEvent
        self._written_at[kind] = now
        if left_out := self._left_out.pop(kind, 0):
            event["suppressed"] = left_out
        return event


def _console_renderer(*, colors: bool) -> Processor:
    # The default renderer may print the variables of a traceback, tokens among them.
    return structlog.dev.ConsoleRenderer(
        colors=colors, timestamp_key="ts", exception_formatter=structlog.dev.plain_traceback
    )


def _adopt_library_logs(shared: list[Processor], render: list[Processor]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]


def _render_json(_logger: Any, _method: str, event: structlog.typing.EventDict) -> str:
    ordered = {"ts": event.pop("ts", None), "level": event.pop("level", None), **event}
    return _OBEYED.sub(_escape, msgspec.json.encode(ordered, enc_hook=repr).decode())


def _escape(character: re.Match[str]) -> str:
    return f"\\u{ord(character[0]):04x}"
