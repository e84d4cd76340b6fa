"""SIGHUP: the settings are read again, and those that can change while the daemon runs do so."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from ..base import log as logs
from ..base import systemd
from ..base.errors import ConfigError
from ..base.settings import BUILT_IN, Config, adopt, load

log = structlog.get_logger("fastimd.daemon")


def reload(config: Config, take_over: Callable[[], None]) -> None:
    """Read the settings again, from the file and the environment that the daemon began with.

    A mistake anywhere leaves everything as it is. What happened is logged, and systemd is told.

    Args:
        take_over: called when ``config`` has changed, for those who do not ask it each time.
    """
    systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        new = load(None if config.source == BUILT_IN else Path(config.source), os.environ)
    except ConfigError as exc:
        log.error("config.refused", mistakes=exc.mistakes)
    else:
        changes = adopt(config, new)
        logs.set_level(config.log.level)
        take_over()
        log.info("config.reloaded", changed=changes.adopted, for_restart=changes.for_restart)
    systemd.notify("READY=1")
