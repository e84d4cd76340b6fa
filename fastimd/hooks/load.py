"""From names in the settings to hooks that can be awaited.

A mistake in a handler is found here, before anybody connects: a hook that nobody asks because its
name is misspelt would let through what it was written to stop.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeAlias

import trio

from ..config import Config
from ..errors import ConfigError
from . import Handler

Hook: TypeAlias = Callable[..., Awaitable[Any]]

THREADS = 40
"""How many calls of one hook run in threads at once; the others wait, within their deadline."""

PARAMETERS = {
    name: list(inspect.signature(member).parameters)[1:]
    for name, member in vars(Handler).items()
    if not name.startswith("_") and inspect.isfunction(member)
}
"""The names of every hook, and of what it gets."""

_SPELLINGS = {"authorise": "authorize"}


def load_hooks(config: Config) -> dict[str, Hook]:
    """The hooks of ``login.hook`` and ``hooks.handler``, by their names.

    Raises:
        ConfigError: an object cannot be loaded or is no handler, or two settings name one hook.
    """
    mistakes: list[str] = []
    hooks = _handler_hooks(config.hooks.handler, mistakes) if config.hooks.handler else {}
    mistakes.extend(
        f"hooks.handler: {config.hooks.handler!r} has {name}, and hooks.webhook_events names it"
        " too; take it out of one"
        for name in hooks
        if name in config.hooks.webhook_events
    )
    if config.login.hook:
        if "login" in hooks:
            mistakes.append(
                f"login.hook: {config.login.hook!r} is named, and hooks.handler"
                f" ({config.hooks.handler!r}) has login too; take it out of one"
            )
        hooks |= _login_hook(config.login.hook, mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    return {name: _as_async(hook) for name, hook in hooks.items()}


def _login_hook(name: str, mistakes: list[str]) -> dict[str, Callable[..., Any]]:
    try:
        hook = _find(name)
    except _NotLoadedError as exc:
        mistakes.append(f"login.hook: {exc}")
        return {}
    if not callable(hook):
        mistakes.append(f"login.hook: {name!r} is not callable")
        return {}
    mistakes.extend(f"login.hook: {name!r} {wrong}" for wrong in _wrong_parameters("login", hook))
    return {"login": hook}


def _handler_hooks(name: str, mistakes: list[str]) -> dict[str, Callable[..., Any]]:
    try:
        handler = _made(name, _find(name))
    except _NotLoadedError as exc:
        mistakes.append(f"hooks.handler: {exc}")
        return {}
    wrong = list(_what_is_wrong(handler))
    mistakes.extend(f"hooks.handler: {name!r}: {line}" for line in wrong)
    found = {hook: getattr(handler, hook, None) for hook in PARAMETERS}
    hooks = {hook: member for hook, member in found.items() if callable(member)}
    if not hooks and not wrong:
        known = ", ".join(PARAMETERS)
        mistakes.append(f"hooks.handler: {name!r} has no hook; known are {known}")
    return hooks


class _NotLoadedError(Exception):
    """The message says what, and why."""


def _find(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = import_module(module_name)
        return getattr(found, attribute) if attribute else found
    except (ImportError, AttributeError) as exc:
        raise _NotLoadedError(f"cannot load {name!r}: {exc}") from exc
    except Exception as exc:  # the module is the application's, and may raise anything
        raise _NotLoadedError(f"cannot load {name!r}: {type(exc).__name__}: {exc}") from exc


def _made(name: str, found: Any) -> Any:
    if not inspect.isclass(found):
        return found
    try:
        return found()
    except Exception as exc:
        raise _NotLoadedError(f"cannot make a {name!r}: {type(exc).__name__}: {exc}") from exc


def _what_is_wrong(handler: Any) -> Iterator[str]:
    for name in dir(handler):
        if name in PARAMETERS:
            hook = getattr(handler, name)
            if not callable(hook):
                yield f"{name} is not callable"
            else:
                yield from (f"{name} {wrong}" for wrong in _wrong_parameters(name, hook))
        elif (name.startswith("on_") or name in _SPELLINGS) and callable(getattr(handler, name)):
            yield f"{name} is no hook, {_suggest(name)}"


def _suggest(name: str) -> str:
    nearest = get_close_matches(_SPELLINGS.get(name, name), PARAMETERS, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(PARAMETERS)}"


def _wrong_parameters(name: str, hook: Callable[..., Any]) -> Iterator[str]:
    try:
        signature = inspect.signature(hook)
    except ValueError:
        return  # some built-in functions do not tell theirs
    wanted = PARAMETERS[name]
    try:
        signature.bind(*wanted)
    except TypeError:
        yield f"is called with ({', '.join(wanted)}), and takes {signature}"


def _is_async(hook: Any) -> bool:
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(
        getattr(hook, "__call__", None)  # noqa: B004 - an instance whose call is a coroutine
    )


def _as_async(hook: Callable[..., Any]) -> Hook:
    if _is_async(hook):
        return hook
    limiter = trio.CapacityLimiter(THREADS)

    async def call_in_thread(*arguments: Any) -> Any:
        # In a list, as Trio takes no coroutine from a thread. There is one if a decorator hides
        # that this is a coroutine function.
        [answer] = await trio.to_thread.run_sync(
            lambda: [hook(*arguments)], limiter=limiter, abandon_on_cancel=True
        )
        return await answer if inspect.isawaitable(answer) else answer

    return call_in_thread
