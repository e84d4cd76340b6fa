"""Supervised tasks: one that crashes, or ends by itself, ends the daemon, and the log says which.

A floor is a nursery whose tasks end when what stands on it has ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
import trio

from .errors import FastimdError, StartupError

log = structlog.get_logger("fastimd.daemon")


class TaskCrashed(FastimdError):
    """A supervised task ended by itself."""


@asynccontextmanager
async def open_floor() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks end when what stands on it has ended."""
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


async def start(nursery: trio.Nursery, name: str, task: Callable[..., Awaitable[Any]]) -> Any:
    return await nursery.start(partial(_supervise_started, name, task))


async def _supervise_started(
    name: str, task: Callable[..., Awaitable[Any]], *, task_status: trio.TaskStatus[Any]
) -> None:
    await supervise(name, partial(task, task_status=task_status))


async def supervise(name: str, task: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
    try:
        await task(*arguments)
    except (StartupError, trio.Cancelled):
        raise
    except BaseExceptionGroup as group:
        _, others = group.split((StartupError, trio.Cancelled))
        if others is None:
            raise
        _log_crash(name, others)
        raise TaskCrashed(name) from others
    except Exception as exc:
        _log_crash(name, exc)
        raise TaskCrashed(name) from exc
    log.critical("task.crashed", task=name, error="it ended")
    raise TaskCrashed(name)


def _log_crash(name: str, failure: BaseException) -> None:
    log.critical("task.crashed", task=name, error=repr(failure), exc_info=failure)
