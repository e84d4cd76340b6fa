"""Structured logs: an event and its fields, JSON lines or coloured lines on standard error."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import msgspec
import structlog
from structlog.typing import Processor

# What JSON leaves as it is and a terminal or an editor may obey: C1 controls, line separators and
# marks of direction.
_OBEYED = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def configure(log_format: str, level: str) -> None:
    """Set up the logs of the process, the libraries' included.

    Args:
        log_format: ``json``, ``console``, or ``auto`` (console on a terminal, JSON elsewhere).
        level: the least level that is written.
    """
    on_terminal = sys.stderr.isatty()
    console = log_format == "console" or (log_format == "auto" and on_terminal)
    least = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not console, key="ts"),
    ]
    render: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=on_terminal, timestamp_key="ts")]
        if console
        else [structlog.processors.format_exc_info, _render_json]
    )
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    _adopt_library_logs(shared, render, max(least, logging.WARNING))


def _adopt_library_logs(shared: list[Processor], render: list[Processor], least: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(least)


def _render_json(_logger: Any, _method: str, event: structlog.typing.EventDict) -> str:
    ordered = {"ts": event.pop("ts", None), "level": event.pop("level", None), **event}
    return _OBEYED.sub(_escape, msgspec.json.encode(ordered, enc_hook=repr).decode())


def _escape(character: re.Match[str]) -> str:
    return f"\\u{ord(character[0]):04x}"
