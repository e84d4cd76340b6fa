"""The login hook: who may log in, as the application decides it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, TypeAlias

import trio

from ..errors import StartupError

LoginHook: TypeAlias = Callable[[str, str], Awaitable[Any]]
"""Gets user id and password; returns None to refuse, else what the answer's ``data`` shows."""

SEED_USER_INFO = "user_info"


def load_login_hook(name: str) -> LoginHook:
    """Load ``login.hook``; the empty name lets everybody in, as Fast-IM does.

    A hook that is not a coroutine function runs in a thread.

    Raises:
        StartupError: there is no such callable.
    """
    if not name:
        return _let_everybody_in
    module_name, _, attribute = name.partition(":")
    try:
        hook: Any = import_module(module_name)
        for part in attribute.split("."):
            hook = getattr(hook, part)
    except (ImportError, AttributeError) as exc:
        raise StartupError(f"login.hook: cannot load {name!r}: {exc}") from exc
    if not callable(hook):
        raise StartupError(f"login.hook: {name!r} is not callable")
    if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(
        getattr(hook, "__call__", None)  # noqa: B004 - an instance whose call is a coroutine
    ):
        return hook  # type: ignore[no-any-return]

    async def call_in_thread(user: str, password: str) -> Any:
        return await trio.to_thread.run_sync(hook, user, password)

    return call_in_thread


async def _let_everybody_in(_user: str, _password: str) -> str:
    return SEED_USER_INFO
