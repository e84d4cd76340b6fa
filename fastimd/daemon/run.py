"""``fastimd serve``: the process of a daemon, of the parent of workers, or of a worker."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import trio

from ..base import log
from ..base.errors import EXIT_CONFIG, StartupError, WorkerFailed
from ..base.settings import Config
from ..base.signals import interrupt_kills
from ..base.supervise import TaskCrashed
from .workers.link import take_link

EXIT_CRASHED = 1

_Failure = TypeVar("_Failure", bound=BaseException)


def run_daemon(settings: Config) -> int:
    """Serve until a signal or a crash; returns the exit status."""
    faulthandler.enable()  # whoever ends a daemon that hangs sends SIGABRT, to see where
    log.configure(settings.log.format, settings.log.level)
    with interrupt_kills():
        main = _load(settings)
    try:
        trio.run(main, strict_exception_groups=True)
    except BaseException as exc:
        startup = _find(exc, StartupError)
        if startup is not None:
            log.print_mistake(str(startup))
            return EXIT_CONFIG
        failed = _find(exc, WorkerFailed)
        if failed is not None:
            return EXIT_CONFIG if failed.status == EXIT_CONFIG else EXIT_CRASHED
        if _find(exc, TaskCrashed) is not None:
            return EXIT_CRASHED  # the log has said which task and why
        raise
    finally:
        log.tell_left_out()
    return 0


def _load(settings: Config) -> Callable[[], Awaitable[None]]:
    """The main task, with nothing loaded that it has no use for."""
    link = take_link(os.environ)
    workers = settings.server.workers or len(os.sched_getaffinity(0))
    if link is None and workers > 1:
        from .workers.parent import serve_workers

        return partial(serve_workers, settings, workers)
    if link is not None:
        log.bind(worker=link.number)
    from .tree import serve

    return partial(serve, settings, link)


def _find(exc: BaseException, kind: type[_Failure]) -> _Failure | None:
    if isinstance(exc, BaseExceptionGroup):
        found = (_find(each, kind) for each in exc.exceptions)
        return next((each for each in found if each is not None), None)
    return exc if isinstance(exc, kind) else None
